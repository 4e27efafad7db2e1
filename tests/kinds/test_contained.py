"""Containers as parts: those that the kernel says there are, until it stops them, or falls."""

from __future__ import annotations

import pytest

from vmlab.errors import OptionError
from vmlab.kinds.presets import preset

NAMES = ["Oracle Solaris Zones", "BSD Jails", "IBM AIX WPAR"]


def names(running):
    return {part.name for part in running.parts()}


@pytest.mark.parametrize("name", NAMES)
def test_the_words_are_those_of_the_system(name):
    running = preset(name)
    running.advance(62_000)
    labels = {part.label for part in running.parts() if part.layer == "containers"}
    word = {"Oracle Solaris Zones": "zone", "BSD Jails": "jail", "IBM AIX WPAR": "WPAR"}[name]
    assert {f"{word} web", f"{word} db"} < labels


def test_a_container_that_the_kernel_stops_is_no_part_any_more():
    running = preset("BSD Jails", scene=2)
    while "container1" not in names(running):
        running.advance(500)
    while "container1: done" not in running.system.guests[0].console.replace("stops container 1", "container1"):
        running.advance(500)
    assert "container1" not in names(running)
    assert not any(name.startswith("container1/") for name in names(running))
    assert "container0" in names(running)


def test_one_kernel_takes_all_containers_with_it():
    running = preset("BSD Jails", scene=3).run()
    assert "panic" in running.system.guests[0].console
    assert not any(name.startswith("container") for name in names(running))
    assert running.results == {}


def test_the_process_that_runs_is_in_control():
    running = preset("IBM AIX WPAR")
    seen = set()
    while not running.finished and len(seen) < 4:
        running.advance(97)
        seen.add(running.in_control)
        assert running.in_control in names(running)
    assert "guest0/kernel" in seen
    assert any(name.startswith("container2/process") for name in seen)


def test_a_disk_read_has_the_shortest_way():
    journey = preset("Oracle Solaris Zones").follow("disk read")
    assert journey.hops == 2
    assert journey.legs[1].part == "guest0/kernel"


def test_a_container_is_stopped_from_the_console():
    running = preset("BSD Jails")
    running.advance(62_000)
    running.kill("container1/process2")
    assert "container1" not in names(running)
    assert "container2" in names(running)
    running.run()
    assert set(running.results) == {"db"}


def test_what_cannot_be_stopped():
    running = preset("BSD Jails")
    running.advance(62_000)
    for name in ("container0", "guest0/kernel", "hardware/disk"):
        with pytest.raises(OptionError, match="choose container1 or container2"):
            running.kill(name)
    with pytest.raises(OptionError, match="no part 'container9'"):
        running.kill("container9")
    with pytest.raises(OptionError, match="scenes are 0 to 3, not 4"):
        preset("BSD Jails", scene=4)
