"""What the verifier refuses: code that would take a number for a reference, or leave its stack; by hand, each for one rule."""

from __future__ import annotations

import pytest

from tests.jvm.class_maker import ClassMaker
from vmlab.errors import ImageError, VmlabError
from vmlab.jvm.class_path import find_program, programs
from vmlab.jvm.java_machine import JavaMachine


def run(code, maker=None, **options):
    machine = JavaMachine((maker or ClassMaker()).build(code, **options))
    machine.run(10_000)
    return machine


def pool(kind, *arguments):
    """Return a maker, and the two bytes of the index of a constant."""
    maker = ClassMaker()
    return maker, list(getattr(maker, kind)(*arguments).to_bytes(2, "big"))


RETURN, NULL, ONE, POP, DUP = 0xB1, 0x01, 0x04, 0x57, 0x59

REFUSED = {
    "underflow": ([POP, RETURN], "stack is empty"),
    "overflow": ([ONE] * 5 + [RETURN], "overflows"),
    "an int as an array": ([ONE, 0xBE, POP, RETURN], "an int is on the stack where a reference"),
    "a reference as an int": ([NULL, ONE, 0x60, POP, RETURN], "null is on the stack where an int"),
    "the argument as an int": ([0x2A, 0x3B, RETURN], "an int must be"),
    "an int loaded as a reference": ([ONE, 0x3C, 0x2B, POP, RETURN], "holds no reference"),
    "a variable that nobody has set": ([0x1B, POP, RETURN], "holds no such number"),
    "a variable that is not there": ([0x15, 9, POP, RETURN], "no local variable 9"),
    "half a long": ([0x09, POP, POP, RETURN], "cut in two"),
    "half a long stored": ([0x09, 0x40, ONE, 0x3C, 0x1F, 0x58, RETURN], "holds no such number"),
    "the end": ([ONE, POP], "ends without a return"),
    "a wrong return": ([ONE, 0xAC], "not what the method returns"),
    "into an instruction": ([0xA7, 0, 4, 0x10, 5, RETURN], "no instruction begins"),
    "far away": ([0xA7, 0x70, 0, RETURN], "no instruction begins"),
    "no opcode": ([0xCB, RETURN], "no opcode"),
    "an operand that is cut off": ([0x10], "truncated"),
    "different depths": ([ONE, 0x99, 0, 4, ONE, RETURN], "different depths"),
    "different types": ([ONE, 0x99, 0, 7, ONE, 0xA7, 0, 4, NULL, POP, RETURN], "different types"),
    "a throw of an array": ([0x2A, 0xBF], "Throwable"),
    "ints into an array of references": ([0x2A, 3, ONE, 0x4F, RETURN], "no such array"),
    "a subroutine": ([0xA8, 0, 3, RETURN], "subroutines"),
    "floats": ([0x0B, POP, RETURN], "no floating point"),
    "an array of double": ([ONE, 0xBC, 7, POP, RETURN], "no floating point"),
    "an array of nothing": ([ONE, 0xBC, 3, POP, RETURN], "NEWARRAY of type 3"),
    "a constant that is not there": ([0x12, 200, POP, RETURN], "there is nothing"),
    "a monitor of an int": ([ONE, 0xC2, RETURN], "where a reference"),
    "WIDE of something else": ([0xC4, 0x60, 0, 0, RETURN], "WIDE before iadd"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_hostile_code_is_refused(what):
    code, message = REFUSED[what]
    with pytest.raises(ImageError, match=message):
        run(code)


def test_the_same_without_the_fault_runs():
    assert run([ONE, ONE, 0x60, POP, 0x2A, 0xBE, POP, RETURN]).status == 0


WITH_POOL = {
    "a field of another class": (("field", "T", "own", "I"), [0x2A, 0xB4, "#", POP, RETURN], "where T must be"),
    "a field that is not there": (("field", "T", "other", "I"), [NULL, 0xB4, "#", POP, RETURN], "no field T.other"),
    "an instance field as a static one": (
        ("field", "T", "own", "I"),
        [0xB2, "#", POP, RETURN],
        "no static field T.own",
    ),
    "a new object without constructor": (("cls", "T"), [0xBB, "#", 0xBE, POP, RETURN], "without constructor"),
    "an interface made": (("cls", "java/lang/Runnable"), [0xBB, "#", POP, RETURN], "no objects of just this class"),
    "a constructor of nothing": (("method", "T", "<init>", "()V"), [NULL, 0xB7, "#", RETURN], "no new object"),
    "a constructor called as another method": (
        ("method", "T", "<init>", "()V"),
        [NULL, 0xB6, "#", RETURN],
        "INVOKESPECIAL",
    ),
    "an initialiser called": (("method", "T", "<clinit>", "()V"), [0xB8, "#", RETURN], "nobody calls"),
    "a method that is not there": (
        ("method", "T", "two", "()I"),
        [0xB8, "#", POP, RETURN],
        r"no static method T\.two\(\)",
    ),
    "a class that is not there": (("cls", "Nowhere"), [NULL, 0xC0, "#", POP, RETURN], "class Nowhere is neither"),
    "a field reference as a class": (("field", "T", "own", "I"), [0xBB, "#", POP, RETURN], "must be a class"),
    "a float constant": (("float", 1.5), [0x13, "#", POP, RETURN], "no floating point"),
    "a class literal": (("cls", "T"), [0x13, "#", POP, RETURN], "class literals"),
    "too many dimensions": (("cls", "[I"), [ONE, ONE, 0xC5, "#", 2, POP, RETURN], "2 dimensions"),
    "a dynamic call": (("integer", 1), [0xBA, "#", 0, 0, RETURN], "INVOKEDYNAMIC"),
}


@pytest.mark.parametrize("what", WITH_POOL)
def test_hostile_references_are_refused(what):
    constant, code, message = WITH_POOL[what]
    maker, index = pool(*constant)
    raw = [byte for each in code for byte in (index if each == "#" else [each])]
    with pytest.raises(ImageError, match=message):
        run(raw, maker)


def test_an_exception_table_that_names_no_instructions():
    for row in ((0, 9, 0, 0), (1, 1, 0, 0), (0, 1, 7, 0)):
        with pytest.raises(ImageError, match="exception table"):
            run([ONE, POP, RETURN], handlers=[row])


def test_every_method_that_is_shipped_is_accepted():
    # The whole of each program and of the library, though a run may not come to it; but for class literals, which enums have.
    from vmlab.jvm.loader import _library
    from vmlab.jvm.verifier import verify

    machine = JavaMachine("Sieve")
    loader = machine.runtime.loader
    for name in _library():
        loader.load(name)
    loader.files = {}
    for name in programs():
        files, _ = find_program(name)
        loader.files = {**loader.files, **{each: files[each] for each in (name, *_nested(name)) if each in files}}
    for name in loader.files:
        loader.load(name)
    refused = set()
    for method in loader.methods:
        if method.code is not None:
            try:
                verify(method, loader)
            except VmlabError as error:
                refused.add((method.title, "class literals" in str(error)))
    assert len(loader.methods) > 500
    assert refused == {("Switches$Level.valueOf(java.lang.String)", True)}


def _nested(name):
    from tools.compile_java import PROGRAMS

    return [path.stem for path in PROGRAMS.glob(f"{name}$*.class")]
