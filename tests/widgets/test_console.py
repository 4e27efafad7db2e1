"""The console's kernel side: it runs while one looks, sleeps when nothing is due, and tells what is new."""

from __future__ import annotations

import asyncio
from time import monotonic
from xml.etree import ElementTree as ET

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.views.console import history_lines
from vmlab.vmm.techniques import build
from vmlab.widgets import console, pace

LOOP = """
start:  mov dx, 0x3fd           ; waits for a character in a loop, and sends it back
.wait:  in al, dx
        test al, 1
        jz .wait
        mov dx, 0x3f8
        in al, dx
        out dx, al
        jmp start
"""


def send(shown, **message):
    shown._on_message(shown.feed, message, [])


def keys(*names, **modifiers):
    return [{"key": name, **modifiers} for name in names]


@pytest.fixture
def echo():
    return console(vmlab.guests.load("echo"))


async def settle(condition, seconds=5.0):
    """Let the loop run until something is so."""
    end = monotonic() + seconds
    while not condition() and monotonic() < end:  # noqa: ASYNC110 - the console has no event that a test could wait for
        await asyncio.sleep(0.01)
    assert condition()


def test_it_shows_the_guest_before_anyone_looks():
    shown = console(vmlab.guests.load("hello"))
    assert shown.text == "Hello from a real x86 guest."
    assert shown.feed.status["state"] == "exit"
    assert shown.feed.status["over"]
    assert shown.feed.screen["lines"][0] == [["Hello from a real x86 guest.", -1, -1, 0]]


def test_what_is_typed_reaches_the_guest_and_its_answer_the_screen(echo):
    async def scenario():
        send(echo, type="ready")
        send(echo, type="keys", keys=[*keys("h", "i", "!"), *keys("Backspace")])
        await settle(lambda: echo.recording.system.guest.console == "hi!\x7f")
        await settle(lambda: echo.feed.screen["lines"][0] == [["hi!", -1, -1, 0]])
        assert echo.feed.screen["cursor"] == [0, 3]
        await settle(echo._task.done)
        assert echo.feed.status["state"] == "waiting"

    asyncio.run(scenario())
    inputs = [event for event in echo.recording.events if event.kind == "input"]
    assert b"".join(event.data for event in inputs) == b"hi!\x7f"


def test_ctrl_and_pasting(echo):
    send(echo, type="keys", keys=[{"paste": "two\nlines"}, *keys("d", ctrl=True)])
    echo.advance()
    assert echo.recording.system.guest.console == "two\rlines"
    assert echo.feed.status["state"] == "exit"
    assert echo.feed.status["status"] == 1


def test_typing_at_a_guest_that_has_ended_is_explained():
    shown = console(vmlab.guests.load("hello"))
    send(shown, type="keys", keys=keys("a"))
    assert "has ended" in shown.feed.status["note"]
    with pytest.raises(OptionError, match="has ended"):
        shown.type("a")


def test_a_guest_that_waits_in_a_loop_gets_little_time(monkeypatch):
    shown = console(vmlab.assemble(LOOP))
    assert shown.session.state == "waiting"
    slices = []
    run_slice = shown.pace.slice
    monkeypatch.setattr(shown.pace, "slice", lambda session: slices.append(run_slice(session)) or slices[-1])

    async def scenario():
        send(shown, type="ready")
        await asyncio.sleep(1.0)
        assert 1 <= len(slices) <= 5
        begun = monotonic()
        send(shown, type="keys", keys=keys("x"))
        await settle(lambda: shown.text == "x")
        assert monotonic() - begun < 0.25, "a key wakes it at once"

    asyncio.run(scenario())


def test_after_a_while_it_gets_none(monkeypatch):
    monkeypatch.setattr(pace, "PATIENCE", 0.1)
    shown = console(vmlab.assemble(LOOP))

    async def scenario():
        send(shown, type="ready")
        await settle(shown._task.done)
        assert not shown.feed.status["running"]
        assert "Asleep" in shown.feed.status["note"]
        send(shown, type="alive")
        assert shown._task.done(), "it stays asleep"
        send(shown, type="keys", keys=keys("x"))
        await settle(lambda: shown.text == "x")
        assert shown.feed.status["note"] == ""

    asyncio.run(scenario())


