"""Who may do what: flags and rings, privileged instructions, ports; saving (Intel SDM vol. 1, 18.5; vol. 3, 5.9)."""

from __future__ import annotations

import pytest

from tests.machine.computer import CODE, CODE_OF_RING, DATA, DATA_OF_RING, STACK, TSS, Computer
from vmlab.errors import StateError
from vmlab.isa.x86.descriptors import encode_descriptor
from vmlab.isa.x86.faults import GP
from vmlab.isa.x86.registers import AC, AF, CF, DF, EAX, ESP, ID, IF, IOPL, NT, OF, SF, TF, VIF, VIP, VM, ZF
from vmlab.isa.x86.registers import PF as PARITY
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.cpu_state import CpuState

STATUS = CF | PARITY | AF | ZF | SF | OF | DF
ALL = 0xFFFF_FFFF


@pytest.fixture
def computer() -> Computer:
    return Computer()


def iopl(level: int) -> int:
    return level << 12


# -- POPF, IRET, CLI, STI: who may change which flag -----------------------------------------------------------------------------


def changeable(ring: int, level: int, size: int) -> int:
    """The flags that POPF and IRET change (SDM vol. 2, POPF table 4-16), without VIF and VIP, which IRET also loads."""
    mask = STATUS | TF | NT | (AC | ID if size == 32 else 0)
    if ring <= level:
        mask |= IF
    return mask | (IOPL if ring == 0 else 0)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("ring", range(4))
