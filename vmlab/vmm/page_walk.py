"""A look at page tables: a walk whose steps are kept, of a running system or of any tables, that changes nothing.

The processor's own walker follows the tables, without a way to write: no accessed or dirty bit is set, no cache is
filled, no device is read. Under shadow paging there are two walks, of the guest's tables and of those that the hardware
uses; under nested paging there is one in two dimensions.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.isa.x86.faults import PF, PF_USER, PF_WRITE, Fault
from vmlab.isa.x86.registers import CR0_PG, EFER_LMA
from vmlab.machine.nested_walk import AddressSpace, NestedStep, NestedTranslation, walk_nested
from vmlab.machine.page_formats import IA32, four_level, pae
from vmlab.machine.paging import PAGE, Translation, WalkStep, walk
from vmlab.machine.recordable import check_guest
from vmlab.machine.walk_faults import WalkFault
from vmlab.vmm.shadow_roles import PAE, TWO_LEVEL, root_role
from vmlab.vmm.viewpoint import Viewpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmlab.machine.paging import PageTableFormat
    from vmlab.machine.processor import Processor
    from vmlab.machine.tlb import TlbEntry
    from vmlab.machine.walk_caches import NestedCaches
    from vmlab.vmm.shadow_paging import ShadowPaging
    from vmlab.vmm.system import System

__all__ = [
    "ACCESSES", "Sight", "Walked", "check_access", "guest_space", "host_space", "host_spaces", "look", "look_at", "reader", "runs_as_user",
    "shadow_format", "shadow_of", "shadows_of",
]  # fmt: skip

ACCESSES = ("read", "write", "fetch")
"""What an access may be for."""

OFFSET = PAGE - 1


@dataclass(frozen=True, slots=True)
class Walked:
    """A walk as it was taken.

    Attributes
    ----------
    address : int
        Where to.
    access : {"read", "write", "fetch"}
        What for.
    user : bool
        True for code of CPL 3.
    guest, host : AddressSpace or None
        The tables of both dimensions; None where there are none.
    steps : tuple of NestedStep
        What was read, in this order. In one dimension all are the guest's.
    found : Translation, NestedTranslation or None
        What came of it; None after a fault, and where paging is off.
    fault : Exception or None
        The fault that the access would raise.
    """

    address: int
    access: str
    user: bool
    guest: AddressSpace | None
    host: AddressSpace | None
    steps: tuple[NestedStep, ...]
    found: Translation | NestedTranslation | None
    fault: Exception | None

    @property
    def references(self) -> int:
        """Memory references, those before a fault included."""
        return sum(not (step.in_register or step.cached) for step in self.steps)

    @property
    def physical(self) -> int | None:
        """The physical address (of the host, in two dimensions) that was found."""
        if self.found:
            return self.found.frame | self.address & OFFSET
        return None if self.fault or self.guest or self.host else self.address


def check_access(address: object, access: object, user: object) -> None:
    """Refuse what is no address, and no access."""
    if type(address) is not int:
        raise OptionError(f"an address is an int, as 0x401000, not {address!r}")
    if access not in ACCESSES:
        raise OptionError(f"an access is one of {', '.join(ACCESSES)}, not {access!r}")
    if user is not None and type(user) is not bool:
        raise OptionError(f"user is True, False or None (as the guest runs now), not {user!r}")


def look(
    guest: AddressSpace | None,
    host: AddressSpace | None,
    address: int,
    read: Callable[[int, int], int],
    *,
    access: str = "read",
    user: bool = False,
    caches: NestedCaches | None = None,
    rules: Mapping[str, bool] | None = None,
) -> Walked:
    """Walk one dimension or two, and change nothing.

    Parameters
    ----------
    guest, host : AddressSpace or None
        The tables; None for a dimension that there is not.
    address : int
        Where to.
    read : callable
        `read(physical, bytes)`, of the memory that holds the tables.
    access, user
        What for, and who.
    caches : NestedCaches or None
        Walk caches, which are looked at as they are now.
    rules : mapping of str to bool, optional
        `write_protect`, `user_pages`, `reports_fetch`, as for `vmlab.machine.paging.walk`.
    """
    how: dict[str, Any] = {"is_write": access == "write", "is_fetch": access == "fetch", "is_user": user}
    how |= rules or {}
    caches = deepcopy(caches)
    steps: list[NestedStep] = []
    plain: list[WalkStep] = []
    found: Translation | NestedTranslation | None = None
    fault: Exception | None = None
    only = host if guest is None else guest
    try:
        if host and guest:
            found = walk_nested(guest, host, address, read, None, caches=caches, trail=steps, **how)
        elif only:
            cache = None if caches is None else caches.guest if guest else caches.host
            found = walk(
                only.format, only.root, address, read, None, registers=only.registers, cache=cache, trail=plain, **how
            )
    except (Fault, WalkFault) as raised:
        fault = raised
    steps += [NestedStep("guest", row, None, *step) for row, step in enumerate(plain)]
    return Walked(address, access, user, guest, host, tuple(steps), found, fault)


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to see of an address in a system.

    Attributes
    ----------
    guest : Walked
        The walk of the guest's own tables; under nested paging in two dimensions.
    shadow : Walked or None
        That of the tables which the hardware walks in their place.
    expected : int or None
        Host-physical address that the guest's tables mean.
    tlb : TlbEntry or None
        What the TLB holds for the page.
    tlb_state : str
        `"hit"`, `"miss"`, `"rights"` (held, but it does not allow the access) or `"other"` (another guest or the hypervisor has the CPU).
    byte : int or None
        What lies at the address.
    width : int
        Bits of an address.
    """

    guest: Walked
    shadow: Walked | None
    expected: int | None
    tlb: TlbEntry | None
    tlb_state: str
    byte: int | None
    width: int


