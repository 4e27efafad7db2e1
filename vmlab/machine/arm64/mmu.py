"""Address translation: the regimes of EL1&0 and EL2, stage 2, and a TLB of what has been found.

Stage 1 of EL1&0 is two sets of tables, chosen by bit 55 of the address (TTBR0_EL1 and TTBR1_EL1); stage 2 (HCR_EL2.VM)
maps the intermediate physical address that comes out, and those of the tables on the way; EL2 has one set. All of it is
`walk` and `walk_nested` over the formats of `vmlab.machine.page_formats_arm`.

The TLB keeps a page for each kind of access and exception level, right or stale, until a TLBI, a write to a register of
translation, or 512 pages: then it starts anew. A TLBI drops everything of both regimes, which the architecture allows.

Simplified: a page whose tables lie outside memory reads as zeros; ASIDs and VMIDs need not be told apart, as a change of
TTBR or VTTBR empties the TLB. Attributes matter for alignment alone: Device memory, and any with the MMU off, takes
aligned accesses only. A T0SZ out of range counts as the nearest one.

Read more: Arm ARM (DDI 0487), D8 (translation), D8.1 (regimes), D17.2.131 (TCR_EL1), D17.2.157 (VTCR_EL2).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import OptionError, StateError
from vmlab.isa.arm64.exceptions import ExceptionClass
from vmlab.machine.arm64.traps import HCR, SCTLR, Trapped
from vmlab.machine.nested_walk import AddressSpace, NestedTranslation, walk_nested
from vmlab.machine.page_formats_arm import aarch64_stage1, aarch64_stage1_el2, aarch64_stage2, ttbr_registers
from vmlab.machine.paging import Translation, walk
from vmlab.machine.state import COUNT, QUAD, Entries, Items, check_state
from vmlab.machine.walk_faults import GuestAccess, Stage1Abort, Stage2Abort

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.arm64.board import Board
    from vmlab.machine.arm64.state import ArmState

__all__ = ["FETCH", "READ", "WRITE", "Abort", "Found", "Mmu"]

READ, WRITE, FETCH = range(3)
PAGE_SHIFT, OFFSET = 12, 0xFFF
LARGEST_TLB = 512

# TCR_EL1:  38 TBI1 | 37 TBI0 | 34:32 IPS | 23 EPD1 | 21:16 T1SZ | 7 EPD0 | 5:0 T0SZ       TCR_EL2:  20 TBI | 18:16 PS | 5:0
# VTCR_EL2:  18:16 PS | 7:6 SL0 | 5:0 T0SZ
PHYSICAL_BITS = (32, 36, 40, 42, 44, 48, 48, 48)
"""By IPS and PS; 52 bits and reserved ones count as what this processor has."""
WIDEST = 48
BIT_55 = 1 << 55
LOW_56 = (1 << 56) - 1
LONG = (1 << 64) - 1
ADDRESS_SIZE_0, EXTERNAL, ALIGNMENT, TRANSLATION_0 = 0b000000, 0b010000, 0b100001, 0b000100
CM, S1PTW, WNR, STATUS = 1 << 8, 1 << 7, 1 << 6, 0x3F


class Abort(Trapped):
    """An instruction or data abort: `far` and `hpfar` beside the syndrome; `to` is 2 for stage 2, else 0 (as usual)."""

    def __init__(self, far: int, status: int, access: int, *, hpfar: int | None = None) -> None:
        ec = ExceptionClass.INSTRUCTION_ABORT if access == FETCH else ExceptionClass.DATA_ABORT
        super().__init__(0 if hpfar is None else 2, ec, status)
        self.far, self.hpfar = far, hpfar


class Found(NamedTuple):
    """A translation: physical address of the page, whether it takes aligned accesses only, and the walk behind it."""

    frame: int
    is_device: bool
    steps: Translation | NestedTranslation | None


class Mmu:
    """The MMU.

    Attributes
    ----------
    pages : list of list of dict
        By kind of access, then by exception level: page number to physical page address, of the memory that the TLB holds.
    devices : list of list of set
        Numbers of those of its pages that are Device memory.
    walks, references, fills : int
        Walks made, their memory references, and pages entered.
    """

    def __init__(self, state: ArmState, board: Board) -> None:
        self._state, self._board = state, board
        self.pages: list[list[dict[int, int]]] = [[{}, {}, {}] for _ in range(3)]
        self.devices: list[list[set[int]]] = [[set(), set(), set()] for _ in range(3)]
        self.walks = self.references = self.fills = 0

    def flush(self) -> None:
        """Empty the TLB."""
        for pages, devices in zip(chain(*self.pages), chain(*self.devices), strict=True):
            pages.clear()
            devices.clear()

    def find(self, address: int, access: int, el: int) -> tuple[int, bool]:
        """Return the physical address of the page of an address, and whether it is Device memory."""
        page = address >> PAGE_SHIFT
        frame = self.pages[access][el].get(page)
        if frame is None:
            return self.fill(address, access, el)
        return frame, page in self.devices[access][el]

    def fill(self, address: int, access: int, el: int) -> tuple[int, bool]:
        """Translate an address on a miss, and keep the page if it is memory; returns what `find` does."""
        found = self.translate(address, access, el)
        if self._board.is_memory(found.frame, OFFSET + 1):  # a device's registers are looked up each time
            pages, devices, page = self.pages[access][el], self.devices[access][el], address >> PAGE_SHIFT
            if len(pages) >= LARGEST_TLB:
                pages.clear()
                devices.clear()
            pages[page] = found.frame
            devices.discard(page)
            if found.is_device:
                devices.add(page)
            self.fills += 1
        return found.frame, found.is_device

    # -- regimes -----------------------------------------------------------------------------------------------------

    def translate(self, address: int, access: int, el: int, *, stage2: bool = True, looking: bool = False) -> Found:
        """Translate an address.

        Parameters
        ----------
        address : int
            A virtual address.
        access : int
            `READ`, `WRITE` or `FETCH`.
        el : int
            The exception level whose rights count.
        stage2 : bool
            False to stop behind stage 1, whose tables are still read through stage 2 (AT S1...).
        looking : bool
            True where nothing is counted or marked.

        Raises
        ------
        Abort
            A fault of stage 1, or of stage 2.
        """
        system = self._state.system
        hcr = system["hcr_el2"]
        if el == 2:
            on, second = bool(system["sctlr_el2"] & SCTLR.M), False
        else:
            on = bool(system["sctlr_el1"] & SCTLR.M) and not hcr & (HCR.TGE | HCR.DC)
            second = bool(hcr & (HCR.VM | HCR.DC)) and not hcr & HCR.TGE
        try:
            if not on:
                cacheable = bool(hcr & HCR.DC and el < 2)
                second = second and stage2
                return self._untranslated(address, access, second=second, cacheable=cacheable, looking=looking)
            space, inside = self._stage1(address, el)
            if second and not stage2:
                found: Any = self._walk(space, inside, access, el, looking=looking, read=self._read_through(address))
            elif second:
                found = self._walk_nested(space, inside, access, el, looking=looking)
            else:
                found = self._walk(space, inside, access, el, looking=looking)
        except Stage1Abort as fault:
            wnr = WNR if access == WRITE else 0
            raise Abort(address, fault.esr & STATUS | wnr, access) from None
        except Stage2Abort as fault:
            raise self._stage2_abort(address, access, fault) from None
        inner = found.guest if isinstance(found, NestedTranslation) else found
        assert inner is not None  # stage 1 is on
        leaf = inner.steps[-1].entry
        return Found(found.frame, self._is_device(leaf, el), found)

    def _stage2_abort(self, address: int, access: int, fault: Stage2Abort) -> Abort:
        wnr = WNR if fault.is_write and access != FETCH else 0
        table = S1PTW if fault.access and fault.access.table else 0
        return Abort(address, fault.status | wnr | table, access, hpfar=fault.hpfar)

    def _untranslated(self, address: int, access: int, *, second: bool, cacheable: bool, looking: bool) -> Found:
        if address >> WIDEST:
            raise Abort(address, ADDRESS_SIZE_0 | (WNR if access == WRITE else 0), access)
        if not second:
            return Found(address & ~OFFSET, not cacheable and access != FETCH, None)
        nested = self._walk_nested(None, address, access, 0, looking=looking)
        return Found(nested.frame, not cacheable and access != FETCH, nested)

    def _stage1(self, address: int, el: int) -> tuple[AddressSpace, int]:
        """Return the tables for an address, and the address without its tag."""
        system = self._state.system
        if el == 2:
            tcr = system["tcr_el2"]
            inside = address & LOW_56 if tcr >> 20 & 1 else address
            format_ = aarch64_stage1_el2(_size(tcr), physical_bits=PHYSICAL_BITS[tcr >> 16 & 7])
            return AddressSpace(format_, system["ttbr0_el2"]), inside
        tcr = system["tcr_el1"]
        high = bool(address & BIT_55)
        inside = address
        if tcr >> (38 if high else 37) & 1:
            inside = address & LOW_56 | (LONG ^ LOW_56 if high else 0)
        off = tcr >> (23 if high else 7) & 1
        root = None if off else system["ttbr1_el1" if high else "ttbr0_el1"]
        format_ = aarch64_stage1(_size(tcr >> (16 if high else 0)), physical_bits=PHYSICAL_BITS[tcr >> 32 & 7])
        return AddressSpace(format_, 0, ttbr_registers(None if high else root, root if high else None)), inside

    def _stage2(self) -> AddressSpace | None:
        """Return the tables of stage 2; None where VTCR_EL2 makes no sense."""
        vtcr = self._state.system["vtcr_el2"]
        try:
            format_ = aarch64_stage2(vtcr & 0x3F, vtcr >> 6 & 3, physical_bits=PHYSICAL_BITS[vtcr >> 16 & 7])
        except OptionError:
            return None
        return AddressSpace(format_, self._state.system["vttbr_el2"])

    def _read_through(self, virtual: int) -> Callable[[int, int], int]:
        """Return what reads entries of stage 1's tables through stage 2, for the translation of an address."""

        def read(address: int, size: int) -> int:
            try:
                found = self._walk_nested(None, address, READ, 1, looking=True)
            except Stage2Abort as fault:
                raise fault.during(GuestAccess(virtual, table=True, is_fetch=False, is_write=False)) from None
            return self._board.read_table(found.frame | address & OFFSET, size)

        return read

    def _walk(
        self,
        space: AddressSpace,
        address: int,
        access: int,
        el: int,
        *,
        looking: bool,
        read: Callable[[int, int], int] | None = None,
    ) -> Translation:
        found = walk(
            space.format,
            space.root,
            address,
            read or self._board.read_table,
            None,
            is_write=access == WRITE,
            is_user=el == 0,
            is_fetch=access == FETCH,
            registers=space.registers,
        )
        if not looking:
            self.walks += 1
            self.references += found.references
        return found

    def _walk_nested(
        self, space: AddressSpace | None, address: int, access: int, el: int, *, looking: bool
    ) -> NestedTranslation:
        is_write, is_fetch = access == WRITE, access == FETCH
        host = self._stage2()
        if host is None:
            guest = GuestAccess(address, space is not None, is_fetch, is_write)
            raise Stage2Abort(address, guest, TRANSLATION_0, is_fetch=is_fetch, is_write=is_write)
        found = walk_nested(
            space,
            host,
            address,
            self._board.read_table,
            None,
            is_write=is_write,
            is_user=el == 0,
            is_fetch=is_fetch,
        )
        if not looking:
            self.walks += 1
            self.references += found.references
        return found

    def _is_device(self, leaf: int, el: int) -> bool:
        """Say whether AttrIndx chooses Device memory: an attribute of MAIR_ELx whose high half is 0."""
        mair = self._state.system["mair_el2" if el == 2 else "mair_el1"]
        return not mair >> 8 * (leaf >> 2 & 7) & 0xF0

    # -- AT ------------------------------------------------------------------------------------------------------------

    def ask(self, name: str, address: int) -> int:
        """Return what AT puts into PAR_EL1:  47:12 address | 0 F, then 9 S, 8 PTW, 6:1 the fault status.

        Read more: Arm ARM, D17.2.108 (PAR_EL1).
        """
        el, access = int(name[-2]), WRITE if name[-1] == "w" else READ
        both = name.startswith("s12")
        try:
            found = self.translate(address, access, el, stage2=both, looking=True)
        except Abort as abort:
            second = abort.hpfar is not None
            if second and self._state.el == 1:  # the walk itself met what stage 2 forbids: that is EL2's affair
                abort.iss |= CM | WNR
                raise
            return (
                1 | (abort.iss & STATUS) << 1 | (0x200 if second else 0) | (0x100 if abort.iss & S1PTW else 0) | 1 << 11
            )
        return found.frame & 0x0000_FFFF_FFFF_F000 | 1 << 11

    # -- saving --------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save what the TLB holds, and the counts."""
        pages = [[dict(each) for each in kind] for kind in self.pages]
        devices = [[sorted(each) for each in kind] for kind in self.devices]
        return {
            "version": 1,
            "pages": pages,
            "devices": devices,
            "walks": self.walks,
            "references": self.references,
            "fills": self.fills,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved TLB.

        Raises
        ------
        StateError
            The state is damaged.
        """
        fields = {
            "pages": Items(Items(Entries(QUAD, COUNT), 3), 3), "devices": Items(Items(Items(QUAD), 3), 3), "walks": COUNT,
            "references": COUNT, "fills": COUNT,
        }  # fmt: skip
        check_state(state, "AArch64 MMU", fields)
        for kind in state["pages"]:
            frames = [frame for pages in kind for frame in pages.values()]
            if any(frame & OFFSET or not self._board.is_memory(frame, OFFSET + 1) for frame in frames):
                raise StateError("AArch64 MMU: a saved page lies outside memory, or is none")
        self.pages = [[dict(each) for each in kind] for kind in state["pages"]]
        self.devices = [[set(each) for each in kind] for kind in state["devices"]]
        self.walks, self.references, self.fills = state["walks"], state["references"], state["fills"]


def _size(tcr: int) -> int:
    return min(max(tcr & 0x3F, 16), 39)
