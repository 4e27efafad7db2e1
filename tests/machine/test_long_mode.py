"""Long mode: getting in and out, 64-bit and compatibility code, canonical addresses, descriptors, state (SDM vol. 3, 10.8.5)."""

from __future__ import annotations

import pytest

from tests.machine.computer import CODE, DATA, STACK, TASK, TSS, Computer
from tests.machine.computer_64 import CODE_32, HIGH, SPARE_64, TABLES, LongComputer
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import INTERRUPT_GATE64, LDT, TSS64, encode_descriptor, encode_gate
from vmlab.isa.x86.faults import GP, SS, UD
from vmlab.isa.x86.registers import (
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    CR4_PSE,
    CS,
    DS,
    EAX,
    EBX,
    ECX,
    EDX,
    EFER_LMA,
    EFER_LME,
    ESP,
    FS,
    GS,
    MSR_EFER,
    MSR_FS_BASE,
    MSR_GS_BASE,
    R8,
)  # fmt: skip
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.translator import Engine

RAX, RBX, RCX, RDX = EAX, EBX, ECX, EDX
BEYOND = 0x8000_0000_0000


@pytest.fixture
def computer() -> LongComputer:
    return LongComputer()


ENTER = f"""
        mov eax, {CR4_PAE}
        mov cr4, eax
        mov eax, {TABLES}
        mov cr3, eax
        mov ecx, {MSR_EFER}
        rdmsr
        or eax, {EFER_LME}
        wrmsr
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
active: jmp {SPARE_64[0]}:inside
        bits 64
inside: mov rax, 0x123456789abcdef0
        mov r15, rax
        lea rbx, [rel inside]
back:   jmp far [rel way_out]
way_out:
        dq outside
        dw 0x08
        bits 32
outside:
        mov ebx, eax
        mov eax, cr0
        and eax, 0x7fffffff
        mov cr0, eax
left:   nop
"""


def page_tables(computer: Computer) -> None:
    for place, entry in ((0, TABLES + 0x1003), (0x1000, TABLES + 0x2003), (0x2000, 0x83)):
        computer.memory.write(TABLES + place, 8, entry)


def test_into_long_mode_and_out_of_it() -> None:
    computer = Computer(CPU_MODELS["core-2"])
    page_tables(computer)
    computer.descriptor(SPARE_64[0], encode_descriptor(0, 0xFFFF_FFFF, 0x9B, big=False, long=True))
    computer.load(ENTER)
    cpu = computer.cpu
    computer.run_to("active")
    assert (cpu.efer, cpu.long_mode, cpu.code_64) == (EFER_LME | EFER_LMA, True, False)
    computer.run_to("back")
    assert (cpu.code_64, cpu.fetch_bits, cpu.registers[15]) == (True, 64, 0x1234_5678_9ABC_DEF0)
    assert cpu.registers[RBX] == computer.symbols["inside"]
    assert {"rax", "r15", "rip", "efer"} < set(cpu.visible())
    computer.run_to("left")
    # The upper half of RAX is lost on the way out; R15 is out of reach, and stays.
    assert (cpu.registers[RBX], cpu.registers[15]) == (0x9ABC_DEF0, 0x1234_5678_9ABC_DEF0)
    assert (cpu.efer, cpu.long_mode, cpu.fetch_bits) == (EFER_LME, False, 32)
    assert "eax" in cpu.visible()


BAD_SWITCHES = {
    "paging without PAE": (f"mov ecx, {MSR_EFER}\n mov eax, {EFER_LME}\n xor edx, edx\n wrmsr\n bad: mov cr0, ebx", 0),
    "LME while paging is on": (f"mov cr0, ebx\n mov ecx, {MSR_EFER}\n mov eax, {EFER_LME}\n cdq\n bad: wrmsr", 0),
    "paging from 64-bit code": (f"mov eax, {CR4_PAE}\n mov cr4, eax\n bad: mov cr0, ebx", EFER_LME),
}


