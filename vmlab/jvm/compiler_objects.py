"""What the compiler makes of instructions on objects and arrays, and of calls.

Where something must be looked up that has not been yet, where a class is not initialised, the code leaves for the interpreter,
which does it; the method is compiled anew when it has been called often again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.jvm.classes import DISPLAY, DISPLAY_AT, ELEMENT_AT, INITIALISED, TABLE_AT
from vmlab.jvm.compiled_method import BOUNDS
from vmlab.jvm.compiler_rules import BYTE_REGISTERS, Refusal, narrow, rule
from vmlab.jvm.descriptors import parse_method
from vmlab.jvm.heap import ELEMENTS, LENGTH, NARROW, element_size

if TYPE_CHECKING:
    from vmlab.jvm.bytecode import Bytecode
    from vmlab.jvm.classes import Field, JavaClass
    from vmlab.jvm.compiler import Compiler, Item
    from vmlab.jvm.constant_pool import ConstantPool

__all__: list[str] = []

LARGEST_ARRAY = 0x400
"""Elements of an array that compiled code allocates by itself."""


def _pool(at: Compiler) -> ConstantPool:
    assert at.method.owner.file is not None
    return at.method.owner.file.pool


def _leave(at: Compiler, *results: str) -> None:
    """Go on in the interpreter, from before this instruction on; what follows is never reached, and has a stack all the same."""
    depth = at.verified.depths[at.index]
    at.emit(*at.service("leave", depth))
    after = [("pushed", 0)] * at.verified.depths[at.index + 1] if at.index + 1 < len(at.verified.depths) else []
    at.stack[:] = after


def _as_interpreter(at: Compiler) -> None:
    """Let the runtime do this instruction as the interpreter does."""
    at.flush()
    at.emit(*at.service("bytecode", len(at.stack)))
    following = at.index + 1
    at.stack[:] = [("pushed", 0)] * (at.verified.depths[following] if following < len(at.verified.depths) else 0)


@rule("multianewarray", "athrow")
def _ask(at: Compiler, code: Bytecode) -> None:
    _as_interpreter(at)


@rule("monitorenter", "monitorexit")
def _monitor(at: Compiler, code: Bytecode) -> None:
    register = at.load(at.pop())
    at.fault(f"test [{register}], {register}")


@rule("ldc")
def _constant(at: Compiler, code: Bytecode) -> None:
    kind, value = _pool(at).loadable(code.operand)
    if kind == "J":
        raise Refusal("it works on numbers of 64 bits")
    if isinstance(value, str):
        if value not in at.vm.strings:
            at.flush()
            _leave(at)
            return
        value = at.vm.strings[value]
    at.push(("constant", value))


# -- fields ----------------------------------------------------------------------------------------------------------------


def _field(at: Compiler, code: Bytecode) -> Field:
    field = at.vm.loader.field(_pool(at).field(code.operand), is_static=code.name.endswith("static"))
    if field.descriptor == "J":
        raise Refusal("it works on numbers of 64 bits")
    return field


def _value(at: Compiler, descriptor: str) -> Item:
    """Take a value that is to be stored, in the range of its type: a constant or a register."""
    item = at.pop()
    if item[0] == "constant":
        return "constant", NARROW.get(descriptor, int)(int(item[1]))
    register = at.load(item)
    narrow(at, register, descriptor)
    return "register", register


@rule("getstatic", "putstatic")
def _static(at: Compiler, code: Bytecode) -> None:
    field = _field(at, code)
    if field.owner.state != INITIALISED:
        at.flush()
        _leave(at)
    elif code.name == "getstatic":
        register = at.free()
        at.emit(f"mov {register}, [{field.place:#x}]")
        at.push_register(register)
    else:
        at.emit(f"mov dword [{field.place:#x}], {at.text(_value(at, field.descriptor))}")


@rule("getfield")
def _get_field(at: Compiler, code: Bytecode) -> None:
    field = _field(at, code)
    register = at.load(at.pop())
    at.fault(f"mov {register}, [{register} + {field.place}]")
    at.push_register(register)


@rule("putfield")
def _put_field(at: Compiler, code: Bytecode) -> None:
    field = _field(at, code)
    value = _value(at, field.descriptor)
    held = [str(value[1])] if value[0] == "register" else []
    item = at.pop(*held)
    register = at.load(item, *held)
    at.fault(f"mov dword [{register} + {field.place}], {at.text(value)}")


# -- arrays ----------------------------------------------------------------------------------------------------------------


def _index(at: Compiler, *held: str) -> None:
    """Take index and array into ECX and EAX, and check both."""
    at.load_into(at.pop("eax", *held), "ecx", "eax", *held)
    at.load_into(at.pop("ecx", *held), "eax", "ecx", *held)
    at.fault(f"cmp ecx, [eax + {LENGTH}]")
    outside = at.label()
    at.emit(f"jae {outside}")
    at.aside += [f"{outside}: int {BOUNDS:#x}", f"{at.site('bounds')}:"]


_SIZES = {"i": 4, "a": 4, "b": 1, "c": 2, "s": 2}
_LOADS = {"i": "mov eax,", "a": "mov eax,", "b": "movsx eax, byte", "s": "movsx eax, word", "c": "movzx eax, word"}


@rule("iaload", "aaload", "baload", "caload", "saload")
def _array_load(at: Compiler, code: Bytecode) -> None:
    letter = code.name[0]
    _index(at)
    at.emit(f"{_LOADS[letter]} [eax + ecx * {_SIZES[letter]} + {ELEMENTS}]")
    at.push_register("eax")


@rule("iastore", "bastore", "castore", "sastore")
def _array_store(at: Compiler, code: Bytecode) -> None:
    letter = code.name[0]
    value = at.pop("eax", "ecx")
    if value[0] == "constant":
        _index(at)
    else:
        at.load_into(value, "edx", "eax", "ecx")
        value = "register", "edx"
        _index(at, "edx")
    if letter == "b" and value not in (("constant", 0), ("constant", 1)):
        at.load_into(value, "edx", "eax", "ecx")
        value = "register", "edx"
        after = at.label()
        at.emit(f"cmp dword [eax], {at.vm.loader.load('[Z').record:#x}", f"jne {after}", "and edx, 1", f"{after}:")
    size = {4: "dword", 2: "word", 1: "byte"}[_SIZES[letter]]
    text = {"dword": "edx", "word": "dx", "byte": BYTE_REGISTERS["edx"]}[size]
    if value[0] == "constant":
        text = str(int(value[1]) & (1 << 8 * _SIZES[letter]) - 1)
    at.emit(f"mov {size} [eax + ecx * {_SIZES[letter]} + {ELEMENTS}], {text}")


@rule("aastore")
def _array_store_reference(at: Compiler, code: Bytecode) -> None:
    """Store null, or an object of just the elements' class; of anything else the runtime decides."""
    at.flush()
    depth, other, store, done, outside = len(at.stack), at.label(), at.label(), at.label(), at.label()
    at.emit("pop edx", "pop ecx", "pop eax")
    at.fault(f"cmp ecx, [eax + {LENGTH}]")
    at.emit(f"jae {outside}", "test edx, edx", f"je {store}", "mov ebx, [eax]", f"mov ebx, [ebx + {ELEMENT_AT}]")
    at.emit("cmp ebx, [edx]", f"jne {other}", f"{store}: mov [eax + ecx * 4 + {ELEMENTS}], edx", f"{done}:")
    at.aside += [f"{outside}: int {BOUNDS:#x}", f"{at.site('bounds')}:"]
    at.aside += [f"{other}: push eax", "push ecx", "push edx", *at.service("bytecode", depth), f"jmp {done}"]
    at.drop(3)


