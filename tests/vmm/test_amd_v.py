"""The hypervisor amd-v, with nested and with shadow paging: what the guest sees is what it sees on the bare machine."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

import vmlab
from tests.vmm.harness import differences, finish, goes_back, kernel, seen, vectors
from tests.vmm.hostile import neighbour
from tests.vmm.random_kernels import PaeWriter, Writer
from tests.vmm.test_several_guests import COUNTER, SLEEPER
from vmlab import guests
from vmlab.errors import OptionError
from vmlab.isa.x86.registers import CR0_PE
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.svm.codes import ExitCode
from vmlab.vmm.exits import BY_EXIT_CODE
from vmlab.vmm.run import record, run
from vmlab.vmm.techniques import build

BOTH = pytest.mark.parametrize("memory", ["nested", "shadow"])
LIMIT = 32_000
ONE_CPU = [name for name in guests.names() if name != "two_cpus"]


def twins(image, memory, host=None, **options):
    """Run a guest natively and under amd-v; assert that it saw the same; return both systems."""
    native = finish(image, "native", **options)
    virtual = finish(image, "amd-v", memory_virtualization=memory, host_cpu=host, **options)
    assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))
    return native, virtual


@BOTH
@pytest.mark.parametrize("name", ONE_CPU)
def test_every_guest_is_the_same(name, memory):
    twins(guests.load(name), memory, cpu="core-2" if name == "long_mode" else "pentium-4")


@BOTH
@pytest.mark.parametrize("cpu", ["opteron", "barcelona", "bulldozer", "core-2"])
def test_guests_in_long_mode(cpu, memory):
    twins(guests.load("long_mode"), memory, cpu=cpu)


@BOTH
@pytest.mark.parametrize("host", ["barcelona", "bulldozer"])
def test_random_kernels(host, memory):
    for seed in range(3):
        for writer, cpu in ((Writer, "pentium-4"), (PaeWriter, "opteron")):
            image = kernel(writer(random.Random(seed)).kernel(), f"seed {seed}")
            twins(image, memory, max_instructions=LIMIT, input="abcdef", cpu=cpu, host=host)


@BOTH
def test_physical_addresses_narrower_than_the_hosts(memory):
    """Bits that are reserved to the guest alone: its page faults are looked at again. PDPTEs that change in memory are not seen."""
    for seed in (0, 3, 7, 3017, 3110, 3131):
        image = kernel(PaeWriter(random.Random(seed)).kernel(), f"PAE {seed}")
        twins(image, memory, max_instructions=LIMIT, input="abcdef", cpu="pentium-4")


@pytest.mark.long
@BOTH
@pytest.mark.parametrize("group", range(50))
def test_many_more_random_kernels(group, memory):
    for seed in range(2000 + 10 * group, 2010 + 10 * group):
        for writer, cpu in ((Writer, "pentium-4"), (PaeWriter, "bulldozer")):
            image = kernel(writer(random.Random(seed)).kernel(), f"seed {seed}")
            twins(image, memory, max_instructions=LIMIT, input="abcdef", cpu=cpu)


def test_faithful_where_trap_and_emulate_is_not():
    found = vmlab.compare(guests.load("popf"), under=["native", "trap-and-emulate", "amd-v/nested", "amd-v/shadow"])
    assert [bool(found.differences(n)) for n in (1, 2, 3)] == [True, False, False]


# -- what is special about these processors ----------------------------------------------------------------------------------

REAL = """
    push cs
    pop ds
    mov word [4 * 0x21], service
    mov word [4 * 0x21 + 2], 0
    int 0x21
    mov ax, 0x1234
    mov es, ax
    mov [es:0x10], ax
    pushf
    pop si
    sti
    pushf
    pop di
    cli
    mov [0x9002], si
    mov [0x9004], di
    jmp done
service:
    inc word [0x9000]
    iret
done:
"""


@BOTH
def test_real_mode_runs_directly(memory):
    """Without nested paging in paged real mode: only what leads out is emulated."""
    image = vmlab.boot_sector(REAL + "\n cli\n hlt")
    native = finish(image, "native", max_instructions=200_000)
    virtual = finish(image, "amd-v", memory_virtualization=memory, max_instructions=200_000)
    assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))
    guest = virtual.guests[0]
    assert not guest.vcpu.cr0 & CR0_PE
    assert guest.memory.read(0x9000, 2) == 1
    assert virtual.counters["emulated"] < guest.instructions / 10


def test_nothing_of_cr0_and_cr3_leads_out_with_nested_paging():
    nested, shadow = (
        run(guests.load("minios"), "amd-v", memory_virtualization=memory).exits for memory in ("nested", "shadow")
    )
    assert nested["control-register access"] == 1  # paging is switched on
    assert shadow["control-register access"] > 10
    assert nested["nested page fault"]
    assert not shadow["nested page fault"]
    for reason in ("INVLPG", "hidden page fault", "true page fault", "guest exception"):
        assert not nested[reason]
    assert nested["I/O instruction"] == shadow["I/O instruction"]


NMIS = """
main:   mov dword [hooks + 4 * 2], taken
        mov dword [FREE], 0
        mov dword [0xFEE00310], 0           ; to itself, as an NMI
        mov dword [0xFEE00300], 0x4400
        nop
        mov ecx, 20
.wait:  loop .wait
        pushf
        or dword [esp], 0x100               ; and while it is stepped
        popf
        mov dword [0xFEE00300], 0x4400
        nop
        nop
        pushf
        and dword [esp], 0xFFFFFEFF
        popf
        call quit
