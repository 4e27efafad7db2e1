"""Each guest does natively what its source says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter

import pytest

import vmlab
from tests.guests.running import run_native
from vmlab import guests
from vmlab.errors import OptionError
from vmlab.isa.x86.registers import IF

# What each program prints and how it ends, read off its source.
EXPECTED = {
    "cli_sti": ("K\n", "exit"),
    "control": ("control domain: there is no channel\n", "halt"),
    "critical_section": (".....\n", "exit"),
    "divide": ("!7\n", "exit"),
    "echo": ("", "halt"),
    "hello": ("Hello from a real x86 guest.\n", "exit"),
    "long_mode": ("this processor has no long mode\n", "exit"),
    "nanobenchmarks": ("", "exit"),
    "nested_host": ("nested host: this processor has no VT-x\n", "exit"),
    "page_fault": ("fr", "exit"),
    "popf": (
        "after cli:  interrupts are off\nafter sti:  interrupts are on\nafter popf: interrupts are on\n",
        "exit",
    ),
    "page_churn": ("01f9de8d\n", "exit"),
    "pointer_chase": ("b0a367c3\n", "exit"),
    "syscall": ("u\n", "exit"),
    "thin_hypervisor": ("this processor has no VT-x\n", "exit"),
    "timer": (".....", "exit"),
    "triple_fault": ("", "triple-fault"),
    "two_cpus": ("processors: 1\nsum of squares: 333833500\n", "exit"),
    "two_rings": ("ring 0: cli works\nring 3: cli is refused\n", "exit"),
}

TELLING = {"critical_section", "popf"}
"""Those that can tell trap-and-emulate from the bare machine."""


@pytest.fixture(scope="module")
def minios():
    return run_native(guests.load("minios"))


def vectors(run):
    return [trap.vector for trap in run.traps]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_small_guest_prints_and_ends_as_its_source_says(name):
    run = run_native(guests.load(name))
    assert (run.console, run.outcome) == EXPECTED[name]
    assert run.status == (1 if run.outcome == "exit" else None)


@pytest.mark.parametrize("cpu", ["core-2", "westmere", "broadwell"])
def test_the_kernel_in_long_mode_takes_ticks_and_serves_a_program(cpu):
    run = vmlab.run(guests.load("long_mode"), under="native", cpu=cpu)
    assert run.console == "a kernel in 64-bit mode\na program in ring 3\n...\nundefined opcode in ring 3\n"
    assert (run.outcome, run.status) == ("exit", 1)
    assert run.guests[0].vcpu.visible()["rip"] >> 31 == 0x1_FFFF_FFFF


THIN = """the hypervisor launches its guest
the guest asks what its processor is called:
ThinVMMinASM
it has halted. Pages mapped: 2
VM exits: 62
"""


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
@pytest.mark.parametrize(
    ("cpu", "console"),
    [
        ("core-2", "this processor's VT-x has no extended page tables\n"),
        ("westmere", THIN),
        ("broadwell", THIN),
        ("broadwell-ep", THIN),
    ],
)
def test_a_hypervisor_in_assembly_runs_its_own_guest(cpu, console, engine):
    """One exit for each of 58 characters, two for CPUID and HLT, two EPT violations."""
    run = vmlab.run(guests.load("thin_hypervisor"), under="native", cpu=cpu, engine=engine)
    assert (run.console, run.outcome, run.status) == (console, "exit", 1)


def test_a_recording_in_long_mode_can_be_stepped_back():
    recording = vmlab.record(guests.load("long_mode"), under="native", cpu="core-2")
    seen = {}
    for step in (800, 300, 1900, 120, 900, 301):
        recording.seek(step)
        seen[step] = recording.system.guests[0].vcpu.save_state()
    assert seen[301]["retired"] == seen[300]["retired"] + 1
    recording.back()
    assert recording.system.guests[0].vcpu.save_state() == seen[300]


def test_every_guest_is_tested():
    ported = {"minios_pv", "workload_pv"}
    assert {*EXPECTED, *ported, "containers", "minios", "spin", "workload"} == set(guests.names())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("divide", [0]), ("page_fault", [14]), ("two_rings", [13]), ("timer", [0x20] * 5), ("hello", []), ("cli_sti", [])],
)
def test_a_small_guest_causes_the_traps_that_it_is_about(name, expected):
    assert vectors(run_native(guests.load(name))) == expected


def test_the_page_fault_is_a_write_to_a_missing_page():
    (trap,) = run_native(guests.load("page_fault")).traps
    assert (trap.error_code, trap.cr2) == (0b010, 0x3FF005)


def test_the_timer_lets_the_processor_sleep_for_most_of_the_time():
    run = run_native(guests.load("timer"))
    # Five periods of 100 ticks, 10 instructions each; the program itself takes little of them.
    assert 4900 <= run.machine.platform.clock.now <= 5200
    assert run.machine.cpu.retired < 200


def test_spin_never_ends():
    run = run_native(guests.load("spin"), steps=5000)
    assert (run.outcome, run.machine.cpu.retired) == (None, 5000)


# -- what costs in memory ------------------------------------------------------------------------------------------------


def after(total, value):
    """Return what both guests do to their checksum."""
    return ((total << 1 | total >> 31) + value) & 0xFFFF_FFFF


def chased(pages, rounds):
    """Return what `pointer_chase` prints, and the pages that it visits."""
    page, total, seen = 0, 0, []
    for _ in range(pages * rounds):
        page = (5 * page + 3) % pages
        total = after(total, 0x40_0000 + page * 0x1000)
        seen.append(page)
    return f"{total:08x}\n", seen


def churned(pages, rounds, pool):
    """Return what `page_churn` prints: its page frames hold what was added to them, whoever has them."""
    frames, total = [0] * pool, 0
    for n in range(pages * rounds):
        frames[n % pool] += rounds - n // pages
        total = after(total, frames[n % pool])
    return f"{total:08x}\n"


@pytest.mark.parametrize(("pages", "rounds"), [(256, 64), (1024, 3), (2048, 2), (64, 1)])
def test_the_chain_leads_through_all_pages_and_each_step_misses(pages, rounds):
    expected, seen = chased(pages, rounds)
    assert set(seen[:pages]) == set(range(pages))
    image = guests.load("pointer_chase", PAGES=pages, ROUNDS=rounds)
    run = vmlab.run(image, memory=16 << 20)
    assert (run.console, run.outcome, run.status) == (expected, "exit", 1)
    held = run.system.machine.cpu.tlb.capacity
    assert run.system.machine.cpu.tlb.misses >= pages * rounds or pages <= held


@pytest.mark.parametrize(("pages", "rounds", "pool"), [(32, 20, 27), (100, 3, 99), (5, 7, 5), (1, 1, 1)])
def test_pages_come_by_faults_and_go(pages, rounds, pool):
    run = run_native(guests.load("page_churn", PAGES=pages, ROUNDS=rounds, POOL=pool))
    assert (run.console, run.outcome, run.status) == (churned(pages, rounds, pool), "exit", 1)
    assert vectors(run) == [14] * pages * rounds
    # The first access of the loop reads and writes: the page is missing (0), and the processor reports the write (2).
    assert {trap.error_code for trap in run.traps} == {2}
    assert {trap.cr2 for trap in run.traps} == {0x20_0000 + 0x1000 * page for page in range(pages)}
    assert run.machine.memory.read_bytes(0x11_1000 + 0x200 * 4, 0x200 * 4) == bytes(0x800), "all are unmapped again"


@pytest.fixture(scope="module")
def both_ways():
    """Return runs of both guests on the same processor, by name and by how memory is virtualized."""
    return {
        (name, way): vmlab.run(guests.load(name), under="vt-x", memory_virtualization=way, host_cpu="westmere")
        for name in ("pointer_chase", "page_churn")
        for way in ("shadow", "nested")
    }


def test_what_misses_is_cheaper_under_shadow_paging_and_what_changes_under_nested(both_ways):
    cycles = {key: run.cycles for key, run in both_ways.items()}
    assert cycles["pointer_chase", "nested"] > 2 * cycles["pointer_chase", "shadow"]
    assert cycles["page_churn", "shadow"] > 5 * cycles["page_churn", "nested"]
    walks = {key: run.cycles_by_cause["page walks"] for key, run in both_ways.items()}
    native = vmlab.run(guests.load("pointer_chase")).cycles_by_cause["page walks"]
    assert walks["pointer_chase", "shadow"] < 1.1 * native
    # Two levels of the guest over three or four of the host (with pages of 2 MiB, of 4 KiB) make 11 or 14 references of 2.
    assert 11 / 2 * 0.9 * native < walks["pointer_chase", "nested"] < 14 / 2 * 1.1 * native


def test_who_changes_page_tables_exits_more_than_ten_times_as_often_under_shadow_paging(both_ways):
    exits = {way: both_ways["page_churn", way].exits for way in ("shadow", "nested")}
    assert exits["shadow"].total() > 10 * exits["nested"].total()
    assert exits["shadow"]["true page fault"] == exits["shadow"]["INVLPG"] == 32 * 20
    assert not {"true page fault", "hidden page fault", "INVLPG"} & set(exits["nested"])
    assert not exits["shadow"]["EPT violation"]
    assert {run.console for (name, _), run in both_ways.items() if name == "page_churn"} == {churned(32, 20, 27)}


def test_a_constant_is_of_the_source_and_a_number():
    assert guests.load("pointer_chase", PAGES=256).segments == guests.load("pointer_chase").segments
    with pytest.raises(OptionError, match="guest page_churn has no constant 'pages': it has PAGES, ROUNDS, WINDOW"):
        guests.load("page_churn", pages=3)
    with pytest.raises(OptionError, match="guest spin has no constant 'PAGES': it has none"):
        guests.load("spin", PAGES=3)
    for wrong in ("3", -1, 1 << 32, True, 2.0):
        with pytest.raises(OptionError, match="PAGES is an int of 32 bits"):
            guests.load("page_churn", PAGES=wrong)


# -- minios --------------------------------------------------------------------------------------------------------------


def test_minios_runs_both_processes_and_shuts_down(minios):
    lines = minios.console.splitlines()
    assert lines[0] == "minios: paging is on"
    assert [line for line in lines if "awake" in line] == [f"process 1 is awake: {n}" for n in range(1, 6)]
    assert [line for line in lines if "part" in line] == [f"process 2 has done part {c}" for c in "abc"]
    assert lines.index("process 1 is done") == len(lines) - 2
    assert (minios.outcome, minios.status) == ("exit", 1)
    assert minios.machine.platform.screen.splitlines()[0] == "minios: paging is on"


def test_minios_ends_the_process_that_reads_the_kernel_and_nothing_else(minios):
    (fault,) = [trap for trap in minios.traps if trap.vector < 32]
    image = guests.load("minios")
    # A page that is there (1), read from (0) user mode (4), at the multiboot header.
    assert (fault.vector, fault.error_code, fault.cr2) == (14, 5, image.symbols["header"])
    assert (fault.from_ring, fault.to_ring) == (3, 0)
    lines = minios.console.splitlines()
    killed = lines.index("process 2: exception 14, error code 5, CR2 100000: killed")
    assert lines[killed - 1] == "process 2 has done part c"
    assert "process 1 is awake: 5" in lines[killed + 1 :]
    assert "process 2 has read" not in minios.console


def test_minios_counts_what_the_hardware_did(minios):
    ticks, calls, faults = map(int, re.findall(r"(\d+) (?:ticks|system calls|fault)", minios.console))
    count = Counter(vectors(minios))
    assert (ticks, faults) == (count[0x20], count[14])
    # What the processor delivered beside them are the system calls.
    assert calls == minios.machine.cpu.delivered - count.total()
    # Program 1: seven in each of five rounds, and two at its end. Program 2: four in each of three.
    assert calls == 5 * 7 + 2 + 3 * 4
    assert ticks >= 10


def test_minios_is_preempted_and_idles(minios):
    ring_3 = [trap for trap in minios.traps if trap.vector == 0x20 and trap.from_ring == 3]
    asleep = [trap for trap in minios.traps if trap.vector == 0x20 and trap.from_ring == 0]
    symbols = guests.load("minios").symbols
    # Interrupts come in program 2's computation, or where the idle kernel has executed hlt: nowhere else in the kernel.
    assert any(symbols["program_2"] <= trap.address < symbols["program_2.work"] + 3 for trap in ring_3)
    assert asleep
    assert {trap.address for trap in asleep} == {symbols["idle.wait"] + 1}
    assert minios.machine.platform.idle > 0


def test_minios_is_short_enough_to_step_through(minios):
    assert minios.machine.cpu.retired < 50_000


def test_minios_gives_its_processes_one_address_and_two_frames(minios):
    memory = minios.machine.memory
    assert [memory.read(frame, 4) for frame in (0x115000, 0x116000)] == [5, 3]


# -- under a hypervisor --------------------------------------------------------------------------------------------------


def figures(name, technique):
    run = vmlab.run(guests.load(name), under=technique, max_instructions=100_000)
    memory = run.guests[0].memory
    return run.console, run.outcome, run.status, run.instructions, run.screen, memory.read_bytes(0, memory.size)


@pytest.mark.parametrize("name", sorted(set(guests.names()) - TELLING))
def test_a_guest_cannot_tell_trap_and_emulate_from_the_bare_machine(name):
    native, other = figures(name, "native"), figures(name, "trap-and-emulate")
    assert other[:-1] == native[:-1]
    assert other[-1] == native[-1], "memory differs"


def test_popf_can_tell_since_its_instructions_do_not_trap():
    run = vmlab.run(guests.load("popf"), under="trap-and-emulate")
    assert run.console.splitlines()[0] == "after cli:  interrupts are on"
    assert "popf" not in run.emulated


def test_a_critical_section_never_ends_where_popf_does_not_restore_the_flag():
    native, virtual = (
        vmlab.run(guests.load("critical_section"), under=each) for each in ("native", "trap-and-emulate")
    )
    counter = guests.load("critical_section").symbols["counter"]
    assert native.guests[0].memory.read(counter, 4) == 10
    assert (virtual.console, virtual.outcome) == ("", "halt")
    assert virtual.guests[0].memory.read(counter, 4) == 1
    assert not virtual.guests[0].vcpu.flags & IF
    assert vmlab.compare(guests.load("critical_section"), ["native", "vt-x"]).faithful


# -- the sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", guests.names())
def test_nasm_assembles_a_guest_to_the_same_bytes(name, tmp_path):
    assert shutil.which("nasm"), "nasm is missing: tools/requirements.sh test installs it"
    source, binary = tmp_path / "guest.asm", tmp_path / "guest.bin"
    source.write_text(guests.source(name))
    result = subprocess.run(
        ["nasm", "-f", "bin", "-w+all", "-o", binary, source], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    (segment,) = guests.load(name).segments
    assert (segment.address, segment.data) == (0x10_0000, binary.read_bytes())


@pytest.mark.parametrize("name", guests.names())
def test_a_guest_says_what_it_does_and_where_it_starts(name):
    description = guests.describe(name)
    assert description
    assert guests.source(name).startswith(f"; {name}: {description}\n")
    image = guests.load(name)
    assert image.name == name
    assert image.entry == image.symbols["start"]


@pytest.mark.parametrize("name", guests.names())
def test_a_guest_fits_a_notebook_cell(name):
    lines = guests.source(name).splitlines()
    assert len(lines) <= {
        "containers": 2000,  # in parts
        "control": 350,
        "critical_section": 60,
        "long_mode": 220,
        "minios": 400,
        "minios_pv": 550,
        "nanobenchmarks": 150,
        "nested_host": 320,
        "page_churn": 85,
        "pointer_chase": 70,
        "thin_hypervisor": 280,
        "two_cpus": 190,
        "workload": 550,
        "workload_pv": 650,
    }.get(name, 45)  # those are to be read, not typed
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", sorted(set(guests.names()) - TELLING))
def test_a_guest_keeps_away_from_sensitive_instructions_that_do_not_trap(name):
    code = " ".join(line.partition(";")[0] for line in guests.source(name).splitlines())
    words = set(re.findall(r"\w+", code))
    assert not words & {"pushf", "pushfd", "popf", "popfd", "sgdt", "sidt", "sldt", "str", "smsw", "lar", "lsl"}


def test_a_guest_is_assembled_once():
    assert guests.load("hello") is guests.load("hello")


def test_an_unknown_guest_is_refused_with_a_suggestion():
    with pytest.raises(OptionError, match=r"no guest 'minios2': did you mean minios or minios_pv\?"):
        guests.load("minios2")
    with pytest.raises(OptionError, match=r"no guest '\.\./x': choose one of cli_sti, "):
        guests.source("../x")
