"""VMRUN and #VMEXIT: a processor becomes a guest, and the host again (AMD APM vol. 2, 15.5 and 15.6).

VMRUN keeps little of the host, and #VMEXIT brings that back: the segments ES CS SS DS, GDTR and IDTR, EFER, CR0, CR3, CR4,
RFLAGS, RIP, RSP, RAX. All else a VMM saves and loads itself. The global interrupt flag is set in a guest and clear after it.

Simplified: the host's state stays in the processor, and the host save area is not written (15.30.4: it may). With nested
paging, the nested tables have the four levels of a host in long mode. A #VMEXIT leaves CR4.PCIDE and the PAT alone.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import PF, PF_FETCH, Fault
from vmlab.isa.x86.registers import CR0_PE, CR0_PG, CR4_PAE, CS, DS, EAX, EFER_LMA, EFER_LME, ES, ESP, SS, VM
from vmlab.machine.guest_exit import VALID
from vmlab.machine.svm.checks import is_bad
from vmlab.machine.svm.codes import EXCEPTION, INVALID, ExitCode, SvmExit
from vmlab.machine.svm.guest_state import AREA, AREA_BYTES, load_guest, read_system, store_guest, write_system
from vmlab.machine.svm.vmcb import CONTROL, FIELDS, Control

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = ["can_nest", "enter", "leave", "read_area"]

HOST_SEGMENTS = (ES, CS, SS, DS)
DR7_RESET = 0x400
SHADOW, LONGEST = 1, 15
SIX, OUTCOME = Struct("<6Q"), FIELDS["VIRTUAL_INTERRUPT"].offset
"""From there on: the virtual interrupt, the interrupt shadow, EXITCODE, EXITINFO1, EXITINFO2, EXITINTINFO."""
EVENTINJ, NRIP, FETCHED = (FIELDS[name].offset for name in ("EVENTINJ", "NRIP", "FETCHED"))
FLUSH_ALL, FLUSH_GUEST, FLUSH_GUEST_LOCAL = 1, 3, 7  # TLB_CONTROL


def read_area(cpu: Processor, address: int, size: int) -> bytes:
    """Read a part of a VMCB; all ones where no memory is."""
    if address + size > cpu.memory.size or not cpu.bus.is_ram(address):
        return b"\xff" * size
    return cpu.memory.read_bytes(address, size)


def write_area(cpu: Processor, address: int, data: bytes | bytearray) -> None:
    """Write a part of a VMCB, if there is memory."""
    if address + len(data) <= cpu.memory.size and cpu.bus.is_ram(address):
        cpu.memory.write_bytes(address, bytes(data))


# -- in ----------------------------------------------------------------------------------------------------------------------


def enter(cpu: Processor, vmcb: int) -> None:
    """Run the guest of a VMCB, or leave at once where it cannot be."""
    svm = cpu.svm
    control = Control(*CONTROL.unpack(read_area(cpu, vmcb, CONTROL.size)))
    area = read_area(cpu, vmcb + AREA, AREA_BYTES)
    if is_bad(cpu.model, control, area, can_nest=can_nest(cpu, in_long_mode=cpu.long_mode)):
        _refuse(cpu, vmcb)
        return
    host = _host_state(cpu)
    blocked = cpu.signals.nmi_blocked
    cpu.keep_translations()
    _flush(cpu, control)
    load_guest(cpu, area)
    cpu.cr0, cpu.cr3, cpu.cr4, efer = read_system(area)
    active = efer & EFER_LME and cpu.cr0 & CR0_PG
    cpu.efer = efer & ~EFER_LMA | (EFER_LMA if active else 0)
    svm.host, svm.host_blocks_nmi = host, blocked
    svm.take(vmcb, control)
    cpu.halted, cpu.debug_causes = False, 0
    cpu.interrupt_shadow = bool(control.shadow & SHADOW)
    cpu.injected = (control.event & 0xFFFF_FFFF, control.event >> 32, 0) if control.event & VALID else None
    svm.set_global(on=True)
    cpu.guest_entries += 1
    cpu.choose_operation(non_root=True)
    if not svm.nested and cpu.cr0 & CR0_PG and cpu.cr4 & CR4_PAE and not active:
        try:
            cpu.load_pdptes()
        except Fault:
            leave(cpu, SvmExit(INVALID))


def can_nest(cpu: Processor, *, in_long_mode: bool) -> bool:
    """Say whether there are nested page tables for a host, by its mode."""
    return cpu.has("npt") and in_long_mode


def _refuse(cpu: Processor, vmcb: int) -> None:
    """VMEXIT_INVALID: the host goes on, and nothing else has changed."""
    write_area(cpu, vmcb + FIELDS["EXITCODE"].offset, INVALID.to_bytes(8, "little"))
    cpu.svm.set_global(on=False)


def _flush(cpu: Processor, control: Control) -> None:
    """Drop translations, as TLB_CONTROL says."""
    if not control.tlb_control:
        return
    contexts = cpu.contexts
    if control.tlb_control in (FLUSH_GUEST, FLUSH_GUEST_LOCAL) and cpu.has("flush-by-asid"):
        context = contexts.get(control.asid)
        if context is not None:
            context.tlb.flush("VMRUN", keep_global=control.tlb_control == FLUSH_GUEST_LOCAL)
            context.maps = ({}, {}, {}), ({}, {}, {})
    else:
        for context in contexts.values():
            context.tlb.flush("VMRUN")
            context.maps = ({}, {}, {}), ({}, {}, {})
    if cpu.walk_caches:
        cpu.walk_caches.flush()


# -- out ---------------------------------------------------------------------------------------------------------------------


def leave(cpu: Processor, exit_: SvmExit) -> None:
    """Take a #VMEXIT."""
    svm = cpu.svm
    vmcb = svm.vmcb
    assert vmcb is not None, "there is no guest"
    if cpu.has("decode-assists"):
        exit_.fetched = _instruction_bytes(cpu, exit_)
    cpu.keep_translations()
    area = bytearray(read_area(cpu, vmcb + AREA, AREA_BYTES))
    store_guest(cpu, area)
    write_system(area, cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer)
    write_area(cpu, vmcb + AREA, area)
    memory, shadow = cpu.memory, SHADOW if cpu.interrupt_shadow else 0
    delivering = exit_.vectoring | exit_.vectoring_code << 32
    values = svm.virtual_interrupt(), shadow, exit_.code, exit_.qualification, exit_.info2, delivering
    memory.write_bytes(vmcb + OUTCOME, SIX.pack(*values))
    memory.write(vmcb + EVENTINJ, 8, 0)
    if cpu.has("nrip-save"):
        memory.write(vmcb + NRIP, 8, cpu.ip + exit_.length & cpu.address_mask if exit_.length else 0)
    if cpu.has("decode-assists"):
        memory.write_bytes(vmcb + FETCHED, bytes([len(exit_.fetched)]) + exit_.fetched)
    cpu.signals.block_nmi(blocked=svm.host_blocks_nmi)
    _load_host(cpu)


