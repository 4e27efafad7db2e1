"""The VMCS to look at: what it says, what an exit changed, and which check refuses a changed one."""

from __future__ import annotations

import re

import pytest

import vmlab
from tests.vmm.harness import MEMORY
from vmlab.errors import OptionError
from vmlab.isa.x86.registers import CR0_PE
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.names import BITS, INSTRUCTION_ERRORS, REASONS
from vmlab.machine.vmx.reasons import BasicReason
from vmlab.vmm.control_block import ControlBlock
from vmlab.vmm.techniques import build
from vmlab.vmm.vmcs_words import describe_field, describe_qualification, describe_rights


@pytest.fixture(scope="module")
def thin():
    """The native run of a hypervisor in assembly."""
    return vmlab.record(vmlab.guests.load("thin_hypervisor"), cpu="westmere")


@pytest.fixture(scope="module")
def assisted():
    """A start of minios under vt-x."""
    return vmlab.record(vmlab.guests.load("minios"), "vt-x", memory=MEMORY, steps=4000)


def exits(recording):
    return [event for event in recording.events if event.kind == "vm-exit"]


# -- what it says -----------------------------------------------------------------------------------------------------------


def test_every_control_that_a_processor_has_is_named():
    capabilities = {
        f.PIN_BASED_CONTROLS: c.TRUE_PINBASED, f.PRIMARY_CONTROLS: c.TRUE_PROCBASED, f.SECONDARY_CONTROLS: c.PROCBASED2,
        f.EXIT_CONTROLS: c.TRUE_EXIT, f.ENTRY_CONTROLS: c.TRUE_ENTRY,
    }  # fmt: skip
    for field, capability in capabilities.items():
        named = sum(BITS[field].values())
        for model in CPU_MODELS.values():
            if model.has("vmx"):
                must, may = c.allowed(model, capability)
                assert may & ~must & ~named == 0
    assert set(REASONS) == set(BasicReason)
    assert {7, 8, *range(2, 6), *range(9, 14), 26, 28} <= set(INSTRUCTION_ERRORS)


RIGHTS = {  # access bytes as of SDM vol. 3, tables 3-1 and 3-2
    0x93: "type 3: data, writable, accessed; DPL 0; P",
    0xC0F6: "type 6: data, expand-down, writable; DPL 3; P D G",
    0xA09F: "type 15: code, conforming, readable, accessed; DPL 0; P L G",
    0x19: "type 9: code, accessed; DPL 0",
    0x8B: "type 11: busy TSS; DPL 0; P",
    0x82: "type 2: LDT; DPL 0; P",
    0x10000: "unusable",
}


@pytest.mark.parametrize("rights", RIGHTS)
def test_access_rights(rights):
    assert describe_rights(rights) == RIGHTS[rights]


QUALIFICATIONS = [  # worked by hand from SDM vol. 3, tables 27-3 to 27-7
    ("CR_ACCESS", 0x003, {}, "MOV CR3, rax"),
    ("CR_ACCESS", 0x314, {}, "MOV rbx, CR4"),
    ("CR_ACCESS", 0x020, {}, "CLTS"),
    ("MOV_DR", 0x107, {}, "MOV DR7, rcx"),
    ("MOV_DR", 0x016, {}, "MOV rax, DR6"),
    ("IO_INSTRUCTION", 0x3F80008, {}, "IN of 8 bits, port 0x3f8 (in DX)"),
    ("IO_INSTRUCTION", 0x1F00039, {}, "REP INS of 16 bits, port 0x1f0 (in DX)"),
    ("IO_INSTRUCTION", 0x800043, {}, "OUT of 32 bits, port 0x80 (immediate)"),
    ("INVLPG", 0x401000, {}, "linear address 0x401000"),
    ("EXCEPTION_OR_NMI", 0x7000, {f.EXIT_INTERRUPTION: 0x80000B0E, f.EXIT_ERROR_CODE: 6}, "hardware exception #PF, with an error code 0x6; linear address 0x7000"),
    ("EXTERNAL_INTERRUPT", 0, {f.EXIT_INTERRUPTION: 0x80000030}, "external interrupt 0x30"),
    ("EPT_VIOLATION", 0x182, {f.GUEST_PHYSICAL_ADDRESS: 0x5000, f.GUEST_LINEAR_ADDRESS: 0x9000}, "write of guest-physical address 0x5000: nothing is mapped; linear address 0x9000, the access itself"),
    ("EPT_VIOLATION", 0x0AB, {f.GUEST_PHYSICAL_ADDRESS: 0x5000}, "read and write of guest-physical address 0x5000: the tables allow RX; linear address 0x0, a table of the guest"),
    ("APIC_ACCESS", 0x10B0, {}, "write at offset 0xb0"),
    ("ENTRY_FAILURE_GUEST_STATE", 4, {}, "VMCS link pointer"),
    ("HLT", 0, {}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "qualification", "more", "said"), QUALIFICATIONS)
