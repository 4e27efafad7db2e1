"""Checking saved states."""

from __future__ import annotations

import pytest

from vmlab.errors import StateError
from vmlab.machine.state import BYTE, check_state

FIELDS = {"level": BYTE, "on": bool, "name": str, "held": (BYTE, type(None)), "count": int}
GOOD = {"version": 1, "level": 255, "on": True, "name": "x", "held": None, "count": -5}


def test_a_good_state_is_returned_as_it_is():
    assert check_state(GOOD, "thing", FIELDS) is GOOD
    assert check_state(GOOD | {"version": 3}, "thing", FIELDS, version=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2; this vmlab reads version 1"),
        ({"version": True}, "version True"),
        ({"level": 256}, "'level' is 256; it must be an int from 0 to 255"),
        ({"level": True}, "'level' is True"),
        ({"on": 1}, "'on' is 1; it must be bool"),
        ({"held": "x"}, "an int from 0 to 255 or NoneType"),
        ({"count": False}, "'count' is False; it must be int"),
        ({"name": bytes(500)}, r"\.\.\.; it must be str"),
        ({"more": 1, "again": 2}, "unknown fields again, more"),
    ],
)
def test_what_is_wrong_is_said(change, words):
    with pytest.raises(StateError, match=f"thing: .*{words}"):
        check_state(GOOD | change, "thing", FIELDS)


def test_missing_fields_and_no_dict():
    with pytest.raises(StateError, match="lacks 'level'"):
        check_state({"version": 1}, "thing", FIELDS)
    with pytest.raises(StateError, match="version None"):
        check_state({}, "thing", {})
    with pytest.raises(StateError, match="is a dict, not list"):
        check_state([], "thing", {})
