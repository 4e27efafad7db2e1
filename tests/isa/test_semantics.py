"""Every row of the instruction table against Unicorn, on random states; and what Unicorn cannot do, one by one.

`make test-long` tries a million states, others each time.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.isa.arena import CODE, GDT, GDT_BYTES, MODES, MODES_64, Result, Trial, initial_low
from tests.isa.row_trials import SLOTS, is_compared, is_transfer, make_trial
from tests.isa.subject import Subject
from tests.isa.undefined_flags import DOUBLE_SHIFTS, ROTATES, SHIFTS, undefined_flags, undefined_result
from tests.isa.unicorn_oracle import Oracle, OutsideMemoryError
from vmlab.isa.x86.decoder import DecodeError, decode
from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import NAMES_32
from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.isa.x86.table import ROWS

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Row
    from vmlab.machine.processor import Processor

COMPARED = [row for row in ROWS if is_compared(row)]
COMPARED_LONG = [row for row in ROWS if is_compared(row, long=True)]
TRIALS = 120
TRIALS_LONG = 80
MANY_TRIALS = 1_000_000 // len(COMPARED) + 1
MOST_DISCARDED = 0.02


def name(row: Row) -> str:
    extension = f"/{row.extension}" if row.extension >= 0 else ""
    return f"{row.mnemonic} {','.join(row.operands)} {row.opcode.hex()}{extension}"


class Bench:
    """Both processors side by side in equal memory."""

    def __init__(self, *, long: bool = False) -> None:
        self.long = long
        self.oracle = Oracle(long=long)
        self.subject = Subject()
        self.slot = 0

    def set_low_memory(self, low: bytes) -> None:
        self.oracle.set_low_memory(low)
        self.subject.set_low_memory(low)

    def next_slot(self) -> int:
        self.slot += 1
        if self.slot == SLOTS:
            self.slot = 0
            self.oracle.forget_code()
        return self.slot

    def compare(self, row: Row, trial: Trial) -> list[str]:
        """Try it on both; return what differs."""
        whole = not is_transfer(row)
        expected = self.oracle.run(trial, whole=whole)
        mask, meaningless = self._undefined(row, trial)
        result = self.subject.run(trial, whole=whole)
        if (
            trial.mode.bits == 64 and not self.subject.cpu.code_64
        ):  # upper halves are lost on the way out of 64-bit mode
            registers = tuple(register & 0xFFFF_FFFF for register in expected.registers[:8])
            expected = replace(expected, registers=registers + expected.registers[8:])
        low, expected_low = self.subject.low_memory(), self.oracle.low_memory()
        differences = [] if meaningless else describe(expected, result, mask)
        if low != expected_low:
            first = next(n for n in range(len(low)) if low[n] != expected_low[n])
            differences += [f"memory at {first:#x}"] if not meaningless else []
            self.set_low_memory(expected_low)
        if self.oracle.port_writes != self.subject.port_writes:
            differences.append(f"port writes {self.subject.port_writes}, not {self.oracle.port_writes}")
        if expected_low[GDT : GDT + len(GDT_BYTES)] != GDT_BYTES:  # an accessed bit was set
            self.set_low_memory(expected_low[:GDT] + GDT_BYTES + expected_low[GDT + len(GDT_BYTES) :])
        return differences

    def _undefined(self, row: Row, trial: Trial) -> tuple[int, bool]:
        """Return the mask of the flags that have a meaning, and whether the result has none."""
        count = 0
        try:
            instruction = decode(trial.code, trial.mode.bits)
        except DecodeError:
            return -1, False
        if row.mnemonic in SHIFTS | DOUBLE_SHIFTS | ROTATES:
            self.subject.cpu.registers[: len(trial.registers)] = trial.registers
            count = instruction.operands[-1].read(self.subject.cpu)
        mask = ~undefined_flags(row.mnemonic, instruction.size, count)
        return mask, undefined_result(row.mnemonic, instruction.size, count)


def describe(expected: Result, result: Result, mask: int) -> list[str]:
    """Return the differences of two results, with flags compared under a mask."""
    differences = [
        f"{what} {getattr(result, what)}, not {getattr(expected, what)}"
        for what in ("registers", "ip", "selectors", "vector")
        if getattr(result, what) != getattr(expected, what)
    ]
    if (expected.flags ^ result.flags) & mask:
        differences.append(f"flags {result.flags:#x}, not {expected.flags:#x} under {mask & 0xFFFF_FFFF:#x}")
    return differences


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.fixture(scope="module")
def long_bench() -> Bench:
    return Bench(long=True)


def compare_row(bench: Bench, row: Row, seed: int, trials: int) -> None:
    rng = random.Random(f"{name(row)} {seed}")
    bench.set_low_memory(initial_low(rng))
    discarded = 0
    for _ in range(trials):
        trial = make_trial(rng, row, bench.next_slot(), long=bench.long)
        try:
            differences = bench.compare(row, trial)
        except OutsideMemoryError:
            discarded += 1
            bench.oracle.set_low_memory(bench.subject.low_memory())
            continue
        assert not differences, f"{name(row)}, seed {seed}: {trial.code.hex()} in {trial}: {differences}"
    assert discarded <= MOST_DISCARDED * trials


@pytest.mark.parametrize("row", COMPARED, ids=name)
def test_row_does_what_unicorn_does(bench: Bench, row: Row) -> None:
    compare_row(bench, row, 1, TRIALS)


@pytest.mark.parametrize("row", COMPARED_LONG, ids=name)
def test_row_does_in_long_mode_what_unicorn_does(long_bench: Bench, row: Row) -> None:
    compare_row(long_bench, row, 1, TRIALS_LONG)


@pytest.mark.long
@pytest.mark.parametrize("row", COMPARED_LONG, ids=name)
def test_row_does_in_long_mode_what_unicorn_does_a_million_times(long_bench: Bench, row: Row) -> None:
    compare_row(long_bench, row, random.SystemRandom().getrandbits(32), MANY_TRIALS)


@pytest.mark.long
@pytest.mark.parametrize("row", COMPARED, ids=name)
def test_row_does_what_unicorn_does_a_million_times(bench: Bench, row: Row) -> None:
    compare_row(bench, row, random.SystemRandom().getrandbits(32), MANY_TRIALS)


def test_every_mnemonic_has_semantics_and_no_other() -> None:
    assert {row.mnemonic for row in ROWS} == set(SEMANTICS)


# -- what Unicorn does otherwise than the manual, or not at all ------------------------------------------------------------


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject()


EDGES = (0x8765_4321, 2, 3, 4, 0x3000, 6, 0x4000, 0x5000)


def run(subject: Subject, code: str, registers: tuple[int, ...] = EDGES, flags: int = 2, mode: int = 0) -> Result:
    """Execute the bytes in ring 0 (or another of the modes)."""
    trial = Trial(MODES[mode], CODE, bytes.fromhex(code), registers, flags)
    return subject.run(trial, whole=False)


@pytest.mark.parametrize("operand", ["c0 55", "05 00400000 0f", "06 81"])
def test_the_other_test_instruction(subject: Subject, operand: str) -> None:
    """F6 /1 and F7 /1 are TEST too."""
    rm, *rest = bytes.fromhex(operand)
    for opcode in ("f6", "66f7", "f7"):
        tail = bytes(rest).hex() + "00" * 4
        assert run(subject, f"{opcode}{rm:02x}{tail}") == run(subject, f"{opcode}{rm | 8:02x}{tail}")


HINTS = ("0f0d", "0f18", "0f19", "0f1a", "0f1b", "0f1c", "0f1d", "0f1e", "0f1f")


@pytest.mark.parametrize("opcode", HINTS)
def test_hints_touch_nothing(subject: Subject, opcode: str) -> None:
    """Not even memory: their address may be anything."""
    for modrm in range(0, 0x100, 8):
        for rm, rest in ((0, ""), (5, "00f0ffff")):
            code = f"{opcode}{modrm | rm:02x}" + (
                rest if modrm < 0x40 else "00" if modrm < 0x80 else "00" * 4 if modrm < 0xC0 else ""
            )
            if rm == 5 and modrm >= 0x40:
                continue
            result = run(subject, code, (0xFFFF_FFF0, *EDGES[1:]))
            assert result.registers == (0xFFFF_FFF0, *EDGES[1:]), code
            assert (result.vector, result.flags, result.ip) == (None, 2, CODE + len(code) // 2), code


@pytest.mark.parametrize(("code", "flags"), [("0fbcc1", 0x46), ("0fbdc1", 0x46), ("660fbcc1", 0x46)])
def test_bit_scan_of_zero_leaves_the_destination(subject: Subject, code: str, flags: int) -> None:
    result = run(subject, code, (0x8765_4321, 0, *EDGES[2:]), flags & ~0x40)
    assert (result.registers[0], result.flags & 0x40) == (0x8765_4321, 0x40)


def test_cmpxchg_of_32_bits_clears_the_upper_half_of_what_it_loads_alone(subject: Subject) -> None:
    high = 7 << 32
    registers = (high | 5, high | 5, high | 9, *EDGES[3:], *range(8))
    equal = subject.run(
        Trial(MODES_64[0], CODE, bytes.fromhex("0fb1d1"), registers, 2), whole=False
    )  # cmpxchg ecx, edx
    assert equal.registers[:3] == (high | 5, 9, high | 9)
    other = (high | 4, *registers[1:])
    unequal = subject.run(Trial(MODES_64[0], CODE, bytes.fromhex("0fb1d1"), other, 2), whole=False)
    assert unequal.registers[:3] == (5, high | 5, high | 9)


def test_bswap_of_16_bits_gives_0(subject: Subject) -> None:
    assert run(subject, "660fc8").registers[0] == 0x8765_0000


def test_lock_neg_has_the_flags_of_neg(subject: Subject) -> None:
    for value in (0, 1, 0x80, 0xFF, 0x7F, 0x10):
        subject.memory.write(0x4000, 1, value)
        locked = run(subject, "f0f61e")
        subject.memory.write(0x4000, 1, value)
        assert locked.flags == run(subject, "f61e").flags
        assert subject.memory.read(0x4000, 1) == -value & 0xFF


def test_smsw_of_32_bits_gives_all_of_cr0(subject: Subject) -> None:
    assert run(subject, "0f01e0").registers[0] == 0x11


def test_enter_on_a_stack_of_16_bits_loads_all_of_ebp(subject: Subject) -> None:
    registers = (0, 0, 0, 0, 0x5555_3000, 0x6666_4000, 0, 0)
    result = run(subject, "c8100000", registers, mode=3)
    assert result.registers[4:6] == (0x5555_2FEC, 0x5555_2FFC)


# -- system instructions in ring 0 -----------------------------------------------------------------------------------------


@pytest.fixture
def cpu() -> Processor:
    return Subject().cpu


def execute(cpu: Processor, code: str, **registers: int) -> None:
    """Execute the bytes in ring 0 with some general registers set."""
    cpu.memory.write_bytes(CODE, bytes.fromhex(code) + b"\x90" * 16)
    cpu.ip = CODE
    for register, value in registers.items():
        cpu.registers[NAMES_32.index(register)] = value
    cpu.execute()


@pytest.mark.parametrize(("code", "base"), [("0f0116", 0x8765_4321), ("660f0116", 0x0065_4321)])
def test_lgdt_and_lidt(cpu: Processor, code: str, base: int) -> None:
    """With 16-bit operands the base has 24 bits."""
    cpu.memory.write_bytes(0x4000, bytes.fromhex("adde21436587"))
    execute(cpu, code, esi=0x4000)
    assert (cpu.gdtr_base, cpu.gdtr_limit) == (base, 0xDEAD)
    execute(cpu, code.replace("0116", "011e"))
    assert (cpu.idtr_base, cpu.idtr_limit) == (base, 0xDEAD)


def test_lmsw_sets_pe_and_clears_it_not(cpu: Processor) -> None:
    execute(cpu, "0f01f0", eax=0xFFFF_FFFE)
    assert cpu.cr0 == 0x1F
    execute(cpu, "0f01f0", eax=0)
    assert cpu.cr0 == 0x11
    cpu.set_cr0(0x10)
    execute(cpu, "0f01f0", eax=1)
    assert cpu.cr0 == 0x11


def test_clts(cpu: Processor) -> None:
    cpu.set_cr0(0x1F)
    execute(cpu, "0f06")
    assert cpu.cr0 == 0x17


def test_moves_of_control_registers(cpu: Processor) -> None:
    execute(cpu, "0f22c0", eax=0xFFFF_FFFF & ~0x8000_0000)
    assert cpu.cr0 == 0x6005_003F  # reserved bits are ignored, ET stays
    execute(cpu, "0f22d0", eax=0x8765_4321)
    execute(cpu, "0f20d1")
    execute(cpu, "0f22d8", eax=0x1234_5018)
    execute(cpu, "0f20da")
    execute(cpu, "0f22e0", eax=0x9C)
    execute(cpu, "0f20e3")
    assert (cpu.registers[1], cpu.registers[2], cpu.registers[3]) == (0x8765_4321, 0x1234_5018, 0x9C)
    execute(cpu, "660f20d0")  # the operand size is 32 whatever the prefix says
    assert cpu.registers[0] == 0x8765_4321
    for code, value in (("0f22c0", 0x2000_0001), ("0f22c0", 0x8000_0000), ("0f22e0", 0x200), ("0f22e0", 1 << 31)):
        with pytest.raises(Fault) as caught:
            execute(cpu, code, eax=value)
        assert (caught.value.vector, caught.value.error_code) == (13, 0)


def test_moves_of_debug_registers(cpu: Processor) -> None:
    for number in range(4):
        execute(cpu, f"0f23{0xC0 | number << 3:02x}", eax=0x1111 * number)
        execute(cpu, f"0f21{0xC1 | number << 3:02x}")
        assert cpu.registers[1] == 0x1111 * number
    for number in (6, 4):  # DR4 is DR6, DR5 is DR7
        execute(cpu, f"0f23{0xC0 | number << 3:02x}", eax=0)
        assert cpu.debug[6] == 0xFFFF_0FF0
        execute(cpu, f"0f23{0xC8 | number << 3:02x}", eax=0xFFFF_DFFF)
        assert cpu.debug[7] == 0xFFFF_0FFF | 0x400
    cpu.set_cr4(8)  # DE
    with pytest.raises(Fault) as caught:
        execute(cpu, "0f23e0")
    assert caught.value.vector == 6


def test_cpuid(cpu: Processor) -> None:
    execute(cpu, "0fa2", eax=0)
    name = b"".join(cpu.registers[n].to_bytes(4, "little") for n in (3, 2, 1))
    assert (cpu.registers[0], name) == (2, b"GenuineIntel")
    execute(cpu, "0fa2", eax=1)
    # SYSENTER (bit 11) and CMOV (15) are announced; no FPU (0), MMX (23) or SSE (25).
    assert cpu.registers[2] & (1 | 1 << 11 | 1 << 15 | 1 << 23 | 1 << 25) == 1 << 11 | 1 << 15


def test_msr(cpu: Processor) -> None:
    execute(cpu, "0f30", ecx=0x10, eax=0x89AB_CDEF, edx=0x0123_4567)
    execute(cpu, "0f32", eax=0, edx=0)
    value = cpu.registers[2] << 32 | cpu.registers[0]
    assert value - 0x0123_4567_89AB_CDEF == 1
    for code in ("0f30", "0f32"):
        with pytest.raises(Fault):
            execute(cpu, code, ecx=0xC000_0080)


def test_port_registers(cpu: Processor) -> None:
    """The immediate port is a byte; a word or dword port access reads bytes nobody answers for as ones."""
    execute(cpu, "e5c0", eax=0)
    assert cpu.registers[0] == 0xFFFF_FFFF
    execute(cpu, "66e5c0", eax=0)
    assert cpu.registers[0] == 0xFFFF
    assert cpu.bus.port_accesses[0xC0] == 2