def test_qualifications(reason, qualification, more, said):
    fields = (
        dict.fromkeys(f.FIELDS, 0) | {f.EXIT_REASON: BasicReason[reason], f.EXIT_QUALIFICATION: qualification} | more
    )
    assert describe_qualification(fields) == said
    assert describe_field(f.EXIT_QUALIFICATION, fields) == said


def test_any_value_has_words():
    for value in (*range(0, 1 << 16, 997), (1 << 64) - 1, (1 << 32) - 1):
        fields = {encoding: value & (1 << field.width) - 1 for encoding, field in f.FIELDS.items()}
        assert all(isinstance(describe_field(encoding, fields), str) for encoding in fields)


# -- where it is found ------------------------------------------------------------------------------------------------------


def test_each_exit_is_told_with_what_it_changed(thin):
    for event in exits(thin)[::9]:
        thin.seek(event.step)
        block = vmlab.vmcs(thin)
        assert block.fields["EXIT_REASON"].value == BasicReason[event.reason]
        assert block["exit_qualification"].value == event.qualification
        assert block["guest_rip"].value == event.address
        assert block.since == f"by the last exit (step {event.step})"
        fields = thin.system.machine.cpu.vmx.fields
        thin.seek(event.step - 1)
        old = thin.system.machine.cpu.vmx.fields
        assert {each.place: each.before for each in block.changed} == {
            field: old[field] for field in old if old[field] != fields[field]
        }
        thin.seek(event.step - 1)
        assert "the guest runs" in vmlab.vmcs(thin).state


def test_between_exit_and_entry_the_hypervisor_changes_it(thin):
    event = next(event for event in exits(thin) if event.reason == "CPUID")
    thin.seek(event.step)
    while not thin.system.machine.cpu.non_root:
        thin.step()
    block = vmlab.vmcs(thin)
    assert [(each.name, each.value - each.before) for each in block.changed] == [("GUEST_RIP", 2)]
    assert "by the hypervisor" in block.since
    assert "(was" in repr(block)


def test_looking_and_trying_change_nothing(assisted):
    for event in (exits(assisted)[3], exits(assisted)[20]):
        for step in (event.step - 1, event.step, event.step + 1):
            assisted.seek(step)
            before = assisted.system.save()
            memory = assisted.system.machine.memory.save()
            block = vmlab.vmcs(assisted)
            assert block.try_entry(guest_rflags=0, vpid=0).error == 7
            assert block.try_entry().accepted
            assert assisted.position == step
            assert assisted.system.save() == before
            assert assisted.system.machine.memory.save() == memory


def test_before_the_first_exit_there_is_none(thin):
    first = exits(thin)[0].step
    thin.seek(first - 1)
    block = vmlab.vmcs(thin)
    assert (block.exit, block.since, block.changed) == ("", "", [])
    assert "there was no exit yet" in block.describe()


def test_the_other_guests_lies_in_memory():
    image = vmlab.guests.load("minios")
    system = build([image, image], "vt-x", memory=MEMORY)
    while system.counters["world switches"] < 2:
        system.advance(500)
    cpu = system.machine.cpu
    other = 1 - system.current
    block = vmlab.vmcs(system, guest=other)
    assert "not current" in block.state
    assert block["host_rip"].value == cpu.vmx.fields[f.HOST_RIP]
    assert block["ept_pointer"].value != cpu.vmx.fields[f.EPT_POINTER]
    assert block.try_entry().accepted


def test_a_hypervisor_in_a_guest_has_one_of_its_own(thin):
    recording = vmlab.record(vmlab.guests.load("thin_hypervisor"), "vt-x", cpu="westmere", steps=3000)
    recording.seek(2500)
    own, outer = vmlab.vmcs(recording, own=True), vmlab.vmcs(recording)
    thin.seek(exits(thin)[5].step)
    native = vmlab.vmcs(thin)
    for name in ("HOST_RIP", "GUEST_CS_ACCESS", "EPT_POINTER", "SECONDARY_CONTROLS"):
        assert own[name].value == native[name].value
    assert outer["host_rip"].value != own["host_rip"].value
    assert own.try_entry().accepted


@pytest.mark.parametrize("paging", ["nested", "shadow"])
def test_a_finished_run_of_every_kind_of_paging(paging):
    block = vmlab.vmcs(vmlab.run(vmlab.guests.load("hello"), "vt-x", memory_virtualization=paging))
    assert ("ENABLE_EPT" in block["secondary_controls"].said.split()) == (paging == "nested")
    assert block.try_entry().accepted


def test_a_virtual_machine_with_nothing_around_it():
    vm = vmlab.ThinVm()
    vm.map(0, 0x1000)
    vm.write(0, b"\x0f\xa2")
    vm.registers["eip"] = 0
    assert vm.run().reason == "CPUID"
    block = vmlab.vmcs(vm)
    assert block.exit == "CPUID (10)"
    assert block.try_entry().accepted
    assert not block.try_entry(guest_cr0=0).accepted


# -- trying an entry ---------------------------------------------------------------------------------------------------------


