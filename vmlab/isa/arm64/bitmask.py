"""Bitmask immediates of the logical instructions: a run of ones, rotated, repeated over the register.

    N | immr | imms      the element has 2 ** k bits, k the highest one of N:NOT(imms); it holds imms + 1 ones
                         (the bits below k), rotated right by immr

Read more: Arm ARM (DDI 0487), `DecodeBitMasks` in J1.1.3.
"""

from __future__ import annotations

from functools import cache

__all__ = ["decode_bitmask", "encode_bitmask"]


def decode_bitmask(n: int, immr: int, imms: int, bits: int) -> int | None:
    """Return the immediate of `bits` bits; None for an unallocated encoding.

    Examples
    --------
    >>> hex(decode_bitmask(0, 0, 0b111100, 64))
    '0x5555555555555555'
    """
    if n and bits == 32:
        return None
    length = (n << 6 | ~imms & 0x3F).bit_length() - 1
    if length < 1:
        return None
    size = 1 << length
    ones, turn = imms & size - 1, immr & size - 1
    if ones == size - 1:
        return None
    element = (1 << ones + 1) - 1
    element = (element >> turn | element << size - turn) & (1 << size) - 1
    while size < bits:
        element |= element << size
        size *= 2
    return element


@cache
def _encodings(bits: int) -> dict[int, tuple[int, int, int]]:
    found: dict[int, tuple[int, int, int]] = {}
    for length in range(1, 7 if bits == 64 else 6):
        size = 1 << length
        for ones in range(size - 1):
            imms = ~(2 * size - 1) & 0x3F | ones if size < 64 else ones
            for turn in range(size):
                value = decode_bitmask(size == 64, turn, imms, bits)
                assert value is not None
                found[value] = (int(size == 64), turn, imms)
    return found


def encode_bitmask(value: int, bits: int) -> tuple[int, int, int] | None:
    """Return N, immr and imms of an immediate; None where it is none.

    Examples
    --------
    >>> encode_bitmask(0xFF, 64), encode_bitmask(5, 64)
    ((1, 0, 7), None)
    """
    return _encodings(bits).get(value & (1 << bits) - 1)
