"""Registers of an AArch64 processor: general ones, stack pointers, PSTATE, and the system registers by name.

    SPSR_ELx, as PSTATE is saved:  31:28 NZCV | 20 IL | 9:6 DAIF | 4 AArch32 | 3:2 EL | 0 SP: SP_ELx (1) or SP_EL0 (0)

Read more: Arm ARM (DDI 0487), B1.2 (registers), D1.2 (exception levels), D1.3.3 (PSTATE), C5.2.19 (SPSR_EL1).
"""

from __future__ import annotations

from typing import Any

from vmlab.errors import StateError
from vmlab.isa.arm64.instruction import SINK, STACK
from vmlab.machine.arm64.system_registers import ROWS
from vmlab.machine.state import COUNT, QUAD, Entries, Items, check_state

__all__ = ["ALL_MASKED", "IRQ_MASKED", "ArmState"]

NZCV_SHIFT, IL_SHIFT, DAIF_SHIFT, EL_SHIFT = 28, 20, 6, 2
ALL_MASKED, IRQ_MASKED, FIQ_MASKED = 0b1111, 0b0010, 0b0001
"""DAIF."""
LEVELS = 3

FIELDS = {
    "x": Items(QUAD, SINK + 1), "sp": Items(QUAD, LEVELS), "pc": QUAD, "nzcv": range(16), "daif": range(16), "el": range(LEVELS),
    "sp_sel": range(2), "il": range(2), "system": Entries(str, QUAD), "monitor": (type(None), Items(COUNT, 2)), "waiting": bool,
}  # fmt: skip


class ArmState:
    """Every architectural register.

    Attributes
    ----------
    x : list of int
        Registers 0 to 30; 31 is always 0, 32 the present stack pointer, 33 takes what goes to XZR.
    sp : list of int
        SP_EL0 to SP_EL2; the present one is in `x`.
    pc, nzcv, daif, el, sp_sel, il : int
        Program counter and PSTATE.
    system : dict
        System register name to value, those that hold one.
    monitor : tuple or None
        Physical address and bytes that the exclusive monitor marks.
    waiting : bool
        In WFI.
    """

    def __init__(self) -> None:
        self.x = [0] * (SINK + 1)
        self.sp = [0] * LEVELS
        self.pc = self.nzcv = self.il = self.el = 0
        self.daif, self.sp_sel = ALL_MASKED, 1
        self.system = {name: row.reset for name, row in ROWS.items()}
        self.monitor: tuple[int, int] | None = None
        self.waiting = False

    def _bank(self) -> int:
        return self.el if self.sp_sel else 0

    def switch(self, el: int, sp_sel: int) -> None:
        """Go to an exception level with one of its stack pointers."""
        self.sp[self._bank()] = self.x[STACK]
        self.el, self.sp_sel = el, sp_sel
        self.x[STACK] = self.sp[self._bank()]

    def read_sp(self, el: int) -> int:
        """Return SP_ELx."""
        return self.x[STACK] if self._bank() == el else self.sp[el]

    def write_sp(self, el: int, value: int) -> None:
        """Set SP_ELx."""
        self.sp[el] = value
        if self._bank() == el:
            self.x[STACK] = value

    @property
    def pstate(self) -> int:
        """PSTATE as an exception saves it."""
        return (
            self.nzcv << NZCV_SHIFT
            | self.il << IL_SHIFT
            | self.daif << DAIF_SHIFT
            | self.el << EL_SHIFT
            | (self.sp_sel if self.el else 0)
        )

    @pstate.setter
    def pstate(self, value: int) -> None:
        self.nzcv = value >> NZCV_SHIFT & 15
        self.il = value >> IL_SHIFT & 1
        self.daif = value >> DAIF_SHIFT & 15
        self.switch(value >> EL_SHIFT & 3, value & 1)

    def save(self) -> dict[str, Any]:
        """Save the registers."""
        state = {name: getattr(self, name) for name in FIELDS}
        copied = {"x": [*self.x], "sp": [*self.sp], "system": dict(self.system)}
        return {"version": 1, **state, **copied, "monitor": [*self.monitor] if self.monitor else None}

    def load(self, state: dict[str, Any]) -> None:
        """Load saved registers.

        Raises
        ------
        StateError
            The state is damaged.
        """
        check_state(state, "AArch64 processor", FIELDS)
        if state["system"].keys() != ROWS.keys() or state["x"][31]:
            raise StateError("AArch64 processor: a saved state has other system registers, or XZR is not 0")
        for name in FIELDS:
            setattr(self, name, state[name])
        self.x, self.sp, self.system = [*state["x"]], [*state["sp"]], dict(state["system"])
        self.monitor = (state["monitor"][0], state["monitor"][1]) if state["monitor"] else None

    def describe(self) -> str:
        """Return the registers as text."""
        rows = [
            "  ".join(f"{f'x{n}':>3} {self.x[n]:016x}" for n in range(start, min(start + 4, 31)))
            for start in range(0, 31, 4)
        ]
        flags = "".join(letter if self.nzcv >> 3 - n & 1 else "-" for n, letter in enumerate("NZCV"))
        masks = "".join(letter if self.daif >> 3 - n & 1 else "-" for n, letter in enumerate("DAIF"))
        level = f"EL{self.el}{'' if not self.el else 'h' if self.sp_sel else 't'}"
        return "\n".join([*rows, f" pc {self.pc:016x}   sp {self.x[STACK]:016x}  {level}  {flags}  {masks}"])
