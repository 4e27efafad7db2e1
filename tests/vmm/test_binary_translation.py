"""Binary translation: what a unit becomes, and that no guest can tell."""

from __future__ import annotations

import random
from itertools import pairwise

import capstone
import pytest

import vmlab
from tests.vmm.harness import differences, finish, kernel, same, seen
from tests.vmm.random_kernels import PaeWriter, SensitiveWriter, Writer
from vmlab.isa.x86.assembler import assemble
from vmlab.vmm import translation_code
from vmlab.vmm.divergence_finder import find_divergence
from vmlab.vmm.techniques import build
from vmlab.vmm.translation_code import CALL_OUT, Copy, landing
from vmlab.vmm.translation_unit import translate

DATA = 0xFFC80000
LIMIT = 32_000
CAPSTONE = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
CODE = {
    "innocuous": "inc ebx\n add eax, [ecx]\n rep movsd\n ret",
    "flags": "cli\n sti\n pushfd\n popfd\n pushfw\n hlt",
    "a call": "call 0x1234",
    "a far jump": "jmp 8:0x1234",
    "indirect": "call [esp + ecx * 4 + 7]",
    "a conditional jump": "jne 0x2000",
    "a loop": "nop\n loop $",
    "sensitive": "sgdt [0x100]\n smsw eax\n mov eax, cs\n lar eax, ecx\n int 0x30",
    "its own segments": "mov eax, [gs:4]\n mov eax, [cs:4]\n mov eax, [fs:4]\n jmp [gs:8]",
    "undefined": "db 0x0F, 0xFF, 0xFF, 0xFF, 0xFF",
}


def unit_of(source, **options):
    return translate(0x1000, assemble(f"org 0x1000\n{source}").code, DATA, **options)


def text(unit):
    """Return what a unit became, as Capstone reads it."""
    return [f"{each.mnemonic} {each.op_str}".strip() for each in CAPSTONE.disasm(bytes(unit.code), 0)]


@pytest.mark.parametrize("name", CODE)
def test_each_instruction_has_a_place_and_one_of_each_group_counts(name):
    unit = unit_of(CODE[name])
    boundaries, at = [], 0
    while at < len(unit.code):
        boundaries.append(at)
        each = next(CAPSTONE.disasm(bytes(unit.code[at : at + 15]), 0, count=1))
        at += 5 if at in unit.jumps else each.size
    assert boundaries == list(unit.places)
    order = [*sorted(unit.starts.values()), len(unit.code)]
    for start, end in pairwise(order):
        counting = [place for place in unit.places if start <= place < end and place not in unit.glue]
        ways = 2 if unit.source.startswith(b"\xfb", unit.places[start].ip - 0x1000) else 1  # STI
        assert len(counting) == (0 if unit.code[start : start + 2] == CALL_OUT else ways)
        assert all(unit.places[place].ip in unit.starts for place in counting)


def test_innocuous_code_is_copied_and_sensitive_code_is_not():
    assert unit_of("inc ebx\n xchg eax, ecx").code[:2] == b"\x43\x91"
    assert text(unit_of("cli"))[0] == f"mov dword ptr gs:[{DATA:#x}], 0"
    for source in (
        "popfw",
        "sgdt [0]",
        "mov ds, eax",
        "in al, dx",
        "mov cr3, eax",
        "mov eax, [gs:0]",
        "rdtsc",
        "iretd",
    ):
        assert unit_of(source).code.startswith(CALL_OUT)
    assert text(unit_of("ret"))[1:2] == ["pop ecx"]
    assert text(unit_of("call 0x1234"))[0] == "push 0x1005"


def test_a_unit_ends_with_its_page_and_after_twelve_instructions():
    assert translate(0x1FFE, b"\x89", DATA) is None
    assert len(translate(0x1FFE, b"\x90\x89", DATA).starts) == 1
    assert len(translate(0x1000, b"\x90" * 40, DATA).starts) == 12
    assert translate(0x1000, b"\x90" * 40, DATA, trapping=[0x1004]).code[4:6] == CALL_OUT


