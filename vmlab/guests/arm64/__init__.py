"""AArch64 guests, and what runs them: programs in assembly for the emulated AArch64 machine.

`workload` is a kernel with a process at EL0, `el2` a thin hypervisor with a guest at EL1. A source that defines `START_EL`
says at which exception level it starts.

Read more: the sources; `vmlab.isa.arm64.assembler` for their language, `vmlab.machine.arm64.board` for the machine.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.guests import no_guest, workload_disk
from vmlab.isa.arm64.assembler import Assembly, assemble
from vmlab.machine.arm64.board import LOAD
from vmlab.machine.arm64.machine import Arm64Machine

if TYPE_CHECKING:
    import os

    from vmlab.machine.disk import Disk

__all__ = ["arm64", "describe", "load", "machine", "names", "source"]

SUFFIX = ".s"
START_EL, SMALLEST_EL = "START_EL", 1


def names() -> list[str]:
    """Return the names of the AArch64 guests, in alphabetical order.

    Examples
    --------
    >>> names()
    ['el2', 'workload']
    """
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX))


def source(name: object) -> str:
    """Return the assembly source of a guest.

    Raises
    ------
    OptionError
        There is no AArch64 guest of this name.
    """
    if not isinstance(name, str) or name not in names():
        raise no_guest(name, names())
    return resources.files(__name__).joinpath(name + SUFFIX).read_text(encoding="utf-8")


def describe(name: str) -> str:
    """Return in one sentence what a guest does: the first comment of its source.

    Raises
    ------
    OptionError
        There is no AArch64 guest of this name.
    """
    return source(name).partition("\n")[0].partition(": ")[2]


def load(name: str) -> Assembly:
    """Assemble a guest.

    Raises
    ------
    OptionError
        There is no AArch64 guest of this name.
    """
    return _assemble(source(name))


@cache
def _assemble(text: str) -> Assembly:
    return assemble(text, LOAD)


def machine(
    program: str | bytes,
    *,
    disk: Disk | bytes | str | os.PathLike[str] | None = None,
    el: int | None = None,
    **options: Any,  # noqa: ANN401 - as of Arm64Machine
) -> Arm64Machine:
    """Build an AArch64 machine with a program in it; `advance` and `run` run it.

    Parameters
    ----------
    program : str or bytes
        The name of a guest, assembly source, or machine code.
    disk : Disk, bytes or path, optional
        What the block device holds; the guest `workload` has its own, if not given.
    el : int, optional
        Exception level at which it starts: as the source says in `START_EL`, 1 otherwise.
    **options
        `memory`, `max_instructions`, `trace`, `name`: as of `Arm64Machine`.

    Raises
    ------
    AssemblyError
        The source is wrong.
    OptionError
        There is no guest of this name, or an option is not allowed.
    """
    unknown = sorted(options.keys() - {"memory", "max_instructions", "trace", "name"})
    if unknown:
        raise OptionError(f"there is no option {unknown[0]!r}: memory, disk, el, max_instructions, trace, name")
    if isinstance(program, str):
        is_source = any(letter in program for letter in "\n \t:")
        assembly = _assemble(program) if is_source else load(program)
        options.setdefault("name", "program" if is_source else program)
        if program == "workload" and disk is None:
            disk = workload_disk()
        start = assembly.symbols.get(START_EL, SMALLEST_EL)
        return Arm64Machine(assembly.code, disk=disk, el=start if el is None else el, **options)
    return Arm64Machine(program, disk=disk, el=SMALLEST_EL if el is None else el, **options)


def arm64(program: str | bytes, **options: Any) -> Arm64Machine:  # noqa: ANN401 - as of machine()
    """Run a program on an emulated AArch64 machine to its end.

    Parameters
    ----------
    program : str or bytes
        The name of a guest (`"workload"`, `"el2"`), assembly source, or machine code.
    **options
        `memory`, `disk`, `el`, `max_instructions`, `trace`: see `vmlab.guests.arm64.machine`.

    Returns
    -------
    Arm64Machine
        With `console`, `outcome`, `instructions`, `cycles`, `exceptions`, `trace`, `describe()`.

    Examples
    --------
    >>> run = arm64("el2")
    >>> run.console.splitlines()[2], run.exceptions["HVC EL1>EL2"]
    ('EL1: hello', 2)
    """
    return machine(program, **options).run()
