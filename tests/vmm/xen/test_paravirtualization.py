"""Ported kernels under the paravirtualizing hypervisor: the same programs, fewer crossings, several guests, saving."""

from __future__ import annotations

import pickle
import random
import re

import pytest

import vmlab
from tests.vmm.xen.ported import (
    CRASHED,
    PAGES,
    PRELUDE,
    SHUT,
    audit,
    finish,
    frame_of,
    image_of,
    kernel,
    log,
    started,
    word,
)
from vmlab import guests
from vmlab.errors import ImageError, OptionError, StateError
from vmlab.machine.disk import Disk
from vmlab.machine.memory import ZERO_PAGE
from vmlab.vmm.session import Session
from vmlab.vmm.xen.notes import find_notes
from vmlab.vmm.xen.timer import nanoseconds

UNDER = "paravirtualization"


@pytest.fixture(scope="module")
def runs():
    """Return runs of minios natively and with full virtualization, and of its port without and with batches."""
    image, single, batched = guests.load("minios"), guests.load("minios_pv", BATCH=0), guests.load("minios_pv")
    return {
        "native": vmlab.run(image),
        "trap-and-emulate": vmlab.run(image, under="trap-and-emulate"),
        "vt-x": vmlab.run(image, under="vt-x", host_cpu="westmere"),
        "single": vmlab.run(single, under=UNDER),
        "batched": vmlab.run(batched, under=UNDER),
    }


# -- the port --------------------------------------------------------------------------------------------------------------


def test_the_same_programs_print_the_same_console(runs):
    assert {run.console for run in runs.values()} == {runs["native"].console}
    assert {(run.outcome, run.status) for run in runs.values()} == {SHUT}
    assert len(runs["native"].console.splitlines()) == 12


def test_the_programs_are_the_same_bytes():
    one, other = (guests.load(name) for name in ("minios", "minios_pv"))
    place = one.symbols["user_programs"]
    assert place == other.symbols["user_programs"]
    data = one.segments[0].data[place - 0x100000 :]
    assert len(data) > 300
    assert other.segments[0].data[place - 0x100000 :].startswith(data)


def test_fewer_crossings_and_cycles_than_with_full_virtualization_and_fewer_still_in_batches(runs):
    exits = {name: run.exits.total() for name, run in runs.items()}
    assert exits["trap-and-emulate"] > 5 * exits["single"] > 10 * exits["batched"] > 0
    assert exits["vt-x"] > 5 * exits["single"]
    cycles = {name: run.cycles for name, run in runs.items()}
    assert cycles["trap-and-emulate"] > cycles["vt-x"] > 5 * cycles["single"]
    assert cycles["single"] > cycles["batched"]
    assert runs["batched"].system.counters["batched hypercalls"] > 1.5 * runs["batched"].exits["hypercall"] > 0


def test_there_are_no_hidden_faults_and_nothing_is_emulated(runs):
    for name in ("single", "batched"):
        assert set(runs[name].exits) == {"hypercall", "external interrupt", "true page fault"}
        assert runs[name].exits["true page fault"] == 1  # that of process 2, which minios ends
        assert not runs[name].emulated
        assert not runs[name].system.machine.platform.bus.port_accesses
        audit(runs[name].system)


def test_system_calls_do_not_leave_the_guest(runs):
    """Hardware delivers int 0x80 from ring 3 into ring 1; 49 of them, and yet fewer exits than that."""
    assert "49 system calls" in runs["batched"].console
    assert runs["batched"].exits.total() < 49
    assert runs["batched"].system.machine.cpu.delivered == runs["batched"].exits.total() + 49


def test_compare_takes_the_port_in_the_guests_place():
    image, port = guests.load("minios"), guests.load("minios_pv")
    found = vmlab.compare(image, ["native", "trap-and-emulate", UNDER], ported=port)
    assert found.faithful
    assert found.rows()[2]["same as first"]
    assert "native and paravirtualization: console and end are the same (of the guest's port)" in found.describe()
    assert found.divergence() is None
    with pytest.raises(OptionError, match="a port ran"):
        found.divergence(UNDER)
    other = vmlab.compare(image, ["native", UNDER], ported=kernel("main: jmp quit\n"))
    assert not other.faithful
    assert other.differences(1)[0].startswith("console: ")
    assert "1 differences" in other.describe()


