"""The matrix: computed from runs, and as the kinds are known to differ."""

from __future__ import annotations

from html import escape

import pytest

from vmlab.errors import OptionError
from vmlab.kinds.matrix import COLUMNS, matrix, measure
from vmlab.kinds.presets import preset

NAMES = ["native machine", "plain VM", "IBM LPAR", "Citrix XenServer", "Red Hat KVM", "VMware Workstation", "BSD Jails"]


@pytest.fixture(scope="module")
def rows():
    return {row["name"]: row for row in matrix(NAMES).rows()}


def test_who_is_most_privileged(rows):
    found = {name: row["most privileged"] for name, row in rows.items()}
    assert found == {
        "native machine": "system 0: workload",
        "plain VM": "VMM",
        "IBM LPAR": "PR/SM firmware",
        "Citrix XenServer": "Xen",
        "Red Hat KVM": "KVM module, Linux kernel",
        "VMware Workstation": "VMM, host OS kernel with VMDriver",
        "BSD Jails": "FreeBSD kernel",
    }


def test_orderings_that_the_kinds_are_known_for(rows):
    slow = {name: row["without ports"] for name, row in rows.items()}
    assert 1 == slow["native machine"] < slow["plain VM"] < slow["Red Hat KVM"] < slow["VMware Workstation"]
    hops = {name: row["disk path"] for name, row in rows.items()}
    assert hops["native machine"] == hops["BSD Jails"] < hops["IBM LPAR"] < hops["plain VM"] < hops["Red Hat KVM"]
    assert {name: row["kernels"] for name, row in rows.items()} == dict.fromkeys(NAMES, 2) | {
        "native machine": 1,
        "BSD Jails": 1,
    }
    falls = {name: row["isolation"] for name, row in rows.items() if row["isolation"]}
    assert falls.pop("BSD Jails") == "0 of 1"  # one kernel for all
    assert set(falls.values()) == {"1 of 1"}
    assert {row["modified"] for row in rows.values()} == {"nothing"}


def test_a_guest_more_takes_its_own_memory_and_some_of_the_hosts(rows):
    assert rows["IBM LPAR"]["memory"] == 8 << 20
    for name in ("plain VM", "Red Hat KVM", "VMware Workstation"):
        assert 8 << 20 < rows[name]["memory"] < (8 << 20) + (128 << 10)
    assert rows["native machine"]["memory"] is None


def test_figures_are_those_of_the_runs(rows):
    native = preset("native machine").run()
    found = measure("native machine")
    assert found.cycles == native.cycles
    assert found.port_cycles == native.cycles_by_cause()["port accesses"]
    assert rows["plain VM"]["slow-down"] == preset("plain VM", guests=1).run().cycles / native.cycles
    assert 0 < found.boot < native.cycles


def test_as_text():
    text = matrix("plain VM").describe()
    assert text.startswith("plain VM\n  kind: type 1\n")
    assert all(words in text for words in COLUMNS.values())
    with pytest.raises(OptionError, match="did you mean"):
        matrix(["plain VMs"])


def test_as_html():
    html = matrix(["plain VM", "BSD Jails"])._repr_html_()
    assert html.count("<tr>") == 3
    assert "FreeBSD kernel" in html
    assert all(escape(words) in html for words in COLUMNS.values())
