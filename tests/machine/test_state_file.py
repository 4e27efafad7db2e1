"""State files: what was written comes back, and anything else is refused in one line."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import StateError
from vmlab.machine.state_file import HEAD, MAGIC, is_state_file, read_state_file, write_state_file

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers() | st.text() | st.binary(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
STATE = {
    "version": 1,
    "pages": {3: b"\0\1" * 300},
    "numbers": [0, -1, 1 << 70],
    "text": "\ud800é",
    "flags": [True, None],
}


def same(a, b):
    """Compare with types: True is not 1."""
    return repr(a) == repr(b)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "good.vmlab"
    write_state_file(path, STATE)
    return path


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(StateError) as caught:
        read_state_file(path)
    return "\n" not in str(caught.value) and str(path) in str(caught.value)


def sealed(body, version=1, size=None):
    """Return a file with a right checksum."""
    packed = zlib.compress(body)
    head = HEAD.pack(MAGIC, version, len(body) if size is None else size)
    return head + hashlib.sha256(head + packed).digest() + packed


@given(value=PLAIN)
def test_what_was_written_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.vmlab"
    write_state_file(path, value)
    assert same(read_state_file(path), value)
    assert is_state_file(path)


def test_any_flipped_bit_is_noticed(file, tmp_path):
    data, generator = file.read_bytes(), random.Random(1)
    for place in range(len(data)):
        bad = bytearray(data)
        bad[place] ^= 1 << generator.randrange(8)
        assert refused(tmp_path / "bad", bytes(bad)), place


def test_any_truncation_and_anything_behind_the_end_is_noticed(file, tmp_path):
    data = file.read_bytes()
    for length in range(len(data)):
        assert refused(tmp_path / "bad", data[:length]), length
    for more in (b"\0", data, b"\n"):
        assert refused(tmp_path / "bad", data + more)


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(100), b"\x80\x04\x95", MAGIC, MAGIC.replace(b"\r\n", b"\n")])
def test_foreign_files(data, tmp_path):
    assert refused(tmp_path / "foreign", data)


def test_a_newer_version_says_so(tmp_path):
    path = tmp_path / "newer"
    path.write_bytes(sealed(b"N", version=2))
    with pytest.raises(StateError, match="format 2; this vmlab reads format 1"):
        read_state_file(path)


@pytest.mark.parametrize(
    "data",
    [
        sealed(b""),
        sealed(b"NN"),
        sealed(b"X\0\0\0\0"),
        sealed(b"N", size=2),
        sealed(b"N", size=0),
        sealed(b"N", size=1 << 60),
        sealed(b"I\xff\xff\xff\xff"),
        sealed(b"L\xff\xff\xff\xff"),
        sealed(b"D\1\0\0\0"),
        sealed(b"D\1\0\0\0L\0\0\0\0N"),
        sealed(b"D\1\0\0\0TN"),
        sealed(b"S\1\0\0\0\xff"),
        sealed(b"L\1\0\0\0" * 50_000 + b"N"),
        sealed(bytes(1 << 20)),
    ],
)
def test_a_right_checksum_makes_no_state(data, tmp_path):
    assert refused(tmp_path / "crafted", data)


@given(body=st.binary(max_size=60))
def test_random_bodies(tmp_path_factory, body):
    path = tmp_path_factory.getbasetemp() / "random.vmlab"
    path.write_bytes(sealed(body))
    with contextlib.suppress(StateError):
        read_state_file(path)


def test_paths_that_lead_nowhere(tmp_path):
    for path in (tmp_path / "none", tmp_path, tmp_path / "none" / "none", Path("a\0b")):
        with pytest.raises(StateError, match="cannot be"):
            read_state_file(path)
        assert not is_state_file(path)
    for path in (tmp_path, tmp_path / "none" / "none", Path("a\0b")):
        with pytest.raises(StateError, match="cannot be written"):
            write_state_file(path, 1)


def test_what_is_there_is_replaced_whole_or_not_at_all(file, tmp_path, monkeypatch):
    path = tmp_path / "state"
    write_state_file(path, [1])
    with pytest.raises(TypeError):
        write_state_file(path, object())
    assert read_state_file(path) == [1]
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StateError, match="cannot be written: No space left on device"):
        write_state_file(path, [2])
    assert read_state_file(path) == [1]
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for act in (lambda: write_state_file(pipe, STATE), lambda: read_state_file(pipe)):
        with pytest.raises(StateError, match=r"^\S+pipe: cannot be (written|read): not a regular file; give"):
            act()
    assert pipe.is_fifo()
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


def test_the_file_that_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_state_file(tmp_path / "link", 1)
    write_state_file(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    assert read_state_file(tmp_path / "file") == 2


def test_links_that_lead_in_a_circle_are_one_error(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for act in (lambda: write_state_file(tmp_path / "a", STATE), lambda: read_state_file(tmp_path / "a")):
        with pytest.raises(StateError, match="a: cannot be"):
            act()
    assert (tmp_path / "a").is_symlink()
