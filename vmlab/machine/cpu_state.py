"""The architectural state of a processor: every register that software can see or feel.

The physical CPU has one, and a VCPU is one: what a guest believes its CPU to be. A world switch copies between
them. A new state is what a multiboot loader hands over (flat 32-bit protected mode, paging off), since the
loader runs before the first guest instruction (Multiboot Specification 0.6.96, 3.2); `reset` gives that after power-on.
"""

from __future__ import annotations

from typing import Any

from vmlab.isa.x86.descriptors import CODE, CONFORMING_OR_DOWN, SegmentRegister
from vmlab.isa.x86.registers import (
    CR0_CD,
    CR0_ET,
    CR0_NW,
    CR0_PE,
    CS,
    EDX,
    EFER_LMA,
    FIXED,
    NAMES_32,
    NAMES_64,
    SEGMENT_NAMES,
)  # fmt: skip
from vmlab.machine.state import BYTE, COUNT, LONG, QUAD, WORD, Entries, Items, check_state

__all__ = ["CpuState"]

FLAT_CODE, FLAT_DATA = 0x9B, 0x93
BOOT_CODE, BOOT_DATA = 0x08, 0x10
"""Selectors that the loader leaves: the specification lets them undefined, QEMU's loader has these, kernels count on it."""
SCALARS = ("ip", "flags", "gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit", "cr0", "cr2", "cr3", "cr4", "efer")
PARTS = {"selector": WORD, "base": QUAD, "limit": LONG, "access": BYTE, "big": bool, "long": bool}
RESET_DEBUG = (0, 0, 0, 0, 0xFFFF0FF0, 0x400, 0xFFFF0FF0, 0x400)


