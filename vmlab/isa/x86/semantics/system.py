"""System instructions: descriptor-table registers, selectors' inspection, machine control (SDM vol. 2 and 3).

SGDT, SIDT, SLDT, STR and SMSW read privileged state from any ring (sensitive, unprivileged) unless CR4.UMIP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.descriptors import (
    CALL_GATE16,
    CALL_GATE32,
    CALL_GATE64,
    LDT,
    TASK_GATE,
    TSS16,
    TSS16_BUSY,
    TSS32,
    TSS32_BUSY,
    TSS64,
    TSS64_BUSY,
    Descriptor,
)
from vmlab.isa.x86.faults import general_protection, undefined
from vmlab.isa.x86.operands import MASKS, Memory
from vmlab.isa.x86.registers import (
    CR0_EM,
    CR0_ET,
    CR0_MP,
    CR0_PE,
    CR0_TS,
    CR4_PCE,
    CR4_TSD,
    CR4_UMIP,
    DS,
    EAX,
    EBX,
    ECX,
    EDX,
    ES,
    FS,
    GS,
    MSR_TSC_AUX,
    SS,
    ZF,
)  # fmt: skip
from vmlab.isa.x86.semantics.control_registers import require_ring_0
from vmlab.isa.x86.semantics.registry import Semantic, semantic
from vmlab.isa.x86.semantics.segments import (
    descriptor_address,
    has_real_segments,
    load_segment,
    read_descriptor,
    system_segment,
)

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor


def _memory(i: Instruction, index: int = 0) -> Memory:
    operand = i.operands[index]
    if not isinstance(operand, Memory):
        raise undefined()
    return operand


def operand_address(cpu: Processor, i: Instruction) -> int:
    """Return the linear address of a memory operand."""
    memory = _memory(i)
    return cpu.linear_address(memory.segment, memory.offset(cpu))


def require_no_umip(cpu: Processor) -> None:
    """Raise #GP(0) where CR4.UMIP keeps what an instruction stores from outer rings."""
    if cpu.cr4 & CR4_UMIP and cpu.cpl:
        raise general_protection()


def require_protected(cpu: Processor) -> None:
    """Raise #UD in real and virtual-8086 mode, where selectors mean no descriptors."""
    if has_real_segments(cpu):
        raise undefined()


def require_time_stamp(cpu: Processor) -> None:
    """Raise #GP(0) where CR4.TSD keeps the time stamp from outer rings."""
    if cpu.cr4 & CR4_TSD and cpu.cpl:
        raise general_protection()


def require_counters(cpu: Processor) -> None:
    """Raise #GP(0) outside ring 0 where CR4.PCE does not open the performance counters."""
    if not cpu.cr4 & CR4_PCE:
        require_ring_0(cpu)


def require_table(cpu: Processor, *, stores: bool, real: bool) -> None:
    """Raise what comes first of SGDT to LTR: of those that store one and those that load it, those of real mode and the others."""
    if not real:
        require_protected(cpu)
    if stores:
        require_no_umip(cpu)
    else:
        require_ring_0(cpu)


def _store_table(cpu: Processor, i: Instruction, base: int, limit: int) -> None:
    require_no_umip(cpu)
    memory = _memory(i)
    start = memory.offset(cpu)
    width = 8 if i.size == 64 else 4
    cpu.check(memory.segment, start, 2 + width, write=True)
    cpu.write(memory.segment, start, 2, limit)
    # With 16-bit operands current processors store all 32 bits too (SDM vol. 2, SGDT).
    cpu.write(memory.segment, start + 2 & MASKS[i.address_size], width, base & MASKS[8 * width])


def _load_table(cpu: Processor, i: Instruction) -> tuple[int, int]:
    require_ring_0(cpu)
    memory = _memory(i)
    start = memory.offset(cpu)
    limit = cpu.read(memory.segment, start, 2)
    base = cpu.read(memory.segment, start + 2 & MASKS[i.address_size], 8 if i.size == 64 else 4)
    if not is_canonical(base):
        raise general_protection()
    return base & 0xFFFFFF if i.size == 16 else base, limit


@semantic("sgdt")
def sgdt(cpu: Processor, i: Instruction) -> None:
    """SGDT."""
    _store_table(cpu, i, cpu.gdtr_base, cpu.gdtr_limit)


@semantic("sidt")
def sidt(cpu: Processor, i: Instruction) -> None:
    """SIDT."""
    _store_table(cpu, i, cpu.idtr_base, cpu.idtr_limit)


@semantic("lgdt")
def lgdt(cpu: Processor, i: Instruction) -> None:
    """LGDT."""
    cpu.gdtr_base, cpu.gdtr_limit = _load_table(cpu, i)


