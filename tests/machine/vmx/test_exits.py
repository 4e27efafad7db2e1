"""VM exits: what leads out of a guest, with which qualification (Intel SDM vol. 3, 25.1 to 25.3 and 27.2.1)."""

from __future__ import annotations

import pytest

from tests.machine.vmx.arena import CODE, PRIMARY, SECONDARY, STACK, Arena
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, encode_gate
from vmlab.isa.x86.faults import GP, PF, UD
from vmlab.isa.x86.registers import CR0_NE, CR0_PE, CR0_PG, CR0_TS, CS, DS, EAX, EBX, ECX, FS, IF
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason as Reason


@pytest.mark.parametrize(
    ("code", "reason", "qualification", "length"),
    [
        ("cpuid", Reason.CPUID, 0, 2),
        ("invd", Reason.INVD, 0, 2),
        ("rdmsr", Reason.RDMSR, 0, 2),
        ("wrmsr", Reason.WRMSR, 0, 2),
        ("vmcall", Reason.VMCALL, 0, 3),
        ("vmlaunch", Reason.VMLAUNCH, 0, 3),
        ("vmread eax, ecx", Reason.VMREAD, 0, 3),
        ("vmxon [0x1000]", Reason.VMXON, 0, 8),
        ("mov cr0, eax", Reason.CR_ACCESS, 0x000, 3),  # EAX = 0 is not the read shadow
    ],
)
def test_what_always_exits(code, reason, qualification, length):
    arena = Arena(code)
    assert arena.run() == (reason, qualification)
    assert arena.read(f.EXIT_INSTRUCTION_LENGTH) == length
    assert arena.read(f.GUEST_RIP) == CODE
    assert not arena.cpu.non_root


@pytest.mark.parametrize(
    ("code", "bit", "reason", "qualification"),
    [
        ("hlt", c.HLT_EXITING, Reason.HLT, 0),
        ("invlpg [0x5000]", c.INVLPG_EXITING, Reason.INVLPG, 0x5000),
        ("rdtsc", c.RDTSC_EXITING, Reason.RDTSC, 0),
        ("rdpmc", c.RDPMC_EXITING, Reason.RDPMC, 0),
        ("pause", c.PAUSE_EXITING, Reason.PAUSE, 0),
        ("mov cr3, ebx", c.CR3_LOAD_EXITING, Reason.CR_ACCESS, 0x303),
        ("mov edx, cr3", c.CR3_STORE_EXITING, Reason.CR_ACCESS, 0x213),
        ("mov dr2, esi", c.MOV_DR_EXITING, Reason.MOV_DR, 0x602),
        ("mov edi, dr7", c.MOV_DR_EXITING, Reason.MOV_DR, 0x717),
        ("in al, 0x60", c.UNCONDITIONAL_IO_EXITING, Reason.IO_INSTRUCTION, 0x60 << 16 | 0x48),
        ("out dx, eax", c.UNCONDITIONAL_IO_EXITING, Reason.IO_INSTRUCTION, 3),
        ("mov cl, 2\n rep insb", c.UNCONDITIONAL_IO_EXITING, Reason.IO_INSTRUCTION, 0x38),
    ],
)
def test_what_one_control_decides(code, bit, reason, qualification):
    assert Arena(code + "\n cpuid").run(primary_controls=PRIMARY | bit) == (reason, qualification)
    if code not in ("rdpmc", "hlt"):  # a fault, or a wait, without the exit
        found = Arena(code + "\n cpuid").run()[0]
        assert found is Reason.CPUID


def test_faults_come_before_exits():
    """An instruction that CPL forbids faults: its exit has no say (25.1.1)."""
    arena = Arena("hlt")
    ring_3 = {"guest_cs": 0x0B, "guest_cs_access": 0xC0FB, "guest_ss": 0x13, "guest_ss_access": 0xC0F3}
    assert (
        arena.run(primary_controls=PRIMARY | c.HLT_EXITING, exception_bitmap=1 << GP, **ring_3)[0]
        is Reason.EXCEPTION_OR_NMI
    )
    assert arena.read(f.EXIT_INTERRUPTION) == 1 << 31 | 1 << 11 | 3 << 8 | GP
    assert arena.read(f.EXIT_ERROR_CODE) == 0


