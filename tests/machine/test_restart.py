"""After a fault nothing has happened: registers, flags and memory are as before, so that the instruction can run again.

Each instruction is tried with the page under each of its accesses missing, in turn (SDM vol. 3, 6.6: restart of faults).
"""

from __future__ import annotations

import pytest

from tests.machine.computer import CODE, FREE, Computer
from vmlab.isa.x86.faults import PF, Fault
from vmlab.isa.x86.registers import CR0_PG, CR0_WP, ESP, RF

WINDOW = 0x5_0000  # pages 0x50 to 0x5F belong to the experiment
PAGES = range(0x50, 0x60)

# Where the operands lie: each reaches over the end of a page.
EAX, ECX, EDX, EBX, STACK, EBP, ESI, EDI = 0x1111_0004, 3, 0x2222_2222, 0x5_1FFE, 0x5_3FFA, 0x5_5FFE, 0x5_7FFF, 0x5_9FFD
REGISTERS = [EAX, ECX, EDX, EBX, STACK, EBP, ESI, EDI]

INSTRUCTIONS = (
    "push eax", "push dword [ebx]", "push 5", "push ds", "pushfd", "pushad", "pop eax", "pop dword [ebx]", "popfd", "popad",
    "pop dword [esp+4]", "pop esp", "call eax", "call [ebx]", "ret", "ret 8", "enter 16, 0", "enter 16, 3", "leave",
    "xchg eax, [ebx]", "xadd [ebx], eax", "cmpxchg [ebx], ecx", "cmpxchg8b [ebx]", "add [ebx], eax", "adc [ebx], eax",
    "sbb eax, [ebx]", "inc dword [ebx]", "neg dword [ebx]", "not dword [ebx]", "shl dword [ebx], 3", "rcr dword [ebx], 1",
    "shld [ebx], eax, 5", "bts [ebx], ecx", "btr dword [ebx], 31", "mul dword [ebx]", "imul eax, [ebx]", "movsd", "rep movsd",
    "stosd", "rep stosd", "lodsd", "cmpsd", "repe cmpsd", "scasd", "movsx eax, word [ebx]", "cmovz eax, [ebx]",
    "mov [ebx], eax", "mov ax, [ebx]", "sgdt [ebx]", "les eax, [ebx]", "call far [ebx]", "jmp far [ebx]", "retf", "retf 4",
    "iretd", "bound eax, [ebx]", "div dword [ebx]", "sets byte [ebx]", "call 8:0x10100", "arpl [ebx], cx", "insd", "outsd",
    "lgdt [ebx]", "lidt [ebx]",
)  # fmt: skip


def prepare(source: str) -> Computer:
    """A computer with paging on, before one instruction whose operands are all good."""
    computer = Computer()
    computer.load(source)
    memory, cpu = computer.memory, computer.cpu
    memory.write(FREE, 4, FREE + 0x1000 | 7)
    for page in range(256):
        memory.write(FREE + 0x1000 + 4 * page, 4, page << 12 | 7)
    for address in range(WINDOW, WINDOW + 0x1_0000, 4):
        memory.write(address, 4, address * 0x1357 & 0xFF_FFFF | 1)
    for pointer in (EBX, STACK):  # a far pointer, a return address, flags
        memory.write(pointer, 4, CODE + 0x100)
        memory.write(pointer + 4, 4, 0x08)
        memory.write(pointer + 8, 4, 0x46)
    cpu.registers[:8] = REGISTERS
    if source == "call eax":
        cpu.registers[0] = CODE + 0x100
    if source.startswith("div"):
        cpu.registers[2] = 0
    if source.startswith("bound"):
        memory.write(EBX, 8, 0x7FFF_FFFF_0000_0000)
    cpu.set_cr3(FREE)
    cpu.set_cr0(cpu.cr0 | CR0_PG | CR0_WP)
    return computer


def accessed(computer: Computer) -> list[int]:
    """Return the pages of the window that have been used."""
    return [page for page in PAGES if computer.word(FREE + 0x1000 + 4 * page) & 0x20]


def contents(computer: Computer) -> bytes:
    return computer.memory.read_bytes(WINDOW, 0x1_0000)


@pytest.mark.parametrize("source", INSTRUCTIONS)
def test_fault_changes_nothing(source: str) -> None:
    good = prepare(source)
    good.step()
    assert good.vector is None, good.trap()
    pages = accessed(good)
    assert pages or source in ("call eax", "push eax"), "the instruction was to use memory"
    for page in pages:
        for entry in (0, page << 12 | 5):  # missing; read-only
            bad = prepare(source)
            bad.memory.write(FREE + 0x1000 + 4 * page, 4, entry)
            before = bad.cpu.save_state(), contents(bad)
            # The frame of #PF must not be pushed onto the stack under test.
            bad.cpu.idtr_limit = 0
            raised = faults(bad)
            if not raised:
                assert entry, "an access to a missing page went through"
                continue
            after = bad.cpu.save_state(), contents(bad)
            changed = [
                name for name in after[0] if after[0][name] != before[0][name] and name not in ("cr2", "idtr_limit")
            ]
            assert not changed, (source, hex(page), changed)
            # (What lies below ESP belongs to nobody: some of a frame may stand there.)
            assert source.startswith(("enter", "pusha", "call far", "call 8")) or after[1] == before[1]
            assert bad.cpu.cr2 >> 12 == page
            # Mended, it does what it did at the first time.
            bad.memory.write(FREE + 0x1000 + 4 * page, 4, page << 12 | 7)
            bad.cpu.invalidate_page(page << 12)
            bad.cpu.idtr_limit = 0x7FF
            bad.step()
            assert bad.cpu.registers == good.cpu.registers
            assert (bad.cpu.ip, bad.cpu.flags) == (good.cpu.ip, good.cpu.flags)
            assert contents(bad) == contents(good)


def faults(computer: Computer) -> bool:
    """Execute one instruction without delivering its exception; say whether it raised #PF."""
    try:
        computer.cpu.execute()
    except Fault as fault:
        return fault.vector == PF
    return False


@pytest.mark.parametrize("source", ["push eax", "pushad", "call eax", "xchg eax, [ebx]", "movsd", "pop dword [ebx]"])
def test_the_handlers_frame_shows_the_instruction_itself(source: str) -> None:
    computer = prepare(source)
    computer.enter(3)
    for page in PAGES:
        computer.memory.write(FREE + 0x1000 + 4 * page, 4, page << 12 | 5)
    trap = computer.trap()
    assert (trap.vector, trap.error, trap.ip, trap.esp) == (PF, 7, CODE, STACK)
    assert trap.flags == 2 | RF
    expected = list(REGISTERS)
    expected[0] = computer.cpu.registers[0]
    expected[ESP] = computer.cpu.registers[ESP]
    assert computer.cpu.registers[:8] == expected


def test_a_store_over_two_pages_is_all_or_nothing() -> None:
    computer = prepare("mov [ebx], eax")
    computer.memory.write(FREE + 0x1000 + 4 * 0x52, 4, 0)
    before = contents(computer)
    assert faults(computer)
    assert (computer.cpu.cr2, contents(computer)) == (0x5_2000, before)