@pytest.mark.parametrize("name", BAD_SWITCHES)
def test_bad_switch(name: str) -> None:
    source, efer = BAD_SWITCHES[name]
    computer = Computer(CPU_MODELS["core-2"])
    page_tables(computer)
    if "LME" in name:
        computer.cpu.set_cr4(CR4_PSE)
        computer.memory.write(TABLES, 4, 0x83)
    computer.load(source)
    computer.cpu.set_efer(efer)
    computer.cpu.set_cr3(TABLES)
    computer.cpu.segments[CS].long = bool(efer)
    computer.cpu.registers[EBX] = CR0_PE | CR0_ET | CR0_PG
    trap = computer.trap()
    assert (trap.what, trap.ip) == ((GP, 0), computer.symbols["bad"])


IN_LONG_MODE = {
    "PAE off": ("xor eax, eax\n bad: mov cr4, rax", 64),
    "paging off in 64-bit code": (f"mov eax, {CR0_PE}\n bad: mov cr0, rax", 64),
    "upper half of CR0": ("mov rax, cr0\n bts rax, 32\n bad: mov cr0, rax", 64),
    "upper half of CR4": ("mov rax, cr4\n bts rax, 40\n bad: mov cr4, rax", 64),
    "LME off": (f"mov ecx, {MSR_EFER}\n xor eax, eax\n xor edx, edx\n bad: wrmsr", 32),
    "CR8 above 15": ("mov eax, 16\n bad: mov cr8, rax", 64),
    "upper half of DR7": ("bts rax, 32\n bad: mov dr7, rax", 64),
    "upper half of DR6": ("bts rax, 63\n bad: mov dr6, rax", 64),
}


@pytest.mark.parametrize("name", IN_LONG_MODE)
def test_control_register_refuses(computer: LongComputer, name: str) -> None:
    source, bits = IN_LONG_MODE[name]
    computer.load(source, bits=bits)
    trap = computer.trap()
    assert (trap.what, trap.ip) == ((GP, 0), computer.symbols["bad"])


def test_task_priority_and_debug_registers_of_64_bits(computer: LongComputer) -> None:
    computer.load(
        "mov eax, 9\n mov cr8, rax\n mov rbx, cr8\n"
        "mov rcx, 0x123456789abcdef0\n mov dr1, rcx\n mov rdx, dr1\n mov cr2, rcx\n mov r8, cr2\n end: nop"
    )
    computer.run_to("end")
    registers = computer.cpu.registers
    assert (registers[RBX], computer.cpu.interrupts.tpr) == (9, 0x90)
    assert registers[RDX] == registers[R8] == 0x1234_5678_9ABC_DEF0


NOT_CANONICAL = {
    "read": ("mov rbx, [rax]", (GP, 0)),
    "write": ("mov [rax], rbx", (GP, 0)),
    "read and write": ("add [rax], rbx", (GP, 0)),
    "across the end": ("mov rbx, [rax - 4]", (GP, 0)),
    "by RBP": ("mov rbp, rax\n mov rbx, [rbp]", (SS, 0)),
    "pop": ("mov rsp, rax\n pop rbx", (SS, 0)),
    "push": ("mov rsp, rax\n add rsp, 8\n push rbx", (SS, 0)),
    "jump": ("jmp rax", (GP, 0)),
    "call": ("call rax", (GP, 0)),
    "return": ("push rax\n ret", (GP, 0)),
    "string": ("mov rsi, rax\n lodsb", (GP, 0)),
    "by FS": ("mov ebx, 0\n mov rcx, [fs:rbx]", (GP, 0)),
    "descriptor table": ("lgdt [rsp]", (GP, 0)),
}


@pytest.mark.parametrize("name", NOT_CANONICAL)
def test_address_that_is_not_canonical(computer: LongComputer, name: str) -> None:
    source, expected = NOT_CANONICAL[name]
    *before, last = source.split("\n")
    # The handlers get a stack of their own: RSP may be what is wrong.
    for vector in (GP, SS):
        computer.gate(vector, computer.quad(0x2000 + 16 * vector) | 1 << 32)
    computer.load("\n".join([*before, f"bad: {last}"]))
    computer.memory.write(STACK, 2, 0xFFFF)
    computer.memory.write(STACK + 2, 8, BEYOND)
    computer.cpu.registers[RAX] = BEYOND
    if "fs" in source:
        computer.cpu.segments[FS].base = BEYOND - 2
        computer.cpu.segments[FS].flat_read = False
    trap = computer.trap()
    assert (trap.what, trap.ip) == (expected, computer.symbols["bad"])