def test_a_silent_guest_may_compute(monkeypatch):
    shown = console(vmlab.assemble("start: inc eax\n jmp start"))
    assert shown.session.state == "silent"
    delays = []
    run_slice = shown.pace.slice
    monkeypatch.setattr(shown.pace, "slice", lambda session: (run_slice(session), delays.append(shown.pace.delay))[0])

    async def scenario():
        send(shown, type="ready")
        await asyncio.sleep(0.6)
        assert max(delays) == pace.BREATH
        monkeypatch.setattr(pace, "BENEFIT", 0.0)
        await asyncio.sleep(0.3)
        assert delays[-1] == pace.NAP

    asyncio.run(scenario())


def test_a_guest_that_sleeps_keeps_to_the_clock_on_the_wall():
    """Its timer ticks 18.2 times a second for ever: a second of its time takes a second."""
    devices = ((0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xFE), (0x43, 0x34), (0x40, 0), (0x40, 0))
    outs = "\n".join(f"        mov al, {value}\n        out {port}, al" for port, value in devices)
    ticking = f"""
        bits 32
        org 0x100000
start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        lidt [idt_pointer]
        jmp 0x08:.flat
.flat:
{outs}
        sti
.sleep: hlt
        jmp .sleep
tick:   push eax
        mov al, 0x20
        out 0x20, al
        pop eax
        iret
gdt_pointer: dw 23, gdt - $$, 0x10
idt_pointer: dw 0x21 * 8 - 1
        dd gate - 0x20 * 8
gate:   dw tick - $$, 0x08, 0x8E00, 0x10
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
"""
    shown = console(vmlab.assemble(ticking))
    clock = shown.session.seconds

    async def scenario():
        send(shown, type="ready")
        await asyncio.sleep(1.0)
        assert 0.5 < shown.session.seconds - clock < 1.5

    asyncio.run(scenario())


def test_cells_get_their_turn_while_it_runs():
    shown = console(vmlab.assemble("start: inc eax\n jmp start"), max_instructions=None)

    async def scenario():
        send(shown, type="ready")
        worst, turns, end = 0.0, 0, monotonic() + 1.0
        while monotonic() < end:
            begun = monotonic()
            await asyncio.sleep(0)
            worst, turns = max(worst, monotonic() - begun), turns + 1
        assert turns > 20
        assert worst < 0.5
        send(shown, type="pause")
        await settle(shown._task.done)
        assert not shown.feed.status["running"]

    asyncio.run(scenario())


def test_it_stops_where_nobody_looks():
    shown = console(vmlab.assemble("start: inc eax\n jmp start"), max_instructions=None)

    async def scenario():
        send(shown, type="ready")
        assert not shown._task.done()
        send(shown, type="gone")
        await settle(shown._task.done)
        send(shown, type="alive")
        assert not shown._task.done()
        send(shown, type="gone")
        await settle(shown._task.done)

    asyncio.run(scenario())


def test_without_an_event_loop_it_is_run_by_hand(echo):
    echo.type("abc")
    assert echo.text == ""
    assert echo.advance() > 0
    assert echo.text == "abc"


def test_going_back_and_typing_something_else(echo):
    echo.type("abc")
    echo.advance()
    end = echo.recording.length
    (typed,) = [event.step for event in echo.recording.events if event.kind == "input"]
    send(echo, type="seek", step=typed - 1)
    assert echo.text == ""
    assert echo.feed.status["past"]
    assert not echo.feed.status["running"]
    send(echo, type="live")
    assert echo.text == "abc"
    assert echo.recording.length == end
    send(echo, type="seek", step=typed - 1)
    send(echo, type="keys", keys=keys("z"))
    echo.advance()
    assert echo.text == "z"
    assert not echo.feed.status["past"]


def test_running_on_from_the_past_replays_what_was_typed(echo):
    echo.type("abc")
    echo.advance()
    end = echo.recording.length
    echo.seek(0)

    async def scenario():
        send(echo, type="ready")
        send(echo, type="run")
        await settle(lambda: echo.text == "abc")
        await settle(echo._task.done)

    asyncio.run(scenario())
    assert echo.recording.length == end


def test_it_rests_while_a_debugger_has_the_recording():
    shown = console(vmlab.assemble(LOOP))
    shown.type("ab")
    shown.advance()
    debugger = vmlab.Debugger(shown.recording)

    async def scenario():
        send(shown, type="ready")
        await settle(lambda: shown.feed.status["rate"] > 0)
        debugger.goto(100)
        await settle(shown._task.done)
        send(shown, type="alive")
        assert debugger.position == 100
        assert "looked at elsewhere" in shown.feed.status["note"]
        send(shown, type="keys", keys=keys("c"))
        await settle(lambda: shown.text == "abc")
        assert shown.feed.status["note"] == ""

    asyncio.run(scenario())


