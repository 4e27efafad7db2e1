"""Loads and stores: single registers, pairs, literals, unprivileged, exclusive and ordered ones.

The base register is written back after the access, so that a fault leaves it as it was. Where an encoding leaves open what
happens (a base that is written back and loaded too), the loaded value stays.

Simplified: memory is one sequence of accesses, so LDAR and STLR are a load and a store that must be aligned.

Read more: Arm ARM (DDI 0487), C3.2 and C1.3.3 (addressing modes); B2.10 (exclusives).
"""

from __future__ import annotations

from collections.abc import Callable

from vmlab.isa.arm64.instruction import STACK, Instruction
from vmlab.isa.arm64.operand_parts import signed
from vmlab.isa.arm64.semantics.registry import Operation, Processor, semantic, target, target_or_stack
from vmlab.isa.arm64.semantics.second_operand import extended

LONG = (1 << 64) - 1

Address = Callable[[Processor], int]


def _widen(i: Instruction) -> tuple[int, int]:
    """Return the sign bit of what is loaded (0: it is unsigned) and the mask of its register."""
    sign = 1 << 8 * i.row.access - 1 if "rs" in i.mnemonic or i.mnemonic.startswith(("ldps", "ldurs", "ldtrs")) else 0
    wide = any(code.startswith("Xt") for code in i.row.operands)
    return sign, LONG if wide else 0xFFFF_FFFF


def _offset(i: Instruction) -> int:
    fields = i.fields
    if "imm12" in fields:
        return fields["imm12"] * i.row.access
    if "imm9" in fields:
        return signed(fields["imm9"], 9)
    return signed(fields["imm7"], 7) * i.row.access if "imm7" in fields else 0


def _address(i: Instruction) -> tuple[int, Address, int | None]:
    """Return base, what gives the address, and what is added to the base afterwards (None: it stays)."""
    base, code = target_or_stack(i["rn"]), i.row.operands
    if "option" in i.fields:
        index = extended(i["rm"], i["option"], (i.row.access.bit_length() - 1) * i["S"])
        return base, lambda cpu: cpu.x[base] + index(cpu.x) & LONG, None
    offset = _offset(i)
    if any(each.startswith("[Xn],") for each in code):
        return base, lambda cpu: cpu.x[base], offset
    back = offset if code[-1].endswith("!") else None
    if not offset:
        return base, lambda cpu: cpu.x[base], back
    return base, lambda cpu: cpu.x[base] + offset & LONG, back


def _with_stack_check(base: int, run: Operation) -> Operation:
    """Let an access whose base is SP check its alignment first."""
    if base != STACK:
        return run

    def checked(cpu: Processor, pc: int) -> int | None:
        cpu.check_stack()
        return run(cpu, pc)

    return checked


# -- one register --------------------------------------------------------------------------------------------------------

LOADS = ("ldr", "ldrb", "ldrh", "ldrsb", "ldrsh", "ldrsw")
STORES = ("str", "strb", "strh")


@semantic(*LOADS, *(name.replace("ldr", "ldur") for name in LOADS))
def load(i: Instruction) -> Operation:
    """LDR in all its forms."""
    if "imm19" in i.fields:
        return _load_literal(i)
    base, address, back = _address(i)
    size, t = i.row.access, target(i, "rt")
    sign, mask = _widen(i)
    if back is None:
        offset = None if "option" in i.fields else _offset(i)
        if offset is not None and not sign:

            def plain(cpu: Processor, pc: int) -> None:
                x = cpu.x
                x[t] = cpu.read(x[base] + offset & LONG, size)

            return _with_stack_check(base, plain)

        def extend(cpu: Processor, pc: int) -> None:
            cpu.x[t] = (cpu.read(address(cpu), size) ^ sign) - sign & mask

        return _with_stack_check(base, extend)

    def write_back(cpu: Processor, pc: int) -> None:
        x = cpu.x
        value = (cpu.read(address(cpu), size) ^ sign) - sign & mask
        x[base] = x[base] + back & LONG
        x[t] = value

    return _with_stack_check(base, write_back)


def _load_literal(i: Instruction) -> Operation:
    distance, size, t = 4 * signed(i["imm19"], 19), i.row.access, target(i, "rt")
    sign, mask = _widen(i)

    def run(cpu: Processor, pc: int) -> None:
        cpu.x[t] = (cpu.read(pc + distance & LONG, size) ^ sign) - sign & mask

    return run


