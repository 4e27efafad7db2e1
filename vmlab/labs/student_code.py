"""Runs a function that a student wrote: whatever it does, what comes back is data.

Simplified: a loop is bounded by the lines of Python that it executes, counted by `sys.settrace`; time spent within one
line, or by code that defends itself against being ended, is not. A server that grades strangers' work also sets a limit
of time.
"""

from __future__ import annotations

import reprlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["Called", "Endless", "call", "shown"]

LINES = 200_000
"""Lines of Python after which a call is taken for endless."""


PLAIN = frozenset({bool, float, complex, str, bytes, list, dict, set})


class Endless(BaseException):
    """Ends a call that does not end; no `except Exception` catches it."""


class Called(NamedTuple):
    """What a call came to.

    Attributes
    ----------
    value : object
        What it returned.
    complaint : str
        What it did instead of returning; empty where it returned.
    """

    value: Any = None
    complaint: str = ""


def call(function: Callable[..., Any], *arguments: object, lines: int = LINES) -> Called:
    """Call a student's function; only a KeyboardInterrupt comes through."""
    left = lines

    def trace(_frame: FrameType, _event: str, _argument: object) -> Any:  # noqa: ANN401 - a trace function, recursive
        nonlocal left
        left -= 1
        if left < 0:
            raise Endless
        return trace

    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        return Called(function(*arguments))
    except KeyboardInterrupt:
        raise
    except Endless:
        return Called(complaint="it does not come to an end: does each turn of its loop go one level down?")
    except RecursionError:
        return Called(complaint="it calls itself without end.")
    except BaseException as error:  # noqa: BLE001 - SystemExit too: it is the student's, and must not end the grading
        return Called(complaint=f"it raises {type(error).__name__}{_because(error)}")
    finally:
        sys.settrace(tracer)


def _because(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception class of the student's own
        text = ""
    return f": {text[:200]}" if text else "."


def shown(value: object) -> str:
    """Return a short representation of anything, numbers in hexadecimal."""
    if type(value) is int:
        return f"{value:#x}" if value.bit_length() <= 64 else "an int of more than 64 bits"
    if type(value) is tuple:
        parts = ", ".join(map(shown, value[:4]))
        return f"({parts}{', …' if len(value) > 4 else ''})"
    if value is None or value is ... or type(value) in PLAIN:
        return reprlib.repr(value)
    return f"a {type(value).__name__[:40]}"
