"""The particulars of the systems of containment say of themselves what runs here, and that is there."""

from __future__ import annotations

import dataclasses
import re

import pytest

from vmlab import guests
from vmlab.kinds.particulars_containment import CONTAINMENT
from vmlab.vmm.container_table import Container


def test_the_textbooks_three_are_there():
    assert list(CONTAINMENT) == ["Oracle Solaris Zones", "BSD Jails", "IBM AIX WPAR"]


@pytest.mark.parametrize("name", CONTAINMENT)
def test_all_is_said_and_has_a_source(name):
    found = CONTAINMENT[name]
    for field in dataclasses.fields(found):
        assert getattr(found, field.name), field.name
    assert re.search(r"manual|\b(19|20)\d\d\b|documentation", found.source)
    assert len({command.name for command in found.commands}) == len(found.commands)
    assert any("kernel" in each for each in found.shares)


@pytest.mark.parametrize("name", CONTAINMENT)
def test_what_is_said_to_be_here_is_in_the_guest(name):
    source, fields = guests.source("containers"), {field.name for field in dataclasses.fields(Container)}
    found = CONTAINMENT[name]
    for command in found.commands:
        for operation in re.findall(r"containerctl (\w+)", command.here):
            assert re.search(rf"^{operation}\s+equ \d", source, re.MULTILINE)
        for label in re.findall(r"config_\d", command.here):
            assert f"\n{label}:" in source
    assert {limit.here for limit in found.limits} - {""} <= fields
    assert {"share", "page_limit", "process_limit"} == {limit.here for limit in found.limits} - {""}
