"""The debugger: commands forwards, the same backwards, and what it shows, on programs whose every step is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vmlab
from vmlab.errors import OptionError
from vmlab.vmm.condition import Condition
from vmlab.vmm.debugger import Debugger
from vmlab.vmm.viewpoint import Viewpoint

PROGRAM = """
        bits 32
        org 0x100000
start:  mov esp, 0x90000
        mov ebx, 3
.loop:  push ebx
        call square
        add esp, 4
        mov [results + ebx * 4], eax
        dec ebx
        jnz .loop
        mov eax, 0
        out 0xf4, al
square: mov eax, [esp + 4]
        push ecx
        call multiply
        pop ecx
        ret
multiply: imul eax, eax
        ret
results: dd 0, 0, 0, 0
"""


@pytest.fixture
def image():
    return vmlab.assemble(PROGRAM)


@pytest.fixture
def debugger(image):
    return Debugger(vmlab.record(image))


@pytest.fixture(scope="module")
def minios():
    return vmlab.record(vmlab.guests.load("minios"), under="trap-and-emulate", memory=2 << 20)


def test_steps_go_both_ways(debugger):
    seen = [(debugger.position, debugger.registers())]
    while debugger.step().reason != "end":
        seen.append((debugger.position, debugger.registers()))
    assert debugger.step().reason == "end"
    for position, registers in reversed(seen):
        debugger.back()
        assert (debugger.position, debugger.registers()) == (position, registers)
    assert debugger.back().reason == "start"
    assert debugger.goto(5).step == 5
    assert debugger.step(3).step == 8
    assert debugger.back(2).step == 6


def test_changed_registers(debugger):
    debugger.step()
    assert debugger.changed == {"esp", "eip"}
    debugger.step()
    assert debugger.changed == {"ebx", "eip"}
    debugger.back()
    assert debugger.changed == {"ebx", "eip"}


def test_breakpoints_at_addresses(debugger):
    debugger.break_at("multiply")
    stops = []
    while debugger.cont().reason == "breakpoint":
        stops.append((debugger.position, debugger.registers()["eax"]))
        assert debugger.place() == "multiply"
    assert [eax for _, eax in stops] == [3, 2, 1]
    assert debugger.stop.reason == "end"
    back = []
    while debugger.back_cont().reason == "breakpoint":
        back.append((debugger.position, debugger.registers()["eax"]))
    assert back == stops[::-1]
    assert debugger.stop.reason == "start"


def test_an_address_may_be_an_expression_or_a_number(debugger, image):
    assert debugger.break_at("square + 4").address == image.symbols["square"] + 4
    assert debugger.break_at(0x100005).address == 0x100005
    assert debugger.break_at("start.loop").address == image.symbols["start.loop"]


def test_conditions_stop_where_they_become_true(debugger):
    debugger.break_when("ebx == 2 and eip >= start")
    assert debugger.cont().reason == "breakpoint"
    assert debugger.registers()["ebx"] == 2
    step = debugger.position
    debugger.back()
    assert debugger.registers()["ebx"] == 3
    debugger.goto(step)
    assert debugger.cont().reason == "end", "it stays true for a while, and becomes so once"
    assert debugger.back_cont().step == step


def test_watching_memory(debugger, image):
    place = image.symbols["results"]
    debugger.watch("results", 16)
    written = []
    while debugger.cont().reason == "breakpoint":
        rows = debugger.memory("results", 16)
        written.append([int.from_bytes(rows[0][1][n : n + 4], "little") for n in (4, 8, 12)])
        assert rows[0][0] == place
    assert written == [[0, 0, 9], [0, 4, 9], [1, 4, 9]]


def test_events():
    debugger = Debugger(vmlab.record(vmlab.guests.load("page_fault")))
    debugger.break_on("trap", vector=14)
    stop = debugger.cont()
    assert stop.event.vector == 14
    first = stop.step
    debugger.remove()
    debugger.break_on("port", write=True)
    assert debugger.cont().event.kind == "port"
    debugger.goto(debugger.recording.length)
    debugger.remove()
    debugger.break_on("trap")
    while debugger.back_cont().reason == "breakpoint":
        last = debugger.position
    assert last <= first


def test_over_and_finish(debugger, image):
    debugger.break_at("start.loop")
    debugger.cont()
    debugger.remove()
    debugger.step()
    before = debugger.position
    assert debugger.instruction() == "call square"
    debugger.over()
    assert debugger.instruction() == "add esp, 4"
    assert debugger.registers()["eax"] == 9
    after = debugger.position
    debugger.back_over()
    assert debugger.position == before
    debugger.break_at("multiply")
    assert debugger.cont().reason == "breakpoint"
    debugger.remove()
    debugger.finish()
    assert debugger.instruction() == "pop ecx"
    debugger.finish()
    assert debugger.position == after
    debugger.over()
    assert debugger.position == after + 1, "no call: one step"
    debugger.back_over()
    assert debugger.position == after


def test_going_back_to_the_call(debugger):
    debugger.break_at("multiply")
    debugger.cont()
    debugger.back_finish()
    assert debugger.instruction() == "call multiply"
    debugger.back_finish()
    assert debugger.instruction() == "call square"
    assert debugger.back_finish().reason == "nowhere"


def test_the_call_is_found_behind_calls_that_have_returned(debugger):
    debugger.break_at("square + 0xa")  # behind `call multiply`
    debugger.cont()
    assert debugger.instruction() == "pop ecx"
    debugger.back_finish()
    assert debugger.instruction() == "call square"


def test_recursion_is_stepped_over_whole():
    source = """
        org 0x100000
