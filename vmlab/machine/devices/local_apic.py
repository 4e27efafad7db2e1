"""The local APIC (xAPIC) of one processor: its interrupt controller, its timer, its door to the other processors.

Interrupts come as messages from I/O APICs and other local APICs, from the timer, from errors, and from the pins LINT0 and
LINT1. Accepted ones wait in the IRR by vector; the highest is offered to the processor if its class (vector bits 7:4)
is above that of the processor priority, moves to the ISR when acknowledged, and leaves it with an EOI. The 8259A pair
stays in use through LINT0 in ExtINT mode ("virtual wire"), where the acknowledgement goes on to it.

Registers are 32 bits wide, 16 bytes apart, in the page that `apic_bus.ApicBus` claims for all local APICs.

Simplified: IPIs are sent at once, so delivery status always reads idle. They are edge-triggered, as on Pentium 4. Pin
polarity is stored: a line that is driven high means asserted. ExtINT goes before the APIC's own interrupts. A part of a
register can be read, not written. The page cannot be moved; no x2APIC, no focus processor, no thermal sensor.

Read more: Intel SDM vol. 3, chapter "Advanced Programmable Interrupt Controller (APIC)".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from vmlab.errors import OptionError
from vmlab.machine.devices import local_apic_registers as reg
from vmlab.machine.devices.apic_bus import Delivery
from vmlab.machine.devices.apic_timer import BUS_TICKS_PER_INSTRUCTION, ApicTimer
from vmlab.machine.state import BYTE, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.clock import Clock
    from vmlab.machine.devices.apic_bus import ApicBus, Message

__all__ = ["ExternalController", "LocalApic"]

# IA32_APIC_BASE:  [ base 35:12 | ENABLE 11 | BSP 8 ]
BASE, ENABLE, BSP = 0xFEE0_0000, 0x800, 0x100
ALL_BITS = range(1 << 256)

_FIELDS: dict[str, Any] = {
    "identifier": BYTE,
    "base": tuple(range(base, base + 1) for base in (BASE, BASE | BSP, BASE | ENABLE, BASE | ENABLE | BSP)),
    "tpr": BYTE, "ldr": BYTE, "dfr": range(16), "svr": range(0x400), "isr": ALL_BITS, "tmr": ALL_BITS, "irr": ALL_BITS,
    "errors": BYTE, "esr": BYTE, "icr": range(1 << 20), "icr_high": BYTE, "lint0": bool, "lint1": bool, "external_request": bool,
}  # fmt: skip


class ExternalController(Protocol):
    """What answers an ExtINT's acknowledgement: the 8259A pair."""

    def acknowledge(self) -> int:
        """Acknowledge an interrupt and return its vector."""

    def pending_vector(self) -> int | None:
        """Return the vector that `acknowledge()` would return."""


def _nothing(vector: int = 0) -> None:
    """A signal that is not wired."""


