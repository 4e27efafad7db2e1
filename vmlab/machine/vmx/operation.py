"""VMX operation: what the instructions VMXON to VMWRITE do, and what a processor knows of its current VMCS.

A processor is outside of VMX operation, in root operation (the host's), or in non-root operation (a guest's). VM entries
and exits are in modules of their own.

Simplified: one VMCS is held in the processor, the current one; no SMM, no dual-monitor treatment, no shadow VMCS.

Read more: Intel SDM vol. 3, chapters 23 and 24, chapter "VMX Instruction Reference" with its error numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.faults import GP, Fault
from vmlab.isa.x86.registers import MSR_FEATURE_CONTROL
from vmlab.machine.state import COUNT, LONG, QUAD, WORD, Entries, check_state
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.context import Context, load_contexts, save_contexts
from vmlab.machine.vmx.control_rules import bad_ept_pointer
from vmlab.machine.vmx.entry import enter
from vmlab.machine.vmx.fields import FIELDS, HIGH
from vmlab.machine.vmx.vmcs import LAUNCH_STATE, read_region, write_region

if TYPE_CHECKING:
    from vmlab.isa.x86.descriptors import SegmentRegister
    from vmlab.machine.processor import Processor
    from vmlab.machine.vmx.guest_state import Stored

__all__ = ["Vmx"]

INVALID = -1  # VMfailInvalid, as `vmlab.isa.x86.semantics.vmx` has it

# IA32_FEATURE_CONTROL:  [ VMXON outside SMX 2 | lock 0 ]
LOCKED, OUTSIDE_SMX = 1, 4

# VM-instruction error numbers (SDM vol. 3, 30.4)
CLEAR_ADDRESS, CLEAR_REGION, LOAD_ADDRESS, LOAD_REGION, LOAD_REVISION = 2, 3, 9, 10, 11
NO_SUCH_FIELD, READ_ONLY_FIELD, INVALIDATE_OPERAND = 12, 13, 28
ONE_ADDRESS, _, ALL_VPIDS, ONE_BUT_GLOBAL = range(4)  # types of INVVPID
ONE_ROOT, ALL_ROOTS = 1, 2  # types of INVEPT
LAST_VPID = 0xFFFF


class Vmx:
    """The virtual-machine extensions of one processor.

    Parameters
    ----------
    cpu : Processor
        Whose they are.

    Attributes
    ----------
    on : bool
        True in VMX operation.
    region : int
        Physical address of the VMXON region.
    current : int or None
        Physical address of the current VMCS.
    launched : bool
        Its launch state.
    fields : dict of int to int
        Its fields by encoding; empty without one.
    pin, primary, secondary : int
        The execution controls of the guest that runs; 0 in root operation.
    apic_write : int or None
        Offset of the register of the virtual-APIC page that the last instruction has written, until the VM exit for it.
    root_blocks_nmi : bool
        Whether NMIs were blocked at the last VM entry.
    trap_pending : bool
        True where the monitor trap flag leads out of the guest before the next instruction.
    timer_end : int or None
        Slot of virtual time in which the VMX-preemption timer of the guest that runs expires.
    contexts : dict of int to Context
        By VPID, the translations of guests that do not run.
    aside : tuple or None
        Segment registers, LDTR and TR that were in use before the last VM entry or exit, and whether in 64-bit mode: what is
        loaded into them the next time is mostly there already.
    stored : Stored or None
        What those of them are that a guest had at the last VM exit.
    """

    __slots__ = (
        "apic_write", "aside", "contexts", "cpu", "current", "fields", "launched", "on", "pin", "primary", "region", "root_blocks_nmi", "secondary",
        "stored", "timer_end", "trap_pending",
    )  # fmt: skip

    def __init__(self, cpu: Processor) -> None:
        self.cpu = cpu
        self.on = self.launched = self.root_blocks_nmi = self.trap_pending = False
        self.region = 0
        self.current: int | None = None
        self.fields: dict[int, int] = {}
        self.pin = self.primary = self.secondary = 0
        self.apic_write: int | None = None
        self.timer_end: int | None = None
        self.contexts: dict[int, Context] = {}
        self.aside: tuple[list[SegmentRegister], SegmentRegister, SegmentRegister, bool] | None = None
        self.stored: Stored | None = None

    # -- VMX operation ---------------------------------------------------------------------------------------------------

    def _is_region(self, pointer: int) -> bool:
        return not pointer & 0xFFF and not pointer >> self.cpu.model.physical_bits

    def _revision(self, pointer: int) -> int:
        return self.cpu.bus.read(pointer, 4)

    def turn_on(self, region: int) -> int:
        """VMXON: #GP(0) where CR0, CR4 or IA32_FEATURE_CONTROL do not allow it."""
        cpu = self.cpu
        needed = c.fixed_cr0(unrestricted=False)
        control = cpu.msrs.get(MSR_FEATURE_CONTROL, 0)
        if cpu.cr0 & needed != needed or control & (LOCKED | OUTSIDE_SMX) != LOCKED | OUTSIDE_SMX:
            raise Fault(GP, 0)
        if not self._is_region(region) or self._revision(region) != c.REVISION:
            return INVALID
        self.on, self.region, self.current = True, region, None
        return 0

    def turn_off(self) -> int:
        """VMXOFF."""
        self._write_back()
        self.on, self.current, self.fields = False, None, {}
        return 0

    def fail(self, error: int) -> int:
        """Note an error in the current VMCS, if there is one; return it, or VMfailInvalid."""
        if self.current is None:
            return INVALID
        self.fields[f.INSTRUCTION_ERROR] = error
        return error

    # -- the current VMCS ------------------------------------------------------------------------------------------------

    def _write_back(self) -> None:
        if self.current is not None:
            write_region(self.cpu.memory, self.current, self.fields, launched=self.launched)

    def clear(self, pointer: int) -> int:
        """VMCLEAR."""
        if not self._is_region(pointer):
            return self.fail(CLEAR_ADDRESS)
        if pointer == self.region:
            return self.fail(CLEAR_REGION)
        if pointer == self.current:
            self.launched = False
            self._write_back()
            self.current, self.fields = None, {}
        else:
            self.cpu.bus.write(pointer + LAUNCH_STATE, 4, 0)
        return 0

    def load_pointer(self, pointer: int) -> int:
        """VMPTRLD."""
        if not self._is_region(pointer):
            return self.fail(LOAD_ADDRESS)
        if pointer == self.region:
            return self.fail(LOAD_REGION)
        if self._revision(pointer) != c.REVISION:
            return self.fail(LOAD_REVISION)
        if pointer != self.current:
            self._write_back()
            self.launched, self.fields = read_region(self.cpu.memory, pointer)
            self.current = pointer
        return 0

    def pointer(self) -> int:
        """VMPTRST."""
        return (1 << 64) - 1 if self.current is None else self.current

    def _field(self, encoding: int) -> int | None:
        """Return the encoding of the whole field; None where there is none, or no such half."""
        field = FIELDS.get(encoding & ~HIGH)
        if field is None or (encoding & HIGH and (field.width != 64 or field.natural)):
            return None
        return field.encoding

    def read_field(self, encoding: int) -> tuple[int, int]:
        """VMREAD: how it went, and the value."""
        if self.current is None:
            return INVALID, 0
        field = self._field(encoding)
        if field is None:
            return self.fail(NO_SUCH_FIELD), 0
        value = self.fields[field]
        return 0, value >> 32 if encoding & HIGH else value

    def write_field(self, encoding: int, value: int) -> int:
        """VMWRITE."""
        if self.current is None:
            return INVALID
        field = self._field(encoding)
        if field is None:
            return self.fail(NO_SUCH_FIELD)
        if FIELDS[field].read_only:
            return self.fail(READ_ONLY_FIELD)
        if encoding & HIGH:
            value = self.fields[field] & 0xFFFF_FFFF | value << 32
        self.fields[field] = value & (1 << FIELDS[field].width) - 1
        return 0

    # -- guests ----------------------------------------------------------------------------------------------------------

    def enter(self, *, launch: bool) -> int:
        """VMLAUNCH or VMRESUME."""
        if self.current is None:
            return INVALID
        error = enter(self.cpu, launch=launch)
        return self.fail(error) if error else 0

    def invalidate(self, name: str, kind: int, low: int, high: int) -> int:
        """INVEPT: 1 one root, 2 all; INVVPID: 0 one address, 1 one VPID, 2 all, 3 one VPID but its global pages.

        Simplified: one address is dropped from all of the VPID's address spaces, global or not.
        """
        if name == "invept":
            if kind not in (ONE_ROOT, ALL_ROOTS) or (kind == ONE_ROOT and bad_ept_pointer(self.cpu.model, low)):
                return self.fail(INVALIDATE_OPERAND)
            for vpid, context in list(self.contexts.items()):
                if context.space is not None and (kind == ALL_ROOTS or context.space.root == low):
                    context.tlb.flush("INVEPT")
                    del self.contexts[vpid]
            if self.cpu.walk_caches:
                self.cpu.walk_caches.flush()
            return 0
        if kind > ONE_BUT_GLOBAL or (kind != ALL_VPIDS and not 0 < low <= LAST_VPID):
            return self.fail(INVALIDATE_OPERAND)
        if kind == ONE_ADDRESS and not is_canonical(high):
            return self.fail(INVALIDATE_OPERAND)
        if self.cpu.walk_caches:
            self.cpu.walk_caches.flush_guests()
        if kind == ALL_VPIDS:
            for vpid in [each for each in self.contexts if each]:
                self.contexts.pop(vpid).tlb.flush("INVVPID")
        elif low in self.contexts:
            context = self.contexts[low]
            if kind == ONE_ADDRESS:
                context.tlb.drop_from(None, high >> 12, "INVVPID")
            else:
                context.tlb.flush("INVVPID", keep_global=kind == ONE_BUT_GLOBAL)
            context.maps = ({}, {}, {}), ({}, {}, {})  # a part of the TLB, whatever that holds
        return 0

    # -- saving ----------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """As after power-on."""
        self.__init__(self.cpu)  # type: ignore[misc]  # the same object, which others know

    def save(self) -> dict[str, Any]:
        """Save as plain data."""
        return {
            "version": 3,
            "on": self.on,
            "non_root": self.on and self.cpu.non_root,
            "region": self.region,
            "current": self.current,
            "launched": self.launched,
            "fields": dict(self.fields),
            "apic_write": self.apic_write,
            "root_blocks_nmi": self.root_blocks_nmi,
            "trap_pending": self.trap_pending,
            "timer_end": self.timer_end,
            "contexts": save_contexts(self.contexts),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError where it is damaged."""
        rules: dict[str, Any] = dict.fromkeys(("on", "non_root", "launched", "root_blocks_nmi", "trap_pending"), bool)
        rules |= {
            "timer_end": (COUNT, type(None)),
            "apic_write": (range(0, 0x1000, 0x10), type(None)),
            "region": QUAD,
            "current": (QUAD, type(None)),
            "fields": Entries(LONG, QUAD),
        }
        check_state(state, "VMX", rules | {"contexts": Entries(WORD, dict)}, version=3)
        fields = state["fields"]
        whole = fields.keys() == FIELDS.keys() and all(
            not value >> FIELDS[name].width for name, value in fields.items()
        )
        if (fields and not whole) or bool(fields) != (state["current"] is not None):
            raise StateError("VMX: the saved fields are not those of a VMCS")
        if state["non_root"] and not (state["on"] and fields):
            raise StateError("VMX: a saved guest runs without a VMCS")
        if (state["trap_pending"] or state["timer_end"] is not None) and not state["non_root"]:
            raise StateError("VMX: a saved timer or trap has no guest that runs")
        contexts = load_contexts(state["contexts"], self.cpu)
        for name in (
            "on",
            "region",
            "current",
            "launched",
            "apic_write",
            "root_blocks_nmi",
            "trap_pending",
            "timer_end",
        ):
            setattr(self, name, state[name])
        self.fields = {encoding: fields[encoding] for encoding in FIELDS} if fields else {}
        self.contexts = contexts
        self.stored = None
        self.cpu.choose_operation(non_root=state["non_root"])
