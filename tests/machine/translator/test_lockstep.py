"""The two engines, one meaning: state, memory, TLB, counts and events are the same wherever a run is stopped."""

from __future__ import annotations

import random

import pytest

import vmlab
import vmlab.guests
from tests.kernels.build import PROGRAMS, build
from tests.machine.chaos import chaos, check_shortcuts
from tests.machine.computer import Computer
from tests.machine.translator.programs import DIRECTORY, TABLE, computer
from vmlab.isa.x86.registers import CR0_PG, CR0_WP
from vmlab.machine.page_maps import FULL
from vmlab.machine.recording import Recording
from vmlab.machine.tlb import Tlb
from vmlab.machine.tlb_geometry import TlbArray, TlbGeometry
from vmlab.machine.translator import Engine, cache, compiler, function, traps
from vmlab.vmm import techniques

LONG_SEEDS = 20_000


@pytest.fixture
def eager(monkeypatch):
    """Translate at once, and with care after the first access that needs it."""
    for name in ("WARM", "SHORT", "MISSES"):
        monkeypatch.setattr(f"vmlab.machine.translator.engine.{name}", 0)


def observe(machine):
    """Return everything that may be compared, and collect its events."""
    events = []
    machine.trace.detail = "events"
    machine.trace.observers.append(events.append)
    return lambda: (machine.save(), bytes(machine.memory.data), events)


def check_quick(cpu):
    """Assert that what translated code knows of pages is a part of what the interpreter knows."""
    check_shortcuts(cpu)
    for (readable, writable, _), (quick_read, quick_write, _) in zip(cpu._maps, cpu._quick, strict=True):
        for base, delta in quick_read.items():
            assert readable[base % FULL >> 12] == base + delta
        for base, delta in quick_write.items():
            place = writable[base % FULL >> 12]
            assert place == base + delta & -0x1000
            assert cpu.ram.pages[place >> 12] & ~2 == 9
            assert not cpu.ram.is_code(place >> 12, base & 0xFFF, 0x100)


def compare(make, rng, steps):
    """Run two equal machines, one with each engine, and compare them at random stops."""
    plain, quick = make(), make()
    quick.engine = Engine()
    plain_state, quick_state = observe(plain), observe(quick)
    while plain.steps < steps and plain.outcome is None:
        chunk = rng.choice((1, 2, 7, 40, 150, 600))
        plain.run(chunk)
        quick.run(chunk)
        assert plain_state() == quick_state()
        check_quick(quick.cpu)
    return quick


@pytest.mark.parametrize("start", range(0, 24, 8))
@pytest.mark.usefixtures("eager")
def test_random_programs(start):
    regions = 0
    for seed in range(start, start + 8):
        rng = random.Random(seed)
        machine = compare(lambda seed=seed: computer(random.Random(seed)).machine, rng, 1500)
        regions += machine.engine.regions
    assert regions > 10


@pytest.mark.parametrize("start", range(0, 12, 4))
@pytest.mark.usefixtures("eager")
def test_random_programs_with_pae(start):
    for seed in range(start, start + 4):
        compare(lambda seed=seed: computer(random.Random(seed), pae=True).machine, random.Random(seed), 1500)


def small(sets, ways, replacement="fifo"):
    """Return a TLB of few entries."""
    return Tlb(TlbGeometry((TlbArray(sets, ways),), replacement))


@pytest.mark.parametrize(
    ("sets", "ways", "replacement"),
    [*((1, ways, "fifo") for ways in range(1, 7)), (2, 1, "fifo"), (2, 2, "random"), (4, 1, "fifo"), (1, 4, "random")],
)
@pytest.mark.usefixtures("eager")
def test_random_programs_with_a_full_tlb(sets, ways, replacement):
    """Where each new page makes another go, which may be that of the code, of the stack, or one just used."""

    def make(seed):
        found = computer(random.Random(seed))
        found.cpu.tlb = small(sets, ways, replacement)
        return found.machine

    misses = 0
    for seed in range(ways * 10 + sets, ways * 10 + sets + 4):
        machine = compare(lambda seed=seed: make(seed), random.Random(seed), 1500)
        misses += machine.cpu.tlb.misses
    assert misses > 200


STRIDES = """
start:  mov esi, 0x80000
        mov ebp, 200
again:  push ebp                        ; what is popped right away is not read again, but its page must be in the TLB
        mov eax, [esi]
        pop ebx
        add [esi + 0x2000], eax
        call leaf
        push dword [esi + 4]            ; two pages in one instruction: the second may make the first go
        pop dword [esi + 0x1008]
        mov edx, esp
        lea esp, [esi + 0x800]
        push eax
        push ebx                        ; over the border of a page, now and then
        mov ecx, [esi + 0x4000]
        pop ecx
        pop ecx
        mov esp, edx
        lea edi, [esi + 0x3000]
        movsd
        xchg [edi], ecx
        sub esi, {step}
        and esi, 0xBFFFC
        or esi, 0x80000
        dec ebp
        jnz near again
        jmp near start
leaf:   push ecx
        mov ecx, [esi + 0x10000]
        xor ecx, [esi + 0x18000]
        pop eax
        ret
"""


