"""The Popek-Goldberg table against the manuals' lists."""

from __future__ import annotations

import pytest

from vmlab.isa import x86
from vmlab.isa.x86.classification import classify
from vmlab.isa.x86.instruction import Privilege
from vmlab.isa.x86.table import ROWS

# Robin & Irvine 2000, in their own grouping, with the names of this table.
SENSITIVE_REGISTER = {"sgdt", "sidt", "sldt", "smsw", "pushf", "popf"}
PROTECTION_SYSTEM = {
    "lar", "lsl", "verr", "verw", "pop (segment register)", "push (segment register)",
    "callf", "jmpf", "int", "retf", "iret", "str", "mov (segment register)",
}  # fmt: skip

# Intel SDM vol. 3, chapter Protection, as far as these instructions are in the table, and vol. 1, chapter Input/Output.
CPL0 = {
    "lgdt", "lldt", "ltr", "lidt", "mov (control register)", "mov (debug register)", "lmsw", "clts", "invd", "wbinvd",
    "invlpg", "hlt", "rdmsr", "wrmsr", "rdpmc", "sysexit", "sysret", "swapgs", "invpcid", "xsetbv",
    "monitor", "mwait", "clac", "stac",
    "vmcall", "vmclear", "vmlaunch", "vmptrld", "vmptrst", "vmread", "vmresume", "vmwrite", "vmxoff", "vmxon", "invept", "invvpid",
    "vmrun", "vmmcall", "vmload", "vmsave", "stgi", "clgi", "skinit", "invlpga",  # AMD APM vol. 3
}  # fmt: skip
IOPL = {"cli", "sti", "in", "out", "ins", "outs"}


def names(privilege: Privilege) -> set[str]:
    return {form.name for form in classify().of(privilege)}


def test_robin_and_irvines_list_is_sensitive() -> None:
    assert names(Privilege.SENSITIVE) >= SENSITIVE_REGISTER | PROTECTION_SYSTEM


def test_what_is_sensitive_beyond_their_list_is_said_to_be() -> None:
    beyond = names(Privilege.SENSITIVE) - SENSITIVE_REGISTER - PROTECTION_SYSTEM
    assert beyond == {
        "les", "lds", "lss", "lfs", "lgs",  # load a segment register, as pop and mov do
        "int3", "into", "int1",  # go through the IDT, as int does
        "sysenter", "syscall", "rdtsc", "rdtscp", "cpuid", "xgetbv",  # newer
    }  # fmt: skip
    for name in ("sysenter", "syscall", "rdtsc", "rdtscp", "cpuid", "xgetbv"):
        assert "SDM" in classify()[name].source


def test_the_manuals_privileged_instructions_are_privileged() -> None:
    assert names(Privilege.PRIVILEGED) == CPL0 | IOPL


def test_forms_of_one_mnemonic_are_told_apart() -> None:
    table = classify()
    assert table["mov"].privilege is Privilege.INNOCUOUS
    assert table["mov (segment register)"].privilege is Privilege.SENSITIVE
    assert table["mov (control register)"].privilege is Privilege.PRIVILEGED
    assert table["push"].privilege is Privilege.INNOCUOUS
    assert table["call"].privilege is Privilege.INNOCUOUS
    with pytest.raises(KeyError):
        table["frobnicate"]


def test_every_row_is_in_the_table_with_its_class() -> None:
    classes = {(form.mnemonic, form.privilege) for form in classify().values()}
    assert {(row.mnemonic, row.privilege) for row in ROWS} == classes
    assert all(form.reason.endswith(".") and form.source for form in classify().values())


def test_it_prints_and_shows_as_a_table() -> None:
    text = str(classify())
    assert text.index("Privileged") < text.index("Sensitive but unprivileged") < text.index("Innocuous")
    assert "j*" in text
    html = classify()._repr_html_()
    assert "<code>popf</code>" in html
    assert html.count("<tr>") == html.count("</tr>")


def test_public_names_are_there_when_asked_for() -> None:
    for name in x86.__all__:
        assert getattr(x86, name) is not None
    assert x86.classify is classify
    assert set(x86.__all__) <= set(dir(x86))
    with pytest.raises(AttributeError, match="frobnicate"):
        x86.frobnicate  # noqa: B018
