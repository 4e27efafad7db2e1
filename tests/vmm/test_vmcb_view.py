"""The VMCB to look at: what it says, what an exit changed, and which rule of VMRUN refuses a changed one."""

from __future__ import annotations

import pytest

import vmlab
from tests.vmm.harness import MEMORY
from vmlab.errors import OptionError
from vmlab.isa.x86.registers import CR0_CD, CR0_NW
from vmlab.machine.svm.codes import INVALID, ExitCode, code_name
from vmlab.machine.svm.vmcb import FIELDS
from vmlab.vmm.techniques import build
from vmlab.vmm.vmcb_view import describe_vmcb_exit, describe_vmcb_field

NONE = dict.fromkeys(FIELDS, 0)


@pytest.fixture(scope="module")
def assisted():
    """A start of minios under amd-v."""
    return vmlab.record(vmlab.guests.load("minios"), "amd-v", memory=MEMORY, steps=4000)


def exits(recording):
    return [event for event in recording.events if event.kind == "vm-exit"]


# -- what it says -----------------------------------------------------------------------------------------------------------

SAID = [  # worked by hand from AMD APM vol. 2: table B-1 (bits by exit code: appendix C), 15.16.2, 15.20, 4.8 (attributes)
    ("CR_INTERCEPTS", 0x0010_0009, "CR0_READ CR3_READ CR4_WRITE"),
    ("DR_INTERCEPTS", 0x0080_0000, "DR7_WRITE"),
    ("EXCEPTION_INTERCEPTS", 1 << 14 | 1 << 6, "#UD #PF"),
    ("INTERCEPTS", 1 | 1 << 24 | 1 << 27, "INTR HLT IOIO"),
    ("SVM_INTERCEPTS", 3, "VMRUN VMMCALL"),
    ("SVM_INTERCEPTS", 1 << 31, "unknown"),
    ("TLB_CONTROL", 0, ""),
    ("TLB_CONTROL", 1, "flush all"),
    ("TLB_CONTROL", 3, "flush this ASID"),
    ("TLB_CONTROL", 7, "flush this ASID but for global pages"),
    ("TLB_CONTROL", 2, "reserved"),
    ("VIRTUAL_INTERRUPT", 1 << 24 | 1 << 8, "V_IRQ V_INTR_MASKING"),
    ("EVENTINJ", 6 << 32 | 0x80000B0E, "hardware exception #PF, with an error code 0x6"),
    ("EVENTINJ", 0x80000030, "external interrupt 0x30"),
    ("EVENTINJ", 0x80000502, "reserved type 5"),
    ("EXITINTINFO", 0, "none"),
    ("CS_ATTRIBUTES", 0xA9B, "type 11: code, readable, accessed; DPL 0; P L G"),
    ("TR_ATTRIBUTES", 0x8B, "type 11: busy TSS; DPL 0; P"),
    ("CR0", 0x8000_0011, "PE ET PG"),
    ("EFER", 0x1000, "SVME"),
    ("EXITCODE", INVALID, "INVALID (0xffffffffffffffff)"),
    ("EXITCODE", 0x3FF, "unknown (0x3ff)"),
    ("RIP", 0x1234, ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "said"), SAID)
def test_fields_in_words(name, value, said):
    assert describe_vmcb_field(name, value) == said


LEFT = [  # worked by hand from AMD APM vol. 2, 15.10.2 (ports), 15.11 (MSRs), 15.12.15 (page faults), 15.25.6 (nested ones)
    (ExitCode.IOIO, 0x03F8_0211, 0x1234, "IOIO (0x7b): IN of 8 bits, port 0x3f8"),
    (ExitCode.IOIO, 0x01F0_022D, 0x1234, "IOIO (0x7b): REP INS of 16 bits, port 0x1f0"),
    (ExitCode.IOIO, 0x0080_0140, 0x1234, "IOIO (0x7b): OUT of 32 bits, port 0x80"),
    (ExitCode.MSR, 1, 0, "MSR (0x7c): WRMSR"),
    (ExitCode.MSR, 0, 0, "MSR (0x7c): RDMSR"),
    (0x4E, 6, 0x7000, "EXCP #PF (0x4e): linear address 0x7000, error code 0x6"),
    (ExitCode.NPF, 1 << 32 | 6, 0x5000, "NPF (0x400): guest-physical address 0x5000, the access itself; error code 0x6: W U"),
    (ExitCode.NPF, 1 << 33 | 4, 0x5008, "NPF (0x400): guest-physical address 0x5008, a table of the guest; error code 0x4: U"),
    (ExitCode.HLT, 0, 0, "HLT (0x78)"),
    (0, 0, 0, "CR0_READ (0x0)"),
    (INVALID, 0, 0, "INVALID (0xffffffffffffffff)"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "info1", "info2", "said"), LEFT)
