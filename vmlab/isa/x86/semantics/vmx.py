"""Instructions of the virtual-machine extensions (SDM vol. 3, chapter "VMX Instruction Reference").

They are undefined (#UD) outside of VMX operation, which VMXON enters where CR4.VMXE is set, outside of protected mode, and
in compatibility mode. How one went its flags tell, as the manual's pseudo-functions say:

    VMsucceed       CF PF AF ZF SF OF = 0
    VMfailInvalid   CF = 1, the others 0: there is no current VMCS that could hold the error
    VMfailValid     ZF = 1, the others 0: the VM-instruction error field holds its number

What they do is the processor's: `vmlab.machine.vmx`. In VMX non-root operation they are VM exits, all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import undefined
from vmlab.isa.x86.operands import MASKS, Memory
from vmlab.isa.x86.registers import ARITHMETIC, CF, CR0_PE, CR4_VMXE, VM, ZF
from vmlab.isa.x86.semantics.control_registers import require_ring_0
from vmlab.isa.x86.semantics.registry import Semantic, semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor

INVALID = -1
"""In place of an error number: VMfailInvalid."""
CALL_IN_ROOT, ON_IN_ROOT = 1, 15  # VM-instruction error numbers (SDM vol. 3, 30.4)


def require_mode(cpu: Processor) -> None:
    """Raise #UD in the modes that have no VMX instructions."""
    if not cpu.cr0 & CR0_PE or cpu.flags & VM or (cpu.long_mode and not cpu.code_64):
        raise undefined()


def _require_root(cpu: Processor) -> None:
    """Raise #UD outside of VMX operation, #GP(0) outside ring 0."""
    if not cpu.vmx.on:
        raise undefined()
    require_mode(cpu)
    require_ring_0(cpu)


def _finish(cpu: Processor, error: int) -> None:
    cpu.flags = cpu.flags & ~ARITHMETIC | (CF if error == INVALID else ZF if error else 0)


def _memory(i: Instruction, index: int = 0) -> Memory:
    operand = i.operands[index]
    assert isinstance(operand, Memory)
    return operand


@semantic("vmxon")
def vmxon(cpu: Processor, i: Instruction) -> None:
    """VMXON: enter VMX operation."""
    if not cpu.has("vmx") or not cpu.cr4 & CR4_VMXE:
        raise undefined()
    require_mode(cpu)
    require_ring_0(cpu)
    if cpu.vmx.on:
        _finish(cpu, cpu.vmx.fail(ON_IN_ROOT))
        return
    _finish(cpu, cpu.vmx.turn_on(_memory(i).read(cpu)))


@semantic("vmxoff")
def vmxoff(cpu: Processor, i: Instruction) -> None:
    """VMXOFF: leave VMX operation."""
    _require_root(cpu)
    _finish(cpu, cpu.vmx.turn_off())


@semantic("vmclear")
def vmclear(cpu: Processor, i: Instruction) -> None:
    """VMCLEAR: write a VMCS to its region, whose launch state is clear then."""
    _require_root(cpu)
    _finish(cpu, cpu.vmx.clear(_memory(i).read(cpu)))


@semantic("vmptrld")
def vmptrld(cpu: Processor, i: Instruction) -> None:
    """VMPTRLD: make a VMCS the current one."""
    _require_root(cpu)
    _finish(cpu, cpu.vmx.load_pointer(_memory(i).read(cpu)))


@semantic("vmptrst")
def vmptrst(cpu: Processor, i: Instruction) -> None:
    """VMPTRST: store the address of the current VMCS, all ones if there is none."""
    _require_root(cpu)
    i.operands[0].write(cpu, cpu.vmx.pointer())
    _finish(cpu, 0)


@semantic("vmread")
def vmread(cpu: Processor, i: Instruction) -> None:
    """VMREAD: a field of the current VMCS, cut or extended to the operand's size."""
    _require_root(cpu)
    destination, encoding = i.operands
    error, value = cpu.vmx.read_field(encoding.read(cpu))
    if not error:
        destination.write(cpu, value & MASKS[destination.size])
    _finish(cpu, error)


@semantic("vmwrite")
def vmwrite(cpu: Processor, i: Instruction) -> None:
    """VMWRITE."""
    _require_root(cpu)
    encoding, source = i.operands
    _finish(cpu, cpu.vmx.write_field(encoding.read(cpu), source.read(cpu)))


@semantic("vmcall")
def vmcall(cpu: Processor, i: Instruction) -> None:
    """VMCALL in root operation, where nobody is called: there is no SMM monitor."""
    if not cpu.vmx.on:
        raise undefined()
    require_ring_0(cpu)
    _finish(cpu, cpu.vmx.fail(CALL_IN_ROOT))


def _enter(*, launch: bool) -> Semantic:
    def execute(cpu: Processor, i: Instruction) -> None:
        """VMLAUNCH, VMRESUME: where they succeed, the flags are the guest's now."""
        _require_root(cpu)
        error = cpu.vmx.enter(launch=launch)
        if error:
            _finish(cpu, error)

    return execute


semantic("vmlaunch")(_enter(launch=True))
semantic("vmresume")(_enter(launch=False))


@semantic("invept", "invvpid")
def invalidate(cpu: Processor, i: Instruction) -> None:
    """INVEPT, INVVPID: drop translations, by a type in a register and a descriptor of 16 bytes in memory."""
    if not cpu.has("ept" if i.mnemonic == "invept" else "vpid"):
        raise undefined()
    _require_root(cpu)
    kind, memory = i.operands[0], _memory(i, 1)
    start, mask = memory.offset(cpu), MASKS[i.address_size]
    cpu.check(memory.segment, start, 16, write=False)
    low, high = cpu.read(memory.segment, start, 8), cpu.read(memory.segment, start + 8 & mask, 8)
    _finish(cpu, cpu.vmx.invalidate(i.mnemonic, kind.read(cpu), low, high))