def test_bitmaps_of_ports():
    arena = Arena("in al, 0x71\n in al, 0x70\n cpuid")
    arena.memory.write(0x105000 + (0x70 >> 3), 1, 1)
    reason, qualification = arena.run(
        primary_controls=PRIMARY | c.USE_IO_BITMAPS, io_bitmap_a=0x105000, io_bitmap_b=0x106000
    )
    assert (reason, qualification >> 16) == (Reason.IO_INSTRUCTION, 0x70)
    arena = Arena("in eax, 0x6D\n cpuid")  # one of its four ports
    arena.memory.write(0x105000 + (0x70 >> 3), 1, 1)
    assert (
        arena.run(primary_controls=PRIMARY | c.USE_IO_BITMAPS, io_bitmap_a=0x105000, io_bitmap_b=0x106000)[0]
        is Reason.IO_INSTRUCTION
    )


@pytest.mark.parametrize(("number", "place"), [(0x174, 0), (0xC0000080, 0x400), (0x40000000, None)])
def test_bitmap_of_msrs(number, place):
    code = f"mov ecx, {number}\n rdmsr\n cpuid"
    bitmap = {"primary_controls": PRIMARY | c.USE_MSR_BITMAPS, "msr_bitmap": 0x105000}
    arena = Arena(code)
    if place is None:
        assert arena.run(**bitmap)[0] is Reason.RDMSR  # outside of both ranges: always
        return
    assert arena.run(**bitmap)[0] is Reason.CPUID
    arena = Arena(code)
    arena.memory.write(0x105000 + place + ((number & 0x1FFF) >> 3), 1, 1 << (number & 7))
    assert arena.run(**bitmap)[0] is Reason.RDMSR


def test_masks_and_read_shadows():
    """Of the bits that the host owns the guest reads the shadow; others it writes itself (24.6.6)."""
    arena = Arena("mov eax, cr0\n mov ecx, eax\n or eax, 8\n mov cr0, eax\n mov edx, cr0\n cpuid")
    assert arena.run(cr0_mask=CR0_NE | CR0_PE, cr0_shadow=CR0_PE)[0] is Reason.CPUID
    assert arena.cpu.registers[ECX] & (CR0_NE | CR0_PE) == CR0_PE
    assert arena.read(f.GUEST_CR0) & (CR0_NE | CR0_TS) == CR0_NE | CR0_TS
    arena = Arena("clts")
    assert arena.run(cr0_shadow=CR0_PE | CR0_TS) == (Reason.CR_ACCESS, 2 << 4)
    arena = Arena("mov ax, 9\n lmsw ax")
    assert arena.run() == (Reason.CR_ACCESS, 3 << 4 | 9 << 16)


def test_exceptions_by_bitmap_and_by_error_code():
    arena = Arena("ud2")
    assert arena.run(exception_bitmap=1 << UD)[0] is Reason.EXCEPTION_OR_NMI
    assert arena.read(f.EXIT_INTERRUPTION) & 0xFF == UD
    paging = {"guest_cr0": 0x80000021, "guest_cr3": 0x107000, "guest_pdpte0": 0}
    for mask, match, wanted in ((0, 0, True), (1, 0, True), (1, 1, False)):
        arena = Arena("mov eax, [0x400000]\n hlt")
        arena.memory.write(0x107000, 4, 0x108007)
        for page in range(64):
            arena.memory.write(0x108000 + 4 * page, 4, page << 12 | 7)
        before = arena.cpu.cr2
        found = arena.run(exception_bitmap=1 << PF, page_fault_mask=mask, page_fault_match=match, **paging)
        if wanted:
            assert found == (Reason.EXCEPTION_OR_NMI, 0x400000)
            assert arena.cpu.cr2 == before  # not by a VM exit
        else:
            assert found[0] is Reason.TRIPLE_FAULT  # there is no IDT


def test_violations_of_extended_page_tables():
    arena = Arena("mov eax, [0x300000]\n mov dword [0x300000], 1\n hlt")
    arena.ept.unmap(0x300000)
    assert arena.run() == (Reason.EPT_VIOLATION, 0x181)
    assert (arena.read(f.GUEST_PHYSICAL_ADDRESS), arena.read(f.GUEST_LINEAR_ADDRESS)) == (0x300000, 0x300000)
    arena.ept.map(0x200000, 0x200000, 2 << 20, writable=False)
    assert arena.run() == (Reason.EPT_VIOLATION, 0x1AA)  # a write; reading and fetching are allowed
    assert arena.read(f.GUEST_RIP) == CODE + 5
    arena.ept.protect(0x200000, writable=True)
    assert arena.run(primary_controls=PRIMARY | c.HLT_EXITING)[0] is Reason.HLT
    assert arena.memory.read(0x300000, 4) == 1


