"""The rules of a VM entry: each broken by itself, named, and refused as the manual says (SDM vol. 3, 26.2, 26.3)."""

from __future__ import annotations

import pytest

from tests.machine.vmx.arena import ONES, PRIMARY, SECONDARY, Arena
from vmlab.isa.x86.registers import (
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    CR4_PCIDE,
    CR4_VMXE,
    EFER_LMA,
    EFER_LME,
    IF,
    VM,
)  # fmt: skip
from vmlab.machine.entry_rules import broken
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.attempt import Attempt
from vmlab.machine.vmx.checks import bad_controls_or_host, bad_guest_state, refusal
from vmlab.machine.vmx.control_rules import CONTROL_RULES
from vmlab.machine.vmx.fields import FIELDS
from vmlab.machine.vmx.guest_rules import FLAGS_CHECKED, GUEST_FIELDS, GUEST_RULES, LINK_RULE
from vmlab.machine.vmx.host_rules import HOST_RULES
from vmlab.machine.vmx.reasons import ENTRY_FAILURE, BasicReason
from vmlab.machine.vmx.segment_rules import SEGMENT_FIELDS, SEGMENT_RULES

EVENT, WIDE, CROOKED = 1 << 31, 1 << 45, 0x123
PIN, EXIT, ENTRY = c.PIN_DEFAULT, c.EXIT_DEFAULT | c.HOST_ADDRESS_SPACE_SIZE, c.ENTRY_DEFAULT
PROTECTED = CR0_PE | CR0_NE | CR0_PG
APIC, TPR = c.VIRTUALIZE_APIC_ACCESSES, c.USE_TPR_SHADOW

GUESTS = {
    "flat": {},
    "shadow": {"secondary_controls": 0, "guest_cr0": PROTECTED},
    "long": {
        "entry_controls": ENTRY | c.IA32E_MODE_GUEST | c.LOAD_GUEST_EFER, "guest_cr0": PROTECTED,
        "guest_cr4": CR4_VMXE | CR4_PAE, "guest_efer": EFER_LMA | EFER_LME, "guest_cs_access": 0xA09B,
    },
    "virtual": {
        "guest_rflags": VM | 2,
        **{f"guest_{name}": 0x100 for name in ("es", "cs", "ss", "ds", "fs", "gs")},
        **{f"guest_{name}_base": 0x1000 for name in ("es", "cs", "ss", "ds", "fs", "gs")},
        **{f"guest_{name}_limit": 0xFFFF for name in ("es", "cs", "ss", "ds", "fs", "gs")},
        **{f"guest_{name}_access": 0xF3 for name in ("es", "cs", "ss", "ds", "fs", "gs")},
    },
    "with LDT": {"guest_ldtr": 0x20, "guest_ldtr_access": 0x82, "guest_ldtr_limit": 0xFF},
}  # fmt: skip
"""Guests that can be entered, as changes of the arena's: without paging on EPT, with paging and no EPT, …"""

