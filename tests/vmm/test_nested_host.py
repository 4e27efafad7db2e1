"""An unmodified kernel two hypervisors deep: `nested_host` boots it, natively and under vt-x, and it sees no difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vmm.harness import MEMORY, differences, finish, first_memory_difference, goes_on_elsewhere, seen
from vmlab import guests
from vmlab.machine.image import Module
from vmlab.machine.program import assemble
from vmlab.vmm.techniques import build

CONSOLE = """nested host: VMX is on
workload: paging is on
primes 303 disk e3ad8000 pages 36
nested host: VM exits: 19
"""
ENGINES = ("interpreter", "auto")
GUEST_AT = 0x400000  # where nested_host keeps its guest's memory
OPTIONS = {"cpu": "westmere", "memory": MEMORY}
HEADER = """
org 0x100000
header: dd 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000), header, 0x100000, 0, 0x110000, start
"""


def options():
    return {**OPTIONS, "disks": [guests.workload_disk()]}


def twins(image, engine="auto"):
    """Run a guest natively and under vt-x; assert that it saw the same; return both."""
    native, virtual = (finish(image, under, engine=engine, **options()).guests[0] for under in ("native", "vt-x"))
    found = differences(seen(native), seen(virtual))
    assert not found, f"{found}\n{first_memory_difference(native.memory, virtual.memory)}"
    return native, virtual


def booting(code: str):
    """Return nested_host with another kernel."""
    kernel = assemble(f"{HEADER}\n{code}", "kernel").segments[0].data
    return replace(guests.load("nested_host"), modules=(Module(kernel, "kernel"),))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_workload_two_hypervisors_deep(engine):
    native, virtual = twins(guests.load("nested_host"), engine)
    assert (native.console, native.outcome, native.status) == (CONSOLE, "exit", 1)
    assert not native.exits
    # Each of L1's VM exits was one of L0's first, and what L1 did for it were many more: VMREADs, VMWRITEs, a VMRESUME.
    assert virtual.exits["VMX instruction"] > 5 * 19
    # L2's interrupts and ports are L0's affair: L1 has seen none of them.
    assert virtual.exits["I/O instruction"] > 200
    assert virtual.exits["HLT"] >= 8  # it waits for each sector


def test_what_l0_hands_on_to_l1():
    system = build(guests.load("nested_host"), "vt-x", **options())
    system.run()
    assert system.memories[0].nested.reflected == 19


@pytest.mark.parametrize("under", ["native", "vt-x"])
def test_the_kernel_is_the_one_that_runs_without_a_hypervisor(under):
    """Byte for byte it is the guest `workload`, and what it leaves in memory is what it leaves on the bare machine."""
    image = guests.load("workload")
    (module,) = guests.load("nested_host").modules
    assert module.data == image.segments[0].data
    alone = finish(image, "native", **options()).guests[0].memory
    inner = finish(guests.load("nested_host"), under, **options()).guests[0].memory
    kernel, frames = image.symbols["ticks"] - 0x100000, (0x117000, 0x400000)  # code and constants; what it gave away
    assert inner.read_bytes(GUEST_AT + 0x100000, kernel) == alone.read_bytes(0x100000, kernel)
    size = frames[1] - frames[0]
    assert inner.read_bytes(GUEST_AT + frames[0], size) == alone.read_bytes(frames[0], size)


def test_saved_in_the_middle():
    goes_on_elsewhere(
        lambda: build(guests.load("nested_host"), "vt-x", **options()),
        lambda system: seen(system.guests[0]),
        start=9_000,
        places=4,
    )


def test_what_its_guest_finds():
    """The boot loader's registers and information, a processor without VT-x, zeroed memory, the computer's own devices."""
    native, _ = twins(
        booting("""
