"""Exceptions: made by the virtual machine or by the program, and where they lead.

While Python works for the program, an exception of the program is one of two Python exceptions, which never leave the virtual
machine: `Raise`, of which the object is still to be made, and `Thrown`, of which it is there.

An exception goes up from frame to frame to the first whose exception table catches it there. Out of a static initialiser it
becomes an ExceptionInInitializerError. What nobody has caught is printed, and ends the program with status 1.

Read more: JVMS 2.10, 5.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.jvm.classes import FAILED
from vmlab.jvm.frames import Frame, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.jvm.classes import Method
    from vmlab.jvm.runtime import Runtime

__all__ = ["Raise", "Thrown", "bounds", "find_handler", "make", "null_pointer", "trace", "trace_element", "unwind"]

THROWABLE = "java/lang/Throwable"
MOST_TRACED = 1024
"""Methods in a stack trace, as `java` keeps them."""


class Raise(Exception):  # noqa: N818 - an exception of the program, not an error of the library
    """An exception of the program, to be made: the name of its class, and its message."""

    def __init__(self, name: str, message: str | None = None) -> None:
        super().__init__(name, message)
        self.name, self.message = name, message


class Thrown(Exception):  # noqa: N818 - the same
    """An exception of the program; `reference` is its object."""

    def __init__(self, reference: int) -> None:
        super().__init__(reference)
        self.reference = reference


def null_pointer() -> Raise:
    """Return the exception of a reference that is null."""
    return Raise("java/lang/NullPointerException")


def bounds(index: int, length: int) -> Raise:
    """Return the exception of an index outside of an array."""
    return Raise("java/lang/ArrayIndexOutOfBoundsException", f"Index {index} out of bounds for length {length}")


def make(vm: Runtime, raised: Raise) -> int:
    """Make the object of an exception that the virtual machine raises itself.

    Where there is no memory for it, it is the OutOfMemoryError that was set aside at the beginning.
    """
    found = vm.loader.load(raised.name)
    try:
        with vm.handles() as held:
            held.append(vm.allocate(found))
            if raised.message is not None:
                held.append(vm.string(raised.message))
                vm.set_field(held[0], THROWABLE, "message", "Ljava/lang/String;", held[1])
            fill_trace(vm, held[0])
            return held[0]
    except Raise:
        return vm.last_resort


# -- stack traces ----------------------------------------------------------------------------------------------------------


def methods(vm: Runtime) -> Iterator[tuple[Method, int]]:
    """Yield the methods that are being executed, the innermost first, each with the index of its instruction."""
    for frame in reversed(vm.frames):
        if isinstance(frame, Frame):
            yield frame.method, frame.index
        else:
            for each in vm.compiled.walk(frame):
                yield each.method, each.instruction


def trace(vm: Runtime, reference: int) -> list[int]:
    """Return number and line of each method that is being executed, but for those that make the exception itself."""
    made = vm.class_of(reference).supers
    found: list[int] = []
    making = True
    for method, index in methods(vm):
        making = making and method.owner.name in made and method.name in ("<init>", "fillInStackTrace")
        if making or method.name == "uncaught":
            continue
        offset = method.verified.code[index].offset if method.verified and index >= 0 else 0
        found += (method.number, method.line(offset))
        if len(found) == 2 * MOST_TRACED:
            break
    return found


def fill_trace(vm: Runtime, reference: int) -> None:
    """Note in an exception where it was made."""
    numbers = trace(vm, reference)
    with vm.handles() as held:
        held.append(reference)
        array = vm.allocate_array(vm.loader.load("[I"), len(numbers))
        vm.store_ints(array, numbers)
        vm.set_field(reference, THROWABLE, "trace", "[I", array)


def trace_element(vm: Runtime, number: int, line: int) -> str:
    """Return a line of a stack trace, as `Sieve.main(Sieve.java:12)`."""
    if not 0 <= number < len(vm.loader.methods):
        return "?"
    method = vm.loader.methods[number]
    source = method.owner.file.source if method.owner.file else ""
    place = f"{source}:{line}" if source and line else source or "Unknown Source"
    return f"{method.owner.title}.{method.name}({place})"


# -- the way up ------------------------------------------------------------------------------------------------------------


def find_handler(vm: Runtime, method: Method, index: int, reference: int) -> int | None:
    """Return the index of the instruction that an exception leads to in a method; None where the method does not catch it."""
    assert method.verified is not None
    thrown = vm.class_of(reference)
    for handler in method.verified.handlers:
        if handler.start <= index < handler.end and (handler.catch is None or handler.catch in thrown.supers):
            return handler.target
    return None


def unwind(vm: Runtime, reference: int) -> None:
    """Let an exception go up to where it is caught, or to the end of the program."""
    while vm.frames:
        frame = vm.frames[-1]
        vm.charge("exceptions", vm.costs.managed_unwind)
        if isinstance(frame, Segment):
            if vm.compiled.catch(frame, reference):
                return
            vm.frames.pop()
            continue
        target = find_handler(vm, frame.method, frame.index, reference)
        if target is not None:
            frame.stack[:] = [reference]
            frame.next = target
            vm.switched = True
            return
        vm.frames.pop()
        if frame.method.name == "<clinit>":
            reference = _failed(vm, frame.method, reference)
    _uncaught(vm, reference)


def _failed(vm: Runtime, method: Method, reference: int) -> int:
    """Note that a static initialiser has failed; return the error that goes on from there."""
    method.owner.state = FAILED
    if "java/lang/Error" in vm.class_of(reference).supers:
        return reference
    with vm.handles() as held:
        held.append(reference)
        error = make(vm, Raise("java/lang/ExceptionInInitializerError"))
        vm.set_field(error, THROWABLE, "cause", f"L{THROWABLE};", reference)
        return error


def _uncaught(vm: Runtime, reference: int) -> None:
    """Let the library print an exception that nobody has caught."""
    if vm.status is not None:
        return  # the report itself has failed
    vm.status = 1
    method = vm.loader.load(THROWABLE).methods["uncaught", f"(L{THROWABLE};)V"]
    vm.push(method, [reference])
