"""What things cost, in cycles of the simulated processor: the one place for such constants, each with its source.

A cost belongs to a *primitive* (an instruction, a table reference, a trap, a port access); what a workload costs is
counted, never fitted. Orderings and ratios are to be believed, absolute cycles are not.

Sources: [AA] Adams and Agesen, "A Comparison of Software and Hardware Techniques for x86 Virtualization", ASPLOS
2006 (Pentium 4, 3.8 GHz). [XL] Campbell, "Implement faster int 0x80 handling for compat mode guests", a change to Xen with
lmbench's figures, xen.git 3e1b9525de43. [U] marks a figure that is commonly quoted, whose source we have not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AMD_V", "CORE_2", "EMULATOR", "PENTIUM_4", "SANDY_BRIDGE", "WESTMERE", "CostModel", "EmulatorCosts"]


@dataclass(frozen=True, slots=True)
class CostModel:
    """Cycles of each primitive.

    Attributes
    ----------
    instruction : int
        One retired instruction, on average, caches warm.
    walk_reference : int
        One memory reference of the page walker: a reference that hits the second-level cache [U].
    trap : int
        An exception or interrupt delivered through the IDT with a change of ring, and the frame pushed. Derived
        from [AA]: divzero costs 889 native, of which delivery is the larger part and IRET the smaller.
    interrupt_return : int
        IRET to an outer ring (the rest of divzero in [AA]).
    fast_call : int
        SYSENTER, SYSEXIT, SYSCALL or SYSRET: half of the 242 of `syscall` in [AA], there and back [U].
    priority_load : int
        A write of CR8, the task priority: [AA] call 35 about a quarter of it.
    port_access : int
        IN or OUT to a device: 3209 for `in` in [AA].
    control_register : int
        A write of CR3 and the flush with it [U].
    vmm_emulate : int
        Software of a VMM that decodes one instruction and runs it on the VCPU. [AA] measure 3223 for divzero
        under a software VMM against 889 native: about 2300 for the VMM's work on one guest exception.
    vmm_shadow_fill : int
        Software of a VMM that walks the guest's tables and fills one shadow entry: [AA] measure 3927 for a guest
        page fault against 1093 native: about 2800, the emulation of the exception included.
    vmm_traced_write : int
        Software of a VMM that brings the shadow in step after a write to a traced page table, beside the emulation: finds
        the table's shadow pages and changes an entry, ten references (`walk_reference`) [U].
    vmm_sync_entry : int
        Comparing one entry of a guest's table with its shadow: two references (`walk_reference`).
    vmm_shadow_root : int
        Finding the shadow root of a CR3, or a frame for a new one [U].
    vmm_world_switch : int
        Saving one VCPU and loading another [U].
    host_world_switch : int
        From the world of a hosted VMM to that of its host, or back: all that the processor holds is exchanged. 4.45 µs on a
        Pentium III of 733 MHz [U]; that it is "more heavyweight than a normal process switch" is said by Sugerman,
        Venkitachalam and Lim, "Virtualizing I/O Devices on VMware Workstation's Hosted Virtual Machine Monitor", USENIX 2001.
    host_user_return : int
        From a hypervisor in a host's kernel out to its user-mode part and in again: 576 cycles from the `ioctl` to just before
        VMRUN, and 576 back (M. Roth, linux-kernel, December 2020, on KVM for AMD).
    host_scheduler : int
        A general-purpose kernel's choice of another thread, and the switch to it: 1.4 µs at 733 MHz [U].
    vmm_nested_fill : int
        Software of a VMM that fills one entry of the extended page tables: a look at the guest's memory map and one
        write [U].
    vmm_hypercall : int
        Software of a VMM that does one hypercall, but for what is counted by itself: saving and restoring registers, a jump
        through a table. A hypercall of Xen takes 1228 cycles on x86 [U]; less a trap and a return, which the hardware does.
    vmm_bounce : int
        Software of a VMM that hands an exception on to a paravirtualized kernel: a frame on its stack. [XL] measure 0.8680 µs
        for a system call that takes the way through the VMM's #GP handler, against 0.3270 µs for one that goes to the kernel
        directly; less one more trap and return (889 cycles, of which the direct way is made, too).
    vmm_check_entry : int
        Checking one entry of a page table, and counting its frame: two or three references (`walk_reference`).
    vmm_translate : int
        Software of a VMM that translates one unit: about 3 µs (Silberschatz, Galvin and Gagne, *Operating System
        Concepts*, 10th ed., 18.4.2), at the 3.8 GHz of [AA].
    vmm_call_out : int
        A call from translated code into a VMM that knows already which instruction it is to execute: [AA] measure about
        native/15 for `in` under binary translation.
    managed_bytecode : int
        An interpreter of bytecode, for one: some ten instructions, among them an indirect jump that goes elsewhere each time. Ertl
        and Gregg, "The Structure and Performance of Efficient Interpreters", JILP 5, 2003, find that such jumps are mispredicted
        half of the time and more; a Pentium 4 loses 20 cycles each time [U].
    managed_call : int
        The runtime of a managed virtual machine serves one request of its program: registers saved, the service found [U].
    managed_allocation : int
        The runtime allocates an object: finds the gap, writes the header; five references (`walk_reference`).
    managed_visit : int
        A garbage collector looks at an object, to mark or to sweep it: three references (`walk_reference`).
    managed_unwind : int
        The runtime looks for what catches an exception in one frame: five references (`walk_reference`).
    managed_compile : int
        The runtime compiles one bytecode, without optimization: 40 times what it takes to interpret it [U].
    vm_transition : int
        A VM exit and the VM entry after it, which the hardware does [U]: Prescott 3963, Merom 1579, Penryn 1266, Nehalem
        1009, Westmere 761, Sandy Bridge 784. That it has become cheaper with each generation is public. Of AMD-V from before
        a VMRUN to behind it 1344 to 1376 were measured.
    """

    instruction: int = 1
    walk_reference: int = 20
    trap: int = 600
    interrupt_return: int = 289
    fast_call: int = 242 // 2
    priority_load: int = 4 * 35
    port_access: int = 3209
    control_register: int = 100
    vmm_emulate: int = 2300
    vmm_shadow_fill: int = 2800
    vmm_traced_write: int = 200
    vmm_sync_entry: int = 40
    vmm_shadow_root: int = 300
    vmm_world_switch: int = 1000
    host_world_switch: int = 445 * 733 // 100
    host_user_return: int = 576 + 576
    host_scheduler: int = 14 * 733 // 10
    vmm_nested_fill: int = 1000
    vmm_hypercall: int = 1228 - 889
    vmm_bounce: int = 889 * 8680 // 3270 - 2 * 889
    vmm_check_entry: int = 60
    vmm_translate: int = 11_400
    vmm_call_out: int = 3209 // 15
    managed_bytecode: int = 10 + 20 // 2
    managed_call: int = 100
    managed_allocation: int = 5 * 20
    managed_visit: int = 3 * 20
    managed_unwind: int = 5 * 20
    managed_compile: int = 40 * 20
    vm_transition: int = 3963

    @property
    def host_system_call(self) -> int:
        """A system call of a host's process, there and back."""
        return 2 * self.fast_call

    @property
    def vmm_exit(self) -> int:
        """Software of a VMM around a VM exit: registers saved and loaded, the VMCS read and written, the handler found.

        A VMCALL and back takes 1600 to 1700 on an i7-3960X under KVM (a public measurement), of which 784 [U] are the hardware's:
        as much again, and a tenth. The same proportion is assumed for other processors.
        """
        return self.vm_transition * (1650 - 784) // 784