@semantic("lidt")
def lidt(cpu: Processor, i: Instruction) -> None:
    """LIDT."""
    cpu.idtr_base, cpu.idtr_limit = _load_table(cpu, i)


@semantic("sldt")
def sldt(cpu: Processor, i: Instruction) -> None:
    """SLDT."""
    require_table(cpu, stores=True, real=False)
    i.operands[0].write(cpu, cpu.ldtr.selector)


@semantic("str")
def str_(cpu: Processor, i: Instruction) -> None:
    """STR."""
    require_table(cpu, stores=True, real=False)
    i.operands[0].write(cpu, cpu.tr.selector)


@semantic("smsw")
def smsw(cpu: Processor, i: Instruction) -> None:
    """SMSW: CR0, from any ring; 16 bits of it to memory."""
    require_no_umip(cpu)
    destination = i.operands[0]
    destination.write(cpu, cpu.cr0 & MASKS[destination.size])


@semantic("lmsw")
def lmsw(cpu: Processor, i: Instruction) -> None:
    """LMSW: PE (which it can set but not clear), MP, EM, TS."""
    require_ring_0(cpu)
    value = i.operands[0].read(cpu) & (CR0_PE | CR0_MP | CR0_EM | CR0_TS)
    cpu.set_cr0(cpu.cr0 & ~(CR0_MP | CR0_EM | CR0_TS) | value | CR0_ET)


@semantic("lldt")
def lldt(cpu: Processor, i: Instruction) -> None:
    """LLDT."""
    require_table(cpu, stores=False, real=False)
    selector = i.operands[0].read(cpu) & 0xFFFF
    if not selector & 0xFFFC:
        cpu.ldtr.set(selector, 0, 0, 0, big=False)
        return
    descriptor, _ = system_segment(cpu, selector, (LDT,))
    cpu.ldtr.set(selector, descriptor.base, descriptor.limit, descriptor.access, big=False)


@semantic("ltr")
def ltr(cpu: Processor, i: Instruction) -> None:
    """LTR: marks the task busy in the GDT."""
    require_table(cpu, stores=False, real=False)
    selector = i.operands[0].read(cpu) & 0xFFFF
    descriptor, address = system_segment(cpu, selector, (TSS64,) if cpu.long_mode else (TSS16, TSS32))
    access = descriptor.access | 2
    cpu.write_system(address + 5, 1, access)
    cpu.tr.set(selector, descriptor.base, descriptor.limit, access, big=False)


@semantic("clts")
def clts(cpu: Processor, i: Instruction) -> None:
    """CLTS."""
    require_ring_0(cpu)
    cpu.set_cr0(cpu.cr0 & ~CR0_TS)


@semantic("hlt")
def hlt(cpu: Processor, i: Instruction) -> None:
    """HLT."""
    require_ring_0(cpu)
    cpu.wake_on_interrupt()


@semantic("invlpg")
def invlpg(cpu: Processor, i: Instruction) -> None:
    """INVLPG: by the linear address of the operand."""
    require_ring_0(cpu)
    cpu.invalidate_page(operand_address(cpu, i))


@semantic("invd", "wbinvd")
def wbinvd(cpu: Processor, i: Instruction) -> None:
    """INVD, WBINVD: there are no caches to write back; the privilege check remains."""
    require_ring_0(cpu)


@semantic("rdmsr")
def rdmsr(cpu: Processor, i: Instruction) -> None:
    """RDMSR."""
    require_ring_0(cpu)
    value = cpu.read_msr(cpu.registers[ECX] & 0xFFFFFFFF)
    cpu.registers[EAX], cpu.registers[EDX] = value & 0xFFFFFFFF, value >> 32


@semantic("wrmsr")
def wrmsr(cpu: Processor, i: Instruction) -> None:
    """WRMSR."""
    require_ring_0(cpu)
    number, high, low = (cpu.registers[register] & 0xFFFFFFFF for register in (ECX, EDX, EAX))
    cpu.write_msr(number, high << 32 | low)


@semantic("rdtsc")
def rdtsc(cpu: Processor, i: Instruction) -> None:
    """RDTSC: #GP(0) outside ring 0 where CR4.TSD."""
    require_time_stamp(cpu)
    value = cpu.time_stamp()
    cpu.registers[EAX], cpu.registers[EDX] = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF


@semantic("rdtscp")
def rdtscp(cpu: Processor, i: Instruction) -> None:
    """RDTSCP: RDTSC, and IA32_TSC_AUX in ECX."""
    if not cpu.has("rdtscp"):
        raise undefined()
    rdtsc(cpu, i)
    cpu.registers[ECX] = cpu.read_msr(MSR_TSC_AUX)


@semantic("rdpmc")
def rdpmc(cpu: Processor, i: Instruction) -> None:
    """RDPMC: the processor has no counters that software may program, so every number is wrong: #GP(0)."""
    require_counters(cpu)
    raise general_protection()