def test_a_verdict_is_the_processors():
    """What is said of changed fields is what the processor then does with them: hello under vt-x, about to be entered again."""
    trials = (
        {"guest_rflags": 0}, {"host_cr4": 0}, {"vpid": 0}, {"vmcs_link_pointer": 0}, {"guest_cs_access": 0}, {"cr3_target_count": 5},
        {"guest_cr0": CR0_PE}, {"guest_rip": 0x1234}, {"tsc_offset": 5}, {"host_rip": 1 << 63}, {"entry_interruption": 1 << 31 | 0x100},
    )  # fmt: skip
    outcomes = set()
    for changes in trials:
        system = build(vmlab.guests.load("hello"), "vt-x", memory=MEMORY)
        system.advance(400)
        while not (system.in_vmm and system.phase == "resume"):
            system.advance(1)
        verdict = vmlab.vmcs(system).try_entry(**changes)
        cpu = system.machine.cpu
        for name, value in changes.items():
            assert cpu.vmx.write_field(getattr(f, name.upper()), value) == 0
        error = cpu.vmx.enter(launch=False)
        assert verdict.error == error
        assert verdict.accepted == cpu.non_root
        if verdict.reason:
            assert cpu.vmx.fields[f.EXIT_REASON] == verdict.reason
            assert cpu.vmx.fields[f.EXIT_QUALIFICATION] == verdict.qualification
        outcomes.add((error, verdict.reason != 0, verdict.qualification))
    assert outcomes == {(7, False, 0), (8, False, 0), (0, True, 0), (0, True, 4), (0, False, 0)}


def test_verdicts_in_words(assisted):
    block = vmlab.vmcs(assisted)
    said = block.try_entry(cr3_target_count=5, host_cs=0).describe()
    assert said.startswith(
        "with CR3_TARGET_COUNT = 0x5, HOST_CS = 0x0:\nrefused: VM-instruction error 7: VM entry with invalid control"
    )
    assert "26.2.1.1: the CR3-target count is at most 4" in said
    assert "qualification 4" in repr(block.try_entry(vmcs_link_pointer=0))
    assert block.try_entry(entry_msr_load_count=1).untried
    assert block.say("guest_rflags", 0x202) == "IF"
    assert block.try_entry().describe() == "as it is:\naccepted: the guest would run"


# -- tables, and what is wrong ------------------------------------------------------------------------------------------------


def test_tables(assisted):
    event = exits(assisted)[20]
    assisted.seek(event.step)
    block = vmlab.vmcs(assisted)
    assert isinstance(block, ControlBlock)
    assert list(block.groups) == ["control", "guest state", "host state", "exit information"]
    rows = block.rows("guest state")
    assert {row["group"] for row in rows} == {"guest state"}
    assert len(block.rows()) == len(block.fields)
    rip = next(row for row in rows if row["field"] == "GUEST_RIP")
    assert (rip["encoding"], rip["bits"], int(rip["value"], 16)) == ("0x681e", 64, event.address)
    html = block._repr_html_()
    assert all(f"<code>{name}</code>" in html for name in block.fields)
    assert html.count("*") == len(block.changed) > 0
    text = block.describe()
    for each in block.fields.values():
        assert bool(re.search(rf"\b{each.name}\b", text)) == bool(each.value or each.changed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (vmlab.vmcs, "takes a Run, a Recording, a System or a ThinVm, not ControlBlock"),
        (lambda block: block["guest_ript"], "did you mean GUEST_RIP"),
        (lambda block: block[5], "no field 5"),
        (lambda block: block.rows("guest"), "the groups control, guest state"),
        (lambda block: block.try_entry(nothing=1), "no field 'nothing'"),
        (lambda block: block.try_entry(exit_reason=1), "error 13"),
        (lambda block: block.try_entry(guest_cs=0x10000), "an int of 16 bits, from 0 to 0xffff, not 65536"),
        (lambda block: block.try_entry(guest_cs=-1), "not -1"),
        (lambda block: block.try_entry(guest_rip="0"), "not '0'"),
    ],
)
def test_what_is_wrong_is_said(assisted, call, message):
    block = vmlab.vmcs(assisted)
    with pytest.raises(OptionError, match=message):
        call(block)


def test_without_a_vmcs_it_says_what_to_do():
    hello = vmlab.guests.load("hello")
    for of, options, message in (
        (vmlab.run(hello), {}, "has no VT-x"),
        (vmlab.run(hello, cpu="westmere"), {}, "not in VMX operation"),
        (vmlab.run(hello, "trap-and-emulate"), {}, "no hardware assistance"),
        (vmlab.run(hello), {"own": True}, "leave own= out"),
        (vmlab.run(hello, "vt-x"), {"own": True}, "no VMCS"),
        (vmlab.run(hello, "vt-x"), {"guest": 1}, "there is no guest 1"),
        (vmlab.run(hello, "vt-x"), {"guest": True}, "there is no guest True"),
    ):
        with pytest.raises(OptionError, match=message):
            vmlab.vmcs(of, **options)
