"""Snapshots: a system saved as a file goes on elsewhere as if nothing had happened."""

from __future__ import annotations

import copy
import random

import pytest

import vmlab
from tests.vmm.harness import kernel, seen
from tests.vmm.hostile import neighbour
from tests.vmm.test_saving import BUSY, DAMAGE, change, paths
from vmlab.errors import OptionError, StateError
from vmlab.machine.disk import Disk
from vmlab.machine.state_file import read_state_file, write_state_file
from vmlab.vmm.snapshot import Snapshot, capture
from vmlab.vmm.techniques import build

OPTIONS = {"memory": 8 << 20, "max_instructions": 20_000, "input": "text"}


def end(system):
    system.run()
    return (
        [seen(guest) | {"exits": dict(guest.exits)} for guest in system.guests],
        system.steps,
        system.cycles_by_cause(),
    )


def fresh(kind, **options):
    if kind == "two guests":
        return build([kernel(BUSY), neighbour()], "trap-and-emulate", **OPTIONS, **options)
    return build(kernel(BUSY), kind, **OPTIONS, **options)


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
@pytest.mark.parametrize("kind", ["native", "trap-and-emulate", "two guests"])
def test_a_saved_system_goes_on_as_the_one_it_was(kind, engine, tmp_path):
    system = fresh(kind, engine=engine)
    system.advance(random.Random(kind).randrange(4_000, 15_000))
    vmlab.save(system, tmp_path / "state")
    expected = end(system)
    snapshot = vmlab.load_state(tmp_path / "state")
    assert (snapshot.technique, snapshot.guests[0]) == (system.technique, system.guests[0].image.name)
    first = snapshot.resume()
    assert (first.machine.engine is None) == (engine == "interpreter")
    assert first.limit == system.limit
    assert end(first) == expected
    assert end(snapshot.resume()) == expected


def test_a_run_that_stops_at_a_text_and_goes_on(tmp_path):
    minios = vmlab.guests.load("minios")
    straight = vmlab.run(minios)
    booted = vmlab.run(minios, until="awake: 2")
    assert (booted.outcome, booted.reached) == ("until", True)
    assert "awake: 2" in booted.console
    assert "awake: 3" not in booted.console
    vmlab.save(booted, tmp_path / "booted")
    snapshot = vmlab.load_state(tmp_path / "booted")
    assert snapshot.console == booted.console
    assert "minios under native" in snapshot.describe()
    for engine in ("interpreter", "auto"):
        again = vmlab.run(snapshot, engine=engine)
        assert (again.console, again.outcome, again.instructions) == (straight.console, "exit", straight.instructions)
    later = vmlab.run(snapshot, until="awake: 2")
    assert (later.outcome, later.reached) == ("exit", False)  # what was shown before does not count
    limited = vmlab.run(snapshot, max_instructions=500)
    assert limited.outcome == "limit"
    assert booted.instructions < limited.instructions <= booted.instructions + 500


@pytest.mark.parametrize("under", ["native", "trap-and-emulate", "binary-translation"])
def test_what_is_typed_at_a_resumed_guest(under, tmp_path):
    asleep = vmlab.run(vmlab.guests.load("echo"), under, memory=2 << 20)
    assert asleep.outcome == "halt"
    vmlab.save(asleep, tmp_path / "asleep")
    snapshot = vmlab.load_state(tmp_path / "asleep")
    assert vmlab.run(snapshot, input="ls\n").console == "ls\n"
    assert vmlab.run(snapshot, input="a\x04").outcome == "exit"
    recording = vmlab.record(snapshot, steps=0)
    recording.send("more")
    recording.extend(5_000)
    assert recording.system.guests[0].console == "more"
    vmlab.save(recording, tmp_path / "asleep")
    assert vmlab.load_state(tmp_path / "asleep").console == "more"
    recording.seek(0)
    vmlab.save(recording, tmp_path / "asleep")
    assert vmlab.load_state(tmp_path / "asleep").console == ""


def test_a_limit_that_was_reached_is_not_the_end(tmp_path):
    for under in ("native", "trap-and-emulate"):
        stopped = vmlab.run(kernel("main: jmp main"), under, memory=8 << 20, max_instructions=1_000)
        vmlab.save(stopped, tmp_path / "state")
        again = vmlab.run(vmlab.load_state(tmp_path / "state"), max_instructions=700)
        assert (again.outcome, again.instructions) == ("limit", 1_700)


def test_several_processors(tmp_path):
    system = build(vmlab.guests.load("minios"), cpus=3, memory=8 << 20, max_instructions=400_000)
    system.advance(20_000)
    vmlab.save(system, tmp_path / "state")
    other = vmlab.load_state(tmp_path / "state").resume()
    assert len(other.guests[0].vcpus) == 3
    assert end(other) == end(system)