def reader(cpu: Processor) -> Callable[[int, int], int]:
    """Return how to read physical memory without a touch of a device: where there is no RAM all bits are set."""
    is_ram, memory = cpu.bus.is_ram, cpu.memory
    return lambda physical, size: memory.read(physical, size) if is_ram(physical) else (1 << 8 * size) - 1


def look_at(system: System, address: int, *, guest: int = 0, access: str = "read", user: bool | None = None) -> Sight:
    """Look at an address as a guest of a running system would access it.

    Parameters
    ----------
    system : System
        The system.
    address : int
        A linear address of the guest.
    guest : int
        Which guest.
    access : {"read", "write", "fetch"}
        What for.
    user : bool or None
        Whether by code of CPL 3; None for what the guest runs now.

    Raises
    ------
    OptionError
        No address of the guest, no access, no guest.
    """
    check_access(address, access, user)
    check_guest(guest, len(system.guests))
    vcpu, space = guest_space(system, guest)
    width = 64 if vcpu.efer & EFER_LMA else 32
    if not 0 <= address < 1 << width:
        raise OptionError(f"{address:#x} is no address of {width} bits: give one from 0 to {(1 << width) - 1:#x}")
    cpu = system.machine.cpu
    is_user = runs_as_user(system, guest) if user is None else user
    kind: dict[str, Any] = {"access": access, "user": is_user}
    rules = vcpu.walk_rules(user=is_user, fetch=access == "fetch")
    host = host_space(system, guest)
    caches = cpu.walk_caches if _has_the_processor(system, guest) else None
    if host is not None:
        walked = look(space, host, address, reader(cpu), **kind, rules=rules, caches=caches)
        expected, shadow = walked.physical, None
    else:
        own = caches if vcpu is cpu else None  # what a hypervisor reads of a guest's tables, no cache helps it to
        walked = look(space, None, address, reader(vcpu), **kind, rules=rules, caches=own)
        shadow = _look_at_shadow(system, guest, address, kind, caches)
        expected = _host_address(system, guest, walked.physical)
    entry, state = _look_at_tlb(system, guest, address, access, user=is_user)
    byte = None
    if expected is not None and cpu.bus.is_ram(expected):
        byte = cpu.memory.read(expected, 1)
    return Sight(walked, shadow, expected, entry, state, byte, width)


def guest_space(system: System, guest: int) -> tuple[Processor, AddressSpace | None]:
    """Return what a guest believes to be its processor, and its page tables; None where its paging is off.

    Under nested paging CR3 is the guest's own: while the guest runs it is in the processor, after an exit in the VMCS, until
    the hypervisor has seen to that.
    """
    vcpu, cpu = Viewpoint(system, guest).vcpu, system.machine.cpu
    if not vcpu.cr0 & CR0_PG:
        return vcpu, None
    root, registers = vcpu.cr3, vcpu.pdptes
    if system.memory_virtualization == "nested" and system.current == guest:
        virtual: Any = system
        if cpu.non_root or virtual.phase == "handle":
            root, registers = virtual.machines[virtual.slot].tables()
    return vcpu, AddressSpace(vcpu.page_format, root, tuple(registers))


