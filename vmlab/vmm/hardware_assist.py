"""Hardware assistance (textbook 18.4.3): VT-x runs the guest, kernel and all, and leaves it where the VMM has asked for it.

The guest runs in VMX non-root operation, in the rings for which it was written. What the hypervisor wants to see (ports,
MSRs, CPUID, HLT, CR0 and CR4) is a VM exit, whose reason and qualification the processor writes into the VMCS; the rest
runs directly. An instruction that has exited is executed on the VCPU, with the same semantics as the processor's, and an
event for the guest goes in with the next VM entry.

Memory is virtualized by extended page tables (`nested`), or by shadow page tables (`shadow`), which take page faults, MOV
CR3 and INVLPG as VM exits, as on processors before 2008.

A state that no VM entry takes (real mode, without unrestricted guest) is emulated, instruction by instruction.

Read more: Intel SDM vol. 3, chapters 23 to 28 and 31; Adams and Agesen, ASPLOS 2006, 4; Uhlig et al., IEEE Computer 38(5), 2005.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.isa.x86.faults import DB, NMI, Fault, TripleFault, vector_name
from vmlab.isa.x86.registers import (
    CR0_ET,
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_VMXE,
    CS,
    EFER_LME,
    MSR_EFER,
    MSR_FEATURE_CONTROL,
    RF,
)  # fmt: skip
from vmlab.machine.machine import Machine
from vmlab.machine.state import COUNT, Items, rollback
from vmlab.machine.trace import Inject
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.boundary import event_name
from vmlab.machine.vmx.reasons import (
    EXTERNAL,
    HARDWARE_EXCEPTION,
    NMI_TYPE,
    TYPE_SHIFT,
    VALID,
    WITH_CODE,
    BasicReason,
)
from vmlab.vmm.exits import BY_BASIC_REASON, ExitReason
from vmlab.vmm.host_frames import FIRST, HOST_CODE, HOST_DATA, HOST_TASK, OWN_FRAMES, TASK_BYTES, HostFrames
from vmlab.vmm.hypervisor import TIMER_VECTOR, Hypervisor
from vmlab.vmm.nested_paging import NestedPaging, frames_needed
from vmlab.vmm.virtual_machine import VirtualMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.image import Image
    from vmlab.machine.processor import Processor
    from vmlab.vmm.guest import Guest

__all__ = ["HardwareAssist"]

LARGE = 2 << 20
REASON = 0xFFFF
WRITE_ACCESS = 2  # of an EPT violation's exit qualification
ENABLED = 5  # IA32_FEATURE_CONTROL: locked, VMXON allowed
RARELY = 1 << 62


class HardwareAssist(Hypervisor):
    """A type 1 hypervisor on VT-x, with nested or shadow paging, and time-sliced guests.

    Counts `"emulated"`, `"injected"`, `"nested fills"`, `"world switches"`, `"VM entries"`.

    Attributes
    ----------
    machines : list of VirtualMachine
        The VMCS of each guest.
    nested : list of NestedPaging
        The extended page tables of each guest.
    """

    technique = "vt-x"
    memory_virtualizations = ("nested",)
    name = "VT-x VMM"

    def build(self, images: Sequence[Image], memory_size: int, model: CpuModel, processors: int) -> None:
        """Build the computer, the hypervisor's tables, and the guests."""
        if processors != 1:
            raise OptionError(
                f"a guest with {processors} processors is not possible yet under vt-x: give it one, or run it natively"
            )
        host_model = self.choose_host(model)
        frames = OWN_FRAMES + len(images) * (frames_needed(memory_size) + 1)
        guest_base = -(-(FIRST + (frames << 12)) // LARGE) * LARGE
        self.machine = Machine(guest_base + len(images) * memory_size, host_model, self.trace)
        self.machine.counter_vector = TIMER_VECTOR
        self.host = HostFrames(self.machine.memory, frames, host_model.physical_bits)
        self._boot()
        self.build_guests(images, memory_size, model, guest_base)
        self.machines: list[VirtualMachine] = []
        self.nested: list[NestedPaging] = []
        for guest, window in zip(self.guests, self.windows, strict=True):
            self.machines.append(VirtualMachine(self.machine.cpu, guest.vcpu, self.host))
            bus = guest.platform.bus
            self.nested.append(NestedPaging(window, bus, host_model, self.host.allocate, self.largest_page))
            self._control()
        self._seen = (0, 0)

    def choose_host(self, model: CpuModel) -> CpuModel:
        """Return the host's processor; OptionError where it cannot run such guests so."""
        host = self.host_model
        for feature, what in (
            ("vmx", "VT-x"),
            ("ept", "extended page tables"),
            ("unrestricted-guest", "unrestricted guests"),
        ):
            if not host.has(feature):
                raise OptionError(f"vt-x with nested paging needs a host with {what}, which {host.name!r} has not")
        lacking = sorted(model.features - host.features)
        if lacking:
            raise OptionError(
                f"a guest on {model.name!r} needs {', '.join(lacking)}, which the host {host.name!r} has not: "
                "choose another cpu= or host_cpu="
            )
        return host

    def _boot(self) -> None:
        """Do what a host's kernel does: enter 64-bit code on its own tables, and VMX operation."""
        cpu, host = self.machine.cpu, self.host
        cpu.gdtr_base, cpu.gdtr_limit, cpu.idtr_base, cpu.idtr_limit = host.gdt, 0xFFFF, host.idt, 0xFFFF
        cpu.set_cr4(CR4_PAE | CR4_VMXE)
        cpu.write_msr(MSR_EFER, EFER_LME)
        cpu.set_cr3(host.root)
        cpu.set_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE)
        cpu.segments[CS].set(HOST_CODE, 0, 0xFFFFFFFF, 0x9B, big=False, long=True)
        for segment in (0, 2, 3):
            cpu.segments[segment].set(HOST_DATA, 0, 0xFFFFFFFF, 0x93, big=True)
        cpu.tr.set(HOST_TASK, host.tss, TASK_BYTES - 1, 0x8B, big=False)
        cpu.code_changed()
        cpu.write_msr(MSR_FEATURE_CONTROL, ENABLED)
        region = host.allocate()
        self.machine.memory.write(region, 4, c.REVISION)
        failed = cpu.vmx.turn_on(region)
        assert not failed, "VMXON has failed"
        self.machine.host_entry = range(host.entry, host.entry + 1)

    def _control(self) -> None:
        """Ask for what nested paging needs of the processor, for the guest whose VMCS is current."""
        machine, nested = self.machines[-1], self.nested[-1]
        machine.control(secondary=c.ENABLE_EPT | c.UNRESTRICTED_GUEST)
        machine.write(f.EPT_POINTER, nested.pointer)

    def cpu_state(self, guest: int = 0, cpu: int = 0) -> Processor:
        """Return the registers as the guest would find them; while it runs, they are in the real processor.

        Simplified: segment registers are those of its last exit.
        """
        vcpu = self.guests[guest].vcpus[cpu]
        if guest != self.current or (self.in_vmm and self.phase != "handle"):
            return vcpu
        seen = copy(vcpu)
        for name, value in self.machines[guest].look().items():
            setattr(seen, name, value)
        return seen

    # -- an exit ---------------------------------------------------------------------------------------------------------

    def handle(self) -> None:
        """Save the VCPU, and do what the exit reason asks for."""
        machine, guest = self.machines[self.current], self.guest
        cpu, vcpu = self.machine.cpu, guest.vcpu
        retired, delivered = self._seen
        vcpu.retired += cpu.retired - retired
        vcpu.delivered += cpu.delivered - delivered
        machine.leave()
        vcpu.forget_translations()
        reason = BasicReason(machine.read(f.EXIT_REASON) & REASON)
        HANDLERS.get(reason, HardwareAssist.emulate)(self, guest, reason)

    def go_on(self, guest: Guest, reason: BasicReason) -> None:
        """Nothing to do but what is done before each entry."""
        detail = "time slice or virtual device" if reason == BasicReason.EXTERNAL_INTERRUPT else ""
        self.count_exit(BY_BASIC_REASON[reason], detail)

    def violation(self, guest: Guest, reason: BasicReason) -> None:
        """Map a page that the guest touches for the first time; emulate an access to what is not RAM."""
        machine, nested = self.machines[self.current], self.nested[self.current]
        gpa = machine.read(f.GUEST_PHYSICAL_ADDRESS)
        found = nested.fill(gpa, write=bool(machine.read(f.EXIT_QUALIFICATION) & WRITE_ACCESS))
        if found is None:
            self.emulate(guest, reason)
            return
        self.counters["nested fills"] += 1
        self.count_exit(ExitReason.EPT_VIOLATION, f"{gpa:#x}")

    def stuck(self, guest: Guest, reason: BasicReason) -> None:
        """End a guest that does nothing any more but take exceptions."""
        self.count_exit(BY_BASIC_REASON[reason], "")
        self.end_guest(self.current, "livelock")

    def shut_down(self, guest: Guest, reason: BasicReason) -> None:
        """End a guest after its triple fault."""
        self.count_exit(BY_BASIC_REASON[reason], "")
        self.end_guest(self.current, "triple-fault")

    def emulate(self, guest: Guest, reason: BasicReason) -> None:
        """Execute the guest's next instruction on the VCPU, or what was being delivered; a fault is the guest's own."""
        machine, vcpu = self.machines[self.current], guest.vcpu
        before, address = self.control_registers(vcpu), vcpu.linear_ip
        cause = BY_BASIC_REASON[reason]
        if machine.event:
            self.count_exit(cause, "while an event was delivered")
            self._deliver(guest)
            return
        try:
            instruction, text = self.execute(guest)
        except Fault as fault:
            self.count_exit(cause, vector_name(fault.vector))
            self._raise(guest, fault)
            return
        self.count_exit(cause, text)
        self.note_emulation(instruction, address, text, before)
        if guest.outcome is not None:
            self.end_guest(self.current, guest.outcome, guest.status)  # the debug-exit port was written

    def _raise(self, guest: Guest, fault: Fault) -> None:
        """Let the next VM entry deliver an exception."""
        vcpu = guest.vcpu
        vcpu.debug_causes = 0
        if fault.vector != DB:
            vcpu.flags |= RF  # in what is pushed, as for every fault
        code = fault.error_code if vcpu.cr0 & CR0_PE else None
        information = HARDWARE_EXCEPTION << TYPE_SHIFT | fault.vector | (WITH_CODE if code is not None else 0)
        self._inject(information, code or 0)

    def _inject(self, information: int, code: int = 0) -> None:
        """Let the next VM entry deliver an event."""
        self.machines[self.current].event = information | VALID, code
        self.counters["injected"] += 1
        if self.trace.on:
            time, vector = self.guest.instructions, information & 0xFF
            self.trace.emit(Inject(self.steps, time, self.current, vector, event_name(information)))

    def _deliver(self, guest: Guest) -> None:
        """Deliver, on the VCPU, an event whose delivery by the processor has led out of the guest."""
        machine, vcpu = self.machines[self.current], guest.vcpu
        assert machine.event is not None, "there is no event"
        (information, code), machine.event = machine.event, None
        kind, vector = information >> TYPE_SHIFT & 7, information & 0xFF
        try:
            if kind == HARDWARE_EXCEPTION:
                vcpu.flags &= ~RF
                vcpu.take(Fault(vector, code if information & WITH_CODE else None))
            else:
                vcpu.interrupt(vector)
        except TripleFault:
            self.end_guest(self.current, "triple-fault")

    # -- back to a guest -------------------------------------------------------------------------------------------------

    def devices(self, guest: Guest) -> None:
        """Let the virtual devices act, and choose the event that the next VM entry delivers, if there is one."""
        vcpu, machine = guest.vcpu, self.machines[self.current]
        guest.platform.service(vcpu.retired)
        if machine.event:
            vcpu.halted = False
            return
        if vcpu.debug_pending:  # the processor delivers it, from the pending debug exceptions
            vcpu.halted = False
            return
        self.sleep(guest)
        if guest.outcome is not None:
            return
        if vcpu.signals.has_nmi and not vcpu.interrupt_shadow:
            vcpu.signals.take_nmi_for_host()
            self._inject(NMI_TYPE << TYPE_SHIFT | NMI)
        elif vcpu.interrupts.output and vcpu.interruptible:
            self._inject(EXTERNAL << TYPE_SHIFT | vcpu.interrupts.acknowledge())
        vcpu.halted = False

    def enter(self, guest: Guest, instructions: int) -> None:
        """Enter a guest: VMRESUME."""
        machine, cpu = self.machine, self.machine.cpu
        machine.counter_limit = cpu.retired + instructions
        machine.guest = self.current
        machine.guest_time = guest.vcpu.retired - cpu.retired
        self._seen = cpu.retired, cpu.delivered
        self.counters["VM entries"] += 1
        self.machines[self.current].enter()
        cpu.shadow_at = cpu.retired if cpu.shadow_at >= 0 else -1  # VMRESUME is no instruction of the guest
        machine.in_host = not cpu.non_root

    # -- costs and saving ------------------------------------------------------------------------------------------------

    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles of the hardware, and of the hypervisor's software."""
        costs = self.machine.cpu.model.costs
        handled = self.counters["emulated"] + self.counters["injected"]
        return self.hardware_cycles() | {
            "VM exits and entries": self.counters["VM entries"] * costs.vm_transition,
            "emulation": handled * costs.vmm_emulate,
            "nested paging": self.counters["nested fills"] * costs.vmm_nested_fill,
            "world switches": self.counters["world switches"] * costs.vmm_world_switch,
        }

    def save(self) -> dict[str, Any]:
        """Save everything but physical memory as plain data."""
        return {
            "version": 1,
            **self.save_common(),
            "host": self.host.save(),
            "machines": [machine.save() for machine in self.machines],
            "nested": [nested.save() for nested in self.nested],
            "seen": list(self._seen),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        lists = {name: Items(dict, len(self.guests)) for name in ("machines", "nested")}
        self.check_common(state, {"host": dict, "seen": Items(COUNT, 2), **lists})
        with rollback(self):
            self.load_common(state)
            self.host.load(state["host"])
            for n in range(len(self.guests)):
                self.machines[n].load(state["machines"][n])
                self.nested[n].load(state["nested"][n])
            retired, delivered = state["seen"]
            self._seen = retired, delivered


HANDLERS: dict[BasicReason, Callable[[HardwareAssist, Guest, BasicReason], None]] = {
    BasicReason.EXTERNAL_INTERRUPT: HardwareAssist.go_on,
    BasicReason.INTERRUPT_WINDOW: HardwareAssist.go_on,
    BasicReason.NMI_WINDOW: HardwareAssist.go_on,
    BasicReason.EPT_VIOLATION: HardwareAssist.violation,
    BasicReason.TRIPLE_FAULT: HardwareAssist.shut_down,
    BasicReason.NOTIFY: HardwareAssist.stuck,
}
"""What is done for each reason; for those not named, the instruction is executed on the VCPU."""