@semantic("cpuid")
def cpuid(cpu: Processor, i: Instruction) -> None:
    """CPUID."""
    registers = cpu.registers
    leaf, subleaf = registers[EAX] & 0xFFFFFFFF, registers[ECX] & 0xFFFFFFFF
    registers[EAX], registers[EBX], registers[ECX], registers[EDX] = cpu.cpuid(leaf, subleaf)


# --- inspection of selectors -------------------------------------------------------------------------------------

LAR_SYSTEM = frozenset({TSS16, LDT, TSS16_BUSY, CALL_GATE16, TASK_GATE, TSS32, TSS32_BUSY, CALL_GATE32})
LSL_SYSTEM = frozenset({TSS16, LDT, TSS16_BUSY, TSS32, TSS32_BUSY})
LONG_SYSTEM = frozenset({LDT, TSS64, TSS64_BUSY, CALL_GATE64})
"""Types of system descriptors that there are in long mode."""


def _inspect(cpu: Processor, selector: int, kinds: frozenset[int]) -> Descriptor | None:
    """Return the descriptor that LAR, LSL may show this ring, else None."""
    require_protected(cpu)
    if not selector & 0xFFFC or descriptor_address(cpu, selector) is None:
        return None
    descriptor, _ = read_descriptor(cpu, selector)
    if not descriptor.is_segment:
        if descriptor.type not in (kinds & LONG_SYSTEM if cpu.long_mode else kinds):
            return None
        if cpu.long_mode:
            if descriptor_address(cpu, selector, 16) is None:
                return None
            descriptor, _ = read_descriptor(cpu, selector, wide=True)
            if descriptor.upper_type:
                return None
    if not descriptor.is_conforming and descriptor.dpl < max(cpu.cpl, selector & 3):
        return None
    return descriptor


def _set_zf(cpu: Processor, *, value: bool) -> None:
    cpu.flags = cpu.flags | ZF if value else cpu.flags & ~ZF


@semantic("lar")
def lar(cpu: Processor, i: Instruction) -> None:
    """LAR: the access rights of a segment, with ZF; nothing but ZF = 0 where it may not be seen."""
    destination, source = i.operands
    descriptor = _inspect(cpu, source.read(cpu) & 0xFFFF, LAR_SYSTEM)
    if descriptor:
        destination.write(cpu, descriptor.raw >> 32 & 0x00F0FF00 & MASKS[destination.size])
    _set_zf(cpu, value=descriptor is not None)


@semantic("lsl")
def lsl(cpu: Processor, i: Instruction) -> None:
    """LSL: the limit of a segment, with ZF."""
    destination, source = i.operands
    descriptor = _inspect(cpu, source.read(cpu) & 0xFFFF, LSL_SYSTEM)
    if descriptor:
        destination.write(cpu, descriptor.limit & MASKS[destination.size])
    _set_zf(cpu, value=descriptor is not None)


@semantic("verr")
def verr(cpu: Processor, i: Instruction) -> None:
    """VERR: ZF = the segment may be read."""
    descriptor = _inspect(cpu, i.operands[0].read(cpu) & 0xFFFF, frozenset())
    _set_zf(cpu, value=descriptor is not None and descriptor.is_readable)


@semantic("verw")
def verw(cpu: Processor, i: Instruction) -> None:
    """VERW: ZF = the segment may be written."""
    descriptor = _inspect(cpu, i.operands[0].read(cpu) & 0xFFFF, frozenset())
    _set_zf(cpu, value=descriptor is not None and descriptor.is_writable)


@semantic("arpl")
def arpl(cpu: Processor, i: Instruction) -> None:
    """ARPL: raise the destination's RPL to the source's, with ZF."""
    require_protected(cpu)
    destination, source = i.operands
    old, level = destination.modify(cpu), source.read(cpu) & 3
    raised = old & 3 < level
    if raised:
        destination.write(cpu, old & ~3 | level)
    _set_zf(cpu, value=raised)


def _load_pointer(index: int) -> Semantic:
    def execute(cpu: Processor, i: Instruction) -> None:
        """LDS, LES, LSS, LFS, LGS: a far pointer from memory."""
        destination, memory = i.operands[0], _memory(i, 1)
        start, width = memory.offset(cpu), i.size >> 3
        offset = cpu.read(memory.segment, start, width)
        selector = cpu.read(memory.segment, start + width & MASKS[i.address_size], 2)
        load_segment(cpu, index, selector)
        destination.write(cpu, offset)

    return execute


for _name, _index in {"les": ES, "lds": DS, "lss": SS, "lfs": FS, "lgs": GS}.items():
    semantic(_name)(_load_pointer(_index))