def test_exits_in_words(code, info1, info2, said):
    assert describe_vmcb_exit(NONE | {"EXITCODE": code, "EXITINFO1": info1, "EXITINFO2": info2}) == said


def test_any_value_has_words():
    for value in (*range(0, 1 << 16, 997), (1 << 64) - 1, (1 << 32) - 1):
        values = {name: value & (1 << 8 * field.size) - 1 for name, field in FIELDS.items()}
        assert all(isinstance(describe_vmcb_field(name, each), str) for name, each in values.items())
        assert isinstance(describe_vmcb_exit(values), str)


# -- where it is found ------------------------------------------------------------------------------------------------------


def test_each_exit_is_told_with_what_it_changed(assisted):
    reasons = set()
    for event in exits(assisted)[::9]:
        assisted.seek(event.step)
        block = vmlab.vmcs(assisted)
        assert block.kind == "VMCB"
        assert code_name(block["exitcode"].value) == event.reason
        assert block["exitinfo1"].value == event.qualification
        assert block["rip"].value == event.address
        assert block.since == f"by the last exit (step {event.step})"
        assert block.exit.startswith(event.reason)
        memory, address = assisted.system.machine.memory, assisted.system.machines[0].vmcb.address
        new = memory.read_bytes(address, 0x1000)
        assisted.seek(event.step - 1)
        block_before = vmlab.vmcs(assisted)
        assert "the guest runs" in block_before.state
        old = memory.read_bytes(address, 0x1000)
        differ = {
            name
            for name, each in FIELDS.items()
            if old[each.offset : each.offset + each.size] != new[each.offset : each.offset + each.size]
        }
        assert {each.name for each in block.changed} == differ
        reasons.add(event.reason)
    assert {"NPF", "IOIO"} <= reasons


def test_what_the_last_exit_told_is_there_while_the_guest_runs(assisted):
    for event in exits(assisted)[5:30:6]:
        assisted.seek(event.step)
        left = vmlab.vmcs(assisted)
        while not assisted.system.machine.cpu.non_root:
            assisted.step()
        block = vmlab.vmcs(assisted)
        assert block.exit == left.exit
        assert not any(each.group == "exit information" for each in block.changed)
        assert "by the hypervisor" in block.since
        moved = {each.name for each in block.changed if each.group != "control"}
        assert moved == {"RIP"} if event.reason == "IOIO" else moved <= {"RIP"}  # only what is emulated is passed


def test_looking_and_trying_change_nothing(assisted):
    for event in (exits(assisted)[3], exits(assisted)[20]):
        for step in (event.step - 1, event.step, event.step + 1):
            assisted.seek(step)
            before, memory = assisted.system.save(), assisted.system.machine.memory.save()
            block = vmlab.vmcs(assisted)
            assert not block.try_entry(asid=0).accepted
            assert block.try_entry().accepted
            assert assisted.position == step
            assert (assisted.system.save(), assisted.system.machine.memory.save()) == (before, memory)


def test_before_the_first_exit_there_is_none(assisted):
    assisted.seek(exits(assisted)[0].step - 1)
    block = vmlab.vmcs(assisted)
    assert (block.exit, block.since, block.changed) == ("", "", [])


def test_each_guest_has_its_own():
    image = vmlab.guests.load("minios")
    system = build([image, image], "amd-v", memory=MEMORY)
    while system.counters["world switches"] < 2:
        system.advance(500)
    first, second = (vmlab.vmcs(system, guest=number) for number in range(2))
    assert [each["asid"].value for each in (first, second)] == [1, 2]
    assert first["nested_cr3"].value != second["nested_cr3"].value
    assert all(each.try_entry().accepted for each in (first, second))


@pytest.mark.parametrize("paging", ["nested", "shadow"])
def test_a_finished_run_of_every_kind_of_paging(paging):
    block = vmlab.vmcs(vmlab.run(vmlab.guests.load("hello"), "amd-v", memory_virtualization=paging))
    assert block["nested_control"].said == ("nested paging" if paging == "nested" else "")
    assert ("CR3_WRITE" in block["cr_intercepts"].said.split()) == (paging == "shadow")
    assert block.try_entry().accepted


# -- trying an entry ---------------------------------------------------------------------------------------------------------


