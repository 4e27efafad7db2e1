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
MEMORY = 240 << 20  # more than PHYSTOP, however it was built
PROMPT = "$ "
SLICE = 500_000
LIMIT = 2_000_000_000
GOALS = "goal: at most 30 s with PHYSTOP at 224 MB, 6 s at 8 MB"
UNDER: tuple[tuple[str, dict[str, str], float], ...] = (
    ("vt-x", {"memory_virtualization": "nested", "ept_pages": "2 MiB", "host_cpu": "broadwell-ep"}, 1.5),
    ("binary-translation", {}, 4),
)
"""Techniques, their options, and the host time of a boot that is their goal, as a multiple of the native boot's."""


def _boot(kernel: str, disks: list[str], under: str = "native", **options: str) -> tuple[float, int]:
    """Return the seconds to the prompt, and the instructions."""
    start = time.process_time()
    image = vmlab.load(kernel)
    system = build(image, under, engine="auto", memory=MEMORY, disks=disks, max_instructions=LIMIT, **options)
    guest = system.guests[0]
    while not guest.console.endswith(PROMPT):
        if system.finished:
            raise SystemExit(f"no prompt: it ended with outcome {guest.outcome!r} after\n{guest.console}")
        system.advance(SLICE)
    return time.process_time() - start, guest.instructions


def measure(kernel: str, *disks: str) -> Iterator[str]:
    """Yield the figures: natively, then under hypervisors, each beside a native boot in the same run."""
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
    for under, options, goal in UNDER:
        virtual, native = take_turns(
            lambda under=under, options=options: _boot(kernel, list(disks), under, **options)[0],
            lambda: _boot(kernel, list(disks))[0],
            ROUNDS,
        )
        chosen = ", ".join(f"{name}={value}" for name, value in options.items())
        yield (
            f"{under}{f' ({chosen})' if chosen else ''} to the prompt in {statistics.median(virtual):.1f} s ({noise(virtual)}) "
            f"against natively {statistics.median(native):.1f} s ({noise(native)}): {ratio(virtual, native):.2f} x the host time "
            f"(goal: at most {goal} x with PHYSTOP at 8 MB)"
        )