start:  mov esp, 0x90000
        mov eax, 5
        call down
        hlt
down:   dec eax
        jz .done
        call down
.done:  ret
"""
    debugger = Debugger(vmlab.record(vmlab.assemble(source)))
    debugger.step(2)
    before = debugger.position
    debugger.over()
    assert debugger.instruction() == "hlt"
    debugger.back_over()
    assert debugger.position == before
    debugger.step(4)
    inner = debugger.position
    assert debugger.instruction() == "dec eax"
    debugger.finish()
    assert debugger.place().startswith("down.done")
    debugger.back_over()
    assert debugger.position == inner - 1
    assert debugger.instruction() == "call down"


def test_a_breakpoint_stops_inside_a_call(debugger):
    debugger.break_at("start.loop")
    debugger.cont()
    debugger.step()
    debugger.break_at("multiply")
    assert debugger.over().breakpoint.number == 2


def test_searching(debugger):
    assert debugger.find("eax == 4").reason == "breakpoint"
    step = debugger.position
    assert debugger.registers()["eax"] == 4
    assert debugger.find("eax == 1000").reason == "nowhere"
    assert debugger.position == step
    debugger.goto(debugger.recording.length)
    assert debugger.find("eax == 4", backward=True).step == step


def test_who_wrote(debugger, image):
    debugger.goto(debugger.recording.length)
    stop = debugger.who_wrote("results + 8")
    assert stop.reason == "breakpoint"
    assert int.from_bytes(debugger.memory("results + 8", 4)[0][1], "little") == 4
    debugger.back()
    assert debugger.instruction() == "mov [results+ebx*4], eax"
    assert int.from_bytes(debugger.memory("results + 8", 4)[0][1], "little") == 0
    assert debugger.value("[results + 8]") == 0
    assert debugger.who_wrote("results").reason == "nowhere"


def test_stack_memory_and_text(debugger):
    debugger.break_at("multiply")
    debugger.cont()
    (top, value, name), *_ = debugger.stack()
    assert top == debugger.registers()["esp"]
    assert name.startswith("square+")
    assert debugger.memory("esp", 4) == [(top, value.to_bytes(4, "little"))]
    assert debugger.memory(top, 20, physical=True)[0][1][:4] == value.to_bytes(4, "little")
    assert debugger.memory(0xF0000000, 16) == [(0xF0000000, b"")]
    text = debugger.describe()
    assert f"step {debugger.position} of {debugger.recording.length}" in text
    assert ">* " in text
    assert "breakpoint 1: at multiply" in text
    assert "eax 00000003" in text


def test_a_guest_below_a_hypervisor(minios):
    """Its registers are what the guest believes, wherever they are, and its own page tables count."""
    debugger = Debugger(minios)
    debugger.break_on("trap", vector=14)
    debugger.cont()
    debugger.remove()
    native = Debugger(vmlab.record(vmlab.guests.load("minios"), memory=2 << 20))
    for each in (debugger, native):
        each.goto(0)
        each.break_when("cr3 != 0 and cpl == 3")
        assert each.cont().reason == "breakpoint"
    names = ("eax", "ebx", "esp", "cr3", "cs")
    assert {name: debugger.registers()[name] for name in names} == {name: native.registers()[name] for name in names}
    assert debugger.instruction() == native.instruction()


def test_a_64_bit_guest():
    debugger = Debugger(vmlab.record(vmlab.guests.load("long_mode"), cpu="core-2"))
    assert debugger.break_when("efer & 0x400").text == "when efer & 0x400"
    debugger.cont()
    debugger.remove()
    debugger.find("cs == 0x18")
    assert debugger.view.cpu.fetch_bits == 64
    debugger.step(10)
    registers = debugger.registers()
    assert {"rax", "r15", "rip", "efer"} <= set(registers)
    assert registers["rip"] == debugger.recording.system.machine.cpu.ip
    assert f"rip {registers['rip']:016x}" in debugger.describe()
    top, value, _ = debugger.stack(1)[0]
    assert debugger.value("[rsp]") == value & 0xFFFFFFFF
    assert debugger.value("qword[rsp]") == value
    assert top == registers["rsp"]
    step = debugger.position
    debugger.over()
    debugger.back_over()
    assert debugger.position == step


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ebx", 0x12345678), ("bx == 0x5678", 1), ("bl", 0x78), ("bh", 0x56), ("EBX == ebx", 1), ("zf", 1), ("cpl", 0),
        ("eip - start", 11), ("[data]", 0x44332211), ("byte[data + 1]", 0x22), ("word[data]", 0x2211),
        ("qword[data]", 0x44332211), ("1 < 2 <= 2", 1), ("not zf or ebx == 1", 0), ("-1 + 2 * 3 & 7", 5), ("~0", -1),
        ("[[pointer]]", 0x44332211), ("7 // 0 + 5 % 0", 0), ("1 << 100 & 1", 0),
    ],
)  # fmt: skip
def test_conditions(text, value):
    source = (
        "start: mov ebx, 0x12345678\n xor eax, eax\n cmp eax, 0\n nop\n hlt\ndata: dd 0x44332211, 0\npointer: dd data\n"
    )
    image = vmlab.assemble(source)
    recording = vmlab.record(image)
    recording.seek(4)
    assert Condition(text, image.symbols).value(Viewpoint(recording.system)) == value


@pytest.mark.parametrize(
    "text",
    ["", "ebx ==", "nobody == 1", "__import__('os')", "ebx.real", "f(1)", "'a'", "1.5", "[1, 2]", "[ebx, 1]", "tbyte[0]",
     "ebx = 5", "(x := 1)", "lambda: 1", "a if b else c", "ebx is 1", "2 ** 9", "1 / 2", "(" * 300, "x" * 501, "ebx in [1]", "\0"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(OptionError, match="condition"):
        Condition(text, {"x": 1})


@given(st.text(max_size=30))
def test_no_text_does_anything_else(text):
    try:
        condition = Condition(text, {})
    except OptionError:
        return
    assert callable(condition.holds)


def test_misuse(debugger):
    for act, message in (
        (lambda: debugger.break_at("nowhere"), "no symbol"),
        (lambda: debugger.break_on("earthquake"), "no events of kind"),
        (lambda: debugger.break_on("trap", colour=3), "a trap event has no 'colour'|a trap has no 'colour'"),
        (lambda: debugger.watch("results", 0), "from 1 to 4096, not 0"),
        (lambda: debugger.remove(7), "there is no breakpoint 7"),
        (lambda: debugger.goto(-1), "not in this recording"),
        (lambda: debugger.step(-1), "not negative"),
        (lambda: debugger.memory("results", 0), "a number of bytes"),
        (lambda: Debugger("x"), "a debugger needs a Recording"),
        (lambda: Debugger(debugger.recording, 1), "there is no guest 1"),
    ):
        position = debugger.position
        with pytest.raises(OptionError, match=message):
            act()
        assert debugger.position == position
    assert debugger.breakpoints == []
