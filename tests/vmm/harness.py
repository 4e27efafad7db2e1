"""Runs a guest natively and under a hypervisor, and compares everything that it could see."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import encode_descriptor
from vmlab.machine.image import flat
from vmlab.vmm.techniques import build

PRELUDE = Path(__file__).with_name("prelude.asm").read_text()
HEADER = PRELUDE.partition("%ifndef TEST")[0]
# PAE tables: four pointers, two directories (0-1 GiB and 1-2 GiB), tables for 0-4 MiB, 4-8 MiB and at 1 GiB.
PAE = """
POINTERS equ 0x220000
LOW      equ 0x221000
HIGH     equ 0x222000
TABLES   equ 0x223000           ; four, for 8 MiB
EXTRA    equ 0x227000
WINDOW   equ 0x40000000

pae_on: mov edi, POINTERS
        mov ecx, 0x3000 / 4
        xor eax, eax
        rep stosd
        mov edi, EXTRA
        mov ecx, 0x1000 / 4
        rep stosd
        mov dword [POINTERS], LOW + 1
        mov dword [POINTERS + 8], HIGH + 1
        mov dword [HIGH], EXTRA + 7
        mov ecx, 4
        mov edi, LOW
        mov eax, TABLES + 7
.table: mov [edi], eax
        add edi, 8
        add eax, 0x1000
        loop .table
        mov edi, TABLES
        mov eax, 7
        mov ecx, 2048
.entry: mov [edi], eax
        add edi, 8
        add eax, 0x1000
        dec ecx
        jnz .entry
        mov eax, POINTERS
        mov cr3, eax
        mov eax, 0x20
        mov cr4, eax
        mov eax, cr0
        or eax, 0x80010000
        mov cr0, eax
        ret
"""
MEMORY = 8 << 20
LIMIT = 200_000


@cache
def prelude():
    """Return the prelude, assembled once for all tests."""
    return assemble(PRELUDE)


def kernel(source: str, name: str = "kernel"):
    """Return the image of a kernel: the prelude, then `source`, which holds `main`."""
    first = prelude()
    labels = "\n".join(
        f"{label} equ {value}"
        for label, value in first.symbols.items()
        if f"\n{label} equ" not in HEADER and "." not in label
    )
    program = assemble(f"{HEADER}\n{labels}\norg {first.symbols['body']}\njmp near main\n{source}")
    return flat(first.code + program.code, first.origin, first.symbols["start"], name, first.symbols | program.symbols)


def put(selector: str, base: int, limit: int, access: int, *, big: bool = True) -> str:
    """Return code that writes a descriptor into the GDT."""
    raw = encode_descriptor(base, limit, access, big=big)
    return f"mov dword [gdt + {selector}], {raw & 0xFFFFFFFF}\n mov dword [gdt + {selector} + 4], {raw >> 32}\n"


def seen(guest) -> dict:
    """Return all that a guest's software could have seen, and how it ended."""
    cpu = guest.vcpu
    names = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
    hidden = {f"hidden {name}": each.key for name, each in zip(names, (*cpu.segments, cpu.ldtr, cpu.tr), strict=True)}
    guest.platform.now(cpu.retired)
    platform = guest.platform.save()
    devices = {f"device {name}": state for name, state in platform["devices"].items()}
    return {
        "outcome": guest.outcome,
        "status": guest.status,
        "console": guest.console,
        "screen": guest.screen,
        "instructions": guest.instructions,
        "delivered": cpu.delivered,
        "debug": list(cpu.debug),
        "msrs": dict(cpu.msrs),
        "halted": cpu.halted,
        "idle": platform["idle"],
        "now": platform["clock"]["now"],
        "memory": guest.memory.digest(),
        **cpu.visible(),
        **hidden,
        **devices,
    }


def finish(image, under: str, **options):
    """Run a guest to its end; return the system."""
    options.setdefault("memory", MEMORY)
    options.setdefault("max_instructions", LIMIT)
    system = build(image, under, **options)
    system.run()
    return system


def differences(first: dict, other: dict) -> list[str]:
    """Return what differs between two results of `seen`."""
    return [f"{name}: {value!r} against {other[name]!r}" for name, value in first.items() if value != other[name]]


def first_memory_difference(one, other) -> str:
    """Say where two memories differ first."""
    left, right = one.read_bytes(0, one.size), other.read_bytes(0, other.size)
    places = [n for n in range(0, one.size, 4) if left[n : n + 4] != right[n : n + 4]]
    shown = ", ".join(f"{n:#x}: {left[n : n + 4].hex()}/{right[n : n + 4].hex()}" for n in places[:8])
    return f"{len(places)} words, {shown}"


def twins(image, **options):
    """Run a guest natively and under trap-and-emulate; assert that it saw the same; return both systems."""
    native, virtual = (finish(image, under, **options) for under in ("native", "trap-and-emulate"))
    found = differences(seen(native.guests[0]), seen(virtual.guests[0]))
    if any(line.startswith("memory") for line in found):
        found.append(first_memory_difference(native.guests[0].memory, virtual.guests[0].memory))
    assert not found, "\n".join(found)
    return native, virtual


def same(source: str, **options):
    """`twins` of a kernel from source; it must end by itself."""
    native, virtual = twins(kernel(source), **options)
    assert native.guests[0].outcome == "exit"
    return native, virtual


def log(system) -> list[tuple[int, ...]]:
    """Return what a kernel's handler logged: vector, error code, EIP, CS, EFLAGS, CR2 of each event."""
    memory = system.guests[0].memory
    image = system.guests[0].image
    count = memory.read(image.symbols["events"], 4)
    return [tuple(memory.read(0x200000 + 24 * n + 4 * k, 4) for k in range(6)) for n in range(count)]


def vectors(system) -> list[int]:
    """Return the vectors of all events, in order."""
    return [entry[0] for entry in log(system)]


def goes_on_elsewhere(make, look, *, start: int, places: int) -> None:
    """Assert that a system which `make` builds, saved at some places and loaded into another, ends as one that was never saved."""
    whole = make()
    whole.run()
    for steps in range(start, whole.steps, whole.steps // places):
        first, second = make(), make()
        first.advance(steps)
        second.machine.memory.load(first.machine.memory.save())
        second.load(first.save())
        assert second.save() == first.save()
        second.run()
        assert differences(look(whole), look(second)) == []


def goes_back(recording) -> None:
    """Assert that a recording is in the same state at a step, wherever it comes from."""
    length = recording.length

    def state():
        return recording.system.save(), recording.system.machine.memory.digest()

    recording.seek(length // 2)
    middle = state()
    recording.seek(length)
    end = state()
    recording.seek(length // 3)
    recording.seek(length // 2)
    assert state() == middle
    recording.seek(length)
    assert state() == end


def dirty_pages(system, steps: int) -> set[int]:
    """Run a guest to its end with its dirty pages logged; return all of them."""
    system.log_dirty_pages()
    pages: set[int] = set()
    while not system.finished:
        system.advance(steps)
        if system.in_vmm:
            pages |= system.dirty_pages()
    return pages
