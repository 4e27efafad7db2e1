"""Comparisons: what differs is said, and nothing else."""

from __future__ import annotations

import pytest

from vmlab import guests
from vmlab.errors import OptionError
from vmlab.machine.program import assemble
from vmlab.vmm.compare import compare
from vmlab.vmm.run import Run, run


def test_the_guests_that_come_with_vmlab_see_no_difference_but_those_with_popf():
    for name in guests.names():
        comparison = compare(guests.load(name), max_instructions=60_000)
        assert comparison.faithful == (name not in {"critical_section", "popf"}), name
        assert comparison.differences(0) == []


def test_what_differs_is_named():
    image = assemble("start: sgdt [0x300000]\n smsw bx\n mov esp, 0x90000\n pushfd\n mov al, 0\n out 0xF4, al")
    found = compare(image).differences(1)
    assert any(line.startswith("memory: ") and "the first at 0x8fffd: 0x00 against 0x02" in line for line in found)
    assert any(line.startswith("ebx: ") for line in found)
    assert len(found) == 2


def test_the_table_and_its_text():
    comparison = compare(guests.load("hello"), under=("native", "trap-and-emulate", "trap-and-emulate"))
    rows = comparison.rows()
    assert [row["same as first"] for row in rows] == [None, True, True]
    assert rows[0]["slow-down"] == 1
    assert rows[1] == rows[2]
    text = comparison.describe()
    assert repr(comparison) == text
    assert text.count("the guest cannot tell the difference") == 2
    assert len({len(line) for line in text.splitlines()[1:4]}) == 1  # columns


def test_a_difference_in_text():
    text = compare(guests.load("popf")).describe()
    assert "native and trap-and-emulate: 3 differences" in text


@pytest.mark.parametrize("under", ["native", ["native"], [], ()])
def test_one_technique_is_no_comparison(under):
    with pytest.raises(OptionError, match="at least two techniques"):
        compare(guests.load("hello"), under=under)


@pytest.mark.parametrize("what", [[guests.load("hello")] * 2, "hello", None])
def test_a_comparison_is_of_one_image(what):
    with pytest.raises(OptionError, match="a comparison is of one Image"):
        compare(what)


def test_runs_up_to_a_text_are_compared_at_one_instant():
    comparison = compare(guests.load("minios"), under=("native", "trap-and-emulate", "vt-x"), until="minios")
    assert comparison.faithful
    assert len({each.instructions for each in comparison.runs}) == 1
    assert all("minios" in each.console for each in comparison.runs)
    assert comparison.runs[0].instructions < run(guests.load("minios")).instructions
    found = compare(guests.load("popf"), until="sti:").divergence()
    assert found.text == "pushf"


def test_a_run_tells_its_figures():
    result = run(guests.load("hello"), under="trap-and-emulate")
    assert isinstance(result, Run)
    plain = result.to_dict()
    assert plain["console"] == result.console
    assert plain["exits"] == dict(result.exits)
    assert list(plain["exits"].values()) == sorted(plain["exits"].values(), reverse=True)
    assert result.describe() == repr(result)
    assert f"{result.exits.total():,} exits" in repr(result)
    result.exits.clear()
    result.emulated.clear()
    assert result.exits.total() > 0  # what was handed out is a copy
    assert run(guests.load("spin"), max_instructions=100).outcome == "limit"