@semantic(*STORES, *(name.replace("str", "stur") for name in STORES))
def store(i: Instruction) -> Operation:
    """STR in all its forms."""
    base, address, back = _address(i)
    size, t = i.row.access, i["rt"]

    offset = None if "option" in i.fields or back is not None else _offset(i)
    if offset is not None:

        def plain(cpu: Processor, pc: int) -> None:
            x = cpu.x
            cpu.write(x[base] + offset & LONG, size, x[t])

        return _with_stack_check(base, plain)

    def run(cpu: Processor, pc: int) -> None:
        cpu.write(address(cpu), size, cpu.x[t])

    def write_back(cpu: Processor, pc: int) -> None:
        x = cpu.x
        cpu.write(address(cpu), size, x[t])
        x[base] = x[base] + (back or 0) & LONG

    return _with_stack_check(base, run if back is None else write_back)


@semantic("ldtr", "ldtrb", "ldtrh", "ldtrsb", "ldtrsh", "ldtrsw")
def load_as_user(i: Instruction) -> Operation:
    """LDTR."""
    base, address, _ = _address(i)
    size, t = i.row.access, target(i, "rt")
    sign, mask = _widen(i)

    def run(cpu: Processor, pc: int) -> None:
        cpu.x[t] = (cpu.read_as_user(address(cpu), size) ^ sign) - sign & mask

    return _with_stack_check(base, run)


@semantic("sttr", "sttrb", "sttrh")
def store_as_user(i: Instruction) -> Operation:
    """STTR."""
    base, address, _ = _address(i)
    size, t = i.row.access, i["rt"]

    def run(cpu: Processor, pc: int) -> None:
        cpu.write_as_user(address(cpu), size, cpu.x[t])

    return _with_stack_check(base, run)


# -- pairs ---------------------------------------------------------------------------------------------------------------


@semantic("ldp", "ldpsw", "ldnp")
def load_pair(i: Instruction) -> Operation:
    """LDP, LDPSW and LDNP."""
    base, address, back = _address(i)
    size, t, t2 = i.row.access, target(i, "rt"), target(i, "rt2")
    sign, mask = _widen(i)

    def run(cpu: Processor, pc: int) -> None:
        x, at = cpu.x, address(cpu)
        first = (cpu.read(at, size) ^ sign) - sign & mask
        second = (cpu.read(at + size & LONG, size) ^ sign) - sign & mask
        if back is not None:
            x[base] = x[base] + back & LONG
        x[t], x[t2] = first, second

    return _with_stack_check(base, run)


@semantic("stp", "stnp")
def store_pair(i: Instruction) -> Operation:
    """STP and STNP."""
    base, address, back = _address(i)
    size, t, t2 = i.row.access, i["rt"], i["rt2"]

    def run(cpu: Processor, pc: int) -> None:
        x, at = cpu.x, address(cpu)
        cpu.write(at, size, x[t])
        cpu.write(at + size & LONG, size, x[t2])
        if back is not None:
            x[base] = x[base] + back & LONG

    return _with_stack_check(base, run)


# -- exclusive and ordered -----------------------------------------------------------------------------------------------


@semantic(*(f"{name}{size}" for name in ("ldxr", "ldaxr") for size in ("", "b", "h")))
def load_exclusive(i: Instruction) -> Operation:
    """LDXR and LDAXR."""
    base, size, t = target_or_stack(i["rn"]), i.row.access, target(i, "rt")

    def run(cpu: Processor, pc: int) -> None:
        cpu.x[t] = cpu.load_exclusive(cpu.x[base], size)

    return _with_stack_check(base, run)


@semantic(*(f"{name}{size}" for name in ("stxr", "stlxr") for size in ("", "b", "h")))
def store_exclusive(i: Instruction) -> Operation:
    """STXR and STLXR: 0 in the status register where it was written."""
    base, size, t, s = target_or_stack(i["rn"]), i.row.access, i["rt"], target(i, "rs")

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[s] = int(not cpu.store_exclusive(x[base], size, x[t]))

    return _with_stack_check(base, run)


@semantic("ldar", "ldarb", "ldarh")
def load_acquire(i: Instruction) -> Operation:
    """LDAR."""
    base, size, t = target_or_stack(i["rn"]), i.row.access, target(i, "rt")

    def run(cpu: Processor, pc: int) -> None:
        at = cpu.x[base]
        cpu.check_aligned(at, size, is_write=False)
        cpu.x[t] = cpu.read(at, size)

    return _with_stack_check(base, run)


@semantic("stlr", "stlrb", "stlrh")
def store_release(i: Instruction) -> Operation:
    """STLR."""
    base, size, t = target_or_stack(i["rn"]), i.row.access, i["rt"]

    def run(cpu: Processor, pc: int) -> None:
        at = cpu.x[base]
        cpu.check_aligned(at, size, is_write=True)
        cpu.write(at, size, cpu.x[t])

    return _with_stack_check(base, run)


@semantic("prfm", "prfum")
def prefetch(i: Instruction) -> Operation:
    """Nothing: there is no cache to fill."""
    return lambda cpu, pc: None
