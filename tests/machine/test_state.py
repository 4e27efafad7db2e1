"""Checking saved states."""

from __future__ import annotations

import pytest

from vmlab.errors import StateError
from vmlab.machine.state import BYTE, WORD, Entries, Items, check_state, rollback

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


LISTS = {"bytes": Items(BYTE, 3), "rows": Items(Items(int)), "counts": Entries(str, WORD)}
GOOD_LISTS = {"version": 1, "bytes": [0, 1, 255], "rows": [[], [1, 2]], "counts": {"a": 1}}


def test_lists_and_tables():
    assert check_state(GOOD_LISTS, "thing", LISTS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bytes": [0, 1]}, "must be a list of 3 items, each an int from 0 to 255"),
        ({"bytes": [0, 1, 256]}, "must be a list of 3"),
        ({"bytes": (0, 1, 2)}, "must be a list"),
        ({"rows": [[1], [None]]}, "a list of a list of int"),
        ({"counts": {1: 1}}, "a dict of str to an int from 0 to 65535"),
        ({"counts": {"a": -1}}, "a dict of str"),
        ({"counts": []}, "a dict of str"),
    ],
)
def test_wrong_lists_and_tables(change, words):
    with pytest.raises(StateError, match=words):
        check_state(GOOD_LISTS | change, "thing", LISTS)


class Pair:
    """Two parts, the second of which refuses odd numbers."""

    def __init__(self):
        self.parts = [0, 0]

    def save(self):
        return {"version": 1, "parts": list(self.parts)}

    def load(self, state):
        with rollback(self):
            self.parts[0] = state["parts"][0]
            if state["parts"][1] % 2:
                raise StateError("odd")
            self.parts[1] = state["parts"][1]


def test_what_fails_half_way_is_undone():
    pair = Pair()
    pair.load({"version": 1, "parts": [5, 6]})
    with pytest.raises(StateError, match="odd"):
        pair.load({"version": 1, "parts": [7, 7]})
    assert pair.parts == [5, 6]
