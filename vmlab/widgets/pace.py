"""How fast a guest runs behind its console: as fast as it can, but with the clock on the wall while it sleeps.

The guest's time is counted in its own instructions. One that computes gets every slice. One that sleeps until a timer
tick would fly through hours: it is held back until the wall's clock has caught up. One that asks again and
again for a key gets a small share, and after a while none. One that runs silently may idle or compute, which cannot be
told from outside: it has its way for some seconds, and is treated so then (see `vmlab.vmm.session`).
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmlab.vmm.session import Session

__all__ = ["BREATH", "Pace"]

SLICE = 0.025  # seconds of work between two turns of the event loop
BREATH = 0.003  # seconds for others after each
LAG = 0.05  # seconds by which the clock of a guest that sleeps may run ahead of the wall's
FORGIVEN = 0.5  # seconds of such an advance that are waited for, at most
NAP = 0.3  # seconds between two slices of a guest that waits in a loop
BENEFIT = 10.0  # seconds of work that a silent guest gets before it is treated so
PATIENCE = 60.0  # seconds for which it gets them then
LEAST, MOST = 20, 25_000  # steps between two looks at the clocks


class Pace:
    """Runs a session in slices.

    Attributes
    ----------
    rate : float
        Steps a second while it works, smoothed.
    delay : float
        Seconds for which the guest should rest now.
    """

    def __init__(self) -> None:
        self.rate = 0.0
        self.delay = BREATH
        self._size = LEAST
        self._ahead = self._waited = self._doubted = 0.0

    def start(self) -> None:
        """Begin anew, after a rest of any length."""
        self._ahead = self._waited = self._doubted = 0.0

    def slice(self, session: Session) -> bool:
        """Run for a moment, and set `delay`; False where there is no more to do for now."""
        steps, took, slept = self._run(session)
        if not steps:
            return False
        if took:
            self.rate += (steps / took - self.rate) * (0.2 if self.rate else 1)
        self._ahead = min(max(0.0, self._ahead + slept), FORGIVEN)
        self.delay = self._ahead if self._ahead > LAG else BREATH
        if session.past or not (session.polling or session.silent):
            self._waited = self._doubted = 0.0
            return True
        if not session.polling and self._doubted < BENEFIT:
            self._doubted += took
            return True
        self.delay = NAP
        self._waited += took + NAP
        return self._waited <= PATIENCE

    def _run(self, session: Session) -> tuple[int, float, float]:
        """Run; return steps, seconds on the wall, seconds by which sleep has brought the guest's clock before the wall's.

        Only sleep counts: a guest that computes faster than the nominal processor is not held back.
        """
        begun, clock, asleep = monotonic(), session.seconds, session.asleep
        total, took, ahead = 0, 0.0, 0.0
        while took < SLICE and ahead < LAG:
            done = session.advance(self._size)
            total += done
            before = ahead
            took = monotonic() - begun
            ahead = min(session.seconds - clock - took, session.asleep - asleep)
            if not done:
                break
            self._size = max(self._size // 4, LEAST) if ahead - before > LAG else min(self._size * 2, MOST)
        return total, took, ahead

    def rested(self, seconds: float) -> None:
        """Note that the wall's clock went on meanwhile."""
        self._ahead = max(0.0, self._ahead - seconds)
