"""A session at a guest's terminal: what is typed, what the guest seems to do, and going back."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.vmm.session import SILENT, Session

POLLING = """
start:  mov dx, 0x3fd
.wait:  in al, dx
        test al, 1
        jz .wait
        mov dx, 0x3f8
        in al, dx
        out dx, al
        jmp start
"""


def session_of(source, **options):
    image = vmlab.guests.load(source) if source.isidentifier() else vmlab.assemble(source)
    return Session(vmlab.record(image, steps=0, engine="auto"), **options)


def test_what_a_guest_does_is_seen_from_outside():
    echo = session_of("echo")
    assert echo.state == "running"
    assert echo.advance_until_waiting(1_000_000) < 100
    assert echo.state == "waiting", "it has halted, and a key wakes it"
    polling = session_of(POLLING)
    polling.advance_until_waiting(1_000_000)
    assert (polling.state, polling.polling, polling.silent) == ("waiting", True, False)
    computing = session_of("start: inc eax\n jmp start")
    assert SILENT <= computing.advance_until_waiting(10_000_000) < SILENT + 20_000
    assert (computing.state, computing.polling, computing.silent) == ("silent", False, True)
    assert session_of("hello").advance_until_waiting(1_000_000) == 354
    halted = session_of("start: cli\n hlt")
    halted.advance_until_waiting(1_000)
    assert halted.state == "halt", "no key wakes it"


def test_a_key_is_a_sign_of_life():
    session = session_of(POLLING)
    session.advance_until_waiting(1_000_000)
    session.type("x")
    assert session.state == "running"
    session.advance_until_waiting(1_000_000)
    assert session.terminal.text == "x"
    assert session.state == "waiting"


def test_keys_and_pasting_are_recorded_with_their_step():
    session = session_of("echo")
    session.advance_until_waiting(1_000)
    step = session.recording.position
    session.press("ArrowUp")
    session.paste("a\nb")
    session.advance_until_waiting(1_000)
    events = [event for event in session.recording.events if event.kind == "input"]
    assert [(event.step, event.data) for event in events] == [(step, b"\x1b[A"), (step, b"a\rb")]


def test_program_modes_change_what_keys_send():
    text = b"\x1b[?1h\x1b[?2004h"
    session = session_of(
        f"start: mov esi, text\n mov dx, 0x3f8\n mov ecx, {len(text)}\n rep outsb\n wait: jmp wait\ntext: db {', '.join(map(str, text))}\n"
    )
    session.advance(1_000)
    session.press("ArrowUp")
    session.paste("x")
    events = [event.data for event in session.recording.events if event.kind == "input"]
    assert events == [b"\x1bOA", b"\x1b[200~x\x1b[201~"]


def test_going_back_shows_the_earlier_screen():
    session = session_of("hello")
    session.advance_until_waiting(10_000)
    session.seek(200)
    assert session.past
    assert "Hello from a real x86 guest.".startswith(session.terminal.text)
    assert session.advance(10_000) == 154
    assert not session.past
    assert session.terminal.text == "Hello from a real x86 guest."
    session.reset()
    assert session.terminal.text == ""
    assert session.recording.length == 0


def test_who_else_moves_the_cursor_is_noticed():
    session = session_of("echo")
    session.advance_until_waiting(1_000)
    session.recording.seek(10)
    assert session.moved
    session.type("z")
    session.advance_until_waiting(1_000)
    assert session.terminal.text == "z"
    assert not session.moved


def test_the_clock_of_the_guest():
    session = session_of("timer")
    session.advance_until_waiting(10_000)
    assert session.seconds == pytest.approx(5 * 100 / 1_193_182, rel=0.1)


def test_misuse():
    session = session_of("hello")
    with pytest.raises(OptionError, match="takes a str"):
        session.type(b"x")
    with pytest.raises(OptionError, match="no key is named"):
        session.press("Hyper")
    session.advance_until_waiting(10_000)
    with pytest.raises(OptionError, match="has ended"):
        session.type("x")
    with pytest.raises(OptionError, match="a session needs a Recording"):
        Session("hello")
    with pytest.raises(OptionError, match="not in this recording"):
        session.seek(10**9)
