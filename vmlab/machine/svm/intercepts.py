"""Instructions that lead out of a guest, where the VMM asks for them (AMD APM vol. 2, 15.7 to 15.11).

A guard (see `vmlab.machine.intercepts`) looks at the intercepts after the faults that come first (table 15-7: mostly those
for a privilege that lacks), and raises `SvmExit` with EXITINFO1 and EXITINFO2.

What a decoder knows of an instruction (operand registers, addresses) is told by processors with decode assists alone, but for
ports.

Simplified: no RSM, MONITOR, XSETBV, for these are undefined; those of `vmlab.machine.svm.codes.WATCHED`
have no guard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import BP, DB, OF, undefined
from vmlab.isa.x86.operands import MASKS, ControlRegister, DebugRegister
from vmlab.isa.x86.registers import CR0_MP, CR0_TS, DS, ECX, EDX, ES
from vmlab.isa.x86.registers import OF as OVERFLOW
from vmlab.isa.x86.semantics.control_registers import checked_cr0, require_ring_0
from vmlab.isa.x86.semantics.io import check_port
from vmlab.isa.x86.semantics.svm import require_svm
from vmlab.isa.x86.semantics.system import (
    operand_address,
    require_counters,
    require_no_umip,
    require_table,
    require_time_stamp,
)  # fmt: skip
from vmlab.machine.svm.codes import CR_READ, CR_WRITE, DR_READ, DR_WRITE, EXCEPTION, WATCHED, ExitCode, SvmExit

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.processor import Processor

    Guard = Callable[[Processor, Instruction], bool | None]

__all__ = ["GUARDS", "look_for", "move"]

MOVED = 1 << 63
"""Bit of EXITINFO1: it was MOV CRn, and bits 3:0 are the number of the general register."""


def _leave(cpu: Processor, i: Instruction, code: int, info1: int = 0, info2: int = 0) -> None:
    """Leave the guest, if the VMM wants that."""
    if cpu.svm.intercepts >> code & 1:
        raise SvmExit(code, info1, info2, length=i.length)


def _always(code: int) -> Guard:
    def guard(cpu: Processor, i: Instruction) -> None:
        _leave(cpu, i, code)

    return guard


def _privileged(code: int) -> Guard:
    def guard(cpu: Processor, i: Instruction) -> None:
        require_ring_0(cpu)
        _leave(cpu, i, code)

    return guard


def _svm_instruction(code: int) -> Guard:
    def guard(cpu: Processor, i: Instruction) -> None:
        require_svm(cpu)
        _leave(cpu, i, code)

    return guard


def _time_stamp(cpu: Processor, i: Instruction) -> None:
    if i.mnemonic == "rdtscp" and not cpu.has("rdtscp"):
        raise undefined()
    require_time_stamp(cpu)
    _leave(cpu, i, ExitCode.RDTSC if i.mnemonic == "rdtsc" else ExitCode.RDTSCP)


def _performance(cpu: Processor, i: Instruction) -> None:
    require_counters(cpu)
    _leave(cpu, i, ExitCode.RDPMC)


def _invalidate_page(cpu: Processor, i: Instruction) -> None:
    require_ring_0(cpu)
    address = operand_address(cpu, i) if cpu.has("decode-assists") else 0
    _leave(cpu, i, ExitCode.INVLPG, address)


def _tables(code: int, *, stores: bool, real: bool) -> Guard:
    """LGDT to STR."""

    def guard(cpu: Processor, i: Instruction) -> None:
        require_table(cpu, stores=stores, real=real)
        _leave(cpu, i, code)

    return guard


# -- control and debug registers ---------------------------------------------------------------------------------------------


def _register(cpu: Processor, operand: object, bits: int = 0) -> int:
    """Return EXITINFO1 of a move, which has decode assists alone."""
    return bits | getattr(operand, "index", 0) if cpu.has("decode-assists") else 0


def move(cpu: Processor, i: Instruction) -> None:
    """MOV to or from a control or debug register."""
    require_ring_0(cpu)
    destination, source = i.operands
    if isinstance(destination, ControlRegister):
        number, value, info = destination.index, source.read(cpu), _register(cpu, source, MOVED)
        if number == 0:
            _write_cr0(cpu, i, checked_cr0(value), info)
        else:
            _leave(cpu, i, CR_WRITE + number, info)
    elif isinstance(source, ControlRegister):
        _leave(cpu, i, CR_READ + source.index, _register(cpu, destination, MOVED))
    elif isinstance(destination, DebugRegister):
        _leave(cpu, i, DR_WRITE + destination.index, _register(cpu, source))
    elif isinstance(source, DebugRegister):
        _leave(cpu, i, DR_READ + source.index, _register(cpu, destination))


def _write_cr0(cpu: Processor, i: Instruction, value: int, info: int = 0) -> None:
    """Write CR0: the selective intercept is for changes of other bits than TS and MP."""
    _leave(cpu, i, CR_WRITE, info)
    if (value ^ cpu.cr0) & ~(CR0_TS | CR0_MP):
        _leave(cpu, i, ExitCode.CR0_SEL_WRITE, info)


def _store_status(cpu: Processor, i: Instruction) -> None:
    """SMSW reads CR0."""
    require_no_umip(cpu)
    _leave(cpu, i, CR_READ)


def _load_status(cpu: Processor, i: Instruction) -> None:
    """LMSW writes CR0, of which it cannot clear PE."""
    require_ring_0(cpu)
    _leave(cpu, i, CR_WRITE)
    value = i.operands[0].read(cpu) & 0xF
    _write_cr0(cpu, i, cpu.cr0 & ~0xE | value)


def _clear_task_switched(cpu: Processor, i: Instruction) -> None:
    """CLTS writes CR0, but nothing selective."""
    require_ring_0(cpu)
    _leave(cpu, i, CR_WRITE)


# -- ports and MSRs ----------------------------------------------------------------------------------------------------------

# EXITINFO1: [ port 31:16 | segment 12:10 | A64 A32 A16 9:7 | SZ32 SZ16 SZ8 6:4 | REP 3 | STR 2 | IN 0 ]; EXITINFO2: the next rIP
IO_IN, IO_STRING, IO_REPEATED = 1, 4, 8
ADDRESS_SIZES = {16: 1 << 7, 32: 1 << 8, 64: 1 << 9}


def _port(cpu: Processor, i: Instruction) -> None:
    """IN, OUT, INS, OUTS: one bit of the permission map for each port."""
    mnemonic, width = i.mnemonic, i.size >> 3
    string = mnemonic in ("ins", "outs")
    if string:
        if i.repeat and not cpu.registers[ECX] & MASKS[i.address_size]:
            return
        port = cpu.registers[EDX] & 0xFFFF
    else:
        port = i.operands[mnemonic == "in"].read(cpu)
    check_port(cpu, port, width)
    svm = cpu.svm
    if not svm.intercepts >> ExitCode.IOIO & 1:
        return
    bits = cpu.bus.read(svm.iopm + (port >> 3), 1) | cpu.bus.read(svm.iopm + (port >> 3) + 1, 1) << 8
    if not bits >> (port & 7) & (1 << width) - 1:
        return
    info = port << 16 | width << 4 | (IO_IN if mnemonic in ("in", "ins") else 0)
    info |= ADDRESS_SIZES[i.address_size] | (IO_STRING if string else 0) | (IO_REPEATED if i.repeat else 0)
    if string and cpu.has("decode-assists"):
        info |= (ES if mnemonic == "ins" else i.segment if i.segment >= 0 else DS) << 10
    raise SvmExit(ExitCode.IOIO, info, cpu.ip, length=i.length)


MSR_RANGES = (0x0000_0000, 0xC000_0000, 0xC001_0000)
MSRS_IN_RANGE, BYTES_OF_RANGE = 0x2000, 0x800


def _msr(cpu: Processor, i: Instruction) -> None:
    """RDMSR and WRMSR: two bits of the permission map for each of three ranges; others are always wanted."""
    require_ring_0(cpu)
    svm = cpu.svm
    if not svm.intercepts >> ExitCode.MSR & 1:
        return
    number, writes = cpu.registers[ECX] & 0xFFFF_FFFF, i.mnemonic == "wrmsr"
    for n, first in enumerate(MSR_RANGES):
        if first <= number < first + MSRS_IN_RANGE:
            bit = 2 * (number - first) + writes
            if not cpu.bus.read(svm.msrpm + n * BYTES_OF_RANGE + (bit >> 3), 1) >> (bit & 7) & 1:
                return
    raise SvmExit(ExitCode.MSR, int(writes), length=i.length)


# -- exceptions that instructions ask for ------------------------------------------------------------------------------------


def _into(cpu: Processor, i: Instruction) -> None:
    if cpu.flags & OVERFLOW:
        _leave(cpu, i, EXCEPTION + OF)


def _icebp(cpu: Processor, i: Instruction) -> None:
    """INT1 has an intercept of its own; its #DB another."""
    _leave(cpu, i, ExitCode.ICEBP)
    _leave(cpu, i, EXCEPTION + DB)


