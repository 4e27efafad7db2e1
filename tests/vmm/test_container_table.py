"""`vmlab.containers`: the tables of the kernel with containers, as they lie in its memory."""

from __future__ import annotations

import random

import pytest

import vmlab
from vmlab import guests
from vmlab.errors import OptionError
from vmlab.vmm.containers import LAYOUT

MEMORY = 4 << 20


@pytest.fixture(scope="module")
def virus():
    """Return a run under vt-x, stopped in the middle of a virus."""
    return vmlab.run(guests.load("containers", SCENE=1), under="vt-x", until="forks and forks", memory=MEMORY)


@pytest.fixture(scope="module")
def recording():
    return vmlab.record(guests.load("containers", SCENE=3), memory=MEMORY)


def test_it_says_who_is_there(virus):
    found = vmlab.containers(virus)
    assert len(found) == 3
    assert [(each.number, each.name, each.root, each.address) for each in found] == [
        (0, "global", "/", "10.0.0.1"),
        (1, "web", "/zones/web", "10.0.0.2"),
        (2, "db", "/zones/db", "10.0.0.3"),
    ]
    assert found["db"] is found[2]
    assert (found.version, found.state, found.period, found.bug) == ("containers 1.0", "running", 10, False)
    bomb = [process for process in found["db"].processes if process.program == "fork"]
    assert (len(bomb), found["db"].pages, found["db"].page_limit) == (4, 20, 24)
    (init,) = (process for process in found["db"].processes if process.own_pid == 1)
    first = min(bomb, key=lambda process: process.pid)
    assert (init.program, init.state) == ("init", f"waits for process {first.pid}")
    assert {process.parent for process in bomb if process is not first} <= {process.pid for process in bomb}
    assert first.parent == init.pid


def test_the_words_and_tables_say_the_same(virus):
    found = vmlab.containers(virus)
    text = found.describe()
    assert repr(found) == text
    assert text.startswith("containers under vt-x: containers 1.0, running for ")
    assert "2 db (running): db.example, 10.0.0.3, root /zones/db; 5 of 5 processes, 20 of 24 pages, " in text
    rows, processes = found.rows(), found.process_rows()
    assert [row["name"] for row in rows] == ["global", "web", "db"]
    assert rows[2]["processes"] == "5 of 5"
    assert sorted(row["pid"] for row in processes if row["container"] == "db") == sorted(
        each.pid for each in found["db"].processes
    )
    html = found._repr_html_()
    assert html.count("<tr>") == 2 + len(rows) + len(processes)
    for process in found["db"].processes:
        assert f"process {process.pid} ({process.own_pid} there), {process.program}: {process.state}; " in text
        assert f"<td>{process.state}</td>" in html


def test_a_saved_system_has_them_too(virus, tmp_path):
    vmlab.save(virus, tmp_path / "state")
    again = vmlab.run(vmlab.load_state(tmp_path / "state"), max_instructions=1)
    assert vmlab.containers(again).containers == vmlab.containers(virus).containers


def test_a_recording_shows_them_at_each_instant(recording):
    seen = {}
    for step in (0, 500, 60_000, recording.length, 55_000, 30_000, 60_000):
        recording.seek(step)
        found = vmlab.containers(recording)
        assert seen.setdefault(step, found) == found
    assert [len(seen[step]) for step in (0, 500, 60_000)] == [1, 1, 3]
    assert (seen[0].ticks, len(seen[0]["global"].processes)) == (0, 0)
    assert seen[60_000]["web"].state == "running"
    last = seen[recording.length]
    assert (last.state, last["web"].state, {each.state for each in last["web"].processes}) == (
        "panicked",
        "dead",
        {"dead"},
    )
    assert "; it has a bug" in last.describe()


def test_each_state_of_a_process_is_seen(recording):
    states = set()
    for step in range(20_000, recording.length + 1, 1_500):
        recording.seek(step)
        states |= {each.state.partition(" ")[0] for one in vmlab.containers(recording) for each in one.processes}
    assert states >= {"running", "ready", "sleeps", "waits", "held:"}


