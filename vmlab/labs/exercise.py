"""What an exercise is."""

from __future__ import annotations

import random
import textwrap
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["Exercise", "Verdict"]

WIDTH = 120
"""Columns of a page: a notebook would break a longer line within a word."""


def _folded(text: str) -> str:
    """Return a text whose long lines are broken between words, each with its indentation."""
    lines = (
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent=line[: len(line) - len(line.lstrip())],
            break_long_words=False,
            break_on_hyphens=False,
        )
        if len(line) > WIDTH
        else line
        for line in text.split("\n")
    )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one answer.

    Attributes
    ----------
    correct : bool
        Whether it is right.
    message : str
        Praise with a fact to remember, or a hint; never the answer.
    """

    correct: bool
    message: str

    def __repr__(self) -> str:
        return _folded(f"{'Correct.' if self.correct else 'Not yet.'} {self.message}")


class Exercise(ABC):
    """One problem, drawn from a seed.

    Attributes
    ----------
    name : str
        As in `vmlab.labs.exercise(name)`.
    seed : int
        Which problem.
    question : str
        What is asked.
    """

    name: ClassVar[str]
    question: str

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._tries = 0
        self.draw(random.Random(seed))

    @abstractmethod
    def draw(self, chance: random.Random) -> None:
        """Draw the problem and write the question."""

    @abstractmethod
    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - each exercise has its own kind of answer
        """Judge an answer."""

    def check(self, answer: Any) -> Verdict:  # noqa: ANN401
        """Judge an answer; after several wrong ones the hints say more.

        Parameters
        ----------
        answer
            What the question asks for; anything else gets a hint on its form.

        Returns
        -------
        Verdict
        """
        verdict = self.judge(answer)
        self._tries += not verdict.correct
        return verdict

    def hint(self, *hints: str) -> Verdict:
        """Return a wrong verdict with the hint for this try; the last one stays."""
        return Verdict(correct=False, message=hints[min(self._tries, len(hints) - 1)])

    def __repr__(self) -> str:
        return _folded(self.question)
