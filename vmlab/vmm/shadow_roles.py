"""Roles of shadow pages, and the rights that their entries grant.

A role says which table of the guest a shadow page is the shadow of, how it is reached, and for whom. Rights are granted by
entries of the last level alone, which hold what all the guest's entries on the way leave: so much of the way is in a role.

Read more: Linux, Documentation/virt/kvm/x86/mmu.rst (role); Intel SDM vol. 3, 4.6 (access rights).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import StateError
from vmlab.isa.x86.registers import CR0_PG, CR0_WP, CR4_PSE, CR4_SMEP, EFER_NXE
from vmlab.machine.memory import PAGE_SHIFT
from vmlab.machine.paging import NO_EXECUTE, USER, WRITABLE
from vmlab.machine.state import QUAD, check_state

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor

__all__ = [
    "ALL", "EXECUTE", "PAE", "TWO_LEVEL", "Role", "View", "direct_role", "encode", "entry_access", "granted", "is_for_user", "read_role",
    "root_role", "shift_of", "slot_of", "top_frames",
]  # fmt: skip

EXECUTE = 1
ALL = WRITABLE | USER | EXECUTE
TWO_LEVEL, PAE = 2, 3
PSE, SMEP, NXE = 1, 2, 4  # of a role's `control`


class View(IntEnum):
    """Whose rights the entries of a shadow page grant.

    A deprivileged guest runs in ring 3 whatever its mode: what its kernel and what its user may do are two views. With
    hardware assistance the rings are real, and one view serves both. A kernel with CR0.WP 0 writes to read-only pages.
    """

    RINGS = 0
    RINGS_WITHOUT_WP = 1
    KERNEL = 2
    KERNEL_WITHOUT_WP = 3
    USER = 4


class Role(NamedTuple):
    """What a shadow page is the shadow of; its key.

    Attributes
    ----------
    table : int
        Guest-physical address of the table; of a direct page, of the memory that it maps.
    level : int
        1 for a page table, 2 for a page directory, and so on.
    shape : int
        Levels of the format: 2 (32-bit paging), 3 (PAE), 4 or 5.
    access : int
        Rights that the entries on the way here leave: `WRITABLE`, `USER`, `EXECUTE`.
    view : int
        A `View`.
    control : int
        What else the meaning of entries depends on: CR4.PSE, CR4.SMEP, IA32_EFER.NXE.
    direct : bool
        True where it shadows no table.
    window : bool
        True where its last entries are the hypervisor's window.
    """

    table: int
    level: int
    shape: int
    access: int
    view: int
    control: int
    direct: bool
    window: bool

    @property
    def entry_bytes(self) -> int:
        """Size of an entry, the guest's and the shadow's."""
        return 4 if self.shape == TWO_LEVEL else 8

    @property
    def in_registers(self) -> bool:
        """True for the PAE pointers, which the processor reads when CR3 is loaded, and never again."""
        return self.shape == PAE == self.level

    @property
    def frame(self) -> int | None:
        """Guest frame that holds the table, None where no write to memory changes it."""
        return None if self.direct or self.in_registers else self.table >> PAGE_SHIFT


def shift_of(shape: int, level: int) -> int:
    """Return the lowest bit of a linear address that indexes a level."""
    return PAGE_SHIFT + (10 if shape == TWO_LEVEL else 9) * (level - 1)


def slot_of(role: Role, linear: int) -> int:
    """Return the slot of a linear address."""
    return linear >> shift_of(role.shape, role.level) & (0x3FF if role.shape == TWO_LEVEL else 0x1FF)


def root_role(vcpu: Processor, *, deprivileged: bool, user: bool) -> Role:
    """Return the role of the root for a virtual mode: tables that map all memory one to one where paging is off."""
    if not vcpu.cr0 & CR0_PG:
        return direct_role(0, TWO_LEVEL, TWO_LEVEL, ALL, deprivileged=deprivileged)
    format_ = vcpu.page_format
    shape, wp = len(format_.levels), bool(vcpu.cr0 & CR0_WP)
    if not deprivileged:
        view = View.RINGS if wp else View.RINGS_WITHOUT_WP
    elif user:
        view = View.USER
    else:
        view = View.KERNEL if wp else View.KERNEL_WITHOUT_WP
    control = PSE * bool(vcpu.cr4 & CR4_PSE) | SMEP * bool(vcpu.cr4 & CR4_SMEP) | NXE * bool(vcpu.efer & EFER_NXE)
    window = deprivileged and shape == TWO_LEVEL
    return Role(vcpu.cr3 & format_.root_mask, shape, shape, ALL, view, control, direct=False, window=window)


def top_frames(vcpu: Processor) -> set[int]:
    """Return the guest frames that hold the uppermost tables now: those are tables for certain."""
    is_pae = vcpu.cr0 & CR0_PG and len(vcpu.page_format.levels) == PAE
    return {each >> PAGE_SHIFT & 0xF_FFFF_FFFF for each in (vcpu.cr3, *(vcpu.pdptes if is_pae else ()))}


def direct_role(address: int, level: int, shape: int, access: int, *, deprivileged: bool) -> Role:
    """Return the role of a page that maps memory from a guest-physical address on."""
    view = View.KERNEL if deprivileged else View.RINGS
    window = deprivileged and shape == TWO_LEVEL == level
    return Role(address, level, shape, access, view, 0, direct=True, window=window)


def is_for_user(role: Role) -> bool:
    """Say whether the guest's user may reach memory through shadow pages of a role: direct ones serve both views."""
    return role.view == View.USER or (role.direct and bool(role.access & USER))