def look_for(cpu: Processor, i: Instruction) -> None:
    """Look whether the next instruction is one of those that are watched."""
    code = WATCHED.get(i.mnemonic)
    if code is not None:
        vector = i.operands[0].read(cpu) if code is ExitCode.SWINT and cpu.has("decode-assists") else 0
        _leave(cpu, i, code, vector)


GUARDS: dict[str, Guard] = {
    "cpuid": _always(ExitCode.CPUID),
    "pause": _always(ExitCode.PAUSE),
    "hlt": _privileged(ExitCode.HLT),
    "invd": _privileged(ExitCode.INVD),
    "wbinvd": _privileged(ExitCode.WBINVD),
    "rdtsc": _time_stamp,
    "rdtscp": _time_stamp,
    "rdpmc": _performance,
    "invlpg": _invalidate_page,
    "smsw": _store_status,
    "lmsw": _load_status,
    "clts": _clear_task_switched,
    "in": _port,
    "out": _port,
    "ins": _port,
    "outs": _port,
    "rdmsr": _msr,
    "wrmsr": _msr,
    "int3": _always(EXCEPTION + BP),
    "into": _into,
    "int1": _icebp,
    "sidt": _tables(ExitCode.IDTR_READ, stores=True, real=True),
    "sgdt": _tables(ExitCode.GDTR_READ, stores=True, real=True),
    "sldt": _tables(ExitCode.LDTR_READ, stores=True, real=False),
    "str": _tables(ExitCode.TR_READ, stores=True, real=False),
    "lidt": _tables(ExitCode.IDTR_WRITE, stores=False, real=True),
    "lgdt": _tables(ExitCode.GDTR_WRITE, stores=False, real=True),
    "lldt": _tables(ExitCode.LDTR_WRITE, stores=False, real=False),
    "ltr": _tables(ExitCode.TR_WRITE, stores=False, real=False),
    "vmmcall": _always(ExitCode.VMMCALL),
    **{name: _svm_instruction(ExitCode[name.upper()]) for name in ("vmrun", "vmload", "vmsave", "stgi", "clgi", "skinit", "invlpga")},
}  # fmt: skip
"""Guards by mnemonic."""
