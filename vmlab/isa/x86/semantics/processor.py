"""What a processor offers to the semantics of an instruction: registers, memory, ports, and the privilege level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.descriptors import SegmentRegister
    from vmlab.isa.x86.instruction import Instruction


class Virtualization(Protocol):
    """The virtual-machine extensions of a processor, as its instructions use them.

    A method that can fail returns 0 for success, the number of the VM-instruction error, or `INVALID` where there is no
    current VMCS that could hold one (SDM vol. 3, 30.2).
    """

    on: bool

    def turn_on(self, region: int) -> int:
        """VMXON; may raise #GP(0)."""

    def turn_off(self) -> int:
        """VMXOFF."""

    def clear(self, pointer: int) -> int:
        """VMCLEAR."""

    def load_pointer(self, pointer: int) -> int:
        """VMPTRLD."""

    def pointer(self) -> int:
        """VMPTRST."""

    def read_field(self, encoding: int) -> tuple[int, int]:
        """VMREAD: how it went, and the value."""

    def write_field(self, encoding: int, value: int) -> int:
        """VMWRITE."""

    def enter(self, *, launch: bool) -> int:
        """VMLAUNCH or VMRESUME; 0 where the guest runs now, or a VM exit has led back."""

    def invalidate(self, name: str, kind: int, low: int, high: int) -> int:
        """INVEPT or INVVPID, by its type and the two halves of its descriptor."""

    def fail(self, error: int) -> int:
        """Note an error in the current VMCS, if there is one; return it, or `INVALID`."""


class SecureVirtualMachine(Protocol):
    """AMD's extensions for virtualization, as their instructions use them."""

    def run(self, vmcb: int) -> None:
        """VMRUN; #GP(0) for what is no address of a VMCB. The guest runs now, or an exit has led back."""

    def load_more(self, vmcb: int) -> None:
        """VMLOAD; #GP(0) as above."""

    def save_more(self, vmcb: int) -> None:
        """VMSAVE; #GP(0) as above."""

    def set_global(self, *, on: bool) -> None:
        """STGI and CLGI."""

    def invalidate(self, linear: int, asid: int) -> None:
        """INVLPGA."""


class Processor(Protocol):
    """The architectural state and the environment in which an instruction executes.

    The physical CPU is one and a VCPU is one: the same semantic function serves both. Sizes are in bytes,
    values are masked. Every access may raise `Fault`; nothing has changed then.
    """

    registers: list[int]
    ip: int
    flags: int
    segments: list[SegmentRegister]
    ldtr: SegmentRegister
    tr: SegmentRegister
    gdtr_base: int
    gdtr_limit: int
    idtr_base: int
    idtr_limit: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    efer: int
    code_64: bool
    address_mask: int
    debug: list[int]
    msrs: dict[int, int]
    halted: bool
    delivered: int
    fast_calls: int
    interrupt_shadow: bool
    steps_late: bool

    @property
    def vmx(self) -> Virtualization:
        """The virtual-machine extensions."""

    @property
    def svm(self) -> SecureVirtualMachine:
        """The same of AMD's make."""

    @property
    def repeat_quickly(self) -> Callable[[Any, Instruction], object] | None:
        """What may do more elements of a repeated string instruction, called between two of them; None where nothing may."""

    @property
    def cpl(self) -> int:
        """Current privilege level, 0 to 3."""

    @property
    def long_mode(self) -> bool:
        """True where long mode is active, in 64-bit or compatibility code."""

    def linear_address(self, segment: int, offset: int) -> int:
        """Return the linear address of `segment:offset`, without a check."""

    def read(self, segment: int, offset: int, size: int) -> int:
        """Read `size` bytes at `segment:offset` with the privilege of the running code."""

    def modify(self, segment: int, offset: int, size: int) -> int:
        """Read a value that will be written back: faults as the write would."""

    def write(self, segment: int, offset: int, size: int, value: int) -> None:
        """Write `size` bytes at `segment:offset`."""

    def check(self, segment: int, offset: int, size: int, *, write: bool) -> None:
        """Fault as an access of `size` bytes at `segment:offset` would, without it."""

    def read_system(self, linear: int, size: int) -> int:
        """Read a system structure (descriptor table, TSS) with supervisor privilege."""

    def write_system(self, linear: int, size: int, value: int) -> None:
        """Write a system structure with supervisor privilege."""

    def write_linear(self, linear: int, size: int, value: int, *, user: bool) -> None:
        """Write to a linear address with supervisor or user privilege."""

    def port_read(self, port: int, size: int) -> int:
        """Read an I/O port."""

    def port_write(self, port: int, size: int, value: int) -> None:
        """Write an I/O port."""

    def set_cr0(self, value: int) -> None:
        """Load CR0 with its side effects on translation; the value is already checked."""

    def set_cr3(self, value: int) -> None:
        """Load CR3 and flush the translations that are not global."""

    def set_cr4(self, value: int) -> None:
        """Load CR4 with its side effects on translation."""

    def invalidate_page(self, linear: int) -> None:
        """Drop the translation of one page."""

    def invalidate_pcid(self, kind: int, pcid: int, linear: int) -> None:
        """Drop translations by process-context identifier, as INVPCID says."""

    def before_task_switch(self, selector: int, source: int) -> None:
        """Look whether a task switch is a VM exit instead; `source` as in its exit qualification."""

    def has(self, feature: str) -> bool:
        """Say whether the model has a feature (see `vmlab.machine.cpu_features`)."""

    def code_changed(self) -> None:
        """Note a new CS: default operand size and privilege level may be others."""

    def segment_changed(self) -> None:
        """Note a new ES, SS, DS, FS or GS: its base, limit or type may be another."""

    def debug_trap(self, cause: int) -> None:
        """Ask for #DB after this instruction, with these bits of DR6."""

    def flags_changed(self) -> None:
        """Note that IF or TF may have changed."""

    def read_msr(self, number: int) -> int:
        """Read a model-specific register; #GP(0) where the model has none of that number."""

    def write_msr(self, number: int, value: int) -> None:
        """Write a model-specific register; #GP(0) where the model has none of that number or forbids the value."""

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """Return EAX, EBX, ECX, EDX of a CPUID leaf."""

    def time_stamp(self) -> int:
        """Return the time-stamp counter."""

    def relax(self) -> None:
        """Wait a little for other processors (PAUSE)."""

    def end_nmi(self) -> None:
        """Let a further NMI come (IRET)."""

    def wake_on_interrupt(self) -> None:
        """Stop executing until an interrupt arrives (HLT)."""
