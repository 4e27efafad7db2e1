"""The divergence finder: what it finds is there, at the very instruction, and where there is nothing it finds nothing."""

from __future__ import annotations

import random

import pytest

import vmlab
from tests.vmm.harness import kernel
from tests.vmm.random_kernels import PaeWriter, Writer
from vmlab.errors import OptionError
from vmlab.vmm.compare import compare
from vmlab.vmm.divergence_finder import find_divergence
from vmlab.vmm.lockstep import Lockstep, Side
from vmlab.vmm.sensitive import CASES, sensitive
from vmlab.vmm.techniques import build
from vmlab.vmm.trap_and_emulate import TrapAndEmulate

BOTH = ("native", "trap-and-emulate")
FAITHFUL = [name for name in vmlab.TECHNIQUES if name not in {*BOTH, "paravirtualization"}]
"""Those under which no unchanged guest can tell."""


def find(image, under: str = "trap-and-emulate", every: int = 1_000, **options):
    options = {"memory": 8 << 20, "max_instructions": 200_000, **options}
    systems = [build(image, each, **options) for each in ("native", under)]
    return find_divergence(systems, ("native", under), every=every)


# A kernel with a timer, which works for a while, and then does what it is told; on another page than its tables.
LATE = """
main:   mov ah, 0xFE
        mov dword [hooks + 0x20 * 4], acknowledge
        call pic_on
        mov ecx, 100
        call timer_on
        sti
        mov ecx, {turns}
.work:  inc dword [FREE]
        loop .work
        {body}
        mov ecx, 5000
.wait:  loop .wait
        cli
        call quit
"""


def late(body: str, turns: int = 2_500):
    return kernel(LATE.format(body=body, turns=turns))


@pytest.mark.parametrize("every", [1, 7, 1_000, 1_000_000])
def test_the_instruction_is_found_however_often_the_sides_meet(every):
    found = find(late(".here: pushfd\n cli\n popfd"), every=every)
    assert found.text == "popf"
    assert found.symbol == "main.here+0x2"
    assert found.privilege == "sensitive but unprivileged"
    (row,) = found.rows()
    assert row["what"] == "eflags"
    assert row["flags"] == "IF"
    assert [place.show({}) for place in found.before[-2:]] == ["pushf", "cli"]
    assert found.instructions == 7_819  # the same, whatever `every` is


def test_the_anchors_make_no_difference():
    image = late("cli\n.here: pushfd\n mov eax, [esp]", 3_000)
    results = []
    for every, anchors in ((1_000, 20_000), (100, 300), (50, 50)):
        systems = [build(image, each, memory=8 << 20, max_instructions=200_000) for each in BOTH]
        found = find_divergence(systems, BOTH, every=every, anchors=anchors)
        results.append(found.to_dict())
        assert found.symbol == "main.here"
    assert results[0] == results[1] == results[2]


def test_a_difference_that_heals_is_found_where_the_sides_meet_often():
    image = late("cli\n pushfd\n mov dword [esp], 0\n popfd\n sti")
    assert find(image) is None
    found = find(image, every=1)
    assert found.text == "pushf"
    assert found.place.code[0] == 0x9C


def test_a_difference_that_heals_just_before_a_meeting():
    image = late("cli\n .brief: pushfd\n mov dword [esp], 0\n popfd\n" + 20 * " nop\n" + " .stays: pushfd", 10)
    for every in range(20, 25):
        assert find(image, every=every).symbol in {"main.brief", "main.stays"}


def test_an_interrupt_that_only_one_side_gets():
    """The instruction to blame came long before, and the finder is at it, not at the interrupt."""
    found = find(late("pushfd\n cli\n popfd"), every=1_000_000)
    assert found.text == "popf"
    assert found.events == ((), ())


def test_a_fault_that_only_one_side_gets():
    found = find(late("mov dword [resume], .on\n mov eax, KERNEL_DATA + 3\n.here: mov es, eax\n.on: nop"))
    assert found.text == "mov es, ax"
    assert found.events == (("#GP",), ())
    assert [each.address == found.address for each in found.executed] == [False, True]
    assert "native: #GP, then" in found.describe()
    for name in BOTH:
        assert found.recording(name).system.cpu_state().linear_ip == found.address


class Coarse(TrapAndEmulate):
    """Can be looked at after each seventh instruction alone, as a translator of whole blocks would be."""

    @property
    def exact(self) -> bool:
        return super().exact and self.instructions() % 7 == 3


