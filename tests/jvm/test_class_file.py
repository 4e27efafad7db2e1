"""Class files: what `javap` says of them by hand; damaged ones end in one clear error, whatever is damaged."""

from __future__ import annotations

import random

import pytest

from tests.jvm.class_maker import ClassMaker
from tools.compile_java import PROGRAMS
from vmlab.errors import ImageError, OptionError, VmlabError
from vmlab.jvm.bytecode import OPCODES, decode_code
from vmlab.jvm.class_file import parse_class
from vmlab.jvm.constant_pool import decode_text, encode_text
from vmlab.jvm.descriptors import parse_field, parse_method, spell
from vmlab.jvm.java_machine import JavaMachine

SIEVE = (PROGRAMS / "Sieve.class").read_bytes()


def test_a_class_file():
    file = parse_class(SIEVE, "Sieve.class")
    assert (file.name, file.superclass, file.source, file.interfaces) == ("Sieve", "java/lang/Object", "Sieve.java", ())
    count = next(each for each in file.methods if each.name == "count")
    assert (count.descriptor, count.is_static) == ("(I)I", True)
    code = decode_code(count.code, "count")
    assert [each.mnemonic for each in code[:8]] == [
        "iload_0", "newarray", "astore_1", "iconst_0", "istore_2", "iconst_2", "istore_3", "iload_3",
    ]  # fmt: skip
    branch = code[9]
    assert (branch.mnemonic, branch.operand) == ("if_icmpge", len(code) - 2)
    assert dict(count.code.lines)[0] == 4


def test_all_opcodes_are_there():
    # JVMS 6.5 and the table 7: 0 to 201, and no others in class files.
    assert sorted(OPCODES) == list(range(202))
    assert {code: OPCODES[code].mnemonic for code in (0x60, 0x83, 0x74, 0x93, 0x5E, 0xC9, 0x3B, 0x1E, 0xA6, 0x7D)} == {
        0x60: "iadd", 0x83: "lxor", 0x74: "ineg", 0x93: "i2s", 0x5E: "dup2_x2", 0xC9: "jsr_w", 0x3B: "istore_0", 0x1E: "lload_0",
        0xA6: "if_acmpne", 0x7D: "lushr",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "V", "L;", "Lx", "[", "II", "Q", "[V", "Lx.y;", "[" * 256 + "I"])
def test_no_field_types(text):
    with pytest.raises(ImageError, match="no type of a field"):
        parse_field(text)


@pytest.mark.parametrize("text", ["", "()", "(I", "I)V", "(V)V", "()VV", "(Lx)V", "(" + "J" * 128 + ")V"])
def test_no_method_types(text):
    with pytest.raises(ImageError, match="method"):
        parse_method(text)


def test_types_as_java_writes_them():
    assert spell("[[J") == "long[][]"
    assert parse_method("([[ILjava/lang/String;J)[B") == (("[[I", "Ljava/lang/String;", "J"), "[B")


def test_texts_of_the_constant_pool():
    assert decode_text(bytes.fromhex("61c08062e4b8ad"), "x") == "a\0b\u4e2d"
    assert encode_text("\U0001f600") == bytes.fromhex("3dd800de")
    with pytest.raises(ImageError, match="modified UTF-8"):
        decode_text(b"\xff", "x")


@pytest.mark.parametrize("length", [*range(40), 100, 200, len(SIEVE) - 1])
def test_a_truncated_file(length):
    with pytest.raises(ImageError):
        parse_class(SIEVE[:length], "Sieve.class")


def test_what_is_wrong_is_said():
    with pytest.raises(ImageError, match="no class file: it does not begin with CAFEBABE"):
        JavaMachine(b"\x7fELF" + bytes(100))
    with pytest.raises(ImageError, match=r"version 61.*javac --release 8"):
        JavaMachine(ClassMaker(version=61).build([0xB1]))
    with pytest.raises(ImageError, match="1 bytes behind the end"):
        JavaMachine(ClassMaker().build([0xB1], extra=b"x"))
    with pytest.raises(ImageError, match="holds the class T"):
        JavaMachine({"U": ClassMaker().build([0xB1])})
    with pytest.raises(ImageError, match="above itself"):
        JavaMachine(ClassMaker().build([0xB1], above="T"))
    with pytest.raises(ImageError, match="an interface or final"):
        JavaMachine(ClassMaker().build([0xB1], above="java/lang/String"))
    with pytest.raises(ImageError, match="javac"):
        JavaMachine("Sieve.java")
    with pytest.raises(OptionError, match="a program is a name of"):
        JavaMachine(5)
    with pytest.raises(ImageError, match="the programs that come with vmlab are"):
        JavaMachine("Seive")


def damaged(rng, raw):
    """Return a class file with something else in it: anywhere, or in the code of a method."""
    data = bytearray(raw)
    if rng.random() < 0.1:
        return bytes(data[: rng.randrange(len(data))])
    codes = [each.code.code for each in parse_class(raw, "x").methods if each.code]
    start, length = 0, len(data)
    if codes and rng.random() < 0.6:
        code = rng.choice(codes)
        start, length = raw.find(code), len(code)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = start + rng.randrange(length)
        data[place] = rng.choice((rng.randrange(256), data[place] ^ 1 << rng.randrange(8), data[place] + 1 & 0xFF))
    return bytes(data)


def fuzz(seed, rounds):
    rng, ran = random.Random(seed), 0
    names = ("Calculator", "Chain", "Exceptions", "Interfaces", "Longs", "Shapes", "Switches", "Tree")
    for _ in range(rounds):
        name = rng.choice(names)
        files = {p.stem: p.read_bytes() for p in PROGRAMS.glob(f"{name}*.class")}
        victim = rng.choice(sorted(files))
        files[victim] = damaged(rng, files[victim])
        try:
            machine = JavaMachine(files, threshold=rng.choice((1, 3, 40)), heap=1 << 18)
            machine.run(20_000)
            ran += 1
        except VmlabError:
            pass
    return ran


def test_damaged_files_end_in_errors_of_the_library():
    assert 0 < fuzz(1, 25) < 25


@pytest.mark.long
def test_many_damaged_files_end_in_errors_of_the_library():
    assert fuzz(2, 3000) > 100