def test_a_misconfigured_entry():
    arena = Arena("mov eax, [0x300000]")
    leaf = next(each for each in arena.ept.entries() if each.is_leaf and each.address == 0x200000)
    arena.memory.write(leaf.place, 8, leaf.entry & ~1)  # to be written and not to be read
    assert arena.run()[0] is Reason.EPT_MISCONFIGURATION
    assert arena.read(f.GUEST_PHYSICAL_ADDRESS) == 0x300000


def idt(arena, vector, handler):
    """Give the guest an IDT at 0x30000 and a GDT at 0x31000."""
    arena.memory.write(0x31008, 8, 0x00CF9B000000FFFF)
    arena.memory.write(0x30000 + 8 * vector, 8, encode_gate(0x08, handler, INTERRUPT_GATE32))
    return {"guest_idtr_base": 0x30000, "guest_idtr_limit": 0x7FF, "guest_gdtr_base": 0x31000, "guest_gdtr_limit": 0xFF}


HANDLER = "handler: pop eax\n cpuid\n"


def test_events_are_injected():
    arena = Arena(f"jmp near rest\n{HANDLER}rest: jmp rest")
    tables = idt(arena, 0x40, CODE + 5)
    info = 1 << 31 | 0x40
    assert arena.run(entry_interruption=info, guest_rflags=IF | 2, **tables)[0] is Reason.CPUID
    assert arena.cpu.registers[EAX] == CODE  # pushed by the delivery
    assert not arena.read(f.ENTRY_INTERRUPTION) >> 31  # for one entry


def test_injection_of_an_exception_pushes_its_code():
    arena = Arena(f"jmp near rest\n{HANDLER}rest: jmp rest")
    tables = idt(arena, GP, CODE + 5)
    arena.run(entry_interruption=1 << 31 | 1 << 11 | 3 << 8 | GP, entry_error_code=0x1234, **tables)
    assert arena.cpu.registers[EAX] == 0x1234


def test_an_exit_in_a_delivery_tells_of_the_event():
    arena = Arena("hlt")
    arena.ept.unmap(0x200000)
    tables = idt(arena, 0x40, CODE)
    info = 1 << 31 | 0x40
    reason, qualification = arena.run(entry_interruption=info, guest_rflags=IF | 2, guest_rsp=0x300010, **tables)
    assert reason is Reason.EPT_VIOLATION
    assert qualification & 7 == 2
    assert arena.read(f.IDT_VECTORING) == info
    assert arena.read(f.GUEST_RSP) == 0x300010


def test_windows_for_interrupts():
    arena = Arena("nop\n sti\n nop\n nop")
    assert arena.run(primary_controls=PRIMARY | c.INTERRUPT_WINDOW_EXITING)[0] is Reason.INTERRUPT_WINDOW
    assert arena.read(f.GUEST_RIP) == CODE + 3  # behind the shadow of STI


def test_external_interrupts_and_the_counter():
    arena = Arena("rest: jmp rest")
    pin = c.PIN_DEFAULT | c.EXTERNAL_INTERRUPT_EXITING
    arena.machine.counter_limit, arena.machine.counter_vector = arena.cpu.retired + 7, 0xFE
    acknowledged = arena.read(f.EXIT_CONTROLS) | c.ACKNOWLEDGE_INTERRUPT
    before = arena.cpu.retired
    assert arena.run(pin_based_controls=pin, exit_controls=acknowledged)[0] is Reason.EXTERNAL_INTERRUPT
    assert arena.read(f.EXIT_INTERRUPTION) == 1 << 31 | 0xFE
    assert arena.cpu.retired - before == 7


def test_triple_faults_and_task_switches():
    assert Arena("ud2").run()[0] is Reason.TRIPLE_FAULT
    arena = Arena("jmp 0x20:0")
    arena.memory.write(0x31008, 8, 0x00CF9B000000FFFF)
    arena.memory.write(0x31020, 8, 0x0000890032000067)
    reason, qualification = arena.run(guest_gdtr_base=0x31000, guest_gdtr_limit=0xFF)
    assert (reason, qualification) == (Reason.TASK_SWITCH, 2 << 30 | 0x20)


