"""The computer: processors on a platform, and the boundary between two instructions where everything else happens.

At a boundary, in this order: the next processor's turn comes if this one's is over, devices whose time has come act, INIT
or STARTUP is obeyed, a single-step trap is delivered, an NMI or an interrupt is taken. Then one instruction executes, or
its fault is delivered. Each of these is one *step*, but the first two.

Host software (a hypervisor) is written in Python. The hardware reaches it in the ordinary way, through the interrupt
descriptor table into ring 0, at an address inside `host_entry`; there the machine stops and gives it control.

Read more: Intel SDM vol. 3, 6.9 (priority among simultaneous events).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.disassembler import format_instruction
from vmlab.isa.x86.faults import NMI, PF, Fault, TripleFault, vector_name
from vmlab.isa.x86.registers import ESP
from vmlab.machine.cpu_model import CPU_MODELS, CpuModel
from vmlab.machine.guest_exit import WITH_CODE, GuestExit, event_name
from vmlab.machine.memory import PhysicalMemory
from vmlab.machine.platform import Platform
from vmlab.machine.processor import Processor
from vmlab.machine.state import COUNT, Items, check_state, rollback
from vmlab.machine.trace import HardwareExit, InstructionRetired, Signal, Trace, Trap
from vmlab.machine.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.disk import Disk
    from vmlab.machine.translator import Engine

__all__ = ["LIVELOCK", "Machine"]

FOREVER = 1 << 62
LIVELOCK = 10_000
"""Exceptions and interrupts in a row, with no instruction completed between them, after which no end is expected."""


class Machine:
    """A computer.

    Parameters
    ----------
    memory_size : int
        Bytes of RAM.
    model : CpuModel, optional
        The processor.
    trace : Trace, optional
        Where events go.
    disks : sequence of Disk
        At most two.
    processors : int
        How many processors, 1 to 16; the first starts the computer, the others wait for it to start them.

    Attributes
    ----------
    cpus : list of Processor
        The processors.
    cpu : Processor
        The one whose turn it is: it does the next step, where not all sleep.
    ran : int
        Index of the one that did the last step of the last `run`.
    turns : Turns
        How they alternate.
    outcome : str or None
        Why it stopped for good: `"exit"`, `"halt"` (all processors), `"triple-fault"` (of one of them: it restarts a PC),
        `"reset"` (software asked for it), `"livelock"` (one does nothing any more but take exceptions), `"limit"` (it has
        slept too long); None while it can go on.
    status : int or None
        Exit status, after `"exit"`.
    events : int
        Steps that were not a retired instruction: faults and interrupts delivered.
    engine : Engine or None
        The block translator, where it may run code; None for the interpreter alone.
    host_entry : range
        Linear addresses of the host's entry points; empty without a hypervisor.
    in_host : bool
        True where host software has control.
    counter_limit : int or None
        Retired-instruction count at which the performance counter overflows and interrupts (SDM vol. 3, 20.6.3):
        the clock by which a hypervisor takes the CPU back at an exact instruction.
    counter_vector : int
        Vector of that interrupt.
    guest : int
        Index of the guest that runs, for events.
    most_idle : int
        Time asleep after which the run ends with outcome `"limit"`.
    shadowed : bool
        True where the last event was delivered while interrupts waited for one more instruction, as a VMX processor
        tells in its interruptibility state (SDM vol. 3, 24.4.2).
    """

    def __init__(
        self,
        memory_size: int,
        model: CpuModel = CPU_MODELS["pentium-4"],
        trace: Trace | None = None,
        disks: Sequence[Disk | None] = (),
        processors: int = 1,
    ) -> None:
        self.memory = PhysicalMemory(memory_size)
        self.platform = Platform(self.memory, disks, processors)
        self.bus = self.platform.bus
        self.cpus = [Processor(self.platform, model, number) for number in range(processors)]
        self.cpu = self.cpus[0]
        self.ran = 0
        self.is_shared = processors > 1
        self.turns = Turns(self.cpus, self.platform)
        for other in self.cpus[1:]:
            other.reset()
            other.signals.wait(other)
        self.engine: Engine | None = None
        self.trace = trace or Trace()
        self.outcome: str | None = None
        self.status: int | None = None
        self.events = self._goal = self._until = 0
        self.host_entry = range(0)
        self.in_host = False
        self.counter_limit: int | None = None
        self.counter_vector = 0
        self.guest = 0
        self.guest_time = 0
        self.shadowed = False
        self.most_idle = FOREVER
        self.platform.debug_exit.on_exit = self._exit
        self.platform.on_reset = self._reset
        for cpu in self.cpus:
            cpu.interrupts.on_output = lambda _, cpu=cpu: cpu.flags_changed()

    def _reset(self) -> None:
        self.outcome = "reset"
        self.cpu.horizon = 0

    def _exit(self, status: int) -> None:
        self.outcome, self.status = "exit", status
        self.cpu.horizon = 0

    @property
    def retired(self) -> int:
        """Instructions that all processors have retired."""
        return self.cpu.retired + self.turns.elsewhere

    @property
    def steps(self) -> int:
        """Steps so far: retired instructions and delivered events."""
        return self.cpu.retired + self.turns.elsewhere + self.events

    def run(self, steps: int) -> None:
        """Run for at most `steps` steps, or until the machine stops or host software has control."""
        limit = self._goal = self.steps + steps
        while self.outcome is None and not self.in_host and self.steps < limit:
            if self._boundary():
                continue
            cpu = self.cpu
            try:
                horizon = self._horizon()
                if cpu.attention or self.trace.detail == "instructions" or horizon <= cpu.retired:
                    self._one()  # the last: the counter has overflowed and waits for IF
                elif self.engine:
                    cpu.linked = cpu.non_root or not self.host_entry
                    self._until = min(cpu.retired + limit - self.steps, horizon)
                    self.engine.run(cpu, self._until, self._go_on)
                else:
                    cpu.run(min(cpu.retired + limit - self.steps, horizon))
                if self.host_entry and self._is_in_host():
                    self._entered()
            except GuestExit as exit_:
                self.events += 1
                self._leave_guest(exit_)
            except Fault as fault:
                self._fault(fault)
        self.ran = self.turns.index
        if self.is_shared and self.outcome is None:
            self._pass_turns()

    def _horizon(self) -> int:
        """Return the count of retired instructions at which the next boundary has something to do."""
        device, counter = self.platform.next_deadline(), self.counter_limit
        own = min(self.turns.horizon(), self.cpu.timer_limit)
        return min(FOREVER if device is None else device, FOREVER if counter is None else counter, own)

    def _go_on(self) -> int:
        """Return the count of retired instructions up to which the processor may go on; 0 where it must not.

        What a boundary would do where only a device's time has come, or CS has changed, and no event is due.
        """
        cpu = self.cpu
        if self.outcome is not None or self.in_host or cpu.relaxed or (self.host_entry and not cpu.non_root):
            return 0
        if cpu.deadline == self.platform.clock.deadline and cpu.retired < self._until:
            due = cpu.attention or cpu.halted or cpu.debug_causes or cpu.signals.due
            return 0 if due else min(self._until, cpu.timer_limit)
        if self.steps >= self._goal:
            return 0
        self.platform.service(cpu.retired)
        if cpu.attention or cpu.halted or cpu.debug_causes or cpu.signals.due:
            return 0
        self._until = min(cpu.retired + self._goal - self.steps, self._horizon())
        return self._until

    def _boundary(self) -> bool:
        """Do what is due between two instructions; True where an event was delivered (or the machine stopped)."""
        if self.is_shared:
            self._pass_turns()
            if self.outcome:
                return True
        else:
            self.platform.service(self.cpu.retired)
        cpu, signals = self.cpu, self.cpu.signals
        if cpu.non_root and self._guest_boundary(cpu):
            return True
        if signals.due and (signals.init or signals.waiting):
            self._restart(cpu)
            return True
        if cpu.debug_pending:
            self._deliver(cpu.single_step, 1, "#DB", None)
            return True
        if signals.due and not cpu.interrupt_shadow:
            self._deliver(lambda: signals.take_nmi(cpu), NMI, vector_name(NMI), None)
            return True
        if cpu.halted and (not self._wake(cpu) or signals.due or (cpu.non_root and self._guest_boundary(cpu))):
            return True  # what has woken a guest may be its VMM's
        if self.counter_limit is not None and cpu.retired >= self.counter_limit and cpu.interruptible:
            self.counter_limit = None
            self._deliver(lambda: cpu.interrupt(self.counter_vector), self.counter_vector, "timer", None)
            return True
        if cpu.interrupts.output and cpu.interruptible:
            vector = cpu.interrupts.acknowledge()
            self._deliver(lambda: cpu.interrupt(vector), vector, f"interrupt {vector:#x}", None)
            return True
        return False

    def _guest_boundary(self, cpu: Processor) -> bool:
        """Do what comes first between two instructions of a guest in non-root operation: an injected event, a VM exit."""
        if cpu.injected is not None:
            information, code, _ = cpu.injected
            self._deliver(
                cpu.inject, information & 0xFF, event_name(information), code if information & WITH_CODE else None
            )
            return True
        timer = self.counter_limit is not None and cpu.retired >= self.counter_limit
        exit_ = cpu.pending_exit(self.counter_vector if timer else None, stuck=cpu.barren >= LIVELOCK)
        if exit_ is None:
            vector = cpu.virtual_vector()
            if vector is None:
                return False
            self._deliver(lambda: cpu.interrupt(vector), vector, f"virtual interrupt {vector:#x}", None)
            return True
        if timer and exit_.acknowledges:
            self.counter_limit = None
        self.events += 1
        self._leave_guest(exit_)
        return True

    def _leave_guest(self, exit_: GuestExit) -> None:
        """Take a VM exit."""
        cpu = self.cpu
        address, ring = cpu.linear_ip, cpu.cpl
        cpu.leave(exit_)
        self.in_host = self._is_in_host()
        if self.trace.on:
            time, index, name = self.guest_time + self.retired, self.turns.index, exit_.name
            self.trace.note(HardwareExit, self.steps, time, self.guest, index, name, exit_.qualification, address, ring)

    def _is_in_host(self) -> bool:
        """Say whether the processor is about to execute host software that is written in Python."""
        cpu = self.cpu
        return not cpu.non_root and cpu.cpl == 0 and cpu.ip in self.host_entry

    def _pass_turns(self) -> None:
        """Go on to the processor whose turn it is."""
        self.cpu = self.turns.pass_on()
        if self.turns.asleep > self.most_idle:
            self.outcome = "limit"

    def _wake(self, cpu: Processor) -> bool:
        """Say whether an interrupt wakes a halted processor; if not, all sleep: pass the time until one wakes up."""
        awake = self.turns.rouse(cpu.retired)
        if awake is None:
            self.outcome = "halt"
        elif self.turns.asleep > self.most_idle:
            self.outcome = "limit"
        elif awake != self.turns.index:
            self.cpu = self.turns.give(awake)
        return self.outcome is None and self.cpu is cpu

    def _restart(self, cpu: Processor) -> None:
        """Obey INIT or STARTUP."""
        signals = cpu.signals
        name, act = ("INIT", signals.take_init) if signals.init else ("STARTUP", signals.take_startup)
        self.events += 1
        act(cpu)
        if self.trace.on:
            time, address = self.guest_time + self.retired, cpu.linear_ip
            self.trace.emit(Signal(self.steps, time, self.guest, name, address, cpu=self.turns.index))

    def _one(self) -> None:
        """Execute one instruction with everything that `Processor.run` leaves out."""
        cpu, traced = self.cpu, self.trace.detail == "instructions"
        address, bits = cpu.linear_ip, cpu.fetch_bits
        cpu.stop_before()
        instruction = cpu.fetch()[1] if traced else None
        cpu.step()
        if instruction is not None:
            text = format_instruction(instruction, address, bits=bits)
            time, index = self.guest_time + self.retired, self.turns.index
            self.trace.emit(InstructionRetired(self.steps, time, self.guest, address, text, cpu=index))

    def _fault(self, fault: Fault) -> None:
        cr2 = self.cpu.cr2 if fault.vector == PF else None
        self._deliver(lambda: self.cpu.take(fault), fault.vector, vector_name(fault.vector), fault.error_code, cr2)

    def _entered(self) -> None:
        """Note that an instruction has led into host software by itself: a gate's DPL allows it, and INT1 needs none."""
        cpu = self.cpu
        self.in_host = True
        vector = self.host_entry.index(cpu.ip)
        if self.trace.on:
            time, frame, width = self.guest_time + cpu.retired, cpu.registers[ESP], 8 if cpu.long_mode else 4
            address, ring = cpu.read_system(frame, width), cpu.read_system(frame + width, 2) & 3
            self.trace.emit(Trap(self.steps, time, self.guest, vector, vector_name(vector), None, address, ring, 0))

    def _deliver(
        self, act: Callable[[], None], vector: int, name: str, error_code: int | None, cr2: int | None = None
    ) -> None:
        """Deliver an event as one step, and see whether it leads into host software."""
        cpu = self.cpu
        ring, address = cpu.cpl, cpu.linear_ip
        self.events += 1
        self.shadowed = cpu.interrupt_shadow
        try:
            act()
        except GuestExit as exit_:
            self._leave_guest(exit_)
            return
        except TripleFault:
            exit_for_it = cpu.exit_for_shutdown()
            if exit_for_it is not None:
                self._leave_guest(exit_for_it)
                return
            self.outcome = "triple-fault"
        if cpu.barren >= LIVELOCK and not self.host_entry:
            self.outcome = "livelock"
        self.in_host = self._is_in_host()
        if self.trace.on:
            time, index, to = self.guest_time + self.retired, self.turns.index, cpu.cpl
            self.trace.emit(
                Trap(self.steps, time, self.guest, vector, name, error_code, address, ring, to, cr2, cpu=index)
            )

    def save(self) -> dict[str, Any]:
        """Save everything but memory and host software as plain data."""
        self.platform.now(self.cpu.retired)
        return {
            "version": 2,
            "cpus": [cpu.save() for cpu in self.cpus],
            "platform": self.platform.save(),
            "turn_end": self.turns.end,
            "outcome": self.outcome,
            "status": self.status,
            "events": self.events,
            "in_host": self.in_host,
            "counter_limit": self.counter_limit,
            "guest": self.guest,
            "guest_time": self.guest_time,
            "shadowed": self.shadowed,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        none = type(None)
        parts = {"cpus": Items(dict, len(self.cpus)), "platform": dict, "turn_end": COUNT}
        numbers = {"events": COUNT, "guest": COUNT, "guest_time": int, "counter_limit": (COUNT, none)}
        others = {"outcome": (str, none), "status": (int, none), "in_host": bool, "shadowed": bool}
        check_state(state, "machine", {**parts, **numbers, **others}, version=2)
        with rollback(self):
            self.platform.load(state["platform"])
            for cpu, saved in zip(self.cpus, state["cpus"], strict=True):
                cpu.load(saved)
            self.turns.load(state["turn_end"])
            self.cpu = self.cpus[self.turns.index]
            self.platform.check_time(self.cpu.retired)
            for name in (*numbers, *others):
                setattr(self, name, state[name])