def test_cycles_are_counted_by_cause(runs):
    found = runs["batched"].cycles_by_cause
    costs, counters = runs["batched"].system.machine.cpu.model.costs, runs["batched"].system.counters
    assert found["hypercalls"] == counters["hypercalls"] * costs.vmm_hypercall
    assert found["direct paging"] == runs["batched"].system.frames.entries_checked * costs.vmm_check_entry > 0
    assert found["event delivery"] == counters["injected"] * costs.vmm_bounce > 0
    assert sum(found.values()) == runs["batched"].cycles


# -- who may run -------------------------------------------------------------------------------------------------------------


def test_a_guest_that_is_not_ported_is_refused():
    for name in ("minios", "hello", "long_mode"):
        with pytest.raises(
            OptionError, match=rf"{name} is not ported to paravirtualization: it has no Xen notes"
        ) as error:
            vmlab.run(guests.load(name), under=UNDER)
        assert "\n" not in str(error.value)


def note(kind: int, contents: bytes) -> bytes:
    padded = contents + bytes(-len(contents) % 4)
    return b"".join(n.to_bytes(4, "little") for n in (4, len(contents), kind)) + b"Xen\0" + padded


def test_notes_say_how_to_start():
    data = (
        note(5, b"xen-3.0\0")
        + note(1, (0xC0100000).to_bytes(4, "little"))
        + note(3, (0xC0000000).to_bytes(4, "little"))
    )
    found = find_notes(image_of(data + note(6, b"test\0") + note(4, (0x1000).to_bytes(8, "little"))))
    assert (found.entry, found.base, found.offset, found.system) == (0xC0100000, 0xC0000000, 0x1000, "test")
    assert find_notes(image_of(b"\x90" * 64)) is None
    assert find_notes(image_of(b"\x90" + data)) is None  # notes are aligned
    assert find_notes(image_of(data[:15])) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (note(5, b"xen-4.9\0"), "ported to the interface 'xen-4.9'"),
        (note(5, b"xen-3.0\0") + note(9, b"yes\0"), "page tables of PAE mode"),
        (note(5, b"xen-3.0\0") + note(3, (0x1000).to_bytes(4, "little")), "a multiple of 4 MiB"),
        (note(5, b"xen-3.0\0") + note(3, (0xFF800000).to_bytes(4, "little")), "a multiple of 4 MiB"),
        (note(5, b"xen-3.0\0") + note(4, (0x200000).to_bytes(4, "little")), "lies outside memory"),
    ],
)
def test_ports_to_something_else_are_refused(data, message):
    with pytest.raises(ImageError, match=message):
        vmlab.run(image_of(data), under=UNDER, memory=4 << 20)


def test_too_little_memory_is_told():
    with pytest.raises(ImageError, match=r"--memory 2M"):
        vmlab.run(guests.load("minios_pv"), under=UNDER, memory=1 << 20)
    assert vmlab.run(guests.load("minios_pv"), under=UNDER, memory=2 << 20).outcome == "exit"


def test_what_a_guest_has_not_is_refused():
    image = guests.load("minios_pv")
    with pytest.raises(OptionError, match="no keyboard"):
        vmlab.run(image, under=UNDER, keys="ls")
    with pytest.raises(OptionError, match="one disk at most"):
        vmlab.run(image, under=UNDER, disks=[Disk(bytes(512))] * 2)
    with pytest.raises(OptionError, match="no keyboard"):
        started("main: jmp quit\n").send(b"a", device="keyboard")


def test_one_processor_a_guest():
    with pytest.raises(OptionError, match="2 processors is not possible"):
        vmlab.run(guests.load("minios_pv"), under=UNDER, cpus=2)


@pytest.mark.parametrize("cpu", sorted(vmlab.CPU_MODELS))
def test_every_processor_will_do(cpu, runs):
    assert vmlab.run(guests.load("minios_pv"), under=UNDER, cpu=cpu).console == runs["native"].console