# How the text of a rule begins; what breaks it, of which guest, on which processor
CONTROLS = [
    ("the reserved bits of the pin-based", {"pin_based_controls": 0}),
    ("the reserved bits of the primary", {"primary_controls": PRIMARY | 1}),
    ("the reserved bits of the secondary", {"secondary_controls": SECONDARY | 1 << 30}),
    ("the CR3-target count", {"cr3_target_count": 5}),
    ("with use I/O bitmaps", {"primary_controls": PRIMARY | c.USE_IO_BITMAPS, "io_bitmap_b": CROOKED}),
    ("with use MSR bitmaps", {"primary_controls": PRIMARY | c.USE_MSR_BITMAPS, "msr_bitmap": WIDE}),
    ("with use TPR shadow, the virtual-APIC", {"primary_controls": PRIMARY | TPR, "virtual_apic_address": CROOKED}),
    ("with use TPR shadow, bits 31:4", {"primary_controls": PRIMARY | TPR, "tpr_threshold": 16}),
    ("without use TPR shadow", {"secondary_controls": SECONDARY | c.APIC_REGISTERS}),
    ("without NMI exiting", {"pin_based_controls": PIN | c.VIRTUAL_NMIS}),
    ("without virtual NMIs", {"primary_controls": PRIMARY | c.NMI_WINDOW_EXITING}),
    ("with virtualize APIC", {"secondary_controls": SECONDARY | APIC, "apic_access_address": CROOKED}),
    ("with enable VPID", {"secondary_controls": SECONDARY | c.ENABLE_VPID}),
    ("with EPT, of the EPT pointer: its memory type", {"ept_pointer": 0x200000 | 3 << 3 | 4}),
    ("with EPT, of the EPT pointer: bits 5:3", {"ept_pointer": 0x200000 | 2 << 3 | 6}),
    ("with EPT, of the EPT pointer: bit 6", {"ept_pointer": 0x200000 | 1 << 6 | 3 << 3 | 6}),
    ("with EPT, of the EPT pointer: the reserved", {"ept_pointer": 0x200000 | 1 << 7 | 3 << 3 | 6}),
    ("with EPT, of the EPT pointer: no bit", {"ept_pointer": WIDE | 3 << 3 | 6}),
    ("with enable PML, enable EPT", {"secondary_controls": c.ENABLE_PML}),
    ("with enable PML, the PML address", {"secondary_controls": SECONDARY | c.ENABLE_PML, "pml_address": CROOKED}),
    ("with unrestricted guest", {"secondary_controls": c.UNRESTRICTED_GUEST}),
    ("the reserved bits of the VM-exit", {"exit_controls": c.HOST_ADDRESS_SPACE_SIZE}),
    ("without activate VMX-preemption", {"exit_controls": EXIT | c.SAVE_PREEMPTION_TIMER}),
    ("where the VM-exit MSR-store", {"exit_msr_store_count": 1, "exit_msr_store_address": 8}),
    ("where the VM-exit MSR-load", {"exit_msr_load_count": 1, "exit_msr_load_address": WIDE}),
    ("the reserved bits of the VM-entry", {"entry_controls": ENTRY | 1 << 30}),
    ("an event's type", {"entry_interruption": EVENT | 1 << 8}),
    ("an event of type 7", {"entry_interruption": EVENT | 7 << 8 | 1}),
    ("an NMI has", {"entry_interruption": EVENT | 2 << 8 | 3}),
    ("a hardware exception has a vector", {"entry_interruption": EVENT | 3 << 8 | 32}),
    ("deliver error code", {"entry_interruption": EVENT | 3 << 8 | 13}),
    ("bits 30:12", {"entry_interruption": EVENT | 1 << 20 | 3 << 8 | 6}),
    ("of an error code", {"entry_interruption": EVENT | 1 << 11 | 3 << 8 | 13, "entry_error_code": 1 << 16}),
    ("a software interrupt", {"entry_interruption": EVENT | 4 << 8 | 0x80}),
    ("where the VM-entry MSR-load", {"entry_msr_load_count": 1, "entry_msr_load_address": 8}),
]
HOST = [
    ("CR0 has", {"host_cr0": CR0_PE | CR0_NE}),
    ("bits 63:32 of CR0", {"host_cr0": PROTECTED | 1 << 32}),
    ("CR4 has", {"host_cr4": CR4_PAE}),
    ("no bit of CR4", {"host_cr4": CR4_PAE | CR4_VMXE | 1 << 30}),
    ("CR3 is not", {"host_cr3": WIDE}),
    ("IA32_SYSENTER_ESP", {"host_sysenter_eip": 1 << 50}),
    ("with load IA32_EFER", {"exit_controls": EXIT | c.LOAD_HOST_EFER, "host_efer": EFER_LME}),
    ("in each selector", {"host_fs": 4}),
    ("the selectors of CS and TR", {"host_tr": 0}),
    ("without host address-space size, the selector", {"exit_controls": c.EXIT_DEFAULT, "host_ss": 0}),
    ("the bases of FS", {"host_gdtr_base": 1 << 50}),
    ("host address-space size is 1", {"exit_controls": c.EXIT_DEFAULT}),
    ("without host address-space size, IA-32e", {"exit_controls": c.EXIT_DEFAULT} | GUESTS["long"]),
    ("with host address-space size, PAE", {"host_cr4": CR4_VMXE}),
    ("without host address-space size, PCIDE", {"exit_controls": c.EXIT_DEFAULT, "host_cr4": CR4_VMXE | CR4_PCIDE}),
    ("without host address-space size, bits", {"exit_controls": c.EXIT_DEFAULT, "host_rip": 1 << 32}),
    ("RIP: ", {"host_rip": 1 << 50}),
]
EFER = {"entry_controls": ENTRY | c.LOAD_GUEST_EFER}
GUEST = [
    ("CR0 has", {"guest_cr0": CR0_PE}, "flat"),
    ("bits 63:32 of CR0", {"guest_cr0": CR0_NE | CR0_PE | 1 << 32}, "flat"),
    ("where PG", {"guest_cr0": CR0_NE | CR0_PG}, "flat"),
    ("CR4 has", {"guest_cr4": 0}, "flat"),
    ("no bit of CR4", {"guest_cr4": CR4_VMXE | 1 << 30}, "flat"),
    ("in an IA-32e mode guest, PG", {"guest_cr4": CR4_VMXE}, "long"),
    ("outside of IA-32e mode, PCIDE", {"guest_cr4": CR4_VMXE | CR4_PCIDE}, "flat"),
    ("CR3 is not", {"guest_cr3": WIDE}, "flat"),
    ("bits 63:32 of DR7", {"guest_dr7": 1 << 32}, "flat"),
    ("IA32_SYSENTER_ESP", {"guest_sysenter_esp": 1 << 50}, "flat"),
    ("with load IA32_EFER", {"guest_efer": EFER_LMA}, "flat"),
    ("the bases of GDTR", {"guest_idtr_base": 1 << 50}, "flat"),
    ("bits 31:16 of the limits", {"guest_gdtr_limit": 0x10000}, "flat"),
    ("outside of 64-bit code", {"guest_rip": 1 << 32}, "flat"),
    ("in 64-bit code", {"guest_rip": 1 << 50}, "long"),
    ("the reserved bits 63:22", {"guest_rflags": 2 | 1 << 15}, "flat"),
    ("the reserved bit 1", {"guest_rflags": 0}, "flat"),
    ("VM (bit 17)", {"guest_cr0": CR0_NE}, "virtual"),
    ("where an external interrupt is injected, IF", {"entry_interruption": EVENT | 0x20}, "flat"),
    ("the activity state is one", {"guest_activity": 2}, "flat"),
    ("the activity state is active", {"guest_activity": 1, "guest_interruptibility": 2}, "flat"),
    ("the reserved bits of the interruptibility", {"guest_interruptibility": 4}, "flat"),
    ("not both", {"guest_interruptibility": 3, "guest_rflags": IF | 2}, "flat"),
    ("where IF", {"guest_interruptibility": 1}, "flat"),
    ("where an external interrupt is injected, there", {"entry_interruption": EVENT | 0x20, "guest_interruptibility": 1, "guest_rflags": IF | 2}, "flat"),
    ("where an NMI", {"entry_interruption": EVENT | 2 << 8 | 2, "guest_interruptibility": 2}, "flat"),
    ("the reserved bits of the pending", {"guest_pending_debug": 1 << 5}, "flat"),
]  # fmt: skip

