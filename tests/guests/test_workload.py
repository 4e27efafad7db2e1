"""The common workload on the bare machine, under every technique, and as a process of another kernel."""

from __future__ import annotations

from functools import cache

import pytest
from unicorn import UC_ARCH_X86, UC_HOOK_INTR, UC_MODE_32, Uc
from unicorn.x86_const import UC_X86_REG_EAX, UC_X86_REG_EBX, UC_X86_REG_ECX, UC_X86_REG_ESP

import vmlab
from tests.guests.oracle import DATA, LINE
from tests.vmm.harness import differences, finish, seen
from vmlab import guests
from vmlab.machine.disk import Disk
from vmlab.machine.trace import Trap

BANNER = "workload: paging is on\n"
CONSOLE = BANNER + LINE
UNDER = [
    ("trap-and-emulate", None),
    ("binary-translation", None),
    *((technique, memory) for technique in ("vt-x", "amd-v") for memory in ("nested", "shadow")),
]
VIRTUAL, HEAP = 0x40_0000, 0x40_2000
EXIT, PRINT, PUTCHAR, GETPID, TICKS, SLEEP, READ, MORE = range(8)
REFUSED = 0xFFFF_FFFF


def run(image, under="native", **options):
    return finish(image, under, **{"disks": [guests.workload_disk()]} | options)


def counters(guest, *names):
    symbols = guests.load("workload").symbols
    return tuple(guest.memory.read(symbols[name], 4) for name in names)


@pytest.fixture(scope="module")
def native():
    return run(guests.load("workload"))


def test_the_oracle_is_what_it_says():
    assert LINE == "primes 303 disk e3ad8000 pages 36\n"
    assert guests.workload_disk().contents() == DATA


def test_the_line_is_what_python_computes(native):
    guest = native.guests[0]
    assert (guest.console, guest.outcome, guest.status) == (CONSOLE, "exit", 1)
    assert guest.instructions < 70_000
    # Pages of the program 8; calls: READ 8, MORE, GETPID 64, SLEEP, PRINT, EXIT.
    assert counters(guest, "faults", "calls", "sum") == (8, 8 + 1 + 64 + 3, 64)
    assert [disk.read(0, 8) for disk in [native.disks[0]]] == [DATA]


@pytest.mark.parametrize(("under", "memory"), UNDER)
def test_it_is_the_same_under_every_technique(under, memory, native):
    options = {} if memory is None else {"memory_virtualization": memory}
    virtual = run(guests.load("workload"), under, **options)
    assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))


def test_the_interpreter_and_the_translator_agree(native):
    other = run(guests.load("workload"), engine="interpreter")
    assert not differences(seen(native.guests[0]), seen(other.guests[0]))


def test_what_traps_is_what_the_source_says():
    traps = []
    system = vmlab.vmm.techniques.build(
        guests.load("workload"), disks=[guests.workload_disk()], detail="events", max_instructions=200_000
    )
    system.trace.observers.append(lambda event: traps.append(event) if isinstance(event, Trap) else None)
    system.run()
    faults = [trap for trap in traps if trap.vector == 14]
    # Writes (2) in user mode (4) to pages that are not there.
    assert [(trap.error_code, trap.cr2) for trap in faults] == [(6, HEAP + 0x1000 * page) for page in range(8)]
    assert sum(trap.vector == 46 for trap in traps) == 8
    assert sum(trap.vector == 32 for trap in traps) >= 5
    assert {trap.vector for trap in traps} == {14, 32, 46}


def test_rounds_and_the_slave_and_the_period_can_be_chosen():
    image = guests.load("workload", ROUNDS=2, DRIVE=0xF0, PERIOD=1000)
    guest = run(image, disks=[Disk(bytes(512)), guests.workload_disk()]).guests[0]
    assert guest.console == BANNER + 2 * LINE
    assert counters(guest, "faults") == (16,)


def test_other_data_have_another_checksum():
    guest = run(guests.load("workload"), disks=[Disk(b"hello".ljust(4096, b"\0"))]).guests[0]
    total = 99162322 * pow(31, 4091, 1 << 32) & REFUSED  # "hello".hashCode(), as every Java book has it
    assert guest.console == f"{BANNER}primes 303 disk {total:08x} pages 36\n"


@pytest.mark.parametrize("disks", [[], [Disk(bytes(7 * 512))]])
def test_a_disk_that_cannot_be_read_is_said(disks):
    guest = run(guests.load("workload"), disks=disks).guests[0]
    assert (guest.console, guest.status) == (BANNER + "workload: the disk cannot be read\n", 3)


