"""Binary translation (textbook 18.4.2): the guest's user code runs directly, its kernel's only in translation.

The kernel's code is read from its program counter, a few instructions at a time, and becomes a *translation unit* in a cache
of the hypervisor's, which ring 3 may execute: most of it as it was, jumps within the cache, and what is sensitive as what it
does to the VCPU (see `vmlab.vmm.translation_unit`). So instructions that are sensitive and do not trap (POPF, PUSHF, SGDT, …)
do what they should, and CLI costs no trap at all. What remains is as under trap-and-emulate, on which this is built: shadow
page tables, virtual devices, the VCPU.

Translation is adaptive: an instruction that keeps trapping, as it writes to a page table or reads a device's register, is
translated anew, into a call-out.

Wherever the processor is stopped within a translation, the guest's registers and its EIP are known, and the instruction there
can be executed on the VCPU instead. That is what is done where nothing can be translated: in real mode, in rings 1 and 2,
under a debugger's flags and registers, in code segments that are not flat, across the border of two pages.

Simplified: user code runs directly even where it shows the real machine (SGDT, SIDT, SLDT, STR, SMSW, and what asks for
segments), as with the VMMs of that time; only EFLAGS is looked after, for code that may change IF. Where a guest has several
VCPUs, each has a cache of its own; PAUSE gives the rest of a turn away in the kernel (a call-out), in user code it does not.

Read more: Adams and Agesen, ASPLOS 2006, 3; Bugnion and others, TOCS 30(4), 2012 (VMware Workstation).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.descriptors import WIDE
from vmlab.isa.x86.faults import PF, UD, Fault, vector_name
from vmlab.isa.x86.registers import CR0_PE, CR0_PG, CS, DS, ES, FIXED, FS, IF, RF, SS, TF, VM
from vmlab.machine.state import COUNT, Items
from vmlab.vmm.exits import ExitReason
from vmlab.vmm.hypervisor import TIMER_VECTOR
from vmlab.vmm.translated_descriptors import TranslatedDescriptors, is_cut
from vmlab.vmm.translation_adaptation import copy_of
from vmlab.vmm.translation_cache import TranslationCache
from vmlab.vmm.translation_code import cache_pages
from vmlab.vmm.trap_and_emulate import TrapAndEmulate
from vmlab.vmm.world_switch import DIRECT_FLAGS

if TYPE_CHECKING:
    from vmlab.machine.processor import Processor
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.shadow_paging import PageFault
    from vmlab.vmm.world import World

__all__ = ["BinaryTranslation"]

BREAKPOINTS = 0xFF
WIDTH = 32


class BinaryTranslation(TrapAndEmulate):
    """A type 1 hypervisor by binary translation, with shadow paging, and time-sliced guests.

    Counts `"emulated"`, `"injected"`, `"world switches"`, `"interpreted"`, `"call-outs executed"` (not those that faulted);
    caches and shadow paging count for themselves.

    Attributes
    ----------
    caches : list of TranslationCache
        One for each VCPU.
    interpreted : Processor or None
        The VCPU while the hypervisor executes a guest's instructions on it, which the processor never sees.
    inside : bool
        True while the processor, or the hypervisor that has not looked yet, is in the current guest's cache.
    """

    technique = "binary-translation"
    name = "binary-translation VMM"
    descriptors = TranslatedDescriptors

    def shown_pages(self, vcpus: int) -> int:
        return cache_pages(vcpus)

    def prepare(self) -> None:
        """Build the caches."""
        cpu = self.machine.cpu
        cpu.uncounted.code = range(WIDE, 1 << 32)
        shown = self.shown_pages(len(self.worlds))
        self.caches = [
            TranslationCache(self.switcher.host, world, cpu.uncounted.places, shown) for world in self.worlds
        ]
        self.inside = False
        self.interpreted: Processor | None = None

    def cpu_state(self, guest: int = 0, cpu: int = 0) -> Processor:
        """Return the registers as the guest would find them."""
        seen = super().cpu_state(guest, cpu)
        if seen is not self.guests[guest].vcpus[cpu] and self.inside:
            self.caches[self.slot].restore(seen, retired=self.switcher.has_retired)
        return seen

    @property
    def translated(self) -> bool:
        return self.inside and not self.in_vmm

    def original(self, linear: int) -> int | None:
        if linear not in self.machine.cpu.uncounted.code:
            return linear
        return self.caches[self.slot].begins.get(linear)

    # -- out of the cache ------------------------------------------------------------------------------------------------

    def handle(self) -> None:
        """Save the world, find out where in the guest that is and why it trapped, and do what it could not do itself."""
        if not self.inside:
            super().handle()
            return
        guest, world, cache = self.guest, self.worlds[self.slot], self.caches[self.slot]
        vcpu, retired = guest.vcpu, self.switcher.has_retired
        vector, error_code = self.switcher.leave(world)
        place = vcpu.ip
        cache.restore(vcpu, retired=retired)
        vcpu.flags_changed()
        self.inside = False
        if vector == UD and place in cache.jumps:
            self._follow(guest, world, cache, place)
        elif vector == UD and cache.is_miss(place):
            self.count_exit(ExitReason.TRANSLATION, f"{vcpu.ip:#x}")
            self._refresh(world, cache)
            if cache.find(vcpu) is not None:
                cache.remember(vcpu.ip)
        else:
            ip, executed = vcpu.ip, self.counters["emulated"]
            if vector == UD:
                reason = ExitReason.RETRANSLATED if ip in cache.adaptation.trapping else None
                cache.called_out(ip)
                self.emulate(guest, reason)
                self.counters["call-outs executed"] += self.counters["emulated"] - executed
                return
            self.dispatch(guest, world, vector, error_code)
            if vector not in (TIMER_VECTOR, PF):
                cache.trapped(ip)

    def _follow(self, guest: Guest, world: World, cache: TranslationCache, place: int) -> None:
        """Follow a direct jump to what is not translated, or not chained."""
        vcpu = guest.vcpu
        if place not in self.machine.cpu.uncounted.places:  # it is a jump of the guest's
            vcpu.ip = cache.jumps[place]
            vcpu.retired += 1
            vcpu.flags &= ~RF
        self.count_exit(ExitReason.TRANSLATION, f"{vcpu.ip:#x}")
        self._refresh(world, cache)
        found = cache.find(vcpu)
        if found is not None:
            cache.chain(place, found)

    def not_hidden(self, guest: Guest, found: PageFault) -> None:
        """Note that an access must be emulated: if it must be again and again, without a trap in the future."""
        cache, vcpu = self.caches[self.slot], guest.vcpu
        if guest.mode == "kernel":
            copy = copy_of(vcpu, found.linear, found.gpa) if has_flat(vcpu) else None
            cache.trapped(vcpu.ip, copy)

    def _refresh(self, world: World, cache: TranslationCache) -> None:
        cache.refresh(world.vcpu, invalidated=world.invalidated)
        world.invalidated = False

    # -- back to a guest -------------------------------------------------------------------------------------------------

    def give(self, guest: Guest, instructions: int) -> bool:
        """Let a guest run, in translation or directly, or execute its instructions on the VCPU."""
        vcpu, world, cache = guest.vcpu, self.worlds[self.slot], self.caches[self.slot]
        ip = None
        if vcpu.cpl != 3:
            if is_translatable(vcpu):
                self._refresh(world, cache)
                if cache.adaptation.copies and not (has_flat(vcpu) and vcpu.interrupts.enabled):
                    cache.forget_copies()
                ip = cache.find(vcpu)
            if ip is None:
                self._interpret(guest, world, vcpu.retired + instructions)
                return False
            cache.publish(vcpu)
        elif not runs_directly(vcpu):
            self._interpret(guest, world, vcpu.retired + instructions)
            return False
        self.inside = ip is not None
        self.switcher.enter(world, self.current, guest.instructions, self.most(guest, instructions), ip)
        return True

    def _interpret(self, guest: Guest, world: World, until: int) -> None:
        """Execute instructions on the VCPU until something is due, or until others can be run; each is a step."""
        vcpu, machine = guest.vcpu, self.machine
        vcpu.forget_translations()
        self.interpreted = vcpu
        while True:
            try:
                instruction = vcpu.fetch()[1]
                vcpu.step()
            except Fault as fault:
                if fault.vector == PF:
                    world.shadow.drop(vcpu.cr2)
                self.inject(guest, partial(vcpu.take, fault), fault.vector, vector_name(fault.vector))
                break
            self.counters["interpreted"] += 1
            world.after_emulation(instruction)
            if guest.outcome is not None:
                self.end_guest(self.current, guest.outcome, guest.status)
                break
            deadline = guest.platform.next_deadline()
            if vcpu.retired >= until or (deadline is not None and vcpu.retired >= deadline):
                break
            waits = vcpu.interrupts.output or vcpu.signals.due or vcpu.debug_pending or vcpu.halted
            if waits or vcpu.relaxed or self.steps >= self.goal or is_translatable(vcpu) or runs_directly(vcpu):
                break
            if vcpu.ip > vcpu.segments[CS].limit:
                break
            machine.events += 1
        self.interpreted = None
        self.tell(world)

    # -- costs and saving ------------------------------------------------------------------------------------------------

    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles of the hardware, and of the hypervisor's software; a call-out costs a call, and no decoding."""
        costs, found = self.machine.cpu.model.costs, super().cycles_by_cause()
        caches = [cache.counters for cache in self.caches]
        calls = sum(each["call-outs"] for each in caches) + sum(
            guest.exits[ExitReason.TRANSLATION.value] for guest in self.guests
        )
        # A VMM that shares the guest's ring calls itself; here the trap stands for that.
        found["traps"] -= calls * (costs.trap + costs.interrupt_return)
        found["emulation"] -= self.counters["call-outs executed"] * costs.vmm_emulate
        return found | {
            "call-outs": calls * costs.vmm_call_out,
            "translated code": self.machine.cpu.uncounted.executed * costs.instruction,
            "translation": sum(each["translations"] for each in caches) * costs.vmm_translate,
            "interpretation": self.counters["interpreted"] * costs.vmm_emulate,
        }

    def save(self) -> dict[str, Any]:
        """Save everything but physical memory as plain data."""
        caches = [cache.save() for cache in self.caches]
        return super().save() | {
            "caches": caches,
            "inside": self.inside,
            "uncounted": self.machine.cpu.uncounted.executed,
        }

    def saved_fields(self) -> dict[str, Any]:
        """Return the rules for what this technique has saved."""
        return super().saved_fields() | {"caches": Items(dict, len(self.caches)), "inside": bool, "uncounted": COUNT}

    def load_more(self, state: dict[str, Any]) -> None:
        """Load what this technique has beside that on which it is built."""
        for cache, saved in zip(self.caches, state["caches"], strict=True):
            cache.load(saved)
        self.inside, self.machine.cpu.uncounted.executed = state["inside"], state["uncounted"]


def is_translatable(vcpu: Processor) -> bool:
    """Say whether the code of a guest's kernel can be translated in the VCPU's present mode."""
    segments = vcpu.segments
    return (
        vcpu.cpl == 0
        and bool(vcpu.cr0 & CR0_PE)
        and not vcpu.flags & ~(DIRECT_FLAGS & ~TF | IF | FIXED | RF)
        and not vcpu.debug[7] & BREAKPOINTS
        and not vcpu.debug_pending
        and vcpu.fetch_bits == WIDTH
        and segments[CS].flat_code
        and segments[SS].big
        and all(is_cut(segments[index]) for index in (SS, DS, ES, FS))
    )


def has_flat(vcpu: Processor) -> bool:
    """Say whether offsets in DS and SS are linear addresses."""
    return vcpu.segments[DS].flat_write and vcpu.segments[SS].flat_write


def runs_directly(vcpu: Processor) -> bool:
    """Say whether the guest's user code can run directly: it finds in the real EFLAGS what it should."""
    if vcpu.cpl != 3:
        return False
    if vcpu.flags & VM:
        return True
    return bool(vcpu.cr0 & CR0_PG) and vcpu.flags & ~(DIRECT_FLAGS | RF | FIXED) == IF
