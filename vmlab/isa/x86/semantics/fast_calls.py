"""System calls without a gate: SYSENTER and SYSEXIT, SYSCALL and SYSRET, and SWAPGS, which goes with the latter.

They load CS and SS with fixed contents, and look at no descriptor table (SDM vol. 2, at each of them):

    IA32_SYSENTER_CS   +0 CS, +8 SS of ring 0 | +16, +24 of ring 3 | +32, +40 of ring 3, 64 bits
    IA32_STAR          47:32 CS of ring 0, +8 SS | 63:48 CS of ring 3, +8 SS, +16 CS of 64 bits

As on Intel's processors SYSCALL and SYSRET exist in 64-bit mode alone, so that IA32_CSTAR has no effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.faults import general_protection, undefined
from vmlab.isa.x86.registers import (
    CR0_PE,
    CS,
    DR6_SINGLE_STEP,
    ECX,
    EDX,
    EFER_SCE,
    ESP,
    FIXED,
    GS,
    IF,
    MSR_FMASK,
    MSR_KERNEL_GS_BASE,
    MSR_LSTAR,
    MSR_STAR,
    MSR_SYSENTER_CS,
    MSR_SYSENTER_EIP,
    MSR_SYSENTER_ESP,
    R11,
    RF,
    SS,
    TF,
    VM,
)  # fmt: skip
from vmlab.isa.x86.semantics.control_registers import require_ring_0
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor

FLAT_CODE, FLAT_DATA, FLAT_LIMIT = 0x9B, 0x93, 0xFFFF_FFFF
TO_USER_32, TO_USER_64 = 16, 32
USER_FLAGS = 0x3C_7FD7
"""What SYSRET takes from R11."""


def _enter(cpu: Processor, code: int, stack: int, level: int, *, long: bool) -> None:
    """Load CS and SS for a ring: flat segments, whatever the tables hold."""
    cpu.fast_calls += 1
    rights = level << 5
    cpu.segments[CS].set(code & 0xFFFC | level, 0, FLAT_LIMIT, FLAT_CODE | rights, big=not long, long=long)
    cpu.segments[SS].set(stack & 0xFFFC | level, 0, FLAT_LIMIT, FLAT_DATA | rights, big=True)
    cpu.code_changed()
    cpu.segment_changed()


@semantic("sysenter")
def sysenter(cpu: Processor, i: Instruction) -> None:
    """SYSENTER: into ring 0, where IA32_SYSENTER_CS, ESP and EIP say; nothing is saved."""
    code = cpu.msrs.get(MSR_SYSENTER_CS, 0) & 0xFFFF
    if not cpu.cr0 & CR0_PE or not code & 0xFFFC:
        raise general_protection()
    cpu.flags &= ~(VM | IF | RF)
    _enter(cpu, code, code + 8, 0, long=cpu.long_mode)
    mask = cpu.address_mask
    cpu.registers[ESP] = cpu.msrs.get(MSR_SYSENTER_ESP, 0) & mask
    cpu.ip = cpu.msrs.get(MSR_SYSENTER_EIP, 0) & mask
    cpu.flags_changed()


@semantic("sysexit")
def sysexit(cpu: Processor, i: Instruction) -> None:
    """SYSEXIT: to ring 3, with the stack pointer of ECX and the instruction pointer of EDX."""
    code = cpu.msrs.get(MSR_SYSENTER_CS, 0) & 0xFFFF
    if not cpu.cr0 & CR0_PE or not code & 0xFFFC:
        raise general_protection()
    require_ring_0(cpu)
    long = i.size == 64
    mask = 0xFFFF_FFFF_FFFF_FFFF if long else 0xFFFF_FFFF
    stack, target = cpu.registers[ECX] & mask, cpu.registers[EDX] & mask
    if not is_canonical(stack) or not is_canonical(target):
        raise general_protection()
    code += TO_USER_64 if long else TO_USER_32
    _enter(cpu, code, code + 8, 3, long=long)
    cpu.registers[ESP], cpu.ip = stack, target


def _require_fast_calls(cpu: Processor) -> None:
    """Raise #UD where there is no SYSCALL: outside of 64-bit mode, or before IA32_EFER.SCE is set."""
    if not cpu.code_64 or not cpu.efer & EFER_SCE:
        raise undefined()


@semantic("syscall")
def syscall(cpu: Processor, i: Instruction) -> None:
    """SYSCALL: into ring 0 at IA32_LSTAR; RIP goes to RCX, RFLAGS to R11, and IA32_FMASK says which flags to clear."""
    _require_fast_calls(cpu)
    code = cpu.msrs.get(MSR_STAR, 0) >> 32 & 0xFFFF
    cpu.registers[ECX], cpu.registers[R11] = cpu.ip, cpu.flags & ~RF
    cpu.ip = cpu.msrs.get(MSR_LSTAR, 0)
    cpu.flags = cpu.flags & ~(cpu.msrs.get(MSR_FMASK, 0) | RF) | FIXED
    cpu.steps_late = True
    _enter(cpu, code, code + 8, 0, long=True)
    cpu.flags_changed()


@semantic("sysret")
def sysret(cpu: Processor, i: Instruction) -> None:
    """SYSRET: to ring 3, in 64-bit code with REX.W and else in compatibility code; RIP is RCX, RFLAGS is R11."""
    _require_fast_calls(cpu)
    require_ring_0(cpu)
    long = i.size == 64
    target = cpu.registers[ECX] if long else cpu.registers[ECX] & 0xFFFF_FFFF
    if not is_canonical(target):
        raise general_protection()
    base = cpu.msrs.get(MSR_STAR, 0) >> 48
    cpu.flags = cpu.registers[R11] & USER_FLAGS | FIXED
    _enter(cpu, base + 16 if long else base, base + 8, 3, long=long)
    cpu.ip = target
    cpu.steps_late = True
    if cpu.flags & TF:  # at once, as if the SYSCALL before had just been done
        cpu.debug_trap(DR6_SINGLE_STEP)
    cpu.flags_changed()


@semantic("swapgs")
def swapgs(cpu: Processor, i: Instruction) -> None:
    """SWAPGS: exchange the base of GS with IA32_KERNEL_GS_BASE."""
    require_ring_0(cpu)
    register = cpu.segments[GS]
    base = cpu.msrs.get(MSR_KERNEL_GS_BASE, 0)
    cpu.msrs[MSR_KERNEL_GS_BASE] = register.base
    register.set(register.selector, base, register.limit, register.access, big=register.big, long=register.long)
    cpu.segment_changed()
