"""The timeline: all events are in the picture, none hides another, and the text says the same."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.terms.history import KINDS, history
from vmlab.views.theme import MODES
from vmlab.views.timeline import MARKS

WIDTH = 900 - 16  # pixels
LETTER = 7  # pixels: a broad guess for 12-point type


@pytest.mark.parametrize("mode", MODES)
def test_each_event_has_a_row_of_its_own(mode):
    figure = vmlab.timeline().figure(mode)
    points = [
        point for trace in figure.data for point in zip(trace.x, trace.y, trace.text, trace.hovertext, strict=True)
    ]
    assert len(points) == len(history())
    assert len({y for _, y, _, _ in points}) == len(points)
    titles = {annotation.y for annotation in figure.layout.annotations}
    assert not titles & {y for _, y, _, _ in points}
    for event in history():
        (point,) = [point for point in points if event.name in point[2].strip() and str(event.year) in point[2]]
        assert point[0] == event.year
    assert figure.layout.template.layout.paper_bgcolor == MODES[mode].page
    assert [annotation.text for annotation in figure.layout.annotations] == [
        f"<b>{name}</b>" for name in KINDS.values()
    ]


def test_labels_stay_within_the_picture():
    figure = vmlab.timeline().figure()
    first, last = figure.layout.xaxis.range
    pixels = WIDTH / (last - first)
    for trace in figure.data:
        for x, text, side in zip(trace.x, trace.text, trace.textposition, strict=True):
            room = (last - x if side == "middle right" else x - first) * pixels
            assert LETTER * len(text) < room, text


def test_kinds_look_different():
    assert set(MARKS) == set(KINDS)
    assert len({symbol for _, symbol in MARKS.values()}) == len(MARKS)


def test_a_kind_alone():
    some = vmlab.timeline("hardware")
    assert {event.kind for event in some.events} == {"hardware"}
    figure = some.figure()
    assert [list(trace.x) for trace in figure.data] == [[event.year for event in some.events]]
    assert figure.layout.height < vmlab.timeline().figure().layout.height


def test_text_table_and_html_say_the_same():
    found = vmlab.timeline()
    assert len(found.rows()) == len(history())
    for event in history():
        assert f"{event.year}  {event.name}: {event.means} [{event.cited}]" in found.describe()
        assert f"{event.year}  {event.name}" in repr(found)
    assert found.rows()[0]["kind"] == KINDS["mainframe"]
    html = found._repr_html_()
    assert html.count("<tr>") == len(history()) + 1
    assert "https://doi.org/10.1145/361011.361073" in html


@pytest.mark.parametrize("wrong", ["hardwear", 5, "", ["pc"]])
def test_no_kind(wrong):
    with pytest.raises(OptionError, match=r"no kind of event .*: choose one of mainframe, theory"):
        vmlab.timeline(wrong)


def test_no_mode():
    with pytest.raises(OptionError, match="no colours 'grey'"):
        vmlab.timeline().figure("grey")
