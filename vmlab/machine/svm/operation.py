"""SVM in a processor: what the instructions VMRUN to INVLPGA do, and what it knows of the guest that runs.

A processor is the host, or runs the guest of a VMCB, whose controls it has read when it entered.

The global interrupt flag holds back whatever comes from outside while a VMM changes from one world to the other.

    Virtual interrupt:  [ vector 39:32 | V_INTR_MASKING 24 | V_IGN_TPR 20 | V_INTR_PRIO 19:16 | V_IRQ 8 | V_TPR 7:0 ]

Simplified: the PAUSE filter is not modelled; there is no SKINIT, and no AVIC.

Read more: AMD APM vol. 2, chapter 15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.isa.x86.faults import GP, Fault
from vmlab.isa.x86.registers import IF
from vmlab.machine.state import LONG, QUAD, Entries, Items, check_state
from vmlab.machine.svm.codes import WATCHED, intercepts
from vmlab.machine.svm.guest_state import AREA, AREA_BYTES, load_more, store_more
from vmlab.machine.svm.run import enter, read_area, write_area
from vmlab.machine.svm.vmcb import Control
from vmlab.machine.vmx.context import Context, load_contexts, save_contexts

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["Svm"]

V_TPR, V_IRQ, V_IGN_TPR, V_INTR_MASKING = 0xFF, 1 << 8, 1 << 20, 1 << 24
PRIORITY_SHIFT, VECTOR_SHIFT = 16, 32
NESTED_PAGING = 1
HOST_NUMBERS, HOST_FLAGS = 12, 8


class Svm:
    """AMD's extensions for virtualization, in one processor.

    Parameters
    ----------
    cpu : Processor
        Whose they are.

    Attributes
    ----------
    vmcb : int or None
        Physical address of the VMCB whose guest runs; None in the host.
    control : Control or None
        Its control area, as VMRUN has found it.
    intercepts : int
        What leads out of it: one bit for each exit code.
    asid : int
        Its address-space identifier; 0 in the host.
    nested : int or None
        Root of its nested page tables; None without.
    iopm, msrpm, tsc_offset : int
        From the VMCB.
    tpr, interrupt : int
        The virtual task priority, and the other bits of the virtual interrupt.
    host : tuple or None
        What VMRUN has kept of the host.
    host_blocks_nmi : bool
        Whether NMIs were blocked in the host.
    contexts : dict of int to Context
        By ASID, the translations of guests (or, 0, of the host) that do not run.
    """

    __slots__ = (
        "asid", "contexts", "control", "cpu", "host", "host_blocks_nmi", "intercepts", "interrupt", "iopm", "msrpm", "nested",
        "tpr", "tsc_offset", "vmcb",
    )  # fmt: skip

    def __init__(self, cpu: Processor) -> None:
        self.cpu = cpu
        self.host: tuple[Any, ...] | None = None
        self.host_blocks_nmi = False
        self.contexts: dict[int, Context] = {}
        self.take(None, None)

    def take(self, vmcb: int | None, control: Control | None) -> None:
        """Take the controls of a guest; none are in force in the host."""
        self.vmcb, self.control, self.nested = vmcb, control, None
        if control is None:
            self.intercepts = self.asid = self.iopm = self.msrpm = self.tsc_offset = self.tpr = self.interrupt = 0
            return
        self.intercepts, self.asid, self.tsc_offset = intercepts(control), control.asid, control.tsc_offset
        self.iopm, self.msrpm = control.iopm & ~0xFFF, control.msrpm & ~0xFFF
        if control.nested & NESTED_PAGING:
            self.nested = control.nested_cr3
        self.tpr, self.interrupt = control.virtual_interrupt & V_TPR, control.virtual_interrupt & ~V_TPR

    # -- instructions ----------------------------------------------------------------------------------------------------

    def _check(self, vmcb: int) -> None:
        if vmcb & 0xFFF or vmcb >> self.cpu.model.physical_bits:
            raise Fault(GP, 0)

    def run(self, vmcb: int) -> None:
        """VMRUN."""
        self._check(vmcb)
        enter(self.cpu, vmcb)

    def load_more(self, vmcb: int) -> None:
        """VMLOAD."""
        self._check(vmcb)
        load_more(self.cpu, read_area(self.cpu, vmcb + AREA, AREA_BYTES))
        self.cpu.segment_changed()

    def save_more(self, vmcb: int) -> None:
        """VMSAVE."""
        self._check(vmcb)
        area = bytearray(read_area(self.cpu, vmcb + AREA, AREA_BYTES))
        store_more(self.cpu, area)
        write_area(self.cpu, vmcb + AREA, area)

    def set_global(self, *, on: bool) -> None:
        """STGI and CLGI."""
        self.cpu.signals.hold(held=not on)

    def invalidate(self, linear: int, asid: int) -> None:
        """INVLPGA."""
        if asid == self.asid:
            self.cpu.invalidate_page(linear)
            return
        context = self.contexts.get(asid)
        if context is not None:
            context.tlb.drop_from(None, linear >> 12, "INVLPGA")
            context.maps = ({}, {}, {}), ({}, {}, {})
        if self.cpu.walk_caches:
            self.cpu.walk_caches.flush_guests()

    @property
    def gif(self) -> bool:
        """The global interrupt flag."""
        return not self.cpu.signals.held

    # -- the guest that runs -----------------------------------------------------------------------------------------------

    def wants(self, code: int) -> bool:
        """Say whether the VMM wants an exit of a code."""
        return bool(self.intercepts >> code & 1)

    @property
    def watched(self) -> frozenset[str]:
        """Mnemonics of instructions that must be looked for one by one."""
        wanted = self.intercepts
        return frozenset(name for name, code in WATCHED.items() if wanted >> code & 1) if wanted else frozenset()

    @property
    def masks(self) -> bool:
        """True where IF and CR8 of the guest are for virtual interrupts alone."""
        return bool(self.interrupt & V_INTR_MASKING)

    @property
    def host_takes_interrupts(self) -> bool:
        """IF as it was in the host."""
        return self.host is not None and bool(self.host[HOST_FLAGS] & IF)

    @property
    def waits(self) -> bool:
        """True where a virtual interrupt waits that the virtual task priority lets pass."""
        high = self.interrupt & V_IGN_TPR or (self.interrupt >> PRIORITY_SHIFT & 0xF) > (self.tpr & 0xF)
        return bool(self.interrupt & V_IRQ and high)

    def take_interrupt(self) -> int:
        """Take the virtual interrupt; return its vector."""
        self.interrupt &= ~V_IRQ
        return self.interrupt >> VECTOR_SHIFT & 0xFF

    def virtual_interrupt(self) -> int:
        """Return the virtual interrupt, as #VMEXIT writes it back."""
        return self.interrupt | self.tpr

    # -- saving ----------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """As after power-on."""
        self.__init__(self.cpu)  # type: ignore[misc]  # the same object, which others know
        self.cpu.signals.hold(held=False)

    def save(self) -> dict[str, Any]:
        """Save as plain data."""
        host = self.host
        return {
            "version": 1,
            "vmcb": self.vmcb,
            "control": None if self.control is None else list(self.control),
            "virtual_interrupt": self.virtual_interrupt(),
            "host": None if host is None else list(host[:HOST_NUMBERS]),
            "host_pdptes": None if host is None else list(host[HOST_NUMBERS]),
            "host_segments": None if host is None else [list(key) for key in host[HOST_NUMBERS + 1]],
            "host_blocks_nmi": self.host_blocks_nmi,
            "contexts": save_contexts(self.contexts),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state, but for what is derived from it; StateError where it is damaged."""
        none = type(None)
        rules: dict[str, Any] = {
            "vmcb": (QUAD, none),
            "control": (Items(QUAD, len(Control._fields)), none),
            "virtual_interrupt": QUAD,
            "host": (Items(QUAD, HOST_NUMBERS), none),
            "host_pdptes": (Items(QUAD, 4), none),
            "host_segments": (Items(Items((QUAD, bool), 6), 4), none),
            "host_blocks_nmi": bool,
            "contexts": Entries(LONG, dict),
        }
        check_state(state, "SVM", rules)
        if len({state[name] is None for name in ("vmcb", "control")}) > 1 or (
            len({state[name] is None for name in ("host", "host_pdptes", "host_segments")}) > 1
        ):
            raise StateError(
                "SVM: a saved guest runs without its VMCB's controls, or a part of the host's state is missing"
            )
        if state["vmcb"] is not None and state["host"] is None:
            raise StateError("SVM: a saved guest runs without a host")
        contexts = load_contexts(state["contexts"], self.cpu)
        control = state["control"]
        self.take(state["vmcb"], None if control is None else Control(*control))
        self.tpr, self.interrupt = state["virtual_interrupt"] & V_TPR, state["virtual_interrupt"] & ~V_TPR
        self.host = None
        if state["host"] is not None:
            segments = [tuple(key) for key in state["host_segments"]]
            self.host = (*state["host"], list(state["host_pdptes"]), segments)
        self.host_blocks_nmi, self.contexts = state["host_blocks_nmi"], contexts
