"""What leads out of a guest of AMD-V, and what is told of it (AMD APM vol. 2, 15.7 to 15.14 and appendix C)."""

from __future__ import annotations

import pytest

from tests.machine.svm.arena import CODE, IOPM, MSRPM, STACK, Arena
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, encode_gate
from vmlab.isa.x86.faults import BP, DB, DE, GP, NMI, OF, PF, UD
from vmlab.isa.x86.registers import CR0_ET, CR0_PE, CR0_PG, EFER_SVME, IF, TF
from vmlab.machine.svm.codes import EXCEPTION, INVALID, ExitCode, code_name
from vmlab.machine.svm.vmcb import FIELDS

VMMCALL = ExitCode.VMMCALL
MOVED = 1 << 63


@pytest.mark.parametrize(
    ("code", "exit_code", "info1", "length"),
    [
        ("cpuid", ExitCode.CPUID, 0, 2),
        ("hlt", ExitCode.HLT, 0, 1),
        ("invd", ExitCode.INVD, 0, 2),
        ("wbinvd", ExitCode.WBINVD, 0, 2),
        ("pause", ExitCode.PAUSE, 0, 2),
        ("rdtsc", ExitCode.RDTSC, 0, 2),
        ("rdtscp", ExitCode.RDTSCP, 0, 3),
        ("rdpmc", ExitCode.RDPMC, 0, 2),
        ("invlpg [0x5000]", ExitCode.INVLPG, 0x5000, 7),
        ("sidt [0x5000]", ExitCode.IDTR_READ, 0, 7),
        ("sgdt [0x5000]", ExitCode.GDTR_READ, 0, 7),
        ("sldt ax", ExitCode.LDTR_READ, 0, 4),
        ("str ax", ExitCode.TR_READ, 0, 4),
        ("lidt [0x5000]", ExitCode.IDTR_WRITE, 0, 7),
        ("lgdt [0x5000]", ExitCode.GDTR_WRITE, 0, 7),
        ("lldt ax", ExitCode.LDTR_WRITE, 0, 3),
        ("ltr ax", ExitCode.TR_WRITE, 0, 3),
        ("pushf", ExitCode.PUSHF, 0, 1),
        ("popf", ExitCode.POPF, 0, 1),
        ("iret", ExitCode.IRET, 0, 1),
        ("int 0x42", ExitCode.SWINT, 0x42, 2),
        ("int1", ExitCode.ICEBP, 0, 1),
        ("mov edx, cr0", 0x00, MOVED | 2, 3),
        ("smsw ax", 0x00, 0, 4),
        ("mov ebx, cr3", 0x03, MOVED | 3, 3),
        ("mov eax, cr4", 0x04, MOVED, 3),
        ("mov cr3, esi", 0x13, MOVED | 6, 3),
        ("mov cr0, ecx", 0x10, MOVED | 1, 3),
        ("lmsw ax", 0x10, 0, 3),
        ("clts", 0x10, 0, 2),
        ("mov eax, dr7", 0x27, 0, 3),
        ("mov dr2, edi", 0x32, 7, 3),
        ("mov al, 5\n lmsw ax", ExitCode.CR0_SEL_WRITE, 0, 3),  # EM, which is neither TS nor MP
        ("vmrun", ExitCode.VMRUN, 0, 3),
        ("vmmcall", VMMCALL, 0, 3),
        ("vmload", ExitCode.VMLOAD, 0, 3),
        ("vmsave", ExitCode.VMSAVE, 0, 3),
        ("stgi", ExitCode.STGI, 0, 3),
        ("clgi", ExitCode.CLGI, 0, 3),
        ("skinit", ExitCode.SKINIT, 0, 3),
        ("invlpga", ExitCode.INVLPGA, 0, 3),
        ("int3", EXCEPTION + BP, 0, 1),
        ("mov al, 0x7F\n inc al\n into", EXCEPTION + OF, 0, 1),
    ],
)
def test_what_each_intercept_leads_out(code, exit_code, info1, length):
    arena = Arena(code)
    before = code.count("\n")
    arena.want(exit_code)
    found = arena.run()
    assert found[:2] == (exit_code, info1), code_name(found[0])
    (ip, next_ip) = arena.read("RIP", "NRIP")
    assert next_ip - ip == length
    assert (ip == CODE) == (before == 0)
    assert not arena.cpu.non_root
    assert not arena.svm.gif


