"""Hardware assistance (textbook 18.4.3): the processor runs the guest, kernel and all, and leaves it where the VMM has asked.

The guest runs in a mode of its own, in the rings for which it was written. What the hypervisor wants to see (ports, MSRs,
CPUID, HLT and so on) is an exit, whose reason the processor writes down; the rest runs directly. An instruction that has
exited is executed on the VCPU, with the same semantics as the processor's, and an event for the guest goes in with the next
entry. What differs between the makes of processors is in `vmlab.vmm.vt_x` and `vmlab.vmm.amd_v`.

Memory is virtualized by nested page tables (`nested`), or by shadow page tables (`shadow`), which take page faults, MOV CR3
and INVLPG as exits, as on processors before 2008.

Not exact, as on real processors: where the guest's physical addresses are narrower than the host's, a bit of a page-table
entry that is reserved to the guest is none to the processor. Page faults are looked at again, so that the guest gets its own;
but such an entry may have its accessed bit set.

Simplified: but under VT-x with nested paging (see `vmlab.vmm.nested_vmx`), the guest's processor has no extensions for
virtualization of its own, whatever its model: CPUID does not show them, and their instructions are undefined.

Read more: Adams and Agesen, ASPLOS 2006, 4; Uhlig et al., IEEE Computer 38(5), 2005; Bhargava et al., ASPLOS 2008.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.errors import OptionError
from vmlab.isa.x86.faults import PF, Fault, vector_name
from vmlab.isa.x86.registers import (
    RF,
)  # fmt: skip
from vmlab.machine.cpu_features import VIRTUALIZATION
from vmlab.machine.guest_exit import (
    GuestExit,
)  # fmt: skip
from vmlab.machine.machine import Machine
from vmlab.machine.state import COUNT, Items, rollback
from vmlab.vmm.assisted_memory import AssistedMemory, NestedMemory, ShadowMemory
from vmlab.vmm.event_injection import EventInjection
from vmlab.vmm.exits import ExitReason
from vmlab.vmm.host_frames import FIRST, OWN_FRAMES, HostFrames
from vmlab.vmm.host_memory import GUEST_FRAMES
from vmlab.vmm.hypervisor import TIMER_VECTOR
from vmlab.vmm.nested_paging import frames_needed
from vmlab.vmm.shadow_writers import FrameWriters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.disk import Disk
    from vmlab.machine.image import Image
    from vmlab.machine.memory import MemoryWindow
    from vmlab.machine.processor import Decoded, Processor
    from vmlab.vmm.assisted_machine import AssistedMachine
    from vmlab.vmm.guest import Guest

__all__ = ["HardwareAssist"]

LARGE = 2 << 20
PER_GUEST = 5
"""Frames of a guest beside its tables: what the processor keeps it in, its log of modified pages, three for its local APIC."""


class HardwareAssist(EventInjection):
    """A type 1 hypervisor on a processor's extensions, with nested or shadow paging, and time-sliced guests.

    Counts `"emulated"`, `"injected"`, `"world switches"`, `"VM entries"`; memory counts for itself.

    Attributes
    ----------
    memories : list of AssistedMemory
        How the memory of each guest is virtualized, for each of its VCPUs.
    needed : dict
        Features that the host must have, and what they are, by how memory is virtualized.
    exit_names : dict
        What is counted for each reason of an exit.
    handlers : dict
        What is done for each reason; for those not named, the instruction is executed on the VCPU.
    """

    memory_virtualizations = ("nested", "shadow")
    assisted = True
    needed: ClassVar[Mapping[str, tuple[tuple[str, str], ...]]]
    exit_names: ClassVar[Mapping[Any, ExitReason]]
    handlers: ClassVar[Mapping[Any, Callable[[Any, Guest, Any], None]]]

    def build(self, images: Sequence[Image], memory_size: int, model: CpuModel, processors: int) -> None:
        """Build the computer, the hypervisor's tables, and the guests."""
        is_nested = self.memory_virtualization == "nested"
        host_model = self.choose_host(model)
        tables = frames_needed(memory_size) if is_nested else GUEST_FRAMES
        guest_model = self.guest_model(model)
        frames = OWN_FRAMES + len(images) * processors * (tables + PER_GUEST + self.frames_of(guest_model))
        guest_base = -(-(FIRST + (frames << 12)) // LARGE) * LARGE
        self.machine = Machine(guest_base + len(images) * memory_size, host_model, self.trace, self.host_disks())
        self.machine.counter_vector = TIMER_VECTOR
        self.host = HostFrames(self.machine.memory, frames, host_model.physical_bits)
        self.host.boot(self.machine.cpu)
        self.switch_on()
        self.machine.host_entry = range(self.host.entry, self.host.entry + 1)
        self.build_guests(images, memory_size, guest_model, guest_base, processors)
        self.machines = []
        self.memories: list[AssistedMemory] = []
        for guest, window in zip(self.guests, self.windows, strict=True):
            writers = FrameWriters()
            for vcpu in guest.vcpus:
                machine = self.new_machine(vcpu, len(self.machines) + 1)
                memory: AssistedMemory
                if is_nested:
                    memory = self.new_nested_memory(vcpu, window)
                else:
                    memory = ShadowMemory(vcpu, window, self.host, self.shadow_policy, writers)
                memory.ask(machine)
                self.machines.append(machine)
                self.memories.append(memory)
        self._seen = (0, 0)

    def host_disks(self) -> Sequence[Disk | None]:
        """Return the disks of the computer itself, as long as no guest has run: none, but for hypervisors that read them."""
        return ()

    def choose_host(self, model: CpuModel) -> CpuModel:
        """Return the host's processor; OptionError where it cannot run such guests so."""
        host = self.host_model
        for feature, what in self.needed[self.memory_virtualization]:
            if not host.has(feature):
                raise OptionError(
                    f"{self.technique} with {self.memory_virtualization} paging needs a host with {what}, which {host.name!r} has not: "
                    "choose another host_cpu="
                )
        lacking = sorted(model.features - host.features - set(VIRTUALIZATION))
        if lacking:
            raise OptionError(
                f"a guest on {model.name!r} needs {', '.join(lacking)}, which the host {host.name!r} has not: "
                "choose another cpu= or host_cpu="
            )
        return host

    def guest_model(self, model: CpuModel) -> CpuModel:
        """Return what a guest gets to see of a model: without extensions of its own."""
        return model.without(*VIRTUALIZATION)

    def frames_of(self, model: CpuModel) -> int:
        """Return how many frames more a guest with such a processor needs."""
        return 0

    @abstractmethod
    def switch_on(self) -> None:
        """Switch the processor's extensions on."""

    @abstractmethod
    def new_machine(self, vcpu: Processor, number: int) -> AssistedMachine:
        """Return what the processor is to keep a guest in; guests are numbered from 1."""

    @abstractmethod
    def new_nested_memory(self, vcpu: Processor, window: MemoryWindow) -> NestedMemory:
        """Return a guest's nested page tables."""

    def cpu_state(self, guest: int = 0, cpu: int = 0) -> Processor:
        """Return the registers as the guest would find them: while it runs, they are in the processor, then in the VMCS."""
        vcpu = self.guests[guest].vcpus[cpu]
        if guest != self.current or (self.in_vmm and self.phase != "handle"):
            return vcpu
        number = self.guests[guest].platform.apics.current
        if cpu != number:
            return vcpu
        return self.machines[self.slot].look(self.memories[self.slot])

    # -- an exit ---------------------------------------------------------------------------------------------------------

    def handle(self) -> None:
        """Save the VCPU, and do what the exit reason asks for."""
        slot, guest = self.slot, self.guest
        machine, memory = self.machines[slot], self.memories[slot]
        cpu, vcpu = self.machine.cpu, guest.vcpu
        retired, delivered = self._seen
        vcpu.retired += cpu.retired - retired
        vcpu.delivered += cpu.delivered - delivered
        reason, has_run = machine.reason()
        if has_run:
            machine.leave(memory)
            vcpu.code_changed()
        self.answer(guest, reason)
        self._tell()

    def answer(self, guest: Guest, reason: int) -> None:
        """Do what an exit asks for."""
        if reason in self.machines[self.slot].memory_reasons[self.memory_virtualization]:
            self._for_memory(guest, reason)
        else:
            self.handlers.get(reason, HardwareAssist.emulate)(self, guest, reason)

    def go_on(self, guest: Guest, reason: int) -> None:
        """Nothing to do but what is done before each entry."""
        name = self.exit_names[reason]
        self.count_exit(name, "time slice or virtual device" if name is ExitReason.EXTERNAL_INTERRUPT else "")

    def _for_memory(self, guest: Guest, reason: int) -> None:
        """Map a page that the guest uses for the first time; emulate an access that the tables must not allow."""
        slot = self.slot
        found = self.memories[slot].resolve(self.machines[slot])
        if found.done:
            self.count_exit(found.reason, found.detail)
        else:
            self.emulate(guest, reason, found.reason)

    def _tell(self) -> None:
        """Trace what the memory of the current guest has to tell, that of its other VCPUs, too."""
        for kind, values in [each for slot in self.slots(self.current) for each in self.memories[slot].news()]:
            if self.trace.on:
                self.trace.note(kind, self.steps, self.guest.instructions, self.current, 0, *values)

    def stuck(self, guest: Guest, reason: int) -> None:
        """End a guest that does nothing any more but take exceptions."""
        self.count_exit(self.exit_names[reason], "")
        self.end_guest(self.current, "livelock")

    def shut_down(self, guest: Guest, reason: int) -> None:
        """End a guest after its triple fault."""
        self.count_exit(self.exit_names[reason], "")
        guest.vcpu.flags &= ~RF  # of what would have been pushed
        self.end_guest(self.current, "triple-fault")

    def access_port(self, guest: Guest, reason: int) -> None:
        """Execute IN or OUT, of which the processor tells all there is to know."""
        self.emulate(guest, reason, decoded=self.machines[self.slot].port_access())

    def emulate(
        self, guest: Guest, reason: int, cause: ExitReason | None = None, decoded: Decoded | None = None
    ) -> None:
        """Execute the guest's next instruction on the VCPU, or what was being delivered; a fault is the guest's own."""
        slot, vcpu = self.slot, guest.vcpu
        machine, memory = self.machines[slot], self.memories[slot]
        before, address = self.control_registers(vcpu), vcpu.linear_ip
        cause = cause or self.exit_names[reason]
        if machine.event or vcpu.debug_pending:
            self.count_exit(cause, "while an event was delivered")
            self.deliver(guest)
            return
        try:
            instruction, text = self.execute(guest, decoded)
        except GuestExit as exit_:
            self.count_exit(cause, "of its own guest")
            self.hand_on(guest, exit_)
            return
        except Fault as fault:
            self.count_exit(cause, vector_name(fault.vector))
            if fault.vector == PF:
                memory.drop(vcpu.cr2)
            self.raise_fault(guest, fault)
            return
        self.count_exit(cause, text)
        self.note_emulation(instruction, address, text, before)
        memory.follow(instruction)
        if guest.outcome is not None:
            self.end_guest(self.current, guest.outcome, guest.status)  # the debug-exit port was written

    # -- back to a guest -------------------------------------------------------------------------------------------------

    def enter(self, guest: Guest, instructions: int) -> None:
        """Enter a guest."""
        machine, cpu, slot = self.machine, self.machine.cpu, self.slot
        machine.counter_limit = cpu.retired + instructions
        machine.guest = self.current
        machine.guest_time = guest.instructions - cpu.retired
        self._seen = cpu.retired, cpu.delivered
        self.counters["VM entries"] += 1
        self.machines[slot].enter(self.memories[slot])
        cpu.shadow_at = cpu.retired if cpu.shadow_at >= 0 else -1  # the entry is no instruction of the guest
        machine.in_host = not cpu.non_root

    # -- dirty pages -----------------------------------------------------------------------------------------------------

    def log_dirty_pages(self, guest: int = 0, *, on: bool = True) -> None:
        """Note from now on which pages a guest writes to, between two exits; OptionError without nested paging."""
        for machine, memory in self._logged(guest):
            memory.log(machine, on=on)

    def dirty_pages(self, guest: int = 0) -> set[int]:
        """Return the guest-physical page numbers that it has written to since the last time; then all count as clean."""
        found: set[int] = set()
        for machine, memory in self._logged(guest):
            found |= memory.collect(machine)
        return found

    def _logged(self, guest: int) -> Iterator[tuple[AssistedMachine, NestedMemory]]:
        for number in self.slots(guest):
            memory = self.memories[number]
            if not isinstance(memory, NestedMemory):
                raise OptionError("dirty pages are logged under nested paging: choose memory_virtualization='nested'")
            if not self.in_vmm:
                raise OptionError("a guest runs: dirty pages can be asked for while the VMM has the processor")
            self.machines[number].select()
            yield self.machines[number], memory

    def least(self, guest: Guest) -> int:
        """Where an event is to be delivered after a VCPU's turn has ended, no instruction follows it."""
        return 0 if guest.turns and self.machines[self.slot].event else 1

    # -- costs and saving ------------------------------------------------------------------------------------------------

    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles of the hardware, and of the hypervisor's software."""
        costs = self.machine.cpu.model.costs
        entries = self.counters["VM entries"]
        return self.hardware_cycles() | {
            "VM exits and entries": entries * costs.vm_transition,
            "handling of exits": entries * costs.vmm_exit,
            "emulation": self.counters["emulated"] * costs.vmm_emulate,
            f"{self.memory_virtualization} paging": sum(memory.cycles(costs) for memory in self.memories),
            "world switches": self.counters["world switches"] * costs.vmm_world_switch,
        }

    def save(self) -> dict[str, Any]:
        """Save everything but physical memory as plain data."""
        return {
            "version": 1,
            **self.save_common(),
            "host": self.host.save(),
            "machines": [machine.save() for machine in self.machines],
            "memories": [memory.save() for memory in self.memories],
            "seen": list(self._seen),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        lists = {name: Items(dict, len(self.machines)) for name in ("machines", "memories")}
        self.check_common(state, {"host": dict, "seen": Items(COUNT, 2), **lists})
        with rollback(self):
            self.load_common(state)
            self.host.load(state["host"])
            for n in range(len(self.machines)):
                self.machines[n].load(state["machines"][n])
                self.memories[n].load(state["memories"][n])
            retired, delivered = state["seen"]
            self._seen = retired, delivered
