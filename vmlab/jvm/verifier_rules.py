"""What the verifier demands of single instructions, where the table of opcodes does not say it all.

Read more: JVMS 4.10.1.9, which has a rule for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.jvm.descriptors import INTEGERS, parse_method

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.bytecode import Bytecode
    from vmlab.jvm.verifier import Verifier

    Rule = Callable[[Verifier, Bytecode], None]

__all__ = ["RULES"]

RULES: dict[str, Rule] = {}
"""Rules by the instruction's name."""


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


# -- constants and local variables -----------------------------------------------------------------------------------------


@_rule("aconst_null")
def _null(at: Verifier, code: Bytecode) -> None:
    at.push("N")


@_rule("ldc")
def _constant(at: Verifier, code: Bytecode) -> None:
    kind, _ = at.pool.loadable(code.operand)
    if kind == "Ljava/lang/Class;":
        raise at.refuse("class literals (A.class, and assert, which needs one) are not there: do without")
    if (kind in ("J", "D")) != (code.mnemonic == "ldc2_w"):
        raise at.refuse("a constant of the other size: the class file is damaged")
    at.push(kind)


@_rule("iload", "lload")
def _load(at: Verifier, code: Bytecode) -> None:
    wanted = at.words("I" if code.name == "iload" else "J")
    if at.local(code.operand, len(wanted)) != wanted:
        raise at.refuse(f"local variable {code.operand} holds no such number: the class file is damaged")
    at.stack += wanted
    at.push("V")


@_rule("aload")
def _load_reference(at: Verifier, code: Bytecode) -> None:
    kind = at.local(code.operand)[0]
    if kind[0] not in "L[NU":
        raise at.refuse(f"local variable {code.operand} holds no reference: the class file is damaged")
    at.push(kind)


@_rule("istore", "lstore")
def _store(at: Verifier, code: Bytecode) -> None:
    kind = "I" if code.name == "istore" else "J"
    at.pop(kind)
    at.set_local(code.operand, at.words(kind))


@_rule("astore")
def _store_reference(at: Verifier, code: Bytecode) -> None:
    kind = at.pop_word()
    if kind[0] not in "L[NU":
        raise at.refuse("there is no reference to store: the class file is damaged")
    at.set_local(code.operand, [kind])


@_rule("iinc")
def _increment(at: Verifier, code: Bytecode) -> None:
    if at.local(code.operand[0]) != ["I"]:
        raise at.refuse(f"local variable {code.operand[0]} holds no int: the class file is damaged")


# -- the operand stack -----------------------------------------------------------------------------------------------------


def _shuffle(taken: int, order: tuple[int, ...], borders: tuple[int, ...]) -> Rule:
    """Return the rule of an instruction that takes words and puts them back in an order.

    At the borders, in words from the top, no long may be cut in two.
    """

    def rule(at: Verifier, code: Bytecode) -> None:
        words = [at.pop_word() for _ in range(taken)]
        deeper = [*words, *at.stack[-1:]]
        if any(border < len(deeper) and deeper[border] == "J" and deeper[border - 1] == "_" for border in borders):
            raise at.refuse("a long is cut in two: the class file is damaged")
        at.stack += [words[each] for each in order]
        at.push("V")

    return rule


# The word 0 is the top. `order` is what is pushed, the deepest first.
RULES["pop"] = _shuffle(1, (), (1,))
RULES["pop2"] = _shuffle(2, (), (2,))
RULES["dup"] = _shuffle(1, (0, 0), (1,))
RULES["dup_x1"] = _shuffle(2, (0, 1, 0), (1, 2))
RULES["dup_x2"] = _shuffle(3, (0, 2, 1, 0), (1, 3))
RULES["dup2"] = _shuffle(2, (1, 0, 1, 0), (2,))
RULES["dup2_x1"] = _shuffle(3, (1, 0, 2, 1, 0), (2, 3))
RULES["dup2_x2"] = _shuffle(4, (1, 0, 3, 2, 1, 0), (2, 4))
RULES["swap"] = _shuffle(2, (0, 1), (1, 2))


# -- arrays ----------------------------------------------------------------------------------------------------------------

_ELEMENTS = {"i": "I", "l": "J", "b": "BZ", "c": "C", "s": "S"}


def _array(at: Verifier, elements: str) -> str:
    """Take an array from the stack; return the type of its elements, or `"N"` for null."""
    kind = at.pop("A")
    if kind != "N" and (kind[0] != "[" or kind[1] not in elements):
        raise at.refuse("there is no such array: the class file is damaged")
    return kind[1:] or "N"


@_rule("iaload", "laload", "baload", "caload", "saload")
def _array_load(at: Verifier, code: Bytecode) -> None:
    at.pop("I")
    at.push(code.opcode.pushes if _array(at, _ELEMENTS[code.name[0]]) else "I")


@_rule("iastore", "lastore", "bastore", "castore", "sastore")
def _array_store(at: Verifier, code: Bytecode) -> None:
    at.pop(code.opcode.pops[2])
    at.pop("I")
    _array(at, _ELEMENTS[code.name[0]])


