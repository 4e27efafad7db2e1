"""What hypervisors with VCPUs have in common: guests with virtual devices, time slices, and a loop of exits.

When it has the CPU, a hypervisor first *handles* why the guest gave it up, then *resumes* a guest: it chooses one, lets
its virtual devices act, and enters it for as many instructions as may pass before a device or another guest's time has
come. A guest's time is what it has retired. How a guest is left and entered, and how events reach it, is the technique's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.machine.memory import PAGE_SHIFT, MemoryWindow
from vmlab.machine.platform import Platform
from vmlab.machine.processor import Decoded, Processor
from vmlab.machine.state import COUNT, Entries, Items, check_state
from vmlab.machine.trace import ControlWrite, Emulate, Exit, Resume, Switch
from vmlab.vmm.guest import Guest
from vmlab.vmm.system import System
from vmlab.vmm.vcpu_turns import VcpuTurns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.image import Image
    from vmlab.vmm.exits import ExitReason

__all__ = ["TIMER_VECTOR", "Hypervisor"]

QUANTUM = 20_000
"""Instructions that a guest runs before another gets the CPU."""
TIMER_VECTOR = 0xFE
PHASES = ("handle", "resume")
STRING_IO = frozenset({"ins", "outs"})
TRACED_REGISTERS = ("cr0", "cr3", "cr4")
_traced = attrgetter(*TRACED_REGISTERS)


class Hypervisor(System):
    """A type 1 hypervisor with time-sliced guests.

    Attributes
    ----------
    windows : list of MemoryWindow
        Guest-physical memory of each guest.
    counters : Counter
        What the hypervisor did.
    phase : {"handle", "resume"}
        What it does next when it has the CPU.
    goal : int
        The step at which the present `advance` ends.
    """

    name: str

    def build_guests(
        self, images: Sequence[Image], memory_size: int, model: CpuModel, guest_base: int, processors: int = 1
    ) -> None:
        """Build a guest for each image, in host memory from `guest_base` on; the hypervisor has the CPU first."""
        self.guests: list[Guest] = []
        self.windows: list[MemoryWindow] = []
        frames = memory_size >> PAGE_SHIFT
        for index, image in enumerate(images):
            first = (guest_base >> PAGE_SHIFT) + index * frames
            memory = MemoryWindow(self.machine.memory, range(first, first + frames))
            guest = self.make_guest(
                image.name if len(images) == 1 else f"{image.name} {index}", image, memory, model, processors
            )
            guest.platform.debug_exit.on_exit = partial(guest.end, "exit")
            guest.platform.on_reset = partial(guest.end, "reset")
            if processors > 1:
                guest.turns = VcpuTurns(guest)
            self.guests.append(guest)
            self.windows.append(memory)
        self.counters: Counter[str] = Counter()
        self.phase = "resume"
        self.slice_end = QUANTUM
        self.goal = 0
        self.machine.in_host = True

    def make_guest(self, name: str, image: Image, memory: MemoryWindow, model: CpuModel, processors: int) -> Guest:
        """Return a guest with virtual devices around its memory."""
        platform = Platform(memory, self.copy_disks(image), processors)
        return Guest(name, image, [Processor(platform, model, number) for number in range(processors)], platform)

    # -- the loop --------------------------------------------------------------------------------------------------------

    @property
    def vmm(self) -> Hypervisor:
        """The hypervisor, for views: this system."""
        return self

    @property
    def in_vmm(self) -> bool:
        """True while the hypervisor has the CPU."""
        return self.machine.in_host

    def slots(self, guest: int) -> range:
        """Return the places of a guest's VCPUs in what the hypervisor keeps for each VCPU."""
        count = len(self.guests[guest].vcpus)
        return range(guest * count, (guest + 1) * count)

    @property
    def slot(self) -> int:
        """The place of the VCPU of the current guest whose turn it is."""
        guest = self.guest
        return self.current * len(guest.vcpus) + guest.platform.apics.current

    def instructions(self, guest: int = 0) -> int:
        """Return the instructions that a guest has retired by now: while it has the CPU, the processor counts them."""
        if guest != self.current or (self.in_vmm and self.phase != "handle"):
            return self.guests[guest].instructions
        return self.machine.guest_time + self.machine.retired

    @property
    def exact(self) -> bool:
        """False between an exit and its handling: an instruction may have been retired that is taken back (INT1)."""
        return not (self.in_vmm and self.phase == "handle")

    @property
    def steps(self) -> int:
        """Steps of the hardware; the hypervisor adds its own, one for each handling and each resuming."""
        return self.machine.steps

    def advance(self, steps: int) -> None:
        """Run guests and hypervisor for at most `steps` steps."""
        goal = self.goal = self.steps + steps
        while self.steps < goal and not self.finished:
            if not self.machine.in_host:
                self.machine.run(goal - self.steps)
                assert self.machine.outcome is None, "a guest has stopped the host"
            else:
                self.machine.events += 1
                if self.phase == "handle":
                    self.handle()
                    self.phase = "resume"
                elif self._resume():
                    self.phase = "handle"

    @abstractmethod
    def handle(self) -> None:
        """Find out why the guest gave up the CPU, and do for it what it could not do itself."""

    @abstractmethod
    def devices(self, guest: Guest) -> None:
        """Do what the hardware does between two instructions: devices, traps, waking up, interrupts."""

    @abstractmethod
    def enter(self, guest: Guest, instructions: int) -> None:
        """Give the CPU to a guest, for so many instructions at most."""

    def count_exit(self, reason: ExitReason, detail: str) -> None:
        """Count why the guest gave up the CPU."""
        self.guest.exits[reason.value] += 1
        if self.trace.on:
            self.trace.emit(Exit(self.steps, self.guest.instructions, self.current, reason.value, detail))

    # -- emulation -------------------------------------------------------------------------------------------------------

    def execute(self, guest: Guest, decoded: Decoded | None = None) -> tuple[Instruction, str]:
        """Execute the guest's next instruction on the VCPU; return it, and its text where events are wanted.

        It is read from the guest's memory, unless the processor has told which it is, and so it is `decoded`.

        Raises
        ------
        Fault
            It faults; the fault is the guest's own.
        """
        vcpu = guest.vcpu
        if decoded is None:
            vcpu.forget_translations()  # the VCPU's own must not outlive an exit: the guest's TLB is elsewhere
            decoded = vcpu.fetch()
        instruction = decoded[1]
        text = vcpu.disassemble(instruction) if self.trace.on else ""
        start = vcpu.ip
        vcpu.step(decoded)
        if instruction.repeat and instruction.mnemonic in STRING_IO and vcpu.ip == start:
            self._repeat(guest)
        return instruction, text

    def _repeat(self, guest: Guest) -> None:
        """Do the other elements of a repeated INS or OUTS in the same exit, as long as nothing else is due."""
        vcpu, platform, start = guest.vcpu, guest.platform, guest.vcpu.ip
        until = min(vcpu.timer_limit, vcpu.retired + min(self.slice_end, self.limit) - guest.instructions)
        if guest.turns:
            until = min(until, vcpu.retired + guest.turns.left())
        while vcpu.ip == start and vcpu.retired < until and guest.outcome is None and not vcpu.is_trapped:
            deadline = platform.next_deadline()
            if (deadline is not None and vcpu.retired >= deadline) or (
                vcpu.interrupts.output and vcpu.hears_interrupts
            ):
                return
            vcpu.step()

    def control_registers(self, vcpu: Processor) -> tuple[int, ...]:
        """Return what `note_emulation` compares."""
        found: tuple[int, ...] = _traced(vcpu)
        return found

    def note_emulation(self, instruction: Instruction, address: int, text: str, before: tuple[int, ...]) -> None:
        """Count an instruction that was executed on the VCPU, and tell what it changed."""
        guest = self.guest
        vcpu = guest.vcpu
        self.counters["emulated"] += 1
        guest.emulated[instruction.mnemonic] += 1
        if not self.trace.on:
            return
        time = guest.instructions
        self.trace.emit(Emulate(self.steps, time, self.current, address, text))
        for name, old, new in zip(TRACED_REGISTERS, before, self.control_registers(vcpu), strict=True):
            if new != old:
                self.trace.emit(ControlWrite(self.steps, time, self.current, name, old, new))

    # -- back to a guest -------------------------------------------------------------------------------------------------

    def _resume(self) -> bool:
        """Choose a guest, let its devices act, and enter it; False where it ended instead."""
        if self.guest.outcome is None and self.guest.instructions >= self.limit:
            if self.guest.turns and self.may_pass_on():
                self.guest.turns.pass_on()  # as the bare machine does before it stops
            self.end_guest(self.current, "limit")
        self._schedule()
        guest = self.guest
        if guest.outcome is None:
            self.devices(guest)
        if not self.can_enter(guest):
            return False
        time, deadline = guest.instructions, guest.platform.next_deadline()
        left = min(self.slice_end, self.limit) - time
        if deadline is not None:
            left = min(left, deadline - guest.vcpu.retired)
        if guest.turns:
            left = min(left, guest.turns.left())
        if not self.give(guest, max(self.least(guest), left)):
            return False
        if self.trace.on:
            self.trace.emit(Resume(self.steps, time, self.current, guest.mode))
        return True

    def may_pass_on(self) -> bool:
        """Say whether the current guest's VCPU has nothing to be delivered to it before another may have its turn."""
        return True

    def least(self, guest: Guest) -> int:
        """Return how many instructions a guest executes at least when it is entered."""
        return 1

    def can_enter(self, guest: Guest) -> bool:
        """Say whether a guest can be given the CPU, after its devices have acted."""
        return guest.outcome is None

    def can_run(self, guest: Guest) -> bool:
        """Say whether a guest can be given a turn."""
        return guest.outcome is None

    def stand_still(self) -> None:
        """Take note that no guest can be given a turn."""

    def give(self, guest: Guest, instructions: int) -> bool:
        """Let a guest run; False where the hypervisor has done that itself, and keeps the CPU."""
        self.enter(guest, instructions)
        return True

    def sleep(self, guest: Guest) -> None:
        """Pass the time of a guest that has halted until something wakes it; end one that nothing will ever wake."""
        vcpu, platform = guest.vcpu, guest.platform

        timer = vcpu.vmx.timer_end  # of its own guest

        def wakes() -> bool:
            interrupt = vcpu.interrupts.output and vcpu.hears_interrupts
            return interrupt or vcpu.signals.has_nmi or vcpu.timer_limit <= vcpu.retired

        awake = not vcpu.halted or vcpu.signals.has_nmi
        waits = vcpu.hears_interrupts or timer is not None
        if not awake and not (waits and platform.await_interrupt(vcpu.retired, wakes, timer)):
            self.end_guest(self.current, "halt")
        elif platform.idle > self.most_idle:
            self.end_guest(self.current, "limit")

    def _schedule(self) -> None:
        """Round robin: the next guest gets the CPU when this one has used its time, waits, or has ended."""
        guest = self.guest
        if not guest.is_halted and guest.instructions < self.slice_end and self.can_run(guest):
            return
        count = len(self.guests)
        for distance in range(1, count + 1):
            index = (self.current + distance) % count
            if self.can_run(self.guests[index]):
                break
        else:
            self.stand_still()
            return
        previous, self.current = self.current, index
        self.slice_end = self.guest.instructions + QUANTUM
        if previous != index:
            self.counters["world switches"] += 1
            if self.trace.on:
                self.trace.emit(Switch(self.steps, self.guest.instructions, index, previous))

    def allow(self, instructions: int | None) -> None:
        """Let each guest retire so many instructions more."""
        super().allow(instructions)
        machine = self.machine
        if machine.counter_limit is not None:  # a guest runs now: take the CPU back in time
            machine.counter_limit = min(machine.counter_limit, self.limit - machine.guest_time)

    def interrupted(self, guest: int) -> None:
        """Take the CPU back from the guest at once: its virtual device has an interrupt for it."""
        if not self.in_vmm and guest == self.current:
            self.machine.counter_limit = self.machine.cpu.retired

    # -- saving ----------------------------------------------------------------------------------------------------------

    def save_common(self) -> dict[str, Any]:
        """Save what every hypervisor has."""
        return {
            "machine": self.machine.save(),
            "guests": [guest.save() for guest in self.guests],
            "counters": dict(self.counters),
            "phase": self.phase,
            "current": self.current,
            "slice_end": self.slice_end,
        }

    def check_common(self, state: dict[str, Any], rules: dict[str, Any]) -> None:
        """Check a saved state, whose other fields `rules` names; StateError where it is damaged."""
        count = len(self.guests)
        common = {"machine": dict, "counters": Entries(str, COUNT), "phase": str, "slice_end": COUNT}
        check_state(state, self.technique, common | {"guests": Items(dict, count), "current": range(count)} | rules)
        if state["phase"] not in PHASES:
            raise StateError(f"{self.technique}: saved phase {state['phase']!r} is none of {', '.join(PHASES)}")

    def load_common(self, state: dict[str, Any]) -> None:
        """Load what `save_common` gave."""
        self.machine.load(state["machine"])
        for guest, saved in zip(self.guests, state["guests"], strict=True):
            guest.load(saved)
        self.counters = Counter(state["counters"])
        for name in ("phase", "current", "slice_end"):
            setattr(self, name, state[name])