@rule("newarray", "anewarray")
def _new_array(at: Compiler, code: Bytecode) -> None:
    """Take a small array from the open gap; all else is the runtime's."""
    element = code.operand if code.name == "newarray" else _class(at, code).descriptor
    found, heap = at.vm.loader.load("[" + element), at.vm.heap
    at.flush()
    depth, other, done = len(at.stack), at.label(), at.label()
    at.emit(
        "mov ecx, [esp]",
        f"cmp ecx, {LARGEST_ARRAY}",
        f"ja {other}",
        f"lea edx, [ecx * {element_size(element)} + {ELEMENTS + 7}]",
        "and edx, -8",
        f"mov eax, [{heap.open_cell:#x}]",
        "lea ebx, [eax + edx]",
        f"cmp ebx, [{heap.limit_cell:#x}]",
        f"ja {other}",
        f"mov dword [eax], {found.record:#x}",
        "mov [eax + 4], edx",
        f"mov [eax + {LENGTH}], ecx",
        f"mov [{heap.open_cell:#x}], ebx",
        "add esp, 4",
        f"{done}:",
    )
    at.aside += [f"{other}:", *at.service("bytecode", depth), "pop eax", f"jmp {done}"]
    at.drop(1)
    at.push_register("eax")


@rule("arraylength")
def _length(at: Compiler, code: Bytecode) -> None:
    register = at.load(at.pop())
    at.fault(f"mov {register}, [{register} + {LENGTH}]")
    at.push_register(register)


# -- objects ---------------------------------------------------------------------------------------------------------------


def _class(at: Compiler, code: Bytecode) -> JavaClass:
    return at.vm.loader.load(_pool(at).class_name(code.operand))