def test_running_into_the_hole_of_addresses(computer: LongComputer) -> None:
    top = BEYOND - 0x20_0000
    for place, entry in ((255 * 8, TABLES + 0x3007), (0x3000 + 511 * 8, TABLES + 0x4007), (0x4000 + 511 * 8, 0x87)):
        computer.memory.write(TABLES + place, 8, entry)
    computer.load(f"mov rax, {top + CODE + 0x1000:#x}\n jmp rax")
    computer.memory.write_bytes(CODE + 0x1000, b"\xeb\xfe")
    computer.step(3)
    assert computer.cpu.ip == top + CODE + 0x1000
    computer.cpu.ip = BEYOND - 1  # beyond the memory, but what is read there does not matter: FF needs a second byte
    trap = computer.trap()
    assert (trap.what, trap.ip) == ((GP, 0), BEYOND - 1)


def test_upper_half_of_memory(computer: LongComputer) -> None:
    computer.load(f"mov rax, {HIGH + DATA:#x}\n mov rbx, [rax]\n mov [rax + 8], rbx\n jmp [rax + 16]")
    computer.memory.write(DATA, 8, 0xFEDC_BA98_7654_3210)
    computer.memory.write(DATA + 16, 8, HIGH + CODE + 0x1000)
    computer.memory.write_bytes(CODE + 0x1000, bytes.fromhex("488d0500000000 f4"))  # lea rax, [rip]
    computer.step(5)
    assert computer.cpu.registers[RBX] == computer.quad(DATA + 8) == 0xFEDC_BA98_7654_3210
    assert computer.cpu.registers[RAX] == HIGH + CODE + 0x1007


def test_compatibility_code_has_32_bits(computer: LongComputer) -> None:
    computer.load("dec eax\n mov ebx, 5\n mov ecx, [0x20000]\n mov eax, [ebx + 0xffffffff]", bits=32)
    computer.memory.write(DATA, 4, 77)
    computer.memory.write(4, 4, 99)
    computer.step(4)
    registers = computer.cpu.registers
    assert (registers[EAX], registers[EBX], registers[ECX]) == (99, 5, 77)
    assert computer.cpu.fetch_bits == 32


def test_segments_are_flat_in_64_bit_code_and_not_in_compatibility_code(computer: LongComputer) -> None:
    computer.load(f"mov eax, {SPARE_64[2]:#x}\n mov ds, eax\n mov ebx, [0x10]\n end: jmp far [rsp]")
    computer.descriptor(SPARE_64[2], encode_descriptor(DATA, 0xFF, 0x91))  # a base, a limit, and not writable
    computer.compatibility()
    computer.memory.write(STACK, 8, CODE + 0x100)
    computer.memory.write(STACK + 8, 2, CODE_32)
    computer.memory.write(0x10, 4, 1)
    computer.memory.write(DATA + 0x10, 4, 2)
    after = assemble("mov ebx, [0x10]\n mov [0x100], eax", CODE + 0x100)
    computer.memory.write_bytes(CODE + 0x100, after.code)
    computer.run_to("end")
    assert computer.cpu.registers[RBX] == 1
    computer.step(2)
    assert computer.cpu.registers[RBX] == 2
    assert computer.trap().what == (GP, 0)


def test_bases_of_fs_and_gs(computer: LongComputer) -> None:
    source = f"""
        mov ecx, {MSR_FS_BASE}
        mov eax, {DATA}
        mov edx, {HIGH >> 32}
        wrmsr
        mov ecx, {MSR_GS_BASE}
        wrmsr
        mov rbx, [fs:8]
        mov eax, 0xffffffff
        mov r8d, [gs:eax + 17]     ; the offset has 32 bits, the base 64
        mov eax, {SPARE_64[2]}
        mov fs, eax                ; loads a base of 32 bits
        mov r9, [fs:0]
        rdmsr
        xor eax, eax
        mov gs, eax                ; a null selector
        mov r10, [gs:{DATA:#x}]
        end: nop
    """
    computer.descriptor(SPARE_64[2], encode_descriptor(DATA + 0x20, 0xF, 0x91))
    computer.load(source)
    for place, value in ((0, 5), (8, 1), (16, 2), (0x20, 3)):
        computer.memory.write(DATA + place, 8, value)
    computer.run_to("end")
    registers = computer.cpu.registers
    assert (registers[RBX], registers[R8], registers[9], registers[10]) == (1, 2, 3, 5)
    assert registers[RDX] == HIGH >> 32


