"""Ported guests that mean harm: whatever they ask for, they reach no page table, no neighbour and no hypervisor.

After each hypercall everything is counted anew (`audit`): types and uses of frames, what each page table leads to, and what
the TLB still holds. At the end the neighbour's memory and the hypervisor's own structures are as they were.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vmm.xen.ported import MEMORY, audit, kernel, started
from vmlab import guests
from vmlab.vmm.techniques import build
from vmlab.vmm.xen.abi import FAST_TRAP

# A list of actions: what to do (0 a hypercall, 1 a write), EAX, EBX, ECX, EDX, ESI, EDI, and the result of it.
PLAYER = """
main:   mov dword [resume], .next
.next:  mov ebp, [cursor]
        cmp ebp, [script_end]
        jae quit
        add dword [cursor], 32
        mov eax, [ebp + 4]
        mov ebx, [ebp + 8]
        cmp dword [ebp], 0
        jne .write
        mov ecx, [ebp + 12]
        mov edx, [ebp + 16]
        mov esi, [ebp + 20]
        mov edi, [ebp + 24]
        int 0x82
        mov ebp, [cursor]
        mov [ebp - 4], eax
        jmp .next
.write: mov [ebx], eax
        jmp .next
cursor: dd script
script_end: dd script
align 32
script: times 32 * 8 dd 0
buffers: times 32 * 32 dd 0             ; 128 bytes each
"""
ACTIONS, BUFFER = 32, 128
PORT = 2  # of the block ring
DATA = ("page_1", "page_2", "page_3", "page_4")
BITS = (0, 1, 1, 3, 3, 5, 7, 7, 0x61, 0x67, 0x81, 0x101, 0xE03)


class Script:
    """What one guest is to do, written into its memory before it runs."""

    def __init__(self, system) -> None:
        self.guest = guest = system.guests[0]
        other = system.guests[1]
        self.symbols = guest.image.symbols
        frames, pages = guest.memory.frames, {name: self.symbols[name] >> 12 for name in (*DATA, "shared", "main")}
        domain = system.domains[0]
        self.memory, self.ring = system.machine.memory, domain.block.ring
        directory = frames.index(domain.base >> 12)
        self.tables = [directory, directory + 1]
        self.pages = [*pages.values(), *self.tables, directory - 1, 1, 900]
        own = [frames[page] for page in self.pages]
        foreign = [other.memory.frames[0x102], system.domains[1].base >> 12, system.domains[1].shared >> 12]
        host = [0, 0x100, 0x1FF, system.switcher.reserved[0] >> 12, system.switcher.reserved[1] >> 12, 0xFFFFF]
        # Own frames, and above all those that may become tables, are worth most tries.
        data = [frames[pages[name]] for name in DATA]
        self.frames = (
            own + data * 4 + [frames[page] for page in self.tables] * 2 + [domain.shared >> 12] + foreign + host
        )
        self.linear = [page << 12 for page in self.pages] + [
            0,
            0x3FF000,
            0x400000,
            0x7FF000,
            0xFF7FF000,
            0xFF800000,
            0xFFC00000,
            0xFFFFF000,
        ]
        self.count = 0

    def write(self, address: int, words) -> None:
        for n, value in enumerate(words):
            self.guest.memory.write(address + 4 * n, 4, value & 0xFFFFFFFF)

    def add(self, chance: random.Random) -> None:
        """Add an action, or five that go together."""
        if chance.random() < 0.05 and self.count < ACTIONS - 5:
            self.add_turn(chance)
        else:
            place = self.symbols["buffers"] + BUFFER * self.count
            self.append(*KINDS[chance.choice(WEIGHTS)](self, chance, place))

    def add_turn(self, chance) -> None:
        """Make a page of data a page table while the TLB still knows it as writable, and write to it then."""
        page, place = self.symbols[chance.choice(DATA)], self.symbols["buffers"] + BUFFER * self.count
        frame = self.guest.memory.frames[page >> 12]
        self.write(place, [0, frame, 0])
        self.append(1, [0, page, 0, 0, 0, 0])
        self.append(0, [14, page, frame << 12 | 1, 0, 0, 0])
        self.append(0, [26, place, 1, 0, 0x7FF0, 0])
        self.append(1, [self.entry(chance), page + 4 * chance.randrange(1024), 0, 0, 0, 0])
        self.append(0, [17, 0, 0, 0, 0, 0])

    def append(self, kind, registers) -> None:
        self.write(self.symbols["script"] + 32 * self.count, [kind, *registers])
        self.count += 1
        self.guest.memory.write(self.symbols["script_end"], 4, self.symbols["script"] + 32 * self.count)

    # -- the block ring: requests lie in it from the start, and are answered while their frames change ------------------

    def ask(self, chance) -> None:
        memory, ring = self.memory, self.ring
        memory.write_bytes(ring, struct.pack("<IIII", 32, 1, 0, chance.randrange(32)))
        for slot in range(32):
            frame = chance.choice(self.frames)
            request = struct.pack("<BBHQQIBB", 0, 1, 0, slot, chance.randrange(8), frame, slot % 8, slot % 8)
            memory.write_bytes(ring + 64 + 108 * slot, request)
        place = self.symbols["buffers"]
        self.write(place, [PORT])
        self.append(0, [32, 4, place, 0, 0, 0])

    def answers(self) -> Counter:
        """Return which sectors were read and which not, unless the guest itself has written to the ring since."""
        count = self.memory.read(self.ring + 8, 4)
        rows = [self.memory.read_bytes(self.ring + 64 + 108 * slot, 12) for slot in range(count if count <= 32 else 0)]
        return Counter(("sector", struct.unpack("<QBxh", row)[2] == 0) for row in rows)

    # -- parts -----------------------------------------------------------------------------------------------------------

    def entry(self, chance) -> int:
        return chance.choice(self.frames) << 12 | chance.choice(BITS)

    def machine(self, chance) -> int:
        slot = chance.choice((0, 1, 2, 3, 0x101, 0x102, 0x103, 0x104, 0x105, 0x3FD, 0x3FE, 0x3FF))
        return chance.choice(self.frames) << 12 | slot * 4

    def done(self, chance, place) -> int:
        """Where a call is to tell how much it has done: mostly where it may."""
        return chance.choice((place + 124, place + 124, place + 124, chance.choice(self.linear) + 8))

    def any(self, chance) -> int:
        small = chance.randrange(12)
        return chance.choice(
            (small, small, self.entry(chance), chance.choice(self.linear) + small * 4, chance.getrandbits(32), 0x7FF0)
        )

    # -- kinds of actions --------------------------------------------------------------------------------------------------

    def updates(self, chance, place):
        count = chance.randint(1, 4)
        for n in range(count):
            kind = chance.choice((0, 0, 0, 0, 1, 2, 3))
            self.write(place + 16 * n, [self.machine(chance) + kind, 0, self.entry(chance), 0])
        return 0, [1, place, count, self.done(chance, place), 0x7FF0, 0]

    def mapping(self, chance, place):
        return 0, [14, chance.choice(self.linear), self.entry(chance), 0, chance.randrange(3), 0]

    def read_only(self, chance, place):
        """Map a page of data for reading alone, so that it may become a table; often without a flush."""
        page = chance.choice([self.symbols[name] for name in DATA])
        frame = self.guest.memory.frames[page >> 12]
        return 0, [14, page, frame << 12 | chance.choice((0, 1, 1, 5)), 0, chance.choice((0, 0, 2)), 0]

    def commands(self, chance, place):
        count = chance.randint(1, 3)
        for n in range(count):
            self.write(
                place + 12 * n, [chance.choice((0, 0, 0, 1, 1, 4, 4, 5, 5, 6, 7, 2, 99)), chance.choice(self.frames), 0]
            )
        return 0, [26, place, count, self.done(chance, place), 0x7FF0, 0]

    def directory(self, chance, place):
        """Write a copy of the page directory into a page of data, as far as the kernel needs it."""
        page, table = chance.choice([self.symbols[name] for name in DATA]), self.guest.memory.frames[self.tables[1]]
        self.write(page, [table << 12 | 7, self.entry(chance)])
        return 0, [17, 0, 0, 0, 0, 0]

    def poke(self, chance, place):
        """Write to memory directly: an entry, into a page or anywhere."""
        return 1, [self.entry(chance), chance.choice(self.linear) + 4 * chance.randrange(16), 0, 0, 0, 0]

    def list(self, chance, place):
        for n in range(2):
            number, *arguments = self.any_call(chance, place)[1]
            self.write(place + 32 * n, [number, 0, *arguments, 0])
        return 0, [13, place, 2, 0, 0, 0]

    def any_call(self, chance, place):
        number = chance.choice((0, 1, 3, 4, 13, 14, 15, 17, 18, 24, 26, 29, 32, 32, 32, 5, 33, chance.getrandbits(32)))
        self.write(place + 64, [self.any(chance) for _ in range(8)])
        arguments = [chance.choice((place + 64, self.any(chance), self.any(chance))) for _ in range(5)]
        if number == 29:
            arguments[0] = 0  # a guest that blocks or shuts down does no more harm
        if number == 0 and not arguments[0]:
            arguments[0] = place + 64  # nor one without handlers
        return 0, [number, *arguments]

    def events(self, chance, place):
        """Do something with event channels, with arguments that may well be right."""
        self.write(
            place, [chance.choice((0, 1, 2, 0x7FF0, 0x7FF0 | 2 << 16, 1 | 2 << 16)), chance.randrange(4), 0, 0, 0, 0]
        )
        return 0, [32, chance.choice((0, 1, 3, 4, 4, 5, 6, 9)), place, 0, 0, 0]

    def give_back(self, chance, place):
        return 0, [23, 0, 0, 0, 0, 0]


KINDS = (
    Script.updates, Script.mapping, Script.read_only, Script.commands, Script.directory, Script.poke, Script.list,
    Script.any_call, Script.events, Script.give_back,
)  # fmt: skip
WEIGHTS = (0,) * 24 + (1,) * 12 + (2,) * 20 + (3,) * 24 + (4,) * 6 + (5,) * 10 + (6,) * 4 + (7,) * 12 + (8,) * 10 + (9,)


def host_digest(system) -> str:
    """Return a digest of what is the hypervisor's and never changes: tables, entry points, its own page tables."""
    host, memory = system.switcher.host, system.machine.memory
    changing = {
        host.host_address(host.idt),
        host.host_address(host.tss),
        host.host_address(host.stack_top - 1) & ~0xFFF,
    }
    changing |= {domain.shared for domain in system.domains} | set(system.switcher._m2p)
    hasher = hashlib.sha256()
    for address in host.addresses:
        if address not in changing:
            hasher.update(memory.read_bytes(address, 4096))
    for vector in range(256):
        if vector != FAST_TRAP:
            hasher.update(host.read(host.idt + 8 * vector, 8).to_bytes(8, "little"))
    return hasher.hexdigest()


