"""Why a page walk fails, and what each architecture calls it.

`walk` finds a cause and where; the format's own rule, a function of a `Failure`, makes the exception: x86's #PF, an EPT
violation or misconfiguration, an AMD nested page fault, an Arm abort, a RISC-V page fault, the fault of a DMA. A fault
of a host's table is a `HostFault`; `walk_nested` tells it for which access of the guest it came.

Simplified: no fault on the access to a table itself (external aborts, bus errors), no virtualization exceptions, no
advanced information about EPT violations (qualification bits 11:9).

Read more: Intel SDM vol. 3, 4.7 and 28.2.1 (table 28-7); AMD APM vol. 2, 15.25.6; Arm ARM, D17.2.37 (ESR_EL2), D17.2.64
(HPFAR_EL2); RISC-V privileged architecture, table 14 (causes) and 8.5; Intel VT-d, 7.2 (fault reasons).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.isa.arm64.exceptions import EC_SHIFT, IL, ExceptionClass
from vmlab.isa.x86.faults import GP, PF, PF_FETCH, PF_PRESENT, PF_RESERVED, PF_USER, PF_WRITE, Fault

if TYPE_CHECKING:
    from vmlab.machine.paging import Level

__all__ = [
    "ABSENT",
    "DENIED",
    "FORBIDDEN",
    "OUTSIDE",
    "RESERVED",
    "UNMARKED",
    "DmaFault",
    "EptMisconfiguration",
    "EptViolation",
    "Failure",
    "GuestAccess",
    "GuestPageFault",
    "HostFault",
    "NestedPageFault",
    "RiscvPageFault",
    "Stage1Abort",
    "Stage2Abort",
    "WalkFault",
    "page_fault",
]

# The causes, in the order in which a walk looks for them at each entry; the last two where it has reached a page.
OUTSIDE = "outside"  # the address itself is none of those that the tables can map
ABSENT = "absent"  # the entry maps nothing
FORBIDDEN = "forbidden"  # a combination of bits that must not be
RESERVED = "reserved"  # a reserved bit is set
UNMARKED = "unmarked"  # the accessed or the dirty bit is clear, and setting it is left to software
DENIED = "denied"  # the entries of the path do not grant the right


class Failure(NamedTuple):
    """Where a walk failed and why: what the rule of a format makes its exception from.

    Attributes
    ----------
    cause : str
        `OUTSIDE`, `ABSENT`, `FORBIDDEN`, `RESERVED`, `UNMARKED` or `DENIED`.
    level : Level or None
        Of the last table read; None where none was.
    address, entry : int
        The address walked for, and the entry last read.
    rights : int
        Bits of the rights along the path so far, inverted ones turned round.
    is_write, is_user, is_fetch, reports_fetch : bool
        The access, as `walk` was told.
    """

    cause: str
    level: Level | None
    address: int
    entry: int
    rights: int
    is_write: bool
    is_user: bool
    is_fetch: bool
    reports_fetch: bool


def page_fault(failure: Failure) -> Fault:
    """x86: #PF with its error code (SDM vol. 3, 4.7); #GP(0) for an address that is not canonical."""
    cause, code = failure.cause, 0
    if cause == OUTSIDE:
        return Fault(GP, 0)
    if failure.is_write:
        code = PF_WRITE
    if failure.is_user:
        code |= PF_USER
    if failure.is_fetch and failure.reports_fetch:
        code |= PF_FETCH
    if cause != ABSENT:
        code |= PF_PRESENT
        if cause != DENIED:
            code |= PF_RESERVED
    return Fault(PF, code)


class GuestAccess(NamedTuple):
    """For which access of a guest a host's table was walked: `table` where a guest's table was to be read or marked."""

    linear: int
    table: bool
    is_fetch: bool
    is_write: bool


class WalkFault(Exception):  # noqa: N818 - faults are what manuals call them
    """A fault of a walk that is no exception of x86; it is caught by who models the processor or the hypervisor."""


class HostFault(WalkFault):
    """A host's table refuses a guest-physical address.

    Attributes
    ----------
    guest_physical : int
        The address.
    access : GuestAccess or None
        What for; None where the table was walked by itself.
    """

    def __init__(self, guest_physical: int, access: GuestAccess | None = None) -> None:
        self.guest_physical = guest_physical
        self.access = access
        super().__init__(f"{type(self).__name__} at guest-physical address {guest_physical:#x}")

    @property
    def linear(self) -> int | None:
        """The guest's linear address, where the walk was for one."""
        return self.access and self.access.linear

    def during(self, access: GuestAccess) -> HostFault:
        """Return the same fault with the access that it came from."""
        return type(self)(self.guest_physical, access)


# -- Intel: EPT (SDM vol. 3, table 28-7) --------------------------------------------------------------------------------

