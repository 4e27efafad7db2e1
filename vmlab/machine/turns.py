"""Several processors in one computer, one after the other: round robin, in turns of a fixed length.

Virtual time has *slots*: with n processors one unit of the clock is n of them. A turn is `TURN` slots. The processor whose
turn it is fills a slot with each instruction that it retires; the slots in which it sleeps, or which it leaves with
PAUSE to those for whom it waits, pass empty. So each processor has one slot in n, an instruction in a unit of the clock as
if it were alone; time is the same for all and never goes backwards, and a run is the same each time. An instruction is
never divided: what is locked is atomic by itself. What one processor sends to another (an interrupt, INIT, STARTUP) is
there at once, and noticed when the other's turn begins.

When all sleep, time jumps to the next timed event, and whoever it wakes has the next turn.

With one processor a slot is a unit of the clock, and a turn never ends.

Simplified: a real computer runs its processors at the same time, and stores wait in buffers: here every store is seen by
all at once (sequential consistency), so that a guest that lacks a fence does not fail.

Read more: Intel SDM vol. 3, "Multiple-Processor Management"; Lamport, "How to Make a Multiprocessor Computer That
Correctly Executes Multiprocess Programs" (1979).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.platform import Platform
    from vmlab.machine.processor import Processor

__all__ = ["TURN", "Turns"]

TURN = 499
"""Slots in a turn: long enough for translated loops, short for who waits for a lock in a loop without PAUSE.

Measured with xv6 on two processors: with 499 it boots in the same virtual time as on one, with 1999 it takes 15 % longer,
with 4999 40 %; 200 is no quicker. A prime, so that turns fall out of step with loops.
"""

FOREVER = 1 << 62


class Turns:
    """Whose turn it is.

    Parameters
    ----------
    cpus : sequence of Processor
        The processors, in the order of their turns.
    platform : Platform
        What they share; it knows the slots that have passed.

    Attributes
    ----------
    end : int
        Slot at which the turn ends.
    elsewhere : int
        Instructions that the other processors have retired.
    """

    __slots__ = ("cpus", "elsewhere", "end", "platform")

    def __init__(self, cpus: Sequence[Processor], platform: Platform) -> None:
        self.cpus, self.platform = cpus, platform
        self.elsewhere = 0
        self.end = TURN if len(cpus) > 1 else FOREVER

    @property
    def index(self) -> int:
        """Index of the processor whose turn it is; it sees its own local APIC."""
        return self.platform.apics.current

    def horizon(self) -> int:
        """Return the running processor's count of retired instructions at which its turn ends."""
        return self.end - self.platform.idle

    def give(self, index: int) -> Processor:
        """Begin the turn of a processor, and return it."""
        old, new, platform = self.cpus[self.index], self.cpus[index], self.platform
        self.end = old.retired + platform.idle + TURN
        platform.idle += old.retired - new.retired
        self.elsewhere += old.retired - new.retired
        platform.apics.current = index
        return new

    def pass_on(self) -> Processor:
        """Go on to a processor that has something to do, if its turn has come, and return whose turn it is.

        Devices act, and time passes in the turns of those that sleep.
        """
        while True:
            cpu = self.cpus[self.index]
            if cpu.relaxed:
                self._leave(cpu)
            if cpu.retired >= self.horizon():
                cpu = self.give((self.index + 1) % len(self.cpus))
            self.platform.service(cpu.retired)
            awake = self.awake() if is_asleep(cpu, cpu.ticks) else None
            if awake is None:
                return cpu
            self._skip(cpu, awake)

    def _leave(self, cpu: Processor) -> None:
        """Pass what is left of a processor's turn, up to where a device acts, or a guest's timer expires."""
        cpu.relaxed = False
        self.platform.idle += max(0, min(self.horizon(), self._deadline(cpu)) - cpu.retired)

    def _deadline(self, cpu: Processor) -> int:
        """Return the running processor's count of retired instructions at which something comes, whatever it does."""
        deadline = self.platform.next_deadline()
        return cpu.timer_limit if deadline is None else min(deadline, cpu.timer_limit)

    def _skip(self, cpu: Processor, index: int) -> None:
        """Pass the turns of a processor and those behind it, which all sleep, up to that of another.

        Where a device acts on the way, or a timer expires, that may wake one of them: then only the time until then has passed.
        """
        count = len(self.cpus)
        goal = self.horizon() + ((index - self.index) % count - 1) * TURN
        if self._deadline(cpu) < goal:
            self._leave(cpu)
            return
        self.platform.idle += goal - cpu.retired
        self.give(index)

    @property
    def asleep(self) -> int:
        """Time that has passed without an instruction, in units of the clock."""
        return (self.platform.idle - self.elsewhere) // len(self.cpus)

    def awake(self) -> int | None:
        """Return the index of the first processor, from the running one on, that has something to do."""
        count, first = len(self.cpus), self.index
        now = self.cpus[first].ticks
        for distance in range(count):
            index = (first + distance) % count
            if not is_asleep(self.cpus[index], now):
                return index
        return None

    def rouse(self, retired: int) -> int | None:
        """Return who has something to do; if nobody has, pass the time until one wakes up. None where nobody ever will."""
        awake = self.awake()
        if awake is not None:
            return awake
        timer = min((cpu.vmx.timer_end for cpu in self.cpus if cpu.vmx.timer_end is not None), default=None)
        if timer is None and not any(cpu.hears_interrupts for cpu in self.cpus):
            return None
        self.platform.await_interrupt(retired, lambda: self.awake() is not None, timer)
        return self.awake()

    def load(self, end: int) -> None:
        """Load the end of the turn; the rest follows from the processors' state and the platform's."""
        self.end = end
        self.elsewhere = sum(cpu.retired for cpu in self.cpus) - self.cpus[self.index].retired


def is_asleep(cpu: Processor, now: int) -> bool:
    """Say whether a processor has nothing to do at a slot of time: halted, and nothing that would wake it has come."""
    return cpu.halted and not (
        cpu.signals.due
        or cpu.debug_pending
        or (cpu.interrupts.output and cpu.hears_interrupts)
        or cpu.vmx.trap_pending
        or (cpu.vmx.timer_end is not None and cpu.vmx.timer_end <= now)
    )
