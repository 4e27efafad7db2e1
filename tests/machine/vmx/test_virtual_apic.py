"""The virtual-APIC page: what a guest reads and writes of its local APIC without an exit, and with which (SDM vol. 3, 29.4)."""

from __future__ import annotations

import pytest

from tests.machine.vmx.arena import PRIMARY, SECONDARY, Arena
from vmlab.isa.x86.registers import EAX, EBX
from vmlab.machine.translator.engine import Engine
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason as Reason

ACCESS, VIRTUAL, APIC = 0x120000, 0x121000, 0xFEE00000
# Table of 29.4.2 and 29.4.3: offsets that APIC-register virtualization reads, and those that it writes.
READ = {
    0x020, 0x030, 0x080, 0x0B0, 0x0D0, 0x0E0, 0x0F0, *range(0x100, 0x180, 16), *range(0x180, 0x200, 16),
    *range(0x200, 0x280, 16), 0x280, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3E0,
}  # fmt: skip
WRITTEN = {
    0x020, 0x080, 0x0B0, 0x0D0, 0x0E0, 0x0F0, 0x280, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3E0,
}  # fmt: skip


def arena(code: str, *, registers: bool = True, engine: bool = False, threshold: int = 0) -> Arena:
    found = Arena(code, "broadwell-ep" if registers else "westmere")
    found.ept.map(APIC, ACCESS)
    if engine:
        found.machine.engine = Engine()
    for offset in range(0, 0x1000, 4):
        found.memory.write(VIRTUAL + offset, 4, 0x5000_0000 | offset)
    found.write({
        f.PRIMARY_CONTROLS: PRIMARY | c.USE_TPR_SHADOW,
        f.SECONDARY_CONTROLS: SECONDARY | c.VIRTUALIZE_APIC_ACCESSES | (c.APIC_REGISTERS if registers else 0),
        f.VIRTUAL_APIC_ADDRESS: VIRTUAL, f.APIC_ACCESS_ADDRESS: ACCESS, f.TPR_THRESHOLD: threshold,
    })  # fmt: skip
    return found


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize("registers", [False, True])
def test_reads(registers, engine):
    """Each 32-bit read is answered from the page, or it is an exit with offset and type 0 before anything has happened."""
    virtual = READ if registers else {0x80}
    reads = "\n".join(f"mov eax, [{APIC + offset:#x}]\n mov [edi], eax\n add edi, 4" for offset in sorted(virtual))
    found = arena(f"mov edi, 0x130000\n{reads}\n cpuid", registers=registers, engine=engine)
    assert found.run(steps=1000)[0] is Reason.CPUID
    for n, offset in enumerate(sorted(virtual)):
        assert found.memory.read(0x130000 + 4 * n, 4) == 0x5000_0000 | offset
    for offset in set(range(0, 0x1000, 0x10)) - virtual:
        found = arena(f"mov ebx, 7\n mov ebx, [{APIC + offset:#x}]", registers=registers, engine=engine)
        assert found.run() == (Reason.APIC_ACCESS, offset)
        assert found.cpu.registers[EBX] == 7


@pytest.mark.parametrize("engine", [False, True])
def test_writes(engine):
    """A trap-like exit behind the instruction tells of each, but for the task priority; else an exit of type 1 before it."""
    for offset in range(0, 0x1000, 0x10):
        found = arena(f"mov dword [{APIC + offset:#x}], 0x12345678\n mov eax, 1\n cpuid", engine=engine)
        reason, qualification = found.run()
        value = found.memory.read(VIRTUAL + offset, 4)
        if offset == 0x80:
            assert (reason, value, found.cpu.registers[EAX]) == (Reason.CPUID, 0x78, 1)
        elif offset in WRITTEN:
            assert (reason, qualification, value) == (Reason.APIC_WRITE, offset, 0x12345678)
            assert found.read(f.GUEST_RIP) == 0x1000A
            assert found.run()[0] is Reason.CPUID
        else:
            assert (reason, qualification) == (Reason.APIC_ACCESS, offset | 0x1000)
            assert (found.read(f.GUEST_RIP), value) == (0x10000, 0x5000_0000 | offset)


@pytest.mark.parametrize(("value", "exits"), [(0x90, False), (0x60, False), (0x5F, True), (0, True)])
@pytest.mark.parametrize("registers", [False, True])
def test_the_threshold_of_the_task_priority(registers, value, exits):
    found = arena(f"mov dword [{APIC + 0x80:#x}], {value}\n cpuid", registers=registers, threshold=6)
    assert found.run()[0] is (Reason.TPR_BELOW_THRESHOLD if exits else Reason.CPUID)
    assert found.memory.read(VIRTUAL + 0x80, 4) == value
    assert found.read(f.GUEST_RIP) == 0x1000A


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("mov al, [0xfee00021]", None),
        ("mov ax, [0xfee00022]", None),
        ("mov ax, [0xfee00023]", 0x23),
        ("mov al, [0xfee00024]", 0x24),
        ("mov byte [0xfee000b1], 5", 0xB1 | 0x1000),
        ("add dword [0xfee00390], 5", 0x390),
        ("push dword [0xfee00390]", 0x390),
        ("mov eax, 0xfee00020\n jmp eax", 0x20 | 0x2000),
    ],
)
def test_parts_of_registers_and_other_accesses(code, expected):
    """A read of what lies within the first four bytes of a register is virtualized (29.4.1); a fetch never is."""
    reason, qualification = arena(f"{code}\n cpuid").run()
    if expected is None:
        assert reason is Reason.CPUID
    else:
        assert (reason, qualification) == (Reason.APIC_ACCESS, expected)


def test_a_page_that_was_read_cannot_be_executed():
    found = arena(f"mov eax, [{APIC + 0x20:#x}]\n mov eax, {APIC + 0x20:#x}\n jmp eax")
    assert found.run() == (Reason.APIC_ACCESS, 0x2020)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("virtual_apic_address", VIRTUAL + 8),
        ("virtual_apic_address", 1 << 46),
        ("apic_access_address", ACCESS + 1),
        ("apic_access_address", 1 << 50),
        ("tpr_threshold", 0x10),
        ("primary_controls", PRIMARY),  # registers without a TPR shadow
    ],
)
def test_controls_that_no_entry_takes(field, value):
    assert arena("cpuid").enter(**{field: value}) == 7


def test_a_processor_without_it():
    found = Arena("cpuid", "core-2")
    for bits in ({"primary_controls": PRIMARY | c.USE_TPR_SHADOW}, {"secondary_controls": c.VIRTUALIZE_APIC_ACCESSES}):
        assert found.enter(**bits) == 7


def test_an_exit_that_is_due_is_saved():
    found = arena(f"mov dword [{APIC + 0x20:#x}], 1\n cpuid")
    assert found.enter() == 0
    found.machine.run(1)
    state = found.machine.save()
    other = arena("cpuid")
    other.machine.load(state)
    for machine in (found.machine, other.machine):
        machine.host_entry = found.machine.host_entry
        machine.run(1)
        assert machine.cpu.vmx.fields[f.EXIT_REASON] == Reason.APIC_WRITE
