"""Instructions of AMD's extensions for virtualization, SVM (AMD APM vol. 3, at each of them; vol. 2, 15.5 and 15.17).

They are undefined (#UD) unless EFER.SVME is set, and outside of protected mode; in ring 3 they fault (#GP). VMMCALL calls
nobody unless a VMM has asked for it: #UD. What they do is the processor's: `vmlab.machine.svm`.

    VMRUN, VMLOAD, VMSAVE   rAX: the physical address of a VMCB, as wide as addresses are
    INVLPGA                 rAX: a linear address, ECX: an ASID

Simplified: SKINIT is undefined, as on a processor without secure initialization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.faults import undefined
from vmlab.isa.x86.operands import MASKS
from vmlab.isa.x86.registers import CR0_PE, EAX, ECX, EFER_SVME, VM
from vmlab.isa.x86.semantics.control_registers import require_ring_0
from vmlab.isa.x86.semantics.registry import semantic

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.isa.x86.semantics.processor import Processor


def require_svm(cpu: Processor) -> None:
    """Raise #UD where there are no such instructions, #GP(0) outside ring 0."""
    if not cpu.efer & EFER_SVME or not cpu.cr0 & CR0_PE or cpu.flags & VM:
        raise undefined()
    require_ring_0(cpu)


def address(cpu: Processor, i: Instruction) -> int:
    """Return rAX, as wide as the instruction's addresses."""
    return cpu.registers[EAX] & MASKS[i.address_size]


@semantic("vmrun")
def vmrun(cpu: Processor, i: Instruction) -> None:
    """VMRUN: run a guest; this processor goes on behind the instruction when the guest exits."""
    require_svm(cpu)
    cpu.svm.run(address(cpu, i))


@semantic("vmload")
def vmload(cpu: Processor, i: Instruction) -> None:
    """VMLOAD: load what VMRUN leaves alone."""
    require_svm(cpu)
    cpu.svm.load_more(address(cpu, i))


@semantic("vmsave")
def vmsave(cpu: Processor, i: Instruction) -> None:
    """VMSAVE: store it."""
    require_svm(cpu)
    cpu.svm.save_more(address(cpu, i))


@semantic("stgi")
def stgi(cpu: Processor, i: Instruction) -> None:
    """STGI: let interrupts of every kind come."""
    require_svm(cpu)
    cpu.svm.set_global(on=True)


@semantic("clgi")
def clgi(cpu: Processor, i: Instruction) -> None:
    """CLGI: hold all of them back."""
    require_svm(cpu)
    cpu.svm.set_global(on=False)


@semantic("invlpga")
def invlpga(cpu: Processor, i: Instruction) -> None:
    """INVLPGA: drop the translation of a page in the address space of an ASID."""
    require_svm(cpu)
    cpu.svm.invalidate(address(cpu, i), cpu.registers[ECX] & MASKS[32])


@semantic("vmmcall", "skinit")
def call(cpu: Processor, i: Instruction) -> None:
    """VMMCALL where no VMM listens, and SKINIT."""
    raise undefined()
