"""Guests: small kernels and programs in assembly, one file each, to run, read and change.

`minios` is an operating system in a few pages, `containers` one with containers, whose parts lie in a folder of its name,
`nested_host` a hypervisor with another guest as its module; each of the others shows one mechanism. A guest's first comment line says what it does. A changed source goes through `vmlab.assemble` in the same way; what it defines by `equ` can be given
to `load`.

Simplified: every guest is assembled when it is first asked for, and is loaded flat at 1 MiB.

Read more: the sources; NASM manual for their language.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.guests.workload import workload_disk
from vmlab.machine.image import Module
from vmlab.machine.program import assemble

if TYPE_CHECKING:
    from vmlab.machine.image import Image

__all__ = ["describe", "load", "names", "no_guest", "source", "workload_disk"]

SUFFIX = ".asm"
MODULES = {"nested_host": ("workload",)}
"""Guests that come with others as their multiboot modules."""
_CONSTANT = re.compile(r"^(\w+)\s+equ\s", re.MULTILINE)
_INCLUDE = re.compile(r'^%include "(.+)"\n', re.MULTILINE)


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
        raise no_guest(name, known)
    return _read(name)


def no_guest(name: object, known: list[str]) -> OptionError:
    """Return the error that says that there is no guest of a name, and which there are."""
    close = difflib.get_close_matches(str(name).lower(), known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(known)}"
    return OptionError(f"there is no guest {name!r}: {hint}")


@cache
def _read(name: str) -> str:
    """Return a source as one text, with the files that it includes."""
    folder = resources.files(__name__)
    text = folder.joinpath(name + SUFFIX).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda found: folder.joinpath(found[1]).read_text(encoding="utf-8"), text)


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


def load(name: str, **constants: int) -> Image:
    """Assemble a guest; an image is immutable, so each guest is assembled once.

    Parameters
    ----------
    name : str
        One of `names()`.
    **constants : int
        Other values of what the source defines by `equ`.

    Raises
    ------
    OptionError
        There is no guest of this name, or no such constant in it.

    Examples
    --------
    >>> load("pointer_chase", PAGES=512).name
    'pointer_chase'
    """
    text = source(name)
    for constant, value in constants.items():
        text = _with_constant(name, text, constant, value)
    return _assemble(text, name)


def _with_constant(name: str, text: str, constant: str, value: object) -> str:
    """Return a source with another value of a constant."""
    known = _CONSTANT.findall(text)
    if constant not in known:
        which = ", ".join(known)
        raise OptionError(f"guest {name} has no constant {constant!r}: it has {which or 'none'}")
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise OptionError(f"{constant} is an int of 32 bits, not {value!r}")
    return re.sub(rf"^{constant}(\s+)equ\s+[^;\n]*", rf"{constant}\1equ {value} ", text, flags=re.MULTILINE)


@cache
def _assemble(text: str, name: str) -> Image:
    modules = tuple(Module(load(module).segments[0].data, module) for module in MODULES.get(name, ()))
    return replace(assemble(text, name), modules=modules)
