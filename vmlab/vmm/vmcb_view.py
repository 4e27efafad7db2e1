"""The VMCB of a guest to look at: its fields in words, and what a VMRUN with others would come to.

Read more: AMD APM vol. 2, appendix B (VMCB), appendix C (exit codes), 15.9 to 15.13 (intercepts and EXITINFO).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.isa.x86.faults import PF, vector_name
from vmlab.isa.x86.registers import EFER_LMA
from vmlab.machine.entry_rules import broken
from vmlab.machine.guest_exit import TYPE_SHIFT, VALID, WITH_CODE
from vmlab.machine.svm.checks import INJECTED, VMRUN_RULES, VmrunAttempt
from vmlab.machine.svm.codes import EXCEPTION, INVALID, ExitCode, code_name
from vmlab.machine.svm.intercepts import IO_IN, IO_REPEATED, IO_STRING
from vmlab.machine.svm.operation import V_IGN_TPR, V_INTR_MASKING, V_IRQ
from vmlab.machine.svm.run import FLUSH_ALL, FLUSH_GUEST, FLUSH_GUEST_LOCAL, can_nest
from vmlab.machine.svm.vmcb import FIELDS, Control, Vmcb
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.names import BITS
from vmlab.machine.walk_faults import NPF_TABLE
from vmlab.vmm.control_block import BlockField, ControlBlock, EntryVerdict
from vmlab.vmm.vmcs_words import describe_event, describe_rights, set_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmlab.machine.processor import Processor

    Values = Mapping[str, int]

__all__ = ["FoundVmcb", "describe_vmcb_exit", "describe_vmcb_field"]

APM = "AMD APM vol. 2"
GROUPS = {
    "control": "control",
    "exit": "exit information",
    "guest": "state save area, of VMRUN",
    "more": "state save area, of VMLOAD and VMSAVE",
}
CONTROL_NAMES = (
    "CR_INTERCEPTS", "DR_INTERCEPTS", "EXCEPTION_INTERCEPTS", "INTERCEPTS", "SVM_INTERCEPTS", "IOPM_BASE", "MSRPM_BASE",
    "TSC_OFFSET", "ASID", "TLB_CONTROL", "VIRTUAL_INTERRUPT", "INTERRUPT_SHADOW", "NESTED_CONTROL", "EVENTINJ", "NESTED_CR3",
)  # fmt: skip
STATE_NAMES = ("CR0", "CR3", "CR4", "EFER", "CS_ATTRIBUTES", "DR6", "DR7")
FIRST_CODE = {"CR_INTERCEPTS": 0, "DR_INTERCEPTS": 0x20, "EXCEPTION_INTERCEPTS": EXCEPTION, "INTERCEPTS": 0x60, "SVM_INTERCEPTS": 0x80}  # fmt: skip
FLUSHES = {0: "", FLUSH_ALL: "flush all", FLUSH_GUEST: "flush this ASID", FLUSH_GUEST_LOCAL: "flush this ASID but for global pages"}  # fmt: skip
VIRTUAL = {"V_IRQ": V_IRQ, "V_IGN_TPR": V_IGN_TPR, "V_INTR_MASKING": V_INTR_MASKING}
PF_BITS = {"P": 1, "W": 2, "U": 4, "RSV": 8, "ID": 16}  # of a page fault's error code


# -- words -------------------------------------------------------------------------------------------------------------------


def _code(code: int) -> str:
    """Name an exit code, whatever it is."""
    known = code < ExitCode.INTR or code == INVALID or code in ExitCode._value2member_map_
    return f"{code_name(code)} ({code:#x})" if known else f"unknown ({code:#x})"


def _names(name: str, value: int) -> str:
    """Name the intercepts of a word."""
    first = FIRST_CODE[name]
    codes = [first + n for n in range(32) if value >> n & 1]
    if first == EXCEPTION:
        return " ".join(vector_name(code - EXCEPTION) for code in codes)
    return " ".join(_code(code).split(" (", maxsplit=1)[0] for code in codes)


def _event(value: int) -> str:
    kind = value >> TYPE_SHIFT & 7
    if value & VALID and kind not in INJECTED:
        return f"reserved type {kind}"
    said = describe_event(value & 0xFFFF_FFFF)
    return said + (f" {value >> 32:#x}" if value & VALID and value & WITH_CODE else "")


def _rights(attributes: int) -> str:
    """Say what attributes say: they are access rights, packed."""
    return describe_rights(attributes & 0xFF | (attributes & 0xF00) << 4) if attributes else ""


WORDS: dict[str, Callable[[int], str]] = {
    "EXITCODE": _code,
    **dict.fromkeys(("EVENTINJ", "EXITINTINFO"), _event),
    "TLB_CONTROL": lambda value: FLUSHES.get(value, "reserved"),
    "NESTED_CONTROL": lambda value: "nested paging" if value & 1 else "",
    "INTERRUPT_SHADOW": lambda value: "interrupt shadow" if value & 1 else "",
    "VIRTUAL_INTERRUPT": lambda value: set_bits(value, VIRTUAL),
    "CR0": lambda value: set_bits(value, BITS[f.GUEST_CR0]),
    "CR4": lambda value: set_bits(value, BITS[f.GUEST_CR4]),
    "EFER": lambda value: set_bits(value, BITS[f.GUEST_EFER]),
    "RFLAGS": lambda value: set_bits(value, BITS[f.GUEST_RFLAGS]),
}


def describe_vmcb_field(name: str, value: int) -> str:
    """Say what a field of a VMCB says; empty for a plain number.

    >>> describe_vmcb_field("CS_ATTRIBUTES", 0xC9B), describe_vmcb_field("SVM_INTERCEPTS", 3)
    ('type 11: code, readable, accessed; DPL 0; P D G', 'VMRUN VMMCALL')
    """
    if name in FIRST_CODE:
        return _names(name, value)
    if name.endswith("_ATTRIBUTES"):
        return _rights(value)
    return WORDS[name](value) if name in WORDS else ""


def _port(values: Values) -> str:
    info = values["EXITINFO1"]
    name = ("INS" if info & IO_IN else "OUTS") if info & IO_STRING else ("IN" if info & IO_IN else "OUT")
    repeated = "REP " if info & IO_REPEATED else ""
    return f"{repeated}{name} of {8 * (info >> 4 & 7)} bits, port {info >> 16 & 0xFFFF:#x}"


def _nested_fault(values: Values) -> str:
    info = values["EXITINFO1"]
    of = "a table of the guest" if info & NPF_TABLE else "the access itself"
    return f"guest-physical address {values['EXITINFO2']:#x}, {of}; error code {info & 0xFFFF_FFFF:#x}: {set_bits(info, PF_BITS) or 'a read, not present'}"


DETAILS: dict[int, Callable[[Values], str]] = {
    ExitCode.IOIO: _port,
    ExitCode.NPF: _nested_fault,
    ExitCode.MSR: lambda values: "WRMSR" if values["EXITINFO1"] & 1 else "RDMSR",
    EXCEPTION + PF: lambda values: f"linear address {values['EXITINFO2']:#x}, error code {values['EXITINFO1']:#x}",
}


def describe_vmcb_exit(values: Values) -> str:
    """Say why a guest has left, with what belongs to it."""
    code = values["EXITCODE"]
    return _code(code) + (f": {DETAILS[code](values)}" if code in DETAILS else "")


# -- the block ---------------------------------------------------------------------------------------------------------------


class FoundVmcb(NamedTuple):
    """A VMCB that was found in memory; `has_left` where its guest is known to have left it."""

    title: str
    cpu: Processor
    address: int
    has_left: bool

    @property
    def runs(self) -> bool:
        """True while the guest runs on it."""
        return self.cpu.non_root and self.cpu.svm.vmcb == self.address

    def block(self) -> ControlBlock:
        """Return it to look at."""
        vmcb = Vmcb(self.cpu.memory, self.address)
        values = {name: vmcb.read(name) for name in FIELDS}
        fields = {
            name: BlockField(name, GROUPS[each.group], each.offset, 8 * each.size, values[name], describe_vmcb_field(name, values[name]))
            for group in GROUPS
            for name, each in FIELDS.items()
            if each.group == group
        }  # fmt: skip
        state = "the host runs, or another guest"
        if self.runs:
            state = "the guest runs: its state is that of its last entry, the registers are in the processor"
        said = describe_vmcb_exit(values) if self.has_left or values["EXITCODE"] else ""
        return ControlBlock(
            "VMCB",
            self.title,
            f"at {self.address:#x}; {state}",
            said,
            "",
            fields,
            self._judge(values),
            describe_vmcb_field,
        )

    def _judge(self, values: Values) -> Callable[[Values], EntryVerdict]:
        """Return the judge over VMRUNs with changed fields."""
        cpu = self.cpu
        host: Any = cpu.svm.host
        in_long_mode = bool(host[3] & EFER_LMA) if cpu.non_root and host else cpu.long_mode
        nests = can_nest(cpu, in_long_mode=in_long_mode)
        model = cpu.model

        def judge(changes: Values) -> EntryVerdict:
            new = {**values, **changes}
            control = Control(*(new[name] for name in CONTROL_NAMES))
            cr0, cr3, cr4, efer, rights, dr6, dr7 = (new[name] for name in STATE_NAMES)
            found = broken(VMRUN_RULES, VmrunAttempt(model, nests, control, cr0, cr3, cr4, efer, rights, dr6, dr7))
            if found:
                return EntryVerdict(
                    changes, "#VMEXIT at once, exit code VMEXIT_INVALID (-1)", 0, INVALID, 0, found, APM
                )
            return EntryVerdict(changes, "", 0, 0, 0, (), APM)

        return judge
