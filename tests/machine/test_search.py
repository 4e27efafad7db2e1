"""Searches: each answer is that of looking at every step of a straight run."""

from __future__ import annotations

import random

import pytest

import vmlab
from tests.vmm.harness import kernel
from tests.vmm.hostile import neighbour
from vmlab import when
from vmlab.errors import OptionError
from vmlab.machine import checkpoints
from vmlab.machine.recording import Recording
from vmlab.vmm.techniques import build

OPTIONS = {"memory": 2 << 20, "max_instructions": 6_000, "input": "text"}
BUSY = """
main:   mov dword [hooks + 0x20 * 4], acknowledge
        mov dword [hooks + 1 * 4], stepped
        mov ah, 0xEE
        call pic_on
        mov ecx, 30
        call timer_on
        mov dword [spare], 0x0000FFFF
        mov dword [spare + 4], 0x00CF9200
        push dword 0x302
        push dword KERNEL_CODE
        push dword .on
        iret
.on:    mov ecx, 60
.loop:  add [spot], ecx
        mov [0xB8000 + ecx * 2], cx
        mov eax, ecx
        and eax, 1
        jz .even
        mov eax, SPARE
        mov es, eax
        jmp .more
.even:  push ds
        pop es
        test ecx, 14
        jnz .more
        mov eax, ecx
        shl eax, 12
        mov cr3, eax
        int 0x30
        sti
        hlt
.more:  loop .loop
        call quit
stepped: inc dword [steps]
        cmp dword [steps], 12
        jb .on
        and dword [ebx + F_FLAGS], 0xFFFFFEFF
.on:    ret
steps:  dd 0
spot:   dd 0
"""
NAMES = ("ecx", "al", "esp", "zf", "eflags", "cr3", "es")


def system(kind, engine="interpreter"):
    if kind == "two guests":
        return build([kernel(BUSY), neighbour()], "trap-and-emulate", engine=engine, **OPTIONS)
    return build(kernel(BUSY), kind, engine=engine, **OPTIONS)


class Table:
    """What a run was at each step, looked at from outside."""

    def __init__(self, kind):
        running = system(kind)
        self.steps = []
        self.ticks = running.guests[0].image.symbols["steps"]
        while True:
            state = running.cpu_state()
            values = {name: when.READERS[name](state) for name in NAMES}
            values["steps"] = running.guests[0].memory.read(self.ticks, 4)
            values["ip"] = state.linear_ip
            values["direct"] = not running.in_vmm and running.current == 0
            self.steps.append(values)
            if running.finished:
                break
            running.advance(1)

    def becomes(self, name, value=None):
        """Return the steps in which a value came about."""
        pairs = zip(self.steps, self.steps[1:], strict=False)
        return [
            step
            for step, (old, new) in enumerate(pairs, 1)
            if old[name] != new[name] and value in (None, new[name])
        ]  # fmt: skip


@pytest.fixture(
    scope="module", params=["native", "trap-and-emulate", pytest.param("two guests", marks=pytest.mark.long)]
)
def table(request):
    return request.param, Table(request.param)


