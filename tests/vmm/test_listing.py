"""Listings: what the guest's memory holds, as its own page tables map it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vmlab
from vmlab.machine.image import flat
from vmlab.vmm.listing import Listings, labels_of, read_code

PROGRAM = """
        org 0x100000
start:  cli
        mov eax, 1
        pushf
        jmp next
        db 0xff, 0xff, 0xff      ; no code
next:   hlt
"""


@pytest.fixture(scope="module")
def trapped():
    return vmlab.record(vmlab.guests.load("minios"), under="trap-and-emulate", memory=2 << 20)


def guest_of(recording):
    return recording.system.guests[0]


def listing():
    image = vmlab.assemble(PROGRAM)
    recording = vmlab.record(image, memory=2 << 20, max_instructions=10)
    return Listings("0", image.symbols), guest_of(recording)


def test_labels_addresses_and_marks():
    book, guest = listing()
    lines = book.lines[book.at(guest, 0x100000)]
    assert lines[0] == (0x100000, "start", "cli", "p")
    assert [line[3] for line in lines[:3]] == ["p", "", "s"]
    assert [line[1] for line in lines if line[1]] == ["start", "next"]


def test_a_symbol_puts_the_sweep_in_step_again():
    book, guest = listing()
    lines = book.lines[book.at(guest, 0x100000)]
    assert next(line for line in lines if line[1] == "next")[2] == "hlt"


def test_places_are_named_by_the_label_before():
    book, _ = listing()
    assert book.place(0x100000) == "start"
    assert book.place(0x100001) == "start+0x1"
    assert book.place(0x200000) == ""


def test_a_kernel_for_the_upper_half_has_labels():
    """It is loaded low, and its symbols are where it will have mapped itself."""
    image = replace(
        flat(b"\x90\x90\xc3"), symbols={"main": 0xC0100001, "limit": 0xC0200000, "start": 0x100000, "size": 3}
    )
    assert labels_of(image) == {"main": 0xC0100001, "start": 0x100000}


def test_the_same_code_is_listed_once():
    book, guest = listing()
    assert book.at(guest, 0x100000) == book.at(guest, 0x100001)
    assert len(book.lines) == 1


def test_jumps_name_their_target_and_constants_are_no_labels():
    assert labels_of(flat(b"\x90\xf4", symbols={"limit": 5, "start": 0x100000, "end": 0x100002})) == {"start": 0x100000}
    book, guest = listing()
    assert "jmp next" in {line[2].replace("short ", "") for line in book.lines[book.at(guest, 0x100000)]}


def test_changed_code_gets_a_new_listing():
    book, guest = listing()
    old = book.at(guest, 0x100000)
    guest.memory.write_bytes(0x100000, b"\xfb")
    new = book.at(guest, 0x100000)
    assert new != old
    assert book.lines[new][0][2] == "sti"
    assert book.lines[old][0][2] == "cli"


def test_unmapped_addresses_have_no_code(trapped):
    trapped.seek(trapped.length // 2)  # paging is on
    guest = guest_of(trapped)
    book = Listings("0", {})
    assert read_code(guest, 0xF0000000, 16) == b""
    assert book.at(guest, 0xF0000000) == ""
    assert book.text(guest, 0xF0000000) == ""


def test_reading_leaves_no_trace_in_the_machine(trapped):
    trapped.seek(trapped.length // 2)
    guest = guest_of(trapped)
    before = (guest.memory.digest(), guest.vcpu.save_state())
    read_code(guest, guest.vcpu.linear_ip, 64)
    assert (guest.memory.digest(), guest.vcpu.save_state()) == before
