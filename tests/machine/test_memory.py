"""Physical memory: words, dirty pages, watchers, decoded code, checkpoints, windows."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import OptionError, StateError
from vmlab.machine.memory import CODE, WRITTEN, MemoryWindow, PhysicalMemory
from vmlab.machine.memory_parts import MOST_WRITES, REGIONS

SIZE = 1 << 16
PAGES = SIZE >> 12


@pytest.fixture
def memory():
    return PhysicalMemory(SIZE)


@pytest.mark.parametrize("size", [0, 4096, SIZE - 1, SIZE + 1, -SIZE, 1 << 32, "64K", 65536.0, None, True])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(OptionError, match="memory") as caught:
        PhysicalMemory(size)
    assert str(size) in str(caught.value)


def test_words_are_little_endian(memory):
    memory.write(0x100, 4, 0x12345678)
    assert memory.read_bytes(0x100, 4) == bytes.fromhex("78563412")
    assert [memory.read(0x100, size) for size in (1, 2, 4, 8)] == [0x78, 0x5678, 0x12345678, 0x12345678]
    assert memory.view32[0x40] == 0x12345678


@given(address=st.integers(0, SIZE - 8), size=st.sampled_from([1, 2, 4, 8]), value=st.integers(0, (1 << 64) - 1))
def test_what_is_written_is_read_at_any_alignment(address, size, value):
    memory = PhysicalMemory(SIZE)
    memory.write(address, size, value)
    assert memory.read(address, size) == value & ((1 << 8 * size) - 1)
    before, after = memory.data[:address], memory.data[address + size :]
    assert not any(before)
    assert not any(after)
    assert memory.take_dirty() == sorted({address >> 12, (address + size - 1) >> 12})


def test_runs_outside_memory_are_refused(memory):
    for call in (lambda: memory.read_bytes(SIZE - 2, 3), lambda: memory.write_bytes(SIZE - 2, b"abc")):
        with pytest.raises(OptionError, match="0x10000"):
            call()
    with pytest.raises(OptionError):
        memory.read_bytes(-1, 2)


def test_dirty_pages_are_taken_once(memory):
    memory.write_bytes(0x2FFF, b"ab")
    memory.write(0x5000, 1, 0)
    memory.write_bytes(0x9000, b"")
    assert memory.take_dirty() == [2, 3, 5]
    assert memory.take_dirty() == []
    memory.write(0x3004, 4, 1)
    assert memory.take_dirty() == [3]


def test_a_write_drops_the_decoded_instructions_of_its_pages(memory):
    kept = memory.code_page(1)
    kept[4] = "nop"
    memory.code_page(2)[0] = "hlt"
    memory.code_page(3)[0] = "cli"
    assert memory.pages[1] & CODE
    memory.write(0x1FFE, 4, 0)
    assert set(memory.decoded) == {3}
    assert kept == {}, "a processor that still holds the page's cache finds it empty"
    assert memory.pages[1] == WRITTEN
    memory.code_page(1)[0] = "nop"
    memory.write(0x1000, 1, 0x90)
    assert 1 not in memory.decoded, "also when the page was dirty before it was decoded"


def test_a_small_write_leaves_the_other_instructions_decoded(memory):
    """A new cache has them: who holds the old one must look again."""

    class Region:
        def __init__(self, *spans):
            self.spans = spans

        def contains(self, start, end):
            return any(first < end and last > start for first, last in self.spans)

    before = memory.code_page(1)
    before.update({0: ("a", "nop", 4), 4: ("b", "nop", 2), 0x1004: ("b, of 16 bits", "nop", 1), 6: ("c", "nop", 1)})
    inside, outside = Region((0, 2), (5, 6)), Region((0, 4), (6, 7))
    before.update({REGIONS + 0x5000: inside, REGIONS + 0x5001: outside, REGIONS + 0x5002: 7, REGIONS + 0x5003: None})
    memory.mark_code(1, 0, 7)
    memory.write(0x1005, 1, 0x90)
    after = memory.code_page(1)
    assert before == {}
    assert {*after} == {0, 0x1004, 6, REGIONS + 0x5001, REGIONS + 0x5002}
    assert [memory.is_code(1, place, 1) for place in range(8)] == [True] * 5 + [False, True, False]
    memory.write_bytes(0x1003, bytes(20))
    assert 1 not in memory.decoded, "a long one leaves nothing"


def test_a_page_that_is_written_to_again_and_again_is_dropped_as_a_whole(memory):
    memory.code_page(1)
    for place in range(0, 0x200, 2):
        memory.code_page(1)[place] = ("a", "nop", 1)
        memory.mark_code(1, place, 1)
    writes = 0
    while 1 in memory.decoded:
        memory.write(0x1000 + 2 * writes, 1, 0x90)
        writes += 1
    assert writes == MOST_WRITES + 1


def test_watchers_hear_of_every_write_after_it(memory):
    heard = []

    def listen(page):
        heard.append((page, memory.read(0x4000, 4)))

    memory.watch(4, listen)
    memory.write(0x4000, 4, 1)
    memory.write(0x4000, 4, 2)
    memory.write(0x3FFE, 4, 0xFFFF_FFFF)
    memory.write(0x5000, 4, 9)
    assert heard == [(4, 1), (4, 2), (4, 0xFFFF)]
    memory.unwatch(4, listen)
    memory.unwatch(4, listen)
    memory.write(0x4000, 4, 3)
    assert len(heard) == 3
    with pytest.raises(OptionError, match="16 pages"):
        memory.watch(PAGES, listen)


def test_two_watchers_of_a_page_are_independent(memory):
    first, second = [], []
    memory.watch(0, first.append)
    memory.watch(0, second.append)
    memory.unwatch(0, first.append)
    memory.write(0, 1, 1)
    assert (first, second) == ([], [0])


def test_save_keeps_the_pages_with_contents_alone(memory):
    memory.write_bytes(0x3123, b"hello")
    memory.write(0x7000, 4, 0)
    state = memory.save()
    assert set(state["pages"]) == {3}
    other = PhysicalMemory(SIZE)
    other.write(0x8000, 1, 1)
    other.take_dirty()
    other.load(state)
    assert other.digest() == memory.digest()
    assert other.take_dirty() == [3, 8]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"size": 2 * SIZE},
        {"pages": {PAGES: bytes(4096)}},
        {"pages": {0: bytes(4095)}},
        {"pages": {"0": bytes(4096)}},
        {"pages": []},
        {"colour": 1},
    ],
)
def test_damaged_states_are_refused_and_change_nothing(memory, change):
    memory.write(0, 4, 7)
    digest = memory.digest()
    with pytest.raises(StateError, match="memory"):
        memory.load(memory.save() | change)
    assert memory.digest() == digest


def test_loading_forgets_decoded_instructions(memory):
    state = memory.save()
    memory.write(0x1000, 1, 0x90)
    memory.code_page(1)[0] = "nop"
    memory.load(state)
    assert memory.decoded == {}


def test_changed_pages_are_noted_apart_from_dirty_ones(memory):
    memory.write(0x1000, 4, 1)
    memory.write(0x2000, 4, 2)
    assert memory.take_changed() == [1, 2]
    assert memory.take_changed() == []
    memory.write(0x2000, 4, 3)
    memory.replace({1: bytes(4096)})
    assert memory.contents() == {2: memory.page(2)}
    assert memory.take_changed() == [2]
    assert memory.take_dirty() == [1, 2]


_writes = st.lists(st.tuples(st.integers(0, SIZE - 4), st.integers(0, 3)), max_size=8)


@given(epochs=st.lists(_writes, min_size=2, max_size=5))
def test_changed_pages_are_all_that_differs(epochs):
    memory = PhysicalMemory(SIZE)
    for writes in epochs:
        before = memory.contents()
        for address, value in writes:
            memory.write(address, 4, value)
        after = memory.contents()
        changed = memory.take_changed()
        assert {page for page in before | after if before.get(page) != after.get(page)} <= set(changed)
        memory.replace({page: before.get(page, bytes(4096)) for page in changed})
        assert memory.contents() == before
        memory.replace({page: after.get(page, bytes(4096)) for page in changed})
        assert memory.contents() == after


def test_restore_drops_decoded_code_and_keeps_watchers_quiet(memory):
    heard = []
    memory.watch(1, heard.append)
    memory.write(0x1000, 4, 5)
    memory.code_page(1)[0] = "nop"
    memory.replace({1: bytes(4096)})
    assert heard == [1]
    assert memory.decoded == {}
    memory.write(0x1000, 4, 5)
    assert heard == [1, 1], "the watch itself survives"


def test_digest_is_sha256_of_the_bytes(memory):
    memory.write(5, 1, 5)
    assert memory.digest() == hashlib.sha256(bytes(memory.data)).hexdigest()


# -- windows -----------------------------------------------------------------------------------------------------------


def test_window_translates_page_by_page(memory):
    window = MemoryWindow(memory, [5, 2, 9])
    assert window.size == 3 * 4096
    assert [window.host_address(address) for address in (0, 0x123, 0x1FFF, 0x2000)] == [0x5000, 0x5123, 0x2FFF, 0x9000]
    window.write(0xFFE, 4, 0x44332211)
    assert memory.read_bytes(0x5FFE, 2) == b"\x11\x22"
    assert memory.read_bytes(0x2000, 2) == b"\x33\x44"
    assert window.read(0xFFE, 4) == 0x44332211
    assert memory.take_dirty() == [2, 5]


@given(address=st.integers(0, 0x2FF8), data=st.binary(max_size=8), size=st.sampled_from([1, 2, 4, 8]))
def test_window_behaves_as_memory_of_its_own(address, data, size):
    window = MemoryWindow(PhysicalMemory(SIZE), [7, 3, 4])
    plain = bytearray(window.size)
    window.write_bytes(address, data)
    plain[address : address + len(data)] = data
    window.write(address, size, 0x8877665544332211)
    plain[address : address + size] = bytes.fromhex("1122334455667788")[:size]
    assert window.read_bytes(0, window.size) == plain
    assert window.read(address, size) == int.from_bytes(plain[address : address + size], "little")
    assert window.digest() == hashlib.sha256(plain).hexdigest()


def test_window_refuses_frames_and_runs_outside(memory):
    for frames in ([], [PAGES], [-1], ["1"]):
        with pytest.raises(OptionError, match="frame"):
            MemoryWindow(memory, frames)
    with pytest.raises(OptionError, match="0x1000"):
        MemoryWindow(memory, [0]).write_bytes(0xFFF, b"ab")
