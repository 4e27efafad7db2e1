"""The stage's kernel side: windows, seeking, the cursor, and what is shown without a kernel."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from vmlab.errors import OptionError
from vmlab.views.scene import SIZE, expand
from vmlab.widgets import Stage


@pytest.fixture
def stage(recording):
    return Stage(recording)


def send(stage, **message):
    stage._on_message(stage.feed, message, [])
    return stage.feed.window


def test_the_first_window_is_there_from_the_start(stage, recording):
    assert stage.feed.window["start"] == 0
    assert len(stage.feed.window["scenes"]) == SIZE
    assert stage.feed.script["length"] == recording.length
    assert stage.feed.window["serial"] == stage.feed.script["serial"]


def test_a_window_is_sent_when_asked_for(stage):
    window = send(stage, type="window", start=500)
    assert [scene["step"] for scene in expand(window)] == list(range(500, 500 + SIZE))


def test_seeking_gives_the_windows_around_the_trap(stage, recording):
    traps = [event.step for event in recording.events if event.kind == "trap"]
    for start, direction in ((traps[5], 1), (traps[5], -1), (traps[5] + 1, 1)):
        window = send(stage, type="seek", direction=direction, **{"from": start})
        expected = min(t for t in traps if t > start) if direction > 0 else max(t for t in traps if t < start)
        assert window["goto"] == expected
        assert window["start"] <= expected < window["start"] + SIZE
    assert send(stage, type="seek", direction=1, **{"from": traps[-1]})["note"] == "No trap follows."
    assert send(stage, type="seek", direction=-1, **{"from": traps[0]})["goto"] is None


def test_unknown_messages_are_ignored(stage):
    before = stage.feed.window
    assert send(stage, type="nonsense") == before
    assert send(stage) == before


def test_the_recording_stands_where_the_stage_does(stage, recording):
    stage.feed.step = 123
    assert stage.step == 123
    assert recording.position == 123
    send(stage, type="window", start=2000)
    assert recording.position == 123
    stage.step = 7
    assert recording.position == 7


@pytest.mark.parametrize("step", [-1, 10_000_000])
def test_a_step_outside_the_run_is_refused(stage, recording, step):
    with pytest.raises(OptionError, match=f"no step {step}: this recording has steps 0 to {recording.length}"):
        stage.step = step
    with pytest.raises(OptionError, match="no step"):
        Stage(recording, step=step)


def test_each_recording_has_its_own_serial(stage, recording):
    first = stage.feed.script["serial"]
    stage.load(recording, step=9)
    assert stage.feed.script["serial"] != first
    assert stage.feed.window["serial"] == stage.feed.script["serial"]
    assert stage.feed.step == 9


def test_without_a_kernel_there_is_a_picture_and_a_text(stage):
    stage.step = 40
    data, _ = stage._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert ET.fromstring(data["image/svg+xml"]).tag.endswith("svg")
    assert data["text/plain"] == stage.describe()
    assert "step 40 of" in stage.describe()


def test_a_ready_view_gets_everything_again(stage, monkeypatch):
    sent = []
    monkeypatch.setattr(stage.feed, "send_state", lambda key=None: sent.append(key))
    send(stage, type="ready")
    assert sent == [None]
    assert stage.views_ready == 1
