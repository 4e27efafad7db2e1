"""The hypervisor vt-x, with nested and with shadow paging: what the guest sees is what it sees on the bare machine."""

from __future__ import annotations

import random

import pytest

from tests.vmm.harness import differences, finish, goes_back, kernel, seen
from tests.vmm.hostile import neighbour
from tests.vmm.random_kernels import PaeWriter, Writer
from tests.vmm.test_several_guests import COUNTER, SLEEPER
from vmlab import guests
from vmlab.errors import OptionError
from vmlab.vmm.compare import compare
from vmlab.vmm.host_frames import FIRST
from vmlab.vmm.run import record, run
from vmlab.vmm.techniques import build

MEMORIES = ("nested", "shadow")
BOTH = pytest.mark.parametrize("memory", MEMORIES)
LIMIT = 32_000
ONE_CPU = [name for name in guests.names() if name != "two_cpus"]


def twins(image, memory, **options):
    """Run a guest natively and under vt-x; assert that it saw the same; return both systems."""
    native = finish(image, "native", **options)
    virtual = finish(image, "vt-x", memory_virtualization=memory, **options)
    assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))
    return native, virtual


@BOTH
@pytest.mark.parametrize("name", ONE_CPU)
def test_every_guest_is_the_same(name, memory):
    twins(guests.load(name), memory, cpu="core-2" if name == "long_mode" else "pentium-4")


@BOTH
@pytest.mark.parametrize("group", range(2))
def test_random_kernels(group, memory):
    for seed in range(8 * group, 8 * group + 8):
        twins(
            kernel(Writer(random.Random(seed)).kernel(), f"seed {seed}"), memory, max_instructions=LIMIT, input="abcdef"
        )


@BOTH
def test_random_kernels_with_pae(memory):
    for seed in (0, 3, 7, 20):
        image = kernel(PaeWriter(random.Random(seed)).kernel(), f"PAE {seed}")
        twins(image, memory, max_instructions=LIMIT, input="abcdef")


@pytest.mark.long
@BOTH
@pytest.mark.parametrize("group", range(50))
def test_many_more_random_kernels(group, memory):
    # With PAE on a processor whose physical addresses are as wide as the host's: see `vmlab.vmm.hardware_assist`.
    for seed in range(2000 + 10 * group, 2010 + 10 * group):
        for writer, cpu in ((Writer, "pentium-4"), (PaeWriter, "westmere")):
            image = kernel(writer(random.Random(seed)).kernel(), f"seed {seed}")
            twins(image, memory, max_instructions=LIMIT, input="abcdef", cpu=cpu)


def test_popf_is_right_where_trap_and_emulate_is_wrong():
    found = compare(guests.load("popf"), under=["native", "trap-and-emulate", "vt-x/nested", "vt-x/shadow"])
    assert [bool(found.differences(n)) for n in (1, 2, 3)] == [True, False, False]
    assert found.names == ["native", "trap-and-emulate", "vt-x/nested", "vt-x/shadow"]
    assert found.runs[2].memory_virtualization == "nested"


# -- exits ---------------------------------------------------------------------------------------------------------------


def exits(name, memory, **options):
    return run(guests.load(name), "vt-x", memory_virtualization=memory, **options).exits


@pytest.mark.parametrize("name", ["minios", "page_churn", "pointer_chase"])
def test_the_mix_of_exits(name):
    """The shape of the table in FACTS.md: what nested paging has no exits for, and what shadow paging has none for."""
    nested, shadow = exits(name, "nested"), exits(name, "shadow")
    assert nested["EPT violation"]
    assert not shadow["EPT violation"]
    for reason in ("INVLPG", "hidden page fault", "true page fault", "traced write", "guest exception"):
        assert not nested[reason]
    assert nested["control-register access"] == 1  # CR0, when paging is switched on; CR3 is the guest's own
    assert nested["I/O instruction"] == shadow["I/O instruction"]


def test_page_tables_that_churn_cost_shadow_paging_more_than_ten_times_the_exits():
    nested, shadow = exits("page_churn", "nested"), exits("page_churn", "shadow")
    assert shadow.total() > 10 * nested.total()
    assert shadow["INVLPG"]
    assert shadow["hidden page fault"]


def test_larger_pages_of_the_host_cost_fewer_violations():
    image = guests.load("pointer_chase", PAGES=128)
    small, large = (run(image, "vt-x", ept_pages=pages).exits for pages in ("4 KiB", "2 MiB"))
    assert small["EPT violation"] > 10 * large["EPT violation"]


