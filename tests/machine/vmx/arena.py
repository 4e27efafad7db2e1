"""A processor in VMX root operation with one guest: flat 32-bit code at 0x10000, extended page tables that map all as it lies."""

from __future__ import annotations

from itertools import count

from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.registers import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_VMXE,
    CS,
    EFER_LME,
    MSR_EFER,
    MSR_FEATURE_CONTROL,
)
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.machine import Machine
from vmlab.machine.page_formats import four_level
from vmlab.machine.page_formats_host import ept
from vmlab.machine.page_tables import PageTables
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason

CODE, STACK, HOST, VMXON, VMCS, TABLES = 0x10000, 0x20000, 0x100000, 0x101000, 0x102000, 0x200000
SIZE = 4 << 20
ONES = (1 << 64) - 1
PRIMARY = c.PRIMARY_TRUE_DEFAULT | c.ACTIVATE_SECONDARY
SECONDARY = c.ENABLE_EPT | c.UNRESTRICTED_GUEST


class Arena:
    """A machine whose host is in root operation, and stops where a VM exit arrives."""

    def __init__(self, source: str = "hlt", model: str = "westmere", *, turned_on: bool = True) -> None:
        self.machine = Machine(SIZE, CPU_MODELS[model])
        self.cpu, self.memory = self.machine.cpu, self.machine.memory
        self.vmx = self.cpu.vmx
        frames = count(TABLES, 0x1000)
        host = PageTables(four_level(40, no_execute=False, gigabyte_pages=False), self.memory, lambda _: next(frames))
        self.ept = PageTables(ept(4, physical_bits=40, execute_only=False), self.memory, lambda _: next(frames))
        for address in range(0, SIZE, 2 << 20):
            host.map(address, address, 2 << 20)
            self.ept.map(address, address, 2 << 20)
        cpu = self.cpu
        cpu.set_cr4(CR4_PAE | CR4_VMXE)
        cpu.write_msr(MSR_EFER, EFER_LME)
        cpu.set_cr3(host.root)
        cpu.set_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE)
        cpu.segments[CS].set(0x08, 0, 0xFFFFFFFF, 0x9B, big=False, long=True)
        cpu.tr.set(0x18, 0x3000, 0x67, 0x8B, big=False)
        cpu.code_changed()
        self.machine.host_entry = range(HOST, HOST + 1)
        for region in (VMXON, VMCS):
            self.memory.write(region, 4, c.REVISION)
        if turned_on:
            cpu.write_msr(MSR_FEATURE_CONTROL, 5)
            assert self.vmx.turn_on(VMXON) == 0
            assert self.vmx.clear(VMCS) == 0
            assert self.vmx.load_pointer(VMCS) == 0
            self.write(self.initial())
        self.memory.write_bytes(CODE, assemble(f"org {CODE}\n{source}").code)

    def initial(self) -> dict[int, int]:
        """Return fields of a guest that can be entered."""
        cpu = self.cpu
        flat = {f.GUEST_ES + 2 * n: 0x10 for n in range(6)}
        flat |= {f.GUEST_ES_LIMIT + 2 * n: 0xFFFFFFFF for n in range(6)}
        flat |= {f.GUEST_ES_ACCESS + 2 * n: 0xC093 for n in range(6)}
        return flat | {
            f.GUEST_CS: 0x08, f.GUEST_CS_ACCESS: 0xC09B, f.GUEST_TR_ACCESS: 0x8B, f.GUEST_LDTR_ACCESS: 0x10000,
            f.GUEST_CR0: CR0_PE | CR0_NE, f.GUEST_CR4: CR4_VMXE, f.GUEST_RIP: CODE, f.GUEST_RSP: STACK, f.GUEST_RFLAGS: 2,
            f.GUEST_DR7: 0x400, f.VMCS_LINK_POINTER: ONES, f.CR0_MASK: ONES, f.CR4_MASK: ONES, f.CR0_SHADOW: CR0_PE,
            f.HOST_CR0: cpu.cr0, f.HOST_CR3: cpu.cr3, f.HOST_CR4: cpu.cr4, f.HOST_EFER: cpu.efer, f.HOST_CS: 0x08,
            f.HOST_SS: 0x10, f.HOST_TR: 0x18, f.HOST_TR_BASE: 0x3000, f.HOST_RIP: HOST, f.HOST_RSP: 0x104000,
            f.PIN_BASED_CONTROLS: c.PIN_DEFAULT, f.PRIMARY_CONTROLS: PRIMARY, f.SECONDARY_CONTROLS: SECONDARY,
            f.EXIT_CONTROLS: c.EXIT_DEFAULT | c.HOST_ADDRESS_SPACE_SIZE | c.SAVE_EFER | c.LOAD_HOST_EFER,
            f.ENTRY_CONTROLS: c.ENTRY_DEFAULT | c.LOAD_GUEST_EFER,
            f.EPT_POINTER: self.ept.root | 3 << 3 | 6,
        }  # fmt: skip

    def write(self, fields: dict[int, int]) -> None:
        """VMWRITE."""
        for field, value in fields.items():
            assert self.vmx.write_field(field, value) == 0, hex(field)

    def read(self, field: int) -> int:
        """VMREAD."""
        error, value = self.vmx.read_field(field)
        assert error == 0
        return value

    def enter(self, **fields: int) -> int:
        """Write fields, named in capitals or not, and enter the guest; return the error number."""
        self.write({getattr(f, name.upper()): value for name, value in fields.items()})
        self.machine.in_host = False
        error = self.vmx.enter(launch=not self.vmx.launched)
        self.machine.in_host = not self.cpu.non_root
        return error

    def run(self, steps: int = 100, **fields: int) -> tuple[BasicReason, int]:
        """Enter the guest, run it to its next VM exit, and return basic reason and qualification."""
        assert self.enter(**fields) == 0
        self.machine.run(steps)
        assert self.machine.in_host, "no VM exit"
        return BasicReason(self.read(f.EXIT_REASON) & 0xFFFF), self.read(f.EXIT_QUALIFICATION)
