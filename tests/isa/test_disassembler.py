"""The disassembler: its text against iced-x86's, and read back by NASM and by our assembler."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import iced_x86
import pytest
from iced_x86 import Formatter, FormatterSyntax

from tests.isa.nasm import nasm_lines
from tests.isa.test_decoder import OPTIONS, WORDS, random_code
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.decoder import DecodeError, decode
from vmlab.isa.x86.disassembler import disassemble, format_instruction
from vmlab.isa.x86.encoder import encode_instruction
from vmlab.isa.x86.operands import (
    Immediate,
    LowRegister32,
    Memory,
    Operand,
    Register64,
    Relative,
    RelativeMemory,
)

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction

ADDRESS = 0x1000
IMPLICIT = {  # whose operand size shows in no operand
    "ret", "retf", "iret", "pushf", "popf", "pusha", "popa", "enter", "leave", "push", "pop",
    "movs", "cmps", "stos", "lods", "scas", "ins", "outs", "lgdt", "lidt",
}  # fmt: skip

SVM = re.compile(r"(vmrun|vmload|vmsave|invlpga|skinit) (.?ax)(, *ecx)?$")
"""Whose implied operands iced shows: a register as wide as addresses are (but for SKINIT's)."""
WIDTHS = {"ax": 16, "eax": 32, "rax": 64}


def is_jump(instruction: Instruction) -> bool:
    return any(isinstance(operand, Relative) for operand in instruction.operands)


def samples(bits: int, count: int) -> list[Instruction]:
    rng = random.Random(bits)
    found = []
    for _ in range(count):
        try:
            found.append(decode(random_code(rng), bits))
        except DecodeError:
            continue
    return found


def iced_text(instruction: Instruction, bits: int) -> str:
    formatter = Formatter(FormatterSyntax.NASM)
    formatter.hex_prefix, formatter.hex_suffix = "0x", ""
    formatter.show_branch_size = False
    formatter.add_leading_zero_to_hex_numbers = False
    decoder = iced_x86.Decoder(bits, instruction.raw, OPTIONS, ip=ADDRESS)
    text = formatter.format(decoder.decode()).lower()
    return SVM.sub(lambda m: m[1] if m[1] == "skinit" or WIDTHS[m[2]] == bits else f"a{WIDTHS[m[2]]} {m[1]}", text)


def normalized(text: str, instruction: Instruction) -> tuple[str, ...]:
    """Take out what is a matter of taste: sizes, spaces, number formats, hints, the order of `xchg`."""
    text = re.sub(r"\b(byte|word|dword|qword|far|o16|o32|o64|bnd|xacquire|xrelease|short)\b ?", "", text.lower())
    mask = (1 << max(8, instruction.size)) - 1
    text = re.sub(r"(?<![\w+\]])-(0x[0-9a-f]+|\d+)", lambda m: hex(-int(m[1], 0) & mask), text)
    text = re.sub(r"0x[0-9a-f]+|\b\d+\b", lambda m: hex(int(m[0], 0)), text)
    text = re.sub(r"\ba32 (?=.*\[(rel )?([fg]s:)?0x\w+\])", "", text)  # iced: [dword rel 0x1000]
    if is_jump(instruction):
        text = re.sub(r"^[cdefgs]s ", "", re.sub(r"\b(a16|a32) |, ?[er]?cx$", "", text))
    if not instruction.row.repeat:
        text = re.sub(r"\b(rep|repe|repne) ", "", text)
    if instruction.mnemonic == "lea":
        text = re.sub(r"\[(rel )?\ws:", r"[\1", text)
    text = re.sub(r"\bret(f?)[wdq]\b", r"ret\1", re.sub(r"\bwait\b", "fwait", text.replace("sal ", "shl ")))
    if instruction.row.operands[-1:] == ("Ew",):
        text = re.sub(r"(\w+)$", lambda m: WORDS.get(m[1], m[1]), text)
    text = re.sub(r"^(imul) (\w+), *\2,", r"\1 \2,", text)
    words = text.replace(",", " ").split()
    if instruction.mnemonic == "xchg":
        words = sorted(words)
    return tuple(words)


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_the_text_is_that_of_iced(bits: int) -> None:
    for instruction in samples(bits, 20_000):
        if instruction.mnemonic == "nop":  # iced shows the register field of a hint
            continue
        ours, theirs = format_instruction(instruction, ADDRESS, bits=bits), iced_text(instruction, bits)
        assert normalized(ours, instruction) == normalized(theirs, instruction), instruction.raw.hex()


def meaning(operand: Operand, instruction: Instruction) -> Operand | tuple[object, ...]:
    """Return an operand, a relative address with the place that it leads to."""
    if not isinstance(operand, RelativeMemory):
        return operand
    target = operand.displacement + instruction.length & (1 << operand.address_size) - 1
    return target, operand.segment, operand.size, operand.address_size


def relative_to_here(text: str) -> str:
    """Say `[rel $+…]` for `[rel 0x…]`, since NASM takes a plain number for an absolute address."""
    return re.sub(r"(?<=\[rel )([fg]s:)?(0x\w+)", lambda m: f"{m[1] or ''}$+{int(m[2], 16) - ADDRESS:#x}", text)


def same(ours: Instruction, again: Instruction) -> bool:
    """Compare what two encodings mean; a second row (`add eax, imm` beside `add r/m, imm`) is the same."""
    if ours.mnemonic == "lea":
        address, other = ours.operands[1], again.operands[1]
        assert isinstance(address, Memory)
        assert isinstance(other, Memory)
        other.segment = address.segment
        if other.base == other.index and address.base == -1:  # NASM writes [eax*2] as [eax+eax]
            return True
    if {ours.mnemonic, again.mnemonic} == {"xchg", "nop"}:
        return True
    values = [
        [meaning(operand, i) for operand in i.operands if not isinstance(operand, Relative)] for i in (ours, again)
    ]
    if ours.mnemonic == "mov" and isinstance(
        ours.operands[0], Register64
    ):  # a small constant is loaded by the low half
        index, value = ours.operands[0].index, ours.operands[1]
        if isinstance(value, Immediate) and value.value >> 32 == 0:
            return again.operands[0] == LowRegister32(index) and again.operands[1] == Immediate(value.value, 32)
    if ours.row.operands == ("Er", "Sw") and ours.size == 64:  # 32 bits fill the whole register
        return again.row is ours.row and again.size == 32
    if ours.mnemonic == "xchg":
        values = [sorted(value, key=repr) for value in values]
    if ours.size != again.size and (ours.mnemonic in IMPLICIT or ours.row.size or again.row.size):
        return False
    return (ours.mnemonic, ours.lock, ours.repeat, values[0]) == (again.mnemonic, again.lock, again.repeat, values[1])


def readable(instruction: Instruction) -> bool:
    """Tell whether NASM has words for it: not for reserved hints, and not for an index that it would rewrite."""
    for operand in instruction.operands:
        if isinstance(operand, Memory) and operand.base < 0 <= operand.index and operand.scale <= 2:
            return False
    if instruction.mnemonic == "movsxd":
        return instruction.size == 64
    if instruction.mnemonic == "skinit":  # NASM 2.16 has it in 64-bit code alone
        return False
    if instruction.mnemonic in ("nop", "prefetchnta", "ud0", "ud1") or instruction.row.operands == ("Gv", "Ew"):
        return instruction.size == 32 and instruction.mnemonic not in ("nop", "ud0", "ud1")
    return not (instruction.mnemonic == "bswap" and instruction.size == 16)


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_nasm_and_our_assembler_read_it_back(bits: int) -> None:
    texts = {}
    for instruction in samples(bits, 6_000):
        if readable(instruction) and not is_jump(instruction):
            texts[relative_to_here(format_instruction(instruction, ADDRESS, bits=bits))] = instruction
    encoded = nasm_lines(list(texts), bits)
    for text, instruction in texts.items():
        expected = encoded[text]
        assert expected is not None, text
        assert same(instruction, decode(expected, bits)), text
        if instruction.mnemonic != "invpcid":  # NASM adds a REX.W without effect
            assert assemble(text, bits=bits).code == expected, text


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_jumps_lead_to_where_they_say(bits: int) -> None:
    for instruction in samples(bits, 6_000):
        if not is_jump(instruction) or len(encode_instruction(instruction, bits)) < instruction.length:
            continue  # a redundant prefix moves the target out of reach
        text = format_instruction(instruction, ADDRESS, bits=bits)
        again = decode(assemble(text, origin=ADDRESS, bits=bits).code, bits)
        assert format_instruction(again, ADDRESS, bits=bits) == text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("55", "push ebp"),
        ("83ec10", "sub esp, 0x10"),
        ("83e4f0", "and esp, -0x10"),
        ("8b45f8", "mov eax, [ebp-8]"),
        ("c7442404050000 00", "mov dword [esp+4], 5"),
        ("8b048500200000", "mov eax, [eax*4+0x2000]"),
        ("648b0d00000000", "mov ecx, [fs:0x0]"),
        ("0fb600", "movzx eax, byte [eax]"),
        ("66c70000 01", "mov word [eax], 0x100"),
        ("c9", "leave"),
        ("66c3", "o16 ret"),
        ("9d", "popf"),
        ("669d", "popfw"),
        ("cf", "iret"),
        ("f3a5", "rep movsd"),
        ("f2ae", "repne scasb"),
        ("f3a6", "repe cmpsb"),
        ("f0ff00", "lock inc dword [eax]"),
        ("ea0000100008 00", "jmp 0x8:0x100000"),
        ("ff28", "jmp far [eax]"),
        ("ff10", "call dword [eax]"),
        ("0f0110", "lgdt [eax]"),
        ("0f22d8", "mov cr3, eax"),
        ("8ed8", "mov ds, ax"),
        ("e460", "in al, 0x60"),
        ("ee", "out dx, al"),
        ("d40a", "aam"),
        ("67e800000000", "call 0x1006"),
        ("668cd8", "mov ax, ds"),
        ("d1e0", "shl eax, 1"),
        ("6a05", "push 5"),
    ],
)
def test_familiar_lines(code: str, text: str) -> None:
    assert format_instruction(decode(bytes.fromhex(code)), ADDRESS) == text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("55", "push rbp"),
        ("4889e5", "mov rbp, rsp"),
        ("4883ec10", "sub rsp, 0x10"),
        ("c3", "ret"),
        ("6655", "push bp"),
        ("488b05f9ffffff", "mov rax, [rel 0x1000]"),
        ("648b042528000000", "mov eax, [fs:0x28]"),
        ("8b0425000020fe", "mov eax, [0xfffffffffe200000]"),
        ("678b042500000080", "a32 mov eax, [0x80000000]"),
        ("48a18877665544332211", "mov rax, [qword 0x1122334455667788]"),
        ("48b88877665544332211", "mov rax, 0x1122334455667788"),
        ("48c7c0ffffffff", "mov rax, -1"),
        ("4088e0", "mov al, spl"),
        ("88e0", "mov al, ah"),
        ("4d89c8", "mov r8, r9"),
        ("4863c8", "movsxd rcx, eax"),
        ("48cf", "iretq"),
        ("cf", "iret"),
        ("9c", "pushf"),
        ("48cb", "o64 retf"),
        ("480f07", "o64 sysret"),
        ("f348a5", "rep movsq"),
        ("67e3fd", "jecxz 0x1000"),
        ("48ff2b", "jmp qword far [rbx]"),
        ("6a05", "push 5"),
        ("666a05", "push word 5"),
        ("0f01f8", "swapgs"),
        ("440f20c0", "mov rax, cr8"),
        ("0f0110", "lgdt [rax]"),
        ("f0480fc70f", "lock cmpxchg16b [rdi]"),
        ("660f38820a", "invpcid rcx, [rdx]"),
    ],
)
def test_familiar_lines_of_64_bit_code(code: str, text: str) -> None:
    assert format_instruction(decode(bytes.fromhex(code), 64), ADDRESS, bits=64) == text


