"""A guest's processor as the guest would find it: wherever its registers are just now.

Natively they are in the processor. Under a hypervisor the general registers of the guest that runs are there too, with
the flags that it may change by itself; all else is in its VCPU, as everything is while the hypervisor has control.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import EFER_LMA, FLAG_BITS, GENERAL_NAMES, SEGMENT_NAMES, describe_flags
from vmlab.vmm.listing import read_code
from vmlab.vmm.world_switch import DIRECT_FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.processor import Processor
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.system import System

__all__ = ["READERS", "Viewpoint"]


SELECTORS = frozenset({*SEGMENT_NAMES, "tr"})


class Viewpoint:
    """A system as one of its guests sees it. It reads the live system, and leaves no trace there.

    Parameters
    ----------
    system : System
        The system.
    index : int
        Which guest.
    """

    def __init__(self, system: System, index: int = 0) -> None:
        self.system = system
        self.index = index
        self.virtual = hasattr(system, "vmm")

    @property
    def guest(self) -> Guest:
        """The guest."""
        return self.system.guests[self.index]

    @property
    def vcpu(self) -> Processor:
        """Where control registers and descriptor tables are."""
        return self.guest.vcpu if self.virtual else self.system.machine.cpu

    @property
    def cpu(self) -> Processor:
        """Where the general registers are."""
        system = self.system
        if self.translated:
            return system.cpu_state(self.index)
        return self.vcpu if self.virtual and (system.in_vmm or system.current != self.index) else system.machine.cpu

    @property
    def runs(self) -> bool:
        """True where the guest's own code is what runs next."""
        return not self.system.in_vmm and self.system.current == self.index

    @property
    def translated(self) -> bool:
        """True where the processor's registers are those of translated code, and no more the guest's."""
        return self.virtual and self.system.translated and self.system.current == self.index

    @property
    def flags(self) -> int:
        """EFLAGS."""
        cpu, vcpu = self.cpu, self.vcpu
        return cpu.flags if cpu is vcpu or self.translated else cpu.flags & DIRECT_FLAGS | vcpu.flags & ~DIRECT_FLAGS

    @property
    def address(self) -> int:
        """Linear address of the next instruction."""
        return self.cpu.linear_ip

    @property
    def bits(self) -> int:
        """Width of the general registers as they are shown: 32 or 64."""
        return 64 if self.vcpu.efer & EFER_LMA else 32

    def read(self, address: int, size: int) -> bytes:
        """Read memory at a linear address, as far as it is mapped."""
        return read_code(self.guest, address, size)

    def registers(self) -> dict[str, int]:
        """Return the registers by name, in the order in which a debugger shows them."""
        cpu, vcpu = self.cpu, self.vcpu
        names = GENERAL_NAMES[self.bits]
        count = 16 if self.bits == 64 else 8
        shown = dict(zip(names[:count], cpu.registers, strict=False))
        ordered = {name: shown[name] for name in (names[0], names[3], names[1], names[2], *names[6:8], names[5], names[4], *names[8:count])}  # fmt: skip
        ordered |= {names[-1]: cpu.ip, "eflags": self.flags}
        ordered |= {
            name: vcpu.segments[SEGMENT_NAMES.index(name)].selector for name in ("cs", "ss", "ds", "es", "fs", "gs")
        }
        ordered |= {"cr0": vcpu.cr0, "cr2": vcpu.cr2, "cr3": vcpu.cr3, "cr4": vcpu.cr4}
        ordered |= {"tr": vcpu.tr.selector, "gdtr": vcpu.gdtr_base, "idtr": vcpu.idtr_base}
        return ordered | ({"efer": vcpu.efer} if self.bits == 64 else {})

    def digits(self, name: str) -> int:
        """Return with how many hexadecimal digits a register is written."""
        return 4 if name in SELECTORS else 8 if name == "eflags" else self.bits // 4

    def describe_flags(self) -> str:
        """Name the flags that are set."""
        return describe_flags(self.flags)


def _general(number: int, shift: int, mask: int) -> Callable[[Viewpoint], int]:
    return lambda at: at.cpu.registers[number] >> shift & mask


def _flag(bit: int) -> Callable[[Viewpoint], int]:
    return lambda at: int(bool(at.flags & bit))


def _of_vcpu(name: str) -> Callable[[Viewpoint], int]:
    return lambda at: int(getattr(at.vcpu, name))


def _selector(number: int) -> Callable[[Viewpoint], int]:
    return lambda at: at.vcpu.segments[number].selector


def _readers() -> dict[str, Callable[[Viewpoint], int]]:
    readers: dict[str, Callable[[Viewpoint], int]] = {}
    for width, names in GENERAL_NAMES.items():
        readers |= {name: _general(number, 0, (1 << width) - 1) for number, name in enumerate(names[:16])}
    readers |= {name: _general(number, 8, 0xFF) for number, name in enumerate(("ah", "ch", "dh", "bh"))}
    for name in ("ip", "eip", "rip"):
        readers[name] = lambda at: at.cpu.ip
    for name in ("flags", "eflags", "rflags"):
        readers[name] = lambda at: at.flags
    readers |= {name.lower(): _flag(bit) for name, bit in FLAG_BITS.items()}
    readers["iopl"] = lambda at: at.flags >> 12 & 3
    readers |= {name: _selector(number) for number, name in enumerate(SEGMENT_NAMES)}
    readers |= {name: _of_vcpu(name) for name in ("cr0", "cr2", "cr3", "cr4", "cpl", "efer")}
    readers |= {name: _of_vcpu(f"{name}_base") for name in ("gdtr", "idtr")}
    return readers


READERS = _readers()
"""What a condition may name, and how it is read."""
