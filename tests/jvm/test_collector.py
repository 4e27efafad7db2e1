"""The garbage collector: what can be reached stays, all else goes; with a collection at each allocation, programs do the same."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from tools.compile_java import EXPECTED
from vmlab.jvm.collector import collect
from vmlab.jvm.heap import ELEMENTS
from vmlab.jvm.java_machine import JavaMachine

WANTED = json.loads(EXPECTED.read_text(encoding="utf-8"))


@pytest.fixture
def vm():
    return JavaMachine("Sieve", heap=1 << 16).runtime


def chunks(heap):
    """Return what lies in the heap, from end to end: address, bytes, and whether it is an object."""
    found, address = [], heap.start
    while address < heap.end:
        size = heap.memory.read(address + 4, 4)
        found.append((address, size, bool(heap.memory.read(address, 4))))
        assert size > 0
        assert size % 8 == 0
        address += size
    assert address == heap.end
    return found


def test_a_list_is_kept_as_long_as_its_head(vm):
    array = vm.loader.load("[Ljava/lang/Object;")
    vm.collect()
    before = vm.collections[-1].live
    with vm.handles() as held:
        held.append(0)
        for _ in range(10):
            fresh = vm.allocate_array(array, 3)
            vm.memory.write(fresh + ELEMENTS + 4, 4, held[0])
            held[0] = fresh
        vm.memory.write(fresh + ELEMENTS + 8, 4, fresh)  # round in a circle
        vm.collect()
        assert vm.collections[-1].live == before + 10
        second = vm.memory.read(held[0] + ELEMENTS + 4, 4)
        assert vm.class_of(second) is array
    vm.collect()
    assert (vm.collections[-1].live, vm.collections[-1].freed) == (before, 10)


def test_what_is_free_is_joined(vm):
    array = vm.loader.load("[B")
    vm.collect()
    with vm.handles() as held:
        held += [vm.allocate_array(array, 100) for _ in range(9)]
        del held[1:3], held[4:6]  # of 0 to 8 remain 0 3 4 5 8
        vm.collect()
        chunk = chunks(vm.heap)
        assert not any(not left[2] and not right[2] for left, right in pairwise(chunk))
        assert [gap[1] for gap in vm.heap.gaps[-3:-1]] == [2 * 112, 2 * 112]
        again = vm.allocate_array(array, 200)  # in the first that is large enough, and cleared
        assert again < held[-1]
        assert vm.heap.bytes_of(again, 1) == bytes(200)
    collect(vm.heap, vm.loader, vm.roots())
    chunks(vm.heap)


def test_memory_that_is_full_is_an_exception():
    machine = JavaMachine("Garbage", heap=1 << 18)
    assert machine.run()
    assert (machine.output, machine.status) == (WANTED["Garbage"]["output"], 0)
    assert len(machine.collections) > 4
    assert sum(each.freed_bytes for each in machine.collections) > 3 * (1 << 18)
    chunks(machine.runtime.heap)


@pytest.mark.parametrize("options", [{"jit": False}, {"threshold": 1}], ids=["interpreted", "compiled"])
@pytest.mark.parametrize("name", ["Chain", "Interfaces", "Uncaught"])
def test_a_collection_at_each_allocation_changes_nothing(name, options):
    machine = JavaMachine(name, heap=1 << 17, **options)
    vm, take = machine.runtime, machine.runtime._take

    def collect_first(found, size):
        vm.collect()
        reference = take(found, size)
        vm.heap.close()  # so that compiled code, too, must ask for the next
        return reference

    vm._take = collect_first
    machine.run()
    assert (machine.output, machine.errors) == (WANTED[name]["output"], WANTED[name]["errors"])
    assert len(vm.collections) > 300