def test_tables_of_64_bits(computer: LongComputer) -> None:
    computer.load("sgdt [0x20000]\n sidt [0x20010]\n lidt [0x20020]\n lgdt [0x20030]\n end: nop")
    computer.memory.write_bytes(DATA + 0x20, bytes.fromhex("ff0f 0020000000 80ffff"))
    computer.memory.write_bytes(DATA + 0x30, bytes.fromhex("7f00 0010000000 80ffff"))
    computer.run_to("end")
    assert computer.memory.read_bytes(DATA, 10) == bytes.fromhex("7f00 0010000000000000")
    assert computer.memory.read_bytes(DATA + 16, 10) == bytes.fromhex("ff0f 0020000000000000")
    assert (computer.cpu.gdtr_base, computer.cpu.idtr_base) == (HIGH + 0x1000, HIGH + 0x2000)
    computer.load("ud2")
    assert computer.trap().vector == UD  # through the tables in the upper half


SYSTEM_SEGMENTS = {
    "TSS": ("ltr ax", encode_descriptor(HIGH + TSS, 0x67, 0x80 | TSS64, big=False), None),
    "LDT": ("lldt ax", encode_descriptor(HIGH + DATA, 0xFF, 0x80 | LDT, big=False), None),
    "TSS of 16 bits": ("ltr ax", encode_descriptor(TSS, 0x67, 0x81, big=False), (GP, SPARE_64[0])),
    "busy TSS": ("ltr ax", encode_descriptor(TSS, 0x67, 0x8B, big=False), (GP, SPARE_64[0])),
    "base not canonical": ("ltr ax", encode_descriptor(BEYOND, 0x67, 0x89, big=False), (GP, SPARE_64[0])),
    "a second type": ("lldt ax", encode_descriptor(DATA, 0xFF, 0x82, big=False) | 1 << 104, (GP, SPARE_64[0])),
}


@pytest.mark.parametrize("name", SYSTEM_SEGMENTS)
def test_system_segment_of_16_bytes(computer: LongComputer, name: str) -> None:
    source, raw, expected = SYSTEM_SEGMENTS[name]
    computer.wide_descriptor(SPARE_64[0], raw)
    computer.load(f"mov eax, {SPARE_64[0]}\n{source}\n nop")
    if expected:
        assert computer.trap().what == expected
        return
    computer.step(2)
    register = computer.cpu.tr if source.startswith("ltr") else computer.cpu.ldtr
    assert (register.selector, register.base >> 32) == (SPARE_64[0], HIGH >> 32)
    if source.startswith("ltr"):
        assert computer.memory.read(0x1000 + SPARE_64[0] + 5, 1) == 0x8B


def test_system_segment_cut_off_by_the_tables_limit(computer: LongComputer) -> None:
    computer.descriptor(0x78, encode_descriptor(TSS, 0x67, 0x89, big=False))
    computer.load("mov eax, 0x78\n ltr ax")
    assert computer.trap().what == (GP, 0x78)


INSPECTED = {
    "TSS": (TASK, True),
    "call gate": (0x58, True),
    "TSS of 16 bits": (0x68, False),
    "64-bit code": (0x08, True),
    "cut off": (0x78, False),
}


@pytest.mark.parametrize("name", INSPECTED)
def test_lar_knows_the_types_of_long_mode(computer: LongComputer, name: str) -> None:
    selector, seen = INSPECTED[name]
    computer.wide_descriptor(0x58, 0x0000_EC00_0008_0000)
    computer.wide_descriptor(0x68, 0x0000_8100_0000_002B)
    computer.descriptor(0x78, 0x0000_8200_0000_002B)
    computer.load(f"mov eax, {selector}\n lar rbx, eax\n setz cl")
    computer.step(3)
    assert computer.cpu.registers[RCX] & 1 == seen


