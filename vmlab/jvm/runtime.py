"""The runtime: what interpreter, compiled code and native methods have in common. Memory, classes, strings, calls.

It is host software, as a hypervisor is: written in Python, it charges its work to the cost model. What it does is done in the
simulated memory, where objects, static fields and compiled code lie.

Simplified: one thread, so that monitors have nothing to do; no finalizers, no weak references.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmlab.errors import ImageError
from vmlab.jvm.classes import FAILED, HEADER, INITIALISED, INITIALISING, LINKED
from vmlab.jvm.collector import collect
from vmlab.jvm.constant_pool import encode_text
from vmlab.jvm.descriptors import slots
from vmlab.jvm.frames import Frame, Segment
from vmlab.jvm.heap import ELEMENTS, LENGTH, Heap
from vmlab.jvm.loader import ClassLoader
from vmlab.jvm.natives import NATIVES
from vmlab.jvm.operations import operations_of
from vmlab.jvm.throwing import Raise, make
from vmlab.jvm.verifier import verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vmlab.jvm.class_file import ClassFile
    from vmlab.jvm.classes import JavaClass, Method
    from vmlab.jvm.collector import Collection
    from vmlab.jvm.compiled_code import CompiledCode
    from vmlab.jvm.process import Process
    from vmlab.machine.costs import CostModel

__all__ = ["Runtime"]

STRING = "java/lang/String"
DEEPEST = 2600
"""Frames of the interpreter, one above the other, before a StackOverflowError."""
MOST_ELEMENTS = 1 << 27


class Runtime:
    """A program's state.

    Attributes
    ----------
    frames : list of Frame or Segment
        What is being executed, the innermost last.
    switched : bool
        True where the innermost frame is another than before, or goes on elsewhere.
    status : int or None
        Exit status, once it is known.
    output, errors : bytearray
        What was printed on System.out and System.err; both went to the serial port, too.
    bytecodes : int
        Instructions that the interpreter has executed.
    calls : Counter
        Calls of native methods, by name.
    collections : list of Collection
        What each garbage collection has found.
    charged : Counter
        Cycles of the runtime's own work by cause.
    """

    def __init__(self, process: Process, files: Mapping[str, ClassFile], compiled: CompiledCode) -> None:
        self.process, self.memory = process, process.memory
        self.costs: CostModel = process.machine.cpu.model.costs
        self.compiled = compiled
        self.heap = Heap(process)
        self.loader = ClassLoader(files, process, compiled.stub)
        self.frames: list[Frame | Segment] = []
        self.switched = False
        self.status: int | None = None
        self.output, self.errors = bytearray(), bytearray()
        self.bytecodes = 0
        self.calls: Counter[str] = Counter()
        self.collections: list[Collection] = []
        self.charged: Counter[str] = Counter()
        self.strings: dict[str, int] = {}
        self.class_objects: dict[str, int] = {}
        self._held: list[list[int]] = []
        self.last_resort = 0
        compiled.attach(self)

    def charge(self, cause: str, cycles: int) -> None:
        """Charge work of the runtime's own."""
        self.charged[cause] += cycles

    # -- memory ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def handles(self) -> Iterator[list[int]]:
        """Give a list of references that the collector takes for roots as long as it is in use."""
        held: list[int] = []
        self._held.append(held)
        try:
            yield held
        finally:
            self._held.remove(held)

    def roots(self) -> Iterable[int]:
        """Yield all references from which the program can go on."""
        for found in self.loader.classes.values():
            for place in found.statics:
                yield self.memory.read(place, 4)
        yield from self.strings.values()
        yield from self.class_objects.values()
        yield self.last_resort
        for held in self._held:
            yield from held
        for frame in self.frames:
            if isinstance(frame, Frame):
                yield from self._of_frame(frame)
            else:
                yield from self.compiled.roots(frame)

    def _of_frame(self, frame: Frame) -> Iterable[int]:
        """Yield the references of a frame: of its operand stack what its instruction has not taken yet."""
        verified = frame.method.verified
        assert verified is not None
        index = max(frame.index, 0)
        for mask, words in ((verified.locals[index], frame.locals), (verified.stack[index], frame.stack)):
            for n, word in enumerate(words):
                if mask >> n & 1:
                    yield word

    def collect(self) -> None:
        """Collect garbage."""
        found = collect(self.heap, self.loader, self.roots())
        self.collections.append(found)
        self.charge("garbage collection", (2 * found.live + found.freed) * self.costs.managed_visit)

    def _take(self, found: JavaClass, size: int) -> int:
        self.charge("allocation", self.costs.managed_allocation)
        reference = self.heap.allocate(found.record, size)
        if not reference:
            self.collect()
            reference = self.heap.allocate(found.record, size)
            if not reference:
                raise Raise("java/lang/OutOfMemoryError", "Java heap space")
        return reference

    def allocate(self, found: JavaClass) -> int:
        """Make an object whose fields are zero; a collection may come before."""
        return self._take(found, found.size)

    def allocate_array(self, found: JavaClass, length: int) -> int:
        """Make an array whose elements are zero; a collection may come before."""
        if length < 0:
            raise Raise("java/lang/NegativeArraySizeException", str(length))
        if length > MOST_ELEMENTS:
            raise Raise("java/lang/OutOfMemoryError", "Java heap space")
        reference = self._take(found, self.heap.size_of_array(found, length))
        self.memory.write(reference + LENGTH, 4, length)
        return reference

    def allocate_arrays(self, found: JavaClass, lengths: list[int]) -> int:
        """Make an array of arrays, of as many dimensions as there are lengths."""
        if min(lengths) < 0:
            raise Raise("java/lang/NegativeArraySizeException", str(min(lengths)))
        with self.handles() as held:
            held.append(self.allocate_array(found, lengths[0]))
            if len(lengths) > 1:
                inner = self.loader.load(found.element)
                for n in range(lengths[0]):
                    self.memory.write(held[0] + ELEMENTS + 4 * n, 4, self.allocate_arrays(inner, lengths[1:]))
            return held[0]

    def class_of(self, reference: int) -> JavaClass:
        """Return the class of an object."""
        return self.loader.by_record[self.memory.read(reference, 4)]

    def field_place(self, owner: str, name: str, descriptor: str) -> int:
        """Return the offset of a field of a library class."""
        found = self.loader.load(owner).find_field(name, descriptor)
        assert found is not None
        return found.place

    def set_field(self, reference: int, owner: str, name: str, descriptor: str, value: int) -> None:
        """Write a field of an object of a library class."""
        self.heap.set(reference + self.field_place(owner, name, descriptor), descriptor, value)

    def store_ints(self, array: int, numbers: list[int]) -> None:
        """Write the elements of an array of ints."""
        for n, number in enumerate(numbers):
            self.memory.write(array + ELEMENTS + 4 * n, 4, number)

    # -- strings -----------------------------------------------------------------------------------------------------------

    def string(self, text: str) -> int:
        """Make a string."""
        units = encode_text(text)
        with self.handles() as held:
            held.append(self.allocate_array(self.loader.load("[C"), len(units) // 2))
            self.memory.write_bytes(held[0] + ELEMENTS, units)
            found = self.allocate(self.loader.load(STRING))
            self.set_field(found, STRING, "value", "[C", held[0])
            return found

    def intern(self, text: str) -> int:
        """Return the one string that a text's constants stand for."""
        found = self.strings.get(text)
        if found is None:
            found = self.strings[text] = self.string(text)
        return found

    def text(self, string: int) -> str:
        """Return what a string says."""
        array = self.memory.read(string + self.field_place(STRING, "value", "[C"), 4)
        if not array:
            return ""
        units = self.heap.bytes_of(array, 2)
        return units.decode("utf-16-le", "surrogatepass")

    # -- calls -------------------------------------------------------------------------------------------------------------

    def push(self, method: Method, words: list[int]) -> None:
        """Begin a method in the interpreter."""
        if len(self.frames) >= DEEPEST:
            raise Raise("java/lang/StackOverflowError")
        verified = verify(method, self.loader)
        assert method.code is not None
        local = words + [0] * (method.code.max_locals - len(words))
        self.frames.append(Frame(method, operations_of(method, verified), local))
        self.switched = True

    def call(self, method: Method, words: list[int]) -> None:
        """Call a method: compiled, native or in the interpreter. Its result goes to the frame that is the innermost now.

        While a native method runs, `words` are held for the collector.
        """
        if method.is_native:
            self.call_native(method, words)
        elif method.is_abstract:
            raise ImageError(f"{method.title} is abstract, and yet it is called: compile all classes together")
        elif not self.compiled.call(method, words):
            self.push(method, words)

    def call_native(self, method: Method, words: list[int]) -> None:
        """Let Python do what a native method is for."""
        native = NATIVES.get((method.owner.name, *method.key))
        if native is None:
            raise ImageError(f"{method.title} is native, and this virtual machine has it not: write it in Java")
        self.calls[method.title] += 1
        self.charge("native methods", self.costs.managed_call)
        with self.handles() as held:
            held.extend(self._references(method, words))
            caller = self.frames[-1] if self.frames else None
            result = native(self, words)
        if caller is not None and self.frames and method.result != "V":
            caller.give((result, 0) if method.result == "J" else (result,))

    def _references(self, method: Method, words: list[int]) -> list[int]:
        found, place = ([] if method.is_static else words[:1]), int(not method.is_static)
        for each in method.parameters:
            if each[0] in "L[":
                found.append(words[place])
            place += slots(each)
        return found

    def leave(self, words: tuple[int, ...]) -> None:
        """End the innermost method; its caller takes the result."""
        frame = self.frames.pop()
        assert isinstance(frame, Frame)
        if frame.method.name == "<clinit>":
            frame.method.owner.state = INITIALISED
        elif self.frames:
            self.frames[-1].give(words)
        self.switched = True

    def initialise(self, found: JavaClass) -> bool:
        """See that a class has been initialised; False where that has only begun, and the instruction must be done again."""
        if found.state in (INITIALISED, INITIALISING):
            return True
        if found.state == FAILED:
            raise Raise("java/lang/NoClassDefFoundError", f"Could not initialize class {found.title}")
        found.state = INITIALISING
        assert found.file is not None
        for member in found.file.fields:
            if member.constant and member.is_static:
                kind, value = found.file.pool.loadable(member.constant)
                if (kind in "IJ" and kind == ("J" if member.descriptor == "J" else "I")) or kind == member.descriptor:
                    number = self.intern(value) if isinstance(value, str) else value
                    self.heap.set(found.fields[member.name, member.descriptor].place, member.descriptor, number)
        initialiser = found.methods.get(("<clinit>", "()V"))
        ready = initialiser is None
        if initialiser is None:
            found.state = INITIALISED
        else:
            self.push(initialiser, [])
        if found.superclass and found.superclass.state == LINKED and not found.is_interface:
            ready = self.initialise(found.superclass) and ready
        return ready

    def identity(self, reference: int) -> int:
        """Return the number that tells an object from others: it stays where it is."""
        return (reference - self.heap.start + HEADER) * 0x9E3779B1 >> 8 & 0x7FFFFFF if reference else 0

    def prepare(self) -> None:
        """Set an OutOfMemoryError aside, for when there is no memory to make one."""
        self.last_resort = make(self, Raise("java/lang/OutOfMemoryError", "Java heap space"))
