"""The theatre's menus record again, and stay at the same instant of the guest."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.widgets import Theatre, show


@pytest.fixture
def theatre(recording):
    return show(recording)


def choose(theatre, name, value):
    theatre._on_message(theatre.feed, {"type": "choose", "name": name, "value": value}, [])


def test_show_offers_every_technique_for_such_a_guest_and_every_processor(theatre):
    menus = {choice["name"]: choice for choice in theatre.feed.script["choices"]}
    assert menus["technique"]["options"] == [name for name in vmlab.TECHNIQUES if name != "paravirtualization"]
    assert menus["technique"]["value"] == "trap-and-emulate"
    assert menus["cpu_model"]["options"] == list(vmlab.CPU_MODELS)


def test_a_technique_is_changed_and_the_guests_instant_kept(theatre, recording):
    theatre.step = 5_000
    text = recording.system.guests[0].console
    time = theatre._time()
    choose(theatre, "technique", "native")
    assert theatre.recording is not recording
    assert theatre.recording.system.technique == "native"
    system = theatre.recording.system
    assert abs(system.guests[0].instructions - time) <= 1
    assert system.guests[0].console == text
    choose(theatre, "technique", "trap-and-emulate")
    assert abs(theatre.step - 5_000) <= 4


def test_a_processor_is_changed(theatre):
    other = next(name for name in vmlab.CPU_MODELS if name != theatre.recording.system.machine.cpu.model.name)
    choose(theatre, "cpu_model", other)
    assert theatre.recording.system.machine.cpu.model.name == other
    assert {choice["name"]: choice["value"] for choice in theatre.feed.script["choices"]}["cpu_model"] == other


def test_what_is_not_possible_is_said_and_changes_nothing(pair, monkeypatch):
    theatre = show(pair, step=30)
    said = []
    monkeypatch.setattr(theatre.feed, "send", said.append)
    choose(theatre, "technique", "native")
    assert theatre.recording is pair
    assert theatre.step == 30
    assert "choose a hypervisor" in said[0]["text"]
    assert theatre.feed.script["choices"][0]["value"] == "trap-and-emulate"


def test_without_make_there_are_no_menus(recording):
    theatre = Theatre(recording, techniques=["native", "trap-and-emulate"])
    assert theatre.feed.script["choices"] == []
    choose(theatre, "technique", "native")
    assert theatre.recording is recording


def test_vmlab_show_is_it(recording):
    assert isinstance(vmlab.show(recording), Theatre)


def test_a_divergence_is_shown_at_its_instruction_on_both_sides():
    body = "mov ecx, 25000\n .l: loop .l\n here: pushfd\n pop eax\n mov al, 0\n out 0xF4, al"
    image = vmlab.assemble(f"bits 32\norg 0x100000\nstart: mov esp, 0x90000\n cli\n {body}", "late")
    found = vmlab.compare(image).divergence()
    theatre = show(found)
    menus = {choice["name"]: choice for choice in theatre.feed.script["choices"]}
    assert menus["technique"]["options"] == ["native", "trap-and-emulate"]
    assert menus["technique"]["value"] == "trap-and-emulate"
    for name in ("native", "trap-and-emulate"):
        choose(theatre, "technique", name)
        assert theatre.recording.system.technique == name
        assert theatre.step == found.steps[name] == theatre.recording.position
        assert theatre.recording.system.cpu_state().ip == image.symbols["here"]
        assert "> 0010" in theatre.describe()
    assert show(found, step=3).step == 3