def attack(seed: int) -> Counter:
    """Let a guest do a list of random things; return what came of its hypercalls."""
    chance = random.Random(seed)
    system = started(PLAYER, 2, detail="events", disks=[guests.workload_disk()])
    script = Script(system)
    script.ask(chance)
    while script.count < ACTIONS:
        script.add(chance)
    system.end_guest(1, "halt")  # so that whatever changes in it, it has not done itself
    neighbour, host = system.guests[1].memory.digest(), host_digest(system)
    results: Counter = Counter()

    def look(event) -> None:
        if event.kind == "hypercall":
            results[event.name, event.result >= 0] += 1
            audit(system)

    system.trace.observers.append(look)
    system.run()
    audit(system)
    assert system.guests[1].memory.digest() == neighbour
    assert host_digest(system) == host
    results.update(script.answers())
    return results


@pytest.mark.long
@given(st.integers(0, 1 << 32))
def test_many_random_hypercalls(seed):
    attack(seed)


def test_random_hypercalls():
    """Both outcomes of each call occur, too: random requests that are all refused would test nothing."""
    results: Counter = Counter()
    for seed in range(32):
        results.update(attack(seed))
    for name in ("mmu_update", "update_va_mapping", "mmuext_op", "event_channel_op", "multicall"):
        assert results[name, True] >= 3, name
    for name in ("mmu_update", "update_va_mapping", "mmuext_op", "event_channel_op"):
        assert results[name, False] >= 3, name
    assert results["sector", True] >= 3
    assert results["sector", False] >= 3


