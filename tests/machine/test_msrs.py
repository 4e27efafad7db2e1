"""Model-specific registers: which there are, what they take, what they do (Intel SDM vol. 4, table 2-2)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.machine.computer import Computer
from vmlab.isa.x86.faults import GP, Fault
from vmlab.isa.x86.registers import (
    CR0_PG,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    FS,
    GS,
    MSR_APIC_BASE,
    MSR_BIOS_SIGN_ID,
    MSR_EFER,
    MSR_FS_BASE,
    MSR_GS_BASE,
    MSR_KERNEL_GS_BASE,
    MSR_MISC_ENABLE,
    MSR_PAT,
    MSR_TSC,
)
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.msrs import MSRS

ALL = (1 << 64) - 1


def refused(action: object, *args: int) -> bool:
    """Say whether an access is #GP(0)."""
    try:
        action(*args)
    except Fault as fault:
        return (fault.vector, fault.error_code) == (GP, 0)
    return False


@pytest.mark.parametrize("name", CPU_MODELS)
def test_a_model_has_the_registers_of_its_features(name: str) -> None:
    cpu = Computer(CPU_MODELS[name]).cpu
    for number, msr in MSRS.items():
        absent = bool(msr.feature) and msr.feature not in cpu.model.features
        absent = absent or msr.vendor not in ("", cpu.model.vendor)
        assert refused(cpu.read_msr, number) == absent, msr.name
        if absent:
            assert refused(cpu.write_msr, number, 0), msr.name
    for number in (0, 0x11, 0x3B, 0xFFFF_FFFF, 0xC000_0104):
        assert refused(cpu.read_msr, number)
        assert refused(cpu.write_msr, number, 0)


def test_instructions_reach_them() -> None:
    computer = Computer()
    computer.load("mov ecx, 0x277\n rdmsr\n xchg al, ah\n wrmsr\n rdmsr\n mov ecx, 0x1C\n wrmsr")
    computer.step(5)
    assert computer.cpu.registers[0] == 0x0007_0406 & ~0xFFFF | 0x0604
    assert computer.trap().what == (GP, 0)


@pytest.mark.parametrize(
    ("number", "good", "bad"),
    [
        (MSR_PAT, [0x0007_0406_0100_0504], [2, 3 << 56, 8]),
        (0x200, [0, 0xF_FFFF_F006], [2, 1 << 36, 0x100]),
        (0x201, [0x800, 0xF_FFFF_F800], [1, 0x400, 1 << 36]),
        (0x20F, [0x800], [1]),
        (0x250, [0x0606_0504_0100_0606], [2 << 8, 7]),
        (0x2FF, [0, 0xC06, 0x800], [0x100, 2, 1 << 12]),
        (0xFE, [], [0, 0x508]),
        (MSR_MISC_ENABLE, [0x1801, 0x1800, 0x40_1801], [2, 1 << 34]),
        (MSR_APIC_BASE, [0xFEE0_0900, 0xFEE0_0100], [0xFEE0_0901, 0xFEE1_0900, 0xFEE0_0D00]),
        (0x17, [], [0]),
    ],
)
def test_what_may_be_written(number: int, good: list[int], bad: list[int]) -> None:
    cpu = Computer().cpu
    for value in good:
        cpu.write_msr(number, value)
        assert cpu.read_msr(number) == value
    before = cpu.read_msr(number)
    for value in bad:
        assert refused(cpu.write_msr, number, value), hex(value)
        assert cpu.read_msr(number) == before


@pytest.mark.parametrize("number", [MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE])
def test_bases_must_be_canonical(number: int) -> None:
    cpu = Computer(CPU_MODELS["core-2"]).cpu
    for value in (0, 0x7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000, ALL):
        cpu.write_msr(number, value)
        assert cpu.read_msr(number) == value
    for value in (0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF):
        assert refused(cpu.write_msr, number, value)


def test_segment_bases_are_those_of_the_segment_registers() -> None:
    cpu = Computer(CPU_MODELS["core-2"]).cpu
    for number, index in ((MSR_FS_BASE, FS), (MSR_GS_BASE, GS)):
        before = cpu.segments[index].key
        cpu.write_msr(number, 0x1234_5678_9000)
        assert cpu.segments[index].key == (before[0], 0x1234_5678_9000, *before[2:])


