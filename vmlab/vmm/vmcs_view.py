"""The VMCS or VMCB of a guest, from a running system or from an instant of a recording: what `vmlab.vmcs` gives.

Under a hypervisor with hardware assistance it is the one that the hypervisor keeps for a guest; natively the current one of the
processor, on which a guest that is a hypervisor itself works.

What changed: while the host runs, since the instant before the guest left, by the processor and the hypervisor; while the
guest runs, since the instant after it had left last, by the hypervisor. Both instants are in a recording; a run has one alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import OptionError
from vmlab.isa.x86.registers import CR0_PG, CR4_PAE
from vmlab.machine.recording import Recording
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.attempt import secondary_of
from vmlab.machine.vmx.checks import refusal
from vmlab.machine.vmx.fields import FIELDS
from vmlab.machine.vmx.names import INSTRUCTION_ERRORS
from vmlab.machine.vmx.reasons import ENTRY_FAILURE, BasicReason
from vmlab.machine.vmx.vmcs import read_region
from vmlab.vmm.control_block import BlockField, ControlBlock, EntryVerdict
from vmlab.vmm.system import System, system_of
from vmlab.vmm.thin_vm import ThinVm
from vmlab.vmm.vmcb_machine import VmcbMachine
from vmlab.vmm.vmcb_view import FoundVmcb
from vmlab.vmm.vmcs_words import describe_field, describe_qualification, describe_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.processor import Processor
    from vmlab.vmm.run import Run

__all__ = ["vmcs"]

SDM = "Intel SDM vol. 3"
NAMED = {field.name: encoding for encoding, field in FIELDS.items()}
LEFT_OUT = frozenset({"EXECUTIVE_VMCS"})  # of SMM, which is not modelled


def vmcs(of: System | Run | Recording | ThinVm, *, guest: int = 0, own: bool = False) -> ControlBlock:
    """Return the VMCS (or VMCB) of a guest as it is now: its fields by group, decoded, with what the last exit changed.

    Parameters
    ----------
    of : System, Run, Recording or ThinVm
        Where it is: a running system, a finished run, or a recording at its cursor, which tells what has changed, too.
    guest : int
        Which guest's.
    own : bool
        Under a hypervisor: that which the guest, a hypervisor itself, keeps for a guest of its own.

    Returns
    -------
    ControlBlock
        A copy, on which entries can be tried: `try_entry`.

    Raises
    ------
    OptionError
        No such guest; there is no VMCS, now or ever.

    Examples
    --------
    >>> import vmlab
    >>> found = vmlab.vmcs(vmlab.run(vmlab.guests.load("hello"), "vt-x"))
    >>> found["guest_cs_access"].said
    'type 11: code, readable, accessed; DPL 0; P D G'
    >>> print(found.try_entry(guest_rflags=0))
    with GUEST_RFLAGS = 0x0:
    refused: VM-entry failure due to invalid guest state (33), exit qualification 0
    broken, of what the Intel SDM vol. 3 demands:
      26.3.1.4: the reserved bit 1 of RFLAGS is 1
    """
    if isinstance(of, ThinVm):
        return _current(of.cpu, "the guest of a ThinVm", "the host").block()
    system = system_of(of, guest, "vmcs takes a Run, a Recording, a System or a ThinVm")
    found = _find(system, guest, own=own)
    block = found.block()
    if not isinstance(of, Recording) or own:
        return block
    return _compare(of, guest, block, runs=found.runs)


# -- where it is -------------------------------------------------------------------------------------------------------------


class _Vmcs(NamedTuple):
    """A VMCS that was found."""

    title: str
    cpu: Processor
    fields: dict[int, int]
    launched: bool
    current: bool
    whose: str

    @property
    def runs(self) -> bool:
        """True while the guest runs on it."""
        return self.current and self.cpu.non_root

    def block(self) -> ControlBlock:
        """Return it to look at."""
        fields, cpu = self.fields, self.cpu
        host_is_long = cpu.long_mode
        if cpu.non_root:  # a guest runs, this or another: the host's mode is what the exit goes back to
            host_is_long = bool(cpu.vmx.fields[f.EXIT_CONTROLS] & c.HOST_ADDRESS_SPACE_SIZE)
        shown = {
            each.name: BlockField(
                each.name, each.group, encoding, each.width, fields[encoding], describe_field(encoding, fields), None, each.read_only
            )
            for encoding, each in FIELDS.items()
            if each.name not in LEFT_OUT
        }  # fmt: skip
        said = ""
        if fields[f.EXIT_REASON] or fields[f.EXIT_INTERRUPTION]:  # reason 0, an exception, has the latter
            told = describe_qualification(fields)
            said = describe_reason(fields[f.EXIT_REASON]) + (f": {told}" if told else "")

        def words(name: str, value: int) -> str:
            return describe_field(NAMED[name], fields | {NAMED[name]: value})

        judge = _judge(cpu.model, fields, long_mode=host_is_long)
        return ControlBlock("VMCS", self.title, self._state(), said, "", shown, judge, words)

    def _state(self) -> str:
        launched = "launched" if self.launched else "clear: not launched yet"
        if self.runs:
            return (
                f"{launched}; the guest runs: guest state is that of its last entry, the registers are in the processor"
            )
        where = "current" if self.current else "not current: it lies in memory"
        return f"{launched}; {where}; {self.whose} runs"


def _find(system: System, guest: int, *, own: bool) -> _Vmcs | FoundVmcb:
    """Return the VMCS or VMCB of a guest; OptionError where there is none."""
    virtual: Any = system
    name = f"{system.guests[guest].name} under {system.technique}"
    if own:
        if not hasattr(system, "vmm"):
            raise OptionError("natively there is no VMCS but the guest's own: leave own= out")
        return _current(system.guests[guest].vcpu, f"the guest of {name}", "the hypervisor in the guest")
    if not system.assisted:
        if hasattr(system, "vmm"):
            raise OptionError(
                f"{system.technique} uses no hardware assistance: run the guest under 'vt-x' or 'amd-v'; own=True shows a VMCS that it keeps itself"
            )
        cpus = system.machine.cpus
        used = next((cpu for cpu in cpus if cpu.vmx.current is not None), cpus[0])
        return _current(used, f"the guest of {name}", "the hypervisor")
    machine = virtual.machines[virtual.slots(guest)[system.guests[guest].platform.apics.current]]
    cpu = system.machine.cpu
    if isinstance(machine, VmcbMachine):
        return FoundVmcb(name, cpu, machine.vmcb.address, bool(system.guests[guest].exits))
    if cpu.vmx.current == machine.region:
        return _Vmcs(name, cpu, dict(cpu.vmx.fields), cpu.vmx.launched, True, "the host")
    launched, fields = read_region(cpu.memory, machine.region)
    return _Vmcs(name, cpu, fields, launched, False, "the host or another guest")


def _current(cpu: Processor, title: str, whose: str) -> _Vmcs | FoundVmcb:
    """Return a processor's current VMCS, or the VMCB on which its guest runs."""
    if cpu.svm.vmcb is not None:
        return FoundVmcb(title, cpu, cpu.svm.vmcb, has_left=False)
    if cpu.vmx.current is None:
        able = f"({cpu.model.name}) has no VT-x"
        if cpu.has("vmx"):
            able = "is not in VMX operation with a current VMCS"
        elif cpu.has("svm"):
            able = "runs no guest now, and a VMCB is known while its guest runs alone"
        raise OptionError(
            f"there is no VMCS: the processor {able}; run a guest under 'vt-x' or 'amd-v', or one that is a hypervisor, on a CPU with VT-x"
        )
    return _Vmcs(title, cpu, dict(cpu.vmx.fields), cpu.vmx.launched, True, whose)


