"""Repeated measurement of two things by turns, so that both meet the same load."""

from __future__ import annotations

import statistics
from collections.abc import Callable

__all__ = ["noise", "ratio", "take_turns"]


def take_turns(ours: Callable[[], float], peer: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Measure both `rounds` times, one after the other."""
    pairs = [(ours(), peer()) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def ratio(ours: list[float], peer: list[float]) -> float:
    """Return the median of the ratios of neighbouring measurements."""
    return statistics.median(a / b for a, b in zip(ours, peer, strict=True))


def noise(values: list[float]) -> str:
    """Return the spread of repeated measurements, as a share of their median."""
    return f"±{(max(values) - min(values)) / 2 / statistics.median(values):.0%}"
