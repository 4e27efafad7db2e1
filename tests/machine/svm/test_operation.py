"""SVM's instructions in the host, what VMRUN checks, and what passes between host and guest (AMD APM vol. 2, 15.5, 15.6, 15.16)."""

from __future__ import annotations

import pytest

from tests.machine.computer import Computer
from tests.machine.svm.arena import CODE, HOST, IOPM, SIZE, VMCB, Arena
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.faults import GP, UD, Fault
from vmlab.isa.x86.registers import (
    CR0_ET,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    EAX,
    EFER_LME,
    EFER_SVME,
    FS,
    GS,
    MSR_EFER,
    MSR_FS_BASE,
    MSR_KERNEL_GS_BASE,
    MSR_LSTAR,
    MSR_STAR,
    MSR_SYSENTER_ESP,
    MSR_VM_CR,
    MSR_VM_HSAVE_PA,
)
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.svm.codes import INVALID, ExitCode
from vmlab.machine.translator import Engine

VMMCALL = ExitCode.VMMCALL
NAMES = ("vmrun", "vmload", "vmsave", "stgi", "clgi", "invlpga", "skinit", "vmmcall")


# -- the instructions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_they_are_undefined_unless_switched_on(name):
    computer = Computer(CPU_MODELS["barcelona"])
    computer.load(name)
    computer.step()
    assert computer.trap().what == (UD, None)
    computer = Computer(CPU_MODELS["westmere"])
    computer.load(name)
    computer.step()
    assert computer.trap().what == (UD, None)


@pytest.mark.parametrize("name", NAMES)
def test_they_fault_in_ring_3(name):
    arena = Arena(name)
    arena.want(0x40 + GP, 0x40 + UD)
    ring_3 = {"CS_SELECTOR": 0xB, "CS_ATTRIBUTES": 0xCFB, "SS_SELECTOR": 0x13, "SS_ATTRIBUTES": 0xCF3, "CPL": 3}
    expected = VMMCALL if name == "vmmcall" else 0x40 + GP
    assert arena.run(**ring_3)[0] == expected


def test_no_vmcb_there():
    cpu = Arena().cpu
    for address in (VMCB + 8, 1 << 48):
        for act in (cpu.svm.run, cpu.svm.load_more, cpu.svm.save_more):
            with pytest.raises(Fault) as raised:
                act(address)
            assert (raised.value.vector, raised.value.error_code) == (GP, 0)
    cpu.svm.run(SIZE)  # no memory is there: it reads as ones, with which no guest can be run
    assert not cpu.non_root
    cpu.svm.save_more(0xA0000)
    cpu.svm.load_more(0xA0000)


def test_efer_and_vm_cr():
    cpu = Arena().cpu
    cpu.write_msr(MSR_EFER, EFER_LME)
    cpu.write_msr(MSR_VM_CR, 0x10)  # SVMDIS
    with pytest.raises(Fault):
        cpu.write_msr(MSR_EFER, EFER_LME | EFER_SVME)
    cpu.write_msr(MSR_VM_CR, 0x08)  # LOCK
    cpu.write_msr(MSR_VM_CR, 0x10)
    assert cpu.read_msr(MSR_VM_CR) == 0x08
    cpu.write_msr(MSR_EFER, EFER_LME | EFER_SVME)
    for value in (0x123, 1 << 48):
        with pytest.raises(Fault):
            cpu.write_msr(MSR_VM_HSAVE_PA, value)
    cpu.write_msr(MSR_VM_CR, 0)
    other = Arena().cpu
    with pytest.raises(Fault):  # while SVME is set
        other.write_msr(MSR_VM_CR, 0x10)


