"""What the compiler makes of single instructions: constants, local variables, the operand stack, ints, branches.

Objects, arrays and calls are in `vmlab.jvm.compiler_objects`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.bytecode import Bytecode
    from vmlab.jvm.compiler import Compiler, Item

    Rule = Callable[[Compiler, Bytecode], None]

__all__ = ["BYTE_REGISTERS", "RULES", "Refusal", "narrow", "rule"]

RULES: dict[str, Rule] = {}
"""Rules by the instruction's name; a method with another is not compiled."""

BYTE_REGISTERS = {"eax": "al", "ebx": "bl", "ecx": "cl", "edx": "dl"}
WORD_REGISTERS = {"eax": "ax", "ebx": "bx", "ecx": "cx", "edx": "dx", "esi": "si", "edi": "di"}
TABLE_FROM = 5
"""Keys of a switch from which on it is a table of addresses."""


class Refusal(Exception):  # noqa: N818 - not an error: the method stays with the interpreter
    """A method is not compiled, and why."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter the rule of some instructions."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


# -- constants, local variables, the operand stack ---------------------------------------------------------------------------


@rule("nop")
def _nop(at: Compiler, code: Bytecode) -> None:
    pass


@rule("iconst")
def _constant(at: Compiler, code: Bytecode) -> None:
    at.push(("constant", code.operand))


@rule("aconst_null")
def _null(at: Compiler, code: Bytecode) -> None:
    at.push(("constant", 0))


@rule("iload", "aload")
def _load(at: Compiler, code: Bytecode) -> None:
    at.push(("local", code.operand))


@rule("istore", "astore")
def _store(at: Compiler, code: Bytecode) -> None:
    item = at.pop()
    if item[0] == "local":
        item = "register", at.load(item)
    at.push(item)  # what is brought into registers now must not take this one
    at.settle(code.operand)
    at.emit(f"mov {at.place(code.operand)}, {at.text(at.pop())}")


@rule("iinc")
def _increment(at: Compiler, code: Bytecode) -> None:
    index, amount = code.operand
    at.settle(index)
    at.emit(f"inc {at.place(index)}" if amount == 1 else f"add {at.place(index)}, {amount}")


def _shuffle(taken: int, order: tuple[int, ...]) -> Rule:
    """Return the rule of an instruction that takes words and puts them back; the word 0 is the top, the deepest comes first."""

    def shuffle(at: Compiler, code: Bytecode) -> None:
        items: list[Item] = []
        for _ in range(taken):
            items.append(at.pop(*(str(value) for kind, value in items if kind == "register")))
        seen: set[int] = set()
        held = [str(value) for kind, value in items if kind == "register"]
        for each in order:
            item = items[each]
            if each in seen and item[0] == "register":
                copy = at.free(*held)
                at.emit(f"mov {copy}, {item[1]}")
                held.append(copy)
                item = "register", copy
            seen.add(each)
            at.push(item)

    return shuffle


RULES["pop"] = _shuffle(1, ())
RULES["pop2"] = _shuffle(2, ())
RULES["dup"] = _shuffle(1, (0, 0))
RULES["dup_x1"] = _shuffle(2, (0, 1, 0))
RULES["dup_x2"] = _shuffle(3, (0, 2, 1, 0))
RULES["dup2"] = _shuffle(2, (1, 0, 1, 0))
RULES["dup2_x1"] = _shuffle(3, (1, 0, 2, 1, 0))
RULES["swap"] = _shuffle(2, (0, 1))


# -- ints --------------------------------------------------------------------------------------------------------------------


def _pair(at: Compiler) -> tuple[str, Item]:
    """Take two operands: the left in a register of its own, the right as it is."""
    right = at.pop()
    held = [str(right[1])] if right[0] == "register" else []
    left = at.pop(*held)
    return at.load(left, *held), right


def _binary(mnemonic: str) -> Rule:
    def binary(at: Compiler, code: Bytecode) -> None:
        left, right = _pair(at)
        at.emit(f"{mnemonic} {left}, {at.text(right)}")
        at.push_register(left)

    return binary


for _name in ("add", "sub", "and", "or", "xor"):
    RULES["i" + _name] = _binary(_name)


@rule("imul")
def _multiply(at: Compiler, code: Bytecode) -> None:
    left, right = _pair(at)
    constant = f"{left}, " if right[0] == "constant" else ""
    at.emit(f"imul {left}, {constant}{at.text(right)}")
    at.push_register(left)


@rule("idiv", "irem")
def _divide(at: Compiler, code: Bytecode) -> None:
    right = at.pop("eax", "edx")
    at.load_into(right, "ecx", "eax", "edx")
    left = at.pop("ecx", "edx")
    at.load_into(left, "eax", "ecx", "edx")
    at.vacate("edx", "eax", "ecx")
    at.emit("cdq")
    at.fault("idiv ecx")
    at.push_register("eax" if code.name == "idiv" else "edx")


@rule("ineg")
def _negate(at: Compiler, code: Bytecode) -> None:
    register = at.load(at.pop())
    at.emit(f"neg {register}")
    at.push_register(register)


@rule("ishl", "ishr", "iushr")
def _shift(at: Compiler, code: Bytecode) -> None:
    mnemonic = {"ishl": "shl", "ishr": "sar", "iushr": "shr"}[code.name]
    count = at.pop()
    if count[0] == "constant":
        register = at.load(at.pop())
        at.emit(f"{mnemonic} {register}, {int(count[1]) & 31}")
    else:
        at.load_into(count, "ecx")
        item = at.pop("ecx")
        register = at.load(item, "ecx")
        at.emit(f"{mnemonic} {register}, cl")
    at.push_register(register)


def narrow(at: Compiler, register: str, descriptor: str) -> None:
    """Bring an int in a register into the range of a smaller type."""
    if descriptor == "Z":
        at.emit(f"and {register}, 1")
    elif descriptor == "B" and register not in BYTE_REGISTERS:
        at.emit(f"shl {register}, 24", f"sar {register}, 24")
    elif descriptor in ("B", "S"):
        at.emit(f"movsx {register}, {(BYTE_REGISTERS if descriptor == 'B' else WORD_REGISTERS)[register]}")
    elif descriptor == "C":
        at.emit(f"movzx {register}, {WORD_REGISTERS[register]}")


@rule("i2b", "i2c", "i2s")
def _convert(at: Compiler, code: Bytecode) -> None:
    register = at.load(at.pop())
    narrow(at, register, code.name[2].upper())
    at.push_register(register)


# -- branches ----------------------------------------------------------------------------------------------------------------

_CONDITIONS = {"eq": "e", "ne": "ne", "lt": "l", "ge": "ge", "gt": "g", "le": "le", "null": "e", "nonnull": "ne"}


@rule(*(f"if{name}" for name in _CONDITIONS))
def _branch_zero(at: Compiler, code: Bytecode) -> None:
    item = at.pop()
    if item[0] == "local":
        compare = f"cmp {at.text(item)}, 0"
    else:
        register = at.load(item)
        compare = f"test {register}, {register}"
    at.flush()
    at.emit(compare, f"j{_CONDITIONS[code.name[2:]]} b{code.operand}")


@rule(*(f"if_{kind}cmp{name}" for kind in "ia" for name in ("eq", "ne", "lt", "ge", "gt", "le")))
def _branch(at: Compiler, code: Bytecode) -> None:
    right = at.pop()
    held = [str(right[1])] if right[0] == "register" else []
    left = at.pop(*held)
    if left[0] != "local" or right[0] != "constant":
        left = "register", at.load(left, *held)
    at.flush()
    at.emit(f"cmp {at.text(left)}, {at.text(right)}", f"j{_CONDITIONS[code.name[7:]]} b{code.operand}")


@rule("goto")
def _goto(at: Compiler, code: Bytecode) -> None:
    at.flush()
    at.emit(f"jmp b{code.operand}")


@rule("tableswitch", "lookupswitch")
def _switch(at: Compiler, code: Bytecode) -> None:
    default, keys = code.operand
    register = at.load(at.pop())
    at.flush()
    if code.name == "tableswitch" and len(keys) >= TABLE_FROM:
        table, low = at.label(), min(keys)
        if low:
            at.emit(f"sub {register}, {low}")
        at.emit(f"cmp {register}, {len(keys)}", f"jae b{default}", f"jmp [{table} + {register} * 4]")
        at.aside += ["align 4, db 0", f"{table}: dd {', '.join(f'b{keys[key]}' for key in sorted(keys))}"]
        return
    for key, target in keys.items():
        at.emit(f"cmp {register}, {key}", f"je b{target}")
    at.emit(f"jmp b{default}")


@rule("return")
def _return(at: Compiler, code: Bytecode) -> None:
    at.emit("mov esp, ebp", "pop ebp", f"ret {4 * at.layout.parameters}")


@rule("ireturn", "areturn")
def _return_word(at: Compiler, code: Bytecode) -> None:
    at.load_into(at.pop(), "eax")
    narrow(at, "eax", at.method.result)
    _return(at, code)