def test_a_container_that_is_destroyed_is_gone():
    """A host that destroys container 1 as soon as both run."""
    source = guests.source("containers").replace(
        ".wait:  system SLEEP, 5\n", ".wait:  system CONTAINERCTL, DESTROY, 1\n        system SLEEP, 5\n"
    )
    run = vmlab.run(vmlab.assemble(source, "changed"), memory=MEMORY, max_instructions=60_000)
    found = vmlab.containers(run)
    assert [each.name for each in found] == ["global", "db"]
    with pytest.raises(OptionError, match=r"no container 'web' now: there are 0 \(global\), 2 \(db\)"):
        found["web"]
    assert "web: " not in run.console


def test_a_container_that_is_stopped_at_the_console_is_empty_and_the_other_goes_on():
    """Container 1 computes for ever, until 1 is typed; what is no container, the host passes over."""
    recording = vmlab.record(guests.load("containers", SCRIPT_1=9, SCRIPT_2=0x4444), memory=MEMORY, steps=45_000)
    recording.seek(45_000)
    assert all(each.processes for each in vmlab.containers(recording))
    recording.send("9x1")
    recording.extend(150_000)
    for step, processes in ((recording.length, 0), (46_000, 2)):
        recording.seek(step)
        assert len(vmlab.containers(recording)["web"].processes) == processes
    system = recording.system
    recording.seek(recording.length)
    assert (system.guests[0].status, vmlab.containers(system)["web"].state) == (1, "configured")
    assert system.guests[0].console.count("global: stops a container: done\n") == 1
    assert system.guests[0].console.count("db: binds 10.0.0.3, port 80: done") == 4


def test_whatever_lies_in_the_tables_can_be_shown():
    image = guests.load("containers")
    for seed in range(40):
        rng = random.Random(seed)
        run = vmlab.run(image, memory=MEMORY, max_instructions=rng.choice((100, 20_000)))
        memory, symbols = run.guests[0].memory, image.symbols
        for _ in range(rng.randrange(1, 60)):
            address = rng.randrange(symbols["layout"] - 400, symbols["path"])
            value = rng.choice((0, 1, 0xFFFFFFFF, 0xFFFFFFFE, MEMORY - 2, symbols["containers"], rng.getrandbits(32)))
            memory.write(address, 4, value)
        for address in rng.sample(range(symbols["root"], symbols["root"] + 300, 4), 5):
            memory.write(address, 4, rng.getrandbits(32))
        found = vmlab.containers(run)
        assert found.describe()
        assert found._repr_html_()


def test_a_process_of_no_container_is_told():
    run = vmlab.run(guests.load("containers"), memory=MEMORY, max_instructions=60_000)
    memory, symbols = run.guests[0].memory, run.guests[0].image.symbols
    layout = {name: memory.read(symbols["layout"] + 4 * n, 4) for n, name in enumerate(LAYOUT)}
    memory.write(symbols["processes"] + layout["P_CONTAINER"], 4, 12)
    found = vmlab.containers(run)
    assert ([each.program for each in found.strays], found["global"].processes) == (["host"], ())
    assert "of no container: process 1 (1 there), host: " in found.describe()
    assert {row["container"] for row in found.process_rows()} == {"none", "web", "db"}


def test_other_kernels_have_none():
    wanted = r"is no kernel with containers: run vmlab\.guests\.load\('containers'\)"
    for image in (
        guests.load("hello"),
        vmlab.assemble(guests.source("containers").replace("        dd N_NAME, N_PARENT\n", ""), "shortened"),
        vmlab.assemble(
            guests.source("containers").replace("        dd P_SIZE, P_STATE,", "        dd 0, P_STATE,"), "empty"
        ),
    ):
        run = vmlab.run(image, memory=MEMORY, max_instructions=50)
        with pytest.raises(OptionError, match=f"{image.name} {wanted}"):
            vmlab.containers(run)
    with pytest.raises(OptionError, match="containers takes a Run, a Recording or a System, not str"):
        vmlab.containers("containers")
    with pytest.raises(OptionError, match="guest"):
        vmlab.containers(run, guest=3)
