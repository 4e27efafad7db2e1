"""Control registers and invalidation: what switches paging modes, and what drops translations.

    CR0.PG  CR4.PAE  EFER.LME      paging
      0        -        -          off: linear addresses are physical ones
      1        0        0          32-bit paging
      1        1        0          PAE paging; the four PDPTEs are loaded with CR3, and checked then
      1        1        1          4-level paging: long mode is active (EFER.LMA)

Which bits a register has at all, the model says; which general instruction may write it, the semantics say.
Simplified: more is dropped than must be by a change of CR0.PE or CR0.WP, of CR4.PSE, and of EFER.NXE: everything.

Read more: Intel SDM vol. 3, 4.1 (paging modes), 4.4.1 (PDPTE registers), 4.10.4 (invalidation), 9.8.5 (IA-32e mode).
"""

from __future__ import annotations

from vmlab.isa.x86.addresses import is_canonical
from vmlab.isa.x86.descriptors import TSS16, TSS16_BUSY
from vmlab.isa.x86.faults import GP, Fault
from vmlab.isa.x86.registers import (
    CR0_AM,
    CR0_CD,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMEP,
    CS,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
)  # fmt: skip
from vmlab.machine.page_formats import pdpte_reserved
from vmlab.machine.page_maps import PCID
from vmlab.machine.paging import PRESENT
from vmlab.machine.quick_access import QuickAccess
from vmlab.machine.tlb import SPACE_SHIFT

__all__ = ["PagingControl"]

NO_FLUSH = 1 << 63  # of the operand of MOV CR3 while CR4.PCIDE
PDPT = 0xFFFF_FFE0
SIXTEEN_BIT_TASKS = frozenset({TSS16, TSS16_BUSY})

# Types of INVPCID (SDM vol. 2, INVPCID)
ONE_ADDRESS, ONE_CONTEXT, ALL_WITH_GLOBAL, ALL = range(4)


