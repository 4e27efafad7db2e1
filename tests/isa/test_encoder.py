"""The encoder: what the decoder reads, it writes, and the other way round."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.isa.test_decoder import random_code
from vmlab.errors import OptionError
from vmlab.isa.x86.decoder import DecodeError, decode
from vmlab.isa.x86.encoder import encode, encode_instruction
from vmlab.isa.x86.operands import (
    FarPointer,
    Immediate,
    Memory,
    Register8,
    Register16,
    Register32,
    Register64,
    Relative,
    RelativeMemory,
)
from vmlab.isa.x86.table import rows_of


def same_meaning(code: bytes, bits: int) -> None:
    """Decode, encode and decode again: the second is no longer, and means the same."""
    try:
        first = decode(code, bits)
    except DecodeError:
        return
    encoded = encode_instruction(first, bits)
    assert len(encoded) <= first.length
    second = decode(encoded, bits)
    assert second.length == len(encoded)
    for name in ("row", "operands", "size", "repeat", "lock", "segment"):
        assert getattr(second, name) == getattr(first, name), (code.hex(), encoded.hex())
    if any(isinstance(operand, Memory) for operand in first.operands) or first.row.repeat:
        assert second.address_size == first.address_size
    assert encode_instruction(second, bits) == encoded


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_random_code_survives_the_round_trip(bits: int) -> None:
    rng = random.Random(bits)
    for _ in range(10_000):
        same_meaning(random_code(rng), bits)


@given(st.binary(min_size=15, max_size=15), st.sampled_from((16, 32, 64)))
def test_decode_encode_decode_is_decode(code: bytes, bits: int) -> None:
    same_meaning(code, bits)


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_every_opcode_survives_the_round_trip(bits: int) -> None:
    rng = random.Random(bits)
    prefixes = (b"", b"\x66", b"\x67", b"\x66\x67", b"\xf3", b"\xf2", b"\xf0", b"\x64", b"\x48", b"\x47", b"\x66\x4d")
    for prefix in prefixes if bits == 64 else prefixes[:-3]:
        for escape in (b"", b"\x0f"):
            for opcode in range(256):
                for _ in range(8):
                    same_meaning((prefix + escape + bytes([opcode]) + rng.randbytes(15))[:15], bits)


@pytest.mark.parametrize(
    ("memory", "code"),
    [
        (Memory(3, 0, -1, 1, 0, 32), "8b 08"),
        (Memory(2, 4, -1, 1, 0, 32), "8b 0c 24"),
        (Memory(2, 5, -1, 1, 0, 32), "8b 4d 00"),
        (Memory(2, 5, 4 - 1, 4, 127, 32), "8b 4c 9d 7f"),
        (Memory(3, 0, -1, 1, -128, 32), "8b 48 80"),
        (Memory(3, 0, -1, 1, 128, 32), "8b 88 80 00 00 00"),
        (Memory(3, -1, -1, 1, 0x1234, 32), "8b 0d 34 12 00 00"),
        (Memory(3, -1, 6, 8, 0, 32), "8b 0c f5 00 00 00 00"),
        (Memory(0, 0, -1, 1, 0, 32), "26 8b 08"),
        (Memory(3, 5, -1, 1, 0, 32), "3e 8b 4d 00"),
        (Memory(3, 3, 6, 1, 0, 32, 16), "67 8b 08"),
        (Memory(2, 5, -1, 1, 0, 32, 16), "67 8b 4e 00"),
        (Memory(3, -1, -1, 1, 0x1234, 32, 16), "67 8b 0e 34 12"),
        (Memory(3, 7, -1, 1, 0x1234, 32, 16), "67 8b 8d 34 12"),
    ],
)
def test_addressing_forms(memory: Memory, code: str) -> None:
    row = next(row for row in rows_of("mov") if row.operands == ("Gv", "Ev"))
    assert encode(row, [Register32(1), memory], size=32).hex(" ") == code


def test_operand_and_address_size_prefixes() -> None:
    row = next(row for row in rows_of("mov") if row.operands == ("Gv", "Ev"))
    assert encode(row, [Register16(0), Register16(3)], size=16).hex() == "668bc3"
    assert encode(row, [Register32(0), Register32(3)], bits=16, size=32).hex() == "668bc3"
    assert encode(row, [Register16(0), Memory(3, 0, -1, 1, 0, 16)], bits=16, size=16).hex() == "678b00"
    assert encode(rows_of("cbw")[0]).hex() == "6698"
    assert encode(rows_of("jcxz")[0], [Relative(-2, 32)]).hex() == "67e3fe"
    assert encode(rows_of("movs")[1], size=16, repeat="rep", segment=4).hex() == "f36466a5"
    add = rows_of("add")[0]
    assert encode(add, [Memory(3, 0, -1, 1, 0, 8), Register8(1)], lock=True).hex() == "f00008"


def test_constants() -> None:
    jmpf = rows_of("jmpf")[0]
    assert encode(jmpf, [FarPointer(8, 0x12345678, 32)], size=32).hex() == "ea785634120800"
    assert encode(jmpf, [FarPointer(8, 0x1234, 16)], bits=16, size=16).hex() == "ea34120800"
    assert encode(rows_of("enter")[0], [Immediate(16, 16), Immediate(1, 8)]).hex() == "c8100001"


@pytest.mark.parametrize(
    ("mnemonic", "operands"),
    [
        ("bswap", []),
        ("bswap", [Immediate(1, 8)]),
        ("lea", [Register32(0), Memory(3, 0, 4, 1, 0, 0)]),
        ("lea", [Register32(0), Memory(3, 0, 1, 3, 0, 0)]),
        ("lea", [Register32(0), Memory(3, 0, 1, 1, 0, 0, 16)]),
        ("lea", [Register32(0), Immediate(1, 8)]),
        ("jcxz", [Relative(200, 32)]),
        ("int", [Register8(0)]),
    ],
)
def test_what_does_not_fit_is_refused(mnemonic: str, operands: list) -> None:
    with pytest.raises(OptionError):
        encode(rows_of(mnemonic)[0], operands)


def test_a_forced_displacement_must_hold_the_value() -> None:
    row = rows_of("lea")[0]
    assert (
        encode(row, [Register32(0), Memory(3, 0, -1, 1, 4, 0)], size=32, displacement_size=32).hex() == "8d8004000000"
    )
    with pytest.raises(OptionError):
        encode(row, [Register32(0), Memory(3, 0, -1, 1, 400, 0)], size=32, displacement_size=8)


@pytest.mark.parametrize(
    ("memory", "code"),
    [
        (Memory(3, 0, -1, 1, 0, 64, 64), "48 8b 08"),
        (Memory(3, 12, -1, 1, 0, 64, 64), "49 8b 0c 24"),
        (Memory(3, 13, -1, 1, 0, 64, 64), "49 8b 4d 00"),
        (Memory(2, 5, 12, 4, -1, 64, 64), "4a 8b 4c a5 ff"),
        (Memory(3, -1, 9, 8, 0, 64, 64), "4a 8b 0c cd 00 00 00 00"),
        (Memory(3, -1, -1, 1, -5, 64, 64), "48 8b 0c 25 fb ff ff ff"),
        (Memory(3, -1, -1, 1, 5, 64, 32), "67 48 8b 0c 25 05 00 00 00"),
        (Memory(5, 0, -1, 1, 0, 64, 64), "65 48 8b 08"),
        (RelativeMemory(3, -2, 64), "48 8b 0d fe ff ff ff"),
        (RelativeMemory(4, 2, 64, 32), "64 67 48 8b 0d 02 00 00 00"),
    ],
)
def test_addressing_forms_of_64_bit_code(memory: Memory, code: str) -> None:
    row = next(row for row in rows_of("mov") if row.operands == ("Gv", "Ev"))
    assert encode(row, [Register64(1), memory], size=64, bits=64).hex(" ") == code


def test_prefixes_of_64_bit_code() -> None:
    assert encode(rows_of("push")[0], [Register64(12)], bits=64).hex() == "4154"
    assert encode(rows_of("push")[0], [Register16(4)], bits=64, size=16).hex() == "6654"
    assert encode(rows_of("ret")[0], bits=64).hex() == "c3"
    assert encode(rows_of("iret")[0], bits=64, size=64).hex() == "48cf"
    assert encode(rows_of("movs")[1], bits=64, size=64, repeat="rep", segment=4, address_size=32).hex() == "f3646748a5"
    assert encode(rows_of("add")[0], [Register8(4, rex=True), Register8(0)], bits=64).hex() == "4000c4"
    assert encode(rows_of("add")[0], [Register8(4), Register8(0)], bits=64).hex() == "00c4"
    invpcid = rows_of("invpcid")[0]
    assert encode(invpcid, [Register64(8), Memory(3, 0, -1, 1, 0, 128, 64)], bits=64).hex() == "66440f388200"


@pytest.mark.parametrize(
    ("mnemonic", "operands", "message"),
    [
        ("pusha", [], "undefined in 64-bit code"),
        ("add", [Register8(4), Register8(8)], "beside what needs a REX prefix"),
        ("add", [Register8(4), Register8(4, rex=True)], "beside what needs a REX prefix"),
        ("lea", [Register64(0), Memory(3, 3, 6, 1, 0, 0, 16)], "16-bit addresses in 64-bit code"),
        ("lea", [Register64(0), Memory(3, 0, -1, 1, 1 << 31, 0, 64)], "does not fit in 32 bits"),
        ("lea", [Register64(0), RelativeMemory(3, 1 << 31, 0)], "does not fit in 32 bits"),
        ("lea", [Register64(0), Memory(3, 0, 4, 1, 0, 0, 64)], "esp is no index"),
    ],
)
def test_what_64_bit_code_cannot_say_is_refused(mnemonic: str, operands: list, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        encode(rows_of(mnemonic)[0], operands, bits=64, size=64)


def test_constants_that_sign_extension_does_not_give_are_refused() -> None:
    row = next(row for row in rows_of("add") if row.operands == ("Ev", "Iz"))
    assert encode(row, [Register64(1), Immediate(-(1 << 31), 64)], bits=64, size=64).hex() == "4881c100000080"
    with pytest.raises(OptionError, match="sign-extended"):
        encode(row, [Register64(1), Immediate(1 << 31, 64)], bits=64, size=64)
