"""Who may write to a guest frame without a trap: something that the shadow paging of all VCPUs of a guest must agree on.

Each VCPU has shadow pages of its own, as it has a TLB of its own: INVLPG and a flush concern nobody else's, and what one may
still hold that another has invalidated is as stale as on the bare machine, until its own kernel invalidates it there, too.

But memory is one. A table that the shadow pages of one VCPU derive from must not be written to unseen by any, so that it is
write-protected in the shadow pages of all. A write that is let go on untraced is so for all who trace the table: it is out of
step for each of them, and in step again where one synchronizes it, for that one.

    VCPU that writes    another VCPU, whose shadow pages derive from the table
    ------------------  -------------------------------------------------------------------------------
    trap, emulated      its entries are brought up to date at once; its TLB may go on to hold the old ones
    trap, let go        its table of the last level is out of step: entries stay until it flushes, or INVLPG
    no trap             it was out of step before

Read more: Linux, Documentation/virt/kvm/x86/mmu.rst (unsync pages); Intel SDM vol. 3, 4.10.5 (propagation of changes to others).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.vmm.shadow_roles import is_for_user, top_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.vmm.shadow_roles import Role
    from vmlab.vmm.shadow_tracing import TableTraces

__all__ = ["FrameWriters"]


class FrameWriters:
    """Which frames of a guest are write-protected, in the shadow pages of all its VCPUs.

    Attributes
    ----------
    members : list of TableTraces
        One for each VCPU; each enters itself.
    """

    def __init__(self) -> None:
        self.members: list[TableTraces] = []

    def is_guarded(self, frame: int, *, user: bool) -> bool:
        """Say whether the hypervisor itself wants to see writes to a guest frame: all, or those of the guest's user."""
        return any(frame in each.guarded or (user and frame in each.guarded_from_user) for each in self.members)

    def is_protected(self, frame: int) -> bool:
        """Say whether writes to a guest frame trap, whoever writes."""
        return any(frame in each.guarded or each.is_traced(frame) for each in self.members)

    def is_protected_in(self, frame: int, role: Role) -> bool:
        """Say whether writes to a guest frame trap that go through shadow pages of a role."""
        return self.is_protected(frame) or (
            is_for_user(role) and any(frame in each.guarded_from_user for each in self.members)
        )

    def protect(self, frame: int, where: Callable[[Role], bool] = lambda _: True) -> None:
        """Write-protect a guest frame everywhere (in pages of some roles): what a processor may hold, it must forget."""
        for each in self.members:
            if each.pages.protect(frame, where) or each.lingering:
                each.exposed = True

    def ask(self, frame: int, *, user: bool) -> tuple[bool, str]:
        """Say whether a guest may write to a frame; if need be, a table there leaves step, or is a table no more.

        Returns
        -------
        bool, str
            Whether it may, and what to count that as, if anything.
        """
        if self.is_guarded(frame, user=user):
            return False, ""
        tracing = [each for each in self.members if each.is_traced(frame)]
        if not tracing:
            return True, ""
        if all(each.may_let_go(frame) for each in tracing):
            for each in tracing:
                each.let_go(frame)
            return True, "unsyncs"
        for each in tracing:
            each.flood(frame)
        in_use = any(frame in top_frames(each.vcpu) for each in self.members)
        if all(each.is_flooded(frame) for each in tracing) and not in_use:
            for each in tracing:
                each.remove(frame)
            return True, "floods"
        return False, "traced writes"
