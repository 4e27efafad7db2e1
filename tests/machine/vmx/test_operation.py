"""VMX operation: instructions, their flags and error numbers; entry checks; a VMCS in memory (SDM vol. 3, 24, 26, 30)."""

from __future__ import annotations

import pytest

from tests.machine.vmx.arena import CODE, HOST, ONES, PRIMARY, VMCS, VMXON, Arena
from vmlab.errors import StateError
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.faults import GP, UD, Fault
from vmlab.isa.x86.registers import ARITHMETIC, CF, CR0_NE, CR0_PE, CR0_PG, CR4_VMXE, CS, EAX, MSR_FEATURE_CONTROL, ZF
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.fields import FIELDS
from vmlab.machine.vmx.reasons import BasicReason as Reason

# Encodings that Linux' arch/x86/include/asm/vmx.h and FACTS.md have: a sample of each width and type.
ENCODINGS = {
    "VPID": 0x0000, "GUEST_ES": 0x0800, "GUEST_TR": 0x080E, "HOST_TR": 0x0C0C, "IO_BITMAP_A": 0x2000, "MSR_BITMAP": 0x2004,
    "TSC_OFFSET": 0x2010, "EPT_POINTER": 0x201A, "GUEST_PHYSICAL_ADDRESS": 0x2400, "VMCS_LINK_POINTER": 0x2800,
    "GUEST_EFER": 0x2806, "GUEST_PDPTE0": 0x280A, "HOST_EFER": 0x2C02, "PIN_BASED_CONTROLS": 0x4000,
    "EXCEPTION_BITMAP": 0x4004, "EXIT_CONTROLS": 0x400C, "ENTRY_INTERRUPTION": 0x4016, "SECONDARY_CONTROLS": 0x401E,
    "INSTRUCTION_ERROR": 0x4400, "EXIT_REASON": 0x4402, "EXIT_INSTRUCTION_INFO": 0x440E, "GUEST_ES_LIMIT": 0x4800,
    "GUEST_ES_ACCESS": 0x4814, "GUEST_INTERRUPTIBILITY": 0x4824, "GUEST_SYSENTER_CS": 0x482A, "HOST_SYSENTER_CS": 0x4C00,
    "CR0_MASK": 0x6000, "EXIT_QUALIFICATION": 0x6400, "GUEST_LINEAR_ADDRESS": 0x640A, "GUEST_CR0": 0x6800,
    "GUEST_RIP": 0x681E, "GUEST_SYSENTER_EIP": 0x6826, "HOST_CR0": 0x6C00, "HOST_RIP": 0x6C16,
}  # fmt: skip


def test_encodings_of_fields():
    for name, encoding in ENCODINGS.items():
        assert FIELDS[encoding].name == name
    assert {each: FIELDS[each].width for each in (f.GUEST_CS, f.TSC_OFFSET, f.EXIT_REASON, f.GUEST_RIP)} == {
        f.GUEST_CS: 16,
        f.TSC_OFFSET: 64,
        f.EXIT_REASON: 32,
        f.GUEST_RIP: 64,
    }
    assert FIELDS[f.EXIT_REASON].read_only
    assert [FIELDS[each].group for each in (f.VPID, f.EXIT_REASON, f.GUEST_CS, f.HOST_CS)] == [
        "control", "exit information", "guest state", "host state",
    ]  # fmt: skip


# -- the instructions, executed ------------------------------------------------------------------------------------------


def execute(arena, source):
    """Execute 64-bit code of the host's; return the arithmetic flags after it."""
    code = assemble(f"bits 64\norg 0x50000\n{source}").code
    arena.memory.write_bytes(0x50000, code)
    arena.cpu.ip, arena.cpu.flags = 0x50000, 2 | ARITHMETIC
    while arena.cpu.ip < 0x50000 + len(code):
        arena.cpu.execute()
    return arena.cpu.flags & ARITHMETIC


def number(arena):
    return arena.read(f.INSTRUCTION_ERROR)