# -- what has changed --------------------------------------------------------------------------------------------------------


def _compare(recording: Recording, guest: int, block: ControlBlock, *, runs: bool) -> ControlBlock:
    """Tell what has changed since the other side of the last exit."""
    here = recording.position
    last = recording.events.before(here + 1, "vm-exit", lambda event: event.guest == guest)
    if last is None:
        return block
    try:
        recording.seek(last.step if runs else last.step - 1)
        before = _find(recording.system, guest, own=False).block().fields
    finally:
        recording.seek(here)
    since = (
        f"between the last exit (step {last.step}) and this entry, by the hypervisor"
        if runs
        else f"by the last exit (step {last.step})" + (", and by the hypervisor since" if here > last.step else "")
    )
    fields = {name: replace(each, before=before[name].value) for name, each in block.fields.items()}
    return replace(block, fields=fields, since=since)


# -- what an entry would come to ---------------------------------------------------------------------------------------------


def _judge(
    model: CpuModel, fields: Mapping[int, int], *, long_mode: bool
) -> Callable[[Mapping[str, int]], EntryVerdict]:
    """Return the judge over entries with changed fields."""

    def judge(changes: Mapping[str, int]) -> EntryVerdict:
        values = dict(fields) | {NAMED[name]: value for name, value in changes.items()}
        found = refusal(model, values, long_mode=long_mode)
        if found is None:
            untried = "loading the MSRs of the VM-entry MSR-load area" if values[f.ENTRY_MSR_LOAD_COUNT] else ""
            if _loads_pdptes(values):
                untried = " and ".join([*([untried] if untried else []), "loading the PDPTEs from memory"])
            return EntryVerdict(changes, "", 0, 0, 0, (), SDM, untried)
        if found.error:
            outcome = f"VM-instruction error {found.error}: {INSTRUCTION_ERRORS[found.error]}"
            return EntryVerdict(changes, outcome, found.error, 0, 0, found.rules, SDM)
        reason = BasicReason.ENTRY_FAILURE_GUEST_STATE
        outcome = f"{describe_reason(reason)}, exit qualification {found.qualification}"
        return EntryVerdict(changes, outcome, 0, ENTRY_FAILURE | reason, found.qualification, found.rules, SDM)

    return judge


def _loads_pdptes(fields: Mapping[int, int]) -> bool:
    """Say whether an entry reads the four PDPTEs: with PAE paging and without EPT."""
    pae = (
        fields[f.GUEST_CR0] & CR0_PG
        and fields[f.GUEST_CR4] & CR4_PAE
        and not fields[f.ENTRY_CONTROLS] & c.IA32E_MODE_GUEST
    )
    return bool(pae and not secondary_of(fields) & c.ENABLE_EPT)
