"""Guests with several processors under a hypervisor: they see of each other what they see on the bare machine."""

from __future__ import annotations

import pytest

import vmlab
from tests.machine.several import APIC, CODE, IDT, PRELUDE, STACKS
from tests.machine.test_random_processors import program
from tests.vmm.harness import differences, dirty_pages, goes_on_elsewhere, seen
from tests.vmm.paged_processors import write_tables
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, encode_gate
from vmlab.isa.x86.registers import EDI, ESP
from vmlab.vmm.techniques import build

WAYS = {
    "vt-x": ("vt-x", {}),
    "vt-x, virtual APIC": ("vt-x", {"host_cpu": "broadwell-ep"}),
    "amd-v": ("amd-v", {}),
    "vt-x, shadow": ("vt-x", {"memory_virtualization": "shadow"}),
    "amd-v, shadow": ("amd-v", {"memory_virtualization": "shadow"}),
    "binary translation": ("binary-translation", {}),
}
HANDLERS = {2: "nmi", 0x40: "tell", 0x41: "tell", 0x42: "tell"}


def system_of(seed: int, under: str, *, pauses: bool = True, **options):
    """Return a system whose guest is the random program of a seed, ready at its first instruction."""
    source, processors = program(seed)
    source = PRELUDE + source
    code = assemble(source if pauses else source.replace("pause", "nop"), CODE)
    system = build(
        vmlab.guests.load("hello"), under, cpus=processors, memory=2 << 20, max_instructions=40_000, **options
    )
    guest = system.guests[0]
    guest.memory.write_bytes(CODE, code.code)
    for vector, label in HANDLERS.items():
        guest.memory.write(IDT + 8 * vector, 8, encode_gate(8, code.symbols[label], INTERRUPT_GATE32))
    cpu = guest.vcpu
    cpu.gdtr_base, cpu.gdtr_limit, cpu.idtr_base, cpu.idtr_limit = code.symbols["gdt"], 0x17, IDT, 0x7FF
    cpu.ip = code.symbols["first"]
    cpu.registers[ESP], cpu.registers[EDI] = STACKS + 0x400, APIC
    return system


def all_seen(system) -> dict:
    """Return what all of a guest's processors could have seen."""
    guest = system.guests[0]
    found = seen(guest)
    for number, cpu in enumerate(guest.vcpus):
        values = {**cpu.visible(), "retired": cpu.retired, "halted": cpu.halted, "delivered": cpu.delivered}
        found |= {f"cpu {number} {name}": value for name, value in values.items()}
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 150))])
def test_random_programs_on_several_processors(seed, way):
    native = system_of(seed, "native")
    native.run()
    under, options = WAYS[way]
    for engine in ("interpreter", "auto"):
        virtual = system_of(seed, under, engine=engine, **options)
        virtual.run()
        assert differences(all_seen(native), all_seen(virtual)) == [], engine
    assert all(cpu.retired > 500 for cpu in native.guests[0].vcpus)


@pytest.mark.parametrize("seed", [4, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 80))])
def test_random_programs_that_never_pause(seed):
    native, virtual = (system_of(seed, under, pauses=False) for under in ("native", "trap-and-emulate"))
    native.run()
    virtual.run()
    assert differences(all_seen(native), all_seen(virtual)) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [2, 3, 16])
def test_processors_share_the_work(count, way):
    under, options = WAYS[way]
    image = vmlab.guests.load("two_cpus")
    native, virtual = vmlab.run(image, cpus=count), vmlab.run(image, under, cpus=count, **options)
    assert virtual.console == f"processors: {count}\nsum of squares: {sum(n * n for n in range(1001))}\n"
    assert differences(all_seen(native.system), all_seen(virtual.system)) == []
    assert virtual.instructions == native.instructions


def test_trap_and_emulate_does_not_see_who_waits():
    """PAUSE does not trap, so that a VCPU that waits keeps its turn: the same in the end, later."""
    image = vmlab.guests.load("two_cpus")
    native, virtual = vmlab.run(image, cpus=3), vmlab.run(image, "trap-and-emulate", cpus=3)
    assert (virtual.console, virtual.outcome) == (native.console, "exit")
    assert virtual.instructions > native.instructions
    assert not virtual.exits["PAUSE"]