class CpuState:
    """Every architectural register, as plain ints.

    Attributes
    ----------
    registers : list of int
        The sixteen general registers in machine order: RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15. Outside of 64-bit
        mode the upper halves of the first eight are 0, and the others out of reach.
    ip, flags : int
        RIP and RFLAGS, or EIP and EFLAGS.
    segments : list of SegmentRegister
        ES CS SS DS FS GS, hidden parts included.
    ldtr, tr : SegmentRegister
        Local descriptor table and task register.
    gdtr_base, gdtr_limit, idtr_base, idtr_limit : int
        Descriptor table registers.
    cr0, cr2, cr3, cr4 : int
        Control registers.
    efer : int
        Extended feature enable register: the system calls, the long mode and the NX bit of x86-64.
    debug : list of int
        DR0 to DR7.
    msrs : dict
        Model-specific registers that have been written.
    pdptes : list of int
        The page-directory-pointer-table entries of PAE paging, loaded with CR3.
    halted : bool
        True after HLT, until an interrupt.
    code_64 : bool
        True in 64-bit mode. (Derived, as the next two: whoever changes CS or the mode calls `code_changed`.)
    address_mask, system_mask : int
        Of the addresses that code uses, and of those of descriptor tables and task-state segments.
    interrupt_shadow : bool
        True right after STI or a load of SS: interrupts wait for one more instruction.
    """

    __slots__ = (
        "address_mask", "code_64", "cr0", "cr2", "cr3", "cr4", "debug", "efer", "flags", "gdtr_base", "gdtr_limit",
        "halted", "idtr_base", "idtr_limit", "ip", "ldtr", "msrs", "pdptes", "registers", "retired", "segments", "shadow_at",
        "system_mask", "tr",
    )  # fmt: skip

    def __init__(self) -> None:
        self.registers = [0] * 16
        self.ip = 0
        self.flags = FIXED
        self.segments = [SegmentRegister(BOOT_DATA, 0, 0xFFFFFFFF, FLAT_DATA, big=True) for _ in SEGMENT_NAMES]
        self.segments[CS] = SegmentRegister(BOOT_CODE, 0, 0xFFFFFFFF, FLAT_CODE, big=True)
        self.ldtr = SegmentRegister()
        self.tr = SegmentRegister()
        self.gdtr_base = self.idtr_base = 0
        self.gdtr_limit = self.idtr_limit = 0
        self.cr0 = CR0_PE | CR0_ET
        self.cr2 = self.cr3 = self.cr4 = self.efer = 0
        self.debug = list(RESET_DEBUG)
        self.msrs: dict[int, int] = {}
        self.pdptes = [0] * 4
        self.halted = False
        self.code_64 = False
        self.address_mask = self.system_mask = 0xFFFFFFFF
        self.retired = 0
        self.shadow_at = -1

    def linear_address(self, segment: int, offset: int) -> int:
        """Return the linear address of `segment:offset`, without a check."""
        register = self.segments[segment]
        return offset if register.flattened else register.base + offset & self.address_mask

    @property
    def long_mode(self) -> bool:
        """True where long mode is active, in 64-bit or compatibility code."""
        return bool(self.efer & EFER_LMA)

    @property
    def cpl(self) -> int:
        """Current privilege level, 0 to 3.

        It is the DPL of a code segment that is not conforming. (After real mode has been left and before CS is loaded
        the selector is still a paragraph number, and its low bits say nothing.) In virtual-8086 mode the hidden DPL is 3.
        """
        if not self.cr0 & CR0_PE:
            return 0
        code = self.segments[CS]
        conforming = code.access & (CODE | CONFORMING_OR_DOWN) == CODE | CONFORMING_OR_DOWN
        return code.selector & 3 if conforming else code.access >> 5 & 3

    def reset(self, signature: int = 0) -> None:
        """Set the state after power-on: real mode, the first instruction at FFFF:FFF0 below 4 GiB (SDM vol. 3, 10.1.1).

        Parameters
        ----------
        signature : int
            Family, model and stepping, which EDX holds.
        """
        self.registers[:] = [0] * len(self.registers)
        self.registers[EDX] = signature
        self.ip, self.flags = 0xFFF0, FIXED
        for register in self.segments:
            register.set(0, 0, 0xFFFF, FLAT_DATA, big=False)
        self.segments[CS].set(0xF000, 0xFFFF0000, 0xFFFF, FLAT_CODE, big=False)
        self.ldtr.set(0, 0, 0xFFFF, 0x82, big=False)
        self.tr.set(0, 0, 0xFFFF, 0x8B, big=False)
        self.gdtr_base = self.idtr_base = 0
        self.gdtr_limit = self.idtr_limit = 0xFFFF
        self.cr0 = CR0_CD | CR0_NW | CR0_ET
        self.cr2 = self.cr3 = self.cr4 = self.efer = 0
        self.debug = list(RESET_DEBUG)
        self.msrs = {}
        self.pdptes[:] = [0] * 4
        self.halted = False
        self.shadow_at = -1

    @property
    def interrupt_shadow(self) -> bool:
        """True where interrupts wait for one more instruction."""
        return self.retired == self.shadow_at

    @interrupt_shadow.setter
    def interrupt_shadow(self, value: bool) -> None:
        # Set while the instruction executes: it covers the boundary after that instruction has retired.
        self.shadow_at = self.retired + 1 if value else -1

    def copy_from(self, other: CpuState) -> None:
        """Take over every register of `other`, and its count of retired instructions."""
        self.load_state(other.save_state())

    def save_state(self) -> dict[str, Any]:
        """Save as plain data."""
        return {
            "version": 2,
            "registers": list(self.registers),
            "segments": [list(register.key) for register in (*self.segments, self.ldtr, self.tr)],
            "debug": list(self.debug),
            "msrs": dict(self.msrs),
            "pdptes": list(self.pdptes),
            "halted": self.halted,
            "retired": self.retired,
            "shadow": self.interrupt_shadow,
            **{name: getattr(self, name) for name in SCALARS},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a saved state.

        Raises
        ------
        StateError
            The state is damaged; nothing has changed then.
        """
        fields: dict[str, Any] = dict.fromkeys(SCALARS, QUAD)
        fields |= {"gdtr_limit": WORD, "idtr_limit": WORD, "halted": bool, "retired": COUNT, "shadow": bool}
        fields |= {
            "registers": Items(QUAD, 16),
            "debug": Items(QUAD, 8),
            "msrs": Entries(LONG, QUAD),
            "pdptes": Items(QUAD, 4),
        }
        check_state(state, "processor", fields | {"segments": Items(Items((QUAD, bool), len(PARTS)), 8)}, version=2)
        for row in state["segments"]:
            check_state({"version": 1} | dict(zip(PARTS, row, strict=True)), "segment register", PARTS)
        for name in SCALARS:
            setattr(self, name, state[name])
        self.registers[:] = state["registers"]
        self.debug[:] = state["debug"]
        for register, (selector, base, limit, access, big, long) in zip(
            (*self.segments, self.ldtr, self.tr), state["segments"], strict=True
        ):
            register.set(selector, base, limit, access, big=big, long=long)
        self.msrs = dict(state["msrs"])
        self.pdptes[:] = state["pdptes"]
        self.halted = state["halted"]
        self.retired = state["retired"]
        self.shadow_at = self.retired if state["shadow"] else -1

    def visible(self) -> dict[str, int]:
        """Return what software can see, by name: for comparison and for display.

        In long mode the general registers are sixteen, and have their 64-bit names.

        Examples
        --------
        >>> CpuState().visible()["cr0"]
        17
        """
        long = self.long_mode
        names: dict[str, int] = dict(zip(NAMES_64 if long else NAMES_32, self.registers, strict=False))
        names |= {"rip": self.ip, "rflags": self.flags} if long else {"eip": self.ip, "eflags": self.flags}
        names |= {name: register.selector for name, register in zip(SEGMENT_NAMES, self.segments, strict=True)}
        names |= {"ldtr": self.ldtr.selector, "tr": self.tr.selector}
        names |= {name: getattr(self, name) for name in SCALARS[2:-1]}
        return names | {"efer": self.efer} if long else names
