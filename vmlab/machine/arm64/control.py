"""System registers, operations and calls: what MRS, MSR, SYS, HVC, SMC, WFI and ERET do once they are allowed.

Read more: Arm ARM (DDI 0487), C5 (the system instruction class), D17 (system registers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.exceptions import ArmException, ExceptionClass
from vmlab.machine.arm64.access import Access, NotYet
from vmlab.machine.arm64.exceptions import pending, return_from
from vmlab.machine.arm64.system_registers import ROWS
from vmlab.machine.arm64.traps import HCR, SCTLR, Trapped, check_operation, check_register, check_wait

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction
    from vmlab.machine.arm64.exceptions import ExceptionReturn

__all__ = ["Control"]

LONG = (1 << 64) - 1
ZVA_BYTES, ZVA_PROHIBITED = 64, 1 << 4
WFE = 2
SEEN_BY_EL1 = {"midr_el1": "vpidr_el2", "mpidr_el1": "vmpidr_el2"}
"""What EL2 lets EL1 see instead."""
SPSEL, DAIF_SET = 5, 6
"""op2 of MSR with an immediate; 7 is DAIFClr."""


class Control(Access):
    """What a processor needs to execute system instructions."""

    nzcv: int
    has_el2: bool
    _returned: ExceptionReturn | None

    def _exactly(self) -> None:
        if not self._exact:
            raise NotYet

    # -- registers ---------------------------------------------------------------------------------------------------

    def read_system(self, instruction: Instruction) -> int:
        """MRS."""
        self._exactly()
        state = self.state
        name = check_register(state, instruction, is_read=True)
        if not name:
            return 0
        if name.startswith("cnt") and name not in ROWS:
            return self.board.timer.read(name)
        if name in ("sp_el0", "sp_el1"):
            return state.read_sp(int(name[-1]))
        if name in ("currentel", "spsel", "nzcv", "daif", "isr_el1"):
            irq = pending(state, self.board.gic) << 7
            values = {
                "currentel": state.el << 2,
                "spsel": state.sp_sel,
                "nzcv": self.nzcv << 28,
                "daif": state.daif << 6,
            }
            return values.get(name, irq)
        if state.el == 1:
            name = SEEN_BY_EL1.get(name, name)
        value = state.system[name]
        if name == "dczid_el0" and state.el == 0 and not state.system["sctlr_el1"] & SCTLR.DZE:
            value |= ZVA_PROHIBITED
        return value

    def write_system(self, instruction: Instruction, value: int) -> None:
        """MSR, from a register."""
        self._exactly()
        state = self.state
        name = check_register(state, instruction, is_read=False)
        if name in ("sp_el0", "sp_el1"):
            state.write_sp(int(name[-1]), value)
        elif name == "nzcv":
            self.nzcv = value >> 28 & 15
        elif name == "daif":
            state.daif = value >> 6 & 15
        elif name == "spsel":
            state.switch(state.el, value & 1)
        elif name in ROWS:
            row = ROWS[name]
            state.system[name] = value & row.mask | row.reset & ~row.mask
            if "translation" in row.marks:
                self.mmu.flush()
            if name == "cntvoff_el2":
                self.board.timer.changed()
        elif name.startswith("cnt"):
            self.board.timer.write(name, value)

    def write_pstate(self, instruction: Instruction) -> None:
        """MSR, with an immediate: SPSel, DAIFSet, DAIFClr."""
        self._exactly()
        state, field, value = self.state, instruction["op2"], instruction["CRm"]
        if field == SPSEL:
            if state.el == 0:
                raise ArmException
            state.switch(state.el, value & 1)
            return
        if state.el == 0 and not state.system["sctlr_el1"] & SCTLR.UMA:
            fields = instruction.fields
            iss = fields["op2"] << 17 | fields["op1"] << 14 | 4 << 10 | 31 << 5 | value << 1
            raise Trapped(2 if state.system["hcr_el2"] & HCR.TGE else 1, ExceptionClass.SYSTEM_REGISTER, iss)
        state.daif = state.daif | value if field == DAIF_SET else state.daif & ~value

    # -- operations --------------------------------------------------------------------------------------------------

    def system_operation(self, instruction: Instruction, value: int) -> None:
        """SYS: IC and DC find no cache, but DC ZVA writes zeros; TLBI; AT."""
        self._exactly()
        mnemonic, name = check_operation(self.state, instruction)
        if mnemonic == "tlbi":
            self.mmu.flush()
        elif mnemonic == "at":
            self.state.system["par_el1"] = self.mmu.ask(name, value)
        elif name == "zva":
            self._zero(value & -ZVA_BYTES)

    def _zero(self, address: int) -> None:
        for place in range(address, address + ZVA_BYTES, 8):
            self.write(place, 8, 0)

    def call(self, instruction: Instruction, pc: int) -> int:
        """HVC and SMC: an exception to EL2, or a call of the firmware."""
        self._exactly()
        state, is_smc, number = self.state, instruction.mnemonic == "smc", instruction["imm16"]
        hcr = state.system["hcr_el2"]
        if state.el == 0:
            raise ArmException
        if is_smc and state.el == 1 and hcr & HCR.TSC:
            raise Trapped(2, ExceptionClass.SMC, number)
        if not is_smc and self.has_el2:
            if state.el == 1 and hcr & HCR.HCD:
                raise ArmException
            trapped = Trapped(2, ExceptionClass.HVC, number)
            trapped.after = True
            raise trapped
        self.x[0] = self.board.firmware(self.x[0])
        return pc + 4 & LONG

    def wait(self, instruction: Instruction) -> None:
        """WFI; a WFE goes on at once."""
        self._exactly()
        is_event = instruction["op2"] == WFE
        check_wait(self.state, is_event=is_event)
        self.state.waiting = not is_event

    def exception_return(self) -> int:
        """ERET."""
        self._exactly()
        self.state.nzcv = self.nzcv
        self._returned = return_from(self.state, self.board.clock.now)
        return self.state.pc