def test_vmxon_needs_what_the_manual_says():
    arena = Arena(turned_on=False)
    pointer = f"mov qword [0x51000], {VMXON}\n vmxon [0x51000]"
    with pytest.raises(Fault) as caught:
        execute(arena, pointer)
    assert caught.value.vector == GP  # IA32_FEATURE_CONTROL
    arena.cpu.write_msr(MSR_FEATURE_CONTROL, 5)
    assert execute(arena, "mov qword [0x51000], 0x123\n vmxon [0x51000]") == CF
    assert execute(arena, "mov qword [0x51000], 0x105000\n vmxon [0x51000]") == CF  # no revision there
    assert execute(arena, pointer) == 0
    assert arena.vmx.on
    with pytest.raises(Fault):
        arena.cpu.set_cr4(arena.cpu.cr4 & ~CR4_VMXE)
    with pytest.raises(Fault):
        arena.cpu.set_cr0(arena.cpu.cr0 & ~CR0_NE)
    assert execute(arena, pointer) == CF  # again, and no VMCS could hold error 15
    assert execute(arena, "vmxoff") == 0
    with pytest.raises(Fault) as caught:
        execute(arena, "vmxoff")
    assert caught.value.vector == UD


def test_they_are_undefined_without_the_feature():
    arena = Arena(turned_on=False)
    arena.cpu.model = CPU_MODELS["pentium-4"]
    for code in ("vmxon [0x51000]", "vmcall", "vmptrst [0x51000]", "invept rax, [0x51000]"):
        with pytest.raises(Fault) as caught:
            execute(arena, code)
        assert caught.value.vector == UD


def test_pointers_and_their_errors():
    arena = Arena()
    for code, error in (
        ("mov qword [0x51000], 0x123\n vmclear [0x51000]", 2),
        (f"mov qword [0x51000], {VMXON}\n vmclear [0x51000]", 3),
        ("mov qword [0x51000], 0x123\n vmptrld [0x51000]", 9),
        (f"mov qword [0x51000], {VMXON}\n vmptrld [0x51000]", 10),
        ("mov qword [0x51000], 0x105000\n vmptrld [0x51000]", 11),
        ("mov eax, 0x4410\n vmread rbx, rax", 12),
        ("mov eax, 0x4402\n vmwrite rax, rbx", 13),
        ("vmresume", 5),
        ("vmcall", 1),
    ):
        assert execute(arena, code) == ZF, code
        assert number(arena) == error, code
    assert execute(arena, "vmptrst [0x51000]") == 0
    assert arena.memory.read(0x51000, 8) == VMCS
    assert execute(arena, "mov eax, 0x681E\n mov ebx, 0x77\n vmwrite rax, rbx\n vmread rcx, rax") == 0
    assert arena.cpu.registers[1] == 0x77
    assert execute(arena, f"mov qword [0x51000], {VMCS}\n vmclear [0x51000]\n vmptrst [0x51000]") == 0
    assert arena.memory.read(0x51000, 8) == ONES
    assert execute(arena, "vmread rax, rbx") == CF
    assert execute(arena, "vmlaunch") == CF


def test_halves_of_wide_fields():
    arena = Arena()
    arena.vmx.write_field(f.TSC_OFFSET, 0x1111_2222_3333_4444)
    assert arena.vmx.read_field(f.TSC_OFFSET + 1) == (0, 0x1111_2222)
    arena.vmx.write_field(f.TSC_OFFSET + 1, 0x5555_6666)
    assert arena.read(f.TSC_OFFSET) == 0x5555_6666_3333_4444
    assert arena.vmx.read_field(f.GUEST_RIP + 1)[0] == 12  # of natural width: no half
    arena.vmx.write_field(f.GUEST_CS, 0x12345)
    assert arena.read(f.GUEST_CS) == 0x2345


def test_a_vmcs_lies_in_memory_when_it_is_not_current():
    arena = Arena()
    arena.vmx.write_field(f.GUEST_RIP, 0x1234_5678)
    arena.memory.write(0x105000, 4, c.REVISION)
    assert arena.vmx.load_pointer(0x105000) == 0
    assert arena.read(f.GUEST_RIP) == 0
    assert (0x1234_5678).to_bytes(8, "little") in arena.memory.read_bytes(VMCS, 0x1000)
    assert arena.vmx.load_pointer(VMCS) == 0
    assert arena.read(f.GUEST_RIP) == 0x1234_5678