# -- what a kernel finds -------------------------------------------------------------------------------------------------------


def test_the_start_info():
    system, guest = finish("main: jmp quit\n", memory=6 << 20)
    info, memory = word(guest, "info"), guest.memory
    assert memory.read_bytes(info, 14) == b"xen-3.0-x86_32"
    assert memory.read(info + 32, 4) == 6 << 8
    assert memory.read(info + 36, 4) == system.domains[0].shared
    assert memory.frames[word(guest, "ring") >> 12] == memory.read(info + 52, 4)
    directory = memory.read(info + 60, 4)
    assert memory.frames[directory >> 12] << 12 == system.domains[0].base
    assert memory.read(info + 64, 4) == 2
    assert word(guest, "stack") == directory + 0x3000
    p2m = memory.read(info + 68, 4)
    assert [memory.read(p2m + 4 * page, 4) for page in range(6 << 8)] == memory.frames
    assert memory.frames == sorted(memory.frames, reverse=True)


def test_a_kernel_high_up():
    """Linked for 3 GiB, as Linux is: the first frame is mapped there."""
    notes = "note 1, start\n note 3, 0xC0000000\n note 4, 0xC0000000\n"
    source = PRELUDE.replace("org 0x100000", "org 0xC0100000").replace("note 1, start\n", notes)
    run = vmlab.run(
        vmlab.assemble(source + "main: try mov eax, [0x100000]\n jmp quit\n" + PAGES), under=UNDER, memory=4 << 20
    )
    guest = run.guests[0]
    assert (run.outcome, run.status) == SHUT
    assert guest.vcpu.ip >> 20 == 0xC01
    assert guest.memory.read(guest.image.symbols["events"] - 0xC0000000, 4) == 1  # nothing lies lower down
    audit(run.system)


def test_memory_beyond_4_mib_of_tables():
    """A large image gets more than one page table."""
    source = "main: mov eax, [big + 0x500000]\n mov [result], eax\n jmp quit\nresult: dd 0\nbig: times 0x500000 db 0\n dd 0x1234567\n"
    _, guest = finish(source, memory=16 << 20)
    assert (guest.outcome, word(guest, "result")) == ("exit", 0x1234567)
    assert guest.memory.read(word(guest, "info") + 64, 4) == 3


# -- exceptions ----------------------------------------------------------------------------------------------------------------


def test_privileged_instructions_fault_in_ring_1():
    tried = [
        "cli",
        "sti",
        "hlt",
        "in al, dx",
        "out dx, al",
        "mov eax, cr0",
        "mov cr3, eax",
        "lgdt [info]",
        "lidt [info]",
        "invlpg [info]",
        "rdmsr",
        "wbinvd",
        "clts",
    ]
    source = "main:" + "".join(f" try {each}\n" for each in tried) + " jmp quit\n"
    _, guest = finish(source)
    assert [event[:2] for event in log(guest)] == [(13, 0)] * len(tried)
    assert {event[3] & 0xFFFF for event in log(guest)} == {0xE019}
    assert (guest.outcome, guest.status) == SHUT


def test_exceptions_come_with_their_error_codes():
    source = """
main:   xor ecx, ecx
        try div ecx
        try ud2
        try int3
        try mov eax, [0x900000]
        try mov dword [0x900004], 1
        try int 0x30
        mov eax, 0x28
        try mov ds, eax
        jmp quit
"""
    _, guest = finish(source)
    seen = [event[:2] for event in log(guest)]
    assert seen == [(0, 0), (6, 0), (3, 0), (14, 0), (14, 2), (13, 0x30 * 8 + 2), (13, 0x28)]
    assert [event[5] for event in log(guest) if event[0] == 14] == [0x900000, 0x900004]


