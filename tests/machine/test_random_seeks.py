"""Any order of moves through a recording leads to the states of a straight run."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machine.test_search import BUSY, OPTIONS
from tests.vmm.harness import kernel
from vmlab import when
from vmlab.machine import checkpoints
from vmlab.machine.recording import Recording
from vmlab.vmm.techniques import build

LENGTH = 6_000
CONDITIONS = {
    "register": when.register("ecx", 40),
    "write": when.writes("steps", value=7),
    "breakpoint": when.executes("stepped"),
    "control": when.control("cr3"),
    "port": when.event("port", write=True),
}
SETUPS = [
    ("native", "interpreter"),
    ("native", "auto"),
    ("trap-and-emulate", "interpreter"),
    ("trap-and-emulate", "auto"),
]
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("seek"), st.integers(0, LENGTH)),
        st.tuples(st.sampled_from(["step", "back"]), st.one_of(st.integers(0, 3), st.integers(0, 900))),
        st.tuples(st.sampled_from(["next", "previous"]), st.sampled_from(["trap", "port", "control", "input", None])),
        st.tuples(st.sampled_from(["find", "find back"]), st.sampled_from(list(CONDITIONS))),
        st.tuples(st.just("look"), st.just(0)),
    ),
    min_size=3,
    max_size=12,
)  # fmt: skip


def system(under, engine):
    return build(kernel(BUSY), under, engine=engine, **OPTIONS)


@cache
def straight(under):
    """Return the processor at each step of a straight run on the interpreter, and everything at every 400th."""
    running = system(under, "interpreter")
    states, wholes = [running.machine.cpu.save_state()], {0: (running.save(), running.machine.memory.digest())}
    while not running.finished:
        running.advance(1)
        states.append(running.machine.cpu.save_state())
        if not running.steps % 400:
            wholes[running.steps] = running.save(), running.machine.memory.digest()
    return states, wholes


@cache
def recorded(under, engine):
    running = system(under, engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "SPACING", 900)
        recording = Recording(running)
    found = {}
    for name, condition in CONDITIONS.items():
        recording.seek(0)
        found[name] = []
        while each := recording.find(condition):
            found[name].append(each.step)
        assert found[name]
    return recording, found, [(event.step, event.kind) for event in recording.events]


def go(recording, move, value, found, events):
    """Make a move; return where it should lead."""
    start, length = recording.position, recording.length
    if move == "seek":
        goal = min(value, length)
        recording.seek(goal)
    elif move in ("step", "back"):
        goal = min(length, start + value) if move == "step" else max(0, start - value)
        assert getattr(recording, move)(value) == goal
    elif move in ("next", "previous"):
        steps = [step for step, kind in events if value in (None, kind)]
        goal = beyond(steps, start, back=move == "previous")
        event = getattr(recording, move)(value)
        assert (event and event.step) == (None if goal == start else goal)
    elif move == "look":
        goal = start
        for _ in zip(range(20), recording.frames(start, length), strict=False):
            goal = recording.position
    else:
        goal = beyond(found[value], start, back=move == "find back")
        each = recording.find(CONDITIONS[value], backwards=move == "find back")
        assert (each and each.step) == (None if goal == start else goal)
    return goal


def beyond(steps, start, *, back):
    """Return the next of some steps, or the last before; the start where there is none."""
    if back:
        return max((step for step in steps if step < start), default=start)
    return min((step for step in steps if step > start), default=start)


@pytest.mark.parametrize(("under", "engine"), SETUPS)
@settings(max_examples=settings.default.max_examples // 6)
@given(moves=MOVES)
def test_any_order_of_moves_leads_to_the_straight_run(under, engine, moves):
    states, wholes = straight(under)
    recording, found, events = recorded(under, engine)
    assert recording.length == len(states) - 1
    for move, value in moves:
        goal = go(recording, move, value, found, events)
        assert recording.position == goal
        assert recording.system.machine.cpu.save_state() == states[goal]
    whole = recording.position // 400 * 400
    recording.seek(whole)
    assert (recording.system.save(), recording.system.machine.memory.digest()) == wholes[whole]
