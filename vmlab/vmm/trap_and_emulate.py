"""Trap-and-emulate (textbook 18.4.1): the guest runs directly, in ring 3, and what it may not do traps.

The guest's kernel believes to be in ring 0 (*virtual kernel mode*) while the processor runs it in ring 3. Each
exception and interrupt enters the hypervisor through the real interrupt descriptor table. It saves the world into
the VCPU, executes the instruction that trapped on the VCPU (with the same semantics as the processor's, on the
guest's own tables and devices), or delivers the exception to the guest through the guest's own table, and returns by
IRET.

On a processor without extensions this is *not* faithful to every guest: instructions that are sensitive and do not
trap (POPF, PUSHF, SGDT, …) execute in ring 3, and mean something else there. Nothing here hides that.

A guest's VCPUs have their turns of the processor (`vmlab.vmm.vcpu_turns`), each with a world of its own. PAUSE does not trap in
ring 3, so that a VCPU that waits keeps its turn to the end: such a guest gets its turns at other times than natively.

The hypervisor is host software written in Python; it reaches the processor by its public doors alone: registers,
descriptor and page tables in memory, a performance counter that interrupts after a number of guest instructions.

Read more: Popek and Goldberg, CACM 17(7), 1974; Robin and Irvine, USENIX Security 2000; Adams and Agesen, ASPLOS 2006.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError, StateError
from vmlab.isa.x86.faults import DB, GP, NMI, PF, PF_WRITE, Fault, TripleFault, vector_name
from vmlab.isa.x86.registers import CS, DR6_SINGLE_STEP, IF, SS
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.machine import LIVELOCK, Machine
from vmlab.machine.state import Items, rollback
from vmlab.machine.trace import Inject
from vmlab.vmm.exits import ExitReason, reason_of
from vmlab.vmm.host_memory import HOST_BASE, host_bytes
from vmlab.vmm.hypervisor import TIMER_VECTOR, Hypervisor
from vmlab.vmm.shadow_descriptors import ShadowDescriptors
from vmlab.vmm.shadow_writers import FrameWriters
from vmlab.vmm.world import World
from vmlab.vmm.world_switch import WorldSwitch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.image import Image
    from vmlab.machine.processor import Processor
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.shadow_paging import PageFault

__all__ = ["TrapAndEmulate"]

NOT_NULL = 0xFFFC
NOT_FILLED = {"traced": ExitReason.TRACED_WRITE, "window": ExitReason.WINDOW, "device": ExitReason.MMIO}


class TrapAndEmulate(Hypervisor):
    """A type 1 hypervisor by trap-and-emulate, with shadow paging, and time-sliced guests.

    Counts `"emulated"`, `"injected"`, `"world switches"`; shadow paging counts for itself.

    Attributes
    ----------
    worlds : list of World
        One for each VCPU of each guest.
    """

    technique = "trap-and-emulate"
    memory_virtualizations = ("shadow",)
    name = "trap-and-emulate VMM"
    descriptors = ShadowDescriptors

    def build(self, images: Sequence[Image], memory_size: int, model: CpuModel, processors: int) -> None:
        """Build the computer, the hypervisor's tables, and the guests."""
        if model.has("lm"):
            able = ", ".join(each.name for each in CPU_MODELS.values() if not each.has("lm"))
            raise OptionError(
                f"{self.technique} runs 32-bit guests, without NX pages, and {model.name!r} has more: choose cpu= one of {able}"
            )
        vcpus = len(images) * processors
        shown = self.shown_pages(vcpus)
        guest_base = HOST_BASE + host_bytes(vcpus, shown)
        self.machine = Machine(guest_base + len(images) * memory_size, self.host_model, self.trace)
        self.switcher = WorldSwitch(self.machine, TIMER_VECTOR, vcpus, shown)
        self.build_guests(images, memory_size, model, guest_base, processors)
        self.worlds: list[World] = []
        for guest, window in zip(self.guests, self.windows, strict=True):
            writers = FrameWriters()
            self.worlds += [
                World(
                    self.switcher.host,
                    vcpu,
                    window,
                    self.shadow_policy,
                    self.descriptors,
                    writers,
                    translated=shown > 0,
                )
                for vcpu in guest.vcpus
            ]
        self.prepare()
        self._loose = self._loose_frames()

    def shown_pages(self, vcpus: int) -> int:
        """Return how many pages for each VCPU the guests' kernels see in the hypervisor's window."""
        return 0

    def prepare(self) -> None:
        """Build what a technique has beside."""

    def cpu_state(self, guest: int = 0, cpu: int = 0) -> Processor:
        """Return the registers as the guest would find them; those that it changes itself may be in the real processor."""
        vcpu = self.guests[guest].vcpus[cpu]
        has_it = guest == self.current and cpu == self.guest.platform.apics.current
        if not has_it or (self.in_vmm and self.phase != "handle"):
            return vcpu
        return self.switcher.look(self.worlds[self.slot], trapped=self.in_vmm)

    # -- an exit ---------------------------------------------------------------------------------------------------------

    def handle(self) -> None:
        """Save the world, find out why the guest trapped, and do for it what it could not do itself."""
        guest, world = self.guest, self.worlds[self.slot]
        vector, error_code = self.switcher.leave(world)
        self.dispatch(guest, world, vector, error_code)

    def dispatch(self, guest: Guest, world: World, vector: int, error_code: int) -> None:
        """Do what a trap asks for."""
        if vector == TIMER_VECTOR:
            self.count_exit(ExitReason.EXTERNAL_INTERRUPT, "time slice or virtual device")
        elif vector == PF:
            self._page_fault(guest, world, error_code)
        elif vector == DB and (causes := self.switcher.debug_causes()):
            self.count_exit(ExitReason.GUEST_EXCEPTION, "single step" if causes & DR6_SINGLE_STEP else "breakpoint")
            guest.vcpu.debug_causes = causes
        else:
            if vector == DB:
                self.switcher.undo_int1(guest.vcpu)
            self.emulate(guest, None)

    def _page_fault(self, guest: Guest, world: World, error_code: int) -> None:
        """Tell a hidden page fault from a true one and from an access that must be emulated."""
        try:
            found = world.shadow.fault(
                self.machine.cpu.cr2, write=bool(error_code & PF_WRITE), user=guest.mode == "user"
            )
        except Fault:
            self.emulate(guest, ExitReason.TRUE_PAGE_FAULT)
            return
        if found.kind != "hidden":
            self.not_hidden(guest, found)
            self.emulate(guest, NOT_FILLED[found.kind])
            return
        self.count_exit(ExitReason.HIDDEN_PAGE_FAULT, f"{found.linear:#x}")
        self.tell(world)

    def not_hidden(self, guest: Guest, found: PageFault) -> None:
        """Note that an access must be emulated."""

    def tell(self, world: World) -> None:
        """Trace what the shadow paging of the current guest has done, that of its other VCPUs, too."""
        for traces in world.shadow.traces.writers.members:
            if self.trace.on:
                for kind, values in traces.news:
                    self.trace.note(kind, self.steps, self.guest.instructions, self.current, 0, *values)
            traces.news.clear()

    def emulate(self, guest: Guest, reason: ExitReason | None) -> None:
        """Execute the guest's next instruction on the VCPU; if that faults, the fault is the guest's own."""
        vcpu, world = guest.vcpu, self.worlds[self.slot]
        before, address = self.control_registers(vcpu), vcpu.linear_ip
        try:
            instruction, text = self.execute(guest)
        except Fault as fault:
            is_page_fault = fault.vector == PF
            cause = reason or (ExitReason.TRUE_PAGE_FAULT if is_page_fault else ExitReason.GUEST_EXCEPTION)
            self.count_exit(cause, vector_name(fault.vector))
            vector = fault.vector
            if is_page_fault:
                world.shadow.drop(vcpu.cr2)
            self.inject(guest, partial(vcpu.take, fault), vector, vector_name(vector))
            self.tell(world)
            return
        self.count_exit(reason or reason_of(instruction), text)
        self.note_emulation(instruction, address, text, before)
        world.after_emulation(instruction)
        self.tell(world)
        if guest.outcome is not None:
            self.end_guest(self.current, guest.outcome, guest.status)  # the debug-exit port was written

    def inject(self, guest: Guest, act: Callable[[], None], vector: int, name: str) -> None:
        """Deliver an exception or interrupt through the guest's own interrupt descriptor table."""
        vcpu = guest.vcpu
        vcpu.forget_translations()
        try:
            act()
        except TripleFault:
            self.end_guest(self.guests.index(guest), "triple-fault")
            return
        self.counters["injected"] += 1
        if vcpu.barren >= LIVELOCK:
            self.end_guest(self.guests.index(guest), "livelock")
        if self.trace.on:
            self.trace.emit(Inject(self.steps, guest.instructions, self.guests.index(guest), vector, name))

    # -- back to a guest -------------------------------------------------------------------------------------------------

    def enter(self, guest: Guest, instructions: int) -> None:
        """Return to a guest by IRET."""
        self.switcher.enter(self.worlds[self.slot], self.current, guest.instructions, self.most(guest, instructions))

    @staticmethod
    def most(guest: Guest, instructions: int) -> int:
        """Return after how many instructions to take the guest back: one in the shadow of STI, with something waiting."""
        vcpu = guest.vcpu
        return 1 if (vcpu.interrupts.output and vcpu.flags & IF) or vcpu.signals.due else instructions

    def devices(self, guest: Guest) -> None:
        """Do what the hardware does between two instructions: devices, the single-step trap, waking up, interrupts."""
        while self.can_run(guest):
            outcome = guest.turns and guest.turns.settle(
                self.most_idle
            )  # before each event: a sleep may have ended a turn
            if outcome:
                self.end_guest(self.current, outcome)
                return
            vcpu = guest.vcpu
            guest.platform.service(vcpu.retired)
            if vcpu.debug_pending:
                self.inject(guest, vcpu.single_step, DB, vector_name(DB))
                continue
            if not guest.turns:
                self.sleep(guest)
                if not self.can_run(guest):
                    return
            if vcpu.signals.has_nmi and not vcpu.interrupt_shadow:
                self.inject(guest, partial(vcpu.signals.take_nmi, vcpu), NMI, vector_name(NMI))
            elif vcpu.interrupts.output and vcpu.interruptible:
                vector = vcpu.interrupts.acknowledge()
                self.inject(guest, partial(vcpu.interrupt, vector), vector, f"interrupt {vector:#x}")
            elif vcpu.ip > vcpu.segments[CS].limit:  # IRET itself would fault for it
                self.inject(guest, partial(vcpu.take, Fault(GP, 0)), GP, vector_name(GP))
            else:
                return

    # -- costs and saving ------------------------------------------------------------------------------------------------

    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles of the hardware, and of the hypervisor's software."""
        costs = self.machine.cpu.model.costs
        handled = self.counters["emulated"] + self.counters["injected"]
        return self.hardware_cycles() | {
            "emulation": handled * costs.vmm_emulate,
            "shadow paging": sum(world.shadow.cycles(costs) for world in self.worlds),
            "world switches": self.counters["world switches"] * costs.vmm_world_switch,
        }

    def save(self) -> dict[str, Any]:
        """Save everything but physical memory as plain data."""
        worlds, switcher = [world.save() for world in self.worlds], self.switcher.save()
        return {"version": 1, **self.save_common(), "worlds": worlds, "switcher": switcher}

    def saved_fields(self) -> dict[str, Any]:
        """Return the rules for what this technique has saved."""
        return {"switcher": dict, "worlds": Items(dict, len(self.worlds))}

    def load_more(self, state: dict[str, Any]) -> None:
        """Load what a technique has beside."""

    def _loose_frames(self) -> list[int]:
        """Return the frames that are free or shadow tables: always the same ones, each once."""
        return sorted([*self.switcher.host.free, *(page for world in self.worlds for page in world.shadow.pages.pages)])

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        self.check_common(state, self.saved_fields())
        with rollback(self):
            self.load_common(state)
            self.switcher.load(state["switcher"])
            for world, saved in zip(self.worlds, state["worlds"], strict=True):
                world.load(saved)
            self.load_more(state)
            if self._loose_frames() != self._loose:
                raise StateError(f"{self.technique}: a saved frame of the hypervisor is free and in use, or neither")
            loaded = self.worlds[self.slot].loaded
            if not self.in_vmm and not (loaded[CS] & NOT_NULL and loaded[SS] & NOT_NULL):
                raise StateError(f"{self.technique}: the saved guest runs without a code or stack segment")
