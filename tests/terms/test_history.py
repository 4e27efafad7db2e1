"""The history: events in order, each with a sentence and a source that others can find."""

from __future__ import annotations

import re

import pytest

from vmlab.terms.history import KINDS, history

MILESTONES = {
    "CP-67": 1967, "VM/370": 1972, "Popek and Goldberg's theorem": 1974, "Disco": 1997, "VMware Workstation": 1999, "FreeBSD jails": 2000,
    "VMware ESX Server": 2001, "Denali": 2002, "Xen": 2003, "VMotion": 2003, "VT-x": 2005, "AMD-V": 2006, "KVM in Linux 2.6.20": 2007,
    "Nested paging: AMD's RVI": 2007, "Nested paging: Intel's EPT": 2008, "Hyper-V": 2008, "Docker": 2013, "Firecracker": 2018,
    "Java": 1995, ".NET": 2002,
}  # fmt: skip


@pytest.mark.parametrize("event", history(), ids=lambda event: event.name)
def test_an_event_is_whole(event):
    assert event.kind in KINDS
    assert re.search(r"[^.]\.$", event.means)
    assert len(event.name) <= 30, "it is a label in a picture"
    assert re.search(r"\b(19|20)\d\d\b", event.source) or "Manual" in event.source
    assert re.fullmatch(r"|doi:10\.\d{4}/\S+", event.link)


def test_a_paper_is_of_its_year():
    # The event of a paper is the paper; a product may have been described years later.
    for event in history():
        if event.kind == "theory":
            assert str(event.year) in event.source


def test_events_are_in_order_and_differ():
    years = [event.year for event in history()]
    assert years == sorted(years)
    assert len({event.name for event in history()}) == len(years) >= 40
    assert {event.kind for event in history()} == set(KINDS)


def test_the_milestones():
    years = {event.name: event.year for event in history()}
    assert {name: years.get(name) for name in MILESTONES} == MILESTONES


def test_years_of_hardware_are_those_of_the_cpu_models():
    import vmlab

    first = min(model.year for model in vmlab.CPU_MODELS.values() if model.has("vmx"))
    years = {event.name: event.year for event in history()}
    assert years["VT-x"] == first