def test_a_copy_is_read_where_the_address_is_its():
    copies = {0x1000: Copy(0xFEE00020, 16)}
    assert text(unit_of("mov eax, [ebx + 0x20]", copies=copies))[-3:-2] == [f"mov eax, dword ptr gs:[{DATA + 16:#x}]"]
    assert "ud2" in text(landing(0x80001234, DATA))


@pytest.mark.parametrize("name", vmlab.guests.names())
def test_guests_are_as_on_the_bare_machine(name):
    image = vmlab.guests.load(name)
    native, virtual = (
        finish(image, under, max_instructions=60_000, input="x") for under in ("native", "binary-translation")
    )
    assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))


def compare(image, under="binary-translation", **options):
    """Return what a guest sees other than natively."""
    systems = [finish(image, each, max_instructions=LIMIT, input="abcdef", **options) for each in ("native", under)]
    return differences(*(seen(system.guests[0]) for system in systems))


@pytest.mark.parametrize("writer", [Writer, PaeWriter, SensitiveWriter])
@pytest.mark.parametrize("group", range(4))
def test_random_kernels(writer, group):
    for seed in range(4 * group, 4 * group + 4):
        image = kernel(writer(random.Random(seed)).kernel(), f"seed {seed}")
        assert not compare(image, engine=("auto", "interpreter")[seed % 2])


@pytest.mark.long
@pytest.mark.parametrize("writer", [Writer, PaeWriter, SensitiveWriter])
@pytest.mark.parametrize("group", range(50))
def test_many_more_kernels(writer, group):
    for seed in range(1000 + 20 * group, 1020 + 20 * group):
        image = kernel(writer(random.Random(seed)).kernel(), f"seed {seed}")
        assert not compare(image, engine=("auto", "interpreter")[seed % 2])


def test_trap_and_emulate_fails_where_binary_translation_does_not():
    images = [kernel(SensitiveWriter(random.Random(seed)).kernel(), f"seed {seed}") for seed in range(8)]
    assert sum(bool(compare(image, "trap-and-emulate")) for image in images) > 1


@pytest.mark.parametrize("seed", range(3))
def test_no_instruction_shows_it(seed):
    image = kernel(SensitiveWriter(random.Random(seed)).kernel(), f"seed {seed}")
    systems = [
        build(image, under, max_instructions=3_000, input="abcdef") for under in ("native", "binary-translation")
    ]
    assert find_divergence(systems, ("native", "binary-translation"), every=1) is None


def translated(source, **options):
    """Run a kernel natively and in translation; return the system and its cache."""
    image = kernel(source)
    native, virtual = (finish(image, under, **options) for under in ("native", "binary-translation"))
    assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))
    assert native.guests[0].outcome == "exit"
    return virtual, virtual.caches[0]


def test_the_interrupt_flag_costs_no_exit():
    loop = "main: mov edx, 500\n.next: pushfd\n cli\n pop eax\n test eax, 0x200\n sti\n dec edx\n jnz .next\n call quit"
    system, cache = translated(loop)
    assert sum(system.guests[0].exits.values()) < 60
    assert cache.counters["chains"] > 0
    assert finish(kernel(loop), "trap-and-emulate").guests[0].exits["CLI or STI"] >= 1000


def test_returns_find_their_way_without_an_exit():
    system, cache = translated("main: mov edx, 500\n.next: call .sub\n dec edx\n jnz .next\n call quit\n.sub: ret")
    assert cache.counters["landings"] >= 1
    assert system.guests[0].exits["translation-cache miss"] < 12
    assert system.machine.cpu.uncounted.executed > 500 * 8


