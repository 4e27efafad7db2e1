"""A guest that is itself a hypervisor: L1 and its guest L2 see under vt-x what they see on the bare machine."""

from __future__ import annotations

import random

import pytest

from tests.vmm.harness import (
    MEMORY,
    differences,
    dirty_pages,
    finish,
    first_memory_difference,
    goes_on_elsewhere,
    kernel,
    seen,
)
from tests.vmm.hostile import neighbour
from tests.vmm.own_guests import own_guest
from vmlab import guests
from vmlab.vmm.techniques import build

CPU = {"cpu": "westmere"}
ENGINES = ("interpreter", "auto")
MOST_EXITS = 150  # of an L1 of `tests.vmm.own_guests`


def twins(image, engine: str, **options):
    """Run a guest natively and under vt-x; assert that it saw the same; return both systems."""
    native = finish(image, "native", **options)
    virtual = finish(image, "vt-x", engine=engine, **options)
    found = differences(seen(native.guests[0]), seen(virtual.guests[0]))
    assert not found, f"{found}\n{first_memory_difference(native.guests[0].memory, virtual.guests[0].memory)}"
    return native, virtual


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("cpu", "host"), [("westmere", "westmere"), ("westmere", "broadwell-ep"), ("broadwell", "ice-lake")]
)
def test_a_hypervisor_in_assembly(cpu, host, engine):
    image = guests.load("thin_hypervisor")
    native, virtual = finish(image, "native", cpu=cpu), finish(image, "vt-x", cpu=cpu, host_cpu=host, engine=engine)
    assert native.guests[0].console.endswith("VM exits: 62\n")
    assert differences(seen(native.guests[0]), seen(virtual.guests[0])) == []


def test_each_exit_of_the_inner_guest_is_many_of_the_outer():
    """Exit multiplication (Ben-Yehuda et al., OSDI 2010): each VMREAD, VMWRITE and VMRESUME of L1 is an exit, too."""
    guest = finish(guests.load("thin_hypervisor"), "vt-x", **CPU).guests[0]
    assert guest.exits["VMX instruction"] > 5 * 62
    assert guest.exits["CPUID"] == 2  # one of L1, and one of L2, which L0 has handed on


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(7))
def test_random_guests_of_a_guest(seed, engine):
    twins(own_guest(random.Random(seed)), engine, max_instructions=30_000, **CPU)


def test_what_they_exit_for():
    """The random guests above are left for their every instruction, and when their time is over, too."""
    reasons = set()
    for seed in range(7):
        memory = finish(own_guest(random.Random(seed)), "native", max_instructions=30_000, **CPU).guests[0].memory
        reasons |= {memory.read(0x200000 + 64 * n, 4) for n in range(MOST_EXITS)}
    assert reasons >= {1, 37, 48, 52}


def test_what_an_l1_may_ask_for():
    """Its capability MSRs are the processor's, but for the secondary controls (no virtual APIC)."""
    numbers = (0x480, 0x485, 0x48D, 0x48E, 0x48F, 0x490)
    reads = "\n".join(
        f"mov ecx, {number:#x}\n rdmsr\n mov [FREE + {8 * n}], eax\n mov [FREE + {8 * n + 4}], edx"
        for n, number in enumerate(numbers)
    )
    native, _ = twins(kernel(f"main:\n {reads}\n call quit"), "auto", **CPU)
    found = [native.guests[0].memory.read(0x280000 + 8 * n, 8) for n in range(len(numbers))]
    assert found[1] & 0x1F == 5
    assert (found[2] >> 32 + 6 & 1, found[3] >> 32 + 27 & 1, found[4] >> 32 + 22 & 1) == (1, 1, 1)


@pytest.mark.parametrize("seed", range(6))
def test_a_vmcs_with_nonsense_in_it(seed):
    twins(own_guest(random.Random(seed), hostile=True), "auto", max_instructions=30_000, **CPU)


