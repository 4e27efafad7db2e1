"""The charts of a comparison, and their text, say what the runs say."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.views import comparison_figure, comparison_table
from vmlab.views.compare_figure import CHARTS, GROUP_MARKS
from vmlab.views.cycles import MARKS
from vmlab.views.technique_marks import technique_mark
from vmlab.views.theme import MODES
from vmlab.vmm.causes import GROUPS, group_cycles

UNDER = ("native", "trap-and-emulate", "binary-translation", "vt-x/nested", "vt-x/shadow")


@pytest.fixture(scope="module")
def comparison():
    return vmlab.compare(vmlab.guests.load("critical_section"), UNDER, memory=4 << 20)


def test_each_cause_is_in_one_group():
    causes = [cause for group in GROUPS.values() for cause in group]
    assert sorted(causes) == sorted(MARKS)
    assert list(GROUP_MARKS) == list(GROUPS)
    assert len(set(GROUP_MARKS.values())) == len({mark.role for mark in GROUP_MARKS.values()}) == len(GROUPS)
    with pytest.raises(AssertionError, match="in no group"):
        group_cycles({"magic": 5})


@pytest.mark.parametrize("mode", MODES)
def test_cycles(comparison, mode):
    figure = comparison_figure(comparison, mode=mode)
    assert figure.layout.barmode == "stack"
    assert figure.layout.template.layout.paper_bgcolor == MODES[mode].page
    for n, run in enumerate(comparison.runs):
        assert sum(trace.x[n] for trace in figure.data) == run.cycles
    direct = next(trace for trace in figure.data if trace.name == "direct execution")
    assert direct.x[0] == comparison.runs[0].cycles - comparison.runs[0].cycles_by_cause["traps"]
    assert [label.endswith(" (unfaithful)") for label in direct.y] == [False, True, False, False, False]


def test_slow_down(comparison):
    figure = comparison_figure(comparison, "slow-down")
    assert [trace.x[0] for trace in figure.data] == [row["slow-down"] for row in comparison.rows()]
    assert figure.data[0].x[0] == 1
    for mode in MODES:
        drawn = comparison_figure(comparison, "slow-down", mode)
        colours = [trace.marker.color for trace in drawn.data]
        assert colours == [MODES[mode].line[technique_mark(name).role] for name in UNDER]


def test_exits(comparison):
    figure = comparison_figure(comparison, "exits")
    assert [trace.name for trace in figure.data] == list(UNDER[1:])
    for trace, run in zip(figure.data, comparison.runs[1:], strict=True):
        assert dict(zip(trace.y, trace.x, strict=True)) == {reason: run.exits[reason] for reason in trace.y}
        assert max(trace.x) == max(run.exits.values())


def test_the_text_says_the_same(comparison):
    text = comparison_table(comparison)
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == list(UNDER)
    assert next(line for line in lines if line.startswith("same console")).split()[2:] == [
        "-",
        "no",
        "yes",
        "yes",
        "yes",
    ]
    assert next(line for line in lines if "cannot tell" in line).split()[4:] == ["-", "no", "yes", "yes", "yes"]
    cells = {line[: line.index("  ", 2)].strip() if "  " in line[2:] else line: line for line in lines[1:]}
    total = [int(cell.replace(",", "")) for cell in cells["cycles"].split()[1:]]
    assert total == [run.cycles for run in comparison.runs]
    trapping = [int(cell.replace(",", "")) for cell in cells["trapping"].split()[1:]]
    assert trapping == [group_cycles(run.cycles_by_cause)["trapping"] for run in comparison.runs]
    for run in comparison.runs:
        for reason in run.exits:
            assert reason in text


@pytest.mark.parametrize("chart", CHARTS)
def test_one_run_may_have_no_exits(chart):
    figure = comparison_figure(vmlab.compare(vmlab.guests.load("hello"), ["native", "native"], memory=4 << 20), chart)
    assert len(figure.data) == {"slow-down": 2, "cycles": 1, "exits": 0}[chart]


def test_misuse(comparison):
    with pytest.raises(OptionError, match="that is no comparison"):
        comparison_figure("hello")
    with pytest.raises(OptionError, match="that is no comparison"):
        comparison_table(5)
    with pytest.raises(OptionError, match="there is no chart 'pie'"):
        comparison_figure(comparison, "pie")
    with pytest.raises(OptionError, match="no colours 'grey'"):
        comparison_figure(comparison, mode="grey")
