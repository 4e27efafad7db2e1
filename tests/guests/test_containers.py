"""The kernel with containers: each rule of isolation, by the console and by the kernel's own tables."""

from __future__ import annotations

import random
from functools import cache

import pytest

import vmlab
from tests.vmm.harness import differences, finish, seen
from vmlab import guests
from vmlab.isa.x86.assembler import assemble
from vmlab.machine.disk import Disk
from vmlab.vmm.techniques import build

DATA = bytes((i * 7 + (i >> 8) * 13 + 5) & 0xFF for i in range(4096))
ATTACKS = "2345678"
"""Digits of scripts: all that a virus tries without the kernel's bug."""
WORKLOAD, BIND, SPIN, MEASURE, ESCAPE, CRASH = 1, 4, 9, 0xA, 0xC, 0xD
FRAMES = 128
PERIOD = 10
LONGEST = 3
"""Ticks that the kernel may work for a process before it can take the processor away; the next period pays for them."""


def checksum(data):
    """Return what Java's String.hashCode would: h = 31 h + byte."""
    total = 0
    for byte in data:
        total = (total * 31 + byte) & 0xFFFF_FFFF
    return total


RESULT = f"primes 303 disk {checksum(DATA):08x} pages 36"


def options(**more):
    return {"memory": 4 << 20, "max_instructions": 4_000_000, "disks": [Disk(DATA)], **more}


@cache
def ran(**given):
    """Return a finished native run of the kernel with these constants."""
    return vmlab.run(guests.load("containers", **given), **options())


def said(run, name):
    """Return the lines that a container wrote."""
    return [line.partition(": ")[2] for line in run.console.splitlines() if line.startswith(f"{name}: ")]


@cache
def constants():
    """Return what the source defines by equ."""
    return assemble(guests.source("containers")).constants


def frames(run):
    """Return the page frames that are free, and those that processes have by their page tables."""
    memory, symbols = run.guests[0].memory, run.guests[0].image.symbols
    free, at = [], memory.read(symbols["free"], 4)
    while at:
        assert len(free) < FRAMES
        free.append(at)
        at = memory.read(at, 4)
    used = []
    known = constants()
    for record in range(symbols["processes"], symbols["processes_end"], known["P_SIZE"]):
        if memory.read(record + known["P_STATE"], 4):
            directory, table = (memory.read(record + known[name], 4) for name in ("P_DIRECTORY", "P_TABLE"))
            entries = (memory.read(table + 4 * n, 4) for n in range(1024))
            used += [directory, table, *(entry & ~0xFFF for entry in entries if entry & 1)]
    return free, used


def intact(run):
    """Say whether the programs, which all containers share, are as they were."""
    image = run.guests[0].image
    start, end = (image.symbols[name] for name in ("user_programs", "user_end"))
    (segment,) = image.segments
    written = segment.data[start - segment.address : end - segment.address]
    return run.guests[0].memory.read_bytes(start, end - start) == written


def changed(*replacements):
    """Return the image of a changed source; each text is in it once."""
    source = guests.source("containers")
    for old, new in replacements:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return vmlab.assemble(source, "changed")


# -- what all have -------------------------------------------------------------------------------------------------------


def test_each_container_runs_the_workload():
    run = ran()
    assert (run.outcome, run.status) == ("exit", 1)
    assert said(run, "web")[-2] == said(run, "db")[-2] == RESULT
    assert run.console.splitlines()[0] == "containers: one kernel for all"


def test_without_a_disk_the_workload_says_so():
    run = vmlab.run(guests.load("containers"), memory=4 << 20)
    assert said(run, "web")[-3:-1] == ["no disk: EIO", "primes 303 pages 36"]


def test_each_container_sees_its_own_names_files_and_processes_and_the_same_kernel():
    run = ran()
    for number, name in ((1, "web"), (2, "db")):
        hello, first, own, file = said(run, name)[:4]
        assert hello == f"this is {name}.example on containers 1.0"
        assert first.startswith(f"process 1 of container {number}, ")
        assert first.endswith(": init")
        assert own.startswith(f"process 2 of container {number}, ")
        assert own.endswith(": hello")
        assert file == f"reads /etc/motd: this is {name}"


