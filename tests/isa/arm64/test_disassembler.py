"""Decoder and disassembler of the AArch64 subset, against Capstone: random words of each row, and random words at all."""

from __future__ import annotations

import random
import re

import capstone
import pytest

from tests.isa.arm64.trials import overlaps
from vmlab.guests import arm64 as guests
from vmlab.isa.arm64.assembler import assemble
from vmlab.isa.arm64.bitmask import decode_bitmask, encode_bitmask
from vmlab.isa.arm64.decoder import decode
from vmlab.isa.arm64.disassembler import disassemble, format_instruction
from vmlab.isa.arm64.system_names import REGISTERS
from vmlab.isa.arm64.table import ALIASES, ROWS

AT = 0x1000_0000
CAPSTONE = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
NUMBER = re.compile(r"#(-?)(0x[0-9a-f]+|\d+)")

# What Capstone names beyond Armv8.0 (extensions that are hints or system instructions there), or prints as nothing.
LATER = {"hint", "bfm", "dsb", "sys", "prfm", "prfum"}
# Extensions, floating point and SIMD: instructions that this subset has not, by the groups of C4.1 that hold them.
VECTORS, EXTENSIONS_OF_LOADS = 0b0111, 0b0100


def capstone_text(word: int, at: int = AT) -> str | None:
    found = next(CAPSTONE.disasm(word.to_bytes(4, "little"), at), None)
    return f"{found.mnemonic} {found.op_str}".strip() if found else None


def plain(text: str | None, bits: int = 64) -> str:
    """Write all numbers in decimal, without a sign."""
    mask = (1 << bits) - 1
    return NUMBER.sub(lambda found: f"#{(-1 if found[1] else 1) * int(found[2], 0) & mask}", text or "")


def draw(rng: random.Random, row) -> int:
    word = rng.getrandbits(32) & ~row.mask | row.value
    for name, shift, mask in row.fields:
        if name[0] == "r" and rng.random() < 0.15:
            word |= mask << shift
    return word


def same(word: int, ours: str, theirs: str | None) -> bool:
    """Say whether the two agree on an instruction."""
    instruction = decode(word)
    bits = instruction.bits if instruction.mnemonic in ("movz", "movn", "orr") else 64
    if plain(ours, bits) == plain(theirs, bits):
        return True
    if overlaps(instruction) or (
        theirs is None and "ldtr" in instruction.mnemonic and instruction["rn"] == instruction["rt"]
    ):
        return theirs is None  # Capstone refuses what the architecture leaves open (and these)
    if instruction.mnemonic == "orr":  # it prefers mov where the manual's condition says orr
        return plain(ours, 32).split("#")[1] == plain(theirs, 32).split("#")[1]
    if instruction.mnemonic in ("msr", "mrs"):  # registers that this subset has no name for
        return bool(re.search(r"s[23]_\d_c\d+_c\d+_\d", ours)) and ours.split(maxsplit=1)[0] == theirs.split()[0]
    return instruction.mnemonic in LATER


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.mnemonic} {' '.join(row.operands)}")
def test_a_row_as_capstone_reads_it(row):
    rng = random.Random(row.value)
    agreed = 0
    for _ in range(60):
        word = draw(rng, row)
        instruction, theirs = decode(word), capstone_text(word)
        if instruction is None or instruction.row is not row:
            if row.mnemonic != "msr":  # fields of PSTATE that came after Armv8.0, and what Capstone reads as registers
                assert theirs is None, f"{word:#010x} is {theirs}"
            continue
        ours = format_instruction(instruction, AT)
        assert same(word, ours, theirs), f"{word:#010x}: {ours}, and Capstone says {theirs}"
        agreed += plain(ours) == plain(theirs)
    assert agreed or row.mnemonic in {"hint", "sys", "mrs", "msr"}


def test_what_is_undefined():
    """Random words outside the vector groups: what Capstone knows and we do not belongs to extensions of Armv8.0."""
    rng = random.Random(5)
    known = {row.mnemonic for row in (*ROWS, *ALIASES)}
    strays = set()
    for _ in range(60_000):
        word = rng.getrandbits(32)
        group = word >> 25 & 15
        if group & 0b0111 == VECTORS or group < 0b0100 or (group & 0b0101 == EXTENSIONS_OF_LOADS and word >> 26 & 1):
            continue
        theirs = capstone_text(word)
        if decode(word) is None and theirs and theirs.split()[0] in known:
            strays.add((hex(word), theirs))
    # the should-be-one fields of exclusives and long multiplications, and reserved registers
    assert {text.split()[0] for _, text in strays} <= {
        "stxr", "stxrb", "stxrh", "stlxr", "stlxrb", "stlxrh", "ldxr", "ldxrb", "ldxrh", "ldaxr", "ldaxrb", "ldaxrh", "ldar",
        "ldarb", "ldarh", "stlr", "stlrb", "stlrh", "smulh", "umulh", "mrs", "msr",
    }, strays  # fmt: skip


@pytest.mark.parametrize("name", REGISTERS)
def test_a_system_register(name):
    word = int.from_bytes(assemble(f"mrs x3, {name}").code, "little")
    assert capstone_text(word) == f"mrs x3, {name}" or name == "oslar_el1"  # that one is write-only
    word = int.from_bytes(assemble(f"msr {name}, x3").code, "little")
    assert format_instruction(decode(word)) == f"msr {name}, x3"


def test_bitmask_immediates():
    """All 5334 of 64 bits, there and back; each is a rotated run of ones, repeated (C3.4.2)."""
    found = {decode_bitmask(n, r, s, 64) for n in range(2) for r in range(64) for s in range(64)} - {None}
    assert len(found) == 5334
    assert all(decode_bitmask(*encode_bitmask(value, 64), 64) == value for value in found)
    assert encode_bitmask(0, 64) is encode_bitmask((1 << 64) - 1, 64) is None


def test_aliases_narrow_their_rows():
    for alias in ALIASES:
        rows = [row for row in ROWS if alias.mask & row.mask == row.mask and alias.value & row.mask == row.value]
        assert len(rows) == 1, alias
        assert {field.name for field in alias.fields} <= {field.name for field in rows[0].fields}


def test_rows_exclude_each_other():
    """No word belongs to two rows: a register offset and an unscaled one differ in fixed bits, and so on."""
    for n, row in enumerate(ROWS):
        for other in ROWS[n + 1 :]:
            assert (row.value ^ other.value) & row.mask & other.mask, (row, other)


def test_a_listing():
    assert disassemble(bytes.fromhex("e10340f8 5f2003d5 ffffffff")) == ["ldur x1, [sp]", "wfe", ".word 0xffffffff"]


@pytest.mark.parametrize("name", guests.names())
def test_the_guests_as_capstone_reads_them(name):
    """Each instruction of the guests that are shipped, at its address."""
    program = guests.load(name)
    for address in program.lines:
        word = int.from_bytes(program.code[address - program.origin :][:4], "little")
        ours, theirs = format_instruction(decode(word), address), capstone_text(word, address)
        bits = decode(word).bits
        assert plain(ours, bits) == plain(theirs, bits), f"line {program.lines[address]}"
    assert len(program.lines) > 100
