"""The part of a processor that runs guests: which operation it is in, and what a guest's faults and addresses become.

In non-root operation a guest's physical addresses are translated once more where the VMM has switched extended page
tables on: the page walk is one in two dimensions then, and the TLB holds where it ended. What the tables of the host do
not allow, and what of the guest's own faults the VMM has asked for, becomes a VM exit.

Translations that the processor has cached are dropped at each VM entry and exit, unless the guest has a VPID.

Simplified: each VPID has a TLB of its own, as large as the whole.

Read more: Intel SDM vol. 3, 25.2 (other causes of VM exits), 28.3 (EPT), 25.3 (changes to instructions in a guest).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from vmlab.isa.x86.faults import GP, PF, Fault
from vmlab.isa.x86.registers import CR0_PE, CR0_WP, CR4_VMXE, IF, MSR_TSC
from vmlab.machine.event_delivery import EventDelivery
from vmlab.machine.guest_exit import HARDWARE_EXCEPTION, TYPE_SHIFT, VALID, WITH_CODE, GuestExit
from vmlab.machine.nested_walk import AddressSpace, NestedTranslation, walk_nested
from vmlab.machine.page_formats_host import EPT_ACCESS_DIRTY, ept
from vmlab.machine.tlb import Tlb, TlbEntry
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.boundary import pending_exit
from vmlab.machine.vmx.context import Context
from vmlab.machine.vmx.exit import leave
from vmlab.machine.vmx.page_log import logged_walk
from vmlab.machine.vmx.reasons import BasicReason, VmExit
from vmlab.machine.vmx.virtual_apic import read_apic, refuse_fetch, write_apic
from vmlab.machine.walk_faults import EptViolation, HostFault

if TYPE_CHECKING:
    from vmlab.machine.paging import Translation
    from vmlab.machine.processor import Processor

__all__ = ["NonRoot"]

NEVER = 1 << 62
VPID_SHIFT = 12  # in the tag of walk caches, above the PCID
LINEAR_VALID = 1 << 7  # of an EPT violation's exit qualification
IO_EXITING = c.UNCONDITIONAL_IO_EXITING | c.USE_IO_BITMAPS


@lru_cache(maxsize=64)
def _extended_tables(pointer: int, physical_bits: int, largest: str) -> AddressSpace:
    dirty = bool(pointer & EPT_ACCESS_DIRTY)
    format_ = ept(4, physical_bits=physical_bits, accessed_dirty=dirty, execute_only=False, largest_page=largest)
    return AddressSpace(format_, pointer)


class NonRoot(EventDelivery):
    """The part of a processor that knows root from non-root operation."""

    __slots__ = ()

    # -- the operation -----------------------------------------------------------------------------------------------------

    def choose_operation(self, *, non_root: bool) -> None:
        """Go on in root or in non-root operation, by the controls of the current VMCS."""
        vmx, fields = self.vmx, self.vmx.fields
        self.non_root = non_root
        vmx.pin = vmx.primary = vmx.secondary = 0
        self.host_space, self.apic_page = None, -1
        if non_root:
            vmx.pin, vmx.primary = fields[f.PIN_BASED_CONTROLS], fields[f.PRIMARY_CONTROLS]
            vmx.secondary = fields[f.SECONDARY_CONTROLS] if vmx.primary & c.ACTIVATE_SECONDARY else 0
            if vmx.secondary & c.ENABLE_EPT:
                self.host_space = self.extended_tables(fields[f.EPT_POINTER])
            if vmx.secondary & c.VIRTUALIZE_APIC_ACCESSES:
                self.apic_page = fields[f.APIC_ACCESS_ADDRESS]
        self.exits_io = bool(vmx.primary & IO_EXITING)
        self.window = bool(vmx.primary & c.INTERRUPT_WINDOW_EXITING)
        self._take_translations(self.contexts.pop(self.vpid, None))

    @property
    def vpid(self) -> int:
        """The virtual-processor identifier in use: 0 for the host."""
        return self.vmx.fields[f.VPID] if self.vmx.secondary & c.ENABLE_VPID else 0

    @property
    def is_tagged(self) -> bool:
        """True where what is cached for the guest that runs carries its identifier, and outlives an exit."""
        return bool(self.vmx.secondary & c.ENABLE_VPID)

    @property
    def contexts(self) -> dict[int, Context]:
        """What is cached for guests, or the host, that do not run now, by their identifiers."""
        return self.vmx.contexts

    def keep_translations(self) -> None:
        """Put aside, at a VM entry or exit, what is cached for the VPID in use; a guest's without one is dropped."""
        if self.non_root and not self.is_tagged:
            self.tlb.flush("VM exit")
            if self.walk_caches:
                self.walk_caches.flush_guests()
            self.contexts.pop(0, None)
            return
        derived = (
            self._levels, self._format, self._walks, self._nested_walks, self._repeats, self._reports_fetch,
        )  # fmt: skip
        space, mode = self.host_space, self._paging_mode
        self.contexts[self.vpid] = Context(space, mode, self.tlb, self._maps, derived)

    @property
    def _paging_mode(self) -> tuple[int, int, int, int]:
        """What the dictionaries over the TLB depend on."""
        return self.cr0, self.cr3, self.cr4, self.efer

    def _take_translations(self, context: Context | None) -> None:
        """Go on with what is cached for the address spaces of a VPID, if it is for the same extended page tables."""
        tagged = not self.non_root or self.is_tagged
        if context is not None and not tagged:  # the host's: they are of VPID 0, which a guest without one shares
            context.tlb.flush("VM entry")
            if self.walk_caches:
                self.walk_caches.flush()
        if context is None or not tagged or context.space != self.host_space:
            if any(each.tlb is self.tlb for each in self.contexts.values()):
                self.tlb = Tlb(self.model.tlb, self.tlb.counts)
            self._mode_changed()
            return
        self.tlb = context.tlb
        if context.mode != self._paging_mode:
            self._mode_changed()
            return
        (
            self._levels, self._format, self._walks, self._nested_walks, self._repeats, self._reports_fetch,
        ) = context.derived  # fmt: skip
        self._use_maps(context.maps)

    def extended_tables(self, pointer: int) -> AddressSpace:
        """Return the extended page tables that a pointer leads to."""
        model = self.model
        return _extended_tables(pointer, model.physical_bits, "1 GiB" if model.has("pdpe1gb") else "2 MiB")

    def set_cr0(self, value: int) -> None:
        """Load CR0: #GP(0) for what VMX operation does not allow, too."""
        if self.vmx.on:
            unrestricted = self.non_root and bool(self.vmx.secondary & c.UNRESTRICTED_GUEST)
            needed = c.fixed_cr0(unrestricted=unrestricted)
            if value & needed != needed:
                raise Fault(GP, 0)
        super().set_cr0(value)

    def set_cr4(self, value: int) -> None:
        """Load CR4: #GP(0) for what VMX operation does not allow, too."""
        if self.vmx.on and not value & CR4_VMXE:
            raise Fault(GP, 0)
        super().set_cr4(value)

    @property
    def ticks(self) -> int:
        """Slots of virtual time that have passed: what the time-stamp counter counts, the same on all processors."""
        return self.retired + self.platform.idle

    @property
    def timer_limit(self) -> int:
        """Count of retired instructions at which the guest's VMX-preemption timer expires."""
        end = self.vmx.timer_end
        return NEVER if end is None else end - self.platform.idle

    def time_stamp(self) -> int:
        """Return the time-stamp counter: virtual time, so that a guest reads the same under every hypervisor."""
        value = self.ticks + self.msrs.get(MSR_TSC, 0)
        if self.vmx.primary & c.USE_TSC_OFFSETTING:
            value += self.vmx.fields[f.TSC_OFFSET]
        return value & (1 << 64) - 1

    # -- exits ---------------------------------------------------------------------------------------------------------------

    def pending_exit(self, timer: int | None, *, stuck: bool) -> GuestExit | None:
        """Return the exit that is due before the next instruction, if any.

        Parameters
        ----------
        timer : int or None
            Vector of the performance counter's interrupt, where it waits.
        stuck : bool
            Whether the guest does nothing but take exceptions.
        """
        return pending_exit(cast("Processor", self), timer, stuck=stuck)

    @property
    def is_exit_waiting(self) -> bool:
        """True where an interrupt or an NMI waits that leads out of the guest, whatever it executes."""
        pin = self.vmx.pin
        return bool(
            (pin & c.EXTERNAL_INTERRUPT_EXITING and self.interrupts.output)
            or (pin & c.NMI_EXITING and self.signals.nmi)
        )

    @property
    def hears_interrupts(self) -> bool:
        """True where an external interrupt wakes a halted processor: it is taken, or leads out of the guest, whatever IF says."""
        return bool(self.flags & IF or self.vmx.pin & c.EXTERNAL_INTERRUPT_EXITING)

    def leave(self, exit_: GuestExit) -> None:
        """Take an exit: the host goes on."""
        assert isinstance(exit_, VmExit)
        leave(cast("Processor", self), exit_)

    def exit_for_shutdown(self) -> GuestExit | None:
        """Return the exit that a triple fault is, if it is one."""
        return VmExit(BasicReason.TRIPLE_FAULT) if self.non_root else None

    def before_task_switch(self, selector: int, source: int) -> None:
        """In a guest a task switch is a VM exit, always."""
        if self.non_root:
            raise VmExit(BasicReason.TASK_SWITCH, selector | source << 30)

    def wants_exception(self, vector: int, code: int | None) -> bool:
        """Say whether the VMM wants an exception of its guest: the exception bitmap, for #PF with mask and match."""
        if not self.non_root:
            return False
        fields = self.vmx.fields
        wanted = bool(fields[f.EXCEPTION_BITMAP] >> vector & 1)
        if vector == PF:
            matches = (code or 0) & fields[f.PAGE_FAULT_MASK] == fields[f.PAGE_FAULT_MATCH]
            return wanted == matches
        return wanted

    def exit_for_exception(self, vector: int, code: int | None, qualification: int = 0) -> GuestExit:
        """Return the VM exit that an exception is."""
        if not self.cr0 & CR0_PE:
            code = None  # real mode pushes none (SDM vol. 3, 27.2.2)
        information = VALID | HARDWARE_EXCEPTION << TYPE_SHIFT | vector | (WITH_CODE if code is not None else 0)
        return VmExit(BasicReason.EXCEPTION_OR_NMI, qualification, interruption=information, code=code or 0)

    def page_fault(self, fault: Fault, linear: int) -> Fault:
        """Return what a #PF becomes: itself, with CR2, or a VM exit, which leaves CR2 alone."""
        if self.wants_exception(PF, fault.error_code):
            return self.exit_for_exception(PF, fault.error_code, linear)
        self.cr2 = linear
        return fault

    # -- addresses ---------------------------------------------------------------------------------------------------------

    def load_pdptes(self) -> None:
        """Load the PDPTEs from where CR3 points, for a VM entry without EPT."""
        self._load_pdptes(self.cr3)

    def _walk_nested(self, linear: int, *, paged: bool, mark: bool, **access: Any) -> NestedTranslation:  # noqa: ANN401 - as of walk_nested
        """Walk in two dimensions; where the host's tables refuse, that is a VM exit.

        As in one dimension, a walk that would read the same entries as one before has its result.
        """
        host = self.host_space
        assert host is not None
        logs = mark and self.vmx.secondary & c.ENABLE_PML
        repeats = self._repeats and paged and mark and not logs
        key = self.cr3, linear >> 12, self.apic_page, *access.values()
        known = self._nested_walks.find(key, self.memory.read) if repeats else None
        if known is not None:
            return known
        guest = AddressSpace(self._format, self.cr3, self.pdptes) if paged else None

        def walk(marking: bool) -> NestedTranslation:
            return walk_nested(
                guest, host, linear, self._read_entry, self.bus.write if marking else None,
                write_protect=bool(self.cr0 & CR0_WP), reports_fetch=self._reports_fetch,
                caches=self.walk_caches if mark else None, known=None if self.walk_caches else self._host_walks, **access,
            )  # fmt: skip

        try:
            found = logged_walk(self.vmx.fields, self.bus, walk) if logs else walk(mark)
        except HostFault as fault:
            raise self._host_fault(fault) from None
        if found.frame == self.apic_page:
            if access["is_fetch"]:
                raise refuse_fetch(linear)
            found = found._replace(executable=False)
        # No write may go by what the TLB holds to a page that the host protects, whatever CR0.WP says.
        found = found if found.hosts[-1].writable else found._replace(dirty=False)
        if repeats:
            entries = found.entries(self._format.entry_bytes, host.format.entry_bytes)
            self._nested_walks.keep(key, found, entries, self._read_ram)
        return found

    def walk_host(self, physical: int, *, write: bool, fetch: bool) -> NestedTranslation:
        """Walk the extended page tables for a guest-physical address, without a mark; VmExit where they refuse."""
        return self._walk_nested(physical, paged=False, mark=False, is_write=write, is_fetch=fetch)

    def _host_fault(self, fault: HostFault) -> GuestExit:
        """Return the exit that a fault of the host's tables is."""
        if isinstance(fault, EptViolation):
            return VmExit(
                BasicReason.EPT_VIOLATION, fault.qualification, linear=fault.linear, physical=fault.guest_physical
            )
        return VmExit(BasicReason.EPT_MISCONFIGURATION, linear=fault.linear, physical=fault.guest_physical)

    def _guest_span(self, found: Translation) -> int:
        """INVLPG drops all parts of the guest's page, however small the host's are."""
        guest = cast("NestedTranslation", found).guest
        return found.page_size if guest is None else guest.page_size

    @property
    def _walk_tags(self) -> tuple[int, int]:
        space, (guest, _) = self.host_space, super()._walk_tags
        return self.vpid << VPID_SHIFT | guest, 0 if space is None else space.root

    def _unpaged(self, linear: int, *, write: bool, fetch: bool) -> int:
        """Translate an address of a guest without paging: a guest-physical one."""
        page = linear >> 12
        entry = self.tlb.find(page)
        if entry is None or (write and not entry.dirty) or (fetch and not entry.executable):
            self.tlb.counts.misses += 1
            if entry is not None:
                for pages in self.tlb.drop(page):
                    self._drop_pages(pages)
            found = self._walk_nested(linear, paged=False, mark=True, is_write=write, is_fetch=fetch)
            self.walk_references += found.references
            writable = found.writable and found.dirty
            entry = TlbEntry(found.frame, True, True, found.executable, writable, False, found.page_size)
            victim = self.tlb.insert(page, entry)
            if victim is not None:
                self._drop_pages(victim)
        self._remember(page, entry.frame, writable=entry.dirty, user=True)
        return entry.frame | linear & 0xFFF

    def _table_address(self, physical: int) -> int:
        """Return where a table that the guest's CR3 points to lies in the host's memory."""
        if self.host_space is None:
            return physical
        try:
            return self._walk_nested(physical, paged=False, mark=True).frame | physical & 0xFFF
        except GuestExit as exit_:
            exit_.qualification &= ~LINEAR_VALID
            raise

    # -- the local APIC of a guest -----------------------------------------------------------------------------------------

    def read_virtual_apic(self, offset: int, size: int) -> int:
        return read_apic(self, offset, size)  # type: ignore[arg-type]  # it is a processor

    def write_virtual_apic(self, offset: int, size: int, value: int) -> None:
        write_apic(self, offset, size, value)  # type: ignore[arg-type]