def check(recording, condition, expected, generator, visits=4):
    """Search from random places, both ways."""
    length = recording.length
    for place in [0, length, *(generator.randrange(length + 1) for _ in range(visits))]:
        for backwards in (False, True):
            recording.seek(place)
            found = recording.find(condition, backwards=backwards)
            steps = [step for step in expected if (step < place if backwards else step > place)]
            if not steps:
                assert (found, recording.position) == (None, place)
                continue
            assert found.step == recording.position == (steps[-1] if backwards else steps[0])
            assert found.what == condition.describe()
            assert "\n" not in found.describe()


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
def test_every_answer_is_that_of_looking_at_each_step(table, engine, monkeypatch):
    kind, steps = table
    monkeypatch.setattr(checkpoints, "SPACING", 900)
    recording = Recording(system(kind, engine))
    assert recording.length == len(steps.steps) - 1
    assert len(steps.becomes("steps")) == 12
    assert len(steps.becomes("cr3")) == 3
    generator = random.Random(kind + engine)
    for name in NAMES if kind == "native" else NAMES[::2]:
        check(recording, when.register(name), steps.becomes(name), generator, 1)
        changes = steps.becomes(name)
        if changes:
            value = steps.steps[generator.choice(changes)][name]
            check(recording, when.register(name, value), steps.becomes(name, value), generator, 1)
    check(recording, when.writes(steps.ticks, physical=True), steps.becomes("steps"), generator, 2)
    check(recording, when.writes("steps", value=7), steps.becomes("steps", 7), generator, 1)
    check(
        recording, when.writes(steps.ticks + 2, 1), steps.becomes("steps"), generator, 0
    )  # all four bytes are written
    check(recording, when.writes(steps.ticks + 8, 1), [], generator, 0)
    counter = when.becomes(lambda system: system.guests[0].memory.read(steps.ticks, 4) == 11)
    check(recording, counter, steps.becomes("steps", 11), generator, 1)
    for kind_, fields in (("trap", {}), ("port", {"write": True}), ("control", {"register": "cr3"}), ("end", {})):
        happened = [
            event.step
            for event in recording.events
            if event.kind == kind_ and event.guest == 0 and all(getattr(event, k) == v for k, v in fields.items())
        ]
        check(recording, when.event(kind_, **fields), happened, generator, 1)


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
def test_breakpoints_are_where_the_instruction_begins(table, engine):
    kind, steps = table
    recording = Recording(system(kind, engine))
    generator = random.Random(kind)
    places = sorted({each["ip"] for each in steps.steps if each["direct"]})
    for address in generator.sample(places, 3):
        # An instruction begins where the next step is not an interrupt or a trap that comes before it.
        traps = {event.step: event for event in recording.events if event.kind == "trap"}
        began = [
            step
            for step, each in enumerate(steps.steps[:-1])
            if each["ip"] == address
            and each["direct"]
            and not (step + 1 in traps and (traps[step + 1].name.startswith("interrupt") or traps[step + 1].name == "timer"))
        ]  # fmt: skip
        recording.seek(0)
        found, expected = [], [step for step in began if step > 0]
        while (each := recording.find(when.executes(address))) is not None and len(found) < 6:
            assert each.address == address
            assert recording.system.cpu_state().linear_ip == address
            found.append(each.step)
        # A fetch that faults, and #DB before the instruction, are no beginnings: the steps found are all among ours.
        assert set(found) <= set(expected[: len(found) + 5])
        assert len(found) >= min(6, len(expected) - 5)
        recording.seek(recording.length)
        back = recording.find(when.executes(address), backwards=True)
        if 0 < len(found) < 6:
            assert back.step == found[-1]
        else:
            assert (back is None) == (not found)


