"""What a scene copies from a live system after a step: registers, modes, where the guest is, how much it has printed.

While a guest runs under a monitor, its general registers are in the processor; the VCPU holds what was saved at the
last exit. An `Instant` therefore has both: `vcpu` as it lies in the monitor's memory, and `believed`, what the guest
would find in its registers. Between a trap and the monitor's first look at it, the guest's registers are on the host
stack: they are those of the instant before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.registers import CS, DS, ES, FS, GS, SS
from vmlab.views.layers import processor_state
from vmlab.vmm.listing import Listings, labels_of
from vmlab.vmm.world_switch import DIRECT_FLAGS

if TYPE_CHECKING:
    from vmlab.machine.cpu_state import CpuState
    from vmlab.machine.processor import Processor
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.system import System

__all__ = ["REGISTERS", "GuestInstant", "Instant", "Observer", "shown_name"]

REGISTERS = (
    "EIP", "EFLAGS", "CS", "SS", "ESP", "EBP", "EAX", "EBX", "ECX", "EDX", "ESI", "EDI", "CR0", "CR2", "CR3",
)  # fmt: skip
GENERAL = {"EAX": 0, "ECX": 1, "EDX": 2, "EBX": 3, "ESP": 4, "EBP": 5, "ESI": 6, "EDI": 7}
DIRECT = frozenset({"EIP", *GENERAL})
"""Registers that a guest under trap-and-emulate changes in the processor itself."""


@dataclass(frozen=True, slots=True)
class GuestInstant:
    """One guest at an instant.

    Attributes
    ----------
    vcpu, believed : dict of str to int
        Registers by name, those of `REGISTERS` first: of the VCPU, and as the guest would read them.
    mode, state : str
        Virtual mode; `"running"`, `"ready"` or `"ended"`.
    ring : int
        Virtual privilege level.
    address : int
        Linear address of its next instruction.
    listing, text : str
        Name of the listing that shows it; the instruction as text.
    console : int
        Characters printed.
    exits : int
        Exits so far.
    """

    vcpu: dict[str, int]
    believed: dict[str, int]
    mode: str
    state: str
    ring: int
    address: int
    listing: str
    text: str
    console: int
    exits: int


@dataclass(frozen=True, slots=True)
class Instant:
    """A system at an instant: its guests, the physical processor, and who has it.

    With several processors, it is looked at from one of them: `place`; `states` says what each does. `translated` says that
    what the processor executes is a hypervisor's translation of the guest's code.
    """

    guests: tuple[GuestInstant, ...]
    cpu: dict[str, int]
    ring: int
    current: int
    in_vmm: bool
    place: int
    states: tuple[str, ...]
    translated: bool = False

    @property
    def guest(self) -> GuestInstant:
        """The guest that has the CPU, or had it last."""
        return self.guests[self.current]


class Observer:
    """Takes instants of a system; keeps listings of its guests' code for reuse.

    Parameters
    ----------
    system : System
        The system to look at.
    """

    def __init__(self, system: System) -> None:
        self.virtual = hasattr(system, "vmm")
        self.assisted = system.assisted
        self.listings = [Listings(str(index), labels_of(guest.image)) for index, guest in enumerate(system.guests)]

    @staticmethod
    def unsaved(system: Any) -> bool:  # noqa: ANN401 - the phase is a hypervisor's own
        """Tell whether a trap has happened that the monitor has not looked at: the VCPU is not up to date."""
        return bool(system.in_vmm) and getattr(system, "phase", "") == "handle"

    def look(self, system: System, before: Instant | None, place: int | None = None) -> Instant:
        """Copy what a scene shows.

        Parameters
        ----------
        system : System
            What to look at.
        before : Instant or None
            The instant one step earlier, needed right after a trap.
        place : int, optional
            Index of the processor to look from; without it, the one that does the next step.
        """
        machine = system.machine
        place = machine.turns.index if place is None else place
        cpu = machine.cpus[place]
        guests = tuple(self._guest(system, index, guest, before, cpu) for index, guest in enumerate(system.guests))
        states = tuple(processor_state(each) for each in machine.cpus)
        return Instant(
            guests, _registers(cpu), cpu.cpl, system.current, bool(system.in_vmm), place, states, system.translated
        )

    def _guest(self, system: System, index: int, guest: Guest, before: Instant | None, cpu: Processor) -> GuestInstant:
        vcpu, current = guest.vcpu if self.virtual else cpu, index == system.current
        if self.assisted:
            return self._assisted(system, index, guest)
        saved = _registers(vcpu)
        believed, address = saved, vcpu.linear_ip
        if self.virtual and current and not system.in_vmm:
            real = _registers(cpu)
            flags = real["EFLAGS"] & DIRECT_FLAGS | saved["EFLAGS"] & ~DIRECT_FLAGS
            believed = {name: real[name] if name in DIRECT else value for name, value in saved.items()} | {
                "EFLAGS": flags
            }
            address = cpu.linear_ip
            if system.translated:
                seen = system.cpu_state(index)
                believed, address = _registers(seen), seen.linear_ip
        listings = self.listings[index]
        if current and before is not None and self.unsaved(system):
            old = before.guests[index]
            believed, address, listing, text = old.believed, old.address, old.listing, old.text
        else:
            listing, text = listings.at(guest, address, vcpu), listings.text(guest, address, vcpu)
        state = "ended" if guest.outcome is not None else "running" if current else "ready"
        return GuestInstant(
            saved,
            believed,
            guest.mode if self.virtual else "user" if cpu.cpl == 3 else "kernel",
            state,
            vcpu.cpl,
            address,
            listing,
            text,
            len(guest.console),
            guest.exits.total(),
        )

    def _assisted(self, system: System, index: int, guest: Guest) -> GuestInstant:
        """Look at a guest with hardware assistance: what it believes is in the processor, the VMCS or the VCPU."""
        vcpu, seen, listings = guest.vcpu, system.cpu_state(index), self.listings[index]
        address = seen.linear_ip
        state = "ended" if guest.outcome is not None else "running" if index == system.current else "ready"
        return GuestInstant(
            _registers(vcpu),
            _registers(seen),
            "user" if seen.cpl == 3 else "kernel",
            state,
            seen.cpl,
            address,
            listings.at(guest, address, vcpu),
            listings.text(guest, address, vcpu),
            len(guest.console),
            guest.exits.total(),
        )


def _registers(cpu: CpuState) -> dict[str, int]:
    special = {
        "EIP": cpu.ip, "EFLAGS": cpu.flags, "CS": cpu.segments[CS].selector, "SS": cpu.segments[SS].selector,
        "CR0": cpu.cr0, "CR2": cpu.cr2, "CR3": cpu.cr3,
    }  # fmt: skip
    shown = {name: special[name] if name in special else cpu.registers[GENERAL[name]] for name in REGISTERS}
    others = {name: cpu.segments[number].selector for name, number in (("DS", DS), ("ES", ES), ("FS", FS), ("GS", GS))}
    tables = {"LDTR": cpu.ldtr.selector, "TR": cpu.tr.selector, "GDTR": cpu.gdtr_base, "IDTR": cpu.idtr_base}
    return shown | others | tables | {"CR4": cpu.cr4, "EFER": cpu.efer}


def shown_name(name: str, *, long: bool) -> str:
    """Return how a register of `REGISTERS` is called, in long mode or in the others.

    >>> shown_name("EAX", long=True), shown_name("CR0", long=True), shown_name("EIP", long=False)
    ('RAX', 'CR0', 'EIP')
    """
    return f"R{name[1:]}" if long and name[0] == "E" and name not in ("ES", "EFER") else name