def test_software_interrupts_that_the_kernel_allows():
    """A handler with DPL 3, and one for the kernel alone."""
    source = """
main:   hypercall 0, mine
        int 14                          ; pushes no error code, unlike the exception
first:  mov [fault], ebx
        int 0x40
after:  mov [where], ebx
        jmp quit
handler: mov ebx, [esp]
        push eax
        mov eax, 23
        int 0x82
where:  dd 0
fault:  dd 0
align 8
mine:   db 0x40, 1
        dw KERNEL_CODE
        dd handler
        db 14, 1
        dw KERNEL_CODE
        dd handler
        dd 0, 0
"""
    _, guest = finish(source)
    assert guest.outcome == "exit"
    assert word(guest, "where") == guest.image.symbols["after"]
    assert word(guest, "fault") == guest.image.symbols["first"]
    assert guest.exits["software interrupt"] == 2


def test_time_can_be_read():
    source = "main: rdtsc\n mov [first], eax\n rdtsc\n mov [second], eax\n mov eax, [shared + 48]\n mov [ns], eax\n jmp quit\nfirst: dd 0\nsecond: dd 0\nns: dd 0\n"
    _, guest = finish(source)
    assert word(guest, "second") - word(guest, "first") == 2
    assert word(guest, "ns") == nanoseconds(word(guest, "second") + 1)  # as it was when the kernel went on
    assert guest.exits["RDTSC"] == 2


def test_time_is_read_through_a_stale_translation():
    """The page with RDTSC is mapped no more, but the TLB knows it: what is emulated is what the processor has fetched."""
    source = """
main:   mov dword [page_1], 0xC3310F    ; rdtsc, ret
        mov eax, page_1
        call eax
        hypercall 14, page_1, 0, 0, 0   ; and no flush
        mov eax, page_1
        call eax
        mov [result], eax
        hypercall 14, page_1, 0, 0, 2
        mov dword [resume], back
        mov eax, page_1
        call eax
back:   jmp quit
result: dd 0
"""
    _, guest = finish(source)
    assert word(guest, "result") > 0
    assert [event[0] for event in log(guest)] == [14]
    assert (guest.outcome, guest.exits["RDTSC"]) == ("exit", 2)


@pytest.mark.parametrize(
    "source",
    [
        "main: hypercall 0, 0\n ud2\n",  # no handlers
        "main: mov esp, 0x80000000\n ud2\n",  # no stack
        "main: mov esp, 0xFFD00000\n ud2\n",  # the hypervisor's
        "main: mov esp, shared + 2\n mov eax, [info]\n mov esp, [eax + 60]\n add esp, 64\n ud2\n",  # a page directory
    ],
)
def test_an_exception_that_cannot_be_delivered_ends_the_guest(source):
    system, guest = finish(source)
    assert guest.outcome == "triple-fault"
    audit(system)


def test_handlers_that_fault_at_once_are_a_livelock():
    source = "main: mov esp, 0x3FF000\n hypercall 0, bad\n ud2\nhandler: ud2\nalign 8\nbad: db 6, 0\n dw KERNEL_CODE\n dd handler\n dd 0, 0\n"
    _, guest = finish(source)
    assert guest.outcome == "livelock"


def test_running_beyond_the_limit():
    _, guest = finish("main: mov dword [resume], quit\n mov eax, 0xFFC00000\n jmp eax\n")
    assert (log(guest)[0][0], guest.outcome) == (13, "exit")


# -- events --------------------------------------------------------------------------------------------------------------------

TICKS = """
main:   hypercall 32, 1, virq
        hypercall 24, 6, 0, period
        mov byte [shared + 1], 0
.wait:  hypercall 29, 1
        cmp dword [upcalls], 5
        jb .wait
        mov eax, [pending]
        mov [seen], eax
        jmp quit
align 8
virq:   dd 0, 0, 0
period: dd 1000000, 0
seen:   dd 0
"""


def test_the_timer_ticks():
    _, guest = finish(TICKS)
    assert guest.outcome == "exit"
    assert word(guest, "seen") == 1 << word(guest, "virq", 8)
    guest.platform.now(guest.vcpu.retired)
    assert guest.platform.clock.now == pytest.approx(5 * vmlab.machine.clock.NOMINAL_HZ / 1000, rel=0.01)
    assert guest.instructions < 1_000


