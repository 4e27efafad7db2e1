"""xv6-public to its shell's prompt, from images that the user has built: `python -m bench xv6 KERNEL XV6.IMG FS.IMG`.

Nothing of xv6 is in this repository. `make xv6.img fs.img` in MIT's sources gives the three files (PHYSTOP in memlayout.h
says how much memory the kernel clears at its start). The peer is Unicorn with a Python function called for each
instruction, on the hot loop of `bench.interpreter`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import vmlab
from bench.sampling import noise, ratio, take_turns
from bench.translator import hooked
from vmlab.vmm.techniques import build

__all__ = ["measure"]

ROUNDS = 3
MEMORY = 240 << 20
PROMPT = "$ "
SLICE = 500_000
LIMIT = 2_000_000_000
GOALS = "goal: at most 30 s with PHYSTOP at 224 MB, 6 s at 8 MB"


def _boot(kernel: str, disks: list[str]) -> tuple[float, int]:
    """Return the seconds to the prompt, and the instructions."""
    start = time.process_time()
    system = build(vmlab.load(kernel), engine="auto", memory=MEMORY, disks=disks, max_instructions=LIMIT)
    guest = system.guests[0]
    while not guest.console.endswith(PROMPT):
        if system.finished:
            raise SystemExit(f"no prompt: it ended with outcome {guest.outcome!r} after\n{guest.console}")
        system.advance(SLICE)
    return time.process_time() - start, guest.instructions


def measure(kernel: str, *disks: str) -> Iterator[str]:
    """Yield the figure."""
    runs: list[tuple[float, int]] = []

    def ours() -> float:
        runs.append(_boot(kernel, list(disks)))
        seconds, instructions = runs[-1]
        return instructions / seconds

    rates, peer = take_turns(ours, hooked, ROUNDS)
    seconds = [run[0] for run in runs]
    yield (
        f"to the prompt in {statistics.median(seconds):.1f} s of CPU time ({noise(seconds)}; {GOALS}), the first run "
        f"{seconds[0]:.1f} s; {runs[0][1]:,} instructions, {statistics.median(rates):,.0f} a second against Unicorn with a "
        f"code hook {statistics.median(peer):,.0f} ({noise(peer)}): {ratio(rates, peer):.1f} x"
    )
