"""Regions: the basic blocks that a hot address reaches by direct jumps and calls, all on one page of code.

A region becomes one Python function, so that a loop of several blocks runs without leaving it. It stays on one
physical page, so that a write to that page is all that can make it wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.decoder import DecodeError, decode
from vmlab.isa.x86.operands import Relative

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from vmlab.isa.x86.instruction import Instruction

__all__ = ["CONDITIONAL", "COUNTED", "ENDING", "Block", "Region", "discover", "followers", "target"]

MOST_INSTRUCTIONS = 160
MOST_BLOCKS = 24
PAGE = 0x1000
COUNTED = {"loop": "r1", "jecxz": "not r1"}
"""Conditions on ECX: when they jump."""
CONDITIONAL = frozenset(
    f"j{suffix}" for suffix in ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
) | frozenset(COUNTED)
ENDING = CONDITIONAL | {"jmp", "call", "ret"}
FINAL = frozenset(
    {"jmpf", "callf", "retf", "iret", "int", "int3", "int1", "hlt", "syscall", "sysret", "sysenter", "sysexit"}
)
"""After these the next instruction is hardly ever the one behind."""


@dataclass(slots=True)
class Block:
    """A basic block.

    Attributes
    ----------
    start : int
        EIP of its first instruction.
    code : list of (int, Instruction)
        EIP and instruction, in order.
    end : int
        EIP behind its last instruction.
    """

    start: int
    code: list[tuple[int, Instruction]]
    end: int


@dataclass(slots=True)
class Region:
    """Blocks, the entry first.

    Attributes
    ----------
    blocks : list of Block
        In the order in which they were found.
    length : int
        Instructions in all.
    """

    blocks: list[Block]

    @property
    def length(self) -> int:
        return sum(len(block.code) for block in self.blocks)


def target(address: int, instruction: Instruction) -> int | None:
    """Return where a direct jump or call at `address` goes; None for an indirect one."""
    operand = instruction.operands[0] if instruction.operands else None
    if isinstance(operand, Relative) and instruction.size == 32:
        return address + instruction.length + operand.displacement & 0xFFFFFFFF
    return None


def followers(block: Block) -> list[int]:
    """Return where a block goes on by a direct jump, by falling through, or behind a call that returns."""
    address, last = block.code[-1]
    goal = target(address, last) if last.mnemonic in ENDING else None
    found = [] if goal is None else [goal]
    return found if last.mnemonic in ("jmp", "ret") or last.mnemonic in FINAL else [*found, block.end]


def _read_block(
    page: bytes,
    start: int,
    known: Callable[[Instruction], bool],
    leaders: Collection[int],
    room: int,
    executed: Mapping[int, Any] | None,
) -> Block | None:
    """Decode from `start` to a transfer of control, an instruction that is not known, or another block."""
    code: list[tuple[int, Instruction]] = []
    address = start
    while len(code) < room and (address == start or address not in leaders):
        if address & -PAGE != start & -PAGE:
            break
        if executed is not None:
            if address & PAGE - 1 not in executed:
                break
            instruction = executed[address & PAGE - 1][1]
        else:
            try:
                instruction = decode(page[address & PAGE - 1 :][:15])
            except DecodeError:
                break
        if (address & PAGE - 1) + instruction.length > PAGE or not known(instruction):
            break
        code.append((address, instruction))
        address = address + instruction.length & 0xFFFFFFFF
        if instruction.mnemonic in ENDING or instruction.mnemonic in FINAL:
            break
    return Block(start, code, address) if code else None


def discover(
    page: bytes, entry: int, known: Callable[[Instruction], bool], executed: Mapping[int, Any] | None = None
) -> Region | None:
    """Return the region of an address, or None where its first instruction is not one that is translated.

    Parameters
    ----------
    page : bytes
        The 4096 bytes of the page.
    entry : int
        EIP at which the region starts.
    known : callable
        Whether an instruction can be translated, or performed within a region.
    executed : mapping, optional
        Offset in the page → `(_, instruction, _)` of what has been executed: the rest is left out then. What was never
        reached in many passes is not worth compiling.
    """
    blocks: list[Block] = []
    waiting, seen, count = [entry], {entry}, 0
    while waiting and len(blocks) < MOST_BLOCKS and count < MOST_INSTRUCTIONS:
        start = waiting.pop(0)
        block = _read_block(page, start, known, seen - {start}, MOST_INSTRUCTIONS - count, executed)
        if block is None:
            continue
        blocks.append(block)
        count += len(block.code)
        for each in followers(block):
            if each not in seen and each & -PAGE == entry & -PAGE:
                seen.add(each)
                waiting.append(each)
    if not blocks or blocks[0].start != entry:
        return None
    return Region(blocks)