@pytest.mark.parametrize("nops", range(7))
def test_a_side_that_cannot_stop_between_all_instructions(nops):
    """Of those since the last meeting the first sensitive one is to blame; the cursor is at it on both sides."""
    image = late("nop\n" * nops + "mov eax, 5\n .here: pushfd\n cli\n .there: popfd\n inc eax\n inc eax")
    options = {"memory": 8 << 20, "max_instructions": 200_000}
    systems = [build(image, each, **options) for each in BOTH]
    systems[1].__class__ = Coarse
    found = find_divergence(systems, BOTH)
    assert found.symbol in {"main.here", "main.there"}
    (row,) = found.rows()
    assert (row["what"], row["flags"]) == ("eflags", "IF")
    assert found.events == ((), ())
    assert "trap-and-emulate: 0x" not in found.describe()
    for name in BOTH:
        assert found.recording(name).system.cpu_state().linear_ip == found.address


def test_a_faithful_side_that_cannot_stop_between_all_instructions():
    options = {"max_instructions": 20_000}
    systems = [build(vmlab.guests.load("minios"), each, **options) for each in BOTH]
    systems[1].__class__ = Coarse
    assert find_divergence(systems, BOTH, every=1) is None


def test_one_side_that_ends():
    """A kernel that halts with interrupts off, as it thinks in one world only."""
    found = find(late("cli\n pushfd\n pop eax\n test eax, 0x200\n jnz .on\n hlt\n.on: nop"), every=100_000)
    assert found.text == "pushf"
    image = vmlab.assemble("start: mov esp, 0x90000\n cli\n smsw eax\n lmsw ax\n hlt", "halts")
    found = find(image)
    assert found.text.startswith("smsw")


@pytest.mark.parametrize("under", ["trap-and-emulate", *FAITHFUL])
@pytest.mark.parametrize("name", ["minios", "timer", "page_fault", "two_rings", "page_churn", "echo"])
def test_faithful_runs_do_not_part_at_any_instruction(name, under):
    assert find(vmlab.guests.load(name), under, every=1, max_instructions=1_500, input="x") is None


def test_a_write_that_is_not_the_guests_is_found():
    """The comparison itself: one flipped bit in the memory or in a register of one side is enough."""
    for spoil in (
        lambda side: side.guest.memory.write(0x2FF004, 1, 1),
        lambda side: side.cpu.registers.__setitem__(6, 99) or side.system.machine.cpu.registers.__setitem__(6, 99),
    ):
        pair = Lockstep(build(vmlab.guests.load("spin"), "native", memory=8 << 20) for _ in range(2))
        pair.meet(100)
        assert not pair.differ()
        spoil(pair.sides[1])
        pair.meet(200)
        assert pair.differ()


def test_a_register_of_the_second_processor_is_compared():
    pair = Lockstep(build(vmlab.guests.load("two_cpus"), "native", cpus=2) for _ in range(2))
    pair.meet(3_000)
    assert not pair.differ()
    pair.sides[1].guest.vcpus[1].registers[3] ^= 1
    assert pair.differ()
    one, two = (side.seen() for side in pair.sides)
    assert [name for name in one if one[name] != two[name]] == ["cpu 1 ebx"]


def test_two_processors_do_not_part_from_themselves():
    options = {"cpus": 2, "max_instructions": 30_000}
    systems = [
        build(vmlab.guests.load("two_cpus"), "native", engine=each, **options) for each in ("interpreter", "auto")
    ]
    assert find_divergence(systems, ("interpreter", "auto"), every=700) is None


@pytest.mark.long
@pytest.mark.parametrize("under", ["trap-and-emulate", *FAITHFUL])
@pytest.mark.parametrize("seed", range(12))
def test_random_kernels_do_not_part_at_any_instruction(under, seed):
    for writer in (Writer, PaeWriter):
        image = kernel(writer(random.Random(seed)).kernel(), f"seed {seed}")
        assert find(image, under, every=1, max_instructions=32_000, input="abcdef") is None


@pytest.mark.parametrize("under", ["trap-and-emulate", *FAITHFUL])
def test_a_random_kernel_does_not_part_at_any_instruction(under):
    image = kernel(Writer(random.Random(7)).kernel(), "seed 7")
    assert find(image, under, every=1, max_instructions=3_000, input="abcdef") is None


def test_going_back_is_exact():
    side = Side(build(vmlab.guests.load("minios"), "trap-and-emulate", max_instructions=100_000))
    side.reach(5_003)
    side.anchor()
    results = []
    for _ in range(2):
        side.reach(9_001)
        results.append((side.time, side.system.steps, side.seen(), side.guest.memory.digest(), side.guest.console))
        side.restore()
        assert side.time == 5_003
    assert results[0] == results[1]


@pytest.mark.parametrize("under", [*BOTH, "vt-x"])
def test_a_side_stops_at_the_very_instruction(under):
    side = Side(build(vmlab.guests.load("minios"), under, max_instructions=100_000))
    for time in (1, 2, 3, 50, 51, 1_000, 4_444, 4_445):
        side.reach(time)
        assert side.time == time


