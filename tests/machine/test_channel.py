"""The inter-domain channel, rule by rule from its description."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import OptionError, StateError
from vmlab.machine.bus import Bus
from vmlab.machine.devices.channel import Channel
from vmlab.machine.memory import PhysicalMemory
from vmlab.machine.platform import Platform

STATUS, SECTOR, CLIENT, DATA = 0x520, 0x524, 0x528, 0x52C
DONE, FAILED = 1, 2
NOTHING = 0xFFFF_FFFF
ANSWER = bytes(range(256)) * 2


class Rig:
    """A channel on a bus; `levels` are those of its line, `replies` what came back."""

    def __init__(self):
        self.levels, self.replies = [], []
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.channel = Channel(self.levels.append)
        self.channel.attach(self.bus)
        self.channel.on_reply = lambda *reply: self.replies.append(reply)

    def read(self, port, size=4):
        return self.bus.port_read(port, size)

    def write(self, port, value, size=4):
        self.bus.port_write(port, size, value)

    def answer(self, data):
        for place in range(0, len(data), 4):
            self.write(DATA, int.from_bytes(data[place : place + 4], "little"))


def test_a_request_is_shown_and_answered():
    rig = Rig()
    assert [rig.read(port) for port in (STATUS, SECTOR, CLIENT, DATA)] == [0, NOTHING, NOTHING, NOTHING]
    rig.channel.post(3, 0x1234567)
    assert [rig.read(port) for port in (STATUS, SECTOR, CLIENT, DATA)] == [1, 0x1234567, 3, NOTHING]
    rig.answer(ANSWER)
    assert not rig.replies
    rig.write(STATUS, DONE)
    assert rig.replies == [(3, 0x1234567, ANSWER)]
    assert rig.read(STATUS) == 0
    assert rig.levels == [True, False]


def test_requests_queue_and_each_has_an_answer_of_its_own():
    rig = Rig()
    for client in range(3):
        rig.channel.post(client, 10 + client)
    assert rig.channel.waiting == 3
    rig.answer(ANSWER[:8])
    rig.write(STATUS, FAILED)  # what was written for it is no part of the next answer
    assert (rig.read(SECTOR), rig.read(CLIENT), rig.levels) == (11, 1, [True])
    rig.answer(ANSWER + b"lost")
    rig.write(STATUS, DONE)
    rig.answer(ANSWER[:508])
    rig.write(STATUS, DONE)  # 127 words are no sector
    assert rig.replies == [(0, 10, None), (1, 11, ANSWER), (2, 12, None)]
    assert (rig.levels, rig.channel.waiting) == ([True, False], 0)


def test_who_hears_a_reply_may_ask_again():
    rig = Rig()
    rig.channel.on_reply = lambda client, sector, _: sector < 3 and rig.channel.post(client, sector + 1)
    rig.channel.post(0, 1)
    for sector in (1, 2, 3):
        assert rig.read(SECTOR) == sector
        rig.write(STATUS, DONE)
    assert rig.read(STATUS) == 0
    assert rig.levels == [True, False] * 3  # an edge each time


def test_accesses_that_are_not_of_a_register_do_nothing():
    rig = Rig()
    rig.channel.post(1, 2)
    before = rig.channel.save()
    for port in range(0x520, 0x530):
        for size in (1, 2, 4):
            if size == 4 and not port % 4:
                continue
            assert rig.read(port, size) == (1 << 8 * size) - 1
            rig.write(port, DONE, size)
    for value in (0, 3, 0x101, NOTHING):
        rig.write(STATUS, value)
    rig.write(SECTOR, 1)
    rig.write(CLIENT, 1)
    assert (rig.channel.save(), rig.replies) == (before, [])


def test_without_a_request_writes_are_lost():
    rig = Rig()
    rig.answer(ANSWER)
    rig.write(STATUS, DONE)
    rig.channel.post(0, 0)
    rig.write(STATUS, DONE)
    assert rig.replies == [(0, 0, None)]
    rig.channel.on_reply = None
    rig.channel.post(0, 0)
    rig.write(STATUS, DONE)  # nobody listens


@pytest.mark.parametrize(
    ("client", "sector"), [(-1, 0), (0, -1), (1 << 32, 0), (0, 1 << 32), ("0", 0), (0, 1.0), (True, 0)]
)
def test_a_wrong_request_is_refused(client, sector):
    rig = Rig()
    with pytest.raises(OptionError, match="is an int from 0 to 4294967295"):
        rig.channel.post(client, sector)
    assert (rig.channel.waiting, rig.levels) == (0, [])


def test_a_computer_has_one_if_it_is_given_one():
    platform = Platform(PhysicalMemory(1 << 20))
    assert "channel" not in platform.devices
    channel = platform.add_channel()
    assert platform.devices["channel"] is channel
    with pytest.raises(OptionError, match="another device named 'channel'"):
        platform.add_channel()
    # IRQ 10 is the second controller's line 2; the first has that behind its line 2.
    for port, value in (
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0xA0, 0x11),
        (0xA1, 0x28),
        (0xA1, 2),
        (0xA1, 1),
    ):
        platform.bus.port_write(port, 1, value)
    assert platform.pic.pending_vector() is None
    channel.post(0, 0)
    assert platform.pic.pending_vector() == 0x2A


def test_it_is_saved_in_the_middle_of_its_work():
    one, other, without = (Platform(PhysicalMemory(1 << 20)) for _ in range(3))
    channel, twin = one.add_channel(), other.add_channel()
    for client in range(2):
        channel.post(client, 7)
    one.bus.port_write(DATA, 4, 0x04030201)
    state = one.save()
    other.load(state)
    assert other.save() == state
    replies = []
    twin.on_reply = lambda *reply: replies.append(reply)
    rest = bytes([1, 2, 3, 4]) + ANSWER[4:]
    for place in range(4, 512, 4):
        other.bus.port_write(DATA, 4, int.from_bytes(rest[place : place + 4], "little"))
    other.bus.port_write(STATUS, 4, DONE)
    assert replies == [(0, 7, rest)]
    assert other.bus.port_read(CLIENT, 4) == 1
    assert channel.waiting == 2
    with pytest.raises(StateError, match="saved devices"):
        without.load(state)
    with pytest.raises(StateError, match="saved devices"):
        one.load(without.save())


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests": [[1]]},
        {"requests": [[1, -1]]},
        {"requests": [[1, 1 << 32]]},
        {"requests": {}},
        {"data": bytes(516)},
        {"data": bytes(3)},
        {"data": "abcd"},
        {"requests": [], "data": bytes(4)},
        {"version": 2},
        {"more": 1},
    ],
)
def test_a_damaged_state_changes_nothing(wrong):
    rig = Rig()
    rig.channel.post(1, 2)
    rig.write(DATA, 5)
    before = rig.channel.save()
    with pytest.raises(StateError, match="channel"):
        rig.channel.load(before | wrong)
    assert rig.channel.save() == before


class Model:
    """The description, once more: what each access must do."""

    def __init__(self):
        self.requests, self.words, self.replies = [], [], []

    def read(self, port, size):
        if size != 4 or port % 4:
            return (1 << 8 * size) - 1
        if port == STATUS:
            return 1 if self.requests else 0
        if not self.requests or port == DATA:
            return NOTHING
        return self.requests[0][1 if port == SECTOR else 0]

    def write(self, port, size, value):
        if size != 4 or port % 4 or not self.requests:
            return
        if port == DATA:
            self.words.append(value)
        elif port == STATUS and value in (1, 2):
            whole = b"".join(word.to_bytes(4, "little") for word in self.words[:128])
            self.replies.append((*self.requests.pop(0), whole if value == 1 and len(whole) == 512 else None))
            self.words = []


ACTIONS = st.one_of(
    st.tuples(st.just("post"), st.integers(0, NOTHING), st.integers(0, NOTHING)),
    st.tuples(st.just("read"), st.integers(0x520, 0x52F), st.sampled_from([1, 2, 4])),
    st.tuples(st.just("write"), st.integers(0x520, 0x52F), st.sampled_from([1, 2, 4]), st.integers(0, NOTHING)),
    st.tuples(st.just("write"), st.just(STATUS), st.just(4), st.integers(0, 3)),
    st.tuples(st.just("answer"), st.integers(120, 130)),
    st.tuples(st.just("save")),
)


@given(st.lists(ACTIONS, max_size=40))
def test_random_accesses(actions):
    rig, model = Rig(), Model()
    for kind, *rest in actions:
        if kind == "post":
            rig.channel.post(*rest)
            model.requests.append(tuple(rest))
        elif kind == "read" and rest[0] + rest[1] <= 0x530:
            assert rig.read(rest[0], rest[1]) == model.read(*rest)
        elif kind == "write" and rest[0] + rest[1] <= 0x530:
            port, size, value = rest
            rig.write(port, value & (1 << 8 * size) - 1, size)
            model.write(port, size, value & (1 << 8 * size) - 1)
        elif kind == "answer":
            for word in range(rest[0]):
                rig.write(DATA, word)
                model.write(DATA, 4, word)
        elif kind == "save":
            state, replies = rig.channel.save(), rig.replies
            rig = Rig()
            rig.channel.load(state)
            rig.replies = replies
            rig.channel.on_reply = lambda *reply, heard=replies: heard.append(reply)
        assert rig.replies == model.replies
        assert rig.channel.waiting == len(model.requests)
