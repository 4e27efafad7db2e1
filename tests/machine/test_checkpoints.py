"""Checkpoints stay few and small, however long a run is and however much it writes."""

from __future__ import annotations

import random

import pytest

import vmlab
from tests.vmm.harness import kernel
from vmlab.machine import checkpoints
from vmlab.machine.recording import Recording
from vmlab.vmm.techniques import build

# Each round writes a word to each of 300 pages.
WRITER = """
main:   mov ebx, 1
.round: mov edi, 0x200000
        mov ecx, 300
.page:  mov [edi], ebx
        mov [edi + 8], ecx
        add edi, 0x1000
        loop .page
        inc ebx
        jmp .round
"""
LENGTH = 60_000


def whole(system):
    return system.save(), system.machine.memory.digest()


@pytest.mark.parametrize(("most", "pages"), [(400, 900), (12, 1 << 20), (12, 10)])
def test_they_are_thinned_and_every_step_can_be_reached(monkeypatch, most, pages):
    monkeypatch.setattr(checkpoints, "SPACING", 1_500)
    monkeypatch.setattr(checkpoints, "MOST", most)
    monkeypatch.setattr(checkpoints, "RECENT", 4)
    monkeypatch.setattr(checkpoints, "MOST_PAGES", pages)
    monkeypatch.setattr(checkpoints, "MOST_NEAR", 6)
    options = {"memory": 4 << 20, "engine": "auto"}
    straight = build(kernel(WRITER), **options)
    places = sorted(random.Random(most).sample(range(LENGTH), 10))
    instants = {}
    for place in places:
        straight.advance(place - straight.steps)
        instants[place] = whole(straight)
    recording = Recording(build(kernel(WRITER), **options), max_steps=LENGTH)
    kept = recording._checkpoints
    for place in random.Random(pages).choices(places, k=15):
        recording.seek(place)
        assert whole(recording.system) == instants[place]
        recording.back(random.Random(place).randrange(2_000))
        recording.seek(place)
        assert whole(recording.system) == instants[place]
        held = sum(len(item.pages) for item in kept.items)
        assert held == kept._pages
        steps = [item.step for item in kept.items]
        assert steps == sorted(set(steps))
        assert len(kept.items) <= most + 1 + checkpoints.MOST_NEAR + 1
        # One of each page is needed anyhow; the last checkpoint, the one at the cursor, the one before it stay.
        distinct = len({page for item in kept.items for page in item.pages})
        assert held <= pages + 5 * distinct


def test_what_a_guest_has_sent_is_kept_once():
    code = "main: mov dx, 0x3F8\n.l: mov al, 'x'\n out dx, al\n mov al, 'y'\n out dx, al\n jmp .l\n"
    recording = Recording(build(kernel(code), memory=2 << 20, engine="interpreter"), max_steps=60_000)
    console = recording.system.guests[0].platform.uart.output
    items = recording._checkpoints.items
    assert len(items) > 5
    assert all(b"xyxyxyxyxy" not in repr(item.state).encode() for item in items)
    recording.seek(recording.length)
    whole_text = recording.system.guests[0].console
    assert len(whole_text) > 20_000
    for step in (0, 30_000, 29_999, 60_000, 59_000, 10):
        recording.seek(step)
        assert recording.system.guests[0].platform.uart.output is console
        assert whole_text.startswith(recording.system.guests[0].console)
        assert abs(len(console) - step * len(whole_text) // 60_000) < 3_000


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_interrupted_seek_loses_no_change_of_memory(monkeypatch):
    recording = vmlab.record(vmlab.assemble("start: inc dword [0x200000]\n jmp start"), steps=20)
    memory = recording.system.machine.memory
    recording.seek(20)
    with monkeypatch.context() as broken:
        broken.setattr(type(memory), "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recording.seek(0)  # the pages that have changed are known, and not yet undone
    for step, count in ((0, 0), (20, 10), (3, 2)):
        recording.seek(step)
        assert memory.read_bytes(0x20_0000, 4) == bytes([count, 0, 0, 0])


@pytest.mark.parametrize("act", ["send", "save"])
def test_what_follows_an_interrupted_seek_does_not_build_on_it(monkeypatch, tmp_path, act):
    recording = vmlab.record(vmlab.assemble("start: inc dword [0x200000]\n jmp start"), steps=20)
    memory = recording.system.machine.memory
    recording.seek(20)
    with monkeypatch.context() as broken:
        broken.setattr(type(recording.system), "load", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recording.seek(0)  # memory is that of step 0 already, the processor that of step 20 still
    if act == "send":
        recording.send("x")
    else:
        vmlab.save(recording, tmp_path / "a.vmlab")
    assert memory.read_bytes(0x20_0000, 4) == bytes([recording.position // 2, 0, 0, 0])
