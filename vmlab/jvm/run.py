"""Running a Java program, and what it has come to: what a notebook writes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.jvm.java_machine import DEFAULT_BYTECODES, JavaMachine

if TYPE_CHECKING:
    from vmlab.jvm.collector import Collection
    from vmlab.jvm.compiled_method import CompiledMethod
    from vmlab.jvm.listing import MethodView

__all__ = ["JavaRun", "java"]


@dataclass(frozen=True, slots=True)
class JavaRun:
    """A run of a Java program.

    Attributes
    ----------
    machine : JavaMachine
        The virtual machine as it was at the end.
    """

    machine: JavaMachine

    @property
    def console(self) -> str:
        """What the program sent to the serial port: System.out and System.err, as they came."""
        return self.machine.console

    @property
    def output(self) -> str:
        """What it printed on System.out."""
        return self.machine.output

    @property
    def errors(self) -> str:
        """What it printed on System.err."""
        return self.machine.errors

    @property
    def outcome(self) -> str:
        """Why it ended: `"exit"` or `"limit"`."""
        return "exit" if self.machine.outcome == "exit" else "limit"

    @property
    def status(self) -> int | None:
        """Exit status, after `"exit"`: 0, what System.exit was given, or 1 after an exception that nobody has caught."""
        return self.machine.status

    @property
    def bytecodes(self) -> int:
        """Bytecodes that the interpreter has executed."""
        return self.machine.bytecodes

    @property
    def instructions(self) -> int:
        """Instructions of compiled code that the simulated processor has retired."""
        return self.machine.instructions

    @property
    def collections(self) -> list[Collection]:
        """What each garbage collection has found."""
        return self.machine.collections

    @property
    def compiled(self) -> dict[str, CompiledMethod]:
        """The methods that were compiled in the end, by name, with their code."""
        return self.machine.compiled

    def method(self, name: str) -> MethodView:
        """Return a method to look at: bytecode, x86 code, counts; see `JavaMachine.method`.

        Examples
        --------
        >>> view = java("Sieve", threshold=1).method("Sieve.count")
        >>> print(view.listing().splitlines()[0].partition(";")[0])
        Sieve.count(int): compiled
        """
        return self.machine.method(name)

    @property
    def calls(self) -> Counter[str]:
        """Calls of native methods, by name."""
        return Counter(self.machine.runtime.calls)

    @property
    def cycles(self) -> int:
        """Cycles of the simulated processor."""
        return self.machine.cycles

    @property
    def cycles_by_cause(self) -> dict[str, int]:
        """The same by cause."""
        return self.machine.cycles_by_cause

    def rows(self) -> list[tuple[str, str]]:
        """Return the figures as a table of two columns."""
        status = "" if self.status is None else f" with status {self.status}"
        freed = sum(each.freed for each in self.collections)
        rows = [
            ("program", f"{self.machine.main.replace('/', '.')}: {self.outcome}{status}"),
            ("bytecodes interpreted", f"{self.bytecodes:,}"),
            ("instructions of compiled code", f"{self.instructions:,}"),
            ("methods compiled", f"{len(self.compiled):,}"),
            ("garbage collections", f"{len(self.collections):,}, {freed:,} objects freed"),
            ("calls of native methods", f"{self.calls.total():,}"),
            ("cycles", f"{self.cycles:,}"),
        ]
        by_cause = sorted(self.cycles_by_cause.items(), key=lambda item: (-item[1], item[0]))
        return rows + [(f"  {cause}", f"{cycles:,}") for cause, cycles in by_cause]

    def describe(self) -> str:
        """Return the figures as text."""
        return "\n".join(f"{name:<34}{value}" for name, value in self.rows())

    def __repr__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        """Return the figures for a notebook."""
        cells = "".join(
            f"<tr><th scope='row' style='text-align:left'>{'&emsp;' * name.startswith(' ')}{escape(name.strip())}</th>"
            f"<td style='text-align:right'>{escape(value)}</td></tr>"
            for name, value in self.rows()
        )
        return f"<table>{cells}</table>"


def java(
    program: object,
    *,
    max_bytecodes: int = DEFAULT_BYTECODES,
    **options: Any,  # noqa: ANN401 - as of JavaMachine
) -> JavaRun:
    """Run a Java program: interpreted, and compiled to x86 where it runs often.

    Parameters
    ----------
    program : str, path, bytes, or mapping of str to bytes
        The name of a program that comes with vmlab, as `"Sieve"`; a class file; a folder or archive (.jar) of class files; a class
        file's bytes; or the bytes of several by the names of their classes. Compile by `javac --release 8 -XDstringConcat=inline`.
    max_bytecodes : int
        Bytecodes interpreted and instructions of compiled code, together, after which it ends with outcome `"limit"`.
    **options
        As of `vmlab.jvm.java_machine.JavaMachine`: `jit`, `threshold`, `heap`, `disk`, `arguments`.

    Returns
    -------
    JavaRun

    Raises
    ------
    ImageError
        There is no such program, or it is damaged, or needs what this virtual machine has not.
    OptionError
        An option is wrong.

    Examples
    --------
    >>> run = java("Sieve")
    >>> print(run.console.splitlines()[-1])
    primes below 10000: 1229
    """
    known = ("jit", "threshold", "heap", "disk", "arguments")
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise OptionError(f"java() has no option {', '.join(unknown)}: it has max_bytecodes, {', '.join(known)}")
    machine = JavaMachine(program, **options)
    machine.run(max_bytecodes)
    return JavaRun(machine)
