"""A debugger that goes both ways: stepping, breakpoints, registers and memory at any instant of a recording.

It moves the recording's cursor and looks; nothing it does changes the machine. Forwards and backwards have the same
commands, since each instant of a recording can be reached again. `step` is one step of the machine (an instruction, or
the delivery of an interrupt or fault); `over` runs a call to its end, `finish` the function that one is in.

`finish` and its reverse go by the stack alone: a function has ended when a return has left it higher than it is now.

Read more: King, Dunlap & Chen, "Debugging operating systems with time-traveling virtual machines" (USENIX 2005);
GDB manual, "Running programs backward".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.isa.x86.registers import ESP
from vmlab.vmm.breakpoints import AtAddress, OnEvent, OnWrite, Watched, WhenTrue
from vmlab.vmm.condition import Condition, evaluate
from vmlab.vmm.inspector import Inspector, check_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.recording import Recording
    from vmlab.machine.search import Found
    from vmlab.machine.trace import Event
    from vmlab.vmm.breakpoints import Breakpoint
    from vmlab.vmm.viewpoint import Viewpoint

__all__ = ["Debugger", "Stop"]

WINDOW, WIDEST = 1024, 1 << 16
CALLS = frozenset({"call", "int", "int3", "into"})
RETURNS = frozenset({"ret", "retf", "iret", "iretd", "iretq"})


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a command has led, and why it ended there.

    Attributes
    ----------
    reason : str
        `"step"`, `"breakpoint"`, `"start"`, `"end"`; `"nowhere"` where a search found nothing and nothing moved.
    step : int
        The cursor.
    text : str
        The same in words.
    breakpoint : Breakpoint or None
        What was hit.
    event : Event or None
        What happened, if that was it.
    """

    reason: str
    step: int
    text: str
    breakpoint: Breakpoint | None = None
    event: Event | None = None

    def __repr__(self) -> str:
        return self.text


