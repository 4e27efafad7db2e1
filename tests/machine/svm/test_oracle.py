"""Exits of a guest against Unicorn, whose AMD processor runs a guest by VMRUN, too: which instruction leads out with which code.

Unicorn ends before EXITINFO1 is written; EXITINFO2 it tells. It has no intercepts of ports, INVD and RDTSCP, and takes INT n, INT3 and
DIV by zero itself.
"""

from __future__ import annotations

import pytest

from tests.machine.svm.arena import CODE, IOPM, MSRPM, STACK, Arena
from tests.machine.svm_oracle import LEAVE, GuestState, SvmOracle
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.registers import CR0_ET, CR0_PE, EAX, EBX
from vmlab.machine.svm.codes import EXCEPTION, ExitCode, code_name

SIZE = 0x20_0000
VMMCALL = ExitCode.VMMCALL
WORDS = (0x00, 0x04, 0x08, 0x0C, 0x10)

UNASKED = {
    "cpuid",
    "rdtsc",
    "pushf",
    "sgdt [0x5000]",
    "sidt [0x5000]",
    "sldt eax",
    "str eax",
    "clts",
    "lgdt [0x5000]",
    "stgi",
    "mov edx, cr0",
    "mov ebx, cr3",
    "smsw ax",
    "mov eax, dr7",
    "mov dr2, edi",
    "ud2",
    "mov ds, bx",
    "invlpg [0x5000]",
}
"""Those that are tried without their intercept, too: others wait, or fault in the one for lack of a feature."""
CODES = {
    "cpuid": ExitCode.CPUID, "hlt": ExitCode.HLT, "rdtsc": ExitCode.RDTSC, "rdpmc": ExitCode.RDPMC,
    "invlpg [0x5000]": ExitCode.INVLPG, "pushf": ExitCode.PUSHF, "popf": ExitCode.POPF,
    "iret": ExitCode.IRET, "sidt [0x5000]": ExitCode.IDTR_READ, "sgdt [0x5000]": ExitCode.GDTR_READ,
    "sldt eax": ExitCode.LDTR_READ, "str eax": ExitCode.TR_READ, "lidt [0x5000]": ExitCode.IDTR_WRITE,
    "lgdt [0x5000]": ExitCode.GDTR_WRITE, "lldt ax": ExitCode.LDTR_WRITE, "ltr ax": ExitCode.TR_WRITE,
    "mov edx, cr0": 0x00, "smsw ax": 0x00, "mov ebx, cr3": 0x03, "mov eax, cr4": 0x04, "mov cr3, esi": 0x13, "mov cr4, esi": 0x14,
    "mov cr0, eax": 0x10, "lmsw ax": 0x10, "clts": 0x10, "mov eax, dr7": 0x27, "mov dr2, edi": 0x32,
    "rdmsr": ExitCode.MSR, "wrmsr": ExitCode.MSR,
    "vmrun": ExitCode.VMRUN, "vmload": ExitCode.VMLOAD, "vmsave": ExitCode.VMSAVE, "stgi": ExitCode.STGI, "clgi": ExitCode.CLGI,
    "invlpga": ExitCode.INVLPGA, "skinit": ExitCode.SKINIT, "vmmcall": VMMCALL,
    "ud2": EXCEPTION + 6, "mov ds, bx": EXCEPTION + 13,
}  # fmt: skip


@pytest.fixture(scope="module")
def oracle():
    return SvmOracle(SIZE)


def theirs(oracle, code, words):
    """Return exit code and EXITINFO2 that Unicorn gives."""
    oracle.uc.mem_write(CODE, code)
    oracle.uc.mem_write(IOPM, b"\xff" * 0x3000)
    oracle.uc.mem_write(MSRPM, b"\xff" * 0x2000)
    guest = GuestState(CODE, 0x1234, 0x10, STACK, 0, CR0_PE | CR0_ET, 0, 0, 0, words=words)
    return oracle.run(guest)[:2]


def ours(code, words):
    arena = Arena("nop")
    arena.memory.write_bytes(CODE, code)
    arena.memory.write_bytes(IOPM, b"\xff" * 0x3000)
    arena.memory.write_bytes(MSRPM, b"\xff" * 0x2000)
    for offset, size, value in words:
        arena.memory.write(arena.vmcb.address + offset, size, value)
    arena.cpu.registers[EBX] = 0x1234
    found, _, info2 = arena.run(NESTED_CONTROL=0, RAX=0x10)
    assert arena.cpu.registers[EAX] == arena.vmcb.address
    return found, info2


@pytest.mark.parametrize("text", CODES)
def test_what_leads_out_with_which_code(text, oracle):
    code = assemble(text).code + LEAVE
    exit_code = CODES[text]
    for asked in (False, True):
        if not asked and text not in UNASKED:
            continue
        words = [1 << 6 | 1 << 13 if offset == 8 else 3 if offset == 0x10 else 0 for offset in WORDS]
        if asked and exit_code != VMMCALL:
            words[exit_code >> 5] |= 1 << (exit_code & 31)
        fields = tuple((offset, 4, value) for offset, value in zip(WORDS, words, strict=True))
        fields += ((0x40, 8, IOPM), (0x48, 8, MSRPM))
        expected = theirs(oracle, code, fields)
        found = ours(code, fields)
        assert found[0] == expected[0], (code_name(found[0]), code_name(expected[0]), asked)
        if found[0] != VMMCALL:
            assert found[1] == expected[1], asked
