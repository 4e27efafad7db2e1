"""The interface between a paravirtualized guest and the hypervisor: numbers and layouts, those of Xen 3 on 32-bit x86.

    linear address                                           who may use it
    0xFFC00000-0xFFFFFFFF  the hypervisor's window           ring 0; beyond the limit of every segment of a guest
    0xFF800000-0xFFBFFFFF  machine-to-physical table (M2P)   reading from ring 1
    0x00000000-0xFF7FFFFF  the guest

A kernel in ring 1 is a *supervisor* to the page tables, so that these cannot keep it out of the window: the limit of its
segments does. User programs in ring 3 are kept away from the kernel's pages as ever, by the U/S bit.

Read more: Xen, xen/include/public/xen.h, arch-x86/xen-x86_32.h, event_channel.h, sched.h, vcpu.h, io/console.h.
"""

from __future__ import annotations

from enum import IntEnum

GUEST_END = 0xFF800000
"""The first linear address that is not the guest's."""
SEGMENT_LIMIT = 0xFFBFFFFF
M2P = GUEST_END
FIRST_RESERVED_SLOT = GUEST_END >> 22
"""Slots of a page directory from here on are the hypervisor's."""

# Selectors: the guest need not have descriptors of its own.
HYPERVISOR_CODE, HYPERVISOR_DATA, HYPERVISOR_TASK = 0xE008, 0xE010, 0xE040
KERNEL_CODE, KERNEL_DATA = 0xE019, 0xE021
USER_CODE, USER_DATA = 0xE02B, 0xE033

HYPERCALL_VECTOR = 0x82
FAST_TRAP = 0x80
"""The one vector for which a trap from ring 3 may enter the guest's kernel without the hypervisor."""

DOMID_SELF = 0x7FF0
DOMAIN_0 = 0
"""Number of the domain with the back ends: here a part of the hypervisor. The guests are numbered from 1 on."""


class BackEnd(IntEnum):
    """The back ends in domain 0, as event channels know them by the other end's port."""

    CONSOLE = 0
    BLOCK = 1


class Errno(IntEnum):
    """Error numbers; a hypercall returns them negated."""

    EPERM = 1
    ENOENT = 2
    ESRCH = 3
    E2BIG = 7
    EBADF = 9
    EFAULT = 14
    EBUSY = 16
    EINVAL = 22
    ENOSPC = 28
    ENOSYS = 38


class Refused(Exception):  # noqa: N818 - no error of the library: it ends in a guest's EAX, always
    """What a guest asked for is not done; it gets an error number."""

    def __init__(self, errno: Errno) -> None:
        self.errno = errno
        super().__init__(errno.name)


# shared_info: 32 vcpu_info of 64 bytes, of which there is one here; then 1024 bits pending, 1024 bits masked.
#   vcpu_info:  0 upcall pending, 1 upcall mask (bytes), 4 pending selector, 8 CR2, 32 time: version, pad, TSC (8 bytes),
#               system time (8 bytes, ns), multiplier, shift
UPCALL_PENDING, UPCALL_MASK, PENDING_SELECTOR, INFO_CR2 = 0, 1, 4, 8
TIME_VERSION, TIME_TSC, TIME_SYSTEM = 32, 40, 48
PENDING, MASK = 0x800, 0x880
PORTS = 1024
"""Event channels of a guest."""

# start_info: 0 magic, 32 frames of memory, 36 address of shared_info, 40 flags, 44 and 48 the store, 52 frame and 56 event
# channel of the console, 60 page directory (linear), 64 number of frames with page tables, 68 P2M table (linear), 72 and 76
# module, 80 command line, 1104 and 1108 the P2M table's frames; here also 1112 frame and 1116 event channel of the block ring
START_MAGIC = b"xen-3.0-x86_32"
START_FRAMES, START_SHARED, START_CONSOLE, START_CONSOLE_PORT = 32, 36, 52, 56
START_DIRECTORY, START_TABLES, START_P2M = 60, 64, 68
START_BLOCK, START_BLOCK_PORT = 1112, 1116

# The console's ring: 1024 bytes to the guest, 2048 from it, then four indices that only grow
RING_IN, RING_OUT = 1024, 2048
IN_CONSUMER, IN_PRODUCER, OUT_CONSUMER, OUT_PRODUCER = 3072, 3076, 3080, 3084


class Hypercall(IntEnum):
    """Numbers of hypercalls, in EAX; arguments are in EBX, ECX, EDX, ESI, EDI, the result in EAX."""

    SET_TRAP_TABLE = 0
    MMU_UPDATE = 1
    STACK_SWITCH = 3
    SET_CALLBACKS = 4
    MULTICALL = 13
    UPDATE_VA_MAPPING = 14
    SET_TIMER_OP = 15
    XEN_VERSION = 17
    CONSOLE_IO = 18
    IRET = 23
    VCPU_OP = 24
    MMUEXT_OP = 26
    SCHED_OP = 29
    EVENT_CHANNEL_OP = 32


class MmuUpdate(IntEnum):
    """The two low bits of the address in a request of `mmu_update`."""

    NORMAL = 0
    MACHPHYS = 1
    PRESERVE_AD = 2


class MmuExt(IntEnum):
    """Commands of `mmuext_op`."""

    PIN_L1 = 0
    PIN_L2 = 1
    UNPIN = 4
    NEW_BASEPTR = 5
    TLB_FLUSH_LOCAL = 6
    INVLPG_LOCAL = 7


class EventOp(IntEnum):
    """Commands of `event_channel_op`."""

    BIND_INTERDOMAIN = 0
    BIND_VIRQ = 1
    CLOSE = 3
    SEND = 4
    STATUS = 5
    ALLOC_UNBOUND = 6
    UNMASK = 9


class Virq(IntEnum):
    """Virtual interrupts that an event channel can be bound to."""

    TIMER = 0


class SchedOp(IntEnum):
    """Commands of `sched_op`."""

    YIELD = 0
    BLOCK = 1
    SHUTDOWN = 2


class Shutdown(IntEnum):
    """Why a guest shuts down."""

    POWEROFF = 0
    REBOOT = 1
    CRASH = 3


class VcpuOp(IntEnum):
    """Commands of `vcpu_op`: its timers."""

    SET_PERIODIC_TIMER = 6
    STOP_PERIODIC_TIMER = 7
    SET_SINGLESHOT_TIMER = 8
    STOP_SINGLESHOT_TIMER = 9


class ConsoleIo(IntEnum):
    """Commands of `console_io`."""

    WRITE = 0
