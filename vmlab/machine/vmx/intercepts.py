"""Instructions that lead out of a guest: which they are, and what the VMM asks for (Intel SDM vol. 3, 25.1 to 25.3).

A guard (see `vmlab.machine.intercepts`) looks at the controls, after the faults that come first (#UD, and #GP for CPL, IOPL
and the like: 25.1.1), and raises `VmExit` with the exit qualification of 27.2.1; or it does what the instruction does
otherwise in a guest, and says so.

Simplified: of the VM-exit instruction information only what INS and OUTS need is given; no XSAVE, MONITOR, RDRAND, GETSEC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import BP, DB, OF, undefined
from vmlab.isa.x86.faults import general_protection as gp
from vmlab.isa.x86.operands import MASKS, ControlRegister, DebugRegister, Memory
from vmlab.isa.x86.registers import DS, ECX, EDI, EDX, ES, ESI
from vmlab.isa.x86.registers import OF as OVERFLOW
from vmlab.isa.x86.semantics.control_registers import checked_cr0, require_ring_0
from vmlab.isa.x86.semantics.io import check_port
from vmlab.isa.x86.semantics.system import (
    operand_address,
    require_counters,
    require_no_umip,
    require_table,
    require_time_stamp,
)  # fmt: skip
from vmlab.isa.x86.semantics.vmx import require_mode
from vmlab.machine import guest_exit as e
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason as Reason
from vmlab.machine.vmx.reasons import VmExit
from vmlab.machine.vmx.virtual_apic import read_priority, write_priority

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.processor import Processor

    Guard = Callable[[Processor, Instruction], bool | None]

__all__ = ["GUARDS", "move", "shown"]


def _exit(cpu: Processor, i: Instruction, reason: Reason, qualification: int = 0, **more: int) -> VmExit:
    return VmExit(reason, qualification, length=i.length, **more)


# -- what always exits, and what one control decides ------------------------------------------------------------------------


def _always(reason: Reason, *, privileged: bool = False) -> Guard:
    def guard(cpu: Processor, i: Instruction) -> None:
        if privileged:
            require_ring_0(cpu)
        raise _exit(cpu, i, reason)

    return guard


def _when(bit: int, reason: Reason, *, privileged: bool = False) -> Guard:
    """Exit where a primary control says so."""

    def guard(cpu: Processor, i: Instruction) -> None:
        if privileged:
            require_ring_0(cpu)
        if cpu.vmx.primary & bit:
            raise _exit(cpu, i, reason)

    return guard


def _vmx_instruction(reason: Reason) -> Guard:
    def guard(cpu: Processor, i: Instruction) -> None:
        if reason is not Reason.VMCALL:
            require_mode(cpu)
        raise _exit(cpu, i, reason)

    return guard


def _time_stamp(cpu: Processor, i: Instruction) -> None:
    if i.mnemonic == "rdtscp" and not cpu.vmx.secondary & c.ENABLE_RDTSCP:
        raise undefined()
    require_time_stamp(cpu)
    if cpu.vmx.primary & c.RDTSC_EXITING:
        raise _exit(cpu, i, Reason.RDTSC if i.mnemonic == "rdtsc" else Reason.RDTSCP)


def _performance(cpu: Processor, i: Instruction) -> None:
    require_counters(cpu)
    if cpu.vmx.primary & c.RDPMC_EXITING:
        raise _exit(cpu, i, Reason.RDPMC)


def _invalidate_page(cpu: Processor, i: Instruction) -> None:
    require_ring_0(cpu)
    if cpu.vmx.primary & c.INVLPG_EXITING:
        raise _exit(cpu, i, Reason.INVLPG, operand_address(cpu, i))


def _invalidate_pcid(cpu: Processor, i: Instruction) -> None:
    if not cpu.vmx.secondary & c.ENABLE_INVPCID:
        raise undefined()
    require_ring_0(cpu)
    if cpu.vmx.primary & c.INVLPG_EXITING:
        raise _exit(cpu, i, Reason.INVPCID)


def _write_back(cpu: Processor, i: Instruction) -> None:
    require_ring_0(cpu)
    if cpu.vmx.secondary & c.WBINVD_EXITING:
        raise _exit(cpu, i, Reason.WBINVD)


def _tables(reason: Reason, *, stores: bool, real: bool) -> Guard:
    """LGDT to STR: descriptor-table exiting."""

    def guard(cpu: Processor, i: Instruction) -> None:
        require_table(cpu, stores=stores, real=real)
        if cpu.vmx.secondary & c.DESCRIPTOR_TABLE_EXITING:
            raise _exit(cpu, i, reason)

    return guard


# -- control and debug registers (qualification: tables 27-3 and 27-4) -----------------------------------------------------

TO_CR, FROM_CR, CLTS, LMSW = range(4)


def move(cpu: Processor, i: Instruction) -> bool | None:
    """MOV to or from a control or debug register."""
    require_ring_0(cpu)
    destination, source = i.operands
    if isinstance(destination, DebugRegister) or isinstance(source, DebugRegister):
        _move_debug(cpu, i)
        return None
    if isinstance(destination, ControlRegister):
        _move_to_control(cpu, i, destination.index, source.read(cpu), getattr(source, "index", 0))
        return _keep_masked(cpu, destination.index, source.read(cpu))
    assert isinstance(source, ControlRegister)
    return _move_from_control(cpu, i, source.index)


def _control_qualification(number: int, access: int, register: int) -> int:
    return number | access << 4 | register << 8


def _move_to_control(cpu: Processor, i: Instruction, number: int, value: int, register: int) -> None:
    vmx, fields = cpu.vmx, cpu.vmx.fields
    leaves = {
        0: (value ^ fields[f.CR0_SHADOW]) & fields[f.CR0_MASK],
        3: vmx.primary & c.CR3_LOAD_EXITING and value not in _targets(fields),
        4: (value ^ fields[f.CR4_SHADOW]) & fields[f.CR4_MASK],
        8: vmx.primary & c.CR8_LOAD_EXITING,
    }
    if leaves.get(number):
        raise _exit(cpu, i, Reason.CR_ACCESS, _control_qualification(number, TO_CR, register))


def _targets(fields: dict[int, int]) -> list[int]:
    return [fields[f.CR3_TARGET0 + 2 * n] for n in range(fields[f.CR3_TARGET_COUNT])]


def _keep_masked(cpu: Processor, number: int, value: int) -> bool | None:
    """Load CR0 or CR4 but for the bits that the host owns, which keep their real values; or the virtual CR8."""
    fields = cpu.vmx.fields
    if number == 0 and fields[f.CR0_MASK]:
        mask = fields[f.CR0_MASK]
        cpu.set_cr0(checked_cr0(cpu.cr0 & mask | value & ~mask))
        return True
    if number == 4 and fields[f.CR4_MASK]:
        mask = fields[f.CR4_MASK]
        cpu.set_cr4(cpu.cr4 & mask | value & ~mask)
        return True
    if number == 8 and cpu.vmx.primary & c.USE_TPR_SHADOW:
        if value >> 4:
            raise gp()
        write_priority(cpu, value)
        return True
    return None


def _move_from_control(cpu: Processor, i: Instruction, number: int) -> bool | None:
    vmx, fields = cpu.vmx, cpu.vmx.fields
    destination = i.operands[0]
    leaves = {3: c.CR3_STORE_EXITING, 8: c.CR8_STORE_EXITING}
    if vmx.primary & leaves.get(number, 0):
        register = getattr(destination, "index", 0)
        raise _exit(cpu, i, Reason.CR_ACCESS, _control_qualification(number, FROM_CR, register))
    if number == 8 and vmx.primary & c.USE_TPR_SHADOW:
        destination.write(cpu, read_priority(cpu))
        return True
    if number == 0:
        destination.write(cpu, shown(cpu.cr0, fields[f.CR0_MASK], fields[f.CR0_SHADOW]) & MASKS[destination.size])
        return True
    if number == 4:
        destination.write(cpu, shown(cpu.cr4, fields[f.CR4_MASK], fields[f.CR4_SHADOW]) & MASKS[destination.size])
        return True
    return None


def shown(real: int, mask: int, shadow: int) -> int:
    """Return what a guest reads: of bits that the host owns the read shadow."""
    return real & ~mask | shadow & mask


def _store_status(cpu: Processor, i: Instruction) -> bool:
    """SMSW."""
    require_no_umip(cpu)
    destination, fields = i.operands[0], cpu.vmx.fields
    destination.write(cpu, shown(cpu.cr0, fields[f.CR0_MASK], fields[f.CR0_SHADOW]) & MASKS[destination.size])
    return True


def _load_status(cpu: Processor, i: Instruction) -> None:
    """LMSW: an exit where it would change a bit that the host owns; PE can be set alone."""
    require_ring_0(cpu)
    fields, value = cpu.vmx.fields, i.operands[0].read(cpu) & 0xF
    mask, shadow = fields[f.CR0_MASK] & 0xF, fields[f.CR0_SHADOW]
    if (value ^ shadow) & mask & 0xE or value & mask & ~shadow & 1:
        kind = 1 if isinstance(i.operands[0], Memory) else 0
        raise _exit(cpu, i, Reason.CR_ACCESS, LMSW << 4 | kind << 6 | value << 16)


def _clear_task_switched(cpu: Processor, i: Instruction) -> bool | None:
    """CLTS."""
    require_ring_0(cpu)
    fields = cpu.vmx.fields
    if fields[f.CR0_MASK] & 8:
        if fields[f.CR0_SHADOW] & 8:
            raise _exit(cpu, i, Reason.CR_ACCESS, CLTS << 4)
        return True  # it is clear already, as far as the guest sees
    return None


def _move_debug(cpu: Processor, i: Instruction) -> None:
    if cpu.vmx.primary & c.MOV_DR_EXITING:
        destination, source = i.operands
        from_debug = isinstance(source, DebugRegister)
        number, general = (source, destination) if from_debug else (destination, source)
        qualification = getattr(number, "index", 0) | from_debug << 4 | getattr(general, "index", 0) << 8
        raise _exit(cpu, i, Reason.MOV_DR, qualification)


# -- ports and MSRs ----------------------------------------------------------------------------------------------------------

IO_SIZE, IO_IN, IO_STRING, IO_REPEATED, IO_IMMEDIATE, IO_PORT_SHIFT = 7, 8, 16, 32, 64, 16
PORTS_A = 0x8000


def _port(cpu: Processor, i: Instruction) -> None:
    """IN, OUT, INS, OUTS (qualification: table 27-5)."""
    mnemonic, width = i.mnemonic, i.size >> 3
    string = mnemonic in ("ins", "outs")
    if string:
        if i.repeat and not cpu.registers[ECX] & MASKS[i.address_size]:
            return
        port, immediate = cpu.registers[EDX] & 0xFFFF, False
    else:
        operand = i.operands[mnemonic == "in"]
        port, immediate = operand.read(cpu), i.row.operands[mnemonic == "in"] != "DX"
    check_port(cpu, port, width)
    if not _leaves_for_port(cpu, port, width):
        return
    qualification = width - 1 | port << IO_PORT_SHIFT
    qualification |= (IO_IN if mnemonic in ("in", "ins") else 0) | (IO_STRING if string else 0)
    qualification |= (IO_REPEATED if i.repeat else 0) | (IO_IMMEDIATE if immediate else 0)
    linear, info = None, 0
    if string:
        segment = ES if mnemonic == "ins" else i.segment if i.segment >= 0 else DS
        pointer = cpu.registers[EDI if mnemonic == "ins" else ESI] & MASKS[i.address_size]
        linear = cpu.linear_address(segment, pointer)
        info = {16: 0, 32: 1, 64: 2}[i.address_size] << 7 | segment << 15
    raise VmExit(Reason.IO_INSTRUCTION, qualification, length=i.length, info=info, linear=linear)


def _leaves_for_port(cpu: Processor, port: int, width: int) -> bool:
    primary, fields = cpu.vmx.primary, cpu.vmx.fields
    if not primary & c.USE_IO_BITMAPS:
        return bool(primary & c.UNCONDITIONAL_IO_EXITING)
    if port + width > 0x1_0000:
        return True
    for number in range(port, port + width):
        bitmap = fields[f.IO_BITMAP_B if number >= PORTS_A else f.IO_BITMAP_A]
        if cpu.bus.read(bitmap + ((number & PORTS_A - 1) >> 3), 1) >> (number & 7) & 1:
            return True
    return False


def _msr(cpu: Processor, i: Instruction) -> None:
    """RDMSR and WRMSR: by the bitmap, whose quarters are reads of low and high numbers, then writes."""
    require_ring_0(cpu)
    number, writes = cpu.registers[ECX] & 0xFFFF_FFFF, i.mnemonic == "wrmsr"
    leaves = True
    if cpu.vmx.primary & c.USE_MSR_BITMAPS and number & 0x1FFF_FFFF & ~0x1FFF == 0 and number >> 29 in (0, 6):
        place = cpu.vmx.fields[f.MSR_BITMAP] + (writes << 11 | (number >> 31) << 10) + ((number & 0x1FFF) >> 3)
        leaves = bool(cpu.bus.read(place, 1) >> (number & 7) & 1)
    if leaves:
        raise _exit(cpu, i, Reason.WRMSR if writes else Reason.RDMSR)


# -- exceptions that instructions ask for ------------------------------------------------------------------------------------


def _software_exception(vector: int, kind: int) -> Guard:
    """INT3, INTO and INT1: by the exception bitmap."""

    def guard(cpu: Processor, i: Instruction) -> None:
        if vector == OF and not cpu.flags & OVERFLOW:
            return
        if cpu.vmx.fields[f.EXCEPTION_BITMAP] >> vector & 1:
            information = e.VALID | kind << e.TYPE_SHIFT | vector
            raise VmExit(Reason.EXCEPTION_OR_NMI, length=i.length, interruption=information)

    return guard


GUARDS: dict[str, Guard] = {
    "cpuid": _always(Reason.CPUID),
    "invd": _always(Reason.INVD, privileged=True),
    "hlt": _when(c.HLT_EXITING, Reason.HLT, privileged=True),
    "pause": _when(c.PAUSE_EXITING, Reason.PAUSE),
    "rdtsc": _time_stamp,
    "rdtscp": _time_stamp,
    "rdpmc": _performance,
    "invlpg": _invalidate_page,
    "invpcid": _invalidate_pcid,
    "wbinvd": _write_back,
    "smsw": _store_status,
    "lmsw": _load_status,
    "clts": _clear_task_switched,
    "in": _port,
    "out": _port,
    "ins": _port,
    "outs": _port,
    "rdmsr": _msr,
    "wrmsr": _msr,
    "int3": _software_exception(BP, e.SOFTWARE_EXCEPTION),
    "into": _software_exception(OF, e.SOFTWARE_EXCEPTION),
    "int1": _software_exception(DB, e.PRIVILEGED_EXCEPTION),
    **{name: _tables(Reason.GDTR_IDTR_ACCESS, stores=name[0] == "s", real=True) for name in ("sgdt", "sidt", "lgdt", "lidt")},
    **{name: _tables(Reason.LDTR_TR_ACCESS, stores=name[0] == "s", real=False) for name in ("sldt", "str", "lldt", "ltr")},
    **{
        name: _vmx_instruction(Reason[name.upper()])
        for name in (
            "vmcall", "vmclear", "vmlaunch", "vmptrld", "vmptrst", "vmread", "vmresume", "vmwrite", "vmxoff", "vmxon",
            "invept", "invvpid",
        )
    },
}  # fmt: skip
"""Guards by mnemonic; one returns True where it has done all that there is to do."""
