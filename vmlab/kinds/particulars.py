"""What is particular about the systems that the textbook names (18.5), each with where it is documented.

They say what the real products are like. What a preset does of it is said in its `runs`, and what it leaves out in `not_here`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PARTICULARS", "Particulars"]


@dataclass(frozen=True, slots=True)
class Particulars:
    """A product.

    Attributes
    ----------
    name : str
        The product.
    since : int
        Year of its first release.
    facts : tuple of str
        What is particular about it.
    source : str
        Where that is documented.
    runs : str
        What of it runs here.
    not_here : str
        What does not.
    """

    name: str
    since: int
    facts: tuple[str, ...]
    source: str
    runs: str
    not_here: str


PARTITIONS = "partitions with processors, memory zones and devices of their own; a control partition whose kernel serves the others' disks by a channel"
HOSTED = "a host kernel with processes in ring 3 beside the virtual machines, which are processes; devices in the user mode of those"
CONTROL = (
    "a hypervisor without drivers; a control domain whose kernel drives the disk, and serves the others by a channel"
)

PARTICULARS: dict[str, Particulars] = {
    each.name: each
    for each in (
        Particulars(
            "IBM LPAR",
            1988,
            (
                "PR/SM, in the firmware of the mainframe, divides it into logical partitions; a processor is dedicated to one, or shared",
                "each partition has a zone of real memory of its own, which the hardware relocates and bounds",
                "on POWER servers, a Virtual I/O Server in a partition of its own serves disks and networks to the others",
            ),
            "Borden, Hennessy, Rymarczyk, IBM Systems Journal 28(1), 1989; IBM, PowerVM Virtual I/O Server documentation",
            PARTITIONS,
            "shared processors, and partitions that grow while they run",
        ),
        Particulars(
            "Oracle LDOM",
            2007,
            (
                "the hypervisor is in the firmware of SPARC servers with CMT processors; each strand belongs to one logical domain",
                "the control domain runs the Logical Domains Manager; service domains serve virtual disks and switches",
                "domains talk by logical domain channels (LDC), to which the firmware gives interrupts",
            ),
            "Oracle VM Server for SPARC Administration Guide; OpenSPARC T2 Hypervisor API Specification",
            PARTITIONS,
            "the SPARC processor: partitions are x86 here; a channel carries one sector at a time",
        ),
        Particulars(
            "VMware ESX",
            2001,
            (
                "the VMkernel is the only kernel of the host: scheduler, memory, drivers; each VM has a monitor (VMM) under it",
                "ESX had a service console on Linux beside it, which ESXi (2007) dropped; it is managed by an API (vSphere)",
            ),
            "VMware, The Architecture of VMware ESXi, white paper; Waldspurger, OSDI 2002",
            "a purpose-built hypervisor that schedules the guests and drives the disk itself; guests are started and killed through it",
            "page sharing, ballooning and shares",
        ),
        Particulars(
            "Joyent SmartOS",
            2011,
            (
                "an illumos kernel with the KVM of Linux ported to it; it boots over the network and runs from memory",
                "each KVM guest's process runs in a zone of its own: two barriers, of the hypervisor and of the container",
            ),
            "Cantrill, KVM on illumos, 2011 (KVM Forum); SmartOS wiki",
            HOSTED,
            "the zone around each process, ZFS, DTrace",
        ),
        Particulars(
            "Citrix XenServer",
            2007,
            (
                "the Xen hypervisor, and domain 0: the privileged Linux that boots first, has the drivers, and runs the toolstack (XAPI)",
                "unmodified guests run by VT-x or AMD-V (HVM), with their devices emulated by a process in domain 0",
            ),
            "Barham et al., SOSP 2003; Citrix XenServer product documentation",
            CONTROL,
            "the emulation of ATA registers in domain 0 (here in the hypervisor), grant tables, stub domains",
        ),
        Particulars(
            "Microsoft Hyper-V",
            2008,
            (
                "a small hypervisor below Windows: the root partition runs Windows, has the drivers, and creates child partitions",
                "child partitions reach devices by VMBus: a VSC in the child, a VSP in the root partition",
            ),
            "Microsoft, Hyper-V Architecture; Hypervisor Top-Level Functional Specification",
            CONTROL,
            "Windows; processes in the root partition; enlightenments",
        ),
        Particulars(
            "Red Hat KVM",
            2007,
            (
                "a module makes the Linux kernel a hypervisor: a guest is a process, a VCPU a thread that Linux schedules",
                "a program opens /dev/kvm, creates a VM and VCPUs, and calls KVM_RUN, which returns an exit reason when user mode is needed",
                "the interrupt controllers and the timer are emulated in the kernel",
            ),
            "Kivity et al., kvm: the Linux Virtual Machine Monitor, OLS 2007; Linux, Documentation/virt/kvm/api.rst",
            HOSTED,
            "vhost, irqfd, and other ways around user mode",
        ),
        Particulars(
            "VMware Workstation",
            1999,
            (
                "an application, a driver, and a VMM in a world of its own: between it and the host's a world switch exchanges all the processor's state",
                "device accesses and hardware interrupts leave the VMM's world for the host's",
                "the first versions ran guest kernels by binary translation; now VT-x and AMD-V",
            ),
            "Sugerman, Venkitachalam, Lim, USENIX 2001; Bugnion et al., ACM TOCS 30(4), 2012",
            HOSTED + "; the VMM in a world of its own",
            "binary translation in that world (the technique is there by itself)",
        ),
        Particulars(
            "VMware Fusion",
            2007,
            (
                "the VMware VMM for macOS on Intel processors, by VT-x or binary translation; later on Apple's Hypervisor.framework",
            ),
            "VMware Fusion documentation and release notes",
            HOSTED + "; the VMM in a world of its own",
            "the macOS host's own interfaces",
        ),
        Particulars(
            "Parallels Desktop",
            2006,
            ("a VMM for macOS, the first for Macs with Intel processors, which relied on VT-x from the start",),
            "Parallels Desktop for Mac, User's Guide",
            HOSTED + "; the VMM in a world of its own",
            "integration with the host's windows",
        ),
        Particulars(
            "Oracle VirtualBox",
            2007,
            (
                "a driver runs the VMM's ring-0 part (VMMR0) in the context of the host's kernel; device emulation is in the process, in ring 3",
                "guests without VT-x were recompiled and patched, up to version 6.0",
            ),
            "Oracle VM VirtualBox User Manual, chapter 10 (technical background)",
            HOSTED + "; the VMM in the context of the host's kernel",
            "the recompiler",
        ),
        Particulars(
            "Xen",
            2003,
            (
                "guest kernels are ported: hypercalls for privileged operations, page tables that the hypervisor validates, events instead of interrupts",
                "domain 0 boots first, has the drivers, and builds the others",
            ),
            "Barham et al., Xen and the Art of Virtualization, SOSP 2003",
            "the ported workload under the paravirtualizing hypervisor; its console and disk served in domain 0's place",
            "a domain 0 of guest code: its back ends are host software here",
        ),
        Particulars(
            "Oracle Java",
            1995,
            (
                "class files of bytecode for a stack machine, verified and run by the Java virtual machine: interpreted first, then compiled (HotSpot)",
                "memory is collected; array accesses and casts are checked",
            ),
            "Lindholm et al., The Java Virtual Machine Specification; Paleczny, Vick, Click, JVM '01 (HotSpot)",
            "class files of javac, interpreted, and compiled to x86 where they are hot; a garbage collector",
            "threads, floating point, the class library",
        ),
        Particulars(
            "Microsoft .NET",
            2002,
            (
                "the Common Language Runtime: bytecode (CIL) of many languages; each method is compiled when it is first called, none is interpreted",
                "application domains isolate programs within one process",
            ),
            "ECMA-335, Common Language Infrastructure",
            "the runtime with every method compiled before it first runs",
            "CIL: the bytecode is Java's here",
        ),
        Particulars(
            "AArch64 emulator",
            2003,
            (
                "the guest's instructions are of another processor than the host's: each is fetched, decoded and done by software",
                "QEMU translates blocks of guest code instead, and is the emulator that most use",
            ),
            "Bellard, QEMU, a Fast and Portable Dynamic Translator, USENIX 2005; Arm DDI 0487",
            "an AArch64 computer by interpretation: EL0 to EL2, paging in two stages, a timer, a console, a disk",
            "translation of blocks; floating point and SIMD",
        ),
    )
}
"""By the product's name."""