def _instruction_bytes(cpu: Processor, exit_: SvmExit) -> bytes:
    """Return up to 15 bytes of the instruction whose access to data was the exit (15.10)."""
    if exit_.code not in (ExitCode.NPF, EXCEPTION + PF) or exit_.qualification & PF_FETCH:
        return b""
    linear = cpu.linear_ip
    found = bytearray()
    for address in range(linear, linear + LONGEST):
        physical = cpu.look_up(address)
        if physical is None or not cpu.bus.is_ram(physical):
            break
        found.append(cpu.memory.read(physical, 1))
    return bytes(found)


def _host_state(cpu: Processor) -> tuple[Any, ...]:
    """Return what VMRUN keeps of the host."""
    segments = [cpu.segments[index].key for index in HOST_SEGMENTS]
    tables = cpu.gdtr_base, cpu.gdtr_limit, cpu.idtr_base, cpu.idtr_limit
    control = cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer
    return (*control, *tables, cpu.flags, cpu.ip, cpu.registers[ESP], cpu.registers[EAX], list(cpu.pdptes), segments)


def _load_host(cpu: Processor) -> None:
    """Bring the host back; its breakpoints are off."""
    svm = cpu.svm
    assert svm.host is not None, "VMRUN has kept a host"
    (
        cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.gdtr_base, cpu.gdtr_limit, cpu.idtr_base, cpu.idtr_limit,
        flags, cpu.ip, cpu.registers[ESP], cpu.registers[EAX], cpu.pdptes[:], segments,
    ) = svm.host  # fmt: skip
    cpu.cr0 |= CR0_PE
    cpu.flags = flags & ~VM
    for index, (selector, base, limit, access, big, long) in zip(HOST_SEGMENTS, segments, strict=True):
        cpu.segments[index].set(selector, base, limit, access, big=big, long=long)
    cpu.debug[7] = DR7_RESET
    cpu.halted, cpu.debug_causes, cpu.shadow_at, cpu.injected = False, 0, -1, None
    svm.take(None, None)
    svm.set_global(on=False)
    cpu.choose_operation(non_root=False)