def test_vmload_and_vmsave():
    arena = Arena()
    cpu = arena.cpu
    arena.write(
        FS_SELECTOR=0x33, FS_ATTRIBUTES=0xC93, FS_LIMIT=0xFFFFFFFF, FS_BASE=0x7F00_1234_5678, TR_SELECTOR=0x40, TR_ATTRIBUTES=0x8B,
        TR_LIMIT=0x67, TR_BASE=0x9000, LDTR_SELECTOR=0x48, LDTR_ATTRIBUTES=0x82, LDTR_BASE=0xA000, LDTR_LIMIT=0x1F,
        KERNEL_GS_BASE=0x5555, STAR=0x23_0008 << 32, LSTAR=0xFFFF_8000_0000_1000, SYSENTER_ESP=0x7777,
    )  # fmt: skip
    cpu.svm.load_more(VMCB)
    assert cpu.read_msr(MSR_FS_BASE) == 0x7F00_1234_5678
    assert (cpu.segments[FS].selector, cpu.tr.base, cpu.tr.access, cpu.ldtr.key) == (
        0x33, 0x9000, 0x8B, (0x48, 0xA000, 0x1F, 0x82, False, False),
    )  # fmt: skip
    values = [cpu.read_msr(each) for each in (MSR_KERNEL_GS_BASE, MSR_STAR, MSR_LSTAR, MSR_SYSENTER_ESP)]
    assert values == [0x5555, 0x23_0008 << 32, 0xFFFF_8000_0000_1000, 0x7777]
    cpu.segments[GS].set(0x3B, 0x4444, 0xFFF, 0xF3, big=True)
    cpu.write_msr(MSR_LSTAR, 0x8888)
    cpu.svm.save_more(VMCB)
    assert arena.read("GS_SELECTOR", "GS_ATTRIBUTES", "GS_LIMIT", "GS_BASE", "LSTAR", "FS_BASE") == (
        0x3B, 0x4F3, 0xFFF, 0x4444, 0x8888, 0x7F00_1234_5678,
    )  # fmt: skip
    assert arena.read("RIP") == (CODE,)  # the rest is VMRUN's


def test_what_vmexit_brings_back_and_what_it_leaves():
    """The guest's FS, MSRs and general registers stay; the host's EFER, tables, stack, RAX are as before VMRUN."""
    arena = Arena("mov eax, 0x1111\n mov ebx, 0x2222\n mov esp, 0x3333\n mov ax, 0\n mov fs, ax\n vmmcall")
    cpu = arena.cpu
    cpu.gdtr_base, cpu.idtr_limit = 0x1234, 0x5FF
    before = (
        cpu.cr0,
        cpu.cr3,
        cpu.cr4,
        cpu.efer,
        cpu.registers[4],
        cpu.registers[EAX],
        cpu.gdtr_base,
        cpu.idtr_limit,
        cpu.flags,
    )
    code = cpu.segments[1].key
    assert arena.run()[0] == VMMCALL
    after = (
        cpu.cr0,
        cpu.cr3,
        cpu.cr4,
        cpu.efer,
        cpu.registers[4],
        cpu.registers[EAX],
        cpu.gdtr_base,
        cpu.idtr_limit,
        cpu.flags,
    )
    assert after == before
    assert (cpu.ip, cpu.segments[1].key, cpu.code_64, cpu.cpl) == (HOST, code, True, 0)
    assert (cpu.registers[3], cpu.segments[FS].selector) == (0x2222, 0)
    assert arena.read("RAX", "RSP", "CPL") == (0, 0x3333, 0)


# -- checks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"EFER": 0},  # SVME is 0
        {"EFER": EFER_SVME | 2},  # a reserved bit
        {"CR0": CR0_PE | CR0_ET | CR0_NW},  # without CD
        {"CR0": 1 << 32 | CR0_PE},
        {"CR3": 1 << 48},
        {"CR4": 1 << 31},
        {"DR6": 1 << 32},
        {"DR7": 1 << 32 | 0x400},
        {"EFER": EFER_SVME | EFER_LME, "CR0": CR0_PE | CR0_PG},  # long mode without PAE
        {"EFER": EFER_SVME | EFER_LME, "CR0": CR0_PG, "CR4": 0x20},  # and without protection
        {"EFER": EFER_SVME | EFER_LME, "CR0": CR0_PE | CR0_PG, "CR4": 0x20, "CS_ATTRIBUTES": 0xE9B},  # CS.L and CS.D
        {"SVM_INTERCEPTS": 2},  # not that of VMRUN
        {"ASID": 0},
        {"ASID": 0x1_0000},
        {"INTERCEPTS": 1 << 27, "IOPM_BASE": (1 << 48) - 0x2000},
        {"INTERCEPTS": 1 << 28, "MSRPM_BASE": (1 << 48) - 0x1000},
        {"NESTED_CR3": 1 << 48},
        {"EVENTINJ": 1 << 31 | 1 << 8},  # no such type
        {"EVENTINJ": 1 << 31 | 5 << 8},
        {"EVENTINJ": 1 << 31 | 3 << 8 | 2},  # no exception has vector 2
        {"EVENTINJ": 1 << 31 | 3 << 8 | 32},
    ],
)
def test_what_vmrun_refuses(fields):
    arena = Arena("vmmcall")
    arena.enter(**fields)
    assert not arena.cpu.non_root
    assert arena.read("EXITCODE") == (INVALID,)
    assert not arena.svm.gif
    initial = arena.initial()
    again = {name: initial.get(name, 0) for name in fields}
    assert arena.run(**again)[0] == VMMCALL  # the same, put right


