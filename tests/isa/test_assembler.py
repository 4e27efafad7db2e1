"""The assembler against NASM, byte for byte: every form of every instruction, and whole programs."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.isa.nasm import nasm, nasm_lines
from vmlab.errors import AssemblyError, OptionError
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.assembler.mnemonics import known_mnemonics

REGISTERS = ["al", "cl", "bh", "ax", "dx", "si", "eax", "ebx", "esp"]
SYSTEM = ["ds", "es", "gs", "cr0", "cr3", "dr7"]
MEMORY = [
    "[0x1234]", "byte [ebx]", "word [ebx+4]", "dword [ebp]", "[eax+ecx*4-5]", "[es:esp+300]", "dword [fs:edi*8]",
    "qword [eax]", "far [eax]", "dword far [eax]", "word far [ebx]", "word [bx+si]", "[bp+2]",
]  # fmt: skip
CONSTANTS = [
    "0", "1", "-5", "127", "128", "255", "300", "0x12345678", "-129", "0xffffff80", "byte 5", "word 5", "dword 5",
    "strict dword 5", "strict byte 5", "8:5",
]  # fmt: skip
OPERANDS = REGISTERS + SYSTEM + MEMORY + CONSTANTS
JUMPS = {word for word in known_mnemonics() if word[0] == "j" or word.startswith(("loop", "call"))}
QUIRKS = {"ud0", "ud1", "ud2b"}  # NASM takes them without their operands too


def corpus(bits: int) -> list[str]:
    """Each mnemonic with no operand, every single one, and a seeded choice of pairs and triples."""
    rng = random.Random(bits)
    pairs = list(itertools.product(OPERANDS, OPERANDS))
    lines: list[str] = []
    for word in sorted(known_mnemonics()):
        lines.append(word)
        lines += [f"{word} {operand}" for operand in OPERANDS if word not in JUMPS or not operand[-1].isdigit()]
        lines += [f"{word} {', '.join(pair)}" for pair in rng.sample(pairs, 150) if word not in JUMPS]
    common = (
        "add",
        "cmp",
        "mov",
        "test",
        "xchg",
        "shl",
        "bt",
        "bts",
        "imul",
        "movzx",
        "in",
        "out",
        "lea",
        "les",
        "lar",
    )
    lines += [f"{word} {', '.join(pair)}" for word in common for pair in pairs]
    for word in ("imul", "shld"):
        lines += [
            f"{word} {a}, {b}, {c}"
            for a in REGISTERS[3:] + MEMORY[1:4]
            for b in REGISTERS[3:] + MEMORY[:4]
            for c in [*CONSTANTS, "cl"]
        ]
    return lines


@pytest.mark.parametrize("bits", [32, 16])
def test_every_form_is_encoded_as_nasm_encodes_it(bits: int) -> None:
    wrong = []
    for line, expected in nasm_lines(corpus(bits), bits).items():
        if expected is None or line in QUIRKS:
            continue
        try:
            code = assemble(line, bits=bits).code
        except AssemblyError as error:
            if "does not fit in" not in error.message:  # NASM cuts it off with a warning
                wrong.append((line, expected.hex(), error.message))
        else:
            if code != expected:
                wrong.append((line, expected.hex(), code.hex()))
    assert wrong == []
