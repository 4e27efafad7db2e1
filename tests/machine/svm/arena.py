"""A host of AMD-V with one guest: flat 32-bit code at 0x10000, nested page tables that map all as it lies.

Or a whole host in machine code: see `test_host_code.py`.
"""

from __future__ import annotations

from itertools import count

from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.registers import (
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CS,
    EAX,
    EFER_LME,
    EFER_SVME,
    IF,
    MSR_EFER,
    MSR_VM_HSAVE_PA,
)
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.machine import Machine
from vmlab.machine.page_formats import four_level
from vmlab.machine.page_formats_host import npt
from vmlab.machine.page_tables import PageTables
from vmlab.machine.svm.vmcb import Vmcb

CODE, STACK, HOST, SAVE_AREA, VMCB, TABLES = 0x10000, 0x20000, 0x100000, 0x101000, 0x102000, 0x200000
IOPM, MSRPM = 0x110000, 0x114000
SIZE = 4 << 20
FLAT_CODE, FLAT_DATA = 0xC9B, 0xC93


class Arena:
    """A machine whose host has just cleared the global interrupt flag, and stops where a #VMEXIT arrives."""

    def __init__(self, source: str = "hlt", model: str = "bulldozer", *, bits: int = 32) -> None:
        self.machine = Machine(SIZE, CPU_MODELS[model])
        self.cpu, self.memory = self.machine.cpu, self.machine.memory
        self.svm = self.cpu.svm
        frames = count(TABLES, 0x1000)
        host = PageTables(four_level(40, no_execute=False, gigabyte_pages=False), self.memory, lambda _: next(frames))
        self.npt = PageTables(npt(4, physical_bits=40), self.memory, lambda _: next(frames))
        for address in range(0, SIZE, 2 << 20):
            host.map(address, address, 2 << 20)
            self.npt.map(address, address, 2 << 20)
        cpu = self.cpu
        cpu.set_cr4(CR4_PAE)
        cpu.write_msr(MSR_EFER, EFER_LME | EFER_SVME)
        cpu.set_cr3(host.root)
        cpu.set_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_ET)
        cpu.segments[CS].set(0x08, 0, 0xFFFFFFFF, 0x9B, big=False, long=True)
        cpu.tr.set(0x18, 0x3000, 0x67, 0x8B, big=False)
        cpu.code_changed()
        cpu.write_msr(MSR_VM_HSAVE_PA, SAVE_AREA)
        cpu.ip, cpu.flags, cpu.registers[EAX] = HOST, 2 | IF, VMCB
        self.machine.host_entry = range(HOST, HOST + 1)
        self.vmcb = Vmcb(self.memory, VMCB)
        self.write(**self.initial())
        self.memory.write_bytes(CODE, assemble(f"org {CODE}\n{source}", bits=bits).code)

    def initial(self) -> dict[str, int]:
        """Return fields of a guest that can be run."""
        flat = {}
        for name in ("ES", "SS", "DS", "FS", "GS"):
            flat |= {f"{name}_SELECTOR": 0x10, f"{name}_ATTRIBUTES": FLAT_DATA, f"{name}_LIMIT": 0xFFFFFFFF}
        return flat | {
            "CS_SELECTOR": 8, "CS_ATTRIBUTES": FLAT_CODE, "CS_LIMIT": 0xFFFFFFFF,
            "CR0": CR0_PE | CR0_ET, "EFER": EFER_SVME, "RIP": CODE, "RSP": STACK, "RFLAGS": 2, "DR7": 0x400,
            "DR6": 0xFFFF0FF0, "ASID": 1, "NESTED_CONTROL": 1, "NESTED_CR3": self.npt.root,
            "IOPM_BASE": IOPM, "MSRPM_BASE": MSRPM, "SVM_INTERCEPTS": 3,  # VMRUN, VMMCALL
        }  # fmt: skip

    def write(self, **fields: int) -> None:
        """Write fields of the VMCB."""
        for name, value in fields.items():
            self.vmcb.write(name, value)

    def read(self, *names: str) -> tuple[int, ...]:
        """Read fields of the VMCB."""
        return tuple(self.vmcb.read(name) for name in names)

    def want(self, *codes: int) -> None:
        """Ask for exits, by their codes."""
        words = ("CR_INTERCEPTS", "DR_INTERCEPTS", "EXCEPTION_INTERCEPTS", "INTERCEPTS", "SVM_INTERCEPTS")
        for code in codes:
            name = words[code >> 5]
            self.vmcb.write(name, self.vmcb.read(name) | 1 << (code & 31))

    def enter(self, **fields: int) -> None:
        """Write fields, and run VMRUN."""
        self.write(**fields)
        self.machine.in_host = False
        self.svm.run(VMCB)
        self.cpu.shadow_at = self.cpu.retired if self.cpu.shadow_at >= 0 else -1
        self.machine.in_host = not self.cpu.non_root

    def run(self, steps: int = 100, **fields: int) -> tuple[int, int, int]:
        """Run the guest to its next exit; return the code, EXITINFO1 and EXITINFO2."""
        self.enter(**fields)
        self.machine.run(steps)
        assert self.machine.in_host, "no #VMEXIT"
        code, info1, info2 = self.read("EXITCODE", "EXITINFO1", "EXITINFO2")
        return code, info1, info2