ORDINARY = ("ES", "CS", "SS", "DS", "FS", "GS")
ALL = {"P (bit 7)": ("access", -0x80), "the reserved bits 11:8": ("access", 1 << 8), "G (bit 15)": ("limit", -1)}
VIRTUAL = {"the base is": ("base", 1), "the limit is": ("limit", -1), "the access": ("access", -0x80)}
OF = {
    **{name: {"S (bit 4)": ("access", -0x10)} for name in ORDINARY},
    **{name: {"S (bit 4)": ("access", 0x10), "TI (bit 2)": ("selector", 4)} for name in ("TR", "LDTR")},
}
for name in ("CS", "SS", "DS", "ES"):
    OF[name]["bits 63:32 of the base"] = "base", 1 << 32
for name in ("DS", "ES", "FS", "GS"):
    OF[name] |= {"bit 0 of the type": ("access", -1), "where bit 3": ("access", 6)}  # type 2; type 9
for name in ("CS", "TR"):
    OF[name]["the register is usable"] = "access", 1 << 16
OF["CS"] |= {"the type is": ("access", -8 + 4)}  # type 7
OF["SS"] |= {"the type is": ("access", -2)}
OF["TR"] |= {"the type is": ("access", -2)}
OF["LDTR"] |= {"the type is": ("access", 1), "G (bit 15)": ("limit", 1 << 20)}
SEGMENTS = [
    (f"{name}: {text}", {f"guest_{name.lower()}": change}, "with LDT")
    for name in (*ORDINARY, "LDTR", "TR")
    for text, change in (ALL | OF[name]).items()
] + [
    (f"{name} in virtual-8086 mode: {text}", {f"guest_{name.lower()}": change}, "virtual")
    for name in ORDINARY
    for text, change in VIRTUAL.items()
]  # fmt: skip
SEGMENTS += [
    ("CS: with type 3", {"guest_cs_access": 0xC0F3}, "flat"),
    ("CS: with type 9", {"guest_cs_access": 0xC0FB}, "flat"),
    ("CS: with type 13", {"guest_cs_access": 0xC0FF}, "flat"),
    ("CS: in an IA-32e mode guest", {"guest_cs_access": 0xE09B}, "long"),
    ("SS: where the guest is not unrestricted", {"guest_ss": 0x13}, "shadow"),
    ("SS: the DPL is 0", {"guest_ss_access": 0xC0F3, "guest_cs_access": 0xC093}, "flat"),
]
"""A tuple as a change is a part of the segment register, and what is added to it."""

