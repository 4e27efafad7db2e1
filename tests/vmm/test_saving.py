"""Saving a system in the middle of a run, and refusing what is damaged."""

from __future__ import annotations

import copy
import pickle
import random

import pytest

from tests.vmm.harness import kernel, seen
from tests.vmm.hostile import neighbour
from vmlab.errors import StateError
from vmlab.vmm.techniques import build

OPTIONS = {"memory": 8 << 20, "max_instructions": 60_000}
BUSY = """
main:   mov dword [hooks + 0x20 * 4], acknowledge
        mov dword [hooks + 1 * 4], stepped
        mov ah, 0xEE
        call pic_on
        mov ecx, 30
        call timer_on
        call paging_on
        mov eax, 0x90
        mov cr4, eax
        mov dword [DIRECTORY + 8], 0x00400187
        push dword 0x302
        push dword KERNEL_CODE
        push dword .on
        iret
.on:    mov dword [spare], 0x0000FFFF
        mov dword [spare + 4], 0x00CF9200
        mov eax, SPARE
        mov es, eax
        mov ecx, 300
.loop:  add [es:0x800000], ecx
        mov [0xB8000 + ecx * 2], cx
        test ecx, 7
        jnz .more
        sti
        hlt
.more:  invlpg [0x800000]
        loop .loop
        call quit
stepped: inc dword [steps]
        cmp dword [steps], 40
        jb .on
        and dword [ebx + F_FLAGS], 0xFFFFFEFF
.on:    ret
steps:  dd 0
"""


UNDER = [
    "native",
    "trap-and-emulate",
    "binary-translation",
    "vt-x/nested",
    "vt-x/shadow",
    "amd-v/nested",
    "amd-v/shadow",
]


def fresh(under):
    if under == "native":
        return build(kernel(BUSY), under, input="text", **OPTIONS)
    name, _, memory = under.partition("/")
    return build([kernel(BUSY), neighbour()], name, input="text", memory_virtualization=memory or None, **OPTIONS)


def end(system):
    system.run()
    return (
        [seen(guest) | {"exits": dict(guest.exits)} for guest in system.guests],
        system.steps,
        system.cycles_by_cause(),
    )


@pytest.mark.parametrize("under", UNDER)
def test_a_system_goes_on_elsewhere(under, monkeypatch):
    """Saved anywhere, loaded into a system that was just built, it ends in the same way."""
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", 700)
    whole = fresh(under)
    expected = end(whole)
    generator = random.Random(1)
    for place in sorted(generator.sample(range(whole.steps), 3)):
        first = fresh(under)
        first.advance(place)
        saved = pickle.loads(pickle.dumps({"system": first.save(), "memory": first.machine.memory.save()}))
        other = fresh(under)
        other.machine.memory.load(saved["memory"])
        other.load(saved["system"])
        assert other.save() == saved["system"]
        assert end(other) == expected
        assert end(first) == expected  # saving has not disturbed it


def paths(state, path=()):
    """Yield the path of each value in nested dicts and lists."""
    yield path
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, value in items:
        yield from paths(value, (*path, key))


def change(state, path, value):
    """Return a copy of a state with the value at a path replaced, or removed."""
    result = copy.deepcopy(state)
    place = result
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return result


def is_refused(system, state) -> bool:
    """Load a state; say whether it was refused, in one line."""
    try:
        system.load(state)
    except StateError as error:
        return "\n" not in str(error)
    return False


DAMAGE = (KeyError, None, -1, 1 << 70, "x", b"x", [], {}, 1.5, True, 3, [None], {"version": 2})


@pytest.mark.parametrize("under", UNDER)
def test_damaged_states_are_refused_whole(under):
    system = fresh(under)
    system.advance(9_001)
    good = system.save()
    memory = system.machine.memory.digest()
    generator = random.Random(7)
    places = [path for path in paths(good) if path]
    chosen = [path for path in places if len(path) <= 3] + generator.sample(places, 250)
    refused = 0
    for path in chosen:
        bad = change(good, path, generator.choice(DAMAGE))
        if bad == good:
            continue
        refused += is_refused(system, bad)
        if system.save() != bad:
            assert system.save() == good
        system.load(good)
    assert refused > len(chosen) * 0.6
    assert system.machine.memory.digest() == memory
    for bad in (
        None,
        [],
        {},
        "state",
        {"version": 1},
        good | {"more": 1},
        good | {"version": 2},
        good | {"version": True},
    ):
        with pytest.raises(StateError):
            system.load(bad)
    assert system.save() == good


def test_states_of_other_systems_are_refused():
    one, two = build(kernel(BUSY), "trap-and-emulate", **OPTIONS), fresh("trap-and-emulate")
    native = fresh("native")
    for system, other in ((one, two), (two, one), (one, native), (native, one)):
        before = system.save()
        with pytest.raises(StateError):
            system.load(other.save())
        assert system.save() == before


def test_frames_that_are_in_use_twice_are_refused():
    system = fresh("trap-and-emulate")
    system.advance(5_000)
    good = system.save()
    table = good["worlds"][0]["shadow"]["pages"]["pages"][0][0]
    for path, value in (
        (("switcher", "host", "free", 0), good["switcher"]["host"]["free"][1]),
        (("switcher", "host", "free", 0), table),
        (("worlds", 1, "shadow", "pages", "pages"), [[table, [0, 2, 2, 7, 2, 0, 1, 1], []]]),
        (("worlds", 0, "shadow", "pages", "pages", 0, 0), 0x100000),
    ):
        with pytest.raises(StateError):
            system.load(change(good, path, value))
        assert system.save() == good
