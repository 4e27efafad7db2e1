"""The table's own consistency; what it says about single instructions is checked where it is used."""

from __future__ import annotations

from vmlab.isa.x86.instruction import Privilege
from vmlab.isa.x86.privilege import GROUPS
from vmlab.isa.x86.table import CONDITIONS, ROWS, rows_of


def test_rows_are_distinct() -> None:
    keys = [(row.opcode, row.extension, row.size, row.address_size, row.operands) for row in ROWS]
    assert len(keys) == len(set(keys))


def test_every_row_names_a_known_group_and_its_class() -> None:
    for row in ROWS:
        assert GROUPS[row.group].privilege is row.privilege
    assert {row.group for row in ROWS} == set(GROUPS)


def test_conditions_stand_in_the_order_of_their_numbers() -> None:
    for number, condition in enumerate(CONDITIONS):
        short, near = rows_of(f"j{condition}")
        assert short.opcode == bytes([0x70 + number])
        assert near.opcode == bytes([0x0F, 0x80 + number])
        assert rows_of(f"set{condition}")[0].opcode == bytes([0x0F, 0x90 + number])
        assert rows_of(f"cmov{condition}")[0].opcode == bytes([0x0F, 0x40 + number])


def test_families_unfold_by_opcode_and_by_extension() -> None:
    assert [row.opcode[0] for row in rows_of("xor")[:6]] == [0x30, 0x31, 0x32, 0x33, 0x34, 0x35]
    assert [row.extension for row in rows_of("xor")[6:]] == [6, 6, 6, 6]
    assert [row.extension for row in rows_of("idiv")] == [7, 7]


def test_lock_is_for_read_modify_write_on_memory_only() -> None:
    lockable = {row.mnemonic for row in ROWS if row.lockable}
    assert lockable == {
        "add", "or", "adc", "sbb", "and", "sub", "xor", "inc", "dec", "not", "neg",
        "bts", "btr", "btc", "xchg", "cmpxchg", "cmpxchg8b", "cmpxchg16b", "xadd",
    }  # fmt: skip
    assert all(row.operands[0][0] in "EM" for row in ROWS if row.lockable)


def test_repeat_belongs_to_the_string_instructions() -> None:
    repeats = {row.mnemonic: row.repeat for row in ROWS if row.repeat}
    assert repeats == {
        "movs": "rep", "stos": "rep", "lods": "rep", "ins": "rep", "outs": "rep", "cmps": "repz", "scas": "repz",
    }  # fmt: skip


def test_modrm_is_known_before_decoding() -> None:
    assert rows_of("add")[0].has_modrm
    assert rows_of("clts")[0].has_modrm is False
    assert [row.has_modrm for row in rows_of("push")][:5] == [False, False, False, True, False]
    assert rows_of("lgdt")[0].has_modrm


def test_one_mnemonic_may_have_several_classes() -> None:
    classes = {(row.operands, row.privilege) for row in rows_of("mov")}
    assert (("Ev", "Gv"), Privilege.INNOCUOUS) in classes
    assert (("Sw", "Ew"), Privilege.SENSITIVE) in classes
    assert (("Cy", "Ry"), Privilege.PRIVILEGED) in classes


def test_unknown_mnemonic_has_no_rows() -> None:
    assert rows_of("frobnicate") == ()


def test_operand_sizes_begin_with_the_default() -> None:
    assert rows_of("add")[1].operand_sizes(16) == (16, 32)
    assert rows_of("add")[1].operand_sizes(64) == (32, 64, 16)
    assert rows_of("ret")[0].operand_sizes(64) == (64,)
    assert rows_of("pushf")[0].operand_sizes(64) == (64, 16)
    assert rows_of("pushf")[0].operand_sizes(32) == (32, 16)
    assert rows_of("ins")[1].operand_sizes(64) == (32, 16)


def test_what_64_bit_code_lacks_and_what_it_alone_has() -> None:
    lacking = {row.mnemonic for row in ROWS if not row.operand_sizes(64)}
    assert lacking - {row.mnemonic for row in ROWS if row.operand_sizes(64)} == {
        "daa", "das", "aaa", "aas", "aam", "aad", "pusha", "popa", "les", "lds", "into", "bound", "arpl", "jcxz",
    }  # fmt: skip
    new = {row.mnemonic for row in ROWS if not row.operand_sizes(32)}
    assert new == {"cdqe", "cqo", "movsxd", "jrcxz", "cmpxchg16b", "swapgs"}
    assert {row.in_64 for row in ROWS} == {"", "i64", "o64", "d64", "f64", "n64"}