def test_time_is_offset():
    arena = Arena("rdtsc\n cpuid")
    arena.run(primary_controls=PRIMARY | c.USE_TSC_OFFSETTING, tsc_offset=1000)
    assert arena.cpu.registers[EAX] == 1000 + arena.cpu.ticks - 1


def test_vpids_keep_translations():
    """With a VPID what is cached outlives exits, until INVVPID; without one it does not (28.4)."""
    for vpid, misses in ((0, True), (1, False)):
        arena = Arena("again: mov eax, [0x300000]\n cpuid\n jmp again")
        vpids = {"vpid": vpid, "secondary_controls": SECONDARY | (c.ENABLE_VPID if vpid else 0)}
        arena.run(**vpids)
        before = arena.cpu.tlb.misses
        arena.run(guest_rip=CODE)
        assert (arena.cpu.tlb.misses > before) == misses
    assert arena.vmx.invalidate("invvpid", 1, 1, 0) == 0
    before = arena.cpu.tlb.misses
    arena.run(guest_rip=CODE)
    assert arena.cpu.tlb.misses == before + 2
    assert arena.vmx.invalidate("invvpid", 0, 1, 0x300000) == 0
    before = arena.cpu.tlb.misses
    arena.run(guest_rip=CODE)
    assert arena.cpu.tlb.misses == before + 1


def test_invalidations_by_extended_page_tables():
    """INVEPT drops what came through one root, or all; wrong operands are error 28."""
    for kind, other, dropped in ((1, False, True), (1, True, False), (2, True, True)):
        arena = Arena("again: mov eax, [0x300000]\n cpuid\n jmp again")
        arena.run(vpid=1, secondary_controls=SECONDARY | c.ENABLE_VPID)
        pointer = arena.read(f.EPT_POINTER) + (0x1000 if other else 0)
        assert arena.vmx.invalidate("invept", kind, pointer, 0) == 0
        before = arena.cpu.tlb.misses
        arena.run(guest_rip=CODE)
        assert (arena.cpu.tlb.misses > before) == dropped
        wrong = (("invept", 0, pointer, 0), ("invept", 3, 0, 0), ("invept", 1, 0x200000, 0), ("invvpid", 4, 1, 0),
                 ("invvpid", 1, 0, 0), ("invvpid", 1, 0x10000, 0), ("invvpid", 0, 1, 1 << 50))  # fmt: skip
        for operands in wrong:
            assert arena.vmx.invalidate(*operands) == 28


@pytest.mark.parametrize("vpid", [0, 1])
def test_what_the_host_has_cached_is_not_the_guests(vpid):
    """Without a VPID guest and host share the number 0: each entry and each exit drops what is cached (28.3.3.1)."""
    arena = Arena("mov eax, [0x380000]\n cpuid")
    arena.ept.unmap(0x200000)
    assert arena.cpu.translate(0x380000, write=False, user=False) == 0x380000
    tags = {"vpid": vpid, "secondary_controls": SECONDARY | c.ENABLE_VPID} if vpid else {}
    assert arena.run(**tags)[0] is Reason.EPT_VIOLATION
    misses = arena.cpu.tlb.misses
    arena.cpu.translate(0x380000, write=False, user=False)
    assert (arena.cpu.tlb.misses == misses) == bool(vpid)


def test_a_guest_in_real_mode():
    arena = Arena("bits 16\n mov ax, 0x1234\n cpuid")
    real = {
        "guest_cr0": CR0_NE, "cr0_shadow": 0, "guest_cs": 0x1000, "guest_cs_base": CODE, "guest_cs_limit": 0xFFFF,
        "guest_cs_access": 0x9B, "guest_rip": 0,
    }  # fmt: skip
    assert arena.run(**real)[0] is Reason.CPUID
    assert arena.cpu.registers[EAX] == 0x1234
    assert arena.read(f.GUEST_RIP) == 3


def test_the_stack_is_the_hosts_after_an_exit():
    arena = Arena("cpuid")
    arena.run()
    assert (arena.cpu.registers[4], arena.read(f.GUEST_RSP), arena.cpu.code_64) == (0x104000, STACK, True)