def test_all_is_given_back_at_the_end():
    for scene in (0, 1, 2):
        run = ran(SCENE=scene)
        free, used = frames(run)
        assert (len(set(free)), used) == (FRAMES, [])
        assert [len(each.processes) for each in vmlab.containers(run)] == [0, 0, 0]


def test_the_kernel_counts_what_the_hardware_did():
    run = ran(SCENE=1)
    found = vmlab.containers(run)
    assert sum(each.ticks for each in found) + found.idle_ticks == found.ticks
    assert sum(each.calls for each in found) == found.calls
    counted = build(guests.load("containers", SCENE=1), "native", detail="events", **options())
    vectors = []
    counted.machine.trace.observers.append(lambda event: vectors.append(getattr(event, "vector", None)))
    counted.run()
    assert vectors.count(32) == found.ticks
    assert vectors.count(13) + vectors.count(14) == found.exceptions
    # What the processor delivered beside them are the system calls.
    assert counted.guests[0].vcpu.delivered == found.ticks + found.exceptions + found.calls


# -- what a virus can do -------------------------------------------------------------------------------------------------


CAUGHT = {
    "2": [
        "reads /etc/motd: this is db",
        "reads /zones/web/etc/secret: ENOENT",
        "reads /../zones/web/etc/secret: ENOENT",
        "reads /etc/../../../etc/motd: this is db",
    ],
    "3": ["kills 0 processes"],
    "4": [
        "binds 10.0.0.1, port 80: EADDRNOTAVAIL",
        "binds 10.0.0.2, port 80: EADDRNOTAVAIL",
        "binds 10.0.0.3, port 80: done",
    ],
    "5": ["reads the kernel's memory at 00100000", "process {pid} killed: exception 14, address 100000"],
    "6": ["takes 16 pages of memory, then ENOMEM"],
    "7": ["forks and forks, then EAGAIN"],
    "8": [
        "stops container 1: EPERM",
        "makes a container: EPERM",
        "pokes into the kernel: ENOSYS",
        "renames itself: done",
    ],
}
"""What it gets to see: a limit of 24 pages, of which its first process and itself have four each; five processes."""


def expected(script):
    """Return the lines of a virus whose attacks are in this order; each is a process, the bomb of forks four."""
    lines, pid = [], 2
    for attack in script:
        lines += [line.format(pid=pid) for line in CAUGHT[attack]]
        pid += 4 if attack == "7" else 1
    return lines


def without_lists(lines):
    """Return lines without those of lists of processes, which have ticks in them, and without the account at the end."""
    return [line for line in lines if not line.startswith("process ") or "killed" in line][:-1]


def test_a_virus_gets_nothing_that_is_not_its_own():
    run = ran(SCENE=1)
    assert without_lists(said(run, "db")) == expected("2345678")
    assert said(run, "web")[:-1] == [
        RESULT,
        "binds 10.0.0.1, port 80: EADDRNOTAVAIL",
        "binds 10.0.0.2, port 80: done",
        "binds 10.0.0.3, port 80: EADDRNOTAVAIL",
    ]
    bomb = [line for line in said(run, "db") if line.endswith(": fork")]
    assert len(bomb) == 4, "with the container's first process five: its limit"
    assert all(" of container 2, " in line for line in bomb)
    found = vmlab.containers(run)
    assert (found["db"].peak_pages, found["db"].peak_processes) == (24, 5)
    assert (found["db"].hostname, found["web"].hostname) == ("taken over", "web.example")
    assert (run.outcome, run.status, found.state) == ("exit", 1, "ended")


@pytest.mark.parametrize("seed", [1, 2])
def test_no_order_of_attacks_gets_further(seed):
    check_order(seed)


@pytest.mark.long
@pytest.mark.parametrize("group", range(10))
def test_no_order_of_many_attacks_gets_further(group):
    for seed in range(100 + 20 * group, 120 + 20 * group):
        check_order(seed)


def check_order(seed):
    """Attack in random order, some more than once; the neighbour gets its work done, and so it does where both attack."""
    rng = random.Random(seed)
    script = rng.sample(ATTACKS, len(ATTACKS))
    script.insert(rng.randrange(len(script)), rng.choice(ATTACKS))
    number = int("".join(reversed(script)), 16)
    image = guests.load("containers", SCRIPT_1=WORKLOAD, SCRIPT_2=number, SHARE_1=rng.randrange(2, 8))
    run = vmlab.run(image, **options())
    assert without_lists(said(run, "db")) == expected(script), script
    assert said(run, "web")[:-1] == [RESULT]
    free, used = frames(run)
    assert (run.status, len(set(free)), used) == (1, FRAMES, [])