def test_launch_state():
    arena = Arena("cpuid\n cpuid")
    assert arena.vmx.enter(launch=False) == 5
    arena.run()
    assert arena.vmx.enter(launch=True) == 4
    assert arena.vmx.clear(VMCS) == 0
    assert arena.vmx.load_pointer(VMCS) == 0
    assert arena.vmx.enter(launch=False) == 5


# -- checks of an entry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"pin_based_controls": 0}, 7),
        ({"primary_controls": PRIMARY | 1}, 7),
        ({"secondary_controls": c.ENABLE_PML}, 7),
        ({"secondary_controls": c.UNRESTRICTED_GUEST}, 7),
        ({"secondary_controls": c.ENABLE_EPT | c.ENABLE_VPID}, 7),
        ({"cr3_target_count": 5}, 7),
        ({"ept_pointer": 0x200000}, 7),
        ({"primary_controls": PRIMARY | c.USE_IO_BITMAPS, "io_bitmap_a": 0x123}, 7),
        ({"entry_interruption": 1 << 31 | 1 << 8}, 7),
        ({"entry_interruption": 1 << 31 | 3 << 8 | GP}, 7),
        ({"host_cr0": CR0_PE}, 8),
        ({"host_cr4": 0}, 8),
        ({"host_cs": 0}, 8),
        ({"host_cs": 0x0B}, 8),
        ({"host_rip": 1 << 50}, 8),
        ({"host_efer": 0}, 8),
    ],
)
def test_wrong_controls_and_host_state_are_errors(fields, error):
    arena = Arena()
    assert arena.enter(**fields) == error
    assert number(arena) == error
    assert not arena.cpu.non_root
    assert not arena.vmx.launched


@pytest.mark.parametrize(
    ("fields", "qualification"),
    [
        ({"guest_cr0": CR0_PE}, 0),
        ({"guest_cr0": CR0_NE | CR0_PG}, 0),
        ({"guest_cr4": 0}, 0),
        ({"guest_cr3": 1 << 45}, 0),
        ({"guest_rflags": 0}, 0),
        ({"guest_rflags": 1 << 17 | 2}, 0),
        ({"guest_rip": 1 << 33}, 0),
        ({"guest_cs_access": 0x1C09B}, 0),
        ({"guest_cs_access": 0xC01B}, 0),
        ({"guest_ss_access": 0xC0F3}, 0),
        ({"guest_ds_access": 0xC092}, 0),
        ({"guest_tr_access": 0x10000}, 0),
        ({"guest_tr_access": 0x89}, 0),
        ({"guest_ldtr_access": 0x8B}, 0),
        ({"guest_gdtr_limit": 0x10000}, 0),
        ({"guest_interruptibility": 3}, 0),
        ({"guest_interruptibility": 1}, 0),
        ({"guest_activity": 2}, 0),
        ({"guest_efer": 1 << 10}, 0),
        ({"entry_interruption": 1 << 31 | 0x40}, 0),  # an interrupt, and IF is clear
        ({"vmcs_link_pointer": 0}, 4),
    ],
)
def test_a_wrong_guest_state_is_a_failed_entry(fields, qualification):
    arena = Arena()
    assert arena.enter(**fields) == 0
    assert not arena.cpu.non_root
    assert arena.cpu.ip == HOST
    assert arena.read(f.EXIT_REASON) == 1 << 31 | Reason.ENTRY_FAILURE_GUEST_STATE
    assert arena.read(f.EXIT_QUALIFICATION) == qualification
    assert not arena.vmx.launched


def test_a_failed_load_of_msrs():
    arena = Arena()
    arena.memory.write(0x105000, 4, 0x174)
    arena.memory.write(0x105010, 4, 0x1234)  # there is none
    assert arena.enter(entry_msr_load_address=0x105000, entry_msr_load_count=2) == 0
    assert arena.read(f.EXIT_REASON) == 1 << 31 | Reason.ENTRY_FAILURE_MSR_LOADING
    assert arena.read(f.EXIT_QUALIFICATION) == 2