def test_switching_off_and_on(echo):
    echo.type("abc")
    echo.advance()
    send(echo, type="reset")
    assert echo.text == ""
    assert echo.recording.length == 0
    echo.type("d")
    echo.advance()
    assert echo.text == "d"


def test_lines_above_the_screen_are_sent_once_and_again_to_a_new_view():
    lines = "\n".join(f'        db "line {n}", 10' for n in range(60))
    source = f"start: mov esi, text\n mov dx, 0x3f8\n mov ecx, end - text\n rep outsb\n hlt\ntext:\n{lines}\nend:\n"
    shown = console(vmlab.assemble(source), rows=10)
    assert shown.feed.screen["first"] == 51
    first = shown.feed.screen["history"]
    assert (first["start"], len(first["lines"])) == (0, 51)
    shown.refresh()
    assert shown.feed.screen["history"] == {"start": 51, "lines": []}
    send(shown, type="ready")
    assert shown.feed.screen["history"] == first
    assert history_lines(shown.session.terminal, 49)["lines"] == first["lines"][49:]


def test_the_terminals_answers_go_to_the_guest():
    """The guest asks where the cursor is, and sends the answer back."""
    source = LOOP.replace("start:", "start:  mov dx, 0x3f8\n" + "".join(f"        mov al, {b}\n        out dx, al\n" for b in b"ab\x1b[6n") + "ready:", 1).replace("jmp start", "jmp ready")  # fmt: skip
    shown = console(vmlab.assemble(source))
    assert shown.recording.system.guest.console == "ab\x1b[6n\x1b[1;3R"


def test_the_pc_screen_and_its_keyboard():
    source = """
start:  mov edi, 0xb8000
        mov word [edi], 0x1f48          ; H, white on blue
.wait:  in al, 0x64
        test al, 1
        jz .wait
        in al, 0x60
        mov ah, 0x07
        add edi, 2
        mov al, 'k'
        mov [edi], ax
        jmp .wait
"""
    shown = console(vmlab.assemble(source), screen="cga")
    assert shown.feed.screen["lines"][0][0] == ["H", 15, 4, 0]
    send(shown, type="keys", keys=[*keys("a"), *keys("ArrowUp")])
    shown.advance(200_000)
    assert shown.text.startswith("Hkk")
    assert "screen of 80 × 25" in shown.describe()


def test_without_a_kernel_there_is_a_picture_and_a_text(echo):
    echo.type("a & <b>")
    echo.advance()
    data, _ = echo._repr_mimebundle_()
    assert ET.fromstring(data["image/svg+xml"]).tag.endswith("svg")
    assert "a &amp; &lt;b&gt;" in data["image/svg+xml"]
    assert data["text/plain"] == echo.describe()
    assert data["text/plain"].endswith("a & <b>")


def test_what_can_be_given():
    image = vmlab.guests.load("echo")
    for what in (image, vmlab.record(image, steps=10), build(image)):
        assert console(what).session.state == "waiting"
    with pytest.raises(OptionError, match="there is no screen 'vga'"):
        console(image, screen="vga")
    with pytest.raises(OptionError, match="there is no guest 1"):
        console(image, guest=1)
    with pytest.raises(OptionError, match="there is no option 'speed'"):
        console(image, speed=3)
    with pytest.raises(OptionError, match="memory: belongs to the system"):
        console(vmlab.record(image, steps=10), memory=1 << 20)
    with pytest.raises(OptionError, match="a guest boots an Image"):
        console("kernel.elf")
    with pytest.raises(OptionError, match="a terminal has 1 to 500"):
        console(image, columns=0)


def test_a_saved_state_goes_on(echo, tmp_path):
    echo.type("abc")
    echo.advance()
    vmlab.save(echo.recording, tmp_path / "echo.state")
    again = console(vmlab.load_state(tmp_path / "echo.state"))
    assert again.text == "abc"
    again.type("d")
    again.advance()
    assert again.text == "abcd"


def test_unknown_messages_are_ignored(echo):
    before = echo.feed.status
    send(echo, type="nonsense")
    send(echo)
    assert echo.feed.status == before


def test_vmlab_console_is_it():
    assert vmlab.console is console