@pytest.mark.long
@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_random_guests_of_a_guest(hundred, hostile):
    for seed in range(1000 + hundred * 100, 1100 + hundred * 100):
        for engine in ENGINES:
            twins(own_guest(random.Random(seed), hostile=hostile), engine, max_instructions=30_000, **CPU)


def test_saved_in_the_middle():
    image = own_guest(random.Random(12))
    options = {"memory": MEMORY, "max_instructions": 6_000, **CPU}
    goes_on_elsewhere(
        lambda: build(image, "vt-x", **options), lambda system: seen(system.guests[0]), start=3, places=10
    )


def test_when_no_frame_is_left_the_inner_tables_are_filled_anew():
    image = own_guest(random.Random(12))
    options = {"memory": MEMORY, "max_instructions": 30_000, **CPU}
    native, virtual = finish(image, "native", **options), build(image, "vt-x", **options)
    nested = virtual.memories[0].nested
    emptied = 0
    while not virtual.finished:
        virtual.advance(400)
        if nested.fills > emptied:
            emptied = nested.fills
            del nested._free[2:]
    assert emptied
    assert differences(seen(native.guests[0]), seen(virtual.guests[0])) == []


def test_several_guests_with_guests_of_their_own(monkeypatch):
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", 300)
    images = [own_guest(random.Random(21)), guests.load("thin_hypervisor"), own_guest(random.Random(22)), neighbour()]
    together = finish(images, "vt-x", max_instructions=10_000, **CPU)
    for guest, image in zip(together.guests, images, strict=True):
        alone = finish(image, "vt-x", max_instructions=10_000, **CPU)
        assert differences(seen(alone.guests[0]), seen(guest)) == []
    assert together.counters["world switches"] > 20


def test_what_the_inner_guest_writes_is_logged():
    image = guests.load("thin_hypervisor")
    for host in ("westmere", "broadwell"):  # by protection, and by the processor for L1 alone
        system = build(image, "vt-x", host_cpu=host, memory=MEMORY, **CPU)
        assert 0x202 in dirty_pages(system, 50)  # L2's page 2, which L1 has mapped there


def test_without_nested_paging_there_is_no_vt_x_for_a_guest():
    guest = finish(guests.load("thin_hypervisor"), "vt-x", memory_virtualization="shadow", **CPU).guests[0]
    assert guest.console == "this processor has no VT-x\n"


def test_a_guest_with_vt_x_that_uses_it_wrongly():
    """What is undefined or protected natively is so here; what fails tells the same error."""
    code = """
main:   try vmxon [FREE]                ; CR4.VMXE is not set
        mov eax, 0x2000
        try mov cr4, eax
        try vmxon [FREE]                ; IA32_FEATURE_CONTROL is not locked
        mov ecx, 0x3A
        mov eax, 5
        xor edx, edx
        try wrmsr
        call paging_on
        mov eax, cr0
        or eax, 0x20
        mov cr0, eax
        mov dword [FREE], FREE + 0x1000
        mov dword [FREE + 4], 0
        try vmxon [FREE]                ; no revision in the region
        pushfd
        mov ecx, 0x480
        rdmsr
        mov [FREE + 0x1000], eax
        try vmxon [FREE]
        pushfd
        try vmlaunch                    ; no current VMCS
        pushfd
        try vmptrld [FREE]              ; the VMXON region
        pushfd
        mov dword [FREE], FREE + 0x2000
        mov [FREE + 0x2000], eax
        try vmptrld [FREE]
        pushfd
        mov eax, 0x4444
        try vmread ebx, eax
        pushfd
        mov eax, 0x4400
        try vmread ebx, eax
        mov [FREE + 8], ebx
        try vmresume
        pushfd
        try vmlaunch
        pushfd
        try vmread ebx, eax
        mov [FREE + 12], ebx
        try vmxoff
        try vmxoff
        call quit
"""
    for engine in ENGINES:
        native, _ = twins(kernel(code), engine, **CPU)
        assert native.guests[0].memory.read(0x280008, 4) == 12
        assert native.guests[0].memory.read(0x28000C, 4) == 7
