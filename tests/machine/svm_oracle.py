"""Unicorn as an AMD processor that runs a guest by VMRUN: whose fault it is, at which address, with nested paging.

The VMCB's EXITINFO2 is the address of an intercepted page fault and of a nested page fault (AMD APM vol. 2, 15.12.15, 15.25.6,
appendix B). Unicorn ends before it has written EXITINFO1, and does not mark entries of nested tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import unicorn
from unicorn import x86_const as x86

from vmlab.isa.x86.registers import CR0_ET, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, MSR_EFER

# What the host needs lies above the memory that tests use.
HOST = 0x100_0000
PML4, PDPT, VMCB, SAVE_AREA, HOST_CODE, HOST_END = (HOST + 0x1000 * n for n in range(6))
LEAVE = (
    b"\x0f\x01\xd9\xeb\xfe"  # VMMCALL, which is intercepted in every ring; and a loop, past which Unicorn does not read
)
VMRUN = b"\x0f\x01\xd8\x90\x90"
NEVER = 0x7F0
"""Nobody comes so far behind a guest's first instruction."""
EFER_SVME = 1 << 12
MSR_HSAVE = 0xC001_0117

# Control area of the VMCB (APM vol. 2, table B-1), and save area (table B-2), by offset
EXCEPTIONS, INSTRUCTIONS, ASID, TLB_CONTROL, NESTED, NESTED_CR3 = 0x08, 0x10, 0x58, 0x5C, 0x90, 0xB0
EXIT_ADDRESS = 0x80
ES, CS, SS, DS, CPL, EFER, CR4, CR3, CR0, DR7, DR6, FLAGS, IP, SP, AX = (
    0x400 + offset
    for offset in (0x00, 0x10, 0x20, 0x30, 0xCB, 0xD0, 0x148, 0x150, 0x158, 0x160, 0x168, 0x170, 0x178, 0x1D8, 0x1F8)
)  # fmt: skip
EXIT_PF, EXIT_VMMCALL, EXIT_NPF = 0x4E, 0x81, 0x400
EXCEPTION_EXIT = 0x100  # Unicorn shows an exit of code n as exception 100h + n


@dataclass
class GuestState:
    """A guest about to execute one instruction and leave.

    `nested` is the root of its nested tables; `words` are more fields of the VMCB: offset, bytes, value.
    """

    ip: int
    bx: int
    ax: int
    sp: int
    ring: int
    cr0: int
    cr3: int
    cr4: int
    efer: int
    nested: int | None = None
    words: tuple[tuple[int, int, int], ...] = ()


class SvmOracle:
    """A host with all its memory mapped to itself, of which `size` bytes are the test's."""

    def __init__(self, size: int) -> None:
        self.uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.ctl_set_cpu_model(x86.UC_CPU_X86_EPYC)
        self.uc.mem_map(0, size)
        self.uc.mem_map(HOST, HOST_END - HOST)
        self.exits: list[int] = []
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._exit)
        self._put(PML4, 8, PDPT | 7)
        self._put(PDPT, 8, 0x87)
        self.uc.mem_write(HOST_CODE, VMRUN)
        self.uc.reg_write(x86.UC_X86_REG_CR3, PML4)
        self.uc.reg_write(x86.UC_X86_REG_CR4, CR4_PAE)
        self.uc.msr_write(MSR_EFER, EFER_LME | EFER_LMA | EFER_SVME | EFER_NXE)
        self.uc.reg_write(x86.UC_X86_REG_CR0, CR0_PE | CR0_ET | CR0_PG | CR0_WP)
        self.uc.msr_write(MSR_HSAVE, SAVE_AREA)
        self._clean = self.uc.context_save()

    def _put(self, address: int, size: int, value: int) -> None:
        self.uc.mem_write(address, value.to_bytes(size, "little"))

    def _exit(self, uc: Any, number: int, _data: object) -> None:
        self.exits.append(number - EXCEPTION_EXIT)
        uc.emu_stop()

    def _segment(self, place: int, selector: int, attributes: int) -> None:
        self._put(place, 2, selector)
        self._put(place + 2, 2, attributes)
        self._put(place + 4, 4, 0xFFFF_FFFF)
        self._put(place + 8, 8, 0)

    def run(self, guest: GuestState) -> tuple[int, int, int]:
        """Run the guest; return the exit's code, EXITINFO2 (an address, 0 without a fault), and RAX."""
        uc, long = self.uc, guest.efer & EFER_LMA
        uc.context_restore(self._clean)
        uc.mem_write(VMCB, bytes(0x1000))
        for offset, size, value in (
            (EXCEPTIONS, 4, 1 << 14 | 1 << 13 | 1 << 8),
            (INSTRUCTIONS, 4, 3),  # VMRUN, which must be, and VMMCALL
            (ASID, 4, 1),
            (TLB_CONTROL, 1, 1),
            (NESTED, 8, guest.nested is not None),
            (NESTED_CR3, 8, guest.nested or 0),
            (CPL, 1, guest.ring),
            (EFER, 8, guest.efer | EFER_SVME),
            (CR4, 8, guest.cr4),
            (CR3, 8, guest.cr3),
            (CR0, 8, guest.cr0),
            (DR7, 8, 0x400),
            (DR6, 8, 0xFFFF_0FF0),
            (FLAGS, 8, 2),
            (IP, 8, guest.ip),
            (SP, 8, guest.sp),
            (AX, 8, guest.ax),
            *guest.words,
        ):
            self._put(VMCB + offset, size, int(value))
        privilege = guest.ring << 5
        self._segment(VMCB + CS, 0x08 | guest.ring, (0xA9B if long else 0xC9B) | privilege)
        for place in (ES, SS, DS):
            self._segment(VMCB + place, 0x10 | guest.ring, 0xC93 | privilege)
        uc.reg_write(x86.UC_X86_REG_RAX, VMCB)
        uc.reg_write(x86.UC_X86_REG_RBX, guest.bx)
        uc.ctl_flush_tb()
        self.exits.clear()
        uc.emu_start(HOST_CODE, guest.ip + NEVER)  # Unicorn looks at where to end with the guest's eyes
        (code,) = self.exits
        address = int.from_bytes(uc.mem_read(VMCB + EXIT_ADDRESS, 8), "little")
        return code, 0 if code == EXIT_VMMCALL else address, uc.reg_read(x86.UC_X86_REG_RAX)
