"""The assembler of the AArch64 subset: there and back through the disassembler, directives, literals, errors.

The disassembler is compared with Capstone next door, so what comes back from it is what Capstone would say.
"""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.isa.arm64.test_disassembler import AT, capstone_text, draw
from vmlab.errors import AssemblyError, OptionError
from vmlab.isa.arm64 import assemble, disassemble
from vmlab.isa.arm64.decoder import decode
from vmlab.isa.arm64.disassembler import format_instruction
from vmlab.isa.arm64.table import ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.mnemonic} {' '.join(row.operands)}")
def test_there_and_back(row):
    rng = random.Random(row.value + 1)
    tried = 0
    for _ in range(30):
        word = draw(rng, row)
        instruction = decode(word)
        if instruction is None or instruction.row is not row:
            continue
        text = format_instruction(instruction, AT)
        if " s2_" in text or " s3_" in text:
            continue  # a system register without a name
        back = int.from_bytes(assemble(text, AT).code, "little")
        # bits of immr that do not count in a bitmask may come back as 0
        assert back == word or ("immr" in instruction.fields and format_instruction(decode(back), AT) == text), text
        tried += 1
    assert tried or row.mnemonic in ("mrs", "msr")


# Text, and how Capstone reads the word back where it spells it differently.
@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("mov x0, sp", ""),
        ("mov x0, #0x12340000", ""),
        ("mov x0, #-1", ""),
        ("mov w0, #-2", ""),
        ("mov x1, #0xff00ff00ff00ff00", "mov x1, #-0xff00ff00ff0100"),
        ("add x0, x1, #0x1000", "add x0, x1, #1, lsl #12"),
        ("add sp, sp, x0", ""),
        ("cmp x0, w1, uxtw #2", ""),
        ("lsl x0, x1, #4", ""),
        ("ubfx w0, w1, #4, #8", ""),
        ("bfi x0, x1, #8, #16", "bfi x0, x1, #8, #0x10"),
        ("cset w0, cs", "cset w0, hs"),
        ("ldr x0, [x1, x2, lsl #3]", ""),
        ("ldr w0, [x1, w2, sxtw #2]", ""),
        ("ldr x0, [sp], #16", "ldr x0, [sp], #0x10"),
        ("str x0, [sp, #-16]!", "str x0, [sp, #-0x10]!"),
        ("ldr x0, [x1, #-8]", "ldur x0, [x1, #-8]"),
        ("stp x29, x30, [sp, #-16]!", "stp x29, x30, [sp, #-0x10]!"),
        ("ldxr w0, [x1]", ""),
        ("stxr w2, x0, [x1]", ""),
        ("msr daifset, #2", ""),
        ("mrs x0, currentel", ""),
        ("msr vbar_el2, x0", ""),
        ("tlbi vmalle1", ""),
        ("tlbi vae1, x0", ""),
        ("dc zva, x1", ""),
        ("at s1e1r, x0", ""),
        ("ret", ""),
        ("eret", ""),
        ("hvc #1", ""),
        ("wfi", ""),
        ("isb", ""),
        ("tbz x0, #33, .", "tbz x0, #0x21, #0"),
    ],
)
def test_spellings(text, spelled):
    word = int.from_bytes(assemble(text).code, "little")
    assert capstone_text(word, 0) == (spelled or text)


def test_a_program():
    source = """
        .equ COUNT, 3 * 2
start:  mov x0, #COUNT          // six
1:      subs x0, x0, #1
        b.ne 1b
        cbz x0, 1f
        nop
1:      ldr x1, =table
        ldr w2, =0x12345678
        ldr x3, =table
        ret
        .align 3
table:  .quad end - table, -1
        .word 1, 2
        .hword 0xffff
        .byte 'a', '\\n'
        .ascii "hi, \\"you\\""
        .asciz "x"
        .space 3, 0xAA
        .balign 16
end:
"""
    program = assemble(source, 0x4000_0000)
    lines = disassemble(program.code, program.origin)
    assert lines[:5] == ["mov x0, #6", "subs x0, x0, #1", "b.ne #0x40000004", "cbz x0, #0x40000014", "nop"]
    table = program.symbols["table"]
    place = table - program.origin
    assert program.code[place : place + 8] == (program.symbols["end"] - table).to_bytes(8, "little")
    assert program.code[place + 24 : place + 28] == b"\xff\xffa\n"
    assert program.code[place + 28 : place + 41] == b'hi, "you"x\0\xaa\xaa'
    assert not program.symbols["end"] % 16
    literals = program.code[program.symbols["end"] - program.origin :]
    assert literals == table.to_bytes(8, "little") + (0x1234_5678).to_bytes(4, "little")
    assert lines[5] == f"ldr x1, #{program.symbols['end']:#x}"
    assert lines[7] == f"ldr x3, #{program.symbols['end']:#x}"
    assert program.lines[program.origin] == 3


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("nop\n frob x0", "there is no instruction 'frob'", 2),
        ("add x0, x1, w2", "of one width", 1),
        ("add x0, x1, #0x1001", "0 to 0xfff", 1),
        ("and x0, x1, #5", "bitmask", 1),
        ("mov x0, #0x12345", "more than one instruction", 1),
        ("ldr x0, [w1]", "X register or SP", 1),
        ("ldr x0, [x1, #3000000]", "offset", 1),
        ("b nowhere", "no symbol 'nowhere'", 1),
        ("b . + 2", "multiple of 4", 1),
        ("a: nop\na: nop", "defined twice", 2),
        (".equ a, 1\n.equ a, 2", "defined twice", 2),
        ("msr nosuch_el1, x0", "no system register", 1),
        ("tlbi nothing", "tlbi has no 'nothing'", 1),
        ("mov x0", "missing", 1),
        ("mov x0, x1, x2", "too many", 1),
        (".frob 1", "no directive '.frob'", 1),
        (".word 1/0", "division by zero", 1),
        (".byte 256", "does not fit", 1),
        (".space 1 << 60", "not possible", 1),
        (".quad " + "(" * 5000, "nested too deep", 1),
        ("mov x0, 1b", "expected|no expression|number", 1),
        ("tbz w0, #32, .", "0 to 31", 1),
    ],
)
def test_errors(source, message, line):
    with pytest.raises(AssemblyError, match=message) as caught:
        assemble(source)
    assert caught.value.line == line


@pytest.mark.parametrize("origin", [4, -8, 1 << 64, "0"])
def test_impossible_origins(origin):
    with pytest.raises(OptionError, match="multiple of 8"):
        assemble("nop", origin)
    with pytest.raises(OptionError, match="text"):
        assemble(b"nop")


@given(st.text("addsublrxw0123456789 ,#[]!=.:()+-*<>'\"\\\n", max_size=60))
def test_any_text_assembles_or_is_an_assembly_error(text):
    with contextlib.suppress(AssemblyError):
        assemble(text)