def test_a_timer_of_one_shot_is_never_early():
    source = """
main:   hypercall 32, 1, virq
        hypercall 15, 2000000, 0
        hypercall 29, 1
        mov eax, [shared + 48]
        mov [then], eax
        jmp quit
align 8
virq:   dd 0, 0, 0
then:   dd 0
"""
    _, guest = finish(source)
    assert word(guest, "upcalls") == 1
    assert 2_000_000 <= word(guest, "then") < 2_001_000


def test_the_mask_holds_events_back_without_an_exit():
    source = """
main:   hypercall 32, 1, virq
        hypercall 24, 6, 0, period
        mov ecx, 30000
.loop:  loop .loop
        mov eax, [upcalls]
        mov [masked], eax
        mov al, [shared]
        mov [waiting], al
        mov byte [shared + 1], 0
        hypercall 17, 0                 ; the next entry tells
        mov eax, [upcalls]
        mov [unmasked], eax
        jmp quit
align 8
virq:   dd 0, 0, 0
period: dd 1000000, 0
masked: dd 9
unmasked: dd 0
waiting: dd 0
"""
    _, guest = finish(source)
    assert [word(guest, name) for name in ("masked", "waiting", "unmasked")] == [0, 1, 1]
    assert "interrupt window" not in guest.exits


def test_nothing_to_wait_for_is_an_end():
    _, guest = finish("main: hypercall 29, 1\n jmp quit\n")
    assert guest.outcome == "halt"


def test_a_run_has_its_limit_asleep_too():
    source = TICKS.replace("cmp dword [upcalls], 5\n        jb .wait", "jmp .wait")
    _, guest = finish(source, max_instructions=2_000)
    assert guest.outcome == "limit"


def test_a_shutdown_says_why():
    assert finish("main: jmp quit\n")[1].status == 1
    assert (finish("main: jmp crash\n")[1].outcome, finish("main: jmp crash\n")[1].status) == CRASHED
    assert finish("main: mov dword [reason], 1\n jmp quit\n")[1].outcome == "reset"


# -- the console -----------------------------------------------------------------------------------------------------------------

ECHO = """
main:   mov byte [shared + 1], 0
        mov edi, [ring]
.more:  mov eax, [edi + 3072]           ; consumed
        cmp eax, [edi + 3076]
        jne .read
        hypercall 29, 1
        mov edi, [ring]
        jmp .more
.read:  and eax, 1023
        mov dl, [edi + eax]
        inc dword [edi + 3072]
        mov ecx, [edi + 3084]
        and ecx, 2047
        mov [edi + ecx + 1024], dl
        inc dword [edi + 3084]
        cmp dl, '!'
        jne .more
        hypercall 32, 4, console_port
        jmp quit
"""


def test_what_is_typed_comes_in_the_ring_and_goes_out_at_once():
    system, guest = finish(ECHO, input="hello, ring!")
    assert guest.console == "hello, ring!"
    assert guest.exits["hypercall"] == 3 + 1 + 1 + 1  # the prelude's; to wait; all characters; the end
    assert system.counters["injected"] == 1


def test_a_session_at_the_console():
    session = Session(vmlab.record(kernel(ECHO), under=UNDER, memory=4 << 20, steps=0))
    session.advance_until_waiting(5_000)
    assert session.state == "waiting"
    session.type("ab!")
    session.advance_until_waiting(5_000)
    assert (session.state, session.terminal.text.strip()) == ("exit", "ab!")


def test_more_than_fits_waits():
    text = "x" * 1500 + "!"
    _, guest = finish(ECHO, input=text)
    assert guest.console == text


def test_a_guest_that_waits_for_a_key_goes_on_when_one_is_typed():
    system = started(ECHO)
    system.run()
    assert system.guests[0].outcome == "halt"
    system.send(b"a!")
    system.run()
    assert (system.guests[0].outcome, system.guests[0].console) == ("exit", "a!")


def test_console_io_without_the_ring():
    _, guest = finish("main: hypercall 18, 0, 5, text\n mov [done], eax\n jmp quit\ntext: db 'early'\ndone: dd 0\n")
    assert (guest.console, word(guest, "done")) == ("early", 5)


