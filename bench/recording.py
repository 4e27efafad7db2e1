"""What recording costs, and how long one step back takes, anywhere in a long run.

The guest is minios, busy for as long as is asked: processes that compute, sleep, print, fault and are switched by a timer.
The peer of a recorded run is the same run unrecorded; that of a step back is the way there without a recording, a new run
from the start, of which the speed was measured beside it. Seconds are the processor's, since all of it is computing.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.os_mix import long_minios
from bench.sampling import noise, ratio, take_turns
from vmlab.machine.recording import Recording
from vmlab.vmm.techniques import build

if TYPE_CHECKING:
    from vmlab.vmm.system import System

__all__ = ["measure"]

ROUNDS, STEPS = 5, 3_000_000
LONG, PLACES, WARM = 50_000_000, 24, 8


def _system() -> System:
    return build(long_minios(10_000, 6_000), engine="auto", memory=4 << 20)


def _plain() -> float:
    system = _system()
    start = time.process_time()
    system.advance(STEPS)
    return time.process_time() - start


def _recorded() -> float:
    system = _system()
    start = time.process_time()
    recording = Recording(system, max_steps=STEPS)
    seconds = time.process_time() - start
    assert recording.length == STEPS
    return seconds


def _back(recording: Recording) -> float:
    start = time.process_time()
    recording.back()
    return (time.process_time() - start) * 1000


def measure() -> Iterator[str]:
    """Yield the figures."""
    _plain()  # what is compiled stays
    ours, peer = take_turns(_recorded, _plain, ROUNDS)
    yield (
        f"minios recorded {STEPS / statistics.median(ours):,.0f} instructions/s ({noise(ours)}) against unrecorded "
        f"{STEPS / statistics.median(peer):,.0f} ({noise(peer)}): {ratio(ours, peer):.2f} x the time (goal: at most 1.3 x)"
    )
    recording = Recording(_system(), max_steps=LONG)
    assert recording.length == LONG
    generator = random.Random(1)
    seeks, cold, warm = [], [], []
    for place in (LONG, *(generator.randrange(WARM + 1, LONG) for _ in range(PLACES))):
        start = time.process_time()
        recording.seek(place)
        seeks.append((time.process_time() - start) * 1000)
        cold.append(_back(recording))
        warm += [_back(recording) for _ in range(WARM)]
    anew = statistics.median(peer) / STEPS * LONG / 2 * 1000
    yield (
        f"a step back among {LONG:,} with {len(recording.events):,} events, at {len(cold)} places: first "
        f"{statistics.median(cold):.1f} ms (at most {max(cold):.1f}), further {statistics.median(warm):.1f} ms (at most "
        f"{max(warm):.1f}), going there {statistics.median(seeks):.0f} ms (at most {max(seeks):.0f}); goal: at most 50 ms; "
        f"a new run from the start, on average {anew:,.0f} ms: 1/{anew / statistics.median(cold):,.0f} of it"
    )