# -- the calls of both kernels, the original and its port -----------------------------------------------------------------

KERNELS = {"workload": "native", "workload_pv": "paravirtualization"}
BOTH = pytest.mark.parametrize("kernel", KERNELS)


@cache
def with_program(kernel, source):
    """Return the image of a kernel with another program."""
    text, found, _ = guests.source(kernel).partition("align 4096\nprogram:\n")
    assert found
    return vmlab.assemble(f"{text}{found}{source}\n times 4096 - ($ - program) db 0\nprogram_end:\n", "program")


def calls(kernel, *rows, before="", after="", **options):
    """Run a program that makes some calls; return what they gave, the guest, and 512 bytes of its buffer."""
    made = "\n".join(
        f"system {', '.join(map(str, row))}\n mov [AT results + {4 * number}], eax" for number, row in enumerate(rows)
    )
    image = with_program(
        kernel,
        f"{before}\n{made}\n{after}\nsystem EXIT, 0\nalign 4\nresults: times {len(rows)} dd 0x55\n"
        "text: db 'text', 10, 0\nalign 4\nbuffer: times 512 db 0x55",
    )
    guest = run(image, KERNELS[kernel], **options).guests[0]
    place, buffer = image.symbols["results"], image.symbols["buffer"]
    results = [guest.memory.read(place + 4 * n, 4) for n in range(len(rows))]
    return results, guest, guest.memory.read_bytes(buffer, 512)


@BOTH
def test_calls_give_what_they_promise(kernel):
    results, guest, buffer = calls(
        kernel,
        ("GETPID",), ("TICKS",), ("SLEEP", 3), ("TICKS",), ("SLEEP", 0), ("PUTCHAR", "'x'"), ("PRINT", "AT text"),
        ("READ", 3, "AT buffer"), ("MORE", 2), ("MORE", 0), ("MORE", 1),
    )  # fmt: skip
    before, after = results[1], results[3]
    assert after >= before + 3
    assert results == [1, before, 0, after, 0, 0, 0, 0, HEAP, HEAP + 0x2000, HEAP + 0x2000]
    assert guest.console == BANNER + "xtext\n"
    assert buffer == DATA[3 * 512 : 4 * 512]


@BOTH
def test_the_kernel_itself_may_touch_a_page_first(kernel):
    results, guest, buffer = calls(
        kernel,
        ("MORE", 4),
        ("READ", 2, HEAP + 0xFF0),  # over the border of two pages
        ("PRINT", HEAP + 0x2FFF),  # an empty text in a third
        ("TICKS",),
        after=f"mov esi, {HEAP + 0xFF0}\n mov edi, AT buffer\n mov ecx, 512\n rep movsb\n system SLEEP, 2",
    )
    assert results[:3] == [HEAP, 0, 0]
    assert buffer == DATA[2 * 512 : 3 * 512]
    assert (guest.console, guest.status) == (BANNER, 1)
    image = with_program(kernel, "")
    assert guest.memory.read(image.symbols["faults"], 4) == 3


BAD = [
    (8,), (REFUSED,), ("PRINT", 0), ("PRINT", VIRTUAL - 1), ("PRINT", HEAP), ("PRINT", REFUSED), ("PRINT", 0x10_0000),
    ("PRINT", "AT unended"), ("READ", 0, 0), ("READ", 0, VIRTUAL - 1), ("READ", 0, HEAP - 511), ("READ", 0, HEAP),
    ("READ", 0, REFUSED), ("READ", 0, 0xFFFF_FE00), ("READ", 0, 0xFFFF_FF00), ("READ", 8, "AT buffer"),
    ("READ", (1 << 28) - 1, "AT buffer"), ("READ", 1 << 28, "AT buffer"), ("READ", REFUSED, "AT buffer"),
    ("MORE", 0x1000), ("MORE", 0x10_0000), ("MORE", REFUSED), ("MORE", 800),
]  # fmt: skip


@BOTH
def test_what_cannot_be_is_refused(kernel):
    # The stack is filled, up to its end, with what is no text's end.
    before = "mov edi, 0x401000\n mov ecx, 1024\n mov eax, -1\n rep stosd\nunended equ program + 0x1FF0\n"
    results, guest, buffer = calls(kernel, *BAD, ("READ", 7, "AT buffer"), before=before)
    assert results == [REFUSED] * len(BAD) + [0]
    assert (guest.console, guest.status) == (BANNER, 1)
    assert buffer == DATA[7 * 512 :]


