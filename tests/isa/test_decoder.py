"""The decoder against iced-x86 on random bytes, and its rules one by one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import iced_x86
import pytest
from iced_x86 import Code, CpuidFeature, DecoderOptions, OpKind, Register

from vmlab.isa.x86.decoder import DecodeError, InvalidOpcode, TooLong, Truncated, decode
from vmlab.isa.x86.operands import (
    ControlRegister,
    DebugRegister,
    FarPointer,
    Immediate,
    Memory,
    Operand,
    Register8,
    Register16,
    Register32,
    Relative,
    SegmentOperand,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.isa.x86.instruction import Instruction


def names(holder: type) -> dict[int, str]:
    return {value: name for name, value in vars(holder).items() if isinstance(value, int)}


FEATURES, CODES, REGISTERS = names(CpuidFeature), names(Code), names(Register)
MNEMONICS, KINDS = names(iced_x86.Mnemonic), names(OpKind)
OPTIONS = DecoderOptions.NO_MPFX_0FBC | DecoderOptions.NO_MPFX_0FBD | DecoderOptions.NO_WBNOINVD
IN_SCOPE = {
    "INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "CPUID", "TSC", "MSR", "CX8", "CMOV",
    "MULTIBYTENOP", "PAUSE", "SEP", "RDPMC", "INTEL286_ONLY", "INTEL8086_ONLY",
}  # fmt: skip
OUT_OF_SCOPE_CODES = {"WAIT", "SALC"}
FENCES = {"LFENCE", "MFENCE", "SFENCE"}

# How iced-x86 names what we name otherwise, for a comparison of mnemonics.
STRINGS = {
    f"{base}{letter}": base for base in ("movs", "cmps", "stos", "lods", "scas", "ins", "outs") for letter in "bwd"
}
RENAMED = STRINGS | {
    "retf": "retf", "iretd": "iret", "pushfd": "pushf", "popfd": "popf", "pushad": "pusha", "popad": "popa",
    "sal": "shl", "xlatb": "xlat", "endbr32": "nop", "endbr64": "nop", "reservednop": "nop",
    "prefetchw": "nop", "prefetch": "nop", "prefetchwt1": "nop", "rdsspd": "nop", "cldemote": "nop",
    "bndldx": "nop", "bndmov": "nop", "bndcl": "nop", "bndcu": "nop", "bndmk": "nop", "bndcn": "nop", "bndstx": "nop",
    "prefetchit0": "nop", "prefetchit1": "nop", "prefetchrst2": "nop",
}  # fmt: skip


def random_code(rng: random.Random) -> bytes:
    """Fifteen bytes: few prefixes or very many, often the escape byte, then anything."""
    count = 14 if rng.random() < 0.01 else rng.choice((0, 0, 0, 0, 1, 1, 2, 3))
    prefixes = bytes(rng.choice(b"\x66\x67\xf2\xf3\xf0\x2e\x36\x64") for _ in range(count))
    return (prefixes + rng.choice((b"", b"", b"\x0f", b"\x0f\xae")) + rng.randbytes(15))[:15]


def oracle(code: bytes, bits: int) -> iced_x86.Instruction | None:
    instruction = iced_x86.Decoder(bits, code, OPTIONS).decode()
    if instruction.code == Code.INVALID:
        return None
    mnemonic = MNEMONICS[instruction.mnemonic]
    if mnemonic in FENCES:
        return instruction if code[instruction.len - 1] & 7 == 0 else None
    if RENAMED.get(mnemonic.lower()) == "nop" or mnemonic.startswith("PREFETCH"):
        return instruction
    in_scope = {FEATURES[feature] for feature in instruction.cpuid_features()} <= IN_SCOPE
    return instruction if in_scope and CODES[instruction.code] not in OUT_OF_SCOPE_CODES else None


def try_decode(code: bytes, bits: int) -> Instruction | DecodeError:
    try:
        return decode(code, bits)
    except DecodeError as error:
        return error


def operand_matches(operand: Operand, instruction: iced_x86.Instruction, n: int) -> bool:
    """Compare one explicit operand; iced keeps memory and immediates in the instruction itself."""
    kind = KINDS[instruction.op_kind(n)]
    match operand:
        case Register8() | Register16() | Register32() | SegmentOperand() | ControlRegister() | DebugRegister():
            name = REGISTERS[instruction.op_register(n)].lower()
            if isinstance(operand, Register16) and "R32M16" in CODES[instruction.code]:
                name = name.removeprefix("e")  # iced names the whole register where 16 bits are read
            return kind == "REGISTER" and name == operand.name
        case Immediate():
            return kind.startswith("IMMEDIATE") and instruction.immediate(n) & (1 << operand.size) - 1 == operand.value
        case Relative():
            target = instruction.len + operand.displacement & (1 << operand.size) - 1
            return kind.startswith("NEAR_BRANCH") and instruction.near_branch_target == target
        case FarPointer():
            offset = instruction.far_branch32 if operand.size == 32 else instruction.far_branch16
            return (offset, instruction.far_branch_selector) == (operand.offset, operand.selector)
        case Memory():
            family = "xxxx", "ax", "cx", "dx", "bx", "sp", "bp", "si", "di"
            wide = "e" if operand.address_size == 32 else ""
            base, index = (wide + family[r + 1] if r >= 0 else "none" for r in (operand.base, operand.index))
            segment = ("es", "cs", "ss", "ds", "fs", "gs")[operand.segment]
            ours = base, index, operand.scale, operand.displacement, segment
            theirs = (
                REGISTERS[instruction.memory_base].lower(),
                REGISTERS[instruction.memory_index].lower(),
                instruction.memory_index_scale if operand.index >= 0 else 1,
                instruction.memory_displacement & (1 << operand.address_size) - 1,
                REGISTERS[instruction.memory_segment].lower(),
            )
            return kind == "MEMORY" and ours == theirs
    return False


def agree(ours: Instruction, theirs: iced_x86.Instruction) -> bool:
    name = MNEMONICS[theirs.mnemonic].lower()
    expected = RENAMED.get(name, name)
    if ours.length != theirs.len or ours.mnemonic.removesuffix("f") != expected.removesuffix("f"):
        return False
    if ours.mnemonic == "nop" or not ours.operands:  # implicit operands are named by iced, and hints differ
        return True
    operands = ours.operands[::-1] if ours.row.operands == ("eAX", "Zv") else ours.operands
    pairs = enumerate(operands)
    return theirs.op_count == len(operands) and all(operand_matches(operand, theirs, n) for n, operand in pairs)


def disagreements(seed: int, bits: int, count: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        code = random_code(rng)
        ours, theirs = try_decode(code, bits), oracle(code, bits)
        if isinstance(ours, DecodeError) != (theirs is None):
            yield f"{code.hex()}: {ours!r} against {theirs}"
        elif not isinstance(ours, DecodeError) and theirs is not None and not agree(ours, theirs):
            yield f"{code.hex()}: {ours.mnemonic} {ours.operands} against {theirs}"


@pytest.mark.parametrize("bits", [32, 16])
def test_random_bytes_decode_as_iced_decodes_them(bits: int) -> None:
    assert list(disagreements(seed=bits, bits=bits, count=40_000)) == []


@pytest.mark.parametrize("bits", [32, 16])
def test_every_opcode_and_modrm_decodes_as_iced_decodes_it(bits: int) -> None:
    tail = bytes.fromhex("44332211887766554433")
    for escape in (b"", b"\x0f", b"\x66", b"\x66\x0f", b"\x67", b"\xf3\x0f"):
        for opcode in range(256):
            for modrm in range(0, 256, 1 if escape in (b"", b"\x0f") else 5):
                code = escape + bytes([opcode, modrm]) + tail
                ours, theirs = try_decode(code, bits), oracle(code, bits)
                assert isinstance(ours, DecodeError) == (theirs is None), code.hex()
                if theirs is not None:
                    assert not isinstance(ours, DecodeError)
                    assert agree(ours, theirs), f"{code.hex()}: {ours} against {theirs}"


def test_truncation_is_told_from_undefined() -> None:
    """Every proper prefix of a valid instruction is Truncated: the fetch goes on to the next page."""
    for text in ("6766c784c87856341200112233", "f0830c2400", "0fba2501000000ff", "9a785634120800", "c8000100", "0fae"):
        code = bytes.fromhex(text)
        length = decode(code).length if text != "0fae" else 3
        for end in range(min(length, len(code))):
            with pytest.raises(Truncated):
                decode(code[:end])


def test_fifteen_bytes_are_the_limit() -> None:
    assert decode(b"\x26" * 14 + b"\x90").length == 15
    with pytest.raises(TooLong):
        decode(b"\x26" * 15 + b"\x90")
    with pytest.raises(TooLong):
        decode(b"\x26" * 11 + bytes.fromhex("0512345678"))
    with pytest.raises(TooLong):
        decode(b"\x26" * 15)
    with pytest.raises(Truncated):
        decode(b"\x26" * 14)


@pytest.mark.parametrize(
    "text",
    [
        "f089c8",  # lock mov
        "f001c8",  # lock add eax, ecx: the destination is a register
        "f03b08",  # lock cmp
        "8dc0",  # lea with a register
        "c4c0",  # les with a register
        "0fc7c8",  # cmpxchg8b with a register
        "0f01f8",  # invlpg with a register
        "8ec8",  # mov cs, ax
        "8cf0",  # mov eax, segment register 6
        "0f20c8",  # mov eax, cr1
        "0f22e8",  # mov cr5, eax
        "ffff",  # FF /7
        "fed0",  # FE /2
        "8fc8",  # 8F /1
        "d9c0",  # x87
        "0f58c0",  # SSE
        "f30faee8",  # another instruction than lfence
    ],
)
def test_undefined_encodings(text: str) -> None:
    with pytest.raises(InvalidOpcode):
        decode(bytes.fromhex(text) + bytes(8))


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("8b00", 3), ("8b4500", 2), ("8b0424", 2), ("8b042500000000", 3), ("8b042d00000000", 3), ("8b442d00", 2),
        ("368b00", 2), ("3e8b4500", 3), ("648b0d00000000", 4), ("65a100000000", 5), ("678b4600", 2), ("678b060000", 3),
    ],
)  # fmt: skip
def test_default_and_overridden_segments(text: str, segment: int) -> None:
    memory = next(operand for operand in decode(bytes.fromhex(text)).operands if isinstance(operand, Memory))
    assert memory.segment == segment


def test_sib_without_index_or_base() -> None:
    assert decode(bytes.fromhex("8b0424")).operands[1] == Memory(2, 4, -1, 1, 0, 32)
    assert decode(bytes.fromhex("8b04a578563412")).operands[1] == Memory(3, -1, -1, 1, 0x12345678, 32)
    assert decode(bytes.fromhex("8b04cd78563412")).operands[1] == Memory(3, -1, 1, 8, 0x12345678, 32)
    assert decode(bytes.fromhex("8b4445ff")).operands[1] == Memory(2, 5, 0, 2, -1, 32)


def test_a_word_store_of_a_selector_to_memory_and_a_full_one_to_a_register() -> None:
    assert decode(bytes.fromhex("8cd8")).operands[0].size == 32
    assert decode(bytes.fromhex("668cd8")).operands[0].size == 16
    assert decode(bytes.fromhex("8c18")).operands[0].size == 16
    assert decode(bytes.fromhex("0f01e0")).operands[0].size == 32
    assert decode(bytes.fromhex("0f0120")).operands[0].size == 16


@pytest.mark.parametrize(
    ("text", "mnemonic", "size", "repeat"),
    [
        ("a4", "movs", 8, ""), ("a5", "movs", 32, ""), ("66a5", "movs", 16, ""), ("f3ab", "stos", 32, "rep"),
        ("f2ae", "scas", 8, "repne"), ("f390", "pause", 32, ""), ("f3c3", "ret", 32, ""), ("98", "cwde", 32, ""),
        ("6698", "cbw", 16, ""), ("99", "cdq", 32, ""), ("669c", "pushf", 16, ""), ("cf", "iret", 32, ""),
        ("f30f1efb", "nop", 32, ""), ("0fb6c0", "movzx", 32, ""), ("6a80", "push", 32, ""), ("660f20c0", "mov", 32, ""),
    ],
)  # fmt: skip
def test_sizes_and_repeats(text: str, mnemonic: str, size: int, repeat: str) -> None:
    instruction = decode(bytes.fromhex(text))
    assert (instruction.mnemonic, instruction.size, instruction.repeat) == (mnemonic, size, repeat)
    assert instruction.raw == bytes.fromhex(text)


def test_string_instructions_keep_the_override_and_have_no_operands() -> None:
    instruction = decode(bytes.fromhex("6764f3a4"))
    assert (instruction.segment, instruction.address_size, instruction.operands) == (4, 16, ())


def test_immediates_are_extended_to_the_operand_size() -> None:
    assert decode(bytes.fromhex("83c0ff")).operands[1] == Immediate(0xFFFFFFFF, 32)
    assert decode(bytes.fromhex("6683c0ff")).operands[1] == Immediate(0xFFFF, 16)
    assert decode(bytes.fromhex("6aff")).operands[0] == Immediate(0xFFFFFFFF, 32)
    assert decode(bytes.fromhex("6bc080")).operands[2] == Immediate(0xFFFFFF80, 32)
    assert decode(bytes.fromhex("c1e0ff")).operands[1] == Immediate(0xFF, 8)
    assert decode(bytes.fromhex("ebfe")).operands[0] == Relative(-2, 32)
    assert decode(bytes.fromhex("66ebfe")).operands[0] == Relative(-2, 16)
