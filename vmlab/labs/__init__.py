"""Exercises: a seeded problem, a check that runs the machine, a hint for a wrong answer.

>>> import vmlab
>>> exercise = vmlab.labs.exercise("count-the-traps", seed=1)
>>> exercise.check(-1).correct
False

No widget is needed: a grading server imports this alone. The right answer is never stored; `check` finds it by
running the guest.
"""

from __future__ import annotations

import difflib

from vmlab.errors import OptionError
from vmlab.labs.count_the_traps import CountTheTraps
from vmlab.labs.exercise import Exercise, Verdict
from vmlab.labs.first_divergence import FirstDivergence
from vmlab.labs.isolation import Isolation
from vmlab.labs.miss_cost import MissCost
from vmlab.labs.red_pill import RedPill
from vmlab.labs.say_it_yourself import SayItYourself
from vmlab.labs.thin_hypervisor import ThinHypervisor
from vmlab.labs.translate_by_hand import TranslateByHand
from vmlab.labs.walk2d import Walk2d
from vmlab.labs.which_kind import WhichKind
from vmlab.labs.who_broke_it import WhoBrokeIt
from vmlab.labs.who_runs_where import WhoRunsWhere

__all__ = ["EXERCISES", "Exercise", "Verdict", "exercise"]

EXERCISES: dict[str, type[Exercise]] = {
    kind.name: kind
    for kind in (
        SayItYourself,
        WhoRunsWhere,
        CountTheTraps,
        WhoBrokeIt,
        FirstDivergence,
        RedPill,
        TranslateByHand,
        ThinHypervisor,
        Walk2d,
        MissCost,
        WhichKind,
        Isolation,
    )
}
"""Exercises by name."""


def exercise(name: str, seed: int = 0) -> Exercise:
    """Return an exercise.

    Parameters
    ----------
    name : str
        A key of `EXERCISES`.
    seed : int
        Which problem of its kind; the same seed gives the same problem. A course may use the student's number.

    Raises
    ------
    OptionError
        There is no such exercise, or the seed is no int.
    """
    if name not in EXERCISES:
        close = difflib.get_close_matches(str(name), EXERCISES, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise OptionError(f"unknown exercise {name!r}{hint}: choose one of {', '.join(EXERCISES)}")
    if type(seed) is not int:
        raise OptionError(f"a seed is an int, not {seed!r}")
    return EXERCISES[name](seed)
