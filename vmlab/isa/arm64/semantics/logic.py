"""Logic, moves of immediates, selection by a condition, bit fields, and single-register bit operations.

Read more: Arm ARM (DDI 0487), C3.4 and C3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import and_, or_, xor
from typing import TYPE_CHECKING

from vmlab.isa.arm64.semantics.conditions import HOLDS
from vmlab.isa.arm64.semantics.registry import Operation, Processor, ones, semantic, target, target_or_stack
from vmlab.isa.arm64.semantics.second_operand import constant, second_register, shifted

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction

# mnemonic: operator, whether the second operand is inverted, whether flags are set
LOGIC: dict[str, tuple[Callable[[int, int], int], bool, bool]] = {
    "and": (and_, False, False), "orr": (or_, False, False), "eor": (xor, False, False), "ands": (and_, False, True),
    "bic": (and_, True, False), "orn": (or_, True, False), "eon": (xor, True, False), "bics": (and_, True, True),
}  # fmt: skip


@semantic(*LOGIC)
def logic(i: Instruction) -> Operation:
    """AND, ORR, EOR and their forms with an inverted operand or with flags; C and V are cleared."""
    operator, inverts, sets = LOGIC[i.mnemonic]
    mask, top, n = ones(i), i.bits - 1, i["rn"]
    flip = mask if inverts else 0
    value = constant(i) if "immr" in i.fields else None
    d = target_or_stack(i["rd"]) if value is not None and not sets else target(i)
    m = None if value is not None else second_register(i)
    second = shifted(i) if value is None and m is None else None
    if sets:

        def run_flags(cpu: Processor, pc: int) -> None:
            x = cpu.x
            b = value if value is not None else x[m] if m is not None else second(x) if second else 0
            result = operator(x[n], b ^ flip) & mask
            cpu.nzcv = result >> top << 3 | (not result) << 2
            x[d] = result

        return run_flags
    if value is not None:

        def run_constant(cpu: Processor, pc: int) -> None:
            x = cpu.x
            x[d] = operator(x[n], value) & mask

        return run_constant
    if m is not None:

        def run_register(cpu: Processor, pc: int) -> None:
            x = cpu.x
            x[d] = operator(x[n], x[m] ^ flip) & mask

        return run_register
    assert second is not None

    def run_shifted(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = operator(x[n], second(x) ^ flip) & mask

    return run_shifted


@semantic("movz", "movn")
def move_wide(i: Instruction) -> Operation:
    """MOVZ and MOVN."""
    d = target(i)
    value = i["imm16"] << 16 * i["hw"]
    value = ~value & ones(i) if i.mnemonic == "movn" else value

    def run(cpu: Processor, pc: int) -> None:
        cpu.x[d] = value

    return run


@semantic("movk")
def move_keep(i: Instruction) -> Operation:
    """MOVK: 16 bits of a register."""
    d, shift = target(i), 16 * i["hw"]
    n, value, keep = i["rd"], i["imm16"] << shift, ones(i) & ~(0xFFFF << shift)

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = x[n] & keep | value

    return run


@semantic("csel", "csinc", "csinv", "csneg")
def select(i: Instruction) -> Operation:
    """CSEL, and its forms that increment, invert or negate the other value."""
    mask, d, n, m, holds = ones(i), target(i), i["rn"], i["rm"], HOLDS[i["cond"]]
    flip = mask if i.mnemonic in ("csinv", "csneg") else 0
    more = int(i.mnemonic in ("csinc", "csneg"))

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = (x[n] if holds[cpu.nzcv] else (x[m] ^ flip) + more) & mask

    return run


@semantic("ubfm", "sbfm", "bfm")
def bit_field(i: Instruction) -> Operation:
    """Bits imms:immr to the bottom, or bits imms:0 to the place that immr counts from the top."""
    mask, bits, d, n = ones(i), i.bits, target(i), i["rn"]
    immr, imms = i["immr"], i["imms"]
    down = imms >= immr
    right, left = (immr, 0) if down else (0, bits - immr)
    field = (1 << (imms - immr + 1 if down else imms + 1)) - 1
    sign = field + 1 >> 1
    if i.mnemonic == "ubfm":

        def unsigned(cpu: Processor, pc: int) -> None:
            x = cpu.x
            x[d] = (x[n] >> right & field) << left

        return unsigned
    if i.mnemonic == "sbfm":

        def with_sign(cpu: Processor, pc: int) -> None:
            x = cpu.x
            x[d] = ((x[n] >> right & field ^ sign) - sign) << left & mask

        return with_sign
    keep, old = mask & ~(field << left), i["rd"]

    def insert(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = x[old] & keep | (x[n] >> right & field) << left

    return insert


@semantic("extr")
def extract(i: Instruction) -> Operation:
    """EXTR: a register out of the middle of two."""
    mask, bits, d, n, m, low = ones(i), i.bits, target(i), i["rn"], i["rm"], i["imms"]

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = (x[n] << bits | x[m] & mask) >> low & mask

    return run


# -- one register ------------------------------------------------------------------------------------------------------


def _reverse_bits(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


def _reverse_bytes(group: int) -> Callable[[int, int], int]:
    """Return what reverses the bytes of each group of so many bits (0: of the whole register)."""

    def reverse(value: int, bits: int) -> int:
        size = (group or bits) // 8
        data = value.to_bytes(bits // 8, "little")
        return int.from_bytes(b"".join(data[at : at + size][::-1] for at in range(0, len(data), size)), "little")

    return reverse


def _leading_zeros(value: int, bits: int) -> int:
    return bits - value.bit_length()


def _leading_signs(value: int, bits: int) -> int:
    same = value ^ (1 << bits) - 1 if value >> bits - 1 else value
    return bits - same.bit_length() - 1


ONE_REGISTER: dict[str, Callable[[int, int], int]] = {
    "rbit": _reverse_bits, "rev16": _reverse_bytes(16), "rev32": _reverse_bytes(32), "rev": _reverse_bytes(0),
    "clz": _leading_zeros, "cls": _leading_signs,
}  # fmt: skip


@semantic(*ONE_REGISTER)
def one_register(i: Instruction) -> Operation:
    """RBIT, REV, CLZ and their like."""
    # REV has its width in its opcode: for W there is a row of its own
    bits = 32 if "Wn" in i.row.operands else i.bits
    function, mask, d, n = ONE_REGISTER[i.mnemonic], (1 << bits) - 1, target(i), i["rn"]

    def run(cpu: Processor, pc: int) -> None:
        x = cpu.x
        x[d] = function(x[n] & mask, bits)

    return run
