"""Guests: small kernels and programs in assembly, one file each, to run, read and change.

`minios` is an operating system in a few pages; each of the others shows one mechanism. A guest's first comment line
says what it does. A changed source goes through `vmlab.assemble` in the same way.

Simplified: every guest is assembled when it is first asked for, and is loaded flat at 1 MiB.

Read more: the sources; NASM manual for their language.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.machine.program import assemble

if TYPE_CHECKING:
    from vmlab.machine.image import Image

__all__ = ["describe", "load", "names", "source"]

SUFFIX = ".asm"


def names() -> list[str]:
    """Return the names of all guests, in alphabetical order.

    Examples
    --------
    >>> "minios" in names()
    True
    """
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX))


def source(name: object) -> str:
    """Return the assembly source of a guest.

    Raises
    ------
    OptionError
        There is no guest of this name.
    """
    known = names()
    if not isinstance(name, str) or name not in known:
        close = difflib.get_close_matches(str(name).lower(), known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(known)}"
        raise OptionError(f"there is no guest {name!r}: {hint}")
    return _read(name)


@cache
def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name + SUFFIX).read_text(encoding="utf-8")


def describe(name: str) -> str:
    """Return in one sentence what a guest does: the first comment of its source.

    Raises
    ------
    OptionError
        There is no guest of this name.

    Examples
    --------
    >>> describe("hello")
    'greets on the serial port and stops the machine'
    """
    return source(name).partition("\n")[0].partition(": ")[2]


def load(name: str) -> Image:
    """Assemble a guest; an image is immutable, so each guest is assembled once.

    Raises
    ------
    OptionError
        There is no guest of this name.
    """
    text = source(name)
    return _assemble(text, name)


@cache
def _assemble(text: str, name: str) -> Image:
    return assemble(text, name)