taken:  inc dword [FREE]
        cmp dword [FREE], 3
        jae .on
        mov dword [0xFEE00300], 0x4400      ; another, which waits for IRET
        nop
.on:    ret
"""


@BOTH
def test_non_maskable_interrupts(memory):
    """That they are blocked until IRET, a VMCB does not tell: the hypervisor learns it by an intercept."""
    native, virtual = twins(kernel(NMIS), memory)
    assert vectors(native).count(2) == 4
    assert virtual.guests[0].exits["IRET"] >= 4
    for engine in ("auto", "interpreter"):
        other = finish(kernel(NMIS), "vt-x", memory_virtualization=memory, engine=engine)
        assert not differences(seen(native.guests[0]), seen(other.guests[0]))
        assert other.guests[0].exits["NMI window"] >= 3


def test_exit_codes_have_names():
    assert all(code in BY_EXIT_CODE for code in (*range(0x60), *ExitCode))


# -- hosts -------------------------------------------------------------------------------------------------------------------


def test_the_host_is_chosen_for_what_is_asked():
    image = guests.load("hello")

    def host(**options):
        return build(image, "amd-v", **options).machine.cpu.model.name

    assert host() == "barcelona"
    assert host(memory_virtualization="shadow") == "opteron"
    assert host(cpu="opteron") == "barcelona"
    assert host(cpu="core-2", memory_virtualization="shadow") == "opteron"
    assert host(host_cpu="bulldozer") == "bulldozer"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"host_cpu": "westmere"}, "amd-v with nested paging needs a host with AMD-V, which 'westmere' has not"),
        ({"host_cpu": "opteron"}, "nested page tables, which 'opteron' has not"),
        ({"cpu": "broadwell"}, "no CPU model can be the host of 'broadwell' under amd-v"),
        ({"host_cpu": "barcelona", "cpu": "umip"}, "needs umip"),
        ({"memory_virtualization": "none"}, "has 'nested' or 'shadow' alone"),
    ],
)
def test_what_is_not_possible_is_said(options, text):
    with pytest.raises(OptionError, match=text):
        build(guests.load("hello"), "amd-v", **options)


# -- several guests, recordings, engines -------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("asids", [64, 2])
def test_each_as_if_it_were_alone(memory, asids, monkeypatch):
    """With as many address-space identifiers as guests, and with one for all."""
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", 1_000)
    images = [kernel(COUNTER.format(count=3_000), "counter"), kernel(SLEEPER, "sleeper"), neighbour()]
    expected = [finish(image, "amd-v", memory_virtualization=memory).guests[0] for image in images]
    models = {name: replace(model, asids=asids) for name, model in CPU_MODELS.items()}
    monkeypatch.setattr("vmlab.vmm.techniques.CPU_MODELS", models)
    together = finish(images, "amd-v", memory_virtualization=memory)
    assert len({machine.asid for machine in together.machines}) == min(3, asids - 1)
    for guest, alone in zip(together.guests, expected, strict=True):
        assert differences(seen(alone), seen(guest)) == []
    assert together.counters["world switches"] > 5


@BOTH
def test_a_guest_uses_svm_instructions_in_vain(memory):
    code = "\n".join(f"mov dword [resume], .on{n}\n {each}\n.on{n}:" for n, each in enumerate(
        ("vmmcall", "vmrun", "stgi", "invlpga", "vmload", "skinit", "vmcall", "vmxoff")
    ))  # fmt: skip
    for cpu in ("pentium-4", "barcelona"):
        native, virtual = twins(kernel(f"main: {code}\n call quit"), memory, cpu=cpu)
        assert native.guests[0].outcome == "exit"
        assert virtual.guests[0].exits["SVM instruction"]


@BOTH
def test_a_recording_goes_back(memory):
    goes_back(record(guests.load("minios"), "amd-v", memory_virtualization=memory))


@BOTH
def test_both_engines_are_the_same(memory):
    image = guests.load("minios")
    one, other = (finish(image, "amd-v", memory_virtualization=memory, engine=each) for each in ("auto", "interpreter"))
    assert differences(seen(one.guests[0]), seen(other.guests[0])) == []
    assert one.guests[0].exits == other.guests[0].exits
    assert one.cycles_by_cause() == other.cycles_by_cause()
    assert one.cycles_by_cause()["VM exits and entries"] == one.counters["VM entries"] * 1360


def test_dirty_logging():
    """The pages noted are those that have changed, by write protection; the guest sees nothing of it."""
    system = build(guests.load("minios"), "amd-v", memory=8 << 20)
    system.advance(2_000)
    while not system.in_vmm or system.phase == "handle":
        system.advance(1)
    system.log_dirty_pages()
    memory = system.guests[0].memory
    before = [memory.read_bytes(page, 0x1000) for page in range(0, memory.size, 0x1000)]
    system.advance(3_000)
    while not system.in_vmm:
        system.advance(1)
    after = [memory.read_bytes(page, 0x1000) for page in range(0, memory.size, 0x1000)]
    changed = {n for n, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    dirty = system.dirty_pages()
    assert changed
    assert changed <= dirty
    assert len(dirty) < 200
    system.log_dirty_pages(on=False)
    system.run()
    assert system.guests[0].console == finish(guests.load("minios"), "amd-v", max_instructions=None).guests[0].console
