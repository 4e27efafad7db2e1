"""A saved Java machine goes on as the other does; what is damaged or of another program is refused, and nothing changes."""

from __future__ import annotations

import copy
import json

import pytest

from tools.compile_java import EXPECTED
from vmlab.errors import StateError
from vmlab.guests.workload import workload_disk
from vmlab.jvm.java_machine import JavaMachine

WANTED = json.loads(EXPECTED.read_text(encoding="utf-8"))


def figures(machine):
    vm, process = machine.runtime, machine.process
    return (
        machine.console, machine.output, machine.errors, machine.status, machine.bytecodes, machine.instructions,
        machine.cycles_by_cause, machine.collections, list(machine.compiled), vm.calls, process.memory.digest(),
        process.machine.save(),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["StaticInit", "Uncaught"])
@pytest.mark.parametrize("options", [{"jit": False}, {"threshold": 2}], ids=["interpreted", "compiled"])
def test_a_loaded_machine_goes_on_alike(name, options):
    machine = JavaMachine(name, disk=workload_disk(), heap=1 << 17, **options)
    limit = 0
    while not machine.run(limit := limit + 4001):
        other = JavaMachine(name, disk=workload_disk(), heap=1 << 17, **options)
        other.load(copy.deepcopy(machine.save()))
        assert figures(other) == figures(machine)
        machine = other
    assert (machine.output, machine.errors) == (WANTED[name]["output"], WANTED[name]["errors"])
    straight = JavaMachine(name, disk=workload_disk(), heap=1 << 17, **options)
    straight.run()
    assert (machine.bytecodes, machine.output) == (straight.bytecodes, straight.output)


@pytest.fixture(scope="module")
def state():
    machine = JavaMachine("Tree", threshold=2, heap=1 << 17)
    machine.run(40_000)
    return machine.save()


def damage(state, *path, value):
    other = copy.deepcopy(state)
    place = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return other


DAMAGED = [
    (("version",), 2),
    (("main",), "Chain"),
    (("heap",), 1 << 18),
    (("process", "cells"), 5),
    (("process", "machine"), {}),
    (("runtime", "classes", 3, 0), "Nowhere"),
    (("runtime", "classes", 3, 1), 9),
    (("runtime", "classes", 3, 2), "x"),
    (("runtime", "methods"), []),
    (("runtime", "last_resort"), 0x20_0004),
    (("runtime", "strings"), {"x": 0x20_0004}),
    (("runtime", "frames", 0, "next"), 4000),
    (("runtime", "frames", 0, "stack"), [0] * 50),
    (("runtime", "frames", 0, "method"), 99_999),
    (("runtime", "compiled", "used"), {1: 5000}),
    (("runtime", "compiled", "made"), []),
    (("runtime", "status"), 256),
]


@pytest.mark.parametrize(
    ("path", "value"), DAMAGED, ids=lambda each: ".".join(map(str, each)) if isinstance(each, tuple) else ""
)
def test_a_damaged_state_is_refused(state, path, value):
    machine = JavaMachine("Tree", threshold=2, heap=1 << 17)
    machine.run(3_000)
    before = figures(machine)
    with pytest.raises(StateError):
        machine.load(damage(state, *path, value=value))
    assert figures(machine) == before
    machine.load(state)
    machine.run()
    assert machine.output == WANTED["Tree"]["output"]