# Exit qualification:
#  8 the translation of a linear address, not a table | 7 linear address valid | 5:3 X W R granted | 2:0 fetch write read
READ, WRITE, FETCH = 1, 2, 4
LINEAR_VALID, FINAL = 1 << 7, 1 << 8
GRANTED_SHIFT = 3


class EptMisconfiguration(HostFault):
    """An EPT entry holds what no entry may hold: VM exit 49."""

    @staticmethod
    def fault(failure: Failure) -> HostFault:
        """Return the VM exit for a failure: a misconfiguration or a violation."""
        if failure.cause in (FORBIDDEN, RESERVED):
            return EptMisconfiguration(failure.address)
        access = FETCH if failure.is_fetch else WRITE if failure.is_write else READ
        granted = failure.rights & 7 if failure.cause == DENIED else 0
        return EptViolation(failure.address, None, access | granted << GRANTED_SHIFT)


class EptViolation(HostFault):
    """EPT maps nothing there, or does not allow the access: VM exit 48.

    Attributes
    ----------
    qualification : int
        Exit qualification, but for bits 12 (NMI unblocking) and up.
    """

    def __init__(self, guest_physical: int, access: GuestAccess | None, qualification: int) -> None:
        super().__init__(guest_physical, access)
        self.qualification = qualification

    def during(self, access: GuestAccess) -> HostFault:
        qualification = self.qualification | LINEAR_VALID
        if not access.table:
            qualification |= FINAL
        elif qualification & WRITE:  # to mark an entry is to read it too
            qualification |= READ
        return EptViolation(self.guest_physical, access, qualification)


# -- AMD: nested paging (APM vol. 2, 15.25.6) -----------------------------------------------------------------------------

# EXITINFO1:  33 a table of the guest | 32 the address itself | 4 ID | 3 RSV | 2 US | 1 RW | 0 P, as of #PF
NPF_FINAL, NPF_TABLE = 1 << 32, 1 << 33


class NestedPageFault(HostFault):
    """#VMEXIT(NPF), code 400h.

    Attributes
    ----------
    error_code : int
        EXITINFO1; EXITINFO2 is `guest_physical`.
    """

    def __init__(self, guest_physical: int, access: GuestAccess | None, error_code: int) -> None:
        super().__init__(guest_physical, access)
        self.error_code = error_code

    def during(self, access: GuestAccess) -> HostFault:
        which = NPF_TABLE if access.table else NPF_FINAL
        return NestedPageFault(self.guest_physical, access, self.error_code | which)

    @staticmethod
    def fault(failure: Failure) -> HostFault:
        """Return the fault for a failure."""
        if failure.cause == OUTSIDE:
            failure = failure._replace(cause=ABSENT)
        code = page_fault(failure._replace(reports_fetch=True)).error_code
        return NestedPageFault(failure.address, None, code or 0)


# -- Arm: aborts (Arm ARM, ESR_ELx) ---------------------------------------------------------------------------------------

# ESR_ELx:  31:26 EC | 25 IL | 7 S1PTW | 6 WnR | 5:0 DFSC or IFSC: 3:2 kind, 1:0 level
ADDRESS_SIZE, TRANSLATION, ACCESS_FLAG, PERMISSION = range(4)
STATUS = {
    OUTSIDE: TRANSLATION, ABSENT: TRANSLATION, FORBIDDEN: TRANSLATION, RESERVED: ADDRESS_SIZE, UNMARKED: ACCESS_FLAG,
    DENIED: PERMISSION,
}  # fmt: skip
SAME_LEVEL = 1
S1PTW, WNR = 1 << 7, 1 << 6
LEVEL_3, LEVEL_BITS = 12, 9