def test_a_verdict_is_the_processors():
    """What is said of changed fields is what the processor then does with them: hello under amd-v, about to be entered again."""
    trials = (
        {"asid": 0}, {"svm_intercepts": 0}, {"efer": 0}, {"cr0": CR0_NW}, {"cr0": CR0_NW | CR0_CD | 1}, {"cr4": 1 << 30},
        {"eventinj": 1 << 31 | 5 << 8}, {"dr7": 1 << 32}, {"rip": 0x1234}, {"tsc_offset": 5}, {"cs_attributes": 0}, {"nested_cr3": 1 << 60},
    )  # fmt: skip
    verdicts = []
    for changes in trials:
        system = build(vmlab.guests.load("hello"), "amd-v", memory=MEMORY)
        system.advance(400)
        while not (system.in_vmm and system.phase == "resume"):
            system.advance(1)
        verdict = vmlab.vmcs(system).try_entry(**changes)
        cpu, vmcb = system.machine.cpu, system.machines[0].vmcb
        for name, value in changes.items():
            vmcb.write(name.upper(), value)
        cpu.svm.run(vmcb.address)
        assert verdict.accepted == cpu.non_root, changes
        assert (vmcb.read("EXITCODE") == INVALID) == (verdict.reason == INVALID) == bool(verdict.rules)
        verdicts.append(verdict.accepted)
    assert (verdicts.count(True), verdicts.count(False)) == (4, 8)


def test_verdicts_in_words(assisted):
    assisted.seek(exits(assisted)[20].step)
    block = vmlab.vmcs(assisted)
    assert block.try_entry(asid=0, efer=0).describe() == (
        "with ASID = 0x0, EFER = 0x0:\n"
        "refused: #VMEXIT at once, exit code VMEXIT_INVALID (-1)\n"
        "broken, of what the AMD APM vol. 2 demands:\n"
        "  15.5.1: SVME (bit 12) of EFER is 1\n"
        "  15.5.1: the ASID is not 0, and one that the processor has"
    )
    assert block.try_entry().describe() == "as it is:\naccepted: the guest would run"
    assert block.say("rflags", 0x202) == "IF"
    row = next(row for row in block.rows() if row["field"] == "RIP")
    assert (row["offset"], row["bits"]) == ("0x0578", 64)
    with pytest.raises(OptionError, match=r"a VMCB has no field 'nested_cr4': did you mean NESTED_CR3\?"):
        block.try_entry(nested_cr4=0)
    with pytest.raises(OptionError, match="did you mean"):
        block["asids"]


HOST = """
org 0x100000
VMCB    equ 0x200000
        mov ecx, 0xC0000080     ; EFER.SVME
        rdmsr
        or eax, 0x1000
        wrmsr
        mov ecx, 0xC0010117     ; VM_HSAVE_PA
        mov eax, 0x201000
        xor edx, edx
        wrmsr
        mov dword [VMCB + 0x00C], 1 << 24       ; HLT
        mov dword [VMCB + 0x010], 3             ; VMRUN, VMMCALL
        mov dword [VMCB + 0x058], 1
        mov dword [VMCB + 0x410], 0x0C9B0008
        mov dword [VMCB + 0x414], 0xFFFFFFFF
        mov dword [VMCB + 0x420], 0x0C930010
        mov dword [VMCB + 0x424], 0xFFFFFFFF
        mov dword [VMCB + 0x4D0], 0x1000
        mov dword [VMCB + 0x558], 0x11
        mov dword [VMCB + 0x570], 2
        mov dword [VMCB + 0x578], guest
        mov eax, VMCB
        vmrun
        mov al, 0
        out 0xF4, al
guest:  mov ecx, 100
        loop $
        hlt
"""


def test_natively_a_vmcb_is_known_while_its_guest_runs_alone():
    recording = vmlab.record(vmlab.assemble(HOST), cpu="bulldozer")
    (left,) = exits(recording)
    assert left.reason == "HLT"
    recording.seek(left.step - 1)
    block = vmlab.vmcs(recording)
    assert (block.kind, block.exit, "the guest runs" in block.state) == ("VMCB", "", True)
    assert (block["asid"].value, block["nested_control"].value) == (1, 0)
    assert block.try_entry().accepted
    (rule,) = block.try_entry(nested_control=1).rules
    assert "the host is in long mode" in rule.text  # ours is not
    recording.seek(left.step)
    with pytest.raises(OptionError, match="runs no guest now"):
        vmlab.vmcs(recording)
