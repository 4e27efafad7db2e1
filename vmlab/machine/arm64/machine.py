"""The AArch64 machine as a whole: a program in memory, the processor, the board; and what emulating it costs the host.

It runs on the laboratory's host as an emulator does: each guest instruction is interpreted, whatever the host's own
instruction set. `cycles` counts the host's work from what the run did (`vmlab.machine.costs.EMULATOR`).

Read more: Silberschatz, Galvin and Gagne, *Operating System Concepts*, 10th ed., 18.5.7 (emulation).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vmlab.errors import ImageError, OptionError
from vmlab.isa.arm64.disassembler import disassemble
from vmlab.machine.arm64.board import LOAD, RAM, Board
from vmlab.machine.arm64.processor import ArmProcessor
from vmlab.machine.arm64.state import ArmState
from vmlab.machine.costs import EMULATOR
from vmlab.machine.disk import Disk
from vmlab.machine.recordable import NotCopied
from vmlab.machine.state import check_state, rollback

if TYPE_CHECKING:
    import os

    from vmlab.machine.arm64.exceptions import ExceptionReturn, ExceptionTaken

__all__ = ["Arm64Machine"]

SMALLEST_MEMORY, LARGEST_MEMORY, DEFAULT_MEMORY = 1 << 20, 1 << 30, 1 << 24
DEFAULT_LIMIT = 50_000_000
HYP_STATE, KERNEL_STATE = 2, 1


class Arm64Machine(NotCopied):
    r"""A computer with an AArch64 processor.

    Parameters
    ----------
    program : bytes
        Loaded at 4008_0000, where it starts, with interrupts masked and the MMU off.
    memory : int
        Bytes of memory: a multiple of 4096 from 1 MiB to 1 GiB.
    disk : Disk, bytes, path or None
        What the block device holds.
    el : int
        Exception level at which it starts: 1, a kernel; 2, a hypervisor.
    max_instructions : int
        After so many instructions and exceptions the run ends, with outcome "limit".
    trace : bool
        Keep the exceptions in `trace`.
    name : str
        For display.

    Attributes
    ----------
    cpu : ArmProcessor
        The processor.
    board : Board
        Memory and devices.
    trace : list
        Exceptions taken and returned from, `ExceptionTaken` and `ExceptionReturn`.
    steps : int
        Instructions and exceptions so far.

    Raises
    ------
    OptionError, ImageError
        A value is not allowed, or the program does not fit.

    Examples
    --------
    >>> from vmlab.isa.arm64 import assemble
    >>> code = assemble("mov x0, #0x84000000\n add x0, x0, #8\n hvc #0").code
    >>> machine = Arm64Machine(code).run()
    >>> machine.outcome, machine.instructions
    ('exit', 3)
    """

    def __init__(
        self,
        program: bytes,
        *,
        memory: int = DEFAULT_MEMORY,
        disk: Disk | bytes | str | os.PathLike[str] | None = None,
        el: int = KERNEL_STATE,
        max_instructions: int = DEFAULT_LIMIT,
        trace: bool = False,
        name: str = "program",
    ) -> None:
        if not isinstance(program, (bytes, bytearray)):
            raise OptionError(f"a program is bytes, as assemble(...).code, not {type(program).__name__}")
        if type(memory) is not int or not SMALLEST_MEMORY <= memory <= LARGEST_MEMORY or memory % 4096:
            raise OptionError(f"memory is a multiple of 4096 bytes from 1 MiB to 1 GiB, not {memory!r}")
        if el not in (KERNEL_STATE, HYP_STATE) or type(el) is not int:
            raise OptionError(f"a program starts at EL1 (el=1) or EL2 (el=2), not at {el!r}")
        if type(max_instructions) is not int or max_instructions < 1:
            raise OptionError(f"max_instructions is an int from 1 on, not {max_instructions!r}")
        if not program:
            raise ImageError(f"{name}: empty: there is nothing to run")
        if len(program) > memory - (LOAD - RAM):
            raise ImageError(f"{name}: {len(program)} bytes do not fit behind {LOAD:#x}: give more memory")
        self.name, self.el, self.limit = name, el, max_instructions
        self.state = ArmState()
        self.board = Board(memory, self.state, disk if disk is None or isinstance(disk, Disk) else Disk(disk))
        self.board.memory.write_bytes(LOAD - RAM, program)
        self.state.switch(el, 1)
        self.state.pc = LOAD
        self.cpu = ArmProcessor(self.state, self.board, has_el2=el == HYP_STATE)
        self.steps = 0
        self.trace: list[ExceptionTaken | ExceptionReturn] = []
        if trace:
            self.cpu.observer = self.trace.append

    # -- running -----------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when nothing can go on."""
        return bool(self.outcome)

    def advance(self, steps: int) -> int:
        """Run for at most so many instructions and exceptions; returns how many it were.

        Raises
        ------
        OptionError
            The number is none.
        """
        if type(steps) is not int or steps < 0:
            raise OptionError(f"steps is an int from 0 on, not {steps!r}")
        if self.finished:
            return 0
        done = self.cpu.run(min(steps, self.limit - self.steps))
        self.steps += done
        if self.steps >= self.limit and not self.board.outcome:
            self.board.outcome = "limit"
        return done

    def run(self) -> Arm64Machine:
        """Run to the end, and return the machine."""
        self.advance(self.limit)
        return self

    def send(self, data: str | bytes) -> None:
        """Type at the serial line.

        Raises
        ------
        OptionError
            It is neither text nor bytes.
        """
        if not isinstance(data, (str, bytes)):
            raise OptionError(f"text or bytes are typed, not {type(data).__name__}")
        self.board.uart.send(data.encode() if isinstance(data, str) else data)

    # -- what came out -----------------------------------------------------------------------------------------------

    @property
    def outcome(self) -> str:
        """Why it ended: "exit" (PSCI SYSTEM_OFF), "reset", "halt" (waits for ever), "livelock", "limit"; "" while it runs."""
        return self.board.outcome

    @property
    def console(self) -> str:
        """What was sent over the serial line."""
        return self.board.uart.output.decode("utf-8", "replace")

    @property
    def instructions(self) -> int:
        """Guest instructions executed."""
        return self.cpu.instructions

    @property
    def exceptions(self) -> Counter[str]:
        """Exceptions taken, by kind and levels, as "SVC EL0>EL1"."""
        counts = self.cpu.exceptions.items()
        return Counter({f"{kind} EL{low}>EL{high}": count for (kind, low, high), count in counts})

    def listing(self, address: int | None = None, count: int = 8) -> list[tuple[int, str]]:
        """Disassemble code as the present exception level sees it.

        Parameters
        ----------
        address : int, optional
            Virtual address of the first instruction; that of the next one, if not given.
        count : int
            Instructions; it ends early where nothing is mapped.

        Returns
        -------
        list of (int, str)
            Addresses and instructions.

        Raises
        ------
        OptionError
            It is no address, or no number.
        """
        start = self.state.pc if address is None else address
        if type(start) is not int or not 0 <= start < 1 << 64 or start % 4:
            raise OptionError(f"an instruction lies at a multiple of 4 below 2**64, not at {address!r}")
        if type(count) is not int or count < 0:
            raise OptionError(f"count is an int from 0 on, not {count!r}")
        lines = []
        for place in range(start, min(start + 4 * count, 1 << 64), 4):
            word = self.cpu.look(place)
            if word is None:
                break
            lines.append((place, disassemble(word.to_bytes(4, "little"), place)[0]))
        return lines

    def cycles_by_cause(self) -> dict[str, int]:
        """Return the host's cycles by what they went to."""
        mmu, cost = self.cpu.mmu, EMULATOR
        return {
            "executing instructions": self.instructions * cost.instruction,
            "decoding": self.cpu.decoded * cost.decode,
            "page walks": mmu.references * cost.walk_reference + mmu.fills * cost.fill,
            "exceptions": self.cpu.exceptions.total() * cost.exception,
            "devices": self.board.accesses * cost.device,
        }

    @property
    def cycles(self) -> int:
        """Host cycles, by the cost model of an interpreter."""
        return sum(self.cycles_by_cause().values())

    def describe(self) -> str:
        """Return the figures as text."""
        per = self.cycles / self.instructions if self.instructions else 0
        lines = [
            f"{self.name} on an emulated AArch64 machine: {self.outcome or 'running'}",
            f"{self.instructions:,} instructions, {self.cycles:,} host cycles ({per:.1f} an instruction)",
        ]
        lines += [f"{count:>9,}  {kind}" for kind, count in self.exceptions.most_common()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()

    # -- saving ------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save everything but the trace."""
        parts = {name: part.save() for name, part in self.board.parts().items()}
        counts = {"steps": self.steps, "accesses": self.board.accesses}
        return {"version": 1, **counts, "el": self.el, "outcome": self.outcome, "cpu": self.cpu.save(), "board": parts}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state, of a machine of the same memory, disk and start.

        Raises
        ------
        StateError
            The state is damaged or of another machine; nothing is changed then.
        """
        count = range(1 << 63)
        fields = {
            "steps": count, "accesses": count, "el": range(self.el, self.el + 1), "outcome": str, "cpu": dict,
            "board": dict,
        }  # fmt: skip
        check_state(state, "AArch64 machine", fields)
        check_state({"version": 1, **state["board"]}, "AArch64 board", dict.fromkeys(self.board.parts(), dict))
        with rollback(self):
            for name, part in self.board.parts().items():
                part.load(state["board"][name])
            self.cpu.load(state["cpu"])
            self.board.timer.attach(self.state.system)
        self.steps, self.board.accesses = state["steps"], state["accesses"]
        self.board.outcome = state["outcome"]