def _status(failure: Failure) -> int:
    """Return the fault status code; faults of the register or of the address itself count as level 0."""
    level = max(0, 3 - (failure.level.shift - LEVEL_3) // LEVEL_BITS) if failure.level else 0
    return STATUS[failure.cause] << 2 | level


def _syndrome(status: int, *, is_fetch: bool, is_write: bool, same: bool) -> int:
    kind = ExceptionClass.INSTRUCTION_ABORT if is_fetch else ExceptionClass.DATA_ABORT
    return (kind | same * SAME_LEVEL) << EC_SHIFT | IL | (0 if is_fetch else is_write * WNR) | status


class Stage1Abort(WalkFault):
    """An instruction or data abort of stage 1, taken to EL1.

    Attributes
    ----------
    far, esr : int
        FAR_EL1 and ESR_EL1.
    """

    def __init__(self, far: int, esr: int) -> None:
        self.far, self.esr = far, esr
        super().__init__(f"abort at {far:#x}: ESR {esr:#x}")

    @staticmethod
    def fault(failure: Failure) -> WalkFault:
        """Return the abort for a failure."""
        access = {"is_fetch": failure.is_fetch, "is_write": failure.is_write, "same": not failure.is_user}
        return Stage1Abort(failure.address, _syndrome(_status(failure), **access))


class Stage2Abort(HostFault):
    """An abort of stage 2, taken to EL2.

    Attributes
    ----------
    status : int
        DFSC or IFSC.
    is_fetch, is_write : bool
        The access to the guest-physical address (the intermediate physical address).
    """

    def __init__(
        self, guest_physical: int, access: GuestAccess | None, status: int, *, is_fetch: bool, is_write: bool
    ) -> None:
        super().__init__(guest_physical, access)
        self.status, self.is_fetch, self.is_write = status, is_fetch, is_write

    @property
    def esr(self) -> int:
        """ESR_EL2: the class is that of the guest's access, WnR that of the access to its table."""
        access = self.access
        table, is_fetch = (access.table, access.is_fetch) if access else (False, self.is_fetch)
        return _syndrome(self.status, is_fetch=is_fetch, is_write=self.is_write, same=False) | table * S1PTW

    @property
    def hpfar(self) -> int:
        """HPFAR_EL2: bits 47:12 of the address from bit 4 up."""
        return self.guest_physical >> 12 << 4

    def during(self, access: GuestAccess) -> HostFault:
        return Stage2Abort(self.guest_physical, access, self.status, is_fetch=self.is_fetch, is_write=self.is_write)

    @staticmethod
    def fault(failure: Failure) -> HostFault:
        """Return the abort for a failure."""
        return Stage2Abort(
            failure.address, None, _status(failure), is_fetch=failure.is_fetch, is_write=failure.is_write
        )


# -- RISC-V (privileged architecture, 4.2 and 8.2) ------------------------------------------------------------------------

INSTRUCTION_PAGE_FAULT, LOAD_PAGE_FAULT, STORE_PAGE_FAULT, GUEST = 12, 13, 15, 8


def _cause(*, is_fetch: bool, is_write: bool) -> int:
    return INSTRUCTION_PAGE_FAULT if is_fetch else STORE_PAGE_FAULT if is_write else LOAD_PAGE_FAULT


class RiscvPageFault(WalkFault):
    """A page fault of RISC-V: `cause` (scause) 12, 13 or 15, and `address` (stval)."""

    def __init__(self, address: int, cause: int) -> None:
        self.address, self.cause = address, cause
        super().__init__(f"page fault at {address:#x}: cause {cause}")

    @staticmethod
    def fault(failure: Failure) -> WalkFault:
        """Return the page fault for a failure, whatever the cause."""
        return RiscvPageFault(failure.address, _cause(is_fetch=failure.is_fetch, is_write=failure.is_write))


class GuestPageFault(HostFault):
    """A guest-page fault of RISC-V: `cause` (scause) 20, 21 or 23, by the access that the guest made."""

    def __init__(self, guest_physical: int, access: GuestAccess | None, cause: int) -> None:
        super().__init__(guest_physical, access)
        self.cause = cause

    @property
    def htval(self) -> int:
        """The guest-physical address, without its last two bits."""
        return self.guest_physical >> 2

    def during(self, access: GuestAccess) -> HostFault:
        cause = GUEST + _cause(is_fetch=access.is_fetch, is_write=access.is_write)
        return GuestPageFault(self.guest_physical, access, cause)

    @staticmethod
    def fault(failure: Failure) -> HostFault:
        """Return the fault for a failure."""
        cause = GUEST + _cause(is_fetch=failure.is_fetch, is_write=failure.is_write)
        return GuestPageFault(failure.address, None, cause)


# -- Intel VT-d (7.2) -----------------------------------------------------------------------------------------------------

BEYOND_WIDTH, NOT_WRITABLE, NOT_READABLE, RESERVED_FIELD = 4, 5, 6, 0xC


class DmaFault(HostFault):
    """A DMA that the second-level table refuses: `reason` is the fault reason of the recording register."""

    def __init__(self, guest_physical: int, access: GuestAccess | None, reason: int) -> None:
        super().__init__(guest_physical, access)
        self.reason = reason

    def during(self, access: GuestAccess) -> HostFault:
        return DmaFault(self.guest_physical, access, self.reason)

    @staticmethod
    def fault(failure: Failure) -> HostFault:
        """Return the fault for a failure; an entry that maps nothing is one that grants nothing."""
        reason = NOT_WRITABLE if failure.is_write else NOT_READABLE
        if failure.cause == OUTSIDE:
            reason = BEYOND_WIDTH
        elif failure.cause in (FORBIDDEN, RESERVED):
            reason = RESERVED_FIELD
        return DmaFault(failure.address, None, reason)
