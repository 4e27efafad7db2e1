"""Instructions on EFLAGS, PUSHF and POPF among them: the case that made x86 hard to virtualize.

POPF is sensitive and unprivileged: outside ring 0 it changes IOPL, and above IOPL it changes IF, neither by a
fault but by *not doing it* (SDM vol. 2, POPF; Robin and Irvine, USENIX Security 2000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import general_protection
from vmlab.isa.x86.registers import AC, AF, CF, CR0_PE, DF, EAX, FIXED, ID, IF, IOPL, NT, OF, PF, RF, SF, TF, VM, ZF
from vmlab.isa.x86.semantics.registry import semantic
from vmlab.isa.x86.semantics.stack import pop, push

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor

LOW_STATUS = SF | ZF | AF | PF | CF
ANY_RING = CF | PF | AF | ZF | SF | TF | DF | OF | NT
ANY_RING_HIGH = AC | ID


def iopl(cpu: Processor) -> int:
    """Return the I/O privilege level."""
    return cpu.flags >> 12 & 3


def writable_flags(cpu: Processor, size: int) -> int:
    """Return the flags that POPF and IRET may change at the present privilege level, for an operand size."""
    changed = ANY_RING
    if size >= 32:
        changed |= ANY_RING_HIGH
    if cpu.cpl <= iopl(cpu):
        changed |= IF
    if cpu.cpl == 0:
        changed |= IOPL
    return changed


def require_iopl_3(cpu: Processor) -> None:
    """Raise #GP(0) in virtual-8086 mode with IOPL below 3: what makes an instruction sensitive to IOPL there."""
    if cpu.flags & VM and cpu.flags & IOPL != IOPL and cpu.cr0 & CR0_PE:
        raise general_protection()


@semantic("pushf")
def pushf(cpu: Processor, i: Instruction) -> None:
    """PUSHF: VM and RF are pushed as 0."""
    require_iopl_3(cpu)
    push(cpu, cpu.flags & ~(VM | RF), i.size)


@semantic("popf")
def popf(cpu: Processor, i: Instruction) -> None:
    """POPF: what the privilege level forbids stays silently as it was."""
    require_iopl_3(cpu)
    changed = writable_flags(cpu, i.size)
    value = pop(cpu, i.size)
    cpu.flags = (cpu.flags & ~(changed | RF) | value & changed) | FIXED
    cpu.flags_changed()


@semantic("lahf")
def lahf(cpu: Processor, i: Instruction) -> None:
    """LAHF."""
    cpu.registers[EAX] = cpu.registers[EAX] & ~0xFF00 | (cpu.flags & LOW_STATUS | FIXED) << 8


@semantic("sahf")
def sahf(cpu: Processor, i: Instruction) -> None:
    """SAHF."""
    cpu.flags = cpu.flags & ~LOW_STATUS | cpu.registers[EAX] >> 8 & LOW_STATUS


@semantic("clc")
def clc(cpu: Processor, i: Instruction) -> None:
    """CLC."""
    cpu.flags &= ~CF


@semantic("stc")
def stc(cpu: Processor, i: Instruction) -> None:
    """STC."""
    cpu.flags |= CF


@semantic("cmc")
def cmc(cpu: Processor, i: Instruction) -> None:
    """CMC."""
    cpu.flags ^= CF


@semantic("cld")
def cld(cpu: Processor, i: Instruction) -> None:
    """CLD."""
    cpu.flags &= ~DF


@semantic("std")
def std(cpu: Processor, i: Instruction) -> None:
    """STD."""
    cpu.flags |= DF


@semantic("cli")
def cli(cpu: Processor, i: Instruction) -> None:
    """CLI: #GP(0) above IOPL."""
    if cpu.cpl > iopl(cpu):
        raise general_protection()
    cpu.flags &= ~IF
    cpu.flags_changed()


@semantic("sti")
def sti(cpu: Processor, i: Instruction) -> None:
    """STI: interrupts are recognised after the *next* instruction."""
    if cpu.cpl > iopl(cpu):
        raise general_protection()
    if not cpu.flags & IF:
        cpu.interrupt_shadow = True
    cpu.flags |= IF
    cpu.flags_changed()
