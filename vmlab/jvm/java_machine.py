"""The Java virtual machine as a whole: a program, a computer, a runtime; and what a run of it has come to.

Read more: JVMS 5.2 (how a virtual machine starts up).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import ImageError, OptionError, StateError
from vmlab.jvm.class_path import MAIN, find_program
from vmlab.jvm.compiled_code import CompiledCode
from vmlab.jvm.interpreter import run
from vmlab.jvm.listing import MethodView, find_method
from vmlab.jvm.process import Process
from vmlab.jvm.runtime import Runtime
from vmlab.jvm.saving import load_runtime, save_runtime
from vmlab.machine.disk import Disk
from vmlab.machine.state import COUNT, check_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.jvm.collector import Collection
    from vmlab.jvm.compiled_method import CompiledMethod

__all__ = ["DEFAULT_BYTECODES", "JavaMachine"]

DEFAULT_HEAP = 1 << 20
DEFAULT_BYTECODES = 50_000_000
SMALLEST_HEAP, LARGEST_HEAP = 1 << 16, 1 << 25
THRESHOLD = 40


class JavaMachine:
    """A Java virtual machine with a program.

    Parameters
    ----------
    program : str, path, bytes, or mapping of str to bytes
        As of `vmlab.java`.
    jit : bool
        Whether methods that are called or go round often are compiled.
    threshold : int
        Calls, or rounds of its loops, after which a method is compiled; 1 for at once.
    heap : int
        Bytes of the heap.
    disk : Disk or bytes, optional
        What `vmlab.Machine.read` reads.
    arguments : sequence of str
        Of `main`.

    Attributes
    ----------
    runtime : Runtime
        Classes, frames, heap.
    process : Process
        The simulated computer on which all of it is.

    Examples
    --------
    >>> machine = JavaMachine("Sieve")
    >>> machine.run()
    True
    >>> machine.status
    0
    """

    def __init__(
        self,
        program: object,
        *,
        jit: bool = True,
        threshold: int = THRESHOLD,
        heap: int = DEFAULT_HEAP,
        disk: Disk | bytes | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        if type(jit) is not bool:
            raise OptionError(f"jit is True or False, not {jit!r}")
        if type(threshold) is not int or threshold < 1:
            raise OptionError(f"threshold is a number of calls, 1 or more, not {threshold!r}")
        if type(heap) is not int or not SMALLEST_HEAP <= heap <= LARGEST_HEAP:
            raise OptionError(f"a heap has {SMALLEST_HEAP} (64 KiB) to {LARGEST_HEAP} (32 MiB) bytes, not {heap!r}")
        if isinstance(disk, (bytes, bytearray)):
            disk = Disk(bytes(disk), pad=True)
        if disk is not None and not isinstance(disk, Disk):
            raise OptionError(f"disk is a Disk or bytes, not {disk!r:.60}")
        if isinstance(arguments, str) or not all(isinstance(each, str) for each in arguments):
            raise OptionError(f"arguments are a list of texts, as ['3', 'x'], not {arguments!r:.60}")
        self.files, self.main = find_program(program)
        self._disk = disk.copy() if disk else None
        self.process = Process(heap - heap % 8, disk)
        self.compiled_code = CompiledCode(self.process, enabled=jit, threshold=threshold)
        self.runtime = Runtime(self.process, self.files, self.compiled_code)
        self.jit = jit
        self._start(list(arguments))

    def _start(self, arguments: list[str]) -> None:
        """Do what comes before the first instruction: `main` is called, and its class initialised before."""
        vm = self.runtime
        vm.prepare()
        found = vm.loader.load(self.main)
        array = vm.loader.load("[Ljava/lang/String;")
        with vm.handles() as held:
            held += [vm.string(each) for each in arguments]
            words = vm.allocate_array(array, len(arguments))
            vm.store_ints(words, held)
        vm.push(found.methods[MAIN], [words])
        vm.initialise(found)

    def run(self, max_bytecodes: int = DEFAULT_BYTECODES) -> bool:
        """Run the program to its end; False where it has executed so many instructions before.

        Bytecodes that are interpreted and instructions of compiled code count together, from the beginning.
        """
        if type(max_bytecodes) is not int or max_bytecodes < 1:
            raise OptionError(f"max_bytecodes is a number of instructions, 1 or more, not {max_bytecodes!r}")
        ended = run(self.runtime, max_bytecodes)
        if ended and self.runtime.status is None:
            self.runtime.status = 0
        return ended

    @property
    def console(self) -> str:
        """What was sent to the serial port, of both streams."""
        return self.process.console

    @property
    def output(self) -> str:
        """What the program printed on System.out."""
        return self.runtime.output.decode("utf-8", "replace")

    @property
    def errors(self) -> str:
        """What it printed on System.err."""
        return self.runtime.errors.decode("utf-8", "replace")

    @property
    def outcome(self) -> str:
        """Why it ended: `"exit"`; `"running"` while it can go on."""
        return "running" if self.runtime.frames else "exit"

    @property
    def status(self) -> int | None:
        """Exit status, once it has ended: 1 after an exception that nobody has caught."""
        return None if self.runtime.frames else self.runtime.status

    @property
    def bytecodes(self) -> int:
        """Instructions that the interpreter has executed."""
        return self.runtime.bytecodes

    @property
    def instructions(self) -> int:
        """Instructions of compiled code that the processor has retired."""
        return self.process.compiled_instructions

    @property
    def collections(self) -> list[Collection]:
        """What each garbage collection has found."""
        return self.runtime.collections

    @property
    def compiled(self) -> dict[str, CompiledMethod]:
        """The methods that are compiled now, by name, in the order in which that was done."""
        return {each.method.title: each for each in self.compiled_code.methods.values()}

    def method(self, name: str) -> MethodView:
        """Return a method to look at.

        Parameters
        ----------
        name : str
            As `Sieve.count`; with its parameters, as `Sieve.count(int)`, where there are several.

        Raises
        ------
        OptionError
            There is no such method in the classes that the program has used.
        """
        found = find_method(self.runtime, name)
        code = self.compiled_code
        return MethodView(found, code.methods.get(found.number), code.refused.get(found, ""), self.runtime)

    @property
    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles by cause: those of the hardware, and those of the runtime's work."""
        found = self.process.cycles_by_cause()
        found["interpretation"] = self.bytecodes * self.runtime.costs.managed_bytecode
        for cause, cycles in sorted(self.runtime.charged.items()):
            found[cause] = found.get(cause, 0) + cycles
        return {cause: cycles for cause, cycles in found.items() if cycles}

    @property
    def cycles(self) -> int:
        """Cycles of the simulated processor, all together."""
        return sum(self.cycles_by_cause.values())

    def save(self) -> dict[str, Any]:
        """Save all of it as plain data, between two instructions."""
        return {
            "version": 1,
            "main": self.main,
            "heap": self.process.heap_size,
            "process": self.process.save(),
            "runtime": save_runtime(self.runtime),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` of a machine with the same program, heap and disk gave.

        Raises
        ------
        StateError
            It is damaged, or of another program; nothing has changed then.
        """
        check_state(state, "Java machine", {"main": str, "heap": COUNT, "process": dict, "runtime": dict})
        if (state["main"], state["heap"]) != (self.main, self.process.heap_size):
            raise StateError(
                f"the saved state is of {state['main']} with a heap of {state['heap']} bytes, this machine runs {self.main} "
                f"with {self.process.heap_size}"
            )
        old = self.compiled_code
        process = Process(self.process.heap_size, self._disk.copy() if self._disk else None)
        code = CompiledCode(process, enabled=old.enabled, threshold=old.threshold)
        runtime = Runtime(process, self.files, code)
        try:
            load_runtime(runtime, state["runtime"], state["process"])
        except ImageError as error:
            raise StateError(f"the saved state needs what this program has not: {error}") from None
        self.process, self.compiled_code, self.runtime = process, code, runtime
