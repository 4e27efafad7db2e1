"""Instructions of the interpreter that work on objects and arrays, and call methods.

A symbolic reference is looked up when it is first used; then the instruction is replaced by one that has what was found. Where a
class must be initialised first, its initialiser is begun, and the instruction waits for it.

Read more: JVMS 2.11.5, 2.11.8, 5.4.3, 5.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import ImageError
from vmlab.jvm.heap import ELEMENTS, LENGTH, signed
from vmlab.jvm.operations_numbers import push, push_long
from vmlab.jvm.throwing import Raise, bounds, null_pointer

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.classes import Field, JavaClass, Method, MethodKey
    from vmlab.jvm.constant_pool import ConstantPool
    from vmlab.jvm.frames import Frame
    from vmlab.jvm.runtime import Runtime

    Function = Callable[[Any, Frame, Any], None]

__all__ = ["OPERATIONS", "can_store", "cast_error"]

OPERATIONS: dict[str, Function] = {}


def _operation(*names: str) -> Callable[[Function], Function]:
    def enter(function: Function) -> Function:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return enter


def _pool(frame: Frame) -> ConstantPool:
    assert frame.method.owner.file is not None
    return frame.method.owner.file.pool


def _become(vm: Runtime, frame: Frame, function: Function, operand: object) -> None:
    """Put a quicker operation in the place of the present one, and do it."""
    frame.operations[frame.next - 1] = function, operand
    function(vm, frame, operand)


@_operation("ldc")
def _constant(vm: Runtime, frame: Frame, index: int) -> None:
    kind, value = _pool(frame).loadable(index)
    if isinstance(value, str):
        _become(vm, frame, push, vm.intern(value))
    else:
        _become(vm, frame, push_long if kind == "J" else push, value)


# -- fields ----------------------------------------------------------------------------------------------------------------


@_operation("getstatic", "putstatic")
def _find_static(vm: Runtime, frame: Frame, index: int) -> None:
    field = vm.loader.field(_pool(frame).field(index), is_static=True)
    if not vm.initialise(field.owner):
        frame.wait()
        return
    code = frame.method.verified.code[frame.next - 1] if frame.method.verified else None
    assert code is not None
    _become(vm, frame, _get_static if code.name == "getstatic" else _put_static, field)


def _get_static(vm: Runtime, frame: Frame, field: Field) -> None:
    frame.stack.append(vm.heap.get(field.place, field.descriptor))
    if field.descriptor == "J":
        frame.stack.append(0)


def _put_static(vm: Runtime, frame: Frame, field: Field) -> None:
    if field.descriptor == "J":
        frame.stack.pop()
    vm.heap.set(field.place, field.descriptor, frame.stack.pop())


@_operation("getfield", "putfield")
def _find_field(vm: Runtime, frame: Frame, index: int) -> None:
    field = vm.loader.field(_pool(frame).field(index), is_static=False)
    code = frame.method.verified.code[frame.next - 1] if frame.method.verified else None
    assert code is not None
    _become(vm, frame, _get_field if code.name == "getfield" else _put_field, (field.place, field.descriptor))


def _get_field(vm: Runtime, frame: Frame, operand: tuple[int, str]) -> None:
    place, descriptor = operand
    reference = frame.stack[-1]
    if not reference:
        raise null_pointer()
    frame.stack[-1] = vm.heap.get(reference + place, descriptor)
    if descriptor == "J":
        frame.stack.append(0)


def _put_field(vm: Runtime, frame: Frame, operand: tuple[int, str]) -> None:
    place, descriptor = operand
    stack = frame.stack
    if descriptor == "J":
        stack.pop()
    value = stack.pop()
    reference = stack.pop()
    if not reference:
        raise null_pointer()
    vm.heap.set(reference + place, descriptor, value)


# -- arrays ----------------------------------------------------------------------------------------------------------------


def _element(vm: Runtime, array: int, index: int, size: int) -> int:
    """Return the address of an array's element."""
    if not array:
        raise null_pointer()
    length = vm.memory.read(array + LENGTH, 4)
    if not 0 <= index < length:
        raise bounds(index, length)
    return array + ELEMENTS + index * size