def test_popf(computer: Computer, ring: int, level: int, size: int) -> None:
    mask = changeable(ring, level, size)
    for old, new in ((2 | iopl(level), ALL), (2 | iopl(level) | STATUS | IF | NT | AC | ID, 0)):
        computer.load("popfd" if size == 32 else "popfw", ring, flags=old)
        computer.memory.write(STACK, 4, new)
        computer.step()
        assert computer.cpu.flags == old & ~mask | new & mask | 2
        assert computer.cpu.registers[ESP] == STACK + size // 8


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("ring", range(4))
def test_iret_within_the_ring_changes_the_same_flags(computer: Computer, ring: int, level: int, size: int) -> None:
    """IRET also loads VIF and VIP in ring 0; RF would be gone after the next instruction and is not kept."""
    mask = changeable(ring, level, size) | (VIF | VIP if ring == 0 and size == 32 else 0)
    for old, new in ((2 | iopl(level), ALL & ~VM), (2 | iopl(level) | STATUS | IF | AC | ID, 0)):
        computer.load("iretd" if size == 32 else "iretw", ring, flags=old)
        for n, value in enumerate((0x1234, CODE_OF_RING[ring], new)):
            computer.memory.write(STACK + n * size // 8, size // 8, value & (1 << size) - 1)
        computer.step()
        assert (computer.cpu.ip, computer.cpu.registers[ESP]) == (0x1234, STACK + 3 * size // 8)
        assert computer.cpu.flags == old & ~mask | new & mask | 2


@pytest.mark.parametrize("outer", [1, 2, 3])
@pytest.mark.parametrize("ring", [0, 1, 2])
def test_iret_judges_by_the_ring_it_leaves(computer: Computer, ring: int, outer: int) -> None:
    if outer <= ring:
        return
    old = 2 | iopl(1)
    computer.load("iretd", ring, flags=old)
    for n, value in enumerate((0x1234, CODE_OF_RING[outer], 0x3247, 0x7000, DATA_OF_RING[outer])):
        computer.memory.write(STACK + 4 * n, 4, value)
    computer.step()
    cpu = computer.cpu
    mask = changeable(ring, 1, 32)
    assert (cpu.ip, cpu.cpl, cpu.registers[ESP]) == (0x1234, outer, 0x7000)
    assert cpu.flags == old & ~mask | 0x3247 & mask | 2
    # ES, DS, FS and GS held segments of the inner ring: they are emptied.
    assert [cpu.segments[n].key for n in (0, 3, 4, 5)] == [(0, 0, 0, 0, False, False)] * 4


def test_iret_keeps_data_segments_that_the_outer_ring_may_use(computer: Computer) -> None:
    computer.descriptor(0x50, encode_descriptor(0, ALL, 0x9F))  # conforming
    computer.load("iretd")
    for index, selector in ((0, 0x43), (3, 0x21), (4, 0x50), (5, 0x10)):
        computer.set_segment(index, selector)
    for n, value in enumerate((CODE, 0x3B, 2, 0x7000, 0x43)):
        computer.memory.write(STACK + 4 * n, 4, value)
    computer.step()
    assert [computer.cpu.segments[n].selector for n in (0, 3, 4, 5)] == [0x43, 0, 0x50, 0]


def test_iret_with_nt_has_no_task_to_return_to(computer: Computer) -> None:
    computer.load("iretd", flags=2 | NT)
    assert computer.trap().what == (10, 0)  # the link is a null selector


@pytest.mark.parametrize("source", ["cli", "sti"])
@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("ring", range(4))
def test_cli_and_sti(computer: Computer, ring: int, level: int, source: str) -> None:
    old = 2 | iopl(level) | (IF if source == "cli" else 0)
    computer.load(source, ring, flags=old)
    if ring <= level:
        computer.step()
        assert (computer.cpu.flags, computer.cpu.ip) == (old ^ IF, CODE + 1)
    else:
        assert computer.trap().what == (GP, 0)


def test_pushf_shows_all_but_rf_and_vm(computer: Computer) -> None:
    flags = 2 | STATUS | IF | IOPL | NT | AC | ID
    computer.load("pushfd\n pushfw", 3, flags=flags)
    computer.step(2)
    assert computer.memory.read(STACK - 4, 4) == flags
    assert computer.memory.read(STACK - 6, 2) == flags & 0xFFFF


PRIVILEGED = (
    "hlt", "clts", "invd", "wbinvd", "lgdt [0x20000]", "lidt [0x20000]", "lldt ax", "ltr ax", "lmsw ax",
    "invlpg [0x20000]", "mov eax, cr0", "mov eax, cr2", "mov eax, cr3", "mov eax, cr4", "mov cr0, eax", "mov cr2, eax",
    "mov cr3, eax", "mov cr4, eax", "mov eax, dr0", "mov eax, dr7", "mov dr0, eax", "mov dr7, eax", "rdmsr", "wrmsr",
    "rdpmc",
)  # fmt: skip


@pytest.mark.parametrize("ring", [1, 2, 3])
@pytest.mark.parametrize("source", PRIVILEGED)
def test_privileged_instruction_outside_ring_0(computer: Computer, source: str, ring: int) -> None:
    computer.load(source, ring, flags=2 | IOPL)
    before = computer.cpu.save_state()
    assert computer.trap().what == (GP, 0)
    after = computer.cpu.save_state()
    for name in ("cr0", "cr2", "cr3", "cr4", "gdtr_base", "idtr_base", "debug", "msrs", "halted"):
        assert after[name] == before[name]


@pytest.mark.parametrize(
    "source", ["sgdt [0x20000]", "sidt [0x20000]", "sldt eax", "str eax", "smsw eax", "cpuid", "rdtsc"]
)
def test_sensitive_instruction_tells_ring_3(computer: Computer, source: str) -> None:
    computer.load(source, 3)
    computer.step()
    assert computer.vector is None


@pytest.mark.parametrize("source", ["sgdt [0x20000]", "sidt [0x20000]", "sldt eax", "str eax", "smsw eax"])
def test_umip(source: str) -> None:
    for ring in range(4):
        computer = Computer(CPU_MODELS["umip"])
        computer.cpu.set_cr4(1 << 11)
        computer.load(source, ring)
        computer.step()
        assert computer.vector == (GP if ring else None)


def test_umip_is_a_reserved_bit_of_older_processors(computer: Computer) -> None:
    computer.load("mov cr4, eax")
    computer.cpu.registers[EAX] = 1 << 11
    assert computer.trap().what == (GP, 0)


def test_tsd_takes_rdtsc_from_the_outer_rings(computer: Computer) -> None:
    computer.cpu.set_cr4(1 << 2)
    computer.load("rdtsc")
    computer.step()
    assert computer.vector is None
    computer.load("rdtsc", 3)
    assert computer.trap().what == (GP, 0)


# -- ports --------------------------------------------------------------------------------------------------------------------------

PORT_USES = {
    "in al, dx": 1, "in ax, dx": 2, "in eax, dx": 4, "out dx, al": 1, "out dx, ax": 2, "out dx, eax": 4,
    "insb": 1, "insw": 2, "insd": 4, "outsb": 1, "outsw": 2, "outsd": 4,
}  # fmt: skip


def use_port(computer: Computer, source: str, port: int, level: int, bitmap: bytes | None) -> bool:
    """Try to use a port in ring 3 with this bitmap (None for none); say whether that was allowed."""
    computer.cpu.tr.limit = 0x67
    if bitmap is not None:
        computer.memory.write_bytes(TSS + 0x68, bitmap)
        computer.cpu.tr.limit = 0x67 + len(bitmap)
    computer.load(source, 3, flags=2 | iopl(level))
    computer.cpu.registers[:8] = [0, 0, port, 0, STACK, 0, DATA, DATA]
    computer.step()
    assert computer.machine.outcome is None
    if computer.vector is None:
        return True
    assert computer.trap().what == (GP, 0)
    return False


@pytest.mark.parametrize("source", PORT_USES)
def test_ports_by_iopl_and_bitmap(computer: Computer, source: str) -> None:
    width, port = PORT_USES[source], 0x9C
    assert use_port(computer, source, port, 3, None)
    assert not use_port(computer, source, port, 2, None)
    open_map = bytearray(b"\xff" * 32)
    for n in range(width):
        assert not use_port(computer, source, port, 0, bytes(open_map))
        open_map[(port + n) >> 3] &= ~(1 << (port + n & 7))
    assert use_port(computer, source, port, 0, bytes(open_map))
    # Two bytes of the map are always read: the second must lie within the limit of the TSS too.
    assert not use_port(computer, source, port, 0, bytes(open_map)[: (port >> 3) + 1])
    assert use_port(computer, source, port, 0, bytes(open_map)[: (port >> 3) + 2])


def test_a_16_bit_tss_has_no_bitmap(computer: Computer) -> None:
    computer.cpu.tr.access = 0x83
    computer.memory.write(TSS + 2, 4, 0x10_7000)
    assert not use_port(computer, "in al, dx", 0x9C, 0, bytes(40))


def test_immediate_port(computer: Computer) -> None:
    computer.load("in al, 0x9C", 3, flags=2 | iopl(3))
    computer.step()
    assert computer.cpu.registers[EAX] == 0xFF
    computer.load("out 0x9C, al", 3, flags=2)
    assert computer.trap().what == (GP, 0)


def test_ins_reads_no_port_when_its_destination_faults(computer: Computer) -> None:
    computer.load("insb")
    computer.cpu.registers[:8] = [0, 0, 0x9C, 0, STACK, 0, 0, 0x20]
    computer.cpu.segments[0].set(0x10, 0, 0x1F, 0x93, big=True)
    assert computer.trap().what == (GP, 0)
    assert computer.cpu.bus.port_accesses[0x9C] == 0


# -- saving ---------------------------------------------------------------------------------------------------------------------------------------


def test_saved_processor_goes_on_as_the_first(computer: Computer) -> None:
    computer.load("sti\n inc ebx\n inc ebx", flags=2 | TF)
    computer.step()
    saved = computer.machine.save()
    other = Computer()
    other.load("sti\n inc ebx\n inc ebx")
    other.machine.load(saved)
    assert other.cpu.interrupt_shadow
    assert other.trap() == computer.trap()
    assert other.machine.save() == computer.machine.save()


def test_damaged_state_is_refused(computer: Computer) -> None:
    state = CpuState().save_state()
    for broken in ({**state, "registers": [0] * 8}, {**state, "version": 1}, {**state, "cr0": -1}, {}):
        with pytest.raises(StateError):
            computer.cpu.load_state(broken)
    with pytest.raises(StateError):
        computer.cpu.load({})
    with pytest.raises(StateError):
        computer.machine.load({"version": 2})