def test_at_every_instant_nobody_has_more_than_the_limits_say():
    system = build(guests.load("containers", SCENE=1), **options())
    most = {"pages": 0, "processes": 0, "used": 0}
    while not system.finished:
        system.advance(250)
        found = vmlab.containers(system)
        for each in found:
            assert each.used <= each.share + LONGEST
            assert each.ticks <= each.share * (found.ticks // PERIOD + 1) + LONGEST
            assert len(each.processes) <= each.process_limit
            assert each.pages <= each.page_limit
            if each.name == "db":
                now = {"pages": each.pages, "processes": len(each.processes), "used": each.used}
                most = {name: max(value, now[name]) for name, value in most.items()}
    assert most.pop("used") >= 3
    assert most == {"pages": 24, "processes": 5}


def test_what_is_charged_covers_what_is_there():
    system = build(guests.load("containers", SCENE=1), **options())
    run = vmlab.Run(system)
    seen_processes = 0
    while not system.finished:
        system.advance(20_000)
        if system.machine.cpu.cpl == 3:  # the kernel is not at work on it
            free, used = frames(run)
            assert len(set(free) | set(used)) == len(free) + len(used) == FRAMES
            charged = sum(each.pages for each in vmlab.containers(run))
            assert len(used) <= charged
            seen_processes += charged
    assert seen_processes


def test_time_is_capped_to_the_tick():
    """Both containers compute for ever: in each whole period they get their shares, neither more nor less."""
    image = guests.load("containers", SCRIPT_1=SPIN, SCRIPT_2=SPIN, SHARE_1=4, SHARE_2=3, DEADLINE=120)
    system = build(image, **options())
    at = {}
    while not system.finished:
        system.advance(100)
        found = vmlab.containers(system)
        if found.ticks % PERIOD == 0 and len(found) == 3:
            at.setdefault(found.ticks, (found["web"].ticks, found["db"].ticks))
    whole = [tick for tick in at if 30 <= tick <= 110]
    assert len(whole) == 9
    gained = {(at[tick][0] - at[tick - PERIOD][0], at[tick][1] - at[tick - PERIOD][1]) for tick in whole[1:]}
    assert gained == {(4, 3)}
    assert "global: this takes too long: all containers stop\n" in system.guests[0].console


def test_no_tick_is_lost_while_the_kernel_works():
    """Forks and writes take longer than a tick: the time of each is charged, to whom the kernel works for."""
    system = build(guests.load("containers", SCRIPT_1=0x777, SCRIPT_2=0x777, DEADLINE=200), **options())
    ticks_behind = set()
    while not system.finished and "shutdown" not in system.guests[0].console:
        system.advance(500)
        found = vmlab.containers(system)
        if found.ticks:
            system.guests[0].platform.now(system.guests[0].vcpu.retired)
            ticks_behind.add(system.guests[0].platform.clock.now // 2000 - found.ticks)
    assert found["web"].ticks + found["db"].ticks > 60
    assert max(ticks_behind) - min(ticks_behind) <= 2, "but for the boot's and one that is on its way"


def test_no_register_carries_anything_from_container_to_container():
    """One leaves its mark in GS, and computes; another looks for it there for as long."""
    image = changed(
        ("SCRIPT_1 equ 0 ", "SCRIPT_1 equ 9 "),
        ("SCRIPT_2 equ 0 ", "SCRIPT_2 equ 5 "),
        ("DEADLINE equ 300", "DEADLINE equ 60 "),
        ("spin:   jmp spin", "spin:   mov eax, USER_CODE\n        mov gs, eax\n        mov eax, gs\n        jmp spin"),
        (
            "        mov eax, [header]\n",
            "        mov ecx, 5000\n.look:  mov eax, gs\n        test eax, eax\n        loopz .look\n",
        ),
    )
    run = vmlab.run(image, **options())
    assert said(run, "db")[:-1] == ["reads the kernel's memory at 00100000", "got 00000000"]
    assert vmlab.containers(run)["web"].ticks > 20


def measured(neighbour, **shares):
    """Return how many ticks the same work takes, with this in the other container."""
    run = ran(SCRIPT_1=MEASURE, SCRIPT_2=neighbour, DEADLINE=150, **shares)
    (line,) = said(run, "web")[:-1]
    return int(line.removeprefix("the same work takes ").removesuffix(" ticks"))


def test_a_neighbour_is_felt_where_shares_are_given_twice():
    quiet, loud = (measured(script, SHARE_1=8, SHARE_2=8) for script in (BIND, SPIN))
    assert loud > 1.4 * quiet
    quiet, loud = (measured(script, SHARE_1=4, SHARE_2=4) for script in (BIND, SPIN))
    assert abs(loud - quiet) <= PERIOD


def test_a_container_ends_with_its_first_process():
    """A child forks, then the fork kills process 1: the child, which computes, and the fork itself end with it."""
    image = changed(
        ("SCRIPT_1 equ 0 ", "SCRIPT_1 equ 1 "),
        ("SCRIPT_2 equ 0 ", "SCRIPT_2 equ 9 "),
        (
            "spin:   jmp spin",
            "spin:   system FORK\n        test eax, eax\n        jnz spin_on\n        system KILL, 1\n        say got_text\nspin_on: jmp spin_on",
        ),
    )
    run = vmlab.run(image, **options())
    assert said(run, "web")[:-1] == [RESULT]
    assert said(run, "db")[:-1] == []
    assert "too long" not in run.console
    assert frames(run)[1] == []
    assert vmlab.containers(run)["db"].peak_processes == 3


def test_another_program_begins_with_nothing_of_the_one_before():
    """A process that has touched its pages executes the memory bomb, which finds zeros, and as much as a new one does."""
    image = changed(
        ("SCRIPT_2 equ 0 ", "SCRIPT_2 equ 5 "),
        (
            "        mov eax, [header]\n",
            "        system SBRK, 4\n        mov [eax + 8], eax\n        push eax\n        system EXEC, 6\n",
        ),
    )
    run = vmlab.run(image, **options())
    assert said(run, "db")[:-1] == ["reads the kernel's memory at 00100000", *CAUGHT["6"]]
    assert frames(run)[1] == []


def refusals(calls, places):
    """Let a process of `db` make each call with each address; return what it was told and the run."""
    code = "".join(
        f"        system {call.format(place)}\n        say result_text\n" for call in calls for place in places
    )
    image = changed(
        ("SCRIPT_2 equ 0 ", "SCRIPT_2 equ 5 "),
        ("peek:   say peek_text, header\n", f"peek:   system OPEN, motd_path\n{code}        system EXIT\n"),
    )
    run = vmlab.run(image, **options())
    assert said(run, "web")[-2] == RESULT
    return said(run, "db")[:-1], run


def test_a_system_call_writes_to_no_memory_but_the_callers_own():
    """Programs are read by all, and written by nobody, by way of the kernel neither; nor is the kernel itself."""
    calls = ("GETHOSTNAME, {0}", "UNAME, {0}", "PS, {0}, 4", "READ, 0, {0}, 4")
    places = ("user_programs", "user_end - 4", "containers", "PRIVATE - 1", "HEAP", "0xFFFFFFF8")
    told, run = refusals(calls, places)
    assert told == ["EFAULT"] * len(calls) * len(places)
    assert intact(run)


def test_a_system_call_reads_no_memory_but_the_callers_own():
    calls = ("WRITE, {0}, 8", "OPEN, {0}", "SETHOSTNAME, {0}")
    places = ("header", "user_programs - 1", "containers", "POOL", "PRIVATE - 1", "HEAP", "0xFFFFFFF8")
    told, run = refusals(calls, places)
    assert told == ["EFAULT"] * len(calls) * len(places)
    assert vmlab.containers(run)["db"].hostname == "db.example"


# -- what one kernel for all means ---------------------------------------------------------------------------------------


def test_a_bug_of_the_kernel_makes_a_container_global():
    run = ran(SCENE=2)
    lines = said(run, "global")
    seen_pids = [line for line in lines if line.startswith("process ")]
    assert any(" of container 0, " in line and line.endswith(": escape") for line in seen_pids)
    assert {line.partition(" of container ")[2][0] for line in seen_pids} == {"0", "1", "2"}
    assert "reads /zones/web/etc/secret: web's password" in lines
    assert "stops container 1: done" in lines
    assert vmlab.containers(run).bug


def test_the_tables_show_who_has_got_out():
    recording = vmlab.record(guests.load("containers", SCENE=2), **options())
    before, after = [], []
    for position in range(0, recording.length, 2_000):
        recording.seek(position)
        for each in vmlab.containers(recording):
            (after if each.number == 0 else before).extend(
                process for process in each.processes if process.program == "escape"
            )
    assert before
    assert after
    assert {process.pid for process in before} == {process.pid for process in after}


def test_with_the_kernel_all_containers_die_and_a_virtual_machine_beside_them_does_not():
    crashing, healthy = guests.load("containers", SCENE=3), guests.load("containers")
    system = build([crashing, healthy], "vt-x", **options())
    system.run()
    crashed, neighbour = system.guests
    assert crashed.console.splitlines()[-1].startswith("panic: exception 6 in the kernel at ")
    assert (crashed.status, neighbour.status) == (3, 1)
    dead, well = (vmlab.containers(system, guest=n) for n in (0, 1))
    assert (dead.state, {each.state for each in dead}) == ("panicked", {"dead"})
    assert {process.state for each in dead for process in each.processes} == {"dead"}
    assert [len(each.processes) for each in dead] == [1, 2, 2]
    assert (well.state, neighbour.console) == ("ended", ran().console)


def test_the_bug_can_be_there_in_every_scene():
    run = ran(BUG=1, SCRIPT_1=WORKLOAD, SCRIPT_2=CRASH)
    assert (run.status, RESULT in run.console) == (3, False)
    run = ran(BUG=0, SCRIPT_1=WORKLOAD, SCRIPT_2=(ESCAPE << 4) | CRASH)
    assert (run.status, RESULT in run.console) == (1, True)
    assert said(run, "db")[:-1] == ["pokes into the kernel: ENOSYS"] * 2


# -- hostile programs ----------------------------------------------------------------------------------------------------


def check_fuzz(seed):
    """Make random system calls, then execute random bytes, in both containers: the kernel does not come to harm."""
    image = guests.load(
        "containers", SCRIPT_1=0xEEEE, SCRIPT_2=0xEEEEEE, SEED=seed, ROUNDS=40 + seed % 100, DEADLINE=250
    )
    run = vmlab.run(image, **options())
    found = vmlab.containers(run)
    assert (run.outcome, run.status, found.state, found.strays) == ("exit", 1, "ended", ()), seed
    free, used = frames(run)
    assert (len(set(free)), used) == (FRAMES, []), seed
    assert intact(run), seed
    assert found["web"].peak_pages <= 32
    assert found["db"].peak_pages <= 24
    assert found["web"].peak_processes <= 6
    assert found["db"].peak_processes <= 5
    return found["web"].refused + found["db"].refused, found.exceptions


def test_random_system_calls_and_random_code_do_the_kernel_no_harm():
    totals = [check_fuzz(seed) for seed in (1, 2)]
    assert sum(refused for refused, _ in totals) > 500
    assert sum(exceptions for _, exceptions in totals) > 50


@pytest.mark.long
@pytest.mark.parametrize("group", range(20))
def test_much_hostile_code_does_the_kernel_no_harm(group):
    for seed in range(1000 + 25 * group, 1025 + 25 * group):
        check_fuzz(seed * 2654435 & 0xFFFF_FFFF)


# -- under a hypervisor --------------------------------------------------------------------------------------------------


def check_technique(under, **given):
    image = guests.load("containers", **given)
    native, virtual = (finish(image, technique, **options()) for technique in ("native", under))
    assert differences(seen(native.guests[0]), seen(virtual.guests[0])) == []
    one, other = vmlab.containers(native), vmlab.containers(virtual)
    assert (one.containers, one.rows()) == (other.containers, other.rows())


@pytest.mark.parametrize(
    ("under", "scene"), [("vt-x", 1), ("amd-v", 2), ("trap-and-emulate", 3), ("binary-translation", 3)]
)
def test_the_kernel_is_the_same_under_a_hypervisor(under, scene):
    check_technique(under, SCENE=scene)


@pytest.mark.long
@pytest.mark.parametrize("scene", range(3))
@pytest.mark.parametrize("under", ["trap-and-emulate", "binary-translation", "vt-x", "amd-v"])
def test_every_scene_is_the_same_under_every_hypervisor(under, scene):
    check_technique(under, SCENE=scene)