def _access(letter: str, size: int, *, has_sign: bool) -> None:
    def load(vm: Runtime, frame: Frame, operand: None) -> None:
        index = frame.stack.pop()
        value = vm.memory.read(_element(vm, frame.stack[-1], index, size), size)
        frame.stack[-1] = value - ((value & sign) << 1)

    def store(vm: Runtime, frame: Frame, operand: None) -> None:
        stack = frame.stack
        value = stack.pop()
        index = stack.pop()
        vm.memory.write(_element(vm, stack.pop(), index, size), size, value)

    sign = 1 << 8 * size - 1 if has_sign else 0
    OPERATIONS[letter + "aload"], OPERATIONS[letter + "astore"] = load, store


for _letter, _size, _has_sign in (("i", 4, True), ("b", 1, True), ("s", 2, True), ("c", 2, False), ("a", 4, False)):
    _access(_letter, _size, has_sign=_has_sign)


@_operation("bastore")
def _store_byte(vm: Runtime, frame: Frame, operand: None) -> None:
    stack = frame.stack
    value = stack.pop()
    index = stack.pop()
    array = stack.pop()
    place = _element(vm, array, index, 1)
    if vm.class_of(array).element == "Z":
        value &= 1
    vm.memory.write(place, 1, value)


@_operation("aastore")
def _store_reference(vm: Runtime, frame: Frame, operand: None) -> None:
    stack = frame.stack
    value = stack.pop()
    index = stack.pop()
    array = stack.pop()
    place = _element(vm, array, index, 4)
    if value and not can_store(vm, array, value):
        raise Raise("java/lang/ArrayStoreException", vm.class_of(value).title)
    vm.memory.write(place, 4, value)


def can_store(vm: Runtime, array: int, value: int) -> bool:
    """Say whether an array of references may hold an object."""
    element = vm.class_of(array).element
    return vm.loader.is_instance(vm.class_of(value), vm.loader.load(element[1:-1] if element[0] == "L" else element))


@_operation("laload")
def _load_long(vm: Runtime, frame: Frame, operand: None) -> None:
    index = frame.stack.pop()
    frame.stack[-1] = signed(vm.memory.read(_element(vm, frame.stack[-1], index, 8), 8), 64)
    frame.stack.append(0)


@_operation("lastore")
def _store_long(vm: Runtime, frame: Frame, operand: None) -> None:
    stack = frame.stack
    stack.pop()
    value = stack.pop()
    index = stack.pop()
    vm.memory.write(_element(vm, stack.pop(), index, 8), 8, value)


@_operation("arraylength")
def _length(vm: Runtime, frame: Frame, operand: None) -> None:
    array = frame.stack[-1]
    if not array:
        raise null_pointer()
    frame.stack[-1] = vm.memory.read(array + LENGTH, 4)


@_operation("newarray")
def _new_array(vm: Runtime, frame: Frame, element: str) -> None:
    _become(vm, frame, _make_array, vm.loader.load("[" + element))


@_operation("anewarray")
def _new_references(vm: Runtime, frame: Frame, index: int) -> None:
    _become(vm, frame, _make_array, vm.loader.load("[" + _class(vm, frame, index).descriptor))


def _make_array(vm: Runtime, frame: Frame, found: JavaClass) -> None:
    length = frame.stack.pop()
    frame.stack.append(vm.allocate_array(found, length))


@_operation("multianewarray")
def _new_dimensions(vm: Runtime, frame: Frame, operand: tuple[int, int]) -> None:
    index, dimensions = operand
    lengths = frame.stack[-dimensions:]
    del frame.stack[-dimensions:]
    frame.stack.append(vm.allocate_arrays(_class(vm, frame, index), lengths))


# -- objects ---------------------------------------------------------------------------------------------------------------


def _class(vm: Runtime, frame: Frame, index: int) -> JavaClass:
    return vm.loader.load(_pool(frame).class_name(index))


@_operation("new")
def _new(vm: Runtime, frame: Frame, index: int) -> None:
    found = _class(vm, frame, index)
    if not vm.initialise(found):
        frame.wait()
        return
    _become(vm, frame, _make, found)


