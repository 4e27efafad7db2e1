"""The decoder against iced-x86 on random bytes, and its rules one by one."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import iced_x86
import pytest
from iced_x86 import Code, CodeSize, CpuidFeature, DecoderOptions, OpKind, Register

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
    Register64,
    Relative,
    RelativeMemory,
    SegmentOperand,
)
from vmlab.isa.x86.registers import GENERAL_NAMES, RIP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.isa.x86.instruction import Instruction


def names(holder: type) -> dict[int, str]:
    return {value: name for name, value in vars(holder).items() if isinstance(value, int)}


FEATURES, CODES, REGISTERS = names(CpuidFeature), names(Code), names(Register)
WORDS = {name: GENERAL_NAMES[16][n] for size in (32, 64) for n, name in enumerate(GENERAL_NAMES[size])}
MNEMONICS, KINDS = names(iced_x86.Mnemonic), names(OpKind)
OPTIONS = DecoderOptions.NO_MPFX_0FBC | DecoderOptions.NO_MPFX_0FBD | DecoderOptions.NO_WBNOINVD
IN_SCOPE = {
    "INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "CPUID", "TSC", "MSR", "CX8", "CMOV",
    "MULTIBYTENOP", "PAUSE", "SEP", "RDPMC", "INTEL286_ONLY", "INTEL8086_ONLY",
    "X64", "SYSCALL", "CMPXCHG16B", "RDTSCP", "MONITOR", "SMAP", "INVPCID", "VMX", "INVEPT", "INVVPID", "SVM", "SKINIT_OR_SVM",
}  # fmt: skip
OUT_OF_SCOPE_CODES = {"SALC", "VMFUNC"}
FENCES = {"LFENCE", "MFENCE", "SFENCE"}
OF_A_LARGER_FEATURE = {"XGETBV", "XSETBV", "VMGEXIT"}

# How iced-x86 names what we name otherwise, for a comparison of mnemonics.
STRINGS = {
    f"{base}{letter}": base for base in ("movs", "cmps", "stos", "lods", "scas", "ins", "outs") for letter in "bwdq"
}
RENAMED = STRINGS | {
    "wait": "fwait", "retf": "retf", "iretd": "iret", "pushfd": "pushf", "popfd": "popf", "pushad": "pusha", "popad": "popa",
    "iretq": "iret", "pushfq": "pushf", "popfq": "popf", "sysretq": "sysret", "sysexitq": "sysexit", "rdsspq": "nop",
    "sal": "shl", "xlatb": "xlat", "endbr32": "nop", "endbr64": "nop", "reservednop": "nop",
    "prefetchw": "nop", "prefetch": "nop", "prefetchwt1": "nop", "rdsspd": "nop", "cldemote": "nop",
    "bndldx": "nop", "bndmov": "nop", "bndcl": "nop", "bndcu": "nop", "bndmk": "nop", "bndcn": "nop", "bndstx": "nop",
    "vmgexit": "vmmcall",  # which it is on a processor without encrypted guests (AMD APM vol. 3)
    "prefetchit0": "nop", "prefetchit1": "nop", "prefetchrst2": "nop",
}  # fmt: skip


def random_code(rng: random.Random) -> bytes:
    """Fifteen bytes: few prefixes or very many, often the escape byte, then anything."""
    count = 14 if rng.random() < 0.01 else rng.choice((0, 0, 0, 0, 1, 1, 2, 3))
    prefixes = bytes(rng.choice(b"\x66\x67\xf2\xf3\xf0\x2e\x36\x64\x41\x44\x48\x4f") for _ in range(count))
    escape = rng.choice((b"", b"", b"", b"\x0f", b"\x0f", b"\x0f\xae", b"\x0f\x01", b"\x0f\x38\x82"))
    return (prefixes + escape + rng.randbytes(15))[:15]


def oracle(code: bytes, bits: int) -> iced_x86.Instruction | None:
    instruction = iced_x86.Decoder(bits, code, OPTIONS).decode()
    if instruction.code == Code.INVALID:
        return None
    mnemonic = MNEMONICS[instruction.mnemonic]
    if mnemonic in FENCES:
        return instruction if code[instruction.len - 1] & 7 == 0 else None
    if RENAMED.get(mnemonic.lower()) == "nop" or mnemonic.startswith("PREFETCH"):
        return instruction
    if mnemonic in OF_A_LARGER_FEATURE:
        return instruction
    in_scope = {FEATURES[feature] for feature in instruction.cpuid_features()} <= IN_SCOPE
    return instruction if in_scope and CODES[instruction.code] not in OUT_OF_SCOPE_CODES else None


def try_decode(code: bytes, bits: int) -> Instruction | DecodeError:
    try:
        return decode(code, bits)
    except DecodeError as error:
        return error


def memory_segment(instruction: iced_x86.Instruction) -> str:
    """Return the segment register of a memory operand; iced also names one that 64-bit code ignores."""
    name = REGISTERS[instruction.memory_segment].lower()
    if instruction.code_size != CodeSize.CODE64 or name in ("fs", "gs"):
        return name
    return "ss" if REGISTERS[instruction.memory_base] in ("RSP", "RBP", "ESP", "EBP") else "ds"


def operand_matches(operand: Operand, instruction: iced_x86.Instruction, n: int) -> bool:
    """Compare one explicit operand; iced keeps memory and immediates in the instruction itself."""
    kind = KINDS[instruction.op_kind(n)]
    match operand:
        case (
            Register8()
            | Register16()
            | Register32()
            | Register64()
            | SegmentOperand()
            | ControlRegister()
            | DebugRegister()
        ):
            name = re.sub(r"^(r\d+)l$", r"\1b", REGISTERS[instruction.op_register(n)].lower())
            if isinstance(operand, Register16) and re.search("R(32|64)M16", CODES[instruction.code]):
                name = WORDS.get(name, name)  # iced names the whole register where 16 bits are read
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
            family = GENERAL_NAMES[operand.address_size]
            base, index = (family[r] if r >= 0 else "none" for r in (operand.base, operand.index))
            segment = ("es", "cs", "ss", "ds", "fs", "gs")[operand.segment]
            if isinstance(operand, RelativeMemory):  # iced has added the length
                operand = Memory(3, RIP, -1, 1, operand.displacement + instruction.len, 8, operand.address_size)
            ours = base, index, operand.scale, operand.displacement, segment
            theirs = (
                REGISTERS[instruction.memory_base].lower(),
                REGISTERS[instruction.memory_index].lower(),
                instruction.memory_index_scale if operand.index >= 0 else 1,
                instruction.memory_displacement & (1 << operand.address_size) - 1,
                memory_segment(instruction),
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


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_random_bytes_decode_as_iced_decodes_them(bits: int) -> None:
    assert list(disagreements(seed=bits, bits=bits, count=50_000)) == []


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_every_opcode_and_modrm_decodes_as_iced_decodes_it(bits: int) -> None:
    tail = bytes.fromhex("44332211887766554433")
    for escape in (b"", b"\x0f", b"\x66", b"\x66\x0f", b"\x67", b"\xf3\x0f", b"\x66\x0f\x38", b"\x48", b"\x45\x0f"):
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


@pytest.mark.parametrize(
    "text",
    [
        "06", "0e", "16", "1e", "07", "17", "1f",  # push and pop of es, cs, ss, ds
        "27", "2f", "37", "3f", "d40a", "d50a",  # BCD arithmetic
        "60", "61", "ce", "6200", "c400", "c500", "d6",
        "9a0000000000000000", "ea0000000000000000", "820000",
        "440f20d0", "440f22c8", "440f21c0", "440f20e0",  # cr10, cr9, dr8, cr12
        "0f3882c0", "0f388200", "f3660f388200", "66f20f388200",
        "f0900f", "f00fc7c8", "480fc7c8", "0f01fa",
    ],
)  # fmt: skip
def test_undefined_encodings_of_64_bit_code(text: str) -> None:
    with pytest.raises(InvalidOpcode):
        decode(bytes.fromhex(text) + bytes(8), 64)


@pytest.mark.parametrize(
    ("text", "mnemonic", "size"),
    [
        ("50", "push", 64), ("6650", "push", 16), ("4850", "push", 64), ("c3", "ret", 64), ("66c3", "ret", 64),
        ("c9", "leave", 64), ("9c", "pushf", 64), ("669c", "pushf", 16), ("cf", "iret", 32), ("48cf", "iret", 64),
        ("cb", "retf", 32), ("48cb", "retf", 64), ("98", "cwde", 32), ("4898", "cdqe", 64), ("6698", "cbw", 16),
        ("664898", "cdqe", 64), ("486698", "cbw", 16), ("4899", "cqo", 64), ("48a5", "movs", 64), ("a5", "movs", 32),
        ("486d", "ins", 32), ("48ed", "in", 32), ("6aff", "push", 64), ("e8fbffffff", "call", 64),
        ("66e8fbffffff", "call", 64), ("ffd0", "call", 64), ("480fc708", "cmpxchg16b", 64), ("0fc708", "cmpxchg8b", 32),
        ("4863c1", "movsxd", 64), ("63c1", "movsxd", 32), ("e3fe", "jrcxz", 64), ("67e3fe", "jecxz", 64),
        ("0f05", "syscall", 32), ("480f07", "sysret", 64), ("0f01f8", "swapgs", 32), ("0f0110", "lgdt", 64),
        ("90", "nop", 32), ("4190", "xchg", 32), ("f34190", "pause", 32), ("0f20d8", "mov", 64), ("ff28", "jmpf", 32),
        ("48ff28", "jmpf", 64), ("660f388203", "invpcid", 64),
    ],
)  # fmt: skip
def test_sizes_in_64_bit_code(text: str, mnemonic: str, size: int) -> None:
    instruction = decode(bytes.fromhex(text), 64)
    assert (instruction.mnemonic, instruction.size, instruction.address_size) == (
        mnemonic,
        size,
        32 if text[:2] == "67" else 64,
    )
    assert instruction.raw == bytes.fromhex(text)


def test_constants_in_64_bit_code_are_extended_from_32_bits_save_where_mov_loads_a_register() -> None:
    assert decode(bytes.fromhex("4883c0ff"), 64).operands[1] == Immediate(-1, 64)
    assert decode(bytes.fromhex("480500000080"), 64).operands[1] == Immediate(-(1 << 31), 64)
    assert decode(bytes.fromhex("68ffffffff"), 64).operands[0] == Immediate(-1, 64)
    assert decode(bytes.fromhex("48b88877665544332211"), 64).operands[1] == Immediate(0x1122334455667788, 64)
    assert decode(bytes.fromhex("48a18877665544332211"), 64).operands[1] == Memory(
        3, -1, -1, 1, 0x1122334455667788, 64, 64
    )
    assert decode(bytes.fromhex("e900000080"), 64).operands[0] == Relative(-(1 << 31), 64)


def test_rex_counts_directly_before_the_opcode_only() -> None:
    assert [operand.size for operand in decode(bytes.fromhex("4801c8"), 64).operands] == [64, 64]
    assert [operand.size for operand in decode(bytes.fromhex("486601c8"), 64).operands] == [16, 16]
    assert [operand.name for operand in decode(bytes.fromhex("4d01c8"), 64).operands] == ["r8", "r9"]
    assert [operand.name for operand in decode(bytes.fromhex("00e7"), 64).operands] == ["bh", "ah"]
    assert [operand.name for operand in decode(bytes.fromhex("4000e7"), 64).operands] == ["dil", "spl"]
    assert decode(bytes.fromhex("41b001"), 64).operands[0] == Register8(8)
    assert decode(bytes.fromhex("b001"), 64).operands[0] == Register8(0)


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("8b0504000000", RelativeMemory(3, 4, 32)),
        ("678b05fcffffff", RelativeMemory(3, -4, 32, 32)),
        ("648b0504000000", RelativeMemory(4, 4, 32)),
        ("418b0504000000", RelativeMemory(3, 4, 32)),
        ("8b042500000080", Memory(3, -1, -1, 1, -(1 << 31), 32, 64)),
        ("41 8b 04 24", Memory(3, 12, -1, 1, 0, 32, 64)),
        ("41 8b 45 00", Memory(3, 13, -1, 1, 0, 32, 64)),
        ("8b 45 00", Memory(2, 5, -1, 1, 0, 32, 64)),
        ("2e 8b 45 00", Memory(2, 5, -1, 1, 0, 32, 64)),
        ("65 2e 8b 45 00", Memory(5, 5, -1, 1, 0, 32, 64)),
        ("42 8b 04 a0", Memory(3, 0, 12, 4, 0, 32, 64)),
        ("8b 04 24", Memory(2, 4, -1, 1, 0, 32, 64)),
        ("67 8b 40 ff", Memory(3, 0, -1, 1, -1, 32, 32)),
    ],
)
def test_addresses_in_64_bit_code(text: str, memory: Memory) -> None:
    assert decode(bytes.fromhex(text), 64).operands[1] == memory


def test_operands_read_and_write_what_64_bit_mode_has() -> None:
    class Cpu:
        registers = [0x1122334455667788] * 16
        ip = 0x1007

    cpu: Any = Cpu()
    for code, value, after in (
        ("89c0", 0x55667788, 0x9),
        ("6689c0", 0x7788, 0x1122334455660009),
        ("88e4", 0x77, 0x1122334455660988),
        ("4088e4", 0x88, 0x1122334455667709),
        ("4889c0", 0x1122334455667788, 0x9),
    ):
        register = decode(bytes.fromhex(code), 64).operands[0]
        assert register.read(cpu) == register.modify(cpu) == value
        register.write(cpu, 9)
        assert cpu.registers[register.parent if isinstance(register, Register8) else register.index] == after
        cpu.registers = [0x1122334455667788] * 16
    relative = decode(bytes.fromhex("488b05f9ffffff"), 64).operands[1]
    assert isinstance(relative, RelativeMemory)
    assert relative.offset(cpu) == 0x1000
    cpu.ip = 3
    assert relative.offset(cpu) == (1 << 64) - 4
    relative = decode(bytes.fromhex("678b05f9ffffff"), 64).operands[1]
    assert isinstance(relative, RelativeMemory)
    assert relative.offset(cpu) == (1 << 32) - 4


def test_truncation_of_64_bit_code() -> None:
    for text in (
        "48b88877665544332211",
        "678b84c878563412",
        "48c70500000000ffffffff",
        "660f38820500000000",
        "64418b4424ff",
    ):
        code = bytes.fromhex(text)
        assert decode(code, 64).length == len(code)
        for end in range(len(code)):
            with pytest.raises(Truncated):
                decode(code[:end], 64)
    assert decode(b"\x66" * 13 + b"\x48\x90", 64).length == 15
    for code in (b"\x66" * 14 + b"\x48\x90", b"\x48" * 15, b"\x66" * 6 + bytes.fromhex("48b88877665544332211")):
        with pytest.raises(TooLong):
            decode(code, 64)