def test_segments_are_the_vmcs_whatever_the_last_exit_left():
    """What the host writes into the guest-state area counts, after an entry that failed late, too; and so do its own segments."""
    arena = Arena("mov ax, ds\n mov bx, fs\n cpuid")
    fresh = {"guest_rip": CODE, "guest_fs": 0x28, "guest_fs_base": 0x1234, "guest_ds": 0x18}
    seen = []
    for selector, host in ((0x18, 0x20), (0x18, 0x20), (0x30, 0x28), (0x18, 0x28)):
        arena.run(**fresh | {"guest_ds": selector, "host_ds": host, "host_fs_base": 0x8000 + host})
        cpu = arena.cpu
        assert (cpu.segments[DS].selector, cpu.segments[FS].base) == (host, 0x8000 + host)
        assert [arena.read(field) for field in (f.GUEST_DS, f.GUEST_FS, f.GUEST_FS_BASE)] == [selector, 0x28, 0x1234]
        seen.append((cpu.registers[EAX] & 0xFFFF, cpu.registers[EBX] & 0xFFFF))
        assert cpu.segments[CS].flattened
        assert (
            arena.enter(entry_msr_load_count=1, entry_msr_load_address=0x3000) == 0
        )  # MSR 0 is none that can be loaded
        assert arena.read(f.EXIT_REASON) & 0xFFFF == Reason.ENTRY_FAILURE_MSR_LOADING
        arena.write({f.ENTRY_MSR_LOAD_COUNT: 0})
        cpu.segments[DS].set(0x50, 0x77, 0xFFFF, 0x93, big=True)  # by the host itself
    assert seen == [(0x18, 0x28), (0x18, 0x28), (0x30, 0x28), (0x18, 0x28)]


def test_a_walk_that_is_known_marks_entries_again_and_sees_others():
    """A guest that clears accessed bits, and one whose tables change, as they are in memory or in the host's tables."""
    arena = Arena("again: mov eax, [0x300000]\n cpuid\n jmp again")
    directory, table = 0x108000, 0x109000
    memory = arena.memory
    for page in range(1024):
        memory.write(table + 4 * page, 4, page << 12 | 3)
    memory.write(directory, 4, table | 3)
    memory.write(0x300000, 4, 0x11)
    memory.write(0x301000, 4, 0x22)
    paging = {"guest_cr0": CR0_PE | CR0_NE | CR0_PG, "guest_cr3": directory, "guest_rip": CODE}
    found = []
    for change in (None, None, 0x300003, 0x301003, None):
        if change is not None:
            memory.write(table + 4 * 0x300, 4, change)
        references = arena.cpu.walk_references
        arena.run(**paging)
        found.append(
            (arena.cpu.registers[EAX], memory.read(table + 4 * 0x300, 4) & 0x20, arena.cpu.walk_references - references)
        )
        arena.cpu.registers[EAX] = 0
    assert [each[:2] for each in found] == [(0x11, 0x20)] * 3 + [(0x22, 0x20)] * 2
    assert len({each[2] for each in found}) == 1, "a walk that is known counts its references as any other"


def test_pages_that_are_written_are_logged():
    """Each page once, as its dirty bit is set; where the buffer is full, an exit before the write (28.3.6)."""
    code = "mov [0x300000], eax\n mov [0x301004], eax\n mov [0x300008], eax\n mov ebx, [0x302000]\n cpuid\n mov [0x303000], esi\n cpuid"
    arena = Arena(code, "broadwell")
    arena.ept.unmap(0x200000)
    for page in range(0x200000, 0x400000, 0x1000):
        arena.ept.map(page, page)
    log = {
        "secondary_controls": SECONDARY | c.ENABLE_PML, "ept_pointer": arena.ept.root | 3 << 3 | 6 | 1 << 6,
        "pml_address": 0x109000, "pml_index": 511,
    }  # fmt: skip
    assert arena.run(**log)[0] is Reason.CPUID
    assert arena.read(f.PML_INDEX) == 509
    assert [arena.memory.read(0x109000 + 8 * n, 8) for n in (511, 510, 509)] == [0x300000, 0x301000, 0]
    full = {"pml_index": 0xFFFF, "guest_rip": arena.read(f.GUEST_RIP) + 2}
    assert arena.run(**full)[0] is Reason.PML_FULL
    assert arena.memory.read(0x303000, 4) == 0
    arena.cpu.registers[6] = 7
    assert arena.run(pml_index=0)[0] is Reason.CPUID
    assert (arena.memory.read(0x109000, 8), arena.read(f.PML_INDEX)) == (0x303000, 0xFFFF)
    assert arena.memory.read(0x303000, 4) == 7