@rule("new")
def _new(at: Compiler, code: Bytecode) -> None:
    found = _class(at, code)
    at.flush()
    if found.state != INITIALISED:
        _leave(at)
        return
    heap, full, made = at.vm.heap, at.label(), at.label()
    at.emit(
        f"mov eax, [{heap.open_cell:#x}]",
        f"lea ecx, [eax + {found.size}]",
        f"cmp ecx, [{heap.limit_cell:#x}]",
        f"ja {full}",
        f"mov dword [eax], {found.record:#x}",
        f"mov dword [eax + 4], {found.size}",
        f"mov [{heap.open_cell:#x}], ecx",  # last: until then it is a gap, whoever looks
        f"{made}:",
    )
    at.aside += [f"{full}:", *at.service("bytecode", len(at.stack)), "pop eax", f"jmp {made}"]
    at.push_register("eax")


def _display(found: JavaClass) -> int:
    """Return the offset in records at which those of a class's subclasses have its own; 0 where there is none."""
    if found.is_interface or found.element or found.depth >= DISPLAY:
        return 0
    return DISPLAY_AT + 4 * found.depth


@rule("checkcast")
def _cast(at: Compiler, code: Bytecode) -> None:
    found = _class(at, code)
    display, right, wrong = _display(found), at.label(), at.label()
    at.flush()
    at.emit("mov eax, [esp]", "test eax, eax", f"je {right}", "mov eax, [eax]")
    cell = 0
    if display:
        at.emit(f"cmp dword [eax + {display}], {found.record:#x}")
    else:
        cell = at.vm.process.reserve_cell()
        at.emit(f"cmp eax, [{cell:#x}]")
    at.emit(f"jne {wrong}", f"{right}:")
    at.aside += [f"{wrong}:", *at.service("cast", len(at.stack), cell), f"jmp {right}"]


@rule("instanceof")
def _instance(at: Compiler, code: Bytecode) -> None:
    found = _class(at, code)
    display, done = _display(found), at.label()
    if not display:
        _as_interpreter(at)
        return
    at.load_into(at.pop(), "eax")
    at.emit("test eax, eax", f"je {done}", "mov eax, [eax]", f"cmp dword [eax + {display}], {found.record:#x}")
    at.emit("sete al", "movzx eax, al", f"{done}:")
    at.push_register("eax")


# -- calls -----------------------------------------------------------------------------------------------------------------


def _call(at: Compiler, words: int, result: str, target: str) -> None:
    """Call; the arguments have been pushed, and the method pops them."""
    below = len(at.stack) - words
    at.emit(f"call {target}", f"{at.site('call', below)}:")
    at.drop(words)
    if result != "V":
        at.push_register("eax")


def _types(at: Compiler, code: Bytecode) -> str:
    parameters, result = parse_method(_pool(at).method(code.operand).descriptor)
    if "J" in (result, *parameters):
        raise Refusal("it calls a method that takes or returns a long")
    return result


@rule("invokestatic")
def _call_static(at: Compiler, code: Bytecode) -> None:
    result = _types(at, code)
    method = at.vm.loader.method(_pool(at).method(code.operand), is_static=True)
    at.flush()
    if method.owner.state != INITIALISED:
        _leave(at)
        return
    _call(at, method.words, result, f"[{method.cell:#x}]")


@rule("invokespecial")
def _call_special(at: Compiler, code: Bytecode) -> None:
    result = _types(at, code)
    method = at.vm.loader.method(_pool(at).method(code.operand))
    at.flush()
    if method.name != "<init>":
        at.emit(f"mov eax, [esp + {4 * (method.words - 1)}]")
        at.fault("test [eax], eax")
    _call(at, method.words, result, f"[{method.cell:#x}]")


@rule("invokevirtual")
def _call_virtual(at: Compiler, code: Bytecode) -> None:
    result = _types(at, code)
    reference = _pool(at).method(code.operand)
    method = at.vm.loader.method(reference)
    index = at.vm.loader.load(reference.owner).places.get(method.key)
    if index is None:
        raise Refusal("it calls a method that is not there")
    at.flush()
    at.emit(f"mov eax, [esp + {4 * (method.words - 1)}]")
    at.fault("mov eax, [eax]")
    _call(at, method.words, result, f"[eax + {TABLE_AT + 4 * index}]")


@rule("invokeinterface")
def _call_interface(at: Compiler, code: Bytecode) -> None:
    result = _types(at, code)
    method = at.vm.loader.method(_pool(at).method(code.operand))
    at.flush()
    cell, other, known = at.vm.process.reserve_cell(), at.label(), at.label()
    at.emit(f"mov eax, [esp + {4 * (method.words - 1)}]")
    at.fault("mov eax, [eax]")
    at.emit(f"cmp eax, [{cell:#x}]", f"jne {other}", f"{known}: mov eax, [{cell + 4:#x}]")
    at.aside += [f"{other}:", *at.service("interface", len(at.stack), cell), f"jmp {known}"]
    _call(at, method.words, result, "[eax]")