def test_code_that_writes_to_itself_is_translated_anew():
    _, cache = translated(
        "main: mov edx, 40\n.next: mov [.place + 1], edx\n.place: mov ecx, 5\n add eax, ecx\n dec edx\n jnz .next\n call quit"
    )
    assert cache.counters["dropped"] >= 40


def test_what_keeps_trapping_becomes_a_call_out_and_may_be_itself_again():
    writes = "main: call paging_on\n mov eax, [0x400000]\n mov edx, 300\n.next: mov dword [TABLE_1 + 40], 0\n dec edx\n jnz .next\n call quit"
    system = finish(kernel(writes), "binary-translation", shadow_policy="traced")
    assert not differences(seen(finish(kernel(writes), "native").guests[0]), seen(system.guests[0]))
    assert system.caches[0].counters["retranslations"] >= 2
    assert system.guests[0].exits["traced write"] < 30
    assert finish(kernel(writes), "trap-and-emulate", shadow_policy="traced").guests[0].exits["traced write"] >= 300


def test_registers_of_the_apic_are_read_from_a_copy():
    reads = "main: mov edx, 400\n.next: mov ecx, 0xFEE00000\n mov eax, [ecx + 0x20]\n mov ecx, [ecx + 0x30]\n dec edx\n jnz .next\n call quit"
    system, cache = translated(reads)
    assert len(cache.adaptation.copies) == 2
    assert system.guests[0].exits["memory-mapped I/O"] < 20
    other = reads.replace(
        "[ecx + 0x30]",
        "[ecx + 0x30]\n cmp edx, 200\n jne .on\n mov dword [0xFEE00080], 0x20\n.on: mov eax, [0xFEE00080]\n add [FREE], eax",
    )
    translated(other)


def test_a_read_of_another_address_is_not_of_the_copy():
    translated("""
main:   mov edx, 90
.next:  mov ebx, 0xFEE00020
        cmp edx, 30
        ja .read
        mov ebx, FREE
.read:  mov eax, [ebx]
        add [FREE], eax
        inc dword [FREE]
        dec edx
        jnz .next
        call quit
""")


SPACES = """
main:   call paging_on
        mov edi, FREE                   ; two directories, and their tables for 0-4 MiB, with no accessed bit set
        mov dword [edi], FREE + 0x2007
        mov dword [edi + 0x1000], FREE + 0x3007
        mov dword [edi + 4], TABLE_1 + 7
        mov dword [edi + 0x1004], TABLE_1 + 7
        mov eax, 7
.entry: mov [edi + 0x2000], eax
        mov [edi + 0x3000], eax
        add edi, 4
        add eax, 0x1000
        cmp eax, 0x400000
        jb .entry
        mov edx, 64
.next:  mov eax, edx
        and eax, 1
        shl eax, 12
        add eax, FREE
        mov cr3, eax
        test edx, 6                     ; not in each space at once
        jnz .skip
        call far_one
        mov ecx, far_two
        call ecx
.skip:  mov ecx, far_one                ; the accessed bits of the other page, in both
        shr ecx, 12
        mov eax, [FREE + 0x2000 + ecx * 4]
        mov ebx, [FREE + 0x3000 + ecx * 4]
        mov [FREE + 0x10000 + edx * 8], eax
        mov [FREE + 0x10004 + edx * 8], ebx
        test edx, 15
        jnz .on
        and dword [FREE + 0x3000 + ecx * 4], ~0x20
.on:    dec edx
        jnz .next
        call quit
align 4096
far_one: call .in
        ret
.in:    inc dword [FREE + 0x5000]
        ret
far_two: add dword [FREE + 0x5000], 3
        ret
"""


def test_code_sleeps_until_the_guest_comes_there_in_other_page_tables():
    """So that it finds the accessed bits as on the bare machine; and nothing is translated twice for that."""
    system, cache = translated(SPACES)
    count = cache.counters
    assert count["woken"] >= 8
    assert not count["dropped"]
    assert count["translations"] == len({unit.ip for unit in cache.units.values() if unit.starts})
    assert system.guests[0].exits["translation-cache miss"] < 150


