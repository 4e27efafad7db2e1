"""Exits and what is counted: small guests whose numbers can be worked out by hand."""

from __future__ import annotations

import pytest

from tests.vmm.harness import finish, kernel, twins
from vmlab.isa.x86.decoder import decode
from vmlab.machine.program import assemble
from vmlab.vmm.exits import ExitReason, reason_of
from vmlab.vmm.run import run


def test_a_guest_counted_by_hand():
    result = run(assemble("start: mov esp, 0x90000\n cli\n cli\n sti\n mov al, 7\n out 0xF4, al"), "trap-and-emulate")
    assert result.exits == {"CLI or STI": 3, "I/O instruction": 1, "hidden page fault": 1}
    assert result.emulated == {"cli": 2, "sti": 1, "out": 1}
    assert (result.outcome, result.status, result.instructions) == ("exit", 15, 6)
    causes = result.cycles_by_cause
    costs = result.system.machine.cpu.model.costs
    assert causes["emulation"] == 4 * costs.vmm_emulate
    assert causes["shadow paging"] == 1 * costs.vmm_shadow_fill + 1 * costs.vmm_shadow_root
    assert causes["traps"] == 5 * (costs.trap + costs.interrupt_return)
    assert causes["port accesses"] == causes["world switches"] == 0
    assert sum(causes.values()) == result.cycles


def test_native_cycles_by_cause():
    result = run(assemble("start: mov al, 7\n out 0x80, al\n out 0xF4, al"))
    costs = result.system.machine.cpu.model.costs
    assert result.exits.total() == 0
    assert result.cycles_by_cause == {
        "instructions": 3 * costs.instruction, "page walks": 0, "traps": 0,
        "system calls": 0, "port accesses": 2 * costs.port_access, "control registers": 0,
    }  # fmt: skip
    assert sum(result.cycles_by_cause.values()) == result.cycles


@pytest.mark.parametrize(
    ("body", "reason", "count"),
    [
        ("mov eax, cr0\n mov cr2, eax\n clts\n smsw ax", ExitReason.CONTROL_REGISTER, 3),
        ("lgdt [gdt_pointer]\n lidt [idt_pointer]\n xor eax, eax\n lldt ax", ExitReason.DESCRIPTOR_TABLE, 3),
        ("int 0x30\n int3", ExitReason.SOFTWARE_INTERRUPT, 2),
        ("try ud2\n try div dword [FREE]", ExitReason.GUEST_EXCEPTION, 2),
        ("invlpg [FREE]\n invlpg [main]", ExitReason.INVLPG, 2),
        ("in al, 0x80\n mov dx, 0x3F8\n mov esi, main\n outsb", ExitReason.IO, 2),
        ("mov al, [0xB8000]\n mov [0xB8000], al\n mov eax, [0x900000]", ExitReason.MMIO, 3),
        ("wbinvd\n mov ecx, 16\n rdmsr", ExitReason.PRIVILEGED, 2),
        ("rdtsc\n rdtsc", ExitReason.RDTSC, 2),
        ("mov dword [spare], 0\n mov dword [spare], 5", ExitReason.TRACED_WRITE, 2),
        ("mov eax, KERNEL_DATA\n mov ss, eax\n jmp KERNEL_CODE:.on\n.on:", ExitReason.SEGMENT_LOAD, 1),
        (
            "call paging_on\n mov dword [TABLE_1], 0\n mov eax, cr3\n mov cr3, eax\n try mov eax, [0x400000]",
            ExitReason.TRUE_PAGE_FAULT,
            1,
        ),
    ],
)
def test_reasons(body, reason, count):
    before = finish(kernel("main: call quit"), "trap-and-emulate").guests[0].exits
    after = finish(kernel(f"main: {body}\n call quit"), "trap-and-emulate").guests[0].exits
    assert after[reason.value] - before[reason.value] == count


def test_exits_are_the_traps_from_the_guest():
    """Each trap of the hardware out of the guest is one exit, no more and no less."""
    system = finish(
        kernel("main: call paging_on\n int 0x30\n try ud2\n mov eax, [0x500000]\n mov [0x500000], eax\n call quit"),
        "trap-and-emulate",
    )
    assert sum(system.guests[0].exits.values()) == system.machine.cpu.delivered
    assert system.counters["emulated"] == sum(system.guests[0].emulated.values())


def test_virtual_time_is_the_same_history_of_the_timer():
    twins(
        kernel(
            """
main:   mov ecx, 100
        call timer_on
        mov edi, FREE
        mov ecx, 200
.read:  mov al, 0
        out 0x43, al                    ; latch
        in al, 0x40
        mov [edi], al
        in al, 0x40
        mov [edi + 1], al
        rdtsc
        mov [edi + 4], eax
        add edi, 8
        imul eax, ecx, 77
        loop .read
        call quit
"""
        )
    )


def test_reason_of_an_instruction_that_has_no_name_of_its_own():
    assert reason_of(decode(bytes.fromhex("8ED8"))) is ExitReason.SEGMENT_LOAD
    assert reason_of(decode(bytes.fromhex("0F09"))) is ExitReason.PRIVILEGED
    assert reason_of(decode(bytes.fromhex("0F22D8"))) is ExitReason.CONTROL_REGISTER