def test_msr_areas():
    arena = Arena("mov ecx, 0x174\n mov eax, 0x99\n xor edx, edx\n wrmsr\n cpuid")
    for area, value in ((0x105000, 0x10), (0x106000, 0), (0x107000, 0x20)):
        arena.memory.write(area, 4, 0xC0000081)
        arena.memory.write(area + 8, 8, value)
    arena.run(
        primary_controls=PRIMARY | c.USE_MSR_BITMAPS, msr_bitmap=0x108000,
        entry_msr_load_address=0x105000, entry_msr_load_count=1,
        exit_msr_store_address=0x106000, exit_msr_store_count=1,
        exit_msr_load_address=0x107000, exit_msr_load_count=1,
    )  # fmt: skip
    assert arena.memory.read(0x106008, 8) == 0x10  # the guest's, as it was loaded
    assert arena.cpu.read_msr(0xC0000081) == 0x20
    assert arena.read(f.GUEST_SYSENTER_CS) == 0x99


@pytest.mark.parametrize("model", [name for name, each in CPU_MODELS.items() if each.has("vmx")])
def test_capabilities_are_those_of_the_features(model):
    """What the capability MSRs allow is what the checks of an entry allow (appendix A)."""
    arena = Arena(model=model, turned_on=False)
    features = CPU_MODELS[model].features
    assert arena.cpu.read_msr(0x480) & 0x7FFFFFFF == c.REVISION
    may = arena.cpu.read_msr(0x48B) >> 32
    for feature, bit in (("ept", 1), ("vpid", 5), ("unrestricted-guest", 7), ("invpcid", 12), ("pml", 17)):
        assert bool(may >> bit & 1) == (feature in features)
    assert bool(arena.cpu.read_msr(0x48C) & 1 << 21) == ("ept-dirty" in features)
    must = arena.cpu.read_msr(0x481) & 0xFFFFFFFF
    assert must == c.PIN_DEFAULT
    assert arena.cpu.cpuid(1, 0)[2] & 1 << 5


# -- a VMM in machine code ---------------------------------------------------------------------------------------------


VMM = f"""
bits 64
org {HOST}
handler: mov eax, 0x4402                ; the exit reason
        vmread rbx, rax
        inc qword [0x60000]
        cmp ebx, 10                     ; CPUID: the guest is told who is there
        jne other
        mov dword [0x60008], 0x424C4D56
        mov eax, 0x681E
        vmread rcx, rax
        add rcx, 2
        vmwrite rax, rcx
        vmresume
        ud2
other:  mov [0x60010], rbx
        jmp $
"""


def test_a_vmm_in_machine_code():
    """Guest code counts down, and asks CPUID each time; the host's handler is at HOST RIP, and resumes it."""
    arena = Arena("mov esi, 5\nagain: cpuid\n dec esi\n jnz again\n hlt")
    arena.machine.host_entry = range(0)
    arena.memory.write_bytes(HOST, assemble(VMM).code)
    arena.write({f.PRIMARY_CONTROLS: PRIMARY | c.HLT_EXITING})
    arena.memory.write_bytes(0x50000, assemble("bits 64\norg 0x50000\n vmlaunch\n ud2").code)
    arena.cpu.ip = 0x50000
    arena.machine.run(200)
    assert arena.memory.read(0x60000, 8) == 6
    assert arena.memory.read(0x60008, 4) == 0x424C4D56
    assert arena.memory.read(0x60010, 8) == Reason.HLT
    assert arena.read(f.GUEST_RIP) == CODE + 10
    assert arena.machine.outcome is None


def test_saving_in_a_guest_and_in_the_host():
    arena = Arena("again: inc ebx\n cpuid\n inc eax\n jmp again")
    arena.run()
    for steps in (0, 1):
        if steps:
            arena.enter(guest_rip=CODE)
            arena.machine.run(steps)
        saved, memory = arena.machine.save(), arena.memory.save()
        other = Arena("hlt")
        other.memory.load(memory)
        other.machine.load(saved)
        assert other.machine.save() == saved
        assert other.cpu.non_root == bool(steps)
        for each in (arena, other):
            each.machine.run(5) if steps else each.run(guest_rip=CODE)
        assert other.machine.save() == arena.machine.save()
        assert other.cpu.registers[EAX] == arena.cpu.registers[EAX]
    for key, value in (("on", 1), ("fields", {1: -1}), ("event", [1]), ("contexts", {0: {}}), ("more", 0)):
        broken = arena.machine.save()
        broken["cpus"][0]["vmx"][key] = value
        with pytest.raises(StateError):
            arena.machine.load(broken)
    assert arena.cpu.segments[CS].selector
