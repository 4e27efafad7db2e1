"""Disks: their overlay, their files, and bad images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import ImageError, OptionError, StateError
from vmlab.machine import disk as disk_module
from vmlab.machine.disk import SECTOR, Disk


def sector(value):
    return bytes([value]) * SECTOR


def refuse(*_):
    raise PermissionError(13, "Permission denied")


IMAGE = b"".join(sector(value) for value in range(8))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(IMAGE)
    return path


def test_the_file_is_not_written(file):
    disk = Disk(file)
    assert (disk.sectors, disk.name) == (8, "disk.img")
    disk.write(3, sector(0xAA) + sector(0xBB))
    assert disk.read(2, 4) == sector(2) + sector(0xAA) + sector(0xBB) + sector(5)
    assert disk.written == 2
    assert file.read_bytes() == IMAGE
    disk.discard()
    assert disk.contents() == IMAGE


def test_commit_writes_the_file(file):
    file.chmod(0o640)
    disk = Disk(str(file))
    state = disk.save()
    disk.write(7, sector(0xCC))
    disk.commit()
    assert file.read_bytes() == IMAGE[: 7 * SECTOR] + sector(0xCC) == disk.contents()
    assert file.stat().st_mode & 0o777 == 0o640
    assert disk.written == 0
    assert [each.name for each in file.parent.iterdir()] == ["disk.img"]
    with pytest.raises(StateError, match="another disk image"):
        disk.load(state)
    disk.commit()


def test_commit_refuses_a_file_that_has_changed(file):
    disk = Disk(file)
    disk.write(0, sector(1))
    file.write_bytes(IMAGE[::-1])
    with pytest.raises(ImageError, match="changed"):
        disk.commit()
    assert file.read_bytes() == IMAGE[::-1]
    file.unlink()
    with pytest.raises(ImageError, match="no such file"):
        disk.commit()
    assert disk.written == 1


def test_commit_says_when_it_cannot_write(file, monkeypatch):
    disk = Disk(file)
    disk.write(0, sector(1))

    monkeypatch.setattr(disk_module.Path, "replace", refuse)
    with pytest.raises(ImageError, match="Permission denied"):
        disk.commit()
    assert file.read_bytes() == IMAGE
    assert [each.name for each in file.parent.iterdir()] == ["disk.img"]


def test_a_disk_of_bytes_has_no_file():
    disk = Disk(bytearray(IMAGE))
    disk.write(0, sector(9))
    with pytest.raises(ImageError, match="made from bytes"):
        disk.commit()
    assert disk.contents()[:SECTOR] == sector(9)


def test_bad_images(tmp_path, monkeypatch):
    (tmp_path / "empty").touch()
    (tmp_path / "odd").write_bytes(bytes(1000))
    for name, message in {
        "none": "no such file",
        "": "a directory",
        "empty": "empty",
        "odd": r"1 sectors of 512 and 488",
    }.items():
        with pytest.raises(ImageError, match=message):
            Disk(tmp_path / name)
    with pytest.raises(ImageError, match="empty"):
        Disk(b"")
    with pytest.raises(ImageError, match="not a regular file"):
        Disk("/dev/null")
    with pytest.raises(ImageError, match="no such file"):
        Disk("a\0b")
    with monkeypatch.context() as patch:
        patch.setattr(disk_module.Path, "read_bytes", refuse)
        with pytest.raises(ImageError, match="cannot be read: Permission denied"):
            Disk(tmp_path / "odd")
    for bad in (None, 5, ["x"]):
        with pytest.raises(OptionError, match="path or from bytes"):
            Disk(bad)
    monkeypatch.setattr(disk_module, "LARGEST_DISK", 1024)
    (tmp_path / "large").write_bytes(bytes(1536))
    for large in (tmp_path / "large", bytes(1536)):
        with pytest.raises(ImageError, match="largest"):
            Disk(large)


def test_padding(tmp_path):
    path = tmp_path / "odd.img"
    path.write_bytes(b"\1" * 1000)
    disk = Disk(path, pad=True)
    assert disk.contents() == b"\1" * 1000 + bytes(24)
    disk.write(1, sector(2))
    disk.commit()
    assert path.read_bytes() == b"\1" * 512 + sector(2)


def test_sectors_that_are_not_there():
    disk = Disk(IMAGE)
    for place, count in ((8, 1), (-1, 1), (7, 2), (0, 0), ("0", 1)):
        with pytest.raises(OptionError, match="sectors 0-7"):
            disk.read(place, count)
    with pytest.raises(OptionError, match="sectors 0-7"):
        disk.write(7, bytes(1024))
    for data in (b"", bytes(100)):
        with pytest.raises(OptionError, match="whole sectors"):
            disk.write(0, data)


def test_a_copy_goes_its_own_way():
    disk = Disk(IMAGE)
    disk.write(1, sector(0x11))
    twin = disk.copy()
    twin.write(2, sector(0x22))
    assert (disk.written, twin.written) == (1, 2)
    assert twin.read(1) == sector(0x11)
    assert twin.digest == disk.digest


@given(writes=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 3), st.integers(0, 255)), max_size=12))
def test_a_disk_is_an_array_and_its_state_is_its_overlay(writes):
    disk, expected = Disk(IMAGE), bytearray(IMAGE)
    for place, count, value in writes:
        data = sector(value) * min(count, 8 - place)
        disk.write(place, data)
        expected[place * SECTOR : place * SECTOR + len(data)] = data
    other = Disk(IMAGE)
    other.load(disk.save())
    assert disk.contents() == other.contents() == expected
    assert other.save() == disk.save()
    for place in range(8):
        assert other.read(place, 8 - place) == expected[place * SECTOR :]


def test_damaged_states_are_refused_and_change_nothing():
    disk = Disk(IMAGE)
    disk.write(1, sector(0x11))
    good = disk.save()
    for change in (
        {"version": 2}, {"overlay": {8: sector(0)}}, {"overlay": {1: b"short"}}, {"overlay": [1]}, {"digest": "0"}, {"sectors": 9},
    ):  # fmt: skip
        with pytest.raises(StateError, match="disk"):
            disk.load(good | change)
    assert disk.save() == good
    with pytest.raises(StateError, match="another disk image"):
        Disk(bytes(4096)).load(good)