def entry_access(entry: int) -> int:
    """Return the rights that one entry of a guest grants: `WRITABLE`, `USER`, `EXECUTE`."""
    return entry & (WRITABLE | USER) | (0 if entry & NO_EXECUTE else EXECUTE)


def granted(view: int, access: int, *, dirty: bool, supervisor_write: bool = False) -> int | None:
    """Return the rights that an entry of the last level gives in a view; None where there must be no entry.

    Writing is not among them as long as the guest's dirty bit is clear: the first write must set it.

    Parameters
    ----------
    view : int
        A `View`.
    access : int
        What the guest's entries grant, all taken together.
    dirty : bool
        The guest's dirty bit.
    supervisor_write : bool
        True where the entry is for a write by the guest's kernel.

    Examples
    --------
    >>> granted(View.USER, WRITABLE | EXECUTE, dirty=True)      # a page of the kernel
    >>> granted(View.KERNEL, WRITABLE | EXECUTE, dirty=True) == USER | WRITABLE | EXECUTE   # in ring 3, too
    True
    """
    write = WRITABLE * (dirty and bool(access & WRITABLE or view == View.KERNEL_WITHOUT_WP))
    if view >= View.KERNEL:
        return None if view == View.USER and not access & USER else USER | EXECUTE | write
    if view == View.RINGS_WITHOUT_WP and dirty and not access & WRITABLE and (supervisor_write or not access & USER):
        return access & ~(USER | EXECUTE if access & USER else USER) | WRITABLE
    return access & ~WRITABLE | write


def encode(access: int) -> int:
    """Return rights as they stand in an entry."""
    return access & (WRITABLE | USER) | (0 if access & EXECUTE else NO_EXECUTE)


ROLE = {
    "table": QUAD, "level": range(1, 6), "shape": range(2, 6), "access": range(ALL + 1), "view": range(len(View)),
    "control": range(8), "direct": range(2), "window": range(2),
}  # fmt: skip


def read_role(row: list[Any]) -> Role:
    """Make a role of its saved numbers; StateError where they are damaged."""
    if len(row) != len(ROLE):
        raise StateError(f"role of a shadow page: {len(ROLE)} saved numbers, not {len(row)}")
    check_state({"version": 1} | dict(zip(ROLE, row, strict=True)), "role of a shadow page", ROLE)
    table, level, shape, access, view, control, direct, window = row
    return Role(table, level, shape, access, view, control, bool(direct), bool(window))
