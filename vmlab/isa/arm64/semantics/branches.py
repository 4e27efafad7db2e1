"""Branches, and addresses relative to the program counter (Arm ARM, C3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.operand_parts import signed
from vmlab.isa.arm64.semantics.conditions import HOLDS
from vmlab.isa.arm64.semantics.registry import Operation, Processor, ones, semantic, target
from vmlab.isa.arm64.table import CONDITIONS

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction

LONG = (1 << 64) - 1
LINK = 30


def _distance(i: Instruction) -> int:
    name = next(field for field in ("imm26", "imm19", "imm14") if field in i.fields)
    return 4 * signed(i[name], int(name[3:]))


@semantic("b")
def branch(i: Instruction) -> Operation:
    """B."""
    distance = _distance(i)
    return lambda cpu, pc: pc + distance & LONG


@semantic("bl")
def branch_with_link(i: Instruction) -> Operation:
    """BL."""
    distance = _distance(i)

    def run(cpu: Processor, pc: int) -> int:
        cpu.x[LINK] = pc + 4 & LONG
        return pc + distance & LONG

    return run


@semantic(*(f"b.{condition}" for condition in CONDITIONS))
def branch_if(i: Instruction) -> Operation:
    """B.cond."""
    distance, holds = _distance(i), HOLDS[CONDITIONS.index(i.mnemonic[2:])]
    return lambda cpu, pc: pc + distance & LONG if holds[cpu.nzcv] else None


@semantic("cbz", "cbnz")
def branch_if_zero(i: Instruction) -> Operation:
    """CBZ and CBNZ."""
    distance, mask, t = _distance(i), ones(i), i["rt"]
    if i.mnemonic == "cbz":
        return lambda cpu, pc: None if cpu.x[t] & mask else pc + distance & LONG
    return lambda cpu, pc: pc + distance & LONG if cpu.x[t] & mask else None


@semantic("tbz", "tbnz")
def branch_if_bit(i: Instruction) -> Operation:
    """TBZ and TBNZ."""
    distance, t, bit = _distance(i), i["rt"], 1 << (i["b5"] << 5 | i["b40"])
    if i.mnemonic == "tbz":
        return lambda cpu, pc: None if cpu.x[t] & bit else pc + distance & LONG
    return lambda cpu, pc: pc + distance & LONG if cpu.x[t] & bit else None


@semantic("br", "ret")
def branch_to_register(i: Instruction) -> Operation:
    """BR and RET."""
    n = i["rn"]
    return lambda cpu, pc: cpu.x[n]


@semantic("blr")
def call_register(i: Instruction) -> Operation:
    """BLR."""
    n = i["rn"]

    def run(cpu: Processor, pc: int) -> int:
        goal = cpu.x[n]
        cpu.x[LINK] = pc + 4 & LONG
        return goal

    return run


@semantic("adr", "adrp")
def address(i: Instruction) -> Operation:
    """ADR and ADRP."""
    d, scale = target(i), 12 if i.mnemonic == "adrp" else 0
    distance, keep = signed(i["immhi"] << 2 | i["immlo"], 21) << scale, LONG & -1 << scale

    def run(cpu: Processor, pc: int) -> None:
        cpu.x[d] = (pc & keep) + distance & LONG

    return run
