"""Guests that take exception after exception and complete no instruction: natively and virtually they end alike."""

from __future__ import annotations

import pytest

from tests.vmm.harness import finish, kernel, twins
from vmlab.machine import machine
from vmlab.vmm import trap_and_emulate

SMALL = 300


@pytest.fixture
def impatient(monkeypatch):
    for module in (machine, trap_and_emulate):
        monkeypatch.setattr(module, "LIVELOCK", SMALL)


NO_CODE = "mov word [idt + 6 * 8], 0xF000\n mov word [idt + 6 * 8 + 6], 0xFFF0\n ud2"
NO_PAGE = """
        call paging_on
        mov dword [DIRECTORY + 0xFFC], TABLE_1 + 7
        mov eax, cr3
        mov cr3, eax
        mov word [idt + 14 * 8], 0
        mov word [idt + 14 * 8 + 6], 0x8000
        mov eax, [0x80000000]
"""


@pytest.mark.parametrize("body", [NO_CODE, NO_PAGE], ids=["a handler that is no code", "a handler that is not there"])
def test_a_handler_that_faults_at_once(body, impatient):
    native, virtual = twins(kernel(f"main: {body}"), max_instructions=60_000)
    assert native.guests[0].outcome == "livelock"
    assert native.machine.cpu.barren == virtual.guests[0].vcpu.barren == SMALL


def test_interrupts_that_nest_without_end(impatient):
    """Level-triggered, ended automatically, a gate that leaves IF set, and a device that is never asked."""
    native, _ = twins(
        kernel(
            """
main:   mov byte [idt + 0x24 * 8 + 5], 0x8F
        mov al, 0x19                    ; level-triggered
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 3                       ; automatic end of interrupt
        out 0x21, al
        mov al, 0xEF
        out 0x21, al
        mov dx, 0x3F9
        mov al, 1
        out dx, al
        sti
        nop
        nop
        call quit
"""
        ),
        max_instructions=60_000,
        input="x",
    )
    assert native.guests[0].outcome == "livelock"


def test_the_neighbour_goes_on(impatient):
    storm = kernel(f"main: {NO_CODE}", "storm")
    system = finish([storm, kernel("main: call quit")], "trap-and-emulate")
    assert [guest.outcome for guest in system.guests] == ["livelock", "exit"]


def test_many_privileged_instructions_in_a_row_are_none(impatient):
    """On the real processor nothing completes while the hypervisor emulates; that is no livelock."""
    native, _ = twins(kernel(f"main: mov esi, main\n mov dx, 0x80\n mov ecx, {3 * SMALL}\n rep outsb\n call quit"))
    assert native.guests[0].outcome == "exit"


def test_many_faults_that_are_handled_are_none(impatient):
    native, _ = twins(
        kernel(f"main: mov ecx, {2 * SMALL}\n.l: int 0x30\n mov dword [resume], .on\n ud2\n.on: loop .l\n call quit")
    )
    assert native.guests[0].outcome == "exit"