def _make(vm: Runtime, frame: Frame, found: JavaClass) -> None:
    frame.stack.append(vm.allocate(found))


@_operation("instanceof")
def _find_instance(vm: Runtime, frame: Frame, index: int) -> None:
    _become(vm, frame, _instance, _class(vm, frame, index))


def _instance(vm: Runtime, frame: Frame, target: JavaClass) -> None:
    reference = frame.stack[-1]
    frame.stack[-1] = int(bool(reference) and vm.loader.is_instance(vm.class_of(reference), target))


@_operation("checkcast")
def _find_cast(vm: Runtime, frame: Frame, index: int) -> None:
    _become(vm, frame, _cast, _class(vm, frame, index))


def _cast(vm: Runtime, frame: Frame, target: JavaClass) -> None:
    reference = frame.stack[-1]
    if reference and not vm.loader.is_instance(vm.class_of(reference), target):
        raise cast_error(vm, vm.class_of(reference), target)


def cast_error(vm: Runtime, source: JavaClass, target: JavaClass) -> Raise:
    """Return the exception of a cast, with the message that `java` gives."""
    places = [_home(vm, each) for each in (source, target)]
    if places[0] == places[1]:
        said = f"{source.title} and {target.title} are in {places[0]}"
    else:
        said = f"{source.title} is in {places[0]}; {target.title} is in {places[1]}"
    return Raise(
        "java/lang/ClassCastException", f"class {source.title} cannot be cast to class {target.title} ({said})"
    )


def _home(vm: Runtime, found: JavaClass) -> str:
    base = found.name.lstrip("[")
    base = base[1:-1] if found.element and base[0] == "L" else base
    return "unnamed module of loader 'app'" if base in vm.loader.files else "module java.base of loader 'bootstrap'"


# -- calls -----------------------------------------------------------------------------------------------------------------


def _arguments(frame: Frame, words: int) -> list[int]:
    if not words:
        return []
    found = frame.stack[-words:]
    del frame.stack[-words:]
    return found


@_operation("invokestatic")
def _find_static_method(vm: Runtime, frame: Frame, index: int) -> None:
    method = vm.loader.method(_pool(frame).method(index), is_static=True)
    if not vm.initialise(method.owner):
        frame.wait()
        return
    _become(vm, frame, _call_static, method)


def _call_static(vm: Runtime, frame: Frame, method: Method) -> None:
    vm.call(method, _arguments(frame, method.words))


@_operation("invokespecial")
def _find_special(vm: Runtime, frame: Frame, index: int) -> None:
    reference = _pool(frame).method(index)
    method = vm.loader.method(reference)
    if reference.name == "<init>" and method.owner.name != reference.owner:
        raise ImageError(f"class {reference.owner} has no such constructor: compile all classes together")
    _become(vm, frame, _call_special, method)


def _call_special(vm: Runtime, frame: Frame, method: Method) -> None:
    words = _arguments(frame, method.words)
    if not words[0]:
        raise null_pointer()
    vm.call(method, words)


@_operation("invokevirtual")
def _find_virtual(vm: Runtime, frame: Frame, index: int) -> None:
    reference = _pool(frame).method(index)
    method = vm.loader.method(reference)
    owner = vm.loader.load(reference.owner)
    if method.key not in owner.places:
        raise ImageError(f"{method.title} is no method of a class: compile all classes together")
    _become(vm, frame, _call_virtual, (owner.places[method.key], method.words))


def _call_virtual(vm: Runtime, frame: Frame, operand: tuple[int, int]) -> None:
    index, count = operand
    words = _arguments(frame, count)
    if not words[0]:
        raise null_pointer()
    vm.call(vm.class_of(words[0]).table[index], words)


@_operation("invokeinterface")
def _find_interface(vm: Runtime, frame: Frame, index: int) -> None:
    method = vm.loader.method(_pool(frame).method(index))
    _become(vm, frame, _call_interface, (method.key, method.words))


def _call_interface(vm: Runtime, frame: Frame, operand: tuple[MethodKey, int]) -> None:
    key, count = operand
    words = _arguments(frame, count)
    if not words[0]:
        raise null_pointer()
    vm.call(vm.class_of(words[0]).selected(key), words)