USER_CODE = """
USER_CS equ 0x1B
USER_DS equ 0x23
MOVING  equ 0x2B
first:  lgdt [other_table]
        mov eax, 1
        call start_all
        call paging_on
        mov ecx, 300
.next:  mov eax, ecx
        and eax, 15
        lea eax, [words + 4 * eax]
        mov [other_gdt + 0x28 + 2], ax                  ; the base of the segment that the user loads
        mov edx, 40
.wait:  dec edx
        jnz .wait
        loop .next
        mov al, 0
        out 0xF4, al
others: lgdt [other_table]
        lock inc dword [here]
        call paging_on
        push USER_DS
        push esp
        push 0x202
        push USER_CS
        push user
        iret
paging_on:
        mov eax, 0x100000
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        ret
user:   mov ax, USER_DS
        mov ds, ax
.next:  mov ax, MOVING
        mov fs, ax
        mov eax, [fs:0]
        inc dword [seen + 4 * eax]
        jmp .next
align 4096
other_gdt dq 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x0040F3000000FFFF
other_table: dw 0x2F
        dd other_gdt
words   dd 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
seen    times 16 dd 0
"""


@pytest.mark.parametrize("way", ["vt-x", "vt-x, shadow", "amd-v, shadow", "binary translation", "trap-and-emulate"])
def test_user_code_sees_the_descriptors_that_another_processor_changes(way):
    under, options = WAYS.get(way, (way, {}))
    code = assemble((PRELUDE + USER_CODE).replace("pause", "nop"), CODE)
    found = []
    for technique, choice in (("native", {}), (under, options)):
        system = build(vmlab.guests.load("hello"), technique, cpus=2, memory=2 << 20, max_instructions=60_000, **choice)
        guest = system.guests[0]
        guest.memory.write_bytes(CODE, code.code)
        write_tables(guest.memory, 4)
        cpu = guest.vcpu
        cpu.gdtr_base, cpu.gdtr_limit = code.symbols["gdt"], 0x17
        cpu.ip, cpu.registers[ESP], cpu.registers[EDI] = code.symbols["first"], STACKS + 0x400, APIC
        system.run()
        found.append(all_seen(system))
        assert all(guest.memory.read(code.symbols["seen"] + 4 * n, 4) > 20 for n in range(16))
    assert found[0]["outcome"] == "exit"
    assert differences(*found) == []


@pytest.mark.parametrize("way", WAYS)
def test_saved_in_the_middle(way):
    under, options = WAYS[way]
    goes_on_elsewhere(lambda: system_of(1, under, **options), all_seen, start=1_000, places=3)


@pytest.mark.parametrize("way", ["vt-x", "amd-v", "vt-x, shadow", "binary translation"])
def test_several_guests_with_several_processors(way, monkeypatch):
    under, options = WAYS[way]
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", 1_500)
    image = vmlab.guests.load("two_cpus")
    together = build([image, image, vmlab.guests.load("timer")], under, cpus=2, **options)
    together.run()
    for guest, each in zip(together.guests, (image, image, vmlab.guests.load("timer")), strict=True):
        alone = build(each, under, cpus=2, **options)
        alone.run()
        assert differences(seen(alone.guests[0]), seen(guest)) == []
    assert together.counters["world switches"] > 10


@pytest.mark.parametrize("way", ["vt-x", "amd-v", "amd-v, shadow", "binary translation"])
def test_recorded_and_looked_at(way):
    under, options = WAYS[way]
    recording = vmlab.record(vmlab.guests.load("two_cpus"), under, cpus=2, **options)
    length, found = recording.length, {}
    for step in (length, length // 2, length // 3, 10, length // 3, length, 10, length // 2):
        recording.seek(step)
        states = [recording.system.cpu_state(0, number).visible() for number in range(2)]
        assert found.setdefault(step, states) == states
    assert len({str(states) for states in found.values()}) == 4


def test_a_snapshot_keeps_the_processors(tmp_path):
    run = vmlab.run(vmlab.guests.load("two_cpus"), "vt-x", cpus=2, max_instructions=10_000)
    vmlab.save(run, tmp_path / "state")
    again = vmlab.run(vmlab.load_state(tmp_path / "state"), max_instructions=200_000)
    assert again.console.startswith("processors: 2\nsum of squares: ")


def test_dirty_pages_are_those_of_all_processors():
    system = build(vmlab.guests.load("two_cpus"), "vt-x", cpus=3, host_cpu="broadwell")
    pages = dirty_pages(system, 500)
    symbols = system.guests[0].image.symbols
    assert symbols["shares"] >> 12 in pages


@pytest.mark.parametrize("way", ["vt-x", "amd-v, shadow", "binary translation"])
def test_whose_turn_it_is_at_the_limit(way):
    under, options = WAYS[way]
    image = vmlab.guests.load("two_cpus")
    for limit in (
        7_276,
        7_250,
        7_249,
    ):  # behind a PAUSE that gives the turn away; behind the last of a turn; before that
        native = vmlab.run(image, cpus=2, max_instructions=limit)
        virtual = vmlab.run(image, under, cpus=2, max_instructions=limit, **options)
        assert differences(all_seen(native.system), all_seen(virtual.system)) == []
