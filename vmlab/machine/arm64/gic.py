"""GICv2: the interrupt controller, as one distributor and the interface of one processor.

An interrupt is *pending* while its line is high (or since it was raised, where it is edge-triggered or set by software),
*active* from its acknowledgement (a read of IAR) to its end (a write of EOIR). The one of the highest priority (the lowest
number) goes to the processor, if that is above the mask (PMR) and above all that are active.

    distributor   000 CTLR  004 TYPER  008 IIDR  080 IGROUPR  100 ISENABLER  180 ICENABLER  200 ISPENDR  280 ICPENDR
                  300 ISACTIVER  380 ICACTIVER  400 IPRIORITYR  800 ITARGETSR  C00 ICFGR  F00 SGIR
    interface     00 CTLR  04 PMR  08 BPR  0C IAR  10 EOIR  14 RPR  18 HPPIR  FC IIDR

Simplified: 64 interrupts, all in group 0, all to the one processor; priorities preempt by all their bits (BPR is kept, and
does nothing); writes to ISACTIVER are ignored.

Read more: Arm IHI 0048 (GICv2), 4.3 (distributor), 4.4 (CPU interface), 3.2 (handling).
"""

from __future__ import annotations

from typing import Any

from vmlab.machine.state import LONG, QUAD, Items, check_state

__all__ = ["SPURIOUS", "Gic"]

COUNT, WORDS = 64, 2
SPURIOUS = 1023
SOFTWARE = 16
"""Interrupts 0 to 15 are raised by software (SGIs)."""
ALL = (1 << COUNT) - 1
LOWEST = 0xFF
IIDR = 0x0200_0000

FIELDS = {
    "enabled": QUAD, "latched": QUAD, "lines": QUAD, "active": QUAD, "edge": QUAD, "groups": QUAD, "control": LONG,
    "interface_control": LONG, "mask": range(256), "binary_point": range(8), "priorities": bytes, "running": Items(range(COUNT)),
}  # fmt: skip