def test_code_that_sleeps_is_saved_and_may_be_elsewhere_when_it_wakes():
    image = kernel(SPACES)
    whole = finish(image, "binary-translation")
    first = build(image, "binary-translation", memory=8 << 20, max_instructions=200_000)
    while not (first.caches[0].pages.asleep and first.caches[0].counters["woken"]):
        assert not first.finished
        first.advance(1)
    second = build(image, "binary-translation", memory=8 << 20, max_instructions=200_000)
    second.machine.memory.load(first.machine.memory.save())
    second.load(first.save())
    assert second.caches[0].save() == first.caches[0].save()
    second.run()
    assert not differences(seen(whole.guests[0]), seen(second.guests[0]))
    assert second.caches[0].counters == whole.caches[0].counters
    moved = SPACES.replace(  # the page that sleeps is mapped to a copy of its code, which adds otherwise
        "test edx, 15\n        jnz .on",
        """cmp edx, 30
        jne .on
        lea esi, [ecx * 4]
        shl ecx, 12
        mov edi, 0x300000
        mov ebx, esi
        mov esi, ecx
        mov ecx, 1024
        rep movsd
        mov byte [0x300000 + far_two + 6 - far_one], 5
        mov dword [FREE + 0x2000 + ebx], 0x300007
        mov dword [FREE + 0x3000 + ebx], 0x300007
        mov ecx, ebx
        shr ecx, 2""",
    )
    _, cache = translated(moved)
    assert cache.counters["dropped"]


def test_a_full_cache_is_emptied(monkeypatch):
    monkeypatch.setattr(translation_code, "CODE_PAGES", 1)
    body = "\n".join(f"mov ecx, .a{n}\n call ecx\n jmp .b{n}\n.a{n}: add eax, {n}\n ret\n.b{n}:" for n in range(60))
    _, cache = translated(f"main: mov edx, 3\n.next: {body}\n dec edx\n jz .end\n jmp .next\n.end: call quit")
    assert cache.counters["flushes"] >= 3


def test_the_window_is_not_the_guests():
    """The kernel's own memory is behind the window's addresses, and the cache is nowhere to be seen."""
    native, _ = same("""
main:   mov dword [hooks + 14 * 4], .on
        call paging_on
        mov esi, 0xFFC00000
.next:  mov eax, [esi]
        add [FREE], eax
        add esi, 0x1000
        cmp esi, 0xFFD00000
        jb .next
        call quit
.on:    add dword [ebx + F_EIP], 2
        ret
""")
    assert not compare(native.guests[0].image)


def test_two_guests_translate_apart():
    images = [vmlab.guests.load("minios"), vmlab.guests.load("popf")]
    alone = [finish(image, "native") for image in images]
    both = build(images, "binary-translation", memory=8 << 20)
    both.run()
    for one, guest in zip(alone, both.guests, strict=True):
        assert (guest.console, guest.instructions) == (one.guests[0].console, one.guests[0].instructions)
    assert both.caches[0].addresses.stop <= both.caches[1].data


def test_too_many_guests_are_refused():
    with pytest.raises(vmlab.OptionError, match="at most 17"):
        build([vmlab.guests.load("hello")] * 18, "binary-translation", memory=1 << 20)


def test_a_debugger_finds_the_guests_instructions():
    image = vmlab.guests.load("critical_section")
    found = {}
    for under in ("native", "binary-translation"):
        debugger = vmlab.Debugger(vmlab.record(image, under=under))
        debugger.break_at("count")
        debugger.break_at("tick")
        stops = []
        while debugger.cont() and debugger.position < debugger.recording.length:
            registers = debugger.view.registers()
            stops.append([registers[name] for name in ("eip", "esp", "ecx", "eflags")])
        found[under] = stops
    assert len(found["native"]) > 10
    assert found["binary-translation"] == found["native"]
