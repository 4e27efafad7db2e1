"""Cycles by cause: the bars and the table say what the runs say."""

from __future__ import annotations

import re

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.views import cycles_figure, cycles_table
from vmlab.views.cycles import MARKS
from vmlab.views.theme import MODES


@pytest.fixture(scope="module")
def runs():
    image = vmlab.guests.load("page_churn", PAGES=4, ROUNDS=2)
    return {under: vmlab.run(image, under=under, memory=8 << 20) for under in ("native", "trap-and-emulate")}


@pytest.mark.parametrize("mode", MODES)
def test_a_bar_is_as_long_as_the_run(runs, mode):
    figure = cycles_figure(runs, mode)
    assert figure.layout.barmode == "stack"
    assert figure.layout.template.layout.paper_bgcolor == MODES[mode].page
    for n, (label, run) in enumerate(runs.items()):
        assert {trace.y[n] for trace in figure.data} == {label}
        assert sum(trace.x[n] for trace in figure.data) == run.cycles
        parts = {trace.name: trace.x[n] for trace in figure.data}
        assert {cause: cycles for cause, cycles in parts.items() if cycles} == {
            cause: cycles for cause, cycles in run.cycles_by_cause.items() if cycles
        }


def test_no_two_parts_look_alike(runs):
    figure = cycles_figure(runs)
    marks = [(trace.marker.color, trace.marker.pattern.shape) for trace in figure.data]
    assert len({colour for colour, _ in marks}) == len(set(marks)) == len(marks)
    assert len(marks) > 4
    assert len(set(MARKS.values())) == len(MARKS)


@pytest.mark.parametrize("technique", vmlab.TECHNIQUES)
def test_each_cause_has_a_mark(technique):
    name = "minios_pv" if vmlab.TECHNIQUES[technique].needs_port else "hello"
    run = vmlab.run(vmlab.guests.load(name), under=technique, memory=8 << 20)
    assert set(run.cycles_by_cause) <= set(MARKS)


def test_the_table_says_the_same(runs):
    lines = cycles_table(runs).splitlines()
    assert lines[0].split() == ["cycles", *runs]
    table = {}
    for line in lines[1:]:
        name, *cells = re.split(r"\s{2,}", line)
        table[name] = [int(cell.replace(",", "")) for cell in cells]
    assert table.pop("all") == [run.cycles for run in runs.values()]
    for cause, cells in table.items():
        assert cells == [run.cycles_by_cause.get(cause, 0) for run in runs.values()]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("wrong", [None, [], {}, {"native": 3}, "native"])
def test_what_are_no_runs_is_refused(wrong, runs):
    for function in (cycles_figure, cycles_table):
        with pytest.raises(OptionError, match="a dict from labels to runs"):
            function(wrong)
    with pytest.raises(OptionError, match="no colours 'blue'"):
        cycles_figure(runs, "blue")