def test_symbols_in_64_bit_code() -> None:
    program = assemble(
        "start: mov rax, [rel table]\n lea rbx, [rel start]\n mov rcx, table\n call start\ntable:", 1 << 40, 64
    )
    symbols = {address: name for name, address in program.symbols.items()}
    lines = disassemble(program.code, 1 << 40, bits=64, symbols=symbols)
    assert [line.text for line in lines] == [
        "mov rax, [rel table]",
        "lea rbx, [rel start]",
        "mov rcx, table",
        "call start",
    ]


def test_symbols_stand_for_targets_addresses_and_large_constants() -> None:
    symbols = {0x1000: "start", 0x2000: "table", 5: "five"}
    program = assemble(
        "start: mov eax, 0x2000\n mov ebx, [0x2000]\n mov ecx, [ebx*4+0x2000]\n push 5\n jmp start", 0x1000
    )
    assert [line.text for line in disassemble(program.code, 0x1000, symbols=symbols)] == [
        "mov eax, table",
        "mov ebx, [table]",
        "mov ecx, [table+ebx*4]",
        "push 5",
        "jmp start",
    ]


def test_lines_cover_every_byte_and_bytes_that_are_none_become_db() -> None:
    code = bytes.fromhex("90 0f0a c3 d9 e8 00")
    lines = disassemble(code, 0x100)
    assert [line.text for line in lines] == ["nop", "db 0x0f", "or al, bl", "db 0xd9", "db 0xe8", "db 0x00"]
    assert b"".join(line.raw for line in lines) == code
    assert [line.address for line in lines] == [0x100, 0x101, 0x102, 0x104, 0x105, 0x106]
    assert lines[1].instruction is None
