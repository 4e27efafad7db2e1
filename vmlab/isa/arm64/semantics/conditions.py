"""Conditions: which of the sixteen states of NZCV fulfil each (Arm ARM, C1.2.4, table C1-1)."""

from __future__ import annotations

__all__ = ["HOLDS"]


def _holds(condition: int, nzcv: int) -> bool:
    n, z, c, v = (bool(nzcv & bit) for bit in (8, 4, 2, 1))
    result = (z, c, n, v, c and not z, n == v, n == v and not z, True)[condition >> 1]
    return result ^ (bool(condition & 1) and condition != 0b1111)


HOLDS = tuple(tuple(_holds(condition, nzcv) for nzcv in range(16)) for condition in range(16))
"""By condition, then by NZCV."""
