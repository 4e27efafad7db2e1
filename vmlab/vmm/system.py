"""A running system: a computer, perhaps a hypervisor on it, and its guests. The contract of every technique."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.errors import OptionError
from vmlab.isa.x86.registers import IF
from vmlab.machine.recordable import NotCopied, check_guest
from vmlab.machine.trace import Dma, End, FirmwareCall, PortAccess, Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.disk import Disk
    from vmlab.machine.image import Image
    from vmlab.machine.machine import Machine
    from vmlab.machine.processor import Processor
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.shadow_paging import ShadowPolicy

__all__ = ["DEFAULT_MEMORY", "NO_LIMIT", "System", "system_of"]

DEFAULT_MEMORY = 16 << 20
NO_LIMIT = 1 << 62
USER = 3
IDLE = 20
"""Times its limit of instructions that a guest may sleep: waking at each tick to nothing is an end, too."""


def check_limit(instructions: int | None) -> int:
    """Return a limit of instructions, checked; `NO_LIMIT` for None."""
    if instructions is not None and (type(instructions) is not int or instructions <= 0):
        raise OptionError(f"the limit of instructions is a positive number, not {instructions!r}")
    return NO_LIMIT if instructions is None else instructions


class System(NotCopied, ABC):
    """A computer with one or more guests, under one technique of virtualization.

    Parameters
    ----------
    images : sequence of Image
        What the guests boot, one each.
    memory_size : int
        Bytes of memory that each guest gets.
    model : CpuModel
        The physical processor.
    trace : Trace
        Where events go.
    max_instructions : int or None
        A guest that has retired so many ends with outcome `"limit"`; so does one that has slept for 20 times as long.
    input : bytes
        Sent to each guest's serial port.
    keys : sequence of (int, str)
        Typed at each guest's keyboard, from a virtual time on.
    disks : sequence of Disk
        Of which each guest gets copies, behind the disk that it boots from.
    processors : int
        How many processors each guest gets.
    host_model : CpuModel or None
        The physical processor, where the guests' may be another: that is `model` then.
    memory_virtualization : str or None
        How guest-physical memory is virtualized: one of `memory_virtualizations`, the first where None.
    largest_page : str
        The largest page of nested page tables.
    shadow_policy : {"cached", "traced", "flush"}
        How shadow page tables, where there are any, follow the guest's.

    Attributes
    ----------
    machine : Machine
        The physical computer.
    guests : list of Guest
        Its guests; natively the one operating system.
    current : int
        Index of the guest that has the CPU.
    input : bytes
        What was typed.
    memory_virtualizations : tuple of str
        What the technique can do: `"none"`, `"shadow"`, `"nested"`, `"direct"`.
    needs_port : bool
        True where guests must be ported to it: no other technique runs those.
    assisted : bool
        True where the processor's extensions for virtualization run the guests.
    """

    technique: ClassVar[str]
    memory_virtualizations: ClassVar[tuple[str, ...]]
    needs_port: ClassVar[bool] = False
    memory_virtualization: str
    assisted: ClassVar[bool] = False
    machine: Machine
    guests: list[Guest]
    current: int

    def __init__(  # noqa: PLR0913 - the options of a run
        self,
        images: Sequence[Image],
        *,
        memory_size: int,
        model: CpuModel,
        trace: Trace,
        max_instructions: int | None,
        input: bytes,  # noqa: A002 - the option's name
        keys: Sequence[tuple[int, str]],
        disks: Sequence[Disk | None],
        processors: int = 1,
        host_model: CpuModel | None = None,
        memory_virtualization: str | None = None,
        largest_page: str = "2 MiB",
        shadow_policy: ShadowPolicy = "cached",
    ) -> None:
        if not images:
            raise OptionError("a system needs at least one guest image")
        self.trace = trace
        self.limit = check_limit(max_instructions)
        self.most_idle = self.limit * IDLE
        self.current = 0
        self.input = input
        self.keys = keys
        self.disks = disks
        self.host_model = model if host_model is None else host_model
        self.memory_virtualization = memory_virtualization or self.memory_virtualizations[0]
        self.largest_page = largest_page
        self.shadow_policy = shadow_policy
        self.build(images, memory_size, model, processors)
        for index, guest in enumerate(self.guests):
            guest.boot()
            guest.platform.firmware.on_call = partial(self._called, index)
            if input:
                guest.platform.uart.feed(input)
            for time, text in keys:
                guest.platform.keyboard.type_at(time, text)
        self.trace.on_switch = self._listen
        self._listen()

    def _listen(self) -> None:
        """Listen to the guests' ports and bus masters, as long as events are wanted."""
        for index, guest in enumerate(self.guests):
            guest.platform.bus.on_access = partial(self._accessed, index) if self.trace.on else None
            guest.platform.bus.on_transfer = partial(self._transferred, index) if self.trace.on else None

    def _accessed(self, index: int, port: int, size: int, value: int, write: bool, device: str | None) -> None:
        """Tell of an access to a port of a guest's platform."""
        # As `_stamp` does it, which costs too much for what happens so often.
        step = self.steps if self.in_vmm else self.steps + 1
        guest = self.guests[index]
        cpu = guest.platform.apics.current
        self.trace.note(PortAccess, step, guest.instructions, index, cpu, port, size, value, write, device)

    def _transferred(self, index: int, address: int, size: int, done: int, write: bool, device: str) -> None:
        """Tell of a transfer by a device of a guest's platform that masters the bus."""
        self.trace.note(Dma, *self._stamp(index), address, size, done, write, device)

    def _stamp(self, index: int) -> tuple[int, int, int, int]:
        """Return what an event of a guest's platform begins with: step, time, guest, processor."""
        step = self.steps if self.in_vmm else self.steps + 1  # natively, the instruction is not counted yet
        guest = self.guests[index]
        return step, guest.instructions, index, guest.platform.apics.current

    def _called(self, index: int, vector: int, ax: int) -> None:
        """Tell of a call of a guest's BIOS."""
        if self.trace.on:
            self.trace.note(FirmwareCall, *self._stamp(index), vector, ax)

    @abstractmethod
    def build(self, images: Sequence[Image], memory_size: int, model: CpuModel, processors: int) -> None:
        """Build the computer and the guests; OptionError where the technique cannot give a guest so many processors."""

    def copy_disks(self, image: Image) -> list[Disk | None]:
        """Return disks for one guest, the one that it boots from first: what it writes is its own."""
        first = [] if image.disk is None else [image.disk]
        return [disk and disk.copy() for disk in (*first, *self.disks)]

    @abstractmethod
    def advance(self, steps: int) -> None:
        """Run for at most `steps` steps, or until every guest has ended."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps since the start: see `vmlab.machine.machine`; a hypervisor's handling and resuming are one each."""

    @property
    def in_vmm(self) -> bool:
        """True while a hypervisor has the physical CPU."""
        return False

    @property
    def guest(self) -> Guest:
        """The guest that has the CPU."""
        return self.guests[self.current]

    @property
    def computers(self) -> Sequence[Machine]:
        """The computers that the system is made of: one, where nothing else is said."""
        return (self.machine,)

    def choose(self) -> None:
        """Go on to the computer that does the next step, where there are several."""

    def concerns(self, guest: int) -> bool:
        """Say whether the next step is for a guest: others that go on beside it on computers of their own are not."""
        return True

    @property
    def guest_level(self) -> int:
        """The privilege level at which the guest that has the CPU believes to run."""
        direct = self.assisted or not hasattr(self, "vmm") or self.memory_virtualization == "direct"
        return (self.machine.cpu if direct else self.guest.vcpu).cpl

    @property
    def in_control(self) -> str:
        """Who has the processor, as a part of the system: the VMM, a guest's kernel or program, or a guest that is itself a VMM."""
        if self.in_vmm:
            return "vmm"
        vcpu = self.guest.vcpu
        if vcpu.vmx.on and not vcpu.non_root:
            return f"guest{self.current}/vmm"
        return f"guest{self.current}/{'user' if self.guest_level == USER else 'kernel'}"

    def cpu_state(self, guest: int = 0, cpu: int = 0) -> Processor:
        """Return the registers of a guest's processor as the guest would find them now: look, do not touch."""
        return self.guests[guest].vcpus[cpu]

    def instructions(self, guest: int = 0) -> int:
        """Return the instructions that a guest has retired by now: a VCPU's own count may be that of its last exit."""
        return self.guests[guest].instructions

    @property
    def exact(self) -> bool:
        """True where `cpu_state` and `instructions` are of an instant between two of the guest's instructions."""
        return True

    @property
    def translated(self) -> bool:
        """True while the processor runs code that a hypervisor has generated in the place of a guest's."""
        return False

    def original(self, linear: int) -> int | None:
        """Return the guest's address of what the processor executes at a linear address; None for an addition of the translator's."""
        return linear

    @property
    def finished(self) -> bool:
        """True when no guest can go on."""
        return None not in [guest.outcome for guest in self.guests]

    def run(self) -> None:
        """Run until every guest has ended."""
        while not self.finished:
            self.advance(NO_LIMIT)

    def allow(self, instructions: int | None) -> None:
        """Let guests that have not ended otherwise retire so many instructions more; None for no limit.

        Raises
        ------
        OptionError
            Not a positive int.
        """
        more = check_limit(instructions)
        done = max(map(self.instructions, range(len(self.guests))))
        self.limit = min(done + more, NO_LIMIT)
        self.most_idle = max(guest.platform.idle for guest in self.guests) + more * IDLE
        for guest in self.guests:
            if guest.outcome == "limit":
                guest.outcome = None

    def send(self, data: bytes, guest: int = 0, device: str = "serial") -> None:
        """Type at a guest, between two steps. A guest that has halted goes on where that interrupts it.

        Raises
        ------
        OptionError
            The keyboard has no such key; nothing has been typed then.
        """
        target = self.guests[guest]
        if device == "keyboard":
            target.platform.keyboard.type_text(data.decode("utf-8", "replace"))
        else:
            target.platform.uart.feed(data)
        interrupted = any(vcpu.interrupts.output and vcpu.flags & IF for vcpu in target.vcpus)
        if target.outcome == "halt" and interrupted:
            target.outcome = None
        if interrupted:
            self.interrupted(guest)

    @abstractmethod
    def interrupted(self, guest: int) -> None:
        """Take note of an interrupt that a device of a guest asks for outside of `advance`."""

    @abstractmethod
    def cycles_by_cause(self) -> dict[str, int]:
        """Return host cycles by cause, counted events times the cost model's constants."""

    @property
    def cycles(self) -> int:
        """Host cycles so far."""
        return sum(self.cycles_by_cause().values())

    def hardware_cycles(self) -> dict[str, int]:
        """Return the cycles of what the physical processors did, all together; those of VM entries, where there were any."""
        cpus = self.machine.cpus
        costs = cpus[0].model.costs
        entries = sum(cpu.guest_entries for cpu in cpus)
        found = {
            "instructions": self.machine.retired * costs.instruction,
            "page walks": sum(cpu.walk_references for cpu in cpus) * costs.walk_reference,
            "traps": sum(cpu.delivered for cpu in cpus) * (costs.trap + costs.interrupt_return),
            "system calls": sum(cpu.fast_calls for cpu in cpus) * costs.fast_call,
            "port accesses": sum(cpu.port_accesses for cpu in cpus) * costs.port_access,
            "control registers": sum(
                cpu.control_loads * costs.control_register + cpu.priority_loads * costs.priority_load for cpu in cpus
            ),
        }
        return found | {"VM exits and entries": entries * costs.vm_transition} if entries else found

    def end_guest(self, index: int, outcome: str, status: int | None = None) -> None:
        """Note the end of a guest."""
        guest = self.guests[index]
        guest.end(outcome, status)
        if self.trace.on:
            self.trace.emit(End(self.steps, guest.instructions, index, outcome, status))

    @abstractmethod
    def save(self) -> dict[str, Any]:
        """Save everything but physical memory as plain data."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` of the same system gave; physical memory is restored beforehand."""


def system_of(of: object, guest: object, takes: str) -> System:
    """Return the system of a Run or a Recording, or a System itself; OptionError for anything else, and for no such guest.

    Parameters
    ----------
    of : object
        What was given.
    guest : object
        Index of a guest.
    takes : str
        What it should have been, and to whom, for the message.
    """
    system = getattr(of, "system", of)
    if not isinstance(system, System):
        raise OptionError(f"{takes}, not {type(of).__name__}")
    check_guest(guest, len(system.guests))
    return system
