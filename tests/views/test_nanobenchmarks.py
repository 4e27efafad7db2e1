"""The chart of the nanobenchmarks shows what was measured, and what was published."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.views import nanobenchmarks_figure
from vmlab.views.technique_marks import MARKS, technique_mark
from vmlab.views.theme import MODES


@pytest.fixture(scope="module")
def rows():
    return vmlab.nanobenchmarks(["vt-x/shadow"], rounds=10).rows()


@pytest.mark.parametrize("mode", MODES)
def test_bars_and_diamonds(rows, mode):
    figure = nanobenchmarks_figure(rows, mode)
    bars, published = figure.data
    own = [row for row in rows if row["under"] == "vt-x/shadow"]
    assert (bars.name, list(bars.y), list(bars.x)) == (
        "vt-x/shadow",
        [row["loop"] for row in own],
        [row["times native"] for row in own],
    )
    assert list(published.x) == [row["published times native"] for row in own]
    assert published.marker.symbol == "diamond"
    assert (published.offsetgroup, published.orientation) == (bars.offsetgroup, "h")  # side by side, on their bars
    assert list(figure.layout.yaxis.categoryarray) == [row["loop"] for row in own]
    assert bars.marker.color == MODES[mode].line[technique_mark("vt-x/shadow").role]
    assert figure.layout.template.layout.paper_bgcolor == MODES[mode].page


def test_no_two_techniques_look_alike():
    other = [
        mark for name, mark in MARKS.items() if name not in ("vt-x", "amd-v")
    ]  # those by default are the nested ones
    assert len(set(other)) == len(other)
    assert {name.partition("/")[0] for name in MARKS} >= set(vmlab.TECHNIQUES)


@pytest.mark.parametrize("wrong", [[], [{}], 5, [{"loop": "in"}]])
def test_no_rows(wrong):
    with pytest.raises(OptionError, match="rows are those of nanobenchmarks"):
        nanobenchmarks_figure(wrong)


def test_no_mode(rows):
    with pytest.raises(OptionError, match="no colours 'grey'"):
        nanobenchmarks_figure(rows, "grey")
