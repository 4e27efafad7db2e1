"""The dispatch table of the semantics: what an instruction does, by its mnemonic.

A *maker* takes a decoded instruction and returns its *operation*: a function of the processor and of the instruction's
address, which does it once. All that depends on the encoding alone is settled when the operation is made, so that a
processor that keeps operations does no decoding twice. An operation returns the address of the next instruction, or None
for the one that follows.

Registers are `x[0]` to `x[30]`, with `x[ZERO]` always 0; what an instruction writes to number 31 goes to `x[SINK]`, or to
`x[STACK]` where 31 is the stack pointer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vmlab.isa.arm64.instruction import SINK, STACK, Instruction

__all__ = ["SEMANTICS", "Maker", "Operation", "Processor", "ones", "operation", "semantic", "target", "target_or_stack"]


class Processor(Protocol):
    """What instructions need of a processor."""

    x: list[int]
    nzcv: int

    def read(self, address: int, size: int) -> int:
        """Read memory, with the rights of the present exception level."""

    def write(self, address: int, size: int, value: int) -> None:
        """Write the low bytes of a value to memory, with the rights of the present exception level."""

    def read_as_user(self, address: int, size: int) -> int:
        """Read memory with the rights of EL0 (LDTR)."""

    def write_as_user(self, address: int, size: int, value: int) -> None:
        """Write memory with the rights of EL0 (STTR)."""

    def load_exclusive(self, address: int, size: int) -> int:
        """Read memory, aligned, and mark it for the exclusive monitor."""

    def store_exclusive(self, address: int, size: int, value: int) -> bool:
        """Write memory, aligned, where the monitor still holds the mark; False where it does not."""

    def check_aligned(self, address: int, size: int, *, is_write: bool) -> None:
        """Raise an alignment fault for an address that is no multiple of the size."""

    def check_stack(self) -> None:
        """Raise an SP alignment fault where the stack pointer is not aligned and must be."""

    def clear_exclusive(self) -> None:
        """Forget the mark (CLREX)."""

    def read_system(self, instruction: Instruction) -> int:
        """MRS."""

    def write_system(self, instruction: Instruction, value: int) -> None:
        """MSR, from a register."""

    def write_pstate(self, instruction: Instruction) -> None:
        """MSR, with an immediate."""

    def system_operation(self, instruction: Instruction, value: int) -> None:
        """SYS: caches, TLBs, address translation."""

    def call(self, instruction: Instruction, pc: int) -> int:
        """HVC and SMC; returns where to go on."""

    def wait(self, instruction: Instruction) -> None:
        """WFI and WFE."""

    def exception_return(self) -> int:
        """ERET; returns where to go on."""


Operation = Callable[[Processor, int], int | None]
Maker = Callable[[Instruction], Operation]

SEMANTICS: dict[str, Maker] = {}
"""By mnemonic."""


def semantic(*mnemonics: str) -> Callable[[Maker], Maker]:
    """Enter a maker into the table under its mnemonics."""

    def enter(maker: Maker) -> Maker:
        for mnemonic in mnemonics:
            if mnemonic in SEMANTICS:
                raise ValueError(f"two semantics for {mnemonic}")
            SEMANTICS[mnemonic] = maker
        return maker

    return enter


def operation(instruction: Instruction) -> Operation:
    """Return what an instruction does."""
    return SEMANTICS[instruction.mnemonic](instruction)


def ones(instruction: Instruction) -> int:
    """Return the mask of its register width."""
    return (1 << instruction.bits) - 1


def target(instruction: Instruction, field: str = "rd") -> int:
    """Return where a result goes whose number 31 is XZR."""
    number = instruction[field]
    return SINK if number == 31 else number


def target_or_stack(number: int) -> int:
    """Return the place of a register whose number 31 is the stack pointer."""
    return STACK if number == 31 else number