start:  mov [0x200000], eax
        mov [0x200004], ebx
        mov eax, [ebx + 8]
        mov [0x200008], eax
        mov eax, cr0
        mov [0x20000C], eax
        mov eax, cr4
        mov [0x200010], eax
        mov eax, 1
        cpuid
        mov [0x200014], ecx
        mov eax, [0x10FFFC]             ; zeros, up to the end that the header gives
        mov [0x200018], eax
        mov word [0xB8000], 0x0741      ; an A on the screen
        mov eax, [0xFEE00030]           ; the local APIC's version
        mov [0x20001C], eax
        mov eax, 0x11111111
        vmcall
        mov [0x200020], eax
        mov al, 7
        out 0xF4, al
""")
    )
    found = [native.memory.read(GUEST_AT + 0x200000 + 4 * n, 4) for n in range(9)]
    assert found[:5] == [0x2BADB002, 0x9000, 3072, 0x11, 0]
    assert not found[5] & 1 << 5
    assert found[6] == 0
    assert native.screen.startswith("A")
    assert found[7] & 0xFF == 0x14
    assert found[8] == 8  # pages of code, results, information, zeros, screen, APIC; CPUID; VMCALL itself
    assert (native.console, native.status) == ("nested host: VMX is on\nnested host: VM exits: 9\n", 15)


def test_an_interrupt_whose_delivery_touches_a_new_page_is_delivered_all_the_same():
    """It comes once; L1 must put it in again after it has mapped the stack's page."""
    ports = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFE), (0x43, 0x30), (0x40, 0x40), (0x40, 0)]
    writes = "\n".join(f"mov al, {value}\n out {port}, al" for port, value in ports)
    native, _ = twins(
        booting(f"""
IDT     equ 0x150000
start:  lgdt [gdt_pointer]
        jmp 0x08:.flat
.flat:  mov eax, 0x10
        mov ss, eax
        mov esp, 0x160000
        mov dword [IDT + 0x20 * 8], 0x80000 + (ticked - header)
        mov dword [IDT + 0x20 * 8 + 4], 0x108E00
        lidt [idt_pointer]
        {writes}
        sti
        hlt
        mov al, 1
        out 0xF4, al
ticked: mov al, 7
        out 0xF4, al
align 8
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
gdt_pointer: dw 23
        dd gdt
idt_pointer: dw 0x107
        dd IDT
""")
    )
    assert (native.outcome, native.status) == ("exit", 15)
    assert native.console.endswith("VM exits: 4\n")  # pages of code, the IDT, the stack; the end


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("mov eax, [0x400000]", 48),  # beyond its memory
        ("in al, 0xF4", 30),
        ("mov dx, 0xF3\n out dx, ax", 30),  # a word that goes to the debug-exit port, too
        ("mov ecx, 0x10\n rdmsr", 31),
        ("vmxoff", 26),
        ("mov eax, cr0\n or eax, 0x20\n mov cr0, eax", 28),  # CR0.NE is the hypervisor's
        ("ud2", 2),  # there is no IDT: a triple fault
    ],
)
def test_what_it_does_not_expect_it_names(code, reason):
    native, _ = twins(booting(f"start: {code}"))
    assert native.console == f"nested host: VMX is on\nnested host: unexpected VM exit {reason}\n"
    assert native.status == 5


@pytest.mark.parametrize(
    ("cpu", "modules", "words"),
    [
        ("pentium-4", None, "this processor has no VT-x"),
        ("core-2", None, "this processor's VT-x has no extended page tables"),
        ("westmere", (), "no module is a kernel that begins with its multiboot header"),
        ("westmere", (Module(bytes(64)),), "no module is a kernel that begins with its multiboot header"),
    ],
)
def test_where_it_cannot_run_it_says_why(cpu, modules, words):
    image = guests.load("nested_host")
    image = image if modules is None else replace(image, modules=modules)
    guest = finish(image, "native", cpu=cpu).guests[0]
    assert (guest.console, guest.outcome) == (f"nested host: {words}\n", "exit")