class LocalApic:
    """The local APIC of one processor.

    Parameters
    ----------
    clock : Clock
        Virtual time; the timer registers itself there.
    bus : ApicBus
        Where messages come from and go to; the local APIC joins it.
    identifier : int
        APIC ID after reset, 0-254.
    bootstrap : bool
        True for the processor that starts the computer.
    external : ExternalController, optional
        Who answers acknowledgements of ExtINT interrupts.

    Attributes
    ----------
    output : bool
        True where an interrupt is offered to the processor (which looks at its IF).
    on_output : callable or None
        Called with the new level whenever `output` changes.
    on_init, on_nmi, on_smi : callable
        Called without arguments when the message arrives; INIT has reset this APIC then.
    on_startup : callable
        Called with the vector of a STARTUP message: the processor that waits for one starts at vector × 0x1000.
    """

    identifier: int
    tpr: int
    ldr: int
    dfr: int
    svr: int
    esr: int
    icr: int
    icr_high: int
    timer: ApicTimer

    __slots__ = (
        "_clock", "bus", "external", "lvt", "name", "on_init", "on_nmi", "on_output", "on_smi", "on_startup", "output",
        "timer", *_FIELDS,
    )  # fmt: skip

    def __init__(
        self,
        clock: Clock,
        bus: ApicBus,
        identifier: int = 0,
        *,
        bootstrap: bool = True,
        external: ExternalController | None = None,
    ) -> None:
        if type(identifier) is not int or not 0 <= identifier < 0xFF:
            raise OptionError(f"an APIC ID is an int from 0 to 254, not {identifier!r}")
        self.name = f"local-apic-{identifier}"
        self._clock, self.bus, self.identifier = clock, bus, identifier
        self.base = BASE | ENABLE | (BSP if bootstrap else 0)
        self.external = external
        self.output = self.lint0 = self.lint1 = False
        self.on_output: Callable[[bool], None] | None = None
        self.on_init: Callable[[], object] = _nothing
        self.on_nmi: Callable[[], object] = _nothing
        self.on_smi: Callable[[], object] = _nothing
        self.on_startup: Callable[[int], object] = _nothing
        self.timer = ApicTimer()
        self._reset()
        bus.add(self)
        clock.add(self)

    def _reset(self) -> None:
        """Set what power-up, INIT and a global disable set: all but the identifier."""
        self.tpr = self.ldr = self.isr = self.tmr = self.irr = self.errors = self.esr = self.icr = self.icr_high = 0
        self.dfr, self.svr = 0xF, 0xFF
        self.lvt = [reg.MASKED] * reg.LVT_COUNT
        self.external_request = False
        self.timer = ApicTimer()

    def reset(self) -> None:
        """Reset as a power-up or an INIT does; the identifier stays."""
        self._reset()
        self._update()
        self._clock.refresh()

    def virtual_wire(self) -> None:
        """Do what firmware does on the bootstrap processor: let the 8259A pair through LINT0, NMI through LINT1.

        Source: MultiProcessor Specification 1.4, section 3.6.2.2 "Virtual Wire Mode" and its sample code.
        """
        self.svr = reg.SOFTWARE_ENABLE | 0x0F
        self.lvt[reg.LINT0], self.lvt[reg.LINT1] = Delivery.EXTINT << 8, Delivery.NMI << 8
        self._update()

    def set_base(self, value: int) -> None:
        """Write IA32_APIC_BASE: bits 8 and 11 alone; reserved bits are the processor's to refuse, the page stays."""
        if self.base & ENABLE and not value & ENABLE:
            self._reset()
        self.base = BASE | value & (ENABLE | BSP)
        self._update()
        self._clock.refresh()

    # -- priority ----------------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """True where IA32_APIC_BASE enables the APIC; else LINT0 is the INTR pin and LINT1 the NMI pin."""
        return bool(self.base & ENABLE)

    @property
    def is_bootstrap(self) -> bool:
        """True for the processor that starts the computer."""
        return bool(self.base & BSP)

    @property
    def software_enabled(self) -> bool:
        """True where SVR lets it accept fixed interrupts."""
        return bool(self.svr & reg.SOFTWARE_ENABLE)

    @property
    def ppr(self) -> int:
        """Processor priority: TPR, or the class of the highest interrupt in service if that is higher."""
        in_service = max(self.isr.bit_length() - 1, 0)
        return self.tpr if self.tpr >> 4 >= in_service >> 4 else in_service & 0xF0

    def set_tpr(self, value: int) -> None:
        """Write the task priority (CR8 is its bits 7:4)."""
        self.tpr = value & 0xFF
        self._update()

    def _deliverable(self) -> int | None:
        highest = self.irr.bit_length() - 1
        return highest if highest >> 4 > self.ppr >> 4 else None

    def _external(self) -> bool:
        """Say whether an ExtINT interrupt is pending."""
        if not self.enabled:
            return self.lint0
        return self.external_request or (
            self.lint0 and self.lvt[reg.LINT0] & (reg.MASKED | 0x700) == Delivery.EXTINT << 8
        )

    def pending_vector(self) -> int | None:
        """The vector that `acknowledge()` would return now, without acknowledging; None if nothing is pending."""
        if self._external() and self.external is not None:
            vector = self.external.pending_vector()
            return self.svr & 0xFF if vector is None else vector
        return self._deliverable()

    def acknowledge(self) -> int:
        """Acknowledge an interrupt and return its vector; a request that has gone gives the spurious one (SVR)."""
        self.advance(self._clock.now)
        vector = self.svr & 0xFF
        if self._external() and self.external is not None:
            self.external_request = False
            vector = self.external.acknowledge()
        elif (highest := self._deliverable()) is not None:
            vector = highest
            self.irr &= ~(1 << vector)
            self.isr |= 1 << vector
            self._clock.refresh()
        self._update()
        return vector

    def _update(self) -> None:
        output = (self._external() and self.external is not None) or self._deliverable() is not None
        if output != self.output:
            self.output = output
            if self.on_output is not None:
                self.on_output(output)

    # -- interrupts come -----------------------------------------------------------------------------------------------

    def addressed(self, message: Message) -> bool:
        """Say whether a message's destination names this APIC."""
        target = message.destination
        if not self.enabled:
            return False
        if not message.logical:
            return target in (0xFF, self.identifier)
        if self.dfr == 0xF:  # flat model: one bit a processor
            return bool(target & self.ldr)
        cluster = target >> 4  # cluster model: a cluster, or all of them, and one bit a processor
        return (cluster in (0xF, self.ldr >> 4)) and bool(target & self.ldr & 0xF)

    def deliver(self, mode: int, vector: int, *, level: bool = False) -> bool:
        """Take a message; say whether it was accepted.

        Parameters
        ----------
        mode : int
            A `Delivery`; LOWEST_PRIORITY is for the bus to decide and counts as fixed here.
        vector, level : int, bool
            Interrupt vector, or that of STARTUP; True for a level-triggered interrupt.
        """
        handler = self._DELIVERIES.get(mode)
        return handler is not None and handler(self, vector & 0xFF, level)

    def _take_fixed(self, vector: int, level: bool) -> bool:
        if not self.software_enabled:
            return False
        if vector < reg.FIRST_VECTOR:
            self.note_error(reg.RECEIVE_ILLEGAL_VECTOR)
            return False
        bit = 1 << vector
        self.irr |= bit
        self.tmr = self.tmr | bit if level else self.tmr & ~bit
        self._update()
        return True

    def _take_smi(self, vector: int, level: bool) -> bool:
        self.on_smi()
        return True

    def _take_nmi(self, vector: int, level: bool) -> bool:
        self.on_nmi()
        return True

    def _take_init(self, vector: int, level: bool) -> bool:
        self.reset()
        self.on_init()
        return True

    def _take_startup(self, vector: int, level: bool) -> bool:
        self.on_startup(vector)
        return True

    def _take_external(self, vector: int, level: bool) -> bool:
        self.external_request = True
        self._update()
        return True

    def _local(self, entry: int) -> None:
        """Deliver a local interrupt as its LVT entry says; timer and error have no mode bits and are fixed."""
        lvt = self.lvt[entry]
        if not lvt & reg.MASKED:
            self.deliver(lvt >> 8 & 7, lvt & 0xFF)

    def set_lint0(self, high: bool) -> None:
        """Drive pin LINT0."""
        rising = high and not self.lint0
        self.lint0 = high
        self.pin_changed(reg.LINT0, rising)

    def set_lint1(self, high: bool) -> None:
        """Drive pin LINT1, which is edge-triggered always."""
        rising = high and not self.lint1
        self.lint1 = high
        self.pin_changed(reg.LINT1, rising)

    def pin_changed(self, entry: int, rising: bool) -> None:
        lvt = self.lvt[entry]
        mode = lvt >> 8 & 7
        if not self.enabled:
            if rising and entry == reg.LINT1:
                self.on_nmi()
        elif entry == reg.LINT0 and mode == Delivery.FIXED and lvt & reg.LEVEL:
            if self.lint0 and not lvt & (reg.MASKED | reg.REMOTE_IRR) and self._take_fixed(lvt & 0xFF, level=True):
                self.lvt[entry] |= reg.REMOTE_IRR
        elif rising and mode != Delivery.EXTINT:
            self._local(entry)
        self._update()

    def note_error(self, bit: int) -> None:
        """Note an error; its interrupt, which could be an illegal one itself, is made once for each kind."""
        known = self.errors & bit
        self.errors |= bit
        if not known:
            self._local(reg.ERROR)

    # -- time --------------------------------------------------------------------------------------------------------

    def next_event(self) -> int | None:
        """Clock time at which the timer will next make an interrupt."""
        lvt, expiry = self.lvt[reg.TIMER], self.timer.expiry()
        if expiry is None or lvt & reg.MASKED or self.irr >> (lvt & 0xFF) & 1:
            return None  # one that is pending already hides the next
        return -(-expiry // BUS_TICKS_PER_INSTRUCTION)

    def advance(self, now: int) -> None:
        """Count down to a clock time; expiries within one unit of it are one interrupt."""
        if self.timer.run_to(now * BUS_TICKS_PER_INSTRUCTION):
            self._local(reg.TIMER)

    @property
    def tick(self) -> int:
        """Bus ticks so far."""
        return self._clock.now * BUS_TICKS_PER_INSTRUCTION

    # -- registers ---------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a register, or a part of one."""
        if not self.enabled:
            return (1 << 8 * size) - 1  # nobody answers at that address
        if offset >= reg.IRR:  # below that, nothing shows what the timer has done
            self.advance(self._clock.now)
        reader = reg.READERS.get(offset & 0xFF0)
        if reader is None:
            self.note_error(reg.ILLEGAL_REGISTER)
            return 0
        return reader(self, offset & 0xFF0) >> 8 * (offset & 0xF) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register, whole."""
        if not self.enabled or offset & 0xF or size != 4:
            return
        self.advance(self._clock.now)
        writer = reg.WRITERS.get(offset)
        if writer is None:
            if offset not in reg.READERS:
                self.note_error(reg.ILLEGAL_REGISTER)
            return
        writer(self, offset, value & 0xFFFF_FFFF)
        self._update()
        self._clock.refresh()

    _DELIVERIES: ClassVar[dict[int, Callable[[LocalApic, int, bool], bool]]] = {
        Delivery.FIXED: _take_fixed, Delivery.LOWEST_PRIORITY: _take_fixed, Delivery.SMI: _take_smi,
        Delivery.NMI: _take_nmi, Delivery.INIT: _take_init, Delivery.STARTUP: _take_startup,
        Delivery.EXTINT: _take_external,
    }  # fmt: skip
    # -- state -------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save registers, pins and timer."""
        return {
            "version": 1,
            **{name: getattr(self, name) for name in _FIELDS},
            "lvt": list(self.lvt),
            "timer": self.timer.save(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state (load the clock first); StateError if it is damaged."""
        check_state(state, self.name, _FIELDS | {"lvt": Items(range(1 << 18), reg.LVT_COUNT), "timer": dict})
        self.timer.load(state["timer"])
        for name in _FIELDS:
            setattr(self, name, state[name])
        self.lvt = list(state["lvt"])
        self._update()
        self._clock.refresh()
