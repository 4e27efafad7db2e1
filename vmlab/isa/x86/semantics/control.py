"""Near transfers of control: jumps, calls, returns, loops, and the conditions (SDM vol. 2, appendix B.1.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.faults import BR, NM, Fault, general_protection, undefined
from vmlab.isa.x86.operands import KEPT, MASKS, Memory, Relative
from vmlab.isa.x86.registers import CF, CR0_MP, CR0_TS, CS, ECX, OF, PF, SF, ZF
from vmlab.isa.x86.semantics.multiply import signed
from vmlab.isa.x86.semantics.registry import Semantic, semantic
from vmlab.isa.x86.semantics.stack import drop, peek, push

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor

Condition = Callable[[int], bool]


def _less(flags: int) -> bool:
    return bool(flags & SF) != bool(flags & OF)


CONDITIONS: dict[str, Condition] = {
    "o": lambda flags: flags & OF != 0,
    "no": lambda flags: not flags & OF,
    "b": lambda flags: flags & CF != 0,
    "ae": lambda flags: not flags & CF,
    "e": lambda flags: flags & ZF != 0,
    "ne": lambda flags: not flags & ZF,
    "be": lambda flags: flags & (CF | ZF) != 0,
    "a": lambda flags: not flags & (CF | ZF),
    "s": lambda flags: flags & SF != 0,
    "ns": lambda flags: not flags & SF,
    "p": lambda flags: flags & PF != 0,
    "np": lambda flags: not flags & PF,
    "l": _less,
    "ge": lambda flags: not _less(flags),
    "le": lambda flags: flags & ZF != 0 or _less(flags),
    "g": lambda flags: not (flags & ZF or _less(flags)),
}
"""Suffix of the mnemonic → does the condition hold for these flags?"""


def jump(cpu: Processor, target: int, size: int) -> None:
    """Set the instruction pointer, truncated to the operand size; #GP(0) beyond the limit of CS, or not canonical."""
    target &= MASKS[size]
    if target > cpu.segments[CS].limit:
        check_long_target(cpu, target)
    cpu.ip = target


def check_long_target(cpu: Processor, target: int) -> None:
    """Raise #GP(0) for a target beyond the limit, which counts outside of 64-bit mode, or that is not canonical."""
    if not cpu.code_64 or not is_canonical(target):
        raise general_protection()


def _target(cpu: Processor, i: Instruction) -> int:
    operand = i.operands[0]
    if isinstance(operand, Relative):
        return cpu.ip + operand.displacement
    return operand.read(cpu)


def _conditional_jump(holds: Condition) -> Semantic:
    def jcc(cpu: Processor, i: Instruction) -> None:
        if holds(cpu.flags):
            jump(cpu, cpu.ip + i.operands[0].displacement, i.size)  # type: ignore[attr-defined]  # Jcc takes Relative

    return jcc


for _suffix, _holds in CONDITIONS.items():
    semantic(f"j{_suffix}")(_conditional_jump(_holds))


@semantic("jmp")
def jmp(cpu: Processor, i: Instruction) -> None:
    """JMP near."""
    jump(cpu, _target(cpu, i), i.size)


@semantic("call")
def call(cpu: Processor, i: Instruction) -> None:
    """CALL near: the target is checked before the return address is pushed."""
    target = _target(cpu, i) & MASKS[i.size]
    if target > cpu.segments[CS].limit:
        check_long_target(cpu, target)
    push(cpu, cpu.ip, i.size)
    cpu.ip = target


@semantic("ret")
def ret(cpu: Processor, i: Instruction) -> None:
    """RET near, with an optional count of bytes to drop."""
    jump(cpu, peek(cpu, 0, i.size), i.size)
    drop(cpu, 1, i.size)
    if i.operands:
        drop(cpu, i.operands[0].read(cpu), 8)


def _count_down(cpu: Processor, i: Instruction) -> int:
    mask = MASKS[i.address_size]
    return cpu.registers[ECX] - 1 & mask


def _loop(cpu: Processor, i: Instruction, *, go: bool) -> None:
    count = _count_down(cpu, i)
    if count and go:
        jump(cpu, _target(cpu, i), i.size)
    cpu.registers[ECX] = cpu.registers[ECX] & KEPT[i.address_size] | count


@semantic("loop")
def loop(cpu: Processor, i: Instruction) -> None:
    """LOOP: count ECX (CX) down, jump until 0."""
    _loop(cpu, i, go=True)


@semantic("loope")
def loope(cpu: Processor, i: Instruction) -> None:
    """LOOPE: … and while ZF."""
    _loop(cpu, i, go=bool(cpu.flags & ZF))


@semantic("loopne")
def loopne(cpu: Processor, i: Instruction) -> None:
    """LOOPNE: … and while not ZF."""
    _loop(cpu, i, go=not cpu.flags & ZF)


@semantic("jcxz", "jecxz", "jrcxz")
def jecxz(cpu: Processor, i: Instruction) -> None:
    """JCXZ, JECXZ, JRCXZ: by address size."""
    if not cpu.registers[ECX] & MASKS[i.address_size]:
        jump(cpu, _target(cpu, i), i.size)


@semantic("bound")
def bound(cpu: Processor, i: Instruction) -> None:
    """BOUND: #BR where the signed index lies outside the pair in memory."""
    index, pair = i.operands
    if not isinstance(pair, Memory):
        raise undefined()
    size, width = i.size, i.size >> 3
    offset = pair.offset(cpu)
    lower = signed(cpu.read(pair.segment, offset, width), size)
    upper = signed(cpu.read(pair.segment, offset + width & MASKS[i.address_size], width), size)
    if not lower <= signed(index.read(cpu), size) <= upper:
        raise Fault(BR)


@semantic("nop", "lfence", "mfence", "sfence", "prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2")
def nop(cpu: Processor, i: Instruction) -> None:
    """NOP and hints: nothing; no access to the operand's memory either."""


@semantic("pause")
def pause(cpu: Processor, i: Instruction) -> None:
    """PAUSE: the hint that a loop waits for another processor."""
    cpu.relax()


@semantic("fwait")
def fwait(cpu: Processor, i: Instruction) -> None:
    """FWAIT (WAIT): #NM where CR0.MP and CR0.TS are set; there is no x87 unit to wait for."""
    if cpu.cr0 & (CR0_MP | CR0_TS) == CR0_MP | CR0_TS:
        raise Fault(NM)


@semantic("ud0", "ud1", "ud2")
def ud2(cpu: Processor, i: Instruction) -> None:
    """UD0, UD1, UD2: #UD, by definition."""
    raise undefined()