# -- random code ------------------------------------------------------------------------------------------------------------

NOISE = """
main:   mov dword [resume], next
next:   mov esp, [stack]
        mov eax, USER_DATA
        mov ds, eax
        mov es, eax
        add dword [where], 97
        mov eax, [where]
        and eax, 0x3FFF
        add eax, noise
        jmp eax
where:  dd 0
align 4096
noise:  times 0x5000 db 0x90
"""


def run_noise(seed: int) -> None:
    """Execute random bytes in ring 1, from another place after each exception."""
    chance = random.Random(seed)
    image = kernel(NOISE)
    system = build([image, image], "paravirtualization", memory=MEMORY, max_instructions=4_000, engine="interpreter")
    guest = system.guests[0]
    code = bytes(
        chance.choice((0x82, 0xCD, chance.randrange(256), chance.randrange(256), chance.randrange(256)))
        for _ in range(0x5000)
    )
    guest.memory.write_bytes(image.symbols["noise"], code)
    system.end_guest(1, "halt")
    neighbour, host = system.guests[1].memory.digest(), host_digest(system)
    while not system.finished:
        system.advance(200)
        if system.in_vmm:
            audit(system)
    audit(system)
    assert system.guests[1].memory.digest() == neighbour
    assert host_digest(system) == host


@settings(max_examples=25)
@given(st.integers(0, 1 << 32))
def test_random_code(seed):
    run_noise(seed)


@pytest.mark.long
@given(st.integers(0, 1 << 32))
def test_much_random_code(seed):
    run_noise(seed)
