"""`import vmlab` against importing the libraries that it draws with, each in a fresh Python."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

from bench.sampling import noise, ratio, take_turns

__all__ = ["measure"]

ROUNDS = 7
GOAL = 0.3
PROBE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def _seconds(names: str) -> float:
    return float(subprocess.run([sys.executable, "-c", PROBE.format(names)], capture_output=True, check=True).stdout)


def measure() -> Iterator[str]:
    """Yield the figures: the bare import, and the import with a first run."""
    peer_names = "plotly.graph_objects, ipywidgets"
    ours, peer = take_turns(lambda: _seconds("vmlab"), lambda: _seconds(peer_names), ROUNDS)
    yield (
        f"import vmlab {statistics.median(ours) * 1000:.1f} ms ({noise(ours)}) against {peer_names} "
        f"{statistics.median(peer) * 1000:.0f} ms ({noise(peer)}): {ratio(ours, peer):.3f} x (goal: below {GOAL} x)"
    )
    ours, peer = take_turns(lambda: _seconds("vmlab.vmm.run"), lambda: _seconds(peer_names), ROUNDS)
    yield f"with the machine and the hypervisors: {statistics.median(ours) * 1000:.0f} ms, {ratio(ours, peer):.3f} x"
