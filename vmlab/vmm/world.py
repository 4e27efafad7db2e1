"""The world of a VCPU: what the hypervisor keeps for it beside its registers (textbook 18.4.1).

`World` holds the shadow page tables and shadow descriptors of a VCPU, and follows what the guest does to its own. Those of a
guest with several have nothing in common but that a frame which one wants write-protected is so for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import (
    CR0_PE,
    CR0_PG,
)  # fmt: skip
from vmlab.isa.x86.semantics.system import operand_address
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.state import COUNT, LONG, WORD, Items, check_state, rollback
from vmlab.vmm.shadow_descriptors import ShadowDescriptors
from vmlab.vmm.shadow_paging import ShadowPaging

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Processor
    from vmlab.vmm.host_memory import HostMemory
    from vmlab.vmm.shadow_paging import ShadowPolicy
    from vmlab.vmm.shadow_writers import FrameWriters

__all__ = ["World"]


class World:
    """Shadow structures of one VCPU.

    Attributes
    ----------
    shadow : ShadowPaging
        Its shadow page tables.
    descriptors : ShadowDescriptors
        Its shadow GDTs.
    loaded : list of int
        Real selectors given to the real segment registers at the last resume.
    written : set of int
        Guest frames with translated code that have been written to; whoever translates empties it.
    invalidated : bool
        True where the guest has invalidated a page since; whoever translates clears it.
    """

    def __init__(
        self,
        host: HostMemory,
        vcpu: Processor,
        memory: MemoryWindow,
        policy: ShadowPolicy = "cached",
        descriptors: type[ShadowDescriptors] = ShadowDescriptors,
        writers: FrameWriters | None = None,
        *,
        translated: bool = False,
    ) -> None:
        self._host = host
        self._translated = translated
        self.vcpu = vcpu
        self.memory = memory
        self.shadow = ShadowPaging(host, vcpu, memory, policy=policy, writers=writers)
        self.descriptors = descriptors(host)
        self.loaded = [0] * 6
        self.written: set[int] = set()
        self.invalidated = False
        self._tables: set[int] = set()
        self._code: set[int] = set()
        self._shadowed: tuple[int, ...] = ()
        self._stale = True
        self._flushes_seen = 0

    def after_emulation(self, instruction: Instruction) -> None:
        """Follow what an emulated instruction did to translation."""
        if not self._follow_flushes() and instruction.mnemonic == "invlpg":
            self.invalidated = True
            self.shadow.drop(operand_address(self.vcpu, instruction))
            self._stale = True

    def _follow_flushes(self) -> bool:
        """Flush the shadow if the VCPU has flushed its TLB, as a task switch does, too; say whether it has."""
        flushes = self.vcpu.tlb.flushes
        if flushes == self._flushes_seen:
            return False
        self._flushes_seen = flushes
        self.shadow.flush()
        self._stale = True
        return True

    # -- the guest's descriptor table ------------------------------------------------------------------------------------

    def _table_key(self) -> tuple[int, ...]:
        """Return what the shadow descriptors depend on, beside the table's contents."""
        vcpu = self.vcpu
        # In real mode a selector names no descriptor: no load may go on without a trap.
        return vcpu.gdtr_base, vcpu.gdtr_limit, vcpu.cpl % 3 if vcpu.cr0 & CR0_PE else -1

    def refresh_descriptors(self) -> None:
        """Bring the shadow descriptors up to date, if the guest's table, or where it lies, may have changed."""
        self._follow_flushes()
        # Translated code writes to the table as it likes, and has no need of its shadow; so does that of other VCPUs.
        self._stale = self._stale or (self._translated and not (self.vcpu.cpl == 3 and self.vcpu.is_alone))
        if self._translated and self.vcpu.cpl != 3:
            return
        key = self._table_key()
        if not self._stale and key == self._shadowed:
            return
        self._stale, self._shadowed = False, key
        vcpu, level = self.vcpu, key[2]
        frames, parts = set(), []
        base, end = vcpu.gdtr_base, vcpu.gdtr_base + vcpu.gdtr_limit + 1
        while base < end <= 1 << 32 and level >= 0:
            part = min(end, (base & -PAGE_SIZE) + PAGE_SIZE) - base
            gpa = self._guest_physical(base)
            if gpa is None or not vcpu.bus.is_ram(gpa):
                break
            frames.add(gpa >> PAGE_SHIFT)
            parts.append(self.memory.read_bytes(gpa, part))
            base += part
        self._tables = frames
        self._guard()
        self.descriptors.rebuild(b"".join(parts), max(level, 0))

    def _guest_physical(self, linear: int) -> int | None:
        if not self.vcpu.cr0 & CR0_PG:
            return linear
        try:
            return self.vcpu.page_walk(linear, write=False, user=False, mark=False).frame | linear & 0xFFF
        except Fault:
            return None

    def guard_code(self, frames: set[int]) -> None:
        """Write-protect the pages of code that has been translated, too, and note in `written` when it is written to."""
        if frames != self._code:
            self._code = frames
            self._guard()

    def _guard(self) -> None:
        """Write-protect the pages of the guest's table, and of translated code, and no others."""
        traces, pages = self.shadow.traces, self._code if self._translated else self._tables | self._code
        traces.guard_from_user(self._tables if self._translated else set())
        for page in traces.guarded - pages:
            self.memory.host.unwatch(self.memory.frames[page], self._written)
        for page in pages - traces.guarded:
            self.memory.host.watch(self.memory.frames[page], self._written)
        traces.guard(pages)

    def _written(self, frame: int) -> None:
        page = frame - self.memory.frames[0]
        self._stale = self._stale or page in self._tables
        if page in self._code:
            self.written.add(page)

    def save(self) -> dict[str, Any]:
        """Save what is not in memory."""
        return {
            "version": 2,
            "shadow": self.shadow.save(),
            "loaded": list(self.loaded),
            "shadowed": list(self._shadowed),
            "stale": self._stale,
            "flushes": self._flushes_seen,
            "descriptors": self.descriptors.save(),
            "tables": sorted(self._tables),
            "code": sorted(self._code),
            "written": sorted(self.written),
            "invalidated": self.invalidated,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        fields = {"shadow": dict, "descriptors": dict, "stale": bool, "flushes": COUNT, "invalidated": bool}
        frame = Items(range(len(self.memory.frames)))
        lists = {"loaded": Items(WORD, 6), "shadowed": Items(range(-1, LONG.stop)), "tables": frame, "code": frame}
        check_state(state, "world", fields | lists | {"written": frame}, version=2)
        with rollback(self):
            for page in self.shadow.traces.guarded:
                self.memory.host.unwatch(self.memory.frames[page], self._written)
            self.descriptors.load(state["descriptors"])
            self.shadow.load(state["shadow"])
            for page in self.shadow.traces.guarded:
                self.memory.host.watch(self.memory.frames[page], self._written)
            self.loaded = list(state["loaded"])
            self._tables, self._code, self.written = (set(state[name]) for name in ("tables", "code", "written"))
            self._shadowed = tuple(state["shadowed"])
            self._stale, self.invalidated = state["stale"], state["invalidated"]
            self._flushes_seen = state["flushes"]