class PagingControl(QuickAccess):
    """The part of a processor that loads control registers."""

    __slots__ = ()

    # -- control registers -------------------------------------------------------------------------------------------

    def set_cr0(self, value: int) -> None:
        """Load CR0; a change of PE, PG or WP flushes all translations.

        Raises
        ------
        Fault
            #GP(0) where paging cannot be switched so.
        """
        changed = self.cr0 ^ value
        active = self.efer & EFER_LMA
        if changed & CR0_PG:
            active = self._activated() if value & CR0_PG else self._deactivated()
        if changed & (CR0_PG | CR0_CD | CR0_NW) and value & CR0_PG and self.cr4 & CR4_PAE and not active:
            self._load_pdptes(self.cr3)
        self.efer = self.efer & ~EFER_LMA | active
        self._control_loads("cr0", value)
        if changed & (CR0_PE | CR0_PG | CR0_WP):
            self._flush("MOV CR0")
            self._mode_changed()
        elif changed & CR0_AM:
            self.code_changed()

    def _activated(self) -> int:
        """Return EFER.LMA as it will be with paging on (SDM vol. 3, 9.8.5)."""
        if not self.efer & EFER_LME:
            return 0
        if not self.cr4 & CR4_PAE or self.segments[CS].long or self.tr.access & 0x1F in SIXTEEN_BIT_TASKS:
            raise Fault(GP, 0)
        return EFER_LMA

    def _deactivated(self) -> int:
        """Return EFER.LMA as it will be with paging off: compatibility mode is the way out of long mode."""
        if self.cr4 & CR4_PCIDE or (self.efer & EFER_LMA and self.segments[CS].long):
            raise Fault(GP, 0)
        return 0

    def set_cr3(self, value: int) -> None:
        """Load CR3; drops the translations of the new address space that are not global, unless bit 63 says not to.

        Raises
        ------
        Fault
            #GP(0) for a reserved bit in it, or in a PDPTE.
        """
        keep, tag, cr4 = False, 0, self.cr4
        if self.efer & EFER_LMA:
            if cr4 & CR4_PCIDE:
                keep = bool(value & NO_FLUSH)
                value &= ~NO_FLUSH
                tag = value & PCID
            if value >> self.model.physical_bits:
                raise Fault(GP, 0)
        elif cr4 & CR4_PAE and self.cr0 & CR0_PG:
            self._load_pdptes(value)
        self._control_loads("cr3", value)
        self._forget()
        if not cr4 & (CR4_PGE | CR4_PCIDE):
            self._flush("MOV CR3")
        elif not keep:
            self._flush_space(tag, "MOV CR3")

    def set_cr4(self, value: int) -> None:
        """Load CR4; some changes flush translations.

        Raises
        ------
        Fault
            #GP(0) for a bit that the model has not, or a change that the mode forbids.
        """
        changed, active = self.cr4 ^ value, self.efer & EFER_LMA
        if value & ~self.model.cr4_mask or (active and not value & CR4_PAE):
            raise Fault(GP, 0)
        if changed & value & CR4_PCIDE and (not active or self.cr3 & PCID):
            raise Fault(GP, 0)
        reload = changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)
        if reload and value & CR4_PAE and self.cr0 & CR0_PG and not active:
            self._load_pdptes(self.cr3)
        self._control_loads("cr4", value)
        if changed & (CR4_PGE | CR4_PSE | CR4_PAE) or changed & ~value & CR4_PCIDE or changed & value & CR4_SMEP:
            self._flush("MOV CR4")
        self._mode_changed()

    def set_efer(self, value: int) -> None:
        """Load IA32_EFER; LMA cannot be written.

        Raises
        ------
        Fault
            #GP(0) for a bit that the model has not, or a change of LME while paging is on.
        """
        changed = self.efer ^ value
        if value & ~self.model.efer_mask or (changed & EFER_LME and self.cr0 & CR0_PG):
            raise Fault(GP, 0)
        self.efer = value & ~EFER_LMA | self.efer & EFER_LMA
        if changed & EFER_NXE:
            self._flush("WRMSR")
            self._mode_changed()

    def _load_pdptes(self, root: int) -> None:
        """Load the four PDPTE registers, for PAE paging; #GP(0) for a reserved bit."""
        table = self._table_address(root & PDPT)
        entries = [self.bus.read(table + 8 * n, 8) for n in range(4)]
        reserved = pdpte_reserved(self.model.physical_bits)
        if any(entry & PRESENT and entry & reserved for entry in entries):
            raise Fault(GP, 0)
        self.pdptes[:] = entries

    def _control_loads(self, name: str, value: int) -> None:
        """Load a control register, count it, and tell who watches."""
        old = getattr(self, name)
        setattr(self, name, value)
        self.control_loads += 1
        if self.on_control and old != value:
            self.on_control(name, old, value)

    def _flush(self, cause: str, *, keep_global: bool = False) -> None:
        self.tlb.flush(cause, keep_global=keep_global)
        if self.walk_caches:
            self.walk_caches.flush_guests()

    def _flush_space(self, pcid: int, cause: str) -> None:
        self.tlb.flush_space(pcid, cause)
        self._drop_walks(pcid)

    def _drop_walks(self, pcid: int) -> None:
        """Drop what walk caches hold of an address space: all of it, whatever the address (SDM vol. 3, 4.10.4.1)."""
        if self.walk_caches:
            self.walk_caches.drop_space(self._walk_tags[0] & ~PCID | pcid)

    # -- invalidation ------------------------------------------------------------------------------------------------

    def invalidate_page(self, linear: int) -> None:
        """INVLPG: the page in the present address space, global or not; of a large page all parts."""
        for pages in self.tlb.drop_page(linear >> 12):
            self._drop_pages(pages)
        self._drop_walks(self.tlb.tag >> SPACE_SHIFT)

    def invalidate_pcid(self, kind: int, pcid: int, linear: int) -> None:
        """INVPCID.

        Parameters
        ----------
        kind : int
            0 one address of one PCID, 1 all of one PCID (both but for global pages), 2 everything, 3 everything but
            global pages.
        pcid : int
            The first quadword of the descriptor.
        linear : int
            The second.

        Raises
        ------
        Fault
            #GP(0) for an unknown type, a reserved bit, a PCID that cannot be, or an address that is not canonical.
        """
        single = kind in (ONE_ADDRESS, ONE_CONTEXT)
        if kind > ALL or pcid & ~PCID or (single and pcid and not self.cr4 & CR4_PCIDE):
            raise Fault(GP, 0)
        if kind == ONE_ADDRESS:
            if not is_canonical(linear):
                raise Fault(GP, 0)
            self.tlb.drop_from(pcid, linear >> 12)
            self._drop_walks(pcid)
        elif kind == ONE_CONTEXT:
            self._flush_space(pcid, "INVPCID")
        else:
            self._flush("INVPCID", keep_global=kind == ALL)
        self._forget()

    def forget_translations(self) -> None:
        """Empty the TLB without counting a flush: for a VCPU, whose TLB must not outlive an exit."""
        self.tlb.clear()
        self._forget()

    def _table_address(self, physical: int) -> int:
        """Return where a table that CR3 points to lies in the host's memory: see `vmlab.machine.vmx.non_root`."""
        raise NotImplementedError