@_rule("aaload")
def _array_load_reference(at: Verifier, code: Bytecode) -> None:
    at.pop("I")
    at.push(_array(at, "L["))


@_rule("aastore")
def _array_store_reference(at: Verifier, code: Bytecode) -> None:
    at.pop("A")
    at.pop("I")
    _array(at, "L[")


@_rule("arraylength")
def _length(at: Verifier, code: Bytecode) -> None:
    _array(at, "ZBCSIJL[")
    at.push("I")


@_rule("newarray")
def _new_array(at: Verifier, code: Bytecode) -> None:
    at.words(code.operand)
    at.pop("I")
    at.push("[" + code.operand)


@_rule("anewarray")
def _new_references(at: Verifier, code: Bytecode) -> None:
    at.pop("I")
    at.push("[" + _class_type(at, code.operand))


@_rule("multianewarray")
def _new_dimensions(at: Verifier, code: Bytecode) -> None:
    kind, dimensions = _class_type(at, code.operand[0]), code.operand[1]
    if not 0 < dimensions <= len(kind) - len(kind.lstrip("[")):
        raise at.refuse(f"an array of {dimensions} dimensions of type {kind}: the class file is damaged")
    at.words(kind.lstrip("["))
    for _ in range(dimensions):
        at.pop("I")
    at.push(kind)


# -- objects ---------------------------------------------------------------------------------------------------------------


def _class_type(at: Verifier, index: int) -> str:
    name = at.pool.class_name(index)
    return name if name.startswith("[") else f"L{name};"


@_rule("new")
def _new(at: Verifier, code: Bytecode) -> None:
    kind = _class_type(at, code.operand)
    if kind[0] == "[" or at.loader.load(kind[1:-1]).is_abstract:
        raise at.refuse("there are no objects of just this class: the class file is damaged")
    made = f"U{at.index}:{kind}"
    if made in at.stack:
        raise at.refuse("an object of this instruction has seen no constructor yet: the class file is damaged")
    at.locals = ["T" if each == made else each for each in at.locals]
    at.push(made)


@_rule("checkcast")
def _cast(at: Verifier, code: Bytecode) -> None:
    at.pop("A")
    at.push(_class_type(at, code.operand))


@_rule("instanceof")
def _instance(at: Verifier, code: Bytecode) -> None:
    _class_type(at, code.operand)
    at.pop("A")
    at.push("I")


@_rule("getstatic", "putstatic", "getfield", "putfield")
def _field(at: Verifier, code: Bytecode) -> None:
    found = at.pool.field(code.operand)
    if code.name.startswith("put"):
        at.pop(found.descriptor)
    if code.name.endswith("field"):
        own = f"UT:{at.method.owner.descriptor}"
        if code.name == "putfield" and found.owner == at.method.owner.name and at.stack[-1:] == [own]:
            at.pop_word()  # javac stores the outer object before it calls the other constructor
        elif found.owner.startswith("["):
            raise at.refuse("an array has no fields: the class file is damaged")
        else:
            at.pop(f"L{found.owner};")
    if code.name.startswith("get"):
        at.push(found.descriptor)


@_rule("invokevirtual", "invokespecial", "invokestatic", "invokeinterface")
def _call(at: Verifier, code: Bytecode) -> None:
    found = at.pool.method(code.operand)
    parameters, result = parse_method(found.descriptor)
    for each in reversed(parameters):
        at.pop(each)
    if found.name == "<init>":
        if code.name != "invokespecial":
            raise at.refuse("a constructor is called by INVOKESPECIAL: the class file is damaged")
        _construct(at, found.owner)
    elif found.name == "<clinit>":
        raise at.refuse("nobody calls <clinit>: the class file is damaged")
    elif code.name != "invokestatic":
        at.pop(found.owner if found.owner.startswith("[") else f"L{found.owner};")
    at.push(result)


def _construct(at: Verifier, owner: str) -> None:
    """Take an object that has seen no constructor, and note that it has now."""
    kind = at.pop_word()
    name, _, descriptor = kind.partition(":")
    own = at.method.owner
    allowed = {descriptor[1:-1]}
    if name == "UT" and own.superclass:
        allowed.add(own.superclass.name)
    if kind[0] != "U" or owner not in allowed:
        raise at.refuse("there is no new object for this constructor: the class file is damaged")
    at.replace(kind, descriptor)


@_rule("athrow")
def _throw(at: Verifier, code: Bytecode) -> None:
    at.pop("Ljava/lang/Throwable;")


@_rule("ireturn", "lreturn", "areturn", "return")
def _return(at: Verifier, code: Bytecode) -> None:
    result = at.method.result
    kind = "V" if result == "V" else "I" if result in INTEGERS else "J" if result == "J" else "A"
    if {"return": "V", "ireturn": "I", "lreturn": "J", "areturn": "A"}[code.name] != kind:
        raise at.refuse("this is not what the method returns: the class file is damaged")
    at.pop(result)
    if at.method.name == "<init>" and any(each.startswith("UT:") for each in at.locals):
        raise at.refuse("the constructor has called no other constructor: the class file is damaged")