def runs_as_user(system: System, guest: int) -> bool:
    """Say whether a guest runs in its user mode now."""
    cpu = system.machine.cpu
    if cpu.non_root and system.current == guest:  # with hardware assistance the rings are real
        return cpu.cpl == 3
    return Viewpoint(system, guest).vcpu.cpl == 3


def host_space(system: System, guest: int) -> AddressSpace | None:
    """Return the tables that map a guest's physical addresses, for its VCPU whose turn it is; None where there are none."""
    found = host_spaces(system, guest)
    return found[system.guests[guest].platform.apics.current] if found else None


def host_spaces(system: System, guest: int) -> list[AddressSpace]:
    """Return the tables that map a guest's physical addresses, for each of its VCPUs; none where there are none."""
    if system.memory_virtualization != "nested":
        return []
    assisted: Any = system
    return [assisted.memories[slot].paging.tables.space for slot in assisted.slots(guest)]


def shadow_of(system: System, guest: int) -> ShadowPaging | None:
    """Return the shadow page tables of a guest's VCPU whose turn it is; None where there are none."""
    found = shadows_of(system, guest)
    return found[system.guests[guest].platform.apics.current] if found else None


def shadows_of(system: System, guest: int) -> list[ShadowPaging]:
    """Return the shadow page tables of all VCPUs of a guest; none where there are none."""
    if system.memory_virtualization != "shadow":
        return []
    virtual: Any = system
    held = virtual.worlds if hasattr(system, "worlds") else virtual.memories
    return [held[slot].shadow for slot in virtual.slots(guest)]


def shadow_format(shadow: ShadowPaging, cpu: Processor) -> PageTableFormat:
    """Return the format of shadow page tables."""
    model = cpu.model
    if shadow.shape == TWO_LEVEL:
        return IA32
    if shadow.shape == PAE:
        return pae(model.physical_bits, no_execute=model.has("nx"))
    return four_level(model.physical_bits, no_execute=model.has("nx"), gigabyte_pages=model.has("pdpe1gb"))


def _has_the_processor(system: System, guest: int) -> bool:
    """Say whether what the processor has cached is a guest's now."""
    return system.current == guest and (not system.assisted or system.machine.cpu.non_root)


def _look_at_shadow(
    system: System, guest: int, address: int, kind: dict[str, Any], caches: NestedCaches | None
) -> Walked | None:
    """Walk the tables that the hardware uses for a guest in place of its own."""
    shadow, cpu = shadow_of(system, guest), system.machine.cpu
    if shadow is None:
        return None
    format_ = shadow_format(shadow, cpu)
    # A deprivileged guest runs in ring 3 in both of its modes: to the hardware each of its accesses is a user's.
    user = kind["user"] or shadow.deprivileged
    page = shadow.pages.find(root_role(system.guests[guest].vcpu, deprivileged=shadow.deprivileged, user=kind["user"]))
    if page is None:  # it will be made when the guest is entered, and be empty
        fault = Fault(PF, PF_USER * user | PF_WRITE * (kind["access"] == "write"))
        return Walked(address, kind["access"], user, AddressSpace(format_, 0), None, (), None, fault)
    read = reader(cpu)
    in_registers = format_.levels[0].in_registers
    registers = tuple(read(page.address + 8 * slot, 8) for slot in range(4)) if in_registers else ()
    space = AddressSpace(format_, page.address, registers)
    return look(space, None, address, read, access=kind["access"], user=user, caches=caches)


def _host_address(system: System, guest: int, physical: int | None) -> int | None:
    """Return the host-physical address behind a guest-physical one; None where there is no RAM."""
    memory: Any = system.guests[guest].vcpu.memory  # the guest's window, or, with direct paging, all there is
    if physical is None or not system.guests[guest].vcpu.bus.is_ram(physical):
        return None if hasattr(memory, "host_address") else physical
    return int(memory.host_address(physical)) if hasattr(memory, "host_address") else physical


def _look_at_tlb(system: System, guest: int, address: int, access: str, *, user: bool) -> tuple[TlbEntry | None, str]:
    """Return what the processor's TLB holds for a page, and what that is worth to an access."""
    cpu = system.machine.cpu
    if not _has_the_processor(system, guest):
        return None, "other"
    shadow = shadow_of(system, guest)
    as_user = user or (shadow is not None and shadow.deprivileged)
    kind = {"write": access == "write", "fetch": access == "fetch", "user": as_user}
    entry, allows = cpu.held(address, **kind)
    return entry, "hit" if allows else "miss" if entry is None else "rights"