def test_load_of_ss_in_64_bit_code(computer: LongComputer) -> None:
    computer.load("xor eax, eax\n mov ss, eax\n push rax\n pop rbx\n mov eax, 3\n bad: mov ss, eax")
    trap = computer.trap()
    assert (trap.what, trap.ip) == ((GP, 0), computer.symbols["bad"])
    computer.load("mov eax, 3\n bad: mov ss, eax", 3)
    assert computer.trap().what == (GP, 0)


def test_task_switches_are_not_there(computer: LongComputer) -> None:
    computer.wide_descriptor(SPARE_64[0], encode_descriptor(TSS, 0x67, 0x89, big=False))
    computer.load(f"dq 0\n dw {SPARE_64[0]}\n start: jmp far [rel $$]")
    computer.cpu.ip = computer.symbols["start"]
    assert computer.trap().what == (GP, SPARE_64[0])


def test_port_needs_its_bit_in_the_map(computer: LongComputer) -> None:
    computer.cpu.tr.limit = 0x67 + 0x100
    computer.memory.write_bytes(TSS + 0x68, b"\xff" * 0x10 + b"\xef" + b"\xff" * 0x20)
    computer.load("out 0x84, al\n bad: out 0x85, al", 3)
    trap = computer.trap()
    assert (trap.what, trap.ip) == ((GP, 0), computer.symbols["bad"])


@pytest.mark.parametrize("bits", [64, 32])
def test_saved_state_goes_on_where_it_was(computer: LongComputer, bits: int) -> None:
    computer.load("again: add eax, 3\n rol eax, 5\n push eax\n pop ebx\n jmp again" if bits == 32 else
                  "again: add rax, [rel again]\n rol rax, 5\n push rax\n pop r9\n jmp again", bits=bits)  # fmt: skip
    computer.step(17)
    state = computer.machine.save()
    memory = computer.memory.read_bytes(0, 1 << 20)
    computer.step(23)
    expected = computer.machine.save()
    other = LongComputer()
    other.load("nop", bits=96 - bits)
    other.memory.write_bytes(0, memory)
    other.machine.load(state)
    assert other.cpu.code_64 == (bits == 64)
    other.step(23)
    assert other.machine.save() == expected


def test_data_segment_that_is_null_may_be_used_in_64_bit_code_alone(computer: LongComputer) -> None:
    computer.load("mov ebx, [0x20000]")
    computer.cpu.segments[DS].set(0, 0, 0, 0, big=False)
    computer.cpu.segments[GS].set(0, 0, 0, 0, big=False)
    computer.memory.write(DATA, 4, 9)
    computer.step()
    assert computer.cpu.registers[RBX] == 9
    computer.load("mov ebx, [0x20000]", bits=32)
    computer.cpu.segments[DS].set(0, 0, 0, 0, big=False)
    trap = computer.trap()
    assert (trap.what, trap.esp, computer.cpu.registers[ESP]) == ((GP, 0), STACK, STACK - 48)


COMPATIBILITY_LOOP = """
start:  mov ecx, 30
.loop:  mov eax, [esi]
        add eax, ecx
        mov [edi], eax
        push eax
        pop ebx
        xor edx, ebx
        dec ecx
        jnz .loop
        int 0x80
        jmp start
"""


def test_the_translator_does_compatibility_code_as_the_interpreter_does() -> None:
    machines = []
    for engine in (None, Engine()):
        computer = LongComputer()
        handler = assemble("inc qword [rel $$]\n mov rbx, -1\n iretq", CODE + 0x1000, 64)
        computer.memory.write_bytes(CODE + 0x1000, handler.code)
        computer.gate(0x80, encode_gate(0x08, CODE + 0x1000, INTERRUPT_GATE64, 3))
        computer.load(COMPATIBILITY_LOOP, 3, bits=32)
        computer.cpu.registers[6:8] = DATA, DATA + 0x40
        computer.machine.engine = engine
        machines.append(computer.machine)
    interpreted, translated = machines
    for steps in (1000, 1, 7, 5000, 333):
        interpreted.run(steps)
        translated.run(steps)
        assert interpreted.save() == translated.save()
        assert interpreted.memory.digest() == translated.memory.digest()
    assert translated.engine is not None
    assert translated.engine.regions