@pytest.mark.parametrize(
    "code",
    [
        "cpuid",
        "pause",
        "rdtsc",
        "invlpg [0x5000]",
        "sgdt [0x5000]",
        "mov eax, cr3",
        "clts",
        "pushf",
        "stgi",
        "mov dr1, eax",
    ],
)
def test_nothing_leads_out_unasked(code):
    assert Arena(f"{code}\n vmmcall").run()[0] == VMMCALL


def test_older_processors_tell_less():
    """Neither the next rIP nor what a decoder knows, on the processors of 2007."""
    for code, exit_code in (("invlpg [0x5000]", ExitCode.INVLPG), ("mov cr3, esi", 0x13), ("int 0x42", ExitCode.SWINT)):
        arena = Arena(code, "barcelona")
        arena.want(exit_code)
        assert arena.run()[:2] == (exit_code, 0)
        assert arena.read("NRIP") == (0,)
    arena = Arena("mov al, [0x600000]", "barcelona")
    assert arena.run()[0] == ExitCode.NPF
    assert arena.read("FETCHED") == (0,)


def test_faults_of_privilege_come_before_intercepts():
    for code, wanted in (
        ("hlt", ExitCode.HLT),
        ("mov cr3, eax", 0x13),
        ("vmrun", ExitCode.VMRUN),
        ("rdmsr", ExitCode.MSR),
    ):
        arena = Arena(code)
        arena.want(wanted, EXCEPTION + GP)
        arena.write(CS_SELECTOR=0xB, CS_ATTRIBUTES=0xCFB, SS_SELECTOR=0x13, SS_ATTRIBUTES=0xCF3, CPL=3)
        assert arena.run() == (EXCEPTION + GP, 0, 0)
        assert arena.read("CPL") == (3,)


# -- ports and MSRs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "port", "info"),
    [
        ("in al, 0x60", 0x60, 0x60 << 16 | 1 << 8 | 1 << 4 | 1),
        ("in ax, 0x60", 0x60, 0x60 << 16 | 1 << 8 | 2 << 4 | 1),
        ("mov dx, 0x3F8\n out dx, eax", 0x3F8, 0x3F8 << 16 | 1 << 8 | 4 << 4),
        ("mov dx, 0x3F8\n out dx, eax", 0x3FB, 0x3F8 << 16 | 1 << 8 | 4 << 4),  # one of its four ports
        ("mov dx, 0x1F0\n mov cl, 2\n rep insw", 0x1F0, 0x1F0 << 16 | 1 << 8 | 2 << 4 | 0xD),
        ("mov dx, 0x1F0\n a16 fs outsb", 0x1F0, 0x1F0 << 16 | 4 << 10 | 1 << 7 | 1 << 4 | 4),
    ],
)
def test_ports(code, port, info):
    arena = Arena(f"{code}\n after: vmmcall")
    arena.want(ExitCode.IOIO)
    assert arena.run()[0] == VMMCALL
    arena = Arena(f"{code}\n after: vmmcall")
    arena.want(ExitCode.IOIO)
    arena.memory.write(IOPM + (port >> 3), 1, 1 << (port & 7))
    found = arena.run()
    assert found[:2] == (ExitCode.IOIO, info)
    (next_ip,) = arena.read("NRIP")
    assert found[2] == next_ip
    assert arena.memory.read_bytes(next_ip, 3) == b"\x0f\x01\xd9"


def test_the_last_ports_look_into_the_last_page_of_the_map():
    arena = Arena("mov dx, 0xFFFF\n in ax, dx\n vmmcall")
    arena.want(ExitCode.IOIO)
    arena.memory.write(IOPM + 0x2000, 1, 1)
    assert arena.run()[0] == ExitCode.IOIO


@pytest.mark.parametrize(
    ("number", "place"), [(0x277, 0), (0x174, 0), (0xC000_0080, 0x800), (0xC001_0117, 0x1000), (0x4000_0000, None)]
)
def test_msrs(number, place):
    code = f"mov ecx, {number}\n rdmsr\n wrmsr\n vmmcall"
    if place is None:
        arena = Arena(code)
        arena.want(ExitCode.MSR)
        assert arena.run()[:2] == (ExitCode.MSR, 0)
        return
    for writes in (0, 1):
        arena = Arena(code)
        arena.want(ExitCode.MSR)
        assert arena.run()[0] == VMMCALL
        arena = Arena(code)
        arena.want(ExitCode.MSR)
        bit = 2 * (number & 0x1FFF) + writes
        arena.memory.write(MSRPM + place + (bit >> 3), 1, 1 << (bit & 7))
        assert arena.run()[:2] == (ExitCode.MSR, writes)
        assert arena.read("RIP") == (CODE + 5 + 2 * writes,)


# -- exceptions ------------------------------------------------------------------------------------------------------------


