"""Instructions that ask the processor itself: exceptions, system registers, barriers, hints, waiting.

Which of them are allowed where, and who gets them instead, the processor knows; here they only reach it.

Read more: Arm ARM (DDI 0487), C3.1.3 to C3.1.9, C5.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.arm64.exceptions import ArmException, ExceptionClass
from vmlab.isa.arm64.semantics.registry import Operation, Processor, semantic, target

if TYPE_CHECKING:
    from vmlab.isa.arm64.instruction import Instruction

WFE, WFI = 2, 3
"""Numbers of the hints that wait."""


@semantic("svc")
def supervisor_call(i: Instruction) -> Operation:
    """SVC."""
    number = i["imm16"]

    def run(cpu: Processor, pc: int) -> int:
        raise ArmException(ExceptionClass.SVC, number, after=True)

    return run


@semantic("brk")
def breakpoint_(i: Instruction) -> Operation:
    """BRK."""
    number = i["imm16"]

    def run(cpu: Processor, pc: int) -> int:
        raise ArmException(ExceptionClass.BRK, number)

    return run


@semantic("hvc", "smc")
def call(i: Instruction) -> Operation:
    """HVC and SMC."""
    return lambda cpu, pc: cpu.call(i, pc)


@semantic("eret")
def exception_return(i: Instruction) -> Operation:
    """ERET."""
    return lambda cpu, pc: cpu.exception_return()


@semantic("hint")
def hint(i: Instruction) -> Operation:
    """NOP and all other hints; WFE and WFI wait."""
    if i["CRm"] or i["op2"] not in (WFE, WFI):
        return lambda cpu, pc: None

    def run(cpu: Processor, pc: int) -> None:
        cpu.wait(i)

    return run


@semantic("dsb", "dmb", "isb")
def barrier(i: Instruction) -> Operation:
    """DMB, DSB and ISB: memory is one sequence already."""
    return lambda cpu, pc: None


@semantic("clrex")
def clear_exclusive(i: Instruction) -> Operation:
    """CLREX."""
    return lambda cpu, pc: cpu.clear_exclusive()


@semantic("mrs")
def read_register(i: Instruction) -> Operation:
    """MRS."""
    t = target(i, "rt")

    def run(cpu: Processor, pc: int) -> None:
        cpu.x[t] = cpu.read_system(i)

    return run


@semantic("msr")
def write_register(i: Instruction) -> Operation:
    """MSR."""
    if "rt" not in i.fields:

        def run_immediate(cpu: Processor, pc: int) -> None:
            cpu.write_pstate(i)

        return run_immediate
    t = i["rt"]

    def run(cpu: Processor, pc: int) -> None:
        cpu.write_system(i, cpu.x[t])

    return run


@semantic("sys")
def system(i: Instruction) -> Operation:
    """SYS: IC, DC, AT and TLBI."""
    t = i["rt"]

    def run(cpu: Processor, pc: int) -> None:
        cpu.system_operation(i, cpu.x[t])

    return run
