"""The matrix of the kinds as charts."""

from __future__ import annotations

import pytest

from vmlab.errors import OptionError
from vmlab.kinds.matrix import matrix
from vmlab.kinds.presets import PRESETS
from vmlab.views.kinds_figure import KIND_CHARTS, MARKS, kinds_figure


@pytest.fixture(scope="module")
def found():
    return matrix(["native machine", "plain VM", "Oracle Java"])


@pytest.mark.parametrize("chart", KIND_CHARTS)
def test_a_bar_for_each_kind_that_has_a_value(chart, found):
    figure = kinds_figure(found, chart, "dark")
    bars = {name: value for trace in figure.data for name, value in zip(trace.y, trace.x, strict=True)}
    column = KIND_CHARTS[chart]
    assert bars == {row["name"]: row[column] for row in found.rows() if row[column] is not None}
    assert len({(trace.marker.color, trace.marker.pattern.shape) for trace in figure.data}) == len(figure.data)


def test_every_kind_has_a_mark_of_its_own():
    assert {each.kind for each in PRESETS.values()} <= set(MARKS)
    assert len({(mark.role, mark.pattern) for mark in MARKS.values()}) == len(MARKS)


def test_refused(found):
    with pytest.raises(OptionError, match="no matrix"):
        kinds_figure([])
    with pytest.raises(OptionError, match="no chart 'joy'"):
        kinds_figure(found, "joy")
    with pytest.raises(OptionError, match="no colours"):
        kinds_figure(found, mode="sepia")
