"""What is sensitive and does not trap is different in an outer ring, and vmlab does not hide it.

Robin and Irvine's list, instruction by instruction; and the same with UMIP, which makes five of them trap.
"""

from __future__ import annotations

import pytest

from tests.vmm.harness import differences, finish, kernel, seen
from vmlab.isa.x86.decoder import decode
from vmlab.isa.x86.instruction import Privilege

STORES = {
    "sgdt": ("sgdt [FREE]", 6),
    "sidt": ("sidt [FREE]", 6),
    "sldt": ("sldt [FREE]", 2),
    "str": ("str [FREE]", 2),
    "smsw": ("smsw [FREE]", 2),
}
READS = {
    "pushf": "cli\n pushfd\n pop dword [FREE]",
    "mov from cs": "mov eax, cs\n mov [FREE], eax",
    "mov from ss": "mov eax, ss\n mov [FREE], eax",
    "push cs": "push cs\n pop dword [FREE]",
    "push ss": "push ss\n pop dword [FREE]",
    "call far": "call KERNEL_CODE:.sub\n jmp .on\n.sub: pop eax\n pop dword [FREE]\n.on:",
    "lar": "mov eax, KERNEL_DATA\n lar ebx, eax\n mov [FREE], ebx",
    "lar of a TSS": "mov eax, TASK\n xor ebx, ebx\n lar ebx, eax\n mov [FREE], ebx",
    "lsl of a TSS": "mov eax, TASK\n xor ebx, ebx\n lsl ebx, eax\n mov [FREE], ebx",
    "popf of IF": "sti\n push dword 2\n popfd\n mov ecx, 300\n.l: loop .l\n mov eax, [events]\n mov [FREE], eax",
    "popf of IOPL": "push dword 0x3002\n popfd\n pushfd\n pop dword [FREE]",
    "mov to ds with RPL 3": "mov dword [resume], .on\n mov eax, KERNEL_DATA + 3\n mov es, eax\n mov dword [FREE], 1\n.on: mov dword [resume], 0",
}
FRAME = """
main:   mov dword [hooks + 0x20 * 4], acknowledge
        mov ah, 0xFE
        call pic_on
        mov ecx, 10
        call timer_on
        {body}
        cli
        call quit
"""


def both(body: str, **options):
    image = kernel(FRAME.format(body=body))
    return [finish(image, under, **options) for under in ("native", "trap-and-emulate")]


def found(system, count: int = 4) -> int:
    return system.guests[0].memory.read(0x280000, count)


@pytest.mark.parametrize("name", READS)
def test_what_does_not_trap_is_not_faithful(name):
    native, virtual = both(READS[name])
    assert found(native) != found(virtual)
    assert virtual.guests[0].outcome == "exit"


@pytest.mark.parametrize("name", STORES)
def test_stores_of_system_registers(name):
    body, count = STORES[name]
    native, virtual = both(body)
    cpu = native.machine.cpu
    expected = {
        "sgdt": cpu.gdtr_limit | cpu.gdtr_base << 16, "sidt": cpu.idtr_limit | cpu.idtr_base << 16, "sldt": 0,
        "str": 0x28, "smsw": cpu.cr0 & 0xFFFF,
    }[name]  # fmt: skip
    assert int.from_bytes(native.guests[0].memory.read_bytes(0x280000, count), "little") == expected
    assert (
        native.guests[0].memory.read_bytes(0x280000, count) != virtual.guests[0].memory.read_bytes(0x280000, count)
        or name == "sldt"
    )


@pytest.mark.parametrize("name", STORES)
def test_umip_makes_the_stores_trap(name):
    native, virtual = both(STORES[name][0], cpu="umip")
    assert differences(seen(native.guests[0]), seen(virtual.guests[0])) == []
    assert virtual.guests[0].emulated[name] == 1


@pytest.mark.parametrize("name", ["pushf", "push cs", "lar"])
def test_umip_does_not_help_the_others(name):
    native, virtual = both(READS[name], cpu="umip")
    assert found(native) != found(virtual)


def test_umip_in_the_guests_own_cr4():
    """A kernel that turns UMIP on gets the faults of its processes, and one that does not, does not."""
    for bit in (0, 1 << 11):
        image = kernel(
            f"""
main:   mov dword [hooks + 0x80 * 4], quit
        mov eax, {bit}
        mov cr4, eax
        call paging_on
        sgdt [FREE + 0x100]
        to_user user
user:   try sgdt [FREE]
        try smsw eax
        try str ebx
        int 0x80
"""
        )
        native, virtual = (finish(image, under, cpu="umip") for under in ("native", "trap-and-emulate"))
        assert differences(seen(native.guests[0]), seen(virtual.guests[0])) == []
        assert native.guests[0].vcpu.delivered == (4 if bit else 1)


def test_popf_leaves_the_interrupt_flag_alone_and_the_guest_notices():
    """The example of the textbook: what the kernel believes and what it gets."""
    native, virtual = both(
        "cli\n push dword 0x202\n popfd\n mov ecx, 300\n.l: loop .l\n mov eax, [events]\n mov [FREE], eax"
    )
    assert found(native) > 0
    assert found(virtual) == 0
    assert virtual.guests[0].emulated["popf"] == 0


# -- every opcode ---------------------------------------------------------------------------------------------------

MODRM = (b"\x00\x00\x00\x00\x00\x00", b"\xc1\x00\x00\x00\x00\x00", b"\xd8\x08\x00\x00\x00\x00")
GROUPS = [
    bytes([0x0F, opcode, field << 3 | mode])
    for opcode in (0, 1, 0xBA, 0xC7)
    for field in range(8)
    for mode in (0, 0xC0)
]
OPCODES = [
    *(bytes([opcode]) + tail for opcode in range(256) for tail in MODRM),
    *(bytes([0x0F, opcode]) + tail for opcode in range(256) for tail in MODRM),
    *GROUPS,
]
ONE = """
main:   mov eax, FREE
        mov ebx, FREE + 0x100
        mov ecx, 3
        mov edx, 0x80
        mov esi, FREE
        mov edi, FREE + 0x1000
        mov ebp, STACK - 0x100
        mov dword [ss:resume], .on
        db {code}
.on:    mov dword [ss:resume], 0
        cli
        out 0xF4, al
        jmp .on
"""


def differs(code: bytes, under: str = "trap-and-emulate", **options) -> bool:
    """Say whether a kernel sees a difference after an instruction of random-looking operands."""
    image = kernel(ONE.format(code=", ".join(str(byte) for byte in code)))
    first, other = (
        seen(finish(image, each, max_instructions=6_000, **options).guests[0]) for each in ("native", under)
    )
    return bool(differences(first, other))


def check_opcodes(codes):
    for code in codes:
        if differs(code):
            instruction = decode(code + bytes(15 - len(code)))
            assert instruction.privilege is Privilege.SENSITIVE, code.hex()


def test_what_differs_is_on_the_list():
    """Popek and Goldberg's condition is broken by the instructions that are sensitive and unprivileged, by no other."""
    check_opcodes([*OPCODES[::24], *GROUPS[::3]])
    assert differs(b"\x9c")  # pushf
    assert differs(b"\x0f\x01\x00")  # sgdt


@pytest.mark.long
@pytest.mark.parametrize("part", range(20))
def test_what_differs_is_on_the_list_every_opcode(part):
    check_opcodes(OPCODES[part::20])