def test_efer() -> None:
    """LMA follows CR0.PG and cannot be written; LME changes only while paging is off (SDM vol. 3, 9.8.5)."""
    computer = Computer(CPU_MODELS["core-2"])
    cpu = computer.cpu
    cpu.write_msr(MSR_EFER, EFER_LME | EFER_NXE)
    assert refused(cpu.write_msr, MSR_EFER, 1 << 9)
    assert refused(cpu.set_cr0, cpu.cr0 | CR0_PG)  # without PAE
    cpu.set_cr4(CR4_PAE)
    assert cpu.read_msr(MSR_EFER) == EFER_LME | EFER_NXE
    cpu.set_cr0(cpu.cr0 | CR0_PG)
    assert cpu.read_msr(MSR_EFER) == EFER_LME | EFER_NXE | EFER_LMA
    assert refused(cpu.write_msr, MSR_EFER, EFER_NXE)
    cpu.write_msr(MSR_EFER, EFER_LME)
    assert cpu.efer == EFER_LME | EFER_LMA
    assert refused(cpu.set_cr4, 0)  # PAE stays while long mode is active
    cpu.set_cr0(cpu.cr0 & ~CR0_PG)
    assert cpu.efer == EFER_LME
    for name in ("pentium-4", "umip"):
        assert refused(Computer(CPU_MODELS[name]).cpu.read_msr, MSR_EFER)


def test_long_mode_is_not_entered_from_64_bit_code_or_with_a_16_bit_task() -> None:
    cpu = Computer(CPU_MODELS["core-2"]).cpu
    cpu.set_cr4(CR4_PAE)
    cpu.write_msr(MSR_EFER, EFER_LME)
    cpu.segments[1].long = True
    assert refused(cpu.set_cr0, cpu.cr0 | CR0_PG)
    cpu.segments[1].long = False
    cpu.tr.access = 0x83
    assert refused(cpu.set_cr0, cpu.cr0 | CR0_PG)
    cpu.tr.access = 0x8B
    cpu.set_cr0(cpu.cr0 | CR0_PG)
    cpu.segments[1].long = True
    assert refused(cpu.set_cr0, cpu.cr0 & ~CR0_PG)  # the way out is compatibility mode


def test_the_apic_can_be_disabled_and_cpuid_shows_it() -> None:
    cpu = Computer().cpu
    assert cpu.read_msr(MSR_APIC_BASE) == 0xFEE0_0900
    assert cpu.cpuid(1, 0)[3] & 1 << 9
    cpu.write_msr(MSR_APIC_BASE, 0xFEE0_0100)
    assert not cpu.interrupts.enabled
    assert not cpu.cpuid(1, 0)[3] & 1 << 9
    cpu.write_msr(MSR_APIC_BASE, 0xFEE0_0800)  # which processor starts the computer is not for software to say
    assert cpu.read_msr(MSR_APIC_BASE) == 0xFEE0_0900


def test_misc_enable_limits_cpuid() -> None:
    cpu = Computer(CPU_MODELS["broadwell"]).cpu
    assert cpu.cpuid(0, 0)[0] == 0xB
    cpu.write_msr(MSR_MISC_ENABLE, 0x40_1801)
    assert cpu.cpuid(0, 0)[0] == 2
    assert cpu.cpuid(7, 0) == cpu.cpuid(2, 0)


def test_no_microcode_is_loaded() -> None:
    cpu = Computer().cpu
    cpu.write_msr(MSR_BIOS_SIGN_ID, ALL)
    assert cpu.read_msr(MSR_BIOS_SIGN_ID) == 0


def test_the_time_stamp_goes_on_from_what_is_written() -> None:
    cpu = Computer().cpu
    cpu.write_msr(MSR_TSC, ALL)
    assert cpu.read_msr(MSR_TSC) == ALL
    cpu.retired += 3
    assert cpu.read_msr(MSR_TSC) == 2


def test_they_are_saved() -> None:
    first, second = Computer(CPU_MODELS["core-2"]).cpu, Computer(CPU_MODELS["core-2"]).cpu
    first.write_msr(MSR_PAT, 0x0606_0606_0606_0606)
    first.write_msr(MSR_KERNEL_GS_BASE, 0xFFFF_8000_0000_0000)
    first.write_msr(MSR_EFER, EFER_NXE)
    second.load(first.save())
    for number in (MSR_PAT, MSR_KERNEL_GS_BASE, MSR_EFER):
        assert second.read_msr(number) == first.read_msr(number)


def test_numbers_ascend_and_names_are_unique() -> None:
    rows = list(MSRS.values())
    assert all(one.number < other.number for one, other in pairwise(sorted(rows, key=lambda row: row.number)))
    assert len({row.name for row in rows}) == len(rows)