def free_pages(kernel, memory):
    """Return how many pages a kernel has to give away, by its layout."""
    if kernel == "workload":
        return (min(memory, 4 << 20) - 0x11_7000) >> 12
    # Behind the image the P2M table, then the start info, two rings, a page directory, a page table, a stack.
    end = -(-with_program(kernel, "").end >> 12) + -(-(memory >> 12) * 4 // 4096) + 6
    return (min(memory, 4 << 20) >> 12) - end


@BOTH
@pytest.mark.parametrize("memory", [3 << 20, 8 << 20])
def test_memory_is_promised_no_further_than_there_is(kernel, memory):
    pages = free_pages(kernel, memory)
    results, guest, _ = calls(kernel, ("MORE", pages + 1), ("MORE", pages), ("MORE", 1), memory=memory)
    assert results == [REFUSED, HEAP, REFUSED]
    assert (guest.console, guest.status) == (BANNER, 1)


@BOTH
def test_all_memory_that_is_promised_is_there(kernel):
    pages = free_pages(kernel, 2 << 20)
    touch = f"mov ecx, {pages}\n mov edi, {HEAP}\n.touch: add [edi], ecx\n add edi, 0x1000\n loop .touch"
    _, guest, _ = calls(kernel, ("MORE", pages), after=touch, memory=2 << 20, max_instructions=400_000)
    assert (guest.console, guest.status) == (BANNER, 1)
    assert guest.memory.read(with_program(kernel, "").symbols["faults"], 4) == pages


@pytest.mark.parametrize(
    ("source", "vector", "code", "address"),
    [
        (f"mov eax, [{HEAP}]", 14, 4, HEAP),
        ("mov eax, [0x100000]", 14, 5, 0x10_0000),
        ("mov byte [0x3FFFFF], 1", 14, 7, 0x3F_FFFF),
        ("cli", 13, 0, None),
        ("int 0x20", 13, 0x102, None),
        ("xor ecx, ecx\n div ecx", 0, 0, None),
        ("ud2", 6, 0, None),
    ],
)
@pytest.mark.parametrize("under", ["native", "trap-and-emulate", "binary-translation", "paravirtualization"])
def test_a_program_that_faults_ends(source, vector, code, address, under):
    kernel = "workload_pv" if under == "paravirtualization" else "workload"
    guest = run(with_program(kernel, source), under).guests[0]
    said = guest.console.removeprefix(BANNER)
    assert said.startswith(f"exception {vector:08x}, error code {code:08x}, CR2 ")
    assert address is None or said.endswith(f" {address:08x}\n")
    assert guest.status == 3


@BOTH
def test_ticks_may_come_at_any_instruction(kernel):
    # Each length of the period lets the ticks fall on other instructions.
    for period in (61, 67) if kernel == "workload" else (51_117, 56_003):
        guest = run(guests.load(kernel, PERIOD=period), KERNELS[kernel]).guests[0]
        assert (guest.console, guest.status) == (CONSOLE, 1)


# -- another kernel ------------------------------------------------------------------------------------------------------


def test_another_kernel_can_run_its_program():
    """Unicorn runs the bytes as the source says they may be run; the kernel is Python."""
    image = guests.load("workload")
    (segment,) = image.segments
    start, end = (image.symbols[name] - segment.address for name in ("program", "program_end"))
    assert end - start <= 0x1000
    assert not start % 0x1000
    emulator = Uc(UC_ARCH_X86, UC_MODE_32)
    emulator.mem_map(VIRTUAL, 0x2000)
    emulator.mem_write(VIRTUAL, segment.data[start:end])
    emulator.reg_write(UC_X86_REG_ESP, HEAP)
    said, made, disk = [], [], guests.workload_disk()

    def serve(emulator, vector, _):
        call, first, second = (emulator.reg_read(each) for each in (UC_X86_REG_EAX, UC_X86_REG_EBX, UC_X86_REG_ECX))
        made.append(call)
        result = 0
        if vector != 0x80 or call == EXIT:
            emulator.emu_stop()
        elif call == PRINT:
            said.append(bytes(emulator.mem_read(first, 64)).partition(b"\0")[0].decode())
        elif call == GETPID:
            result = 7
        elif call == READ:
            emulator.mem_write(second, disk.read(first))
        elif call == MORE:
            emulator.mem_map(HEAP, first << 12)
            result = HEAP
        emulator.reg_write(UC_X86_REG_EAX, result)

    emulator.hook_add(UC_HOOK_INTR, serve)
    emulator.emu_start(VIRTUAL, 0, count=200_000)
    assert said == [LINE]
    assert len(made) == 76