PENTIUM_4 = CostModel()
CORE_2 = CostModel(vm_transition=1579)
WESTMERE = CostModel(vm_transition=761)
SANDY_BRIDGE = CostModel(vm_transition=784)
AMD_V = CostModel(vm_transition=(1344 + 1376) // 2)


@dataclass(frozen=True, slots=True)
class EmulatorCosts:
    """Host cycles of an interpreter's primitives: an emulator of another processor, as a program of the host.

    Attributes
    ----------
    instruction : int
        Executing one guest instruction that has been decoded before. Measured: an interpreter for x86-64, run on this
        laboratory's own x86 (`tests/machine/arm64/interpreter.asm`), executes 10.7 instructions for each of the checksum and
        the sieve of the guest `workload`, at one cycle each. Mispredicted jumps, which cost a real one more, are not in it.
    decode : int
        Decoding one, and keeping what it does: a search of the table, and a record filled [U].
    walk_reference : int
        One entry of the guest's page tables: a load, and a dozen instructions that look at its bits [U].
    fill : int
        Entering a translation into the emulator's table of pages [U].
    exception : int
        Taking one of the guest's exceptions: state saved, level and vector found; no exception of the host is needed [U].
    device : int
        An access to an emulated device: a call of its function, in the same program [U].
    """

    instruction: int = 11
    decode: int = 150
    walk_reference: int = 20 + 12
    fill: int = 50
    exception: int = 100
    device: int = 100


EMULATOR = EmulatorCosts()