def test_walks_in_two_dimensions_cost_more_references():
    nested, shadow = (
        run(
            guests.load("pointer_chase", PAGES=128), "vt-x", memory_virtualization=memory
        ).system.machine.cpu.walk_references
        for memory in MEMORIES
    )
    assert nested > 2 * shadow


def test_exits_are_traced_and_charged():
    events = []
    system = build(guests.load("minios"), "vt-x", detail="events")
    system.trace.observers.append(events.append)
    system.run()
    kinds = [event.kind for event in events]
    entries = system.counters["VM entries"]
    assert kinds.count("resume") == entries
    assert kinds.count("exit") == entries == system.guests[0].exits.total()
    causes = system.cycles_by_cause()
    assert causes["VM exits and entries"] == entries * 761
    assert causes["nested paging"] == system.memories[0].paging.fills * 1000
    assert system.cycles == sum(causes.values())


# -- hosts ---------------------------------------------------------------------------------------------------------------


def test_the_host_is_chosen_for_what_is_asked():
    image = guests.load("hello")

    def host(**options):
        return build(image, "vt-x", **options).machine.cpu.model.name

    assert host() == "westmere"
    assert host(memory_virtualization="shadow") == "core-2"
    assert host(cpu="core-2") == "westmere"  # it has VT-x, but no extended page tables
    assert host(cpu="core-2", memory_virtualization="shadow") == "core-2"
    assert host(cpu="broadwell") == "broadwell"
    assert host(cpu="umip") == "ice-lake"
    assert host(host_cpu="ice-lake") == "ice-lake"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"host_cpu": "pentium-4"}, "VT-x, which 'pentium-4' has not"),
        ({"host_cpu": "core-2"}, "extended page tables, which 'core-2' has not"),
        ({"host_cpu": "broadwell", "cpu": "umip"}, "needs umip"),
        ({"host_cpu": "i486"}, "unknown CPU model"),
        ({"memory_virtualization": "none"}, "has 'nested' or 'shadow' alone"),
        ({"memory_virtualization": 3}, "has 'nested' or 'shadow' alone"),
        ({"ept_pages": "8 KiB"}, "no nested pages of '8 KiB'"),
    ],
)
def test_what_is_not_possible_is_said(options, text):
    with pytest.raises(OptionError, match=text):
        build(guests.load("hello"), "vt-x", **options)


@pytest.mark.parametrize(("under", "text"), [("native", "none at all"), ("trap-and-emulate", "'shadow' alone")])
def test_other_techniques_have_their_own_memory(under, text):
    with pytest.raises(OptionError, match=text):
        build(guests.load("hello"), under, memory_virtualization="nested")
    with pytest.raises(OptionError, match="host_cpu= is for vt-x"):
        build(guests.load("hello"), under, host_cpu="westmere")


@pytest.mark.parametrize("cpu", ["core-2", "westmere", "broadwell"])
@BOTH
def test_guests_in_long_mode(cpu, memory):
    twins(guests.load("long_mode"), memory, cpu=cpu)


# -- several guests ------------------------------------------------------------------------------------------------------


@BOTH
def test_each_as_if_it_were_alone(memory, monkeypatch):
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", 1_000)
    images = [kernel(COUNTER.format(count=3_000), "counter"), kernel(SLEEPER, "sleeper"), neighbour()]
    together = finish(images, "vt-x", memory_virtualization=memory)
    for guest, image in zip(together.guests, images, strict=True):
        alone = finish(image, "vt-x", memory_virtualization=memory)
        assert differences(seen(alone.guests[0]), seen(guest)) == []
    assert together.counters["world switches"] > 5


@BOTH
def test_a_guest_reaches_nothing_but_its_own_memory(memory):
    """It writes wherever it can, through tables that map all that 32 bits can name; the neighbour and the host stay whole."""
    wild = kernel(
        """
main:   mov edi, 0x200000               ; one to one, in pages of 4 MiB, over 4 GiB
        mov eax, 0x87
.fill:  stosd
        add eax, 0x400000
        cmp edi, 0x201000
        jb .fill
        mov eax, 0x200000
        mov cr3, eax
        mov eax, 0x10
        mov cr4, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov ebx, 0x400000
.wild:  mov dword [ebx], 0xDEADBEEF
        add ebx, 0x100000
        jnz .wild
        call quit
"""
    )
    alone = finish(neighbour(), "vt-x", memory_virtualization=memory)
    system = build([wild, neighbour()], "vt-x", memory=8 << 20, max_instructions=100_000, memory_virtualization=memory)
    memory_of_host = system.machine.memory
    own = [system.host.entry, system.host.gdt, system.host.root]
    before = [memory_of_host.read_bytes(each, 0x1000) for each in own]
    system.run()
    assert [memory_of_host.read_bytes(each, 0x1000) for each in own] == before
    assert b"\xef\xbe\xad\xde" not in memory_of_host.read_bytes(FIRST, system.windows[0].frames[0] * 0x1000 - FIRST)
    assert differences(seen(alone.guests[0]), seen(system.guests[1])) == []
    assert system.guests[0].memory.read(0x700000, 4) == 0xDEADBEEF