def test_disks_are_found_again(tmp_path, monkeypatch):
    image = tmp_path / "disk.img"
    image.write_bytes(b"first".ljust(512, b"\0") * 4)
    code = """
main:   mov dx, 0x1F2
        mov al, 1
        out dx, al
        inc dx
        mov al, 2
        out dx, al
        mov al, 0
        inc dx
        out dx, al
        inc dx
        out dx, al
        inc dx
        mov al, 0xE0
        out dx, al
        inc dx
        mov al, 0x30
        out dx, al
.wait:  in al, dx
        test al, 8
        jz .wait
        mov dx, 0x1F0
        mov ecx, 256
        mov ax, 0x4142
.next:  out dx, ax
        loop .next
.done:  jmp .done
"""
    system = build(kernel(code), memory=8 << 20, disks=[image, Disk(b"bytes".ljust(512, b"\0"))])
    system.advance(20_000)
    master = system.guests[0].platform.ata.save()
    state = tmp_path / "state"
    vmlab.save(system, state)
    assert vmlab.load_state(state).resume().guests[0].platform.ata.save() == master
    assert b"BABA" in repr(master).encode()
    moved = tmp_path / "moved"
    moved.mkdir()
    image.rename(moved / "disk.img")
    with pytest.raises(StateError, match=r"disk\.img is missing: put it there, or beside the saved state"):
        vmlab.load_state(state)
    state.rename(moved / "state")
    vmlab.load_state(moved / "state")
    (moved / "disk.img").write_bytes(b"other".ljust(512, b"\0") * 4)
    with pytest.raises(StateError, match="is not the disk image with which it ran"):
        vmlab.load_state(moved / "state")


def test_options_that_a_saved_system_keeps(tmp_path):
    vmlab.save(vmlab.run(vmlab.guests.load("hello")), tmp_path / "state")
    snapshot = vmlab.load_state(tmp_path / "state")
    for wrong, message in (
        ({"memory": 1 << 20}, "keeps its memory"),
        ({"cpus": 2}, "keeps its cpus"),
        ({"under": "trap-and-emulate"}, "cannot go on under"),
        ({"engine": "fast"}, "unknown engine"),
        ({"max_instructions": 0}, "limit of instructions"),
        ({"until": ""}, "until is a text"),
        ({"until": 5}, "until is a text"),
        ({"keys": 5}, "keys are"),
        ({"colour": 1}, "no option 'colour'"),
    ):
        with pytest.raises(OptionError, match=message):
            vmlab.run(snapshot, **wrong)
    assert vmlab.run(snapshot).outcome == "exit"
    with pytest.raises(OptionError, match="boots an Image"):
        vmlab.run([snapshot, snapshot], under="trap-and-emulate")
    for nothing in (None, snapshot, "state", vmlab):
        with pytest.raises(OptionError, match="save takes"):
            vmlab.save(nothing, tmp_path / "x")
    with pytest.raises(OptionError, match="path"):
        vmlab.save(vmlab.run(vmlab.guests.load("hello")), None)
    with pytest.raises(OptionError, match="path"):
        vmlab.load_state(3)


@pytest.mark.parametrize("under", ["native", "trap-and-emulate", "binary-translation"])
def test_crafted_states_are_refused_or_run(under, tmp_path):
    """A file with a right checksum and anything in it is a StateError, or a system that runs."""
    system = build(vmlab.guests.load("timer"), under, memory=2 << 20, disks=[Disk(bytes(512))], engine="auto")
    system.advance(60)
    good = capture(system)
    write_state_file(tmp_path / "state", good)
    assert read_state_file(tmp_path / "state") == good
    generator = random.Random(2)
    places = [path for path in paths(good) if path and path[0] != "contents"]
    outer = [path for path in places if path[0] not in ("system", "pages")]
    refused = 0
    for path in outer + generator.sample([path for path in places if path not in outer], 60):
        bad = change(good, path, generator.choice(DAMAGE))
        try:
            running = Snapshot(bad, "bad").resume()
        except StateError as error:
            refused += "\n" not in str(error)
        else:
            running.advance(50)
    assert refused > 60
    bad = copy.deepcopy(good)
    bad["images"][0]["segments"][0][1] = b"another kernel"
    with pytest.raises(StateError, match="SHA-256 differs"):
        Snapshot(bad)


@pytest.mark.parametrize("end", ["changed", "gone"])
def test_a_disk_whose_file_is_another_by_now_is_saved_whole(end, tmp_path):
    path = tmp_path / "boot.img"
    path.write_bytes(vmlab.boot_sector("mov ax, 5\n mov bx, 6\n hlt").disk.contents())
    recording = vmlab.record(vmlab.load(path))
    recording.seek(recording.length - 2)
    expected = vmlab.run(vmlab.load(path))
    if end == "gone":
        path.unlink()
    else:
        path.write_bytes(b"other".ljust(512, b"\0"))
    vmlab.save(recording, tmp_path / "state")
    again = vmlab.run(vmlab.load_state(tmp_path / "state"))
    assert (again.outcome, again.instructions) == (expected.outcome, expected.instructions)
    assert again.guests[0].vcpu.visible() == expected.guests[0].vcpu.visible()
