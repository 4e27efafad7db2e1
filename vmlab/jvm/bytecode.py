"""Bytecodes: the table of opcodes, and code taken apart into instructions.

A row of the table: opcode, mnemonic, what follows the opcode, what is taken from the operand stack, what is left there (the top
last). Types are I int, J long (two words), A reference, F float and D double, which this virtual machine refuses. Where stack
or operand say `*`, the verifier has a rule of its own for the instruction.

    -  nothing            l  local variable       b, s  a constant of one, two bytes       k, K  index of a constant, one byte, two
    j  branch, two bytes  w  branch, four bytes   i  local variable and constant           t  type of an array's elements
    T, L  a table of branches                     n  interface method: index, count, 0     m  index, number of dimensions

Simplified: instructions that differ in the length of their operand alone are one (`iload_0`, `iload 0` and `wide iload`).

Read more: JVMS chapter 6.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import ImageError
from vmlab.jvm.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.class_file import CodeAttribute

__all__ = ["BRANCHES", "OPCODES", "REFUSED", "Bytecode", "Opcode", "decode_code"]


class Opcode(NamedTuple):
    """A row of the table; `constant` is what short forms have in their opcode."""

    mnemonic: str
    operand: str
    pops: str
    pushes: str
    name: str
    constant: int | None = None


class Bytecode(NamedTuple):
    """An instruction: offset of its first byte, name, mnemonic as written, operand.

    The operand is a number, a pair for IINC and MULTIANEWARRAY, the type of a new array's elements, or for branches the index of
    the instruction that they lead to: of a switch, that of the default, and those by key.
    """

    offset: int
    name: str
    mnemonic: str
    operand: Any
    opcode: Opcode


OPCODES: dict[int, Opcode] = {}
"""All opcodes by their byte."""

_TABLE = """
00 nop - - -          01 aconst_null - - A   10 bipush b - I       11 sipush s - I       12 ldc k - *
13 ldc_w K - *        14 ldc2_w K - *
2e iaload - AI I      2f laload - AI J       30 faload - AI F      31 daload - AI D      32 aaload - * *
33 baload - AI I      34 caload - AI I       35 saload - AI I      4f iastore - AII -    50 lastore - AIJ -
51 fastore - AIF -    52 dastore - AID -     53 aastore - * *      54 bastore - AII -    55 castore - AII -
56 sastore - AII -    57 pop - * *           58 pop2 - * *         59 dup - * *          5a dup_x1 - * *
5b dup_x2 - * *       5c dup2 - * *          5d dup2_x1 - * *      5e dup2_x2 - * *      5f swap - * *
84 iinc i - -         85 i2l - I J           86 i2f - I F          87 i2d - I D          88 l2i - J I
89 l2f - J F          8a l2d - J D           8b f2i - F I          8c f2l - F J          8d f2d - F D
8e d2i - D I          8f d2l - D J           90 d2f - D F          91 i2b - I I          92 i2c - I I
93 i2s - I I          94 lcmp - JJ I         95 fcmpl - FF I       96 fcmpg - FF I       97 dcmpl - DD I
98 dcmpg - DD I       99 ifeq j I -          9a ifne j I -         9b iflt j I -         9c ifge j I -
9d ifgt j I -         9e ifle j I -          9f if_icmpeq j II -   a0 if_icmpne j II -   a1 if_icmplt j II -
a2 if_icmpge j II -   a3 if_icmpgt j II -    a4 if_icmple j II -   a5 if_acmpeq j AA -   a6 if_acmpne j AA -
a7 goto j - -         a8 jsr j * *           a9 ret l * *          aa tableswitch T I -  ab lookupswitch L I -
ac ireturn - * *      ad lreturn - * *       ae freturn - F -      af dreturn - D -      b0 areturn - * *
b1 return - * *       b2 getstatic K * *     b3 putstatic K * *    b4 getfield K * *     b5 putfield K * *
b6 invokevirtual K * *  b7 invokespecial K * *  b8 invokestatic K * *  b9 invokeinterface n * *  ba invokedynamic n * *
bb new K * *          bc newarray t * *      bd anewarray K * *    be arraylength - * *  bf athrow - * *
c0 checkcast K * *    c1 instanceof K A I    c2 monitorenter - A - c3 monitorexit - A -  c4 wide * * *
c5 multianewarray m * *  c6 ifnull j A -     c7 ifnonnull j A -    c8 goto_w w - -       c9 jsr_w w * *
"""

_SAME = {"ldc_w": "ldc", "ldc2_w": "ldc", "goto_w": "goto", "jsr_w": "jsr", "bipush": "iconst", "sipush": "iconst"}
_ARRAYS = {4: "Z", 5: "C", 6: "F", 7: "D", 8: "B", 9: "S", 10: "I", 11: "J"}
BRANCHES = frozenset("jwTL")
REFUSED = {"jsr": "subroutines (JSR, RET), which compilers have not made since Java 6", "ret": "subroutines (JSR, RET)"}
"""Instructions that are refused whatever they work on, and what is said of them."""
REFUSED["invokedynamic"] = (
    "INVOKEDYNAMIC, which lambdas and newer string concatenation need: write a class in the lambda's place, and compile with "
    "`javac --release 8 -XDstringConcat=inline`"
)


def _add(code: int, mnemonic: str, operand: str, pops: str, pushes: str, constant: int | None = None) -> None:
    base, _, last = mnemonic.rpartition("_")
    name = base if constant is not None and last else _SAME.get(mnemonic, mnemonic)
    OPCODES[code] = Opcode(mnemonic, operand, pops.strip("-"), pushes.strip("-"), name, constant)


def _fill() -> None:
    """Fill the table: the rows above, and those that come in series, one for each type."""
    words = _TABLE.split()
    for place in range(0, len(words), 5):
        code, mnemonic, operand, pops, pushes = words[place : place + 5]
        _add(int(code, 16), mnemonic, operand, pops, pushes)
    for value in range(-1, 6):
        _add(0x03 + value, f"iconst_{value if value >= 0 else 'm1'}", "-", "-", "I", value)
    for first, kind, count in ((0x09, "J", 2), (0x0B, "F", 3), (0x0E, "D", 2)):
        for value in range(count):
            _add(first + value, f"{_letter(kind)}const_{value}", "-", "-", kind, value)
    for n, kind in enumerate("IJFDA"):
        letter, reference = _letter(kind), kind == "A"
        loaded, stored = ("*", "*") if reference else (kind, kind)
        _add(0x15 + n, f"{letter}load", "l", "*" if reference else "-", loaded)
        _add(0x36 + n, f"{letter}store", "l", stored, "*" if reference else "-")
        for index in range(4):
            _add(0x1A + 4 * n + index, f"{letter}load_{index}", "-", "*" if reference else "-", loaded, index)
            _add(0x3B + 4 * n + index, f"{letter}store_{index}", "-", stored, "*" if reference else "-", index)
    for row, operation in enumerate(("add", "sub", "mul", "div", "rem", "neg")):
        for n, kind in enumerate("IJFD"):
            pops = kind if operation == "neg" else 2 * kind
            _add(0x60 + 4 * row + n, _letter(kind) + operation, "-", pops, kind)
    for row, operation in enumerate(("shl", "shr", "ushr", "and", "or", "xor")):
        for n, kind in enumerate("IJ"):
            pops = kind + ("I" if row < 3 else kind)
            _add(0x78 + 2 * row + n, _letter(kind) + operation, "-", pops, kind)


def _letter(kind: str) -> str:
    return {"I": "i", "J": "l", "F": "f", "D": "d", "A": "a"}[kind]


_fill()


def decode_code(code: CodeAttribute, name: str) -> list[Bytecode]:
    """Take code apart into instructions; branches are given as indices into the result.

    Parameters
    ----------
    code : CodeAttribute
        Of a method.
    name : str
        Of the method, for messages.

    Raises
    ------
    ImageError
        An unknown opcode, an instruction that ends behind the code, a branch into the middle of one or outside.
    """
    reader = Reader(code.code, name)
    found: list[Bytecode] = []
    while not reader.at_end:
        offset = reader.place
        opcode = _opcode(reader, offset)
        if opcode.mnemonic == "wide":
            opcode = _opcode(reader, offset)
            if opcode.operand not in ("l", "i"):
                raise ImageError(f"{name}: WIDE before {opcode.mnemonic} at {offset}: the class file is damaged")
            index = reader.u2()
            operand: Any = (index, reader.s2()) if opcode.operand == "i" else index
        elif opcode.constant is not None:
            operand = opcode.constant
        else:
            operand = _OPERANDS[opcode.operand](reader, offset)
        found.append(Bytecode(offset, opcode.name, opcode.mnemonic, operand, opcode))
    places = {each.offset: index for index, each in enumerate(found)}
    return [_link(each, places, name) if each.opcode.operand in BRANCHES else each for each in found]


def _opcode(reader: Reader, offset: int) -> Opcode:
    byte = reader.u1()
    if byte not in OPCODES:
        raise ImageError(f"{reader.name}: byte {byte:#04x} at {offset} is no opcode: the class file is damaged")
    return OPCODES[byte]


def _array_type(reader: Reader, offset: int) -> str:
    number = reader.u1()
    if number not in _ARRAYS:
        raise ImageError(f"{reader.name}: NEWARRAY of type {number} at {offset}: the class file is damaged")
    return _ARRAYS[number]


def _interface(reader: Reader, offset: int) -> int:
    index = reader.u2()
    reader.u2()
    return index


def _table_switch(reader: Reader, offset: int) -> tuple[int, dict[int, int]]:
    reader.bytes(-reader.place % 4)
    default, low, high = offset + reader.s4(), reader.s4(), reader.s4()
    if high < low or high - low >= len(reader.data):
        raise ImageError(f"{reader.name}: TABLESWITCH at {offset} from {low} to {high}: the class file is damaged")
    return default, {key: offset + reader.s4() for key in range(low, high + 1)}


def _lookup_switch(reader: Reader, offset: int) -> tuple[int, dict[int, int]]:
    reader.bytes(-reader.place % 4)
    default, count = offset + reader.s4(), reader.s4()
    if not 0 <= count < len(reader.data):
        raise ImageError(f"{reader.name}: LOOKUPSWITCH at {offset} with {count} keys: the class file is damaged")
    pairs = [(reader.s4(), offset + reader.s4()) for _ in range(count)]
    if any(first[0] >= second[0] for first, second in pairwise(pairs)):
        raise ImageError(f"{reader.name}: the keys of LOOKUPSWITCH at {offset} are not in order: the file is damaged")
    return default, dict(pairs)


_OPERANDS: dict[str, Callable[[Reader, int], Any]] = {
    "-": lambda reader, offset: None,
    "l": lambda reader, offset: reader.u1(),
    "b": lambda reader, offset: reader.s1(),
    "s": lambda reader, offset: reader.s2(),
    "k": lambda reader, offset: reader.u1(),
    "K": lambda reader, offset: reader.u2(),
    "j": lambda reader, offset: offset + reader.s2(),
    "w": lambda reader, offset: offset + reader.s4(),
    "i": lambda reader, offset: (reader.u1(), reader.s1()),
    "t": _array_type,
    "n": _interface,
    "m": lambda reader, offset: (reader.u2(), reader.u1()),
    "T": _table_switch,
    "L": _lookup_switch,
}


def _link(code: Bytecode, places: dict[int, int], name: str) -> Bytecode:
    """Turn offsets into indices."""

    def index(offset: int) -> int:
        if offset not in places:
            raise ImageError(
                f"{name}: {code.mnemonic} at {code.offset} leads to {offset}, where no instruction begins: the file is damaged"
            )
        return places[offset]

    if code.opcode.operand in "jw":
        return code._replace(operand=index(code.operand))
    default, keys = code.operand
    return code._replace(operand=(index(default), {key: index(offset) for key, offset in keys.items()}))