def test_a_ring_that_says_more_than_there_is():
    source = "main: mov edi, [ring]\n mov dword [edi + 3084], 5000\n hypercall 32, 4, console_port\n mov dword [edi + 3072], 0x80000000\n jmp quit\n"
    _, guest = finish(source, input="typed")
    assert (guest.outcome, guest.console) == ("exit", "")


# -- several guests ----------------------------------------------------------------------------------------------------------------


def test_each_as_if_it_were_alone(runs, monkeypatch):
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", 1_500)
    image = guests.load("minios_pv")
    together = vmlab.run([image] * 3, under=UNDER)
    assert {guest.console for guest in together.guests} == {runs["native"].console}
    assert {guest.instructions for guest in together.guests} == {runs["batched"].instructions}
    assert together.system.counters["world switches"] > 20
    frames = [frame for guest in together.guests for frame in guest.memory.frames]
    assert len(frames) == len(set(frames))
    audit(together.system)


TALK = """
main:   mov byte [shared + 1], 0
        cmp dword [role], 0
        jne .second
        hypercall 32, 6, offer          ; a port that guest 2 may bind
        hypercall 29, 1                 ; wait for its word
        hypercall 32, 4, offer + 4      ; and answer
        jmp quit
.second: hypercall 32, 0, bind
        hypercall 32, 4, bind + 8
        hypercall 29, 1
        hypercall 32, 5, status
        hypercall 32, 3, bind + 8
        jmp quit
align 4
role:   dd {role}
offer:  dw SELF, 2
        dd 0
bind:   dd 1, 2, 0
status: dd SELF, 2, 0, 0, 0, 0
"""


def test_guests_notify_each_other():
    images = [kernel(TALK.format(role=n), f"guest {n}") for n in (0, 1)]
    system = vmlab.run(images, under=UNDER, memory=4 << 20, max_instructions=10_000).system
    first, second = system.guests
    assert (first.outcome, second.outcome) == ("exit", "exit")
    assert word(first, "offer", 4) == word(second, "bind", 8) == 2  # 1 is the console's
    assert word(first, "upcalls") == 1
    assert word(second, "upcalls") == 2  # the binding tells itself, and the answer
    assert [word(second, "status", 8 + 4 * n) for n in range(4)] == [2, 0, 1, 2]
    assert system.domains[0].channels.bound[2].kind == 1  # its other end has been closed
    audit(system)


def test_guests_that_wait_for_each_other_for_ever_end():
    system = started("main: hypercall 29, 1\n jmp quit\n", 3)
    system.run()
    assert [guest.outcome for guest in system.guests] == ["halt"] * 3


def test_yielding_gives_the_others_a_turn():
    system = started("main: mov ecx, 50\n.l: push ecx\n hypercall 29, 0\n pop ecx\n loop .l\n jmp quit\n", 2)
    system.run()
    assert system.counters["world switches"] > 90


# -- saving ------------------------------------------------------------------------------------------------------------------------


def end(system):
    system.run()
    seen = [
        (guest.outcome, guest.console, guest.instructions, guest.memory.digest(), dict(guest.exits))
        for guest in system.guests
    ]
    return seen, system.steps, system.cycles_by_cause(), system.machine.memory.digest()


def fresh():
    talk = [kernel(TALK.format(role=n), f"guest {n}") for n in (0, 1)]
    return vmlab.vmm.techniques.build([*talk, guests.load("minios_pv")], UNDER, memory=4 << 20, max_instructions=60_000)


def test_a_system_goes_on_elsewhere(monkeypatch):
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", 700)
    whole = fresh()
    expected = end(whole)
    for place in sorted(random.Random(1).sample(range(whole.steps), 4)):
        first = fresh()
        first.advance(place)
        saved = pickle.loads(pickle.dumps({"system": first.save(), "memory": first.machine.memory.save()}))
        other = fresh()
        other.machine.memory.load(saved["memory"])
        other.load(saved["system"])
        assert other.save() == saved["system"]
        audit(other)
        assert end(other) == expected
        assert end(first) == expected


