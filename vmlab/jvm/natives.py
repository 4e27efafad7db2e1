"""Native methods: what the library cannot say in Java.

Each is a function of the runtime and the words of its parameters, `this` first; it returns the result, or raises what the
program is to see.

Read more: the library's sources in `vmlab/jvm/library/`, which say `native`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.jvm.descriptors import spell
from vmlab.jvm.heap import ELEMENTS, element_size
from vmlab.jvm.throwing import Raise, fill_trace, null_pointer, trace_element

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.classes import JavaClass
    from vmlab.jvm.runtime import Runtime

    Native = Callable[[Runtime, list[int]], int]

__all__ = ["NATIVES"]

NATIVES: dict[tuple[str, str, str], Native] = {}
"""Functions by class, name and descriptor."""

SECTOR = 512
PROCESS = 1


def _native(owner: str, name: str, descriptor: str) -> Callable[[Native], Native]:
    def enter(function: Native) -> Native:
        NATIVES[owner, name, descriptor] = function
        return function

    return enter


@_native("java/lang/Object", "hashCode", "()I")
@_native("java/lang/System", "identityHashCode", "(Ljava/lang/Object;)I")
def _hash_code(vm: Runtime, words: list[int]) -> int:
    return vm.identity(words[0])


@_native("java/lang/Object", "getClass", "()Ljava/lang/Class;")
def _get_class(vm: Runtime, words: list[int]) -> int:
    name = vm.class_of(words[0]).title
    if name not in vm.class_objects:
        with vm.handles() as held:
            held.append(vm.string(name))
            made = vm.allocate(vm.loader.load("java/lang/Class"))
            vm.set_field(made, "java/lang/Class", "name", "Ljava/lang/String;", held[0])
        vm.class_objects[name] = made
    return vm.class_objects[name]


@_native("java/lang/Object", "clone", "()Ljava/lang/Object;")
def _clone(vm: Runtime, words: list[int]) -> int:
    found = vm.class_of(words[0])
    if found.element:
        copy = vm.allocate_array(found, vm.heap.length(words[0]))
        vm.memory.write_bytes(copy + ELEMENTS, vm.heap.bytes_of(words[0], element_size(found.element)))
        return copy
    if "java/lang/Cloneable" not in found.supers:
        raise Raise("java/lang/CloneNotSupportedException", found.title)
    copy = vm.allocate(found)
    vm.memory.write_bytes(copy + 8, vm.memory.read_bytes(words[0] + 8, found.size - 8))
    return copy


@_native("java/lang/String", "intern", "()Ljava/lang/String;")
def _intern(vm: Runtime, words: list[int]) -> int:
    return vm.strings.setdefault(vm.text(words[0]), words[0])


@_native("java/lang/System", "arraycopy", "(Ljava/lang/Object;ILjava/lang/Object;II)V")
def _copy(vm: Runtime, words: list[int]) -> int:
    source, start, target, place, count = words
    if not source or not target:
        raise null_pointer()
    left, right = vm.class_of(source), vm.class_of(target)
    _check_copy(vm, left, right)
    size, many, room = element_size(left.element), vm.heap.length(source), vm.heap.length(target)
    # What Java 17 says of each, the first that is wrong.
    kind = "object array" if left.element[0] in "L[" else spell(left.element)
    wrong = (
        (start < 0, f"arraycopy: source index {start} out of bounds for {kind}[{many}]"),
        (place < 0, f"arraycopy: destination index {place} out of bounds for {kind}[{room}]"),
        (count < 0, f"arraycopy: length {count} is negative"),
        (start + count > many, f"arraycopy: last source index {start + count} out of bounds for {kind}[{many}]"),
        (place + count > room, f"arraycopy: last destination index {place + count} out of bounds for {kind}[{room}]"),
    )
    for is_wrong, message in wrong:
        if is_wrong:
            raise Raise("java/lang/ArrayIndexOutOfBoundsException", message)
    vm.charge("native methods", count * size // 4)
    if right.element[0] == "L" and not vm.loader.is_instance(left, right):
        _copy_each(vm, left, right, words)
        return 0
    moved = vm.memory.read_bytes(source + ELEMENTS + start * size, count * size)
    vm.memory.write_bytes(target + ELEMENTS + place * size, moved)
    return 0


def _check_copy(vm: Runtime, left: JavaClass, right: JavaClass) -> None:
    for found, which in ((left, "source"), (right, "destination")):
        if not found.element:
            raise Raise("java/lang/ArrayStoreException", f"arraycopy: {which} type {found.title} is not an array")
    first, second = left.element, right.element
    if first == second or (first[0] in "L[" and second[0] in "L["):
        return
    kinds = ["object array[]" if each[0] in "L[" else f"{spell(each)}[]" for each in (first, second)]
    raise Raise("java/lang/ArrayStoreException", f"arraycopy: type mismatch: can not copy {kinds[0]} into {kinds[1]}")


def _copy_each(vm: Runtime, left: JavaClass, right: JavaClass, words: list[int]) -> None:
    """Copy references one by one, up to the first that the target may not hold."""
    source, start, target, place, count = words
    wanted = vm.loader.load(right.element[1:-1] if right.element[0] == "L" else right.element)
    for n in range(count):
        reference = vm.memory.read(source + ELEMENTS + 4 * (start + n), 4)
        if reference and not vm.loader.is_instance(vm.class_of(reference), wanted):
            raise Raise(
                "java/lang/ArrayStoreException",
                f"arraycopy: element type mismatch: can not cast one of the elements of {spell(left.name)} to the type of "
                f"the destination array, {wanted.title}",
            )
        vm.memory.write(target + ELEMENTS + 4 * (place + n), 4, reference)


@_native("java/lang/System", "exit", "(I)V")
def _exit(vm: Runtime, words: list[int]) -> int:
    vm.status = words[0] & 0xFF
    vm.frames.clear()
    vm.switched = True
    return 0


@_native("java/lang/System", "gc", "()V")
def _collect(vm: Runtime, words: list[int]) -> int:
    vm.collect()
    return 0


@_native("java/io/PrintStream", "write", "(ILjava/lang/String;)V")
def _write(vm: Runtime, words: list[int]) -> int:
    text = vm.text(words[1]).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    raw = text.encode("utf-8")
    (vm.errors if words[0] == 2 else vm.output).extend(raw)
    vm.process.print(raw)
    vm.charge("system calls", 2 * vm.costs.fast_call)
    return 0


@_native("java/lang/Throwable", "fillInStackTrace", "()Ljava/lang/Throwable;")
def _fill(vm: Runtime, words: list[int]) -> int:
    fill_trace(vm, words[0])
    return words[0]


@_native("java/lang/Throwable", "element", "(II)Ljava/lang/String;")
def _element(vm: Runtime, words: list[int]) -> int:
    return vm.string(trace_element(vm, words[0], words[1]))


@_native("vmlab/Machine", "read", "(I[B)I")
def _read(vm: Runtime, words: list[int]) -> int:
    sector, buffer = words
    if not buffer:
        raise null_pointer()
    if vm.heap.length(buffer) < SECTOR:
        message = f"a sector has {SECTOR} bytes, the buffer {vm.heap.length(buffer)}"
        raise Raise("java/lang/IllegalArgumentException", message)
    vm.charge("system calls", 2 * vm.costs.fast_call)
    found = vm.process.read_sector(sector)
    if found is None:
        return -1
    vm.memory.write_bytes(buffer + ELEMENTS, found)
    return 0


@_native("vmlab/Machine", "tick", "()I")
def _tick(vm: Runtime, words: list[int]) -> int:
    vm.charge("system calls", 2 * vm.costs.fast_call)
    return vm.process.sleep()


@_native("vmlab/Machine", "process", "()I")
def _process(vm: Runtime, words: list[int]) -> int:
    vm.charge("system calls", 2 * vm.costs.fast_call)
    return PROCESS