def test_searching_disturbs_nothing(table):
    kind, _ = table
    recording = Recording(system(kind, "auto"))
    engine = recording.system.machine.engine
    places = [recording.length // 3, recording.length // 2, recording.length]
    states = []
    for place in places:
        recording.seek(place)
        states.append((recording.system.save(), recording.system.machine.memory.digest()))
    for condition in (
        when.executes("main"), when.register("ecx", 3), when.writes("steps"), when.control("cr3"), lambda system: system.finished
    ):  # fmt: skip
        for backwards in (True, False):
            recording.find(condition, backwards=backwards)
    assert recording.system.machine.engine is engine
    assert all(cpu.spy is None for cpu in recording.system.machine.cpus)
    for place, state in zip(places, states, strict=True):
        recording.seek(place)
        assert (recording.system.save(), recording.system.machine.memory.digest()) == state


def test_a_write_of_the_same_value_is_a_write_and_a_read_is_none():
    code = """
main:   mov ecx, 5
.loop:  mov dword [spot], 7
        mov eax, [spot]
        mov [spot - 1], cl
        mov [spot + 4], cl
        loop .loop
        mov word [spot + 3], 0x0101
        call quit
        align 4
        dd 0
spot:   dd 0, 0
"""
    recording = Recording(build(kernel(code), engine="auto", **OPTIONS))
    texts = []
    while found := recording.find(when.writes("spot")):
        texts.append((found.text.split(",")[0], found.new))
    spot = recording.system.guests[0].image.symbols["spot"]
    assert texts == [(f"mov dword [{spot:#x}]", 7)] * 5 + [(f"mov word [{spot + 3:#x}]", 0x01000007)]
    found = recording.find(when.writes("spot", value=7), backwards=True)
    assert (found.old, found.new) == (7, 7)
    assert f"mov dword [{spot:#x}], 7: a write of 0x7 to the 4 bytes at spot: 0x7 → 0x7" in found.describe()


def test_a_write_across_pages_and_by_another_address():
    code = """
main:   call paging_on
        mov dword [0x7FFE], 0x11223344
        mov dword [0x8000], 5
        call quit
"""
    recording = Recording(build(kernel(code), **OPTIONS | {"memory": 8 << 20, "max_instructions": 20_000}))
    for place, size, values in (
        (0x7FFC, 4, [0x33440000]),
        (0x8000, 2, [0x1122, 5]),
        (0x7FFF, 3, [0x112233, 0x533]),
        (0x7FFE, 1, [0x44]),
    ):
        recording.seek(0)
        found = []
        while each := recording.find(when.writes(place, size, physical=True)):
            found.append(each.new)
        assert found == values


def test_the_end_of_a_guest_that_sleeps_and_a_woken_one():
    recording = Recording(build(vmlab.guests.load("echo"), memory=2 << 20))
    recording.seek(recording.length)
    recording.send("a")
    recording.extend(1_000)
    recording.send("b")
    recording.extend(1_000)
    recording.seek(0)
    found = recording.find(lambda system: "b" in system.guests[0].console)
    assert found.step == recording.position
    assert found.text.startswith("out dx, al")
    typed = [event.step for event in recording.events if event.kind == "input"]
    assert recording.find(when.event("input", data=b"b"), backwards=True).step == typed[1]
    recording.seek(0)
    assert recording.find(lambda system: system.finished).step == recording.length


def test_minios_is_searched_in_words():
    recording = vmlab.record(vmlab.guests.load("minios"), steps=60_000, engine="auto")
    fault = recording.find(when.event("trap", vector=14))
    assert fault.event.cr2 == recording.system.guests[0].image.symbols["header"]
    assert "(#PF): trap event, vector=14" in fault.describe()
    switch = recording.find(when.control("cr3"), backwards=True)
    assert switch.text.startswith("mov cr3, ")
    assert recording.system.cpu_state().cr3 == switch.new != switch.old


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: when.register("ebxx"), "no register 'ebxx': did you mean ebx"),
        (lambda: when.register("monday"), "choose one of al, cl"),
        (lambda: when.register(5), "no register 5"),
        (lambda: when.register("eax", -1), "not negative"),
        (lambda: when.register("AL", 256), "al holds at most 0xff"),
        (lambda: when.register("zf", 2), "zf holds at most 0x1"),
        (lambda: when.register("r9d", 1 << 32), "r9d holds at most 0xffffffff"),
        (lambda: when.register("rip", 1 << 64), "rip holds at most"),
        (lambda: when.register("eax", cpu="a"), "number"),
        (lambda: when.writes(-1), "not negative"),
        (lambda: when.writes(1.5), "name of a symbol"),
        (lambda: when.writes(5, 0), "1 to 4096 bytes"),
        (lambda: when.writes(5, 1, 256), "from 0 to 0xff"),
        (lambda: when.executes(None), "an address"),
        (lambda: when.event("tarp"), "choose one of .*trap, signal"),
        (lambda: when.event("instruction"), "choose one of .*trap, signal"),
        (lambda: when.event("trap", colour=1), "choose from step, time, guest"),
        (lambda: when.control("cr2"), "cr0, cr3, cr4"),
        (lambda: when.becomes(5), "function of the system"),
    ],
)
def test_conditions_that_do_not_exist(wrong, message):
    with pytest.raises(OptionError, match=message):
        wrong()


def test_searches_that_are_not_possible():
    recording = vmlab.record(vmlab.guests.load("minios"), steps=9_000)
    recording.seek(recording.length)
    for condition, options, message in (
        (5, {}, "condition of vmlab.when"),
        (None, {}, "condition of vmlab.when"),
        (when.register("eax"), {"guest": 1}, "no guest 1"),
        (when.register("eax", cpu=1), {}, "no processor 1"),
        (when.executes("mian"), {}, "no symbol 'mian'"),
        (when.writes("spot"), {}, "no symbol 'spot'"),
        (when.writes(0xDEAD_BEEF), {}, "mapped nowhere at the cursor"),
        (when.writes(0xB8000, physical=True), {}, "no memory at the physical address"),
        (when.writes(1 << 40, physical=True), {}, "no memory at the physical address"),
    ):
        with pytest.raises(OptionError, match=message):
            recording.find(condition, **options)
        assert recording.position == recording.length