def test_the_view_of_a_guest_that_runs_is_that_of_its_next_exit():
    """Segments loaded without a trap, and the stack of 16 bits, are in the view before the hypervisor saves them."""
    body = "mov eax, USER_DATA\n mov es, eax\n mov eax, KERNEL_DATA\n mov fs, eax\n nop"
    native, virtual = (Side(build(late(body, 10), each, memory=8 << 20, max_instructions=99_999)) for each in BOTH)
    for time in range(1, 500):
        native.reach(time)
        virtual.reach(time)
        assert native.seen() == virtual.seen(), time
        keys = [[register.key for register in side.cpu.segments] for side in (native, virtual)]
        assert keys[0] == keys[1], time


def test_sides_that_differ_from_the_start():
    systems = [build(vmlab.guests.load("spin"), each, memory=8 << 20) for each in BOTH]
    systems[1].guests[0].memory.write(0x200000, 4, 7)
    found = find_divergence(systems, BOTH)
    assert found.describe().startswith("native and trap-and-emulate differ before the first instruction,")
    assert (found.privilege, found.reason, found.instructions) == ("", "", 0)
    (row,) = found.rows()
    assert (row["what"], row["native"], row["trap-and-emulate"]) == ("[0x200000]", "0x0", "0x7")
    assert found.recording("native").position == 0


# -- the result ------------------------------------------------------------------------------------------------------


def test_a_comparison_says_where_they_part():
    comparison = compare(vmlab.guests.load("popf"), under=[*BOTH, "vt-x"])
    found = comparison.divergence()
    assert found is comparison.divergence("trap-and-emulate")
    assert comparison.divergence("vt-x") is None
    assert (found.text, found.symbol, found.mnemonic) == ("pushf", "print_if+0xa", "pushf")
    assert found.describe() in comparison.describe()
    assert found.to_dict()["address"] == found.address == vmlab.guests.load("popf").symbols["print_if"] + 10
    (row,) = found.rows()
    assert int(row["native"], 16) ^ int(row["trap-and-emulate"], 16) == 0x200
    with pytest.raises(OptionError, match="no run under 'native' to compare with native: choose 'trap-and-emulate'"):
        comparison.divergence("native")
    with pytest.raises(OptionError, match="every= is a number of instructions"):
        comparison.divergence(every=0)


def test_the_recordings_stand_just_before_the_instruction():
    found = compare(late("pushfd\n cli\n popfd", 15_000), max_instructions=99_999, memory=8 << 20).divergence()
    assert found.instructions > 30_000
    for name in BOTH:
        recording = found.recording(name)
        assert recording.position == found.steps[name] < recording.length < 30_000
        cpu = recording.system.cpu_state()
        assert cpu.linear_ip == found.address
        assert recording.system.instructions() == found.instructions
        recording.step()
        assert recording.system.instructions() == found.instructions + 1
        assert bool(recording.system.cpu_state().flags & 0x200) == (name == "native")
    with pytest.raises(OptionError, match="choose 'native' or 'trap-and-emulate'"):
        found.recording("vt-x")


# -- Robin and Irvine's list -----------------------------------------------------------------------------------------

STORES = ["sgdt", "sidt", "sldt", "str", "smsw"]
SEEN_BY_A_MONITOR = ["retf", "int"]


def test_the_table_of_sensitive_instructions():
    table = sensitive()
    assert list(table.cases) == list(CASES)
    assert table.emulated == SEEN_BY_A_MONITOR
    assert table.differing == [name for name in CASES if name not in SEEN_BY_A_MONITOR]
    assert {case.privilege.value for case in table.cases.values()} == {"sensitive but unprivileged"}
    for name in table.differing:
        assert table[name].saw(0) != table[name].saw(1)
    assert table["pushf"].divergence.differences[0].note == "IF"
    assert table["popf (IOPL)"].divergence.differences[0].note == "IOPL"
    assert (table["mov (from segment)"].saw(0), table["mov (from segment)"].saw(1)) == ("eax = 0x8", "eax = 0xb")
    assert (table["mov (to segment)"].saw(0), table["mov (to segment)"].saw(1)) == ("#GP", "no fault")
    assert table.rows()[0]["native"] in repr(table)
    assert "eflags = 0x2 (IOPL differs)" in repr(table)


def test_umip_makes_those_trap_that_store_a_system_register_and_no_others():
    plain, umip = sensitive(), sensitive(cpu="umip")
    assert umip.emulated == [*STORES, *SEEN_BY_A_MONITOR]
    assert umip.differing == [name for name in plain.differing if name not in STORES]


@pytest.mark.parametrize("under", FAITHFUL)
def test_a_faithful_technique_shows_no_difference(under):
    assert sensitive(under).differing == []