@BOTH
def test_a_guest_uses_vmx_instructions_in_vain(memory):
    """To a guest on a Pentium 4 they are undefined, whatever the host has."""
    code = "\n".join(f"mov dword [resume], .on{n}\n {each}\n.on{n}:" for n, each in enumerate(
        ("vmcall", "vmxon [FREE]", "vmlaunch", "vmread eax, ebx", "vmptrld [FREE]", "vmxoff")
    ))  # fmt: skip
    native, virtual = twins(kernel(f"main: {code}\n call quit"), memory)
    assert native.guests[0].outcome == "exit"
    assert virtual.guests[0].exits["VMX instruction"] == 6


# -- recordings ----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_recording_goes_back(memory):
    goes_back(record(guests.load("minios"), "vt-x", memory_virtualization=memory))


@BOTH
def test_both_engines_are_the_same(memory):
    image = guests.load("minios")
    one, other = (finish(image, "vt-x", memory_virtualization=memory, engine=each) for each in ("auto", "interpreter"))
    assert differences(seen(one.guests[0]), seen(other.guests[0])) == []
    assert one.guests[0].exits == other.guests[0].exits
    assert one.cycles_by_cause() == other.cycles_by_cause()


# -- nested page tables --------------------------------------------------------------------------------------------------


def test_leaves_are_as_large_as_the_frames_allow():
    for pages, spans in (("4 KiB", {0x1000}), ("2 MiB", {0x1000, 0x200000}), ("1 GiB", {0x1000, 0x200000})):
        system = finish(guests.load("pointer_chase", PAGES=64), "vt-x", ept_pages=pages)
        leaves = [entry for entry in system.memories[0].paging.tables.entries() if entry.is_leaf]
        assert {entry.span for entry in leaves} == spans
        window = system.windows[0]
        assert all(window.host_address(entry.address) == entry.target for entry in leaves)
        assert all(entry.address + entry.span <= 0xA0000 or entry.address >= 0x100000 for entry in leaves)


@pytest.mark.parametrize("host", ["westmere", "broadwell"])
def test_dirty_logging(host):
    """The pages noted are those that have changed, by write protection or by the processor; the guest sees nothing of it."""
    image = guests.load("minios")
    system = build(image, "vt-x", memory=8 << 20, host_cpu=host)
    system.advance(2_000)
    while system.in_vmm:
        system.advance(1)
    with pytest.raises(OptionError, match="while the VMM has the processor"):
        system.dirty_pages()
    while not system.in_vmm or system.phase == "handle":
        system.advance(1)
    system.log_dirty_pages()
    memory = system.guests[0].memory

    def pages():
        return [memory.read_bytes(page, 0x1000) for page in range(0, memory.size, 0x1000)]

    for _ in range(2):
        before = pages()
        for _ in range(3_000):
            system.advance(1)
        while not system.in_vmm:
            system.advance(1)
        changed = {n for n, (old, new) in enumerate(zip(before, pages(), strict=True)) if old != new}
        dirty = system.dirty_pages()
        assert changed
        assert changed <= dirty
        assert len(dirty) < 200
    assert system.memories[0].paging.by_processor == (host == "broadwell")
    system.log_dirty_pages(on=False)
    system.run()
    plain = finish(image, "vt-x", max_instructions=None)
    assert system.guests[0].console == plain.guests[0].console


def test_dirty_pages_are_for_nested_paging():
    with pytest.raises(OptionError, match="memory_virtualization='nested'"):
        build(guests.load("hello"), "vt-x", memory_virtualization="shadow").log_dirty_pages()


def test_a_full_log_is_an_exit():
    system = build(guests.load("pointer_chase", PAGES=1024), "vt-x", host_cpu="broadwell")
    system.log_dirty_pages()
    system.run()
    assert system.guests[0].exits["page-modification log full"] >= 1
    assert len(system.dirty_pages()) > 600