def mapped(source, capacity, rights, write_protect=0):
    """Return a machine before a program, with a TLB of few entries, and rights of each page from 0x80000 on."""
    found = Computer(memory=1 << 20)
    found.load(source)
    memory, cpu = found.memory, found.cpu
    memory.write(DIRECTORY, 4, TABLE | 7)
    for page in range(0x100):
        memory.write(TABLE + 4 * page, 4, page << 12 | (rights() if page >= 0x80 else 7))
    cpu.set_cr3(DIRECTORY)
    cpu.set_cr0(cpu.cr0 | CR0_PG | write_protect)
    cpu.tlb = small(1, capacity)
    return found.machine


@pytest.mark.parametrize("step", [0x404, 0x1000, 0x33FC])
@pytest.mark.usefixtures("eager")
def test_strides_over_more_pages_than_the_tlb_holds(step):
    def make(capacity):
        rng = random.Random(1)
        return mapped(STRIDES.format(step=step), capacity, lambda: rng.choice((7, 0x27, 0x67)), CR0_WP)

    machines = [
        compare(lambda capacity=capacity: make(capacity), random.Random(capacity), 4000)
        for capacity in (3, 4, 5, 8, 64)
    ]
    assert sum(machine.cpu.tlb.misses for machine in machines) > 3000


def moves(rng):
    """Return a loop of moves between a few pages, two in one instruction."""
    lines = ["start:"]
    for _ in range(rng.randrange(6, 20)):
        a, b = (0x8_0000 + 0x1000 * rng.randrange(12) + 4 * rng.randrange(900) for _ in range(2))
        lines.append(
            rng.choice(
                (
                    f"mov esi, {a}\n mov edi, {b}\n movsd",
                    f"mov eax, [{a}]",
                    f"mov [{b}], eax",
                    f"add [{b}], eax",
                    f"push dword [{a}]\n pop dword [{b}]",
                    f"mov edx, esp\n mov esp, {b}\n push dword [{a}]\n pop ecx\n mov esp, edx",
                    f"push ecx\n mov ecx, [{a}]\n pop ebx",
                )
            )
        )
    return "\n".join(lines) + "\n jmp near start"


@pytest.mark.parametrize("start", [20, 40])
def test_a_page_does_not_go_before_the_interpreter_begins_its_instruction_anew(start, monkeypatch):
    """With CR0.WP clear the supervisor writes to read-only pages: each such write is left to the interpreter."""
    monkeypatch.setattr("vmlab.machine.translator.engine.WARM", 0)
    monkeypatch.setattr("vmlab.machine.translator.engine.SHORT", 0)

    def make(seed):
        rng = random.Random(seed)
        return mapped(moves(rng), rng.randrange(3, 9), lambda: rng.choice((7, 0x67, 0x65, 5)))

    for seed in range(start, start + 20):
        compare(lambda seed=seed: make(seed), random.Random(seed), 1500)


@pytest.mark.parametrize("start", range(0, 12, 4))
@pytest.mark.usefixtures("eager")
def test_every_block(start, monkeypatch):
    """Behind each region: not only where a run is stopped, and with budgets that nothing cuts short."""
    checks = 0

    def check():
        nonlocal checks
        if quick.steps > plain.steps:
            plain.run(quick.steps - plain.steps)
        assert plain.save() == quick.save()
        assert plain.memory.data == quick.memory.data
        checks += 1

    def compile_region(region, careful):
        run, longest = compiler.compile_region(region, careful)

        def run_and_check(cpu, budget):
            missed = run(cpu, budget)
            if missed is None:  # otherwise it is in the middle of an instruction, which the interpreter will do
                check()
            return missed

        return run_and_check, longest

    monkeypatch.setattr(cache, "compile_region", compile_region)
    monkeypatch.setattr(cache, "_KEPT", {})
    for seed in range(start, start + 4):
        plain, quick = computer(random.Random(seed)).machine, computer(random.Random(seed)).machine
        quick.engine = Engine()
        quick.run(1200)
        check()
    assert checks > 100


SELF_COPY = """
start:  mov ecx, 64
        mov al, 0x90
        mov edi, fill - 20
        jmp fill
        times 40 nop
fill:   rep stosb
        times 60 nop
        jmp start
"""


@pytest.mark.usefixtures("eager")
def test_a_string_instruction_that_writes_over_itself():
    def make():
        found = Computer(memory=1 << 20)
        found.load(SELF_COPY, 0)
        return found.machine

    for seed in range(4):
        compare(make, random.Random(seed), 400)


@pytest.mark.parametrize("start", range(0, 40, 20))
@pytest.mark.usefixtures("eager")
def test_noise(start):
    for seed in range(start, start + 20):
        compare(lambda seed=seed: chaos(seed), random.Random(seed), 800)


@pytest.mark.parametrize("until", range(1, 60))
@pytest.mark.usefixtures("eager")
def test_every_small_budget(until):
    plain, quick = computer(random.Random(7)).machine, computer(random.Random(7)).machine
    quick.engine = Engine()
    for machine in (plain, quick):
        for _ in range(6):
            machine.run(until)
    assert plain.save() == quick.save()