CASES = [(7, *case, "flat") for case in CONTROLS] + [(8, *case, "flat") for case in HOST] + [(33, *case) for case in GUEST + SEGMENTS]  # fmt: skip
RULES = {7: CONTROL_RULES, 8: HOST_RULES, 33: GUEST_RULES + SEGMENT_RULES}


def fields_of(arena, guest, changes=None):
    """Return the fields of a guest, with changes."""
    values = dict(arena.vmx.fields)
    for name, value in [*GUESTS[guest].items(), *(changes or {}).items()]:
        if isinstance(value, tuple):
            part, more = value
            encoding = getattr(f, name.upper() + ("" if part == "selector" else f"_{part.upper()}"))
            values[encoding] = (values[encoding] + more) & (1 << FIELDS[encoding].width) - 1
        else:
            values[getattr(f, name.upper())] = value
    return values


@pytest.mark.parametrize("guest", GUESTS)
def test_guests_that_keep_all_rules_are_entered(guest):
    arena = Arena()
    fields = fields_of(arena, guest)
    assert refusal(arena.cpu.model, fields, long_mode=True) is None
    arena.write({field: value for field, value in fields.items() if not FIELDS[field].read_only})
    assert arena.enter() == 0
    assert arena.cpu.non_root


@pytest.mark.parametrize(("outcome", "text", "changes", "guest"), CASES, ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_each_rule_is_broken_by_itself(outcome, text, changes, guest):
    arena = Arena()
    fields = fields_of(arena, guest, changes)
    (rule,) = [rule for rule in RULES[outcome] if rule.text.startswith(text)]
    found = refusal(arena.cpu.model, fields, long_mode=True)
    assert rule in found.rules
    assert found.error == (0 if outcome == 33 else outcome)
    assert len(found.rules) <= 3
    arena.write({field: value for field, value in fields.items() if not FIELDS[field].read_only})
    error = arena.enter()
    assert not arena.cpu.non_root
    if outcome == 33:
        assert (error, arena.read(f.EXIT_REASON)) == (0, ENTRY_FAILURE | BasicReason.ENTRY_FAILURE_GUEST_STATE)
        assert arena.read(f.EXIT_QUALIFICATION) == found.qualification == 0
    else:
        assert error == arena.read(f.INSTRUCTION_ERROR) == outcome


@pytest.mark.parametrize("outcome", RULES)
def test_no_rule_is_left_out(outcome):
    texts = [text for number, text, *_ in CASES if number == outcome]
    assert len(texts) == len(set(texts))
    for rule in RULES[outcome]:
        assert sum(rule.text.startswith(text) for text in texts) == 1, rule.text


def test_the_link_pointer_has_a_qualification_of_its_own():
    arena = Arena()
    fields = fields_of(arena, "flat", {"vmcs_link_pointer": 0, "guest_rflags": 0})
    assert refusal(arena.cpu.model, fields, long_mode=True) == (0, 4, (LINK_RULE,))


class Watched(dict):
    """Fields that note which of them are read."""

    read: set

    def __getitem__(self, field):
        self.read.add(field)
        return super().__getitem__(field)


def test_what_is_remembered_as_good_is_all_that_rules_read():
    """A rule that read a field which is no part of the key would be forgotten with the next value of the field."""
    arena = Arena()
    known = {*GUEST_FIELDS, *SEGMENT_FIELDS, f.GUEST_RFLAGS, f.GUEST_RIP}
    for outcome, _, changes, guest in CASES:
        values = fields_of(arena, guest, changes)
        if outcome in (7, 8):
            assert bad_controls_or_host(arena.cpu, fields_of(arena, guest)) == 0  # remembered
            assert bad_controls_or_host(arena.cpu, values) == outcome
            continue
        assert bad_guest_state(arena.cpu.model, fields_of(arena, guest)) is None
        assert bad_guest_state(arena.cpu.model, values) == 0
        watched = Watched(values)
        watched.read = set()  # what the attempt itself reads of the controls is in the keys, too
        attempt = Attempt(arena.cpu.model, watched, long_mode=False)
        watched.read = set()
        broken(GUEST_RULES + SEGMENT_RULES, attempt)
        assert watched.read <= known
    for bit in range(64):
        values = fields_of(arena, "flat", {"guest_rflags": 2 ^ 1 << bit})
        assert (bad_guest_state(arena.cpu.model, values) is None) == (refusal(arena.cpu.model, values, long_mode=True) is None)  # fmt: skip
        assert FLAGS_CHECKED >> bit & 1 or bad_guest_state(arena.cpu.model, values) is None
    assert bad_guest_state(arena.cpu.model, fields_of(arena, "long", {"guest_rip": ONES})) is None