class Debugger(Inspector):
    r"""Goes through a recording.

    Parameters
    ----------
    recording : Recording
        What to debug.
    guest : int
        Whose code, registers and memory.

    Attributes
    ----------
    breakpoints : list of Breakpoint
        What `cont` and `back_cont` stop at.
    stop : Stop
        Where the last command led.
    changed : frozenset of str
        Registers that differ from what they were before the last command.

    Raises
    ------
    OptionError
        It is no recording, or has no such guest.

    Examples
    --------
    >>> import vmlab
    >>> debugger = Debugger(vmlab.record(vmlab.assemble("start: mov ebx, 4\n inc ebx\n mov ecx, ebx\n hlt")))
    >>> debugger.break_when("ebx == 5")
    1: when ebx == 5
    >>> debugger.cont()
    step 2: breakpoint 1, when ebx == 5
    >>> debugger.back()
    step 1: inc ebx
    """

    def __init__(self, recording: Recording, guest: int = 0) -> None:
        super().__init__(recording, guest)
        self.breakpoints: list[Breakpoint] = []
        self._numbers = 0
        self.changed: frozenset[str] = frozenset()
        self.stop = self._stopped("step")

    # -- breakpoints -------------------------------------------------------------------------------------------------

    def break_at(self, where: int | str) -> Breakpoint:
        """Stop where the next instruction is at an address: a number, a symbol, or an expression of them.

        Raises
        ------
        OptionError
            There is no such symbol.
        """
        address = evaluate(where, self.view, self.symbols)
        name = f"{where} ({address:#x})" if isinstance(where, str) and not where.startswith("0x") else f"{address:#x}"
        return self._add(AtAddress(self._next(), f"at {name}", address))

    def break_when(self, condition: str) -> Breakpoint:
        """Stop where a condition becomes true, as `"ebx == 5"`; see `vmlab.vmm.condition`."""
        return self._add(WhenTrue(self._next(), Condition(condition, self.symbols)))

    def break_on(self, event: str, **values: object) -> Breakpoint:
        """Stop after an event of a kind, as `break_on("trap", vector=14)` or `break_on("control", register="cr3")`."""
        return self._add(OnEvent(self._next(), event, values))

    def watch(self, where: int | str, size: int = 4) -> Breakpoint:
        """Stop after memory has changed: `size` bytes from an address on."""
        check_number("of bytes to watch", size, 4096)
        address = evaluate(where, self.view, self.symbols)
        name = f"{where} ({address:#x})" if isinstance(where, str) and not where.startswith("0x") else f"{address:#x}"
        return self._add(OnWrite(self._next(), f"write to {name}, {size} bytes", address, size))

    def remove(self, number: int | None = None) -> None:
        """Remove the breakpoint of a number, or all."""
        if number is not None and all(each.number != number for each in self.breakpoints):
            raise OptionError(f"there is no breakpoint {number!r}: there are {self.breakpoints or 'none'}")
        self.breakpoints = [each for each in self.breakpoints if number is not None and each.number != number]

    def _next(self) -> int:
        return self._numbers + 1

    def _add(self, breakpoint_: Breakpoint) -> Breakpoint:
        self._numbers = breakpoint_.number
        self.breakpoints.append(breakpoint_)
        return breakpoint_

    # -- going -------------------------------------------------------------------------------------------------------

    def goto(self, step: int) -> Stop:
        """Go to a step; OptionError where there is none."""
        return self._command(lambda: self.recording.seek(step))

    def step(self, count: int = 1) -> Stop:
        """Go forward by steps."""
        return self._command(lambda: self.recording.step(count))

    def back(self, count: int = 1) -> Stop:
        """Go backward by steps."""
        return self._command(lambda: self.recording.back(count))

    def cont(self) -> Stop:
        """Go forward to the next breakpoint, or to the end."""
        return self._search(self.breakpoints, forward=True)

    def back_cont(self) -> Stop:
        """Go backward to the last breakpoint before, or to the start."""
        return self._search(self.breakpoints, forward=False)

    def over(self) -> Stop:
        """Do the next instruction, and all that it calls."""
        if self.mnemonic not in CALLS:
            return self.step()
        goal, stack = self.following, self.stack_pointer
        return self._run(lambda at: at.address == goal and at.cpu.registers[ESP] >= stack and at.runs, breaking=True)

    def finish(self) -> Stop:
        """Go forward until the function that one is in has returned."""
        stack = self.stack_pointer
        returning = False

        def returned(at: Viewpoint) -> bool:
            nonlocal returning
            before, returning = returning, at.runs and self.mnemonic in RETURNS
            return before and at.runs and at.cpu.registers[ESP] > stack

        returned(self.view)
        return self._run(returned, breaking=True)

    def back_over(self) -> Stop:
        """Undo the last instruction, and all that it called."""
        before, goal = self.position, self.view.address
        if not before:
            return self.back()

        def undo() -> None:
            self.recording.back()
            if self.mnemonic not in RETURNS:
                return
            top = self.stack_pointer
            self._to_call(lambda after, stack: after == goal and stack > top)
            if self.position >= before:
                self.recording.seek(before - 1)

        return self._command(undo)

    def back_finish(self) -> Stop:
        """Go backward to the call of the function that one is in."""
        before, position = self.view.registers(), self.position
        self._to_call(lambda _after, _stack: True)
        return self._arrived(before, self._stopped("step" if self.position != position else "nowhere"))

    def find(self, condition: str, *, backward: bool = False) -> Stop:
        """Go where a condition becomes true: the next time, or the last time before. `nowhere` if it never does."""
        once = WhenTrue(0, Condition(condition, self.symbols))
        return self._search([once], forward=not backward, stay=True)

    def who_wrote(self, where: int | str, size: int = 4) -> Stop:
        """Go backward to the instant after memory was last written; the last step counts, where it changed something."""
        check_number("of bytes to search", size, 4096)
        address = evaluate(where, self.view, self.symbols)
        wanted = OnWrite(0, f"write to {where if isinstance(where, str) else f'{where:#x}'}", address, size)
        position, before = self.position, self.view.registers()
        if position:
            now = wanted.look(self.view)
            self.recording.back()
            text = self.instruction()
            changed = wanted.hit(wanted.look(self.view), now)
            self.recording.seek(position)
            if changed:
                return self._arrived(
                    before, Stop("breakpoint", position, f"step {position}: {wanted.text}, by {text}", wanted)
                )
        return self._search([wanted], forward=False, stay=True)

    # -- how it is found ---------------------------------------------------------------------------------------------

    def _command(self, act: Callable[[], object]) -> Stop:
        """Do something that moves the cursor, and note what that changed."""
        before = self.view.registers()
        act()
        return self._arrived(before, self._stopped("step"))

    def _arrived(self, before: dict[str, int], stop: Stop) -> Stop:
        now = self.view.registers()
        self.changed = frozenset(name for name, value in now.items() if before.get(name) != value)
        self.stop = stop
        return stop

    def _stopped(self, reason: str, breakpoint_: Breakpoint | None = None, found: Found | None = None) -> Stop:
        step = self.position
        if reason == "nowhere":
            text = f"step {step}: nothing found, nothing moved"
        elif breakpoint_ is not None:
            name = f"breakpoint {breakpoint_.number}, " if breakpoint_.number else ""
            writer = f", by {found.text}" if found is not None and isinstance(breakpoint_, OnWrite) else ""
            text = f"step {step}: {name}{breakpoint_.text}{writer}"
        else:
            ends = {0: "the start; ", self.recording.length: "the end; "}
            text = f"step {step}: {ends.get(step, '')}{self.instruction() or 'no code here'}"
            reason = "start" if step == 0 else "end" if step == self.recording.length else reason
        return Stop(reason, step, text, breakpoint_, found.event if found else None)

    def _search(self, wanted: list[Breakpoint], *, forward: bool, stay: bool = False) -> Stop:
        """Go to the nearest hit of some breakpoints; else to the end of that way, or `stay`."""
        recording, start, before = self.recording, self.position, self.view.registers()
        best: tuple[Found, Breakpoint] | None = None
        for each in wanted:
            recording.seek(start)
            found = recording.find(each.condition(self.view), backwards=not forward, guest=self.view.index)
            if found is not None and (best is None or (found.step < best[0].step) is forward):
                best = found, each
        if best is not None:
            found, hit = best
            recording.seek(found.step)
            return self._arrived(before, self._stopped("breakpoint", hit, found))
        recording.seek(start if stay else recording.length if forward else 0)
        return self._arrived(before, self._stopped("nowhere" if stay else "end" if forward else "start"))

    def _run(self, reached: Callable[[Viewpoint], bool], *, breaking: bool) -> Stop:
        """Go forward until something is so, or a breakpoint is hit, or the end."""
        before, start = self.view.registers(), self.position
        watched = [each for each in self.breakpoints if isinstance(each, Watched)] if breaking else []
        seen = [each.look(self.view) for each in watched]
        for step, _, _ in self.recording.frames(start, self.recording.length):
            if step == start:
                continue
            now = [each.look(self.view) for each in watched]
            for each, old, new in zip(watched, seen, now, strict=True):
                if each.hit(old, new):
                    return self._arrived(before, self._stopped("breakpoint", each))
            seen = now
            if reached(self.view):
                break
        return self._arrived(before, self._stopped("step"))

    def _to_call(self, fits: Callable[[int, int], bool]) -> None:
        """Go backward to the last call that has not returned before here and that fits; stay where there is none.

        `fits` gets the address after the call, and the stack pointer before it.
        """
        start, stop, width = self.position, self.position, WINDOW
        highest = self.stack_pointer
        while stop > 0:
            first = max(0, stop - width)
            calls: list[tuple[int, int, int]] = []
            stacks: list[int] = []
            for step, _, _ in self.recording.frames(first, stop - 1):
                stack = self.stack_pointer
                stacks.append(stack)
                if self.view.runs and self.mnemonic in CALLS:
                    calls.append((step, self.following, stack))
            after = stop
            for step, address, stack in reversed(calls):
                highest = max([highest, *stacks[step + 1 - first : after - first]])
                after = step + 1
                if stack > highest and fits(address, stack):
                    self.recording.seek(step)
                    return
            highest = max([highest, *stacks[: after - first]])
            stop, width = first, min(width * 2, WIDEST)
        self.recording.seek(start)

    # -- in words ----------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Say in words where one is, with registers, flags, code, stack and breakpoints."""
        digits, in_row = self.view.bits // 4, 192 // self.view.bits
        shown = [
            f"{name} {value:0{self.view.digits(name)}x}{'*' if name in self.changed else ' '}"
            for name, value in self.registers().items()
        ]
        lines = [f"step {self.position} of {self.recording.length}: {self.stop.text.partition(': ')[2]}"]
        lines += ["  ".join(shown[n : n + in_row]).rstrip() for n in range(0, len(shown), in_row)]
        lines.append(f"flags {self.flags() or 'none'}; {self.view.guest.mode} mode")
        marks = {each.address for each in self.breakpoints if isinstance(each, AtAddress)}
        for address, label, text, _ in self.listing(5, 5):
            lines += [f"  {label}:"] if label else []
            mark = ">" if address == self.view.address else " "
            lines.append(f"{mark}{'*' if address in marks else ' '} {address:0{digits}x}  {text}")
        stack = [f"{value:0{digits}x}{f' {name}' if name else ''}" for _, value, name in self.stack(4)]
        lines.append(f"stack: {', '.join(stack)}" if stack else "stack: not mapped")
        return "\n".join([*lines, *(f"breakpoint {each}" for each in self.breakpoints)])

    def __repr__(self) -> str:
        return self.describe()