def test_damaged_states_are_refused_whole():
    system = fresh()
    system.advance(2_000)
    good, memory = system.save(), system.machine.memory.save()
    frames = good["frames"]
    domain = good["guests"][0]["domain"]
    for path, value in (
        (("frames", "pinned"), [*frames["pinned"], [0x100, 2]]),
        (("frames", "pinned"), [*frames["pinned"], [frames["pinned"][0][0] - 1, 3]]),
        (("frames", "pinned"), [[frame, 2] for frame, _ in frames["pinned"]]),
        (("frames", "pinned"), [[frame, 9] for frame, _ in frames["pinned"]]),
        (("guests", 0, "domain", "base"), domain["base"] + 0x1000),
        (("guests", 0, "domain", "base"), 0x100000),
        (("guests", 0, "domain", "traps"), [[300, 0, 0]]),
        (("guests", 0, "domain", "channels", "bound"), [[1, 2, 0, 0], [2, 2, 3, 9]]),
        (("guests", 0, "domain", "channels", "bound"), [[0, 2, 0, 0]]),
        (("guests", 0, "domain"), None),
        (("switcher", "retired"), -1),
    ):
        bad = pickle.loads(pickle.dumps(good))
        place = bad
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(StateError):
            system.load(bad)
        assert system.save() == good
    # Memory in which a table has been written to is not the one that was saved.
    table = system.domains[2].memory.frames[guests.load("minios_pv").symbols["table_1"] >> 12]
    contents = memory["pages"].get(table, ZERO_PAGE)
    assert contents != ZERO_PAGE
    memory["pages"][table] = (0x100007).to_bytes(4, "little") + contents[4:]
    other = fresh()
    other.machine.memory.load(memory)
    with pytest.raises(StateError, match="page tables in memory"):
        other.load(good)


def test_a_recording_goes_back():
    recording = vmlab.record(guests.load("minios_pv"), under=UNDER, memory=4 << 20)
    seen = {}
    generator = random.Random(3)
    for step in sorted(generator.sample(range(recording.length), 6)):
        recording.seek(step)
        seen[step] = recording.system.save(), recording.system.machine.memory.digest()
    for step in generator.sample(sorted(seen), 6):
        recording.seek(step)
        assert (recording.system.save(), recording.system.machine.memory.digest()) == seen[step]
        audit(recording.system)
    names = [event.name for event in recording.events if event.kind == "hypercall"]
    assert {"update_va_mapping", "set_trap_table", "multicall", "stack_switch", "mmuext_op", "sched_op"} <= set(names)


def test_a_snapshot_goes_on(tmp_path, runs):
    image = guests.load("minios_pv")
    booted = vmlab.run(image, under=UNDER, until="part a")
    vmlab.save(booted, tmp_path / "booted.vmlab")
    again = vmlab.run(vmlab.load_state(tmp_path / "booted.vmlab"))
    assert again.console == runs["native"].console
    assert again.under == UNDER


# -- looking -----------------------------------------------------------------------------------------------------------------------


def test_what_happens_is_told():
    recording = vmlab.record(guests.load("minios_pv"), under=UNDER, memory=4 << 20)
    from vmlab.views.scene import SceneWriter

    writer = SceneWriter(recording)
    captions = {
        writer.scene(event.step)["caption"] for event in recording.events if event.kind in ("hypercall", "trap")
    }
    text = "\n".join(captions)
    assert "The guest makes 8 hypercalls at once, in one crossing: update_va_mapping" in text
    assert re.search(r"The guest calls the VMM: set_trap_table\(0x\w+\). The VMM answers 0.", text)
    assert "INT 0x82 at 0x" in text
    program = guests.load("minios_pv").symbols["program_1"]
    step = next(
        step for step in range(500, 2_000) if "calls the guest's kernel directly" in writer.scene(step)["caption"]
    )
    scene = writer.scene(step)
    assert scene["ring"] == 1
    assert scene["mode:0"] == "kernel"
    assert writer.scene(step - 1)["code:0"][1] >= program