def test_exceptions_lead_out_with_their_error_codes():
    arena = Arena("ud2")
    arena.want(EXCEPTION + UD)
    assert arena.run() == (EXCEPTION + UD, 0, 0)
    arena = Arena("mov ax, 0x1234\n mov ds, ax")
    arena.want(EXCEPTION + GP)
    assert arena.run() == (EXCEPTION + GP, 0x1234, 0)
    arena = Arena("xor ecx, ecx\n div ecx")
    arena.want(EXCEPTION + DE)
    assert arena.run() == (EXCEPTION + DE, 0, 0)


def test_a_page_fault_that_leads_out_leaves_cr2_alone():
    arena = Arena("mov [0x5678], al")
    arena.want(EXCEPTION + PF)
    assert arena.run(CR0=CR0_PE | CR0_ET | CR0_PG, CR3=0x107000, CR2=0x99) == (
        EXCEPTION + PF,
        0,
        CODE,
    )  # its code is not mapped
    arena.memory.write(0x107000, 4, 0x108003)
    arena.memory.write(0x108000 + 4 * (CODE >> 12), 4, CODE | 3)
    assert arena.run() == (EXCEPTION + PF, 2, 0x5678)
    assert arena.read("CR2") == (0x99,)
    assert arena.memory.read_bytes(0x1020D0, 6) == b"\x0f\xa2\x78\x56\x00\x00"  # 15 bytes from the instruction on


def test_a_single_step_shows_in_dr6():
    arena = Arena("nop\n nop")
    arena.want(EXCEPTION + DB)
    assert arena.run(RFLAGS=2 | TF, DR7=0x2400)[0] == EXCEPTION + DB
    assert arena.read("RIP", "DR6", "DR7") == (CODE + 1, 0xFFFF4FF0, 0x400)


def test_a_triple_fault_is_a_shutdown_of_the_guest_or_of_the_machine():
    arena = Arena("ud2")
    arena.want(ExitCode.SHUTDOWN)
    assert arena.run()[0] == ExitCode.SHUTDOWN
    arena = Arena("ud2")
    arena.enter()
    arena.machine.run(100)
    assert arena.machine.outcome == "triple-fault"


def test_a_task_switch():
    arena = Arena("jmp 0x18:0")
    arena.want(ExitCode.TASK_SWITCH)
    arena.memory.write(0x5018, 8, 0x0000_8900_6000_0067)  # an available TSS
    arena.write(GDTR_BASE=0x5000, GDTR_LIMIT=0x1F, TR_SELECTOR=0x18, TR_ATTRIBUTES=0x8B, TR_LIMIT=0x67)
    assert arena.run() == (ExitCode.TASK_SWITCH, 0x18, 1 << 38)


# -- nested paging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "info1"),
    [
        ("mov al, [0x600123]", 1 << 32 | 4),
        ("mov [0x600123], al", 1 << 32 | 6),
        ("jmp 0x600123", 1 << 32 | 0x14),
    ],
)
def test_nested_page_faults(code, info1):
    arena = Arena(code)
    assert arena.run() == (ExitCode.NPF, info1, 0x600123)


def test_a_nested_page_fault_tells_a_table_of_the_guest_from_the_page():
    arena = Arena("mov al, [0x600123]")
    paging = {"CR0": CR0_PE | CR0_ET | CR0_PG, "CR3": 0x107000}
    arena.memory.write(0x107000, 4, 0x108003)
    arena.memory.write(0x107004, 4, 0x700003)  # a table where nothing is
    arena.memory.write(0x108000 + 4 * (CODE >> 12), 4, CODE | 3)
    assert arena.run(**paging) == (ExitCode.NPF, 1 << 33 | 6, 0x700800)
    assert arena.memory.read_bytes(0x1020D0, 6) == bytes([15]) + b"\xa0\x23\x01\x60\x00"


def test_write_protected_nested_pages_and_wp():
    """No write of a guest passes a page that the host protects, whatever the guest's CR0.WP is."""
    arena = Arena("mov al, [0x30000]\n mov [0x30000], al\n vmmcall")
    arena.npt.unmap(0)
    for page in range(0, 2 << 20, 0x1000):
        arena.npt.map(page, page, writable=page != 0x30000)
    assert arena.run() == (ExitCode.NPF, 1 << 32 | 7, 0x30000)