class Gic:
    """The controller.

    Attributes
    ----------
    enabled, latched, lines, active, edge : int
        A bit for each interrupt: enabled; raised by an edge or by software; its line; active; edge-triggered.
    running : list of int
        The active interrupts, the last acknowledged last.
    irq : bool
        Whether the processor is interrupted.
    """

    def __init__(self) -> None:
        self.enabled = (1 << SOFTWARE) - 1
        self.latched = self.lines = self.active = self.groups = 0
        self.edge = (1 << SOFTWARE) - 1
        self.control = self.interface_control = self.mask = self.binary_point = 0
        self.priorities = bytearray(COUNT)
        self.running: list[int] = []
        self.irq = False
        self.distributor = _Distributor(self)
        self.interface = _Interface(self)

    def line(self, number: int, level: bool) -> None:
        """Set an interrupt's line."""
        bit = 1 << number
        if level and not self.lines & bit and self.edge & bit:
            self.latched |= bit
        self.lines = self.lines | bit if level else self.lines & ~bit
        self.update()

    @property
    def pending(self) -> int:
        """A bit for each pending interrupt."""
        return self.latched | self.lines & ~self.edge

    def best(self) -> int:
        """Return the interrupt that the processor would acknowledge; `SPURIOUS` where there is none."""
        candidates = self.pending & self.enabled & ~self.active
        if not candidates or not self.control & 1:
            return SPURIOUS
        numbers = [number for number in range(COUNT) if candidates >> number & 1]
        best = min(numbers, key=lambda number: self.priorities[number])
        return best if self.priorities[best] < self.mask else SPURIOUS

    @property
    def running_priority(self) -> int:
        """Priority of the interrupt being handled; FF where there is none."""
        return min((self.priorities[number] for number in self.running), default=LOWEST)

    def update(self) -> None:
        """Look again whether the processor is interrupted."""
        best = self.best()
        self.irq = (
            best != SPURIOUS and bool(self.interface_control & 1) and self.priorities[best] < self.running_priority
        )

    def acknowledge(self) -> int:
        """IAR: the interrupt becomes active."""
        best = self.best()
        if best == SPURIOUS or not self.irq:
            return SPURIOUS
        self.active |= 1 << best
        self.latched &= ~(1 << best)
        self.running.append(best)
        self.update()
        return best

    def end(self, number: int) -> None:
        """EOIR."""
        if number in self.running:
            self.running.remove(number)
            self.active &= ~(1 << number)
            self.update()

    def save(self) -> dict[str, Any]:
        """Save the state."""
        state = {name: getattr(self, name) for name in FIELDS}
        return {"version": 1, **state, "priorities": bytes(self.priorities), "running": [*self.running]}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state.

        Raises
        ------
        StateError
            The state is damaged.
        """
        check_state(state, "GIC", FIELDS | {"priorities": bytes})
        for name in FIELDS:
            setattr(self, name, state[name])
        self.priorities = bytearray(state["priorities"].ljust(COUNT, b"\0")[:COUNT])
        self.running = [*state["running"]]
        self.update()


class _Distributor:
    """Registers of the distributor."""

    def __init__(self, gic: Gic) -> None:
        self._gic = gic

    def read(self, offset: int) -> int:
        gic, shift = self._gic, (offset & 0x7C) * 8
        if offset < 0x80:
            return {0: gic.control, 4: WORDS - 1, 8: IIDR}.get(offset, 0)
        if 0x400 <= offset < 0x400 + COUNT:
            return int.from_bytes(gic.priorities[offset - 0x400 : offset - 0x3FC], "little")
        if 0xC00 <= offset < 0xC00 + COUNT // 4:
            first = (offset - 0xC00) * 4
            return sum((gic.edge >> first + n & 1) << 2 * n + 1 for n in range(16))
        if offset >= 0x400:
            return 0  # targets: all to the one processor, which reads as zero there
        kind = (offset - 0x80) // 0x80
        values = (gic.groups, gic.enabled, gic.enabled, gic.pending, gic.pending, gic.active, gic.active)
        return values[kind] >> shift & 0xFFFF_FFFF if shift < COUNT else 0

    def write(self, offset: int, value: int) -> None:
        gic, shift = self._gic, (offset & 0x7C) * 8
        bits = value << shift & ALL if shift < COUNT else 0
        if offset == 0:
            gic.control = value & 1
        elif 0x400 <= offset < 0x400 + COUNT:
            gic.priorities[offset - 0x400 : offset - 0x3FC] = value.to_bytes(4, "little")
        elif 0xC04 <= offset < 0xC00 + COUNT // 4:
            first = (offset - 0xC00) * 4
            for n in range(16):
                bit = 1 << first + n
                gic.edge = gic.edge | bit if value >> 2 * n + 1 & 1 else gic.edge & ~bit
        elif offset == 0xF00:
            target, list_ = value >> 24 & 3, value >> 16 & 1
            if target == 2 or (target == 0 and list_):
                gic.latched |= 1 << (value & 0xF)
        elif 0x80 <= offset < 0x100:
            gic.groups = gic.groups & ~(0xFFFF_FFFF << shift) & ALL | bits
        elif 0x100 <= offset < 0x400:
            self._change((offset - 0x100) // 0x80, bits)
        gic.update()

    def _change(self, kind: int, bits: int) -> None:
        gic = self._gic
        if kind == 0:
            gic.enabled |= bits
        elif kind == 1:
            gic.enabled &= ~bits | (1 << SOFTWARE) - 1
        elif kind == 2:
            gic.latched |= bits
        elif kind == 3:
            gic.latched &= ~bits
        elif kind == 5:
            gic.active &= ~bits
            gic.running = [number for number in gic.running if not bits >> number & 1]


class _Interface:
    """Registers of the processor's interface."""

    def __init__(self, gic: Gic) -> None:
        self._gic = gic

    def read(self, offset: int) -> int:
        gic = self._gic
        if offset == 0xC:
            return gic.acknowledge()
        values = {
            0: gic.interface_control,
            4: gic.mask,
            8: gic.binary_point,
            0x14: gic.running_priority,
            0x18: gic.best(),
            0xFC: IIDR | 2 << 16,
        }
        return values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        gic = self._gic
        if offset == 0:
            gic.interface_control = value & 1
        elif offset == 4:
            gic.mask = value & 0xFF
        elif offset == 8:
            gic.binary_point = value & 7
        elif offset == 0x10:
            gic.end(value & 0x3FF)
        gic.update()