def test_pdptes_are_checked_without_nested_paging():
    arena = Arena("vmmcall")
    arena.memory.write(0x107000, 8, 0x108003)  # bit 1 is reserved
    paging = {"CR0": CR0_PE | CR0_ET | CR0_PG, "CR4": 0x20, "CR3": 0x107000, "NESTED_CONTROL": 0}
    arena.enter(**paging)
    assert not arena.cpu.non_root
    assert arena.read("EXITCODE") == (INVALID,)
    assert arena.cpu.long_mode
    arena.memory.write(0x107000, 8, 0x108001)
    arena.memory.write(0x108000, 8, 0x83)
    assert arena.run(**paging)[0] == VMMCALL


def test_nested_paging_needs_it_in_the_processor():
    arena = Arena("vmmcall", "opteron")
    arena.enter()
    assert arena.read("EXITCODE") == (INVALID,)
    assert arena.run(NESTED_CONTROL=0)[0] == VMMCALL


# -- modes of a guest ------------------------------------------------------------------------------------------------------


def real_mode(arena, **fields):
    """Let the guest begin in real mode."""
    for name in ("ES", "CS", "SS", "DS"):
        fields |= {
            f"{name}_SELECTOR": CODE >> 4,
            f"{name}_BASE": CODE,
            f"{name}_LIMIT": 0xFFFF,
            f"{name}_ATTRIBUTES": 0x93,
        }
    return arena.run(**({"CR0": CR0_ET, "RIP": 0, "RSP": 0x100} | fields | {"CS_ATTRIBUTES": 0x9B}))


def test_real_mode_with_nested_paging():
    arena = Arena("mov ax, 0x1234\n mov [0x80], ax\n vmmcall", bits=16)
    assert real_mode(arena)[0] == VMMCALL
    assert arena.memory.read(CODE + 0x80, 2) == 0x1234
    assert arena.read("RAX", "RIP") == (0x1234, 6)


def test_paged_real_mode():
    """Without nested paging a guest in real mode runs on page tables, which no other processor allows (15.9)."""
    arena = Arena("mov ax, 0x1234\n mov [0x80], ax\n vmmcall", "opteron", bits=16)
    arena.memory.write(0x107000, 4, 0x108007)
    for page in range(0x20):
        arena.memory.write(0x108000 + 4 * page, 4, page << 12 | 0x200007)
    arena.memory.write_bytes(0x200000 + CODE, arena.memory.read_bytes(CODE, 0x100))
    assert real_mode(arena, NESTED_CONTROL=0, CR0=CR0_ET | CR0_PG, CR3=0x107000)[0] == VMMCALL
    assert arena.memory.read(0x200000 + CODE + 0x80, 2) == 0x1234


def test_a_guest_in_long_mode():
    arena = Arena("mov rax, 0x123456789ABC\n mov r9, rax\n vmmcall", bits=64)
    arena.memory.write(0x107000, 8, 0x108007)
    arena.memory.write(0x108000, 8, 0x87)
    long = {"CR0": CR0_PE | CR0_ET | CR0_PG, "CR4": 0x20, "CR3": 0x107000, "CS_ATTRIBUTES": 0xA9B}
    assert arena.run(EFER=EFER_SVME | EFER_LME | 1, **long)[0] == VMMCALL
    assert arena.cpu.registers[9] == 0x123456789ABC
    assert arena.read("EFER") == (EFER_SVME | EFER_LME | 1 << 10 | 1,)


# -- translations ----------------------------------------------------------------------------------------------------------


def paged(arena):
    arena.memory.write(0x107000, 4, 0x108003)
    for page in (CODE, 0x30000):
        arena.memory.write(0x108000 + 4 * (page >> 12), 4, page | 3)
    return {"CR0": CR0_PE | CR0_ET | CR0_PG, "CR3": 0x107000}