def test_pae_reads_its_pointers_with_each_walk():
    """With nested paging a changed PDPTE is seen at once, without MOV CR3; a wrong one is a page fault (15.25.10)."""
    arena = Arena("mov al, [0x40000000]\n mov dword [0x107008], 0\n invlpg [0x40000000]\n mov al, [0x40000000]")
    memory = arena.memory
    memory.write(0x107000, 8, 0x108001)
    memory.write(0x107008, 8, 0x109001)
    memory.write(0x108000, 8, 0x83)
    memory.write(0x109000, 8, 0x83)
    arena.want(EXCEPTION + PF)
    found = arena.run(CR0=CR0_PE | CR0_ET | CR0_PG, CR3=0x107000, CR4=0x20)
    assert found == (EXCEPTION + PF, 0, 0x40000000)
    assert arena.read("RIP") == (CODE + 5 + 10 + 7,)


# -- events that come between two instructions -----------------------------------------------------------------------------


def gates(arena, *vectors):
    """Let a guest's IDT at 0x6000 lead to VMMCALL at 0x7000 + 16 × vector."""
    for vector in vectors:
        arena.memory.write(0x6000 + 8 * vector, 8, encode_gate(8, 0x7000 + 16 * vector, INTERRUPT_GATE32))
        arena.memory.write_bytes(0x7000 + 16 * vector, b"\x0f\x01\xd9")
    arena.memory.write(0x5008, 8, 0x00CF_9B00_0000_FFFF)
    arena.memory.write(0x5010, 8, 0x00CF_9300_0000_FFFF)
    arena.write(GDTR_BASE=0x5000, GDTR_LIMIT=0x1F, IDTR_BASE=0x6000, IDTR_LIMIT=0x7FF)


@pytest.mark.parametrize(
    ("event", "pushed"),
    [
        (1 << 31 | 0x55, 12),  # an interrupt
        (1 << 31 | 2 << 8 | NMI, 12),
        (1 << 31 | 3 << 8 | UD, 12),
        (1 << 31 | 1 << 11 | 3 << 8 | GP | 0x1234 << 32, 16),
        (1 << 31 | 4 << 8 | 0x55, 12),  # INT n
    ],
)
def test_injection(event, pushed):
    arena = Arena("nop")
    gates(arena, event & 0xFF)
    assert arena.run(EVENTINJ=event, RFLAGS=2)[0] == VMMCALL  # an event comes whatever IF is
    assert arena.read("RIP", "RSP", "EVENTINJ") == (0x7000 + 16 * (event & 0xFF), STACK - pushed, 0)
    assert arena.memory.read(STACK - 12, 4) == CODE
    if pushed == 16:
        assert arena.memory.read(STACK - 16, 4) == 0x1234


def test_an_exit_in_a_delivery_tells_the_event():
    arena = Arena("nop")
    gates(arena, 0x55)
    event = 1 << 31 | 0x55
    assert arena.run(EVENTINJ=event, RSP=0x600000) == (ExitCode.NPF, 1 << 32 | 6, 0x5FFFFC)
    assert arena.read("EXITINTINFO", "RIP", "RSP") == (event, CODE, 0x600000)
    arena = Arena("ud2")  # an exception in the delivery of one
    arena.want(EXCEPTION + GP)
    arena.write(IDTR_LIMIT=7)
    assert arena.run()[:2] == (EXCEPTION + GP, UD * 8 + 3)
    assert arena.read("EXITINTINFO") == (1 << 31 | 3 << 8 | UD,)


def interrupt(arena, vector=0x66):
    """Let the host's local APIC have an interrupt."""
    arena.cpu.interrupts.accept(vector, level=False)