UNMODIFIED = [name for name, kind in techniques.TECHNIQUES.items() if not kind.needs_port]


def system_states(image, under, engine, steps, limit):
    """Return what a system is like every so many steps, and its events."""
    system = techniques.build(image, under, engine=engine, memory=4 << 20, max_instructions=limit, detail="events")
    events, states = [], []
    system.trace.observers.append(events.append)
    while not system.finished:
        system.advance(steps)
        states.append((system.save(), system.machine.memory.digest()))
    return states, events


@pytest.mark.parametrize(
    ("name", "under"),
    [(name, under) for name in vmlab.guests.names() for under in techniques.techniques_for([vmlab.guests.load(name)])],
)
def test_guests(name, under):
    image = vmlab.guests.load(name)
    assert system_states(image, under, "auto", 7919, 40_000) == system_states(image, under, "interpreter", 7919, 40_000)


@pytest.mark.parametrize("variant", ["O0", "O2"])
@pytest.mark.parametrize("name", ["division64", "system"])
def test_gcc_programs(name, variant, cc32, tmp_path):
    image = vmlab.load(build(name, variant, cc32, tmp_path))
    assert system_states(image, "native", "auto", 30_011, 150_000) == system_states(
        image, "native", "interpreter", 30_011, 150_000
    )


@pytest.mark.long
@pytest.mark.parametrize("variant", ["O0", "O2"])
@pytest.mark.parametrize("name", [*PROGRAMS, "system"])
@pytest.mark.parametrize("under", UNMODIFIED)
def test_all_gcc_programs(name, variant, under, cc32, tmp_path):
    image = vmlab.load(build(name, variant, cc32, tmp_path))
    assert system_states(image, under, "auto", 997, 300_000) == system_states(image, under, "interpreter", 997, 300_000)


def test_a_recording_seeks_to_the_same_states():
    image = vmlab.guests.load("minios")
    recordings = [
        Recording(techniques.build(image, engine=engine, memory=2 << 20)) for engine in ("auto", "interpreter")
    ]
    assert recordings[0].length == recordings[1].length
    assert recordings[0].events == recordings[1].events
    rng = random.Random(1)
    for _ in range(12):
        step = rng.randrange(recordings[0].length)
        states = []
        for recording in recordings:
            recording.seek(step)
            states.append((recording.system.save(), recording.system.machine.memory.digest()))
        assert states[0] == states[1]


@pytest.mark.long
@pytest.mark.usefixtures("eager")
def test_many_random_programs():
    start = random.SystemRandom().getrandbits(40)
    for seed in range(start, start + LONG_SEEDS):
        compare(lambda seed=seed: computer(random.Random(seed)).machine, random.Random(seed), 3000)
        compare(lambda seed=seed: computer(random.Random(seed), pae=True).machine, random.Random(seed), 1000)
        compare(lambda seed=seed: chaos(seed), random.Random(seed), 1000)


APIC = 0xFEE0_0000
PAGING = f"""
        mov dword [0x40000], 0x83                ; pages of 4 MiB: the first, and that of the local APIC
        mov dword [0x40000 + {(APIC >> 22) * 4:#x}], {(APIC & ~0x3FFFFF) | 0x83:#x}
        mov eax, cr4
        or eax, 0x10
        mov cr4, eax
        mov eax, 0x40000
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
"""
DEVICE_REGISTERS = f"""
start:  mov dword [{APIC + 0xF0:#x}], 0x1FF     ; the local APIC on, its timer counting down again and again
        mov dword [{APIC + 0x3E0:#x}], 0xB
        mov dword [{APIC + 0x320:#x}], 0x30020
        mov dword [{APIC + 0x380:#x}], 0x1000
        mov ecx, 400
again:  mov esi, {APIC:#x}
        add edx, ecx                            ; flags that come from a register which the next instruction loads
        mov edx, [esi + 0x390]
        adc ebx, edx
        cmp esi, ebx
        pushf
        pop eax
        add ebp, eax
        mov esi, [esi + 0x20]                   ; addressed by the register that it loads
        lock add [{0x9000:#x}], ebp
        mov eax, [{APIC + 0x390:#x}]
        lock xadd [{0x9004:#x}], eax
        mov edi, [{0x9000:#x}]                  ; the same form, from memory
        sub ebx, edi
        dec ecx
        jnz again
        jmp start
"""


@pytest.mark.parametrize("before", ["", PAGING], ids=["no paging", "paging"])
@pytest.mark.usefixtures("eager")
def test_registers_of_devices_are_read_at_the_right_time(before, monkeypatch):
    looks = []

    def look(cpu, linear, retired):
        found = traps.look(cpu, linear, retired)
        looks.append(found)
        return found

    monkeypatch.setitem(function.GLOBALS, "look", look)
    monkeypatch.setattr(cache, "_KEPT", {})

    def make():
        found = Computer(memory=1 << 20)
        found.load(before + DEVICE_REGISTERS, 0)
        return found.machine

    for seed in range(3):
        compare(make, random.Random(seed), 3000)
    assert len([each for each in looks if each is not None]) > 300
