"""The domain builder: what a paravirtualized kernel finds when it starts.

Its image lies in pseudo-physical memory; behind it, each on pages of its own, the P2M table, the start info, the console's
ring, the ring of a disk, the page tables, a stack. Paging is on already: all of this is mapped, from the base that the kernel has asked for to
the next 4 MiB, the page tables for reading alone. Registers: ESI the start info, ESP the stack's end, EIP the entry.

Read more: Xen, xen/include/public/xen.h ("Start-of-day memory layout").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import ImageError
from vmlab.isa.x86.registers import CR0_ET, CR0_NE, CR0_PE, CR0_PG, CR0_WP, CS, DS, ES, ESI, ESP, FIXED, FS, GS, IF, SS
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.paging import ACCESSED, DIRTY, PRESENT, USER, WRITABLE
from vmlab.vmm.xen import abi
from vmlab.vmm.xen.event_channels import Channel, ChannelKind
from vmlab.vmm.xen.frame_types import FrameType
from vmlab.vmm.xen.notes import require_notes

if TYPE_CHECKING:
    from vmlab.vmm.xen.domain import Domain
    from vmlab.vmm.xen.frame_types import FrameTypes
    from vmlab.vmm.xen.notes import PortNotes

__all__ = ["build_domain"]

REGION = 4 << 20
PADDING = 512 << 10
TABLE = PRESENT | WRITABLE | USER | ACCESSED | DIRTY
PAGE = PRESENT | WRITABLE | ACCESSED | DIRTY
CODE_RING_1, DATA_RING_1 = 0xBB, 0xB3
"""Access bytes: present, DPL 1, accessed; code that may be read, data that may be written."""


def build_domain(domain: Domain, frames: FrameTypes, guest: int) -> None:
    """Build a domain from its image.

    Parameters
    ----------
    domain : Domain
        It has its memory, and nothing in it.
    frames : FrameTypes
        The frames of the computer.
    guest : int
        Its number.

    Raises
    ------
    OptionError
        The image is not ported.
    ImageError
        It does not fit.
    """
    notes, window = require_notes(domain.image), domain.memory
    end = _place(domain, notes)
    pages = window.size >> PAGE_SHIFT
    p2m = -(-end // PAGE_SIZE)
    info = p2m + -(-pages * 4 // PAGE_SIZE)
    ring, block = info + 1, info + 2
    directory = block + 1 if domain.block else block
    tables = 1
    while -(-(((directory + tables + 2) << PAGE_SHIFT) + PADDING) // REGION) > tables:
        tables += 1
    stack = directory + 1 + tables
    mapped = min(tables * REGION >> PAGE_SHIFT, pages)
    if stack >= pages or notes.base % REGION or notes.base + tables * REGION > abi.GUEST_END:
        raise ImageError(
            f"{domain.image.name}: its image, page tables and stack need {(stack + 1 >> 8) + 1} MiB of memory from {notes.base:#x} "
            f"on, a multiple of 4 MiB below {abi.GUEST_END:#x}, and the machine has {window.size >> 20} MiB: give "
            f"--memory {(stack >> 8) + 1}M (in Python memory={(stack >> 8) + 1} << 20) or more"
        )
    for page, frame in enumerate(window.frames):
        window.write((p2m << PAGE_SHIFT) + 4 * page, 4, frame)
    read_only = range(directory, stack)
    for page in range(mapped):
        table, slot = directory + 1 + (page >> 10), page & 0x3FF
        entry = PAGE & ~WRITABLE if page in read_only else PAGE
        window.write((table << PAGE_SHIFT) + 4 * slot, 4, window.frames[page] << PAGE_SHIFT | entry)
    for number in range(tables):
        place = (directory << PAGE_SHIFT) + 4 * ((notes.base >> 22) + number)
        window.write(place, 4, window.frames[directory + 1 + number] << PAGE_SHIFT | TABLE)
    domain.base = window.frames[directory] << PAGE_SHIFT
    domain.console_ring.ring = window.frames[ring] << PAGE_SHIFT
    domain.console_port = domain.channels.allocate(Channel(ChannelKind.INTERDOMAIN, abi.DOMAIN_0))
    block_port = 0
    if domain.block:
        domain.block.ring = window.frames[block] << PAGE_SHIFT
        channel = Channel(ChannelKind.INTERDOMAIN, abi.DOMAIN_0, abi.BackEnd.BLOCK)
        block_port = domain.channels.allocate(channel)
    domain.channels.masked = True
    fields = {
        abi.START_FRAMES: pages,
        abi.START_SHARED: domain.shared,
        abi.START_CONSOLE: window.frames[ring],
        abi.START_CONSOLE_PORT: domain.console_port,
        abi.START_DIRECTORY: notes.base + (directory << PAGE_SHIFT),
        abi.START_TABLES: 1 + tables,
        abi.START_P2M: notes.base + (p2m << PAGE_SHIFT),
        abi.START_BLOCK: window.frames[block] if domain.block else 0,
        abi.START_BLOCK_PORT: block_port,
    }
    window.write_bytes(info << PAGE_SHIFT, abi.START_MAGIC)
    for offset, value in fields.items():
        window.write((info << PAGE_SHIFT) + offset, 4, value)
    for held in domain.held:
        frames.take(guest, held, FrameType.WRITABLE)
    frames.pin(guest, window.frames[directory], FrameType.L2)
    frames.take(guest, window.frames[directory], FrameType.L2)
    _set_registers(domain, notes, notes.base + (info << PAGE_SHIFT), notes.base + (stack + 1 << PAGE_SHIFT))


def _place(domain: Domain, notes: PortNotes) -> int:
    """Write the image's segments into pseudo-physical memory; return where they end."""
    image, window = domain.image, domain.memory
    for segment in image.segments:
        start, end = segment.address - notes.offset, segment.end - notes.offset
        if start < 0 or end > window.size:
            needed = -(-end >> 20)
            raise ImageError(
                f"{image.name}: its segment at {start:#x}-{end - 1:#x} lies outside memory of {window.size >> 20} MiB: give "
                f"--memory {needed}M (in Python memory={needed} << 20) or more"
            )
        window.write_bytes(start, segment.data + bytes(segment.memory_size - len(segment.data)))
    return image.end - notes.offset


def _set_registers(domain: Domain, notes: PortNotes, info: int, stack: int) -> None:
    """Set the VCPU as the kernel expects it."""
    vcpu = domain.vcpu
    vcpu.segments[CS].set(abi.KERNEL_CODE, 0, abi.SEGMENT_LIMIT, CODE_RING_1, big=True)
    for index in (ES, SS, DS, FS, GS):
        vcpu.segments[index].set(abi.KERNEL_DATA, 0, abi.SEGMENT_LIMIT, DATA_RING_1, big=True)
    vcpu.set_cr3(domain.base)
    vcpu.set_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE)
    vcpu.registers[:8] = [0] * 8
    vcpu.registers[ESI], vcpu.registers[ESP] = info, stack
    vcpu.ip, vcpu.flags = notes.entry, FIXED | IF
    vcpu.code_changed()
    domain.stack = stack