@pytest.mark.parametrize("masking", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("guest_if", [False, True])
def test_external_interrupts(masking, wanted, guest_if):
    """Without V_INTR_MASKING the guest's IF holds them back, with it the host's (15.21.1)."""
    arena = Arena("nop\n nop\n nop\n vmmcall")
    gates(arena, 0x20)
    if wanted:
        arena.want(ExitCode.INTR)
    arena.machine.counter_vector, arena.machine.counter_limit = 0x20, arena.cpu.retired + 2
    code = arena.run(RFLAGS=2 | (IF if guest_if else 0), VIRTUAL_INTERRUPT=masking << 24)[0]
    taken = masking or guest_if  # the host's IF is set
    assert code == (ExitCode.INTR if taken and wanted else VMMCALL)
    (ip,) = arena.read("RIP")
    assert ip == (CODE + 2 if taken and wanted else 0x7200 if taken else CODE + 3)
    assert (arena.machine.counter_limit is None) == (taken and not wanted)  # one that leads out still waits


def test_nothing_comes_while_the_global_interrupt_flag_is_clear():
    arena = Arena("clgi\n nop\n nop\n stgi\n nop\n vmmcall")
    arena.want(ExitCode.INTR)
    arena.machine.counter_limit = arena.cpu.retired + 1
    assert arena.run(RFLAGS=2 | IF)[0] == ExitCode.INTR
    assert arena.read("RIP") == (CODE + 8,)
    arena = Arena("nop\n vmmcall")
    arena.want(ExitCode.NMI)
    arena.cpu.signals.arrive_nmi()
    assert arena.run()[0] != VMMCALL
    assert arena.read("EXITCODE") == (ExitCode.NMI,)
    assert arena.cpu.signals.nmi  # it waits
    assert not arena.cpu.signals.due
    arena.svm.set_global(on=True)
    assert arena.cpu.signals.due


def test_virtual_interrupts():
    arena = Arena("nop\n sti\n nop\n nop\n vmmcall")
    gates(arena, 0x55)
    virtual = 0x55 << 32 | 1 << 24 | 3 << 16 | 1 << 8
    assert arena.run(VIRTUAL_INTERRUPT=virtual)[0] == VMMCALL
    assert arena.read("RIP") == (0x7000 + 16 * 0x55,)
    assert arena.memory.read(STACK - 12, 4) == CODE + 3  # behind the instruction after STI
    assert arena.read("VIRTUAL_INTERRUPT") == (virtual & ~(1 << 8),)
    arena = Arena("nop\n sti\n nop\n nop\n vmmcall")
    arena.want(ExitCode.VINTR)
    assert arena.run(VIRTUAL_INTERRUPT=virtual)[0] == ExitCode.VINTR
    assert arena.read("RIP", "VIRTUAL_INTERRUPT") == (CODE + 3, virtual)  # it still waits
    arena = Arena("sti\n nop\n nop\n vmmcall")
    assert arena.run(VIRTUAL_INTERRUPT=virtual | 3)[0] == VMMCALL  # V_TPR holds it back
    assert arena.read("RIP") == (CODE + 3,)
    arena = Arena("sti\n nop\n nop\n vmmcall")
    arena.want(ExitCode.VINTR)
    assert arena.run(VIRTUAL_INTERRUPT=virtual | 3 | 1 << 20)[0] == ExitCode.VINTR  # but V_IGN_TPR lets it pass


def test_an_interrupt_shadow_is_kept():
    arena = Arena("sti\n cpuid\n nop\n vmmcall")
    gates(arena, 0x55)
    arena.want(ExitCode.CPUID)
    virtual = 0x55 << 32 | 1 << 20 | 1 << 8
    assert arena.run(VIRTUAL_INTERRUPT=virtual)[0] == ExitCode.CPUID
    assert arena.read("INTERRUPT_SHADOW") == (1,)
    assert arena.run(RIP=CODE + 3)[0] == VMMCALL
    assert arena.memory.read(STACK - 12, 4) == CODE + 4  # one instruction passed first
    assert (
        arena.run(RIP=CODE + 3, RSP=STACK, RFLAGS=2 | IF, INTERRUPT_SHADOW=0, VIRTUAL_INTERRUPT=virtual)[0] == VMMCALL
    )
    assert arena.memory.read(STACK - 12, 4) == CODE + 3


def test_a_guest_that_does_nothing_but_take_exceptions_is_interrupted():
    arena = Arena("ud2")
    gates(arena, UD)
    arena.memory.write_bytes(0x7000 + 16 * UD, b"\x0f\x0b")
    arena.want(ExitCode.INTR)
    assert arena.run(100_000, VIRTUAL_INTERRUPT=1 << 24, RSP=0x3F0000)[0] == ExitCode.INTR


# -- names -----------------------------------------------------------------------------------------------------------------


def test_every_code_has_a_name_and_every_field_its_place():
    names = [code_name(code) for code in (*range(0x60), *ExitCode, INVALID)]
    assert len(set(names)) == len(names)
    ends = 0
    for field in FIELDS.values():  # none overlaps another
        assert field.offset >= ends, field
        ends = field.offset + field.size
    # AMD APM vol. 2, tables B-1 and B-2
    for name, offset in {
        "IOPM_BASE": 0x40, "ASID": 0x58, "EXITCODE": 0x70, "NESTED_CR3": 0xB0, "NRIP": 0xC8, "CS_SELECTOR": 0x410,
        "GDTR_LIMIT": 0x464, "TR_BASE": 0x498, "EFER": 0x4D0, "CR0": 0x558, "RIP": 0x578, "RSP": 0x5D8, "CR2": 0x640,
    }.items():  # fmt: skip
        assert FIELDS[name].offset == offset, name
    assert EFER_SVME == 0x1000