def test_translations_outlive_an_exit_by_their_asid():
    arena = Arena("mov al, [0x30000]\n vmmcall")
    fields = paged(arena)
    arena.memory.write(0x30000, 1, 0x11)
    arena.memory.write(0x31000, 1, 0x22)
    assert arena.run(**fields)[0] == VMMCALL
    arena.memory.write(0x108000 + 4 * 0x30, 4, 0x31003)  # the guest's tables change under its feet
    for control, asid, seen in ((0, 1, 0x11), (0, 2, 0x22), (7, 1, 0x22)):
        arena.run(RIP=CODE, TLB_CONTROL=control, ASID=asid, **fields)
        assert arena.read("RAX") == (seen,), (control, asid)
    arena.memory.write(0x108000 + 4 * 0x30, 4, 0x30003)
    arena.svm.invalidate(0x30000, 2)
    for asid, seen in ((1, 0x22), (2, 0x11)):
        arena.run(RIP=CODE, TLB_CONTROL=0, ASID=asid, **fields)
        assert arena.read("RAX") == (seen,)
    arena.run(RIP=CODE, TLB_CONTROL=1, ASID=2, **fields)
    arena.run(RIP=CODE, TLB_CONTROL=0, ASID=1, **fields)
    assert arena.read("RAX") == (0x11,)


def test_the_time_stamp_has_an_offset():
    arena = Arena("rdtsc\n vmmcall")
    arena.run(TSC_OFFSET=(1 << 64) - 5)
    first = arena.read("RAX")[0]
    arena.run(TSC_OFFSET=100, RIP=CODE)
    assert arena.read("RAX")[0] > 100
    assert first in range((1 << 32) - 5, 1 << 32)


# -- saving ----------------------------------------------------------------------------------------------------------------


def test_saving_in_a_guest():
    arena = Arena("mov al, [0x30000]\n mov ebx, 5\n.loop: dec ebx\n jnz .loop\n vmmcall")
    arena.enter(**paged(arena))
    arena.machine.run(4)
    assert arena.cpu.non_root
    saved, memory = arena.machine.save(), arena.memory.read_bytes(0, SIZE)
    arena.machine.run(100)
    ended = arena.machine.save(), arena.memory.digest()
    other = Arena()
    other.memory.write_bytes(0, memory)
    other.machine.load(saved)
    assert other.machine.save() == saved
    assert other.cpu.non_root
    other.machine.run(100)
    assert (other.machine.save(), other.memory.digest()) == ended


# -- a whole host in machine code --------------------------------------------------------------------------------------------

HOST_CODE = f"""
bits 64
org 0x100000
start:  mov ecx, 0xC0010117
        mov eax, 0x101000
        xor edx, edx
        wrmsr                           ; VM_HSAVE_PA
        xor r12d, r12d                  ; exits
        clgi
run:    mov eax, {VMCB}
        vmload
        vmrun
        vmsave
        inc r12d
        mov r15d, {VMCB}
        cmp dword [r15 + 0x70], 0x72    ; CPUID: answer, and pass over it
        jne other
        mov dword [r15 + 0x5F8], 0x4321
        add qword [r15 + 0x578], 2
        jmp run
other:  cmp dword [r15 + 0x70], 0x7B    ; a port: note what was written
        jne last
        mov r14, [r15 + 0x5F8]
        mov [0x180000 + r12], r14b
        mov r14, [r15 + 0x80]
        mov [r15 + 0x578], r14
        jmp run
last:   stgi
        mov r13, [r15 + 0x70]
        cli
        hlt
"""


@pytest.mark.parametrize("engine", [False, True])
def test_a_hypervisor_in_machine_code(engine):
    arena = Arena("mov edi, 3\n.next: mov eax, edi\n cpuid\n out 0x80, al\n dec edi\n jnz .next\n vmmcall")
    arena.machine.engine = Engine() if engine else None
    arena.want(ExitCode.CPUID, ExitCode.IOIO)
    arena.memory.write_bytes(IOPM, b"\xff" * 0x3000)
    arena.memory.write_bytes(0x100000, assemble(HOST_CODE, bits=64).code)
    arena.machine.host_entry = range(0)
    arena.machine.run(200)
    cpu = arena.cpu
    assert arena.machine.outcome == "halt"
    assert (cpu.registers[13], cpu.registers[12]) == (VMMCALL, 7)
    assert arena.memory.read_bytes(0x180000, 7) == b"\0\0\x21\0\x21\0\x21"
    assert (cpu.cpl, cpu.long_mode, arena.svm.gif) == (0, True, True)
