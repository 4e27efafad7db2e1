"""The processor: fetches, decodes once, executes, takes exceptions; an interpreter of kept operations.

`vmlab.isa.arm64.semantics` makes of each instruction an operation, which is kept beside the page that it was decoded from
until that is written. The loop runs operations until something needs a look: another page, an exception, an interrupt, or
an access to a device or a system register. Such an access wants to know the exact time; so it is first refused
(`_NotYet`), the clock is set, and the instruction is done again, by itself.

Simplified: one processor; instructions are seen to be changed without IC IVAU; WFE never waits.

Read more: Arm ARM (DDI 0487), D1.2 to D1.4; Bell, "Threaded Code", CACM 16 (6), 1973.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.isa.arm64.decoder import decode
from vmlab.isa.arm64.exceptions import ArmException, ExceptionClass
from vmlab.isa.arm64.semantics import Operation, operation
from vmlab.machine.arm64.access import NotYet as _NotYet
from vmlab.machine.arm64.control import Control
from vmlab.machine.arm64.exceptions import interrupt_target, take, take_interrupt, wakes
from vmlab.machine.arm64.mmu import FETCH, READ, WRITE, Abort, Mmu
from vmlab.machine.arm64.stage2_syndrome import with_access
from vmlab.machine.state import COUNT, Entries, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.arm64.board import Board
    from vmlab.machine.arm64.exceptions import ExceptionReturn, ExceptionTaken
    from vmlab.machine.arm64.state import ArmState

__all__ = ["ArmProcessor"]

PAGE_SHIFT, OFFSET = 12, 0xFFF
LONG = (1 << 64) - 1
LEVELS = ("0", "1", "2")
STUCK = 1000
"""Exceptions in a row, without one instruction between them, after which nothing will change any more."""


def _undefined(cpu: object, pc: int) -> None:
    raise ArmException


def _parse(key: str) -> tuple[str, int, int]:
    """Read kind and levels of a saved count."""
    kind, _, levels = key.partition("/")
    low, _, high = levels.partition("/")
    if low not in LEVELS or high not in LEVELS:
        raise StateError(f"AArch64 processor: {key!r} is no saved kind of exception")
    return kind, int(low), int(high)


class ArmProcessor(Control):
    """The processor.

    Parameters
    ----------
    state : ArmState
        Its registers.
    board : Board
        Memory and devices.
    has_el2 : bool
        False: HVC calls the firmware, as where the processor starts at EL1.

    Attributes
    ----------
    instructions : int
        Instructions executed to their end.
    exceptions : Counter
        By (kind, from level, to level).
    decoded : int
        Instructions decoded.
    observer : callable or None
        Is told of each exception taken and returned from.
    """

    def __init__(self, state: ArmState, board: Board, *, has_el2: bool) -> None:
        self.state, self.board, self.has_el2 = state, board, has_el2
        self.x, self.nzcv = state.x, state.nzcv
        self.mmu = Mmu(state, board)
        self.instructions = self.decoded = 0
        self.exceptions: Counter[tuple[str, int, int]] = Counter()
        self.observer: Callable[[ExceptionTaken | ExceptionReturn], None] | None = None
        self._memory, self._words = board.memory, board.memory.view64
        self._kept: dict[int, dict[int, Operation]] = {}
        self._exact = False
        self._returned: ExceptionReturn | None = None
        self._in_a_row = 0
        self.attach()

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, budget: int) -> int:
        """Execute at most so many instructions and exceptions; returns how many. It stops early where nothing can go on."""
        left, board, clock, state = budget, self.board, self.board.clock, self.state
        while left > 0 and not board.outcome:
            if clock.deadline is not None and clock.now >= clock.deadline:
                clock.service()
            if state.waiting and not self._wake():
                break
            to = interrupt_target(state, board.gic)
            if to:
                self._tell(take_interrupt(state, to, clock.now))
                left -= 1
            piece = left if clock.deadline is None else min(left, clock.deadline - clock.now)
            left -= self._piece(max(1, piece)) if left else 0
        return budget - left

    def _wake(self) -> bool:
        """Let time pass in WFI until an interrupt is pending; False where none will ever be."""
        clock, state = self.board.clock, self.state
        while not wakes(state, self.board.gic):
            if clock.deadline is None:
                self.board.outcome = "halt"
                return False
            clock.now = max(clock.now, clock.deadline)
            clock.service()
        state.waiting = False
        return True

    def _piece(self, budget: int) -> int:
        """Execute until something needs a look: at most `budget` instructions; returns how many steps it took."""
        state, left = self.state, budget
        pc, base = state.pc, 0
        op: Operation = _undefined
        self.nzcv = state.nzcv
        self._reads, self._writes = self.mmu.pages[READ][state.el], self.mmu.pages[WRITE][state.el]
        try:
            page = pc >> PAGE_SHIFT
            base = self._fetch_page(pc)
            kept = self._operations(base >> PAGE_SHIFT).get
            while left:
                op = kept(pc & OFFSET) or self._decode(pc, base)
                after = op(self, pc)
                left -= 1
                if after is None:
                    pc = pc + 4
                    if not pc & OFFSET:
                        pc &= LONG
                        break
                else:
                    pc = after
                    if pc >> PAGE_SHIFT != page:
                        break
        except _NotYet:
            self._retire(budget - left, pc)
            return budget - left + self._alone(op, pc, base)
        except ArmException as fault:
            self._retire(budget - left, pc)
            self._take(fault, pc, base)
            return budget - left + 1
        self._retire(budget - left, pc)
        return budget - left

    def _retire(self, count: int, pc: int) -> None:
        """Note that instructions have been executed, up to the one at `pc`."""
        self.instructions += count
        self.board.clock.now += count
        self.state.pc, self.state.nzcv = pc, self.nzcv
        if count:
            self._in_a_row = 0

    def _alone(self, op: Operation, pc: int, base: int) -> int:
        """Execute one instruction that needs the exact time, or changes what the others stand on."""
        state = self.state
        self._exact = True
        try:
            after = op(self, pc)
        except ArmException as fault:
            state.nzcv = self.nzcv
            self._take(fault, pc, base)
            return 1
        finally:
            self._exact = False
        returned = self._returned
        if returned:
            self._returned = None
            self.nzcv = state.nzcv  # PSTATE is restored already
            self._retire(1, state.pc)
            self._tell(returned)
        else:
            self._retire(1, pc + 4 & LONG if after is None else after)
        return 1

    def _take(self, fault: ArmException, pc: int, base: int) -> None:
        if isinstance(fault, Abort) and fault.hpfar is not None and fault.ec == ExceptionClass.DATA_ABORT:
            found = decode(self.board.memory.read(base | pc & OFFSET, 4))
            if found:
                fault.iss = with_access(fault.iss, found)
        if fault.after:
            self.instructions += 1
            self.board.clock.now += 1
        self._in_a_row = 0 if fault.after else self._in_a_row + 1
        if self._in_a_row >= STUCK:
            self.board.outcome = "livelock"
        self._tell(take(self.state, fault, pc, self.board.clock.now))

    def _tell(self, event: ExceptionTaken | ExceptionReturn) -> None:
        self.x = self.state.x
        kind = getattr(event, "kind", None)
        if kind:
            self.exceptions[kind, event.from_el, event.to_el] += 1
        if self.observer:
            self.observer(event)

    # -- fetching ----------------------------------------------------------------------------------------------------

    def _fetch_page(self, pc: int) -> int:
        """Return where the page of an instruction lies in memory."""
        if pc & 3:
            raise ArmException(ExceptionClass.PC_ALIGNMENT)
        frame = self.mmu.pages[FETCH][self.state.el].get(pc >> PAGE_SHIFT)
        if frame is None:
            frame, _ = self.mmu.fill(pc, FETCH, self.state.el)
        if not self.board.is_memory(frame, OFFSET + 1):
            raise self.outside(pc, FETCH)
        if self.state.il:  # an abort of the fetch comes first
            raise ArmException(ExceptionClass.ILLEGAL_STATE)
        return self.board.offset(frame)

    def look(self, address: int) -> int | None:
        """Return the word at an address, as the present level would fetch it; None where it cannot. Nothing changes."""
        try:
            frame = self.mmu.translate(address, FETCH, self.state.el, looking=True).frame
        except ArmException:
            return None
        return self.board.read_table(frame | address & OFFSET, 4) if self.board.is_memory(frame, OFFSET + 1) else None

    def _decode(self, pc: int, base: int) -> Operation:
        """Decode an instruction, and keep what it does beside its page."""
        if pc & 3:
            raise ArmException(ExceptionClass.PC_ALIGNMENT)
        self.decoded += 1
        return self._keep(base >> PAGE_SHIFT, pc & OFFSET)

    def _keep(self, page: int, offset: int) -> Operation:
        instruction = decode(self._memory.read(page << PAGE_SHIFT | offset, 4))
        op: Operation = operation(instruction) if instruction else _undefined
        self._operations(page)[offset] = op
        return op

    def _operations(self, page: int) -> dict[int, Operation]:
        """Return the operations kept of a page of memory, by their offset; a write takes away those that it hits."""
        kept = self._kept.get(page)
        if kept is None:
            kept = self._kept[page] = {}
            self._memory.spy(page, self._written)
        return kept

    def _written(self, page: int, offset: int, size: int) -> None:
        kept = self._kept[page]
        for place in range(offset & -4, offset + size, 4):
            kept.pop(place, None)

    # -- saving ------------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Look at the registers anew, after they were loaded."""
        self.x, self.nzcv = self.state.x, self.state.nzcv

    def save(self) -> dict[str, Any]:
        """Save registers, TLB and counts."""
        counts = {f"{kind}/{low}/{high}": count for (kind, low, high), count in self.exceptions.items()}
        return {
            "version": 1,
            "state": self.state.save(),
            "mmu": self.mmu.save(),
            "instructions": self.instructions,
            "in_a_row": self._in_a_row,
            "exceptions": counts,
            "decoded": self.decoded,
            "kept": {page: sorted(ops) for page, ops in self._kept.items() if ops},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved processor; memory has been loaded before.

        Raises
        ------
        StateError
            The state is damaged.
        """
        pages = self._memory.size >> PAGE_SHIFT
        fields = {
            "state": dict, "mmu": dict, "instructions": COUNT, "in_a_row": range(STUCK + 1), "exceptions": Entries(str, COUNT),
            "decoded": COUNT, "kept": Entries(range(pages), Items(range(0, OFFSET, 4))),
        }  # fmt: skip
        check_state(state, "AArch64 processor", fields)
        self.state.load(state["state"])
        self.mmu.load(state["mmu"])
        self.instructions, self._in_a_row = state["instructions"], state["in_a_row"]
        self.decoded = state["decoded"]
        for kept in self._kept.values():
            kept.clear()
        for page, offsets in state["kept"].items():
            for offset in offsets:
                self._keep(page, offset)
        self.exceptions = Counter()
        for key, count in state["exceptions"].items():
            kind, low, high = _parse(key)
            self.exceptions[kind, low, high] = count
        self.attach()