def test_registers_are_those_of_the_guest_at_each_instant():
    """Rings change without an exit, and so does the mask of events: what is told is live."""
    recording = vmlab.record(guests.load("minios_pv"), under=UNDER, memory=4 << 20)
    seen = set()
    for _, _, system in recording.frames(900, 1_600):
        domain, state = system.domains[0], system.cpu_state()
        assert bool(state.flags & 0x200) == (not domain.channels.masked)
        if not system.in_vmm:
            assert (state.cpl, state.ip) == (system.machine.cpu.cpl, system.machine.cpu.ip)
            assert domain.mode == ("user" if state.cpl == 3 else "kernel")
        seen.add((state.cpl, domain.channels.masked))
    assert seen == {(1, True), (1, False), (3, False)}


def test_pages_are_mapped_in_one_crossing_or_in_many():
    """Sixteen pages: by a call each, by a list of calls, and by a list of entries."""
    head = """
main:   mov eax, page_1
        call machine
        or eax, 3
        mov ebp, eax
        mov eax, [info]
        mov eax, [eax + 60]
        add eax, 0x1000
        call machine
        mov [table], eax
        mov dword [left], 16
"""
    each = {
        "single": """
.next:  mov edx, [left]
        shl edx, 12
        add edx, 0x200000
        hypercall 14, edx, ebp, 0, 0
        dec dword [left]
        jnz .next
""",
        "multicall": """
        mov edi, list
.next:  mov edx, [left]
        shl edx, 12
        add edx, 0x200000
        mov dword [edi], 14
        mov [edi + 8], edx
        mov [edi + 12], ebp
        add edi, 32
        dec dword [left]
        jnz .next
        hypercall 13, list, 16
""",
        "list": """
        mov edi, list
.next:  mov edx, [left]
        lea edx, [edx * 4 + 0x200 * 4]
        add edx, [table]
        mov [edi], edx
        mov [edi + 8], ebp
        add edi, 16
        dec dword [left]
        jnz .next
        hypercall 1, list, 16, 0, SELF
""",
    }
    tail = " mov [0x201000], ebp\n jmp quit\ntable: dd 0\nleft: dd 0\nalign 8\nlist: times 16 * 8 dd 0\n"
    ran = {name: finish(head + code + tail) for name, code in each.items()}
    for system, guest in ran.values():
        assert guest.outcome == "exit"
        assert word(guest, "page_1") >> 12 == frame_of(guest, "page_1")
        assert system.frames.counts[frame_of(guest, "page_1")] == 17
        audit(system)
    exits = {name: guest.exits["hypercall"] for name, (_, guest) in ran.items()}
    assert exits == {"single": 16 + 4, "multicall": 1 + 4, "list": 1 + 4}
    cycles = {name: system.cycles for name, (system, _) in ran.items()}
    assert cycles["single"] > cycles["multicall"] > cycles["list"]


def test_the_layers_and_the_walk():
    run = vmlab.run(guests.load("minios_pv"), under=UNDER, until="part b")
    graph = vmlab.layers(run)
    assert graph.nodes["guest0/kernel"]["privilege"] == "kernel mode, ring 1"
    assert graph.nodes["guest0/shadow"]["label"] == "checked page tables"
    assert len([node for node in graph if "user" in node]) == 2
    walked = vmlab.walk(run, 0x400000, access="write")
    guest = run.guests[0]
    assert walked.physical >> 12 in (frame_of(guest, "frame_1_page"), frame_of(guest, "frame_2_page"))
    counts = vmlab.memory_map(run).counts()
    assert counts["tables", "minios_pv"] == 5  # two directories, their own tables, and the kernel's


def test_the_debugger_finds_who_wrote():
    debugger = vmlab.Debugger(vmlab.record(guests.load("minios_pv"), under=UNDER, memory=4 << 20))
    debugger.break_at("call_sleep")
    for _ in range(3):
        debugger.cont()
    assert repr(debugger.who_wrote("ticks")).endswith("write to ticks, by inc dword [0x1009dc]")
    symbols = guests.load("minios_pv").symbols
    assert symbols["timer"] < debugger.view.address < symbols["fault"]


def test_a_ported_kernel_on_the_bare_machine_gets_a_hint():
    run = vmlab.run(guests.load("minios_pv"), max_instructions=10_000)
    assert run.outcome == "triple-fault"
    assert run.advice == ["minios_pv is ported to a hypervisor: try under='paravirtualization'"]
