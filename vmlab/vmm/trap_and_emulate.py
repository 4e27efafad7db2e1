"""Trap-and-emulate (textbook 18.4.1): the guest runs directly, in ring 3, and what it may not do traps.

The guest's kernel believes to be in ring 0 (*virtual kernel mode*) while the processor runs it in ring 3. Each
exception and interrupt enters the hypervisor through the real interrupt descriptor table. It saves the world into
the VCPU, executes the instruction that trapped on the VCPU (with the same semantics as the processor's, on the
guest's own tables and devices), or delivers the exception to the guest through the guest's own table, and returns by
IRET.

On a processor without extensions this is *not* faithful to every guest: instructions that are sensitive and do not
trap (POPF, PUSHF, SGDT, …) execute in ring 3, and mean something else there. Nothing here hides that.

The hypervisor is host software written in Python; it reaches the processor by its public doors alone: registers,
descriptor and page tables in memory, a performance counter that interrupts after a number of guest instructions.

Read more: Popek and Goldberg, CACM 17(7), 1974; Robin and Irvine, USENIX Security 2000; Adams and Agesen, ASPLOS 2006.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError, StateError
from vmlab.isa.x86.faults import DB, GP, NMI, PF, PF_WRITE, Fault, TripleFault, vector_name
from vmlab.isa.x86.registers import CS, DR6_SINGLE_STEP, IF
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.machine import LIVELOCK, Machine
from vmlab.machine.memory import PAGE_SHIFT, MemoryWindow
from vmlab.machine.platform import Platform
from vmlab.machine.processor import Processor
from vmlab.machine.state import COUNT, Entries, Items, check_state, rollback
from vmlab.machine.trace import ControlWrite, Emulate, Exit, Inject, Resume, Switch
from vmlab.vmm.exits import ExitReason, reason_of
from vmlab.vmm.guest import Guest
from vmlab.vmm.host_memory import HOST_BASE, host_bytes
from vmlab.vmm.system import System
from vmlab.vmm.world import World
from vmlab.vmm.world_switch import WorldSwitch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.image import Image

__all__ = ["TrapAndEmulate"]

QUANTUM = 20_000
"""Instructions that a guest runs before another gets the CPU."""
TIMER_VECTOR = 0xFE
PHASES = ("handle", "resume")
NOT_FILLED = {"traced": ExitReason.TRACED_WRITE, "window": ExitReason.WINDOW, "device": ExitReason.MMIO}


class TrapAndEmulate(System):
    """A type 1 hypervisor by trap-and-emulate, with shadow paging, and time-sliced guests.

    Attributes
    ----------
    counters : Counter
        What the hypervisor did: `"emulated"`, `"injected"`, `"world switches"`; shadow paging counts for itself.
    phase : {"handle", "resume"}
        What it does next when it has the CPU.
    """

    technique = "trap-and-emulate"
    memory_virtualization = "shadow"
    name = "trap-and-emulate VMM"

    def build(self, images: Sequence[Image], memory_size: int, model: CpuModel, processors: int) -> None:
        """Build the computer, the hypervisor's tables, and the guests."""
        if processors != 1:
            raise OptionError(
                f"a guest with {processors} processors is not possible yet under trap-and-emulate: "
                "give it one, or run it natively"
            )
        if model.has("lm"):
            able = ", ".join(each.name for each in CPU_MODELS.values() if not each.has("lm"))
            raise OptionError(
                f"trap-and-emulate runs 32-bit guests, without NX pages, and {model.name!r} has more: choose cpu= one of {able}"
            )
        guest_base = HOST_BASE + host_bytes(len(images))
        self.machine = Machine(guest_base + len(images) * memory_size, model, self.trace)
        self.switcher = WorldSwitch(self.machine, TIMER_VECTOR, len(images))
        self.guests: list[Guest] = []
        self.worlds: list[World] = []
        frames = memory_size >> PAGE_SHIFT
        for index, image in enumerate(images):
            first = (guest_base >> PAGE_SHIFT) + index * frames
            memory = MemoryWindow(self.machine.memory, range(first, first + frames))
            platform = Platform(memory, self.copy_disks(image))
            guest = Guest(image.name if len(images) == 1 else f"{image.name} {index}", image,
                          [Processor(platform, model)], platform)  # fmt: skip
            platform.debug_exit.on_exit = partial(guest.end, "exit")
            platform.on_reset = partial(guest.end, "reset")
            self.guests.append(guest)
            self.worlds.append(World(self.switcher.host, guest.vcpu, memory))
        self._loose = self._loose_frames()
        self.counters: Counter[str] = Counter()
        self.phase = "resume"
        self.slice_end = QUANTUM
        self.machine.in_host = True

    # -- the loop --------------------------------------------------------------------------------------------------------

    @property
    def vmm(self) -> TrapAndEmulate:
        """The hypervisor, for views: this system."""
        return self

    @property
    def in_vmm(self) -> bool:
        """True while the hypervisor has the CPU."""
        return self.machine.in_host

    @property
    def steps(self) -> int:
        """Steps of the hardware; the hypervisor adds its own, one for each handling and each resuming."""
        return self.machine.steps

    def cpu_state(self, guest: int = 0, cpu: int = 0) -> Processor:
        """Return the registers as the guest would find them; those that it changes itself may be in the real processor.

        Simplified: segment registers are those of its last exit.
        """
        vcpu = self.guests[guest].vcpus[cpu]
        if guest != self.current or (self.in_vmm and self.phase != "handle"):
            return vcpu
        return self.switcher.look(vcpu, trapped=self.in_vmm)

    def advance(self, steps: int) -> None:
        """Run guests and hypervisor for at most `steps` steps."""
        goal = self.steps + steps
        while self.steps < goal and not self.finished:
            if not self.machine.in_host:
                self.machine.run(goal - self.steps)
                assert self.machine.outcome is None, "a guest has stopped the host"
            else:
                self.machine.events += 1
                if self.phase == "handle":
                    self._handle()
                    self.phase = "resume"
                elif self._resume():
                    self.phase = "handle"

    # -- an exit ---------------------------------------------------------------------------------------------------------

    def _handle(self) -> None:
        """Save the world, find out why the guest trapped, and do for it what it could not do itself."""
        guest, world = self.guest, self.worlds[self.current]
        vector, error_code = self.switcher.leave(world)
        if vector == TIMER_VECTOR:
            self._exit(ExitReason.EXTERNAL_INTERRUPT, "time slice or virtual device")
        elif vector == PF:
            self._page_fault(guest, world, error_code)
        elif vector == DB and (causes := self.switcher.debug_causes()):
            self._exit(ExitReason.GUEST_EXCEPTION, "single step" if causes & DR6_SINGLE_STEP else "breakpoint")
            guest.vcpu.debug_causes = causes
        else:
            if vector == DB:
                self.switcher.undo_int1(guest.vcpu)
            self._emulate(guest, None)

    def _exit(self, reason: ExitReason, detail: str) -> None:
        self.guest.exits[reason.value] += 1
        if self.trace.on:
            self.trace.emit(Exit(self.steps, self.guest.instructions, self.current, reason.value, detail))

    def _page_fault(self, guest: Guest, world: World, error_code: int) -> None:
        """Tell a hidden page fault from a true one and from an access that must be emulated."""
        try:
            found = world.shadow.fault(
                self.machine.cpu.cr2, write=bool(error_code & PF_WRITE), user=guest.mode == "user"
            )
        except Fault:
            self._emulate(guest, ExitReason.TRUE_PAGE_FAULT)
            return
        if found.kind != "hidden":
            self._emulate(guest, NOT_FILLED[found.kind])
            return
        self._exit(ExitReason.HIDDEN_PAGE_FAULT, f"{found.linear:#x}")
        self._tell(world)

    def _tell(self, world: World) -> None:
        """Trace what the shadow paging of the current guest has done."""
        news = world.shadow.traces.news
        if self.trace.on:
            for kind, values in news:
                self.trace.note(kind, self.steps, self.guest.instructions, self.current, 0, *values)
        news.clear()

    def _emulate(self, guest: Guest, reason: ExitReason | None) -> None:
        """Execute the guest's next instruction on the VCPU; if that faults, the fault is the guest's own."""
        vcpu, world = guest.vcpu, self.worlds[self.current]
        vcpu.forget_translations()  # the shadow is the guest's TLB; the VCPU's own must not outlive an exit
        before = {name: getattr(vcpu, name) for name in ("cr0", "cr3", "cr4")}
        address = vcpu.linear_ip
        try:
            instruction = vcpu.fetch()[1]
            text = vcpu.disassemble(instruction) if self.trace.on else ""
            vcpu.step()
        except Fault as fault:
            is_page_fault = fault.vector == PF
            cause = reason or (ExitReason.TRUE_PAGE_FAULT if is_page_fault else ExitReason.GUEST_EXCEPTION)
            self._exit(cause, vector_name(fault.vector))
            vector = fault.vector
            if is_page_fault:
                world.shadow.drop(vcpu.cr2)
            self._inject(guest, partial(vcpu.take, fault), vector, vector_name(vector))
            self._tell(world)
            return
        self.counters["emulated"] += 1
        guest.emulated[instruction.mnemonic] += 1
        self._exit(reason or reason_of(instruction), text)
        if self.trace.on:
            self.trace.emit(Emulate(self.steps, vcpu.retired, self.current, address, text))
        world.after_emulation(instruction)
        self._tell(world)
        for name, old in before.items():
            new = getattr(vcpu, name)
            if new != old and self.trace.on:
                self.trace.emit(ControlWrite(self.steps, vcpu.retired, self.current, name, old, new))
        if guest.outcome is not None:
            self.end_guest(self.current, guest.outcome, guest.status)  # the debug-exit port was written

    def _inject(self, guest: Guest, act: Callable[[], None], vector: int, name: str) -> None:
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
            self.trace.emit(Inject(self.steps, vcpu.retired, self.guests.index(guest), vector, name))

    # -- back to a guest -------------------------------------------------------------------------------------------------

    def _resume(self) -> bool:
        """Choose a guest, let its devices act, and return to it by IRET; False where it ended instead."""
        if self.guest.outcome is None and self.guest.vcpu.retired >= self.limit:
            self.end_guest(self.current, "limit")
        self._schedule()
        guest, world = self.guest, self.worlds[self.current]
        vcpu, platform = guest.vcpu, guest.platform
        if guest.outcome is None:
            self._devices(guest)
        if guest.outcome is not None:
            return False
        deadlines = [self.slice_end, self.limit]
        if vcpu.interrupts.output and vcpu.flags & IF:
            deadlines.append(vcpu.retired + 1)  # the guest is in the shadow of STI: take it back after one instruction
        deadline = platform.next_deadline()
        if deadline is not None:
            deadlines.append(deadline)
        self.switcher.enter(world, self.current, max(1, min(deadlines) - vcpu.retired))
        self._tell(world)
        if self.trace.on:
            self.trace.emit(Resume(self.steps, vcpu.retired, self.current, guest.mode))
        return True

    def _devices(self, guest: Guest) -> None:
        """Do what the hardware does between two instructions: devices, the single-step trap, waking up, interrupts."""
        vcpu, platform = guest.vcpu, guest.platform
        platform.service(vcpu.retired)
        if vcpu.debug_pending:
            self._inject(guest, vcpu.single_step, DB, vector_name(DB))
        if vcpu.halted and not vcpu.signals.has_nmi and not (vcpu.flags & IF and self._await(guest)):
            self.end_guest(self.current, "halt")
        elif platform.idle > self.most_idle:
            self.end_guest(self.current, "limit")
        if vcpu.signals.has_nmi and guest.outcome is None and not vcpu.interrupt_shadow:
            self._inject(guest, partial(vcpu.signals.take_nmi, vcpu), NMI, vector_name(NMI))
        while vcpu.interrupts.output and vcpu.interruptible and guest.outcome is None:
            vector = vcpu.interrupts.acknowledge()
            self._inject(guest, partial(vcpu.interrupt, vector), vector, f"interrupt {vector:#x}")
        while vcpu.ip > vcpu.segments[CS].limit and guest.outcome is None:  # IRET itself would fault for it
            self._inject(guest, partial(vcpu.take, Fault(GP, 0)), GP, vector_name(GP))

    def _await(self, guest: Guest) -> bool:
        """Pass the time of a guest that has halted; False where nothing will ever wake it."""
        vcpu = guest.vcpu
        return guest.platform.await_interrupt(vcpu.retired, lambda: vcpu.interrupts.output or vcpu.signals.has_nmi)

    def _schedule(self) -> None:
        """Round robin: the next guest gets the CPU when this one has used its time, waits, or has ended."""
        guest = self.guest
        if guest.outcome is None and not guest.vcpu.halted and guest.vcpu.retired < self.slice_end:
            return
        count = len(self.guests)
        for distance in range(1, count + 1):
            index = (self.current + distance) % count
            if self.guests[index].outcome is None:
                break
        else:
            return
        previous, self.current = self.current, index
        self.slice_end = self.guest.vcpu.retired + QUANTUM
        if previous != index:
            self.counters["world switches"] += 1
            if self.trace.on:
                self.trace.emit(Switch(self.steps, self.guest.instructions, index, previous))

    def allow(self, instructions: int | None) -> None:
        """Let each guest retire so many instructions more."""
        super().allow(instructions)
        machine = self.machine
        if machine.counter_limit is not None:  # a guest runs now: take the CPU back in time
            machine.counter_limit = min(machine.counter_limit, self.limit - machine.guest_time)

    def interrupted(self, guest: int) -> None:
        """Take the CPU back from the guest at once: its virtual device has an interrupt for it."""
        if not self.in_vmm and guest == self.current:
            self.machine.counter_limit = self.machine.cpu.retired

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
        return {
            "version": 1,
            "machine": self.machine.save(),
            "guests": [guest.save() for guest in self.guests],
            "worlds": [world.save() for world in self.worlds],
            "switcher": self.switcher.save(),
            "counters": dict(self.counters),
            "phase": self.phase,
            "current": self.current,
            "slice_end": self.slice_end,
        }

    def _loose_frames(self) -> list[int]:
        """Return the frames that are free or shadow tables: always the same ones, each once."""
        return sorted([*self.switcher.host.free, *(page for world in self.worlds for page in world.shadow.pages.pages)])

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        count = len(self.guests)
        others = {"machine": dict, "switcher": dict, "counters": Entries(str, COUNT), "phase": str, "slice_end": COUNT}
        lists = {"guests": Items(dict, count), "worlds": Items(dict, count), "current": range(count)}
        check_state(state, "trap-and-emulate", others | lists)
        if state["phase"] not in PHASES:
            raise StateError(f"trap-and-emulate: saved phase {state['phase']!r} is none of {', '.join(PHASES)}")
        with rollback(self):
            self.machine.load(state["machine"])
            for guest, saved in zip(self.guests, state["guests"], strict=True):
                guest.load(saved)
            self.switcher.load(state["switcher"])
            for world, saved in zip(self.worlds, state["worlds"], strict=True):
                world.load(saved)
            if self._loose_frames() != self._loose:
                raise StateError("trap-and-emulate: a saved frame of the hypervisor is free and in use, or neither")
            self.counters = Counter(state["counters"])
            for name in ("phase", "current", "slice_end"):
                setattr(self, name, state[name])
