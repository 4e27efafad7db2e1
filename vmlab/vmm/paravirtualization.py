"""Paravirtualization (textbook 18.5.5): the guest knows its hypervisor, and calls it. In the manner of Xen on 32-bit x86.

The guest's kernel is ported: it runs in ring 1, and where another would use a privileged instruction, it makes a *hypercall*
(`int 0x82`), alone or many at once. Its page tables are those that the processor walks, with machine addresses (*direct
paging*): it may read but not write them, and each change goes through the hypervisor, which checks it; there are no shadow
tables, and no hidden page faults. Interrupts are events, held back by a byte in memory that both share. System calls of user
programs enter the guest's kernel directly.

Exceptions enter the hypervisor, which hands them on: a frame on the guest's kernel stack, and on with the guest's handler.
Nothing is emulated but RDTSC. A guest that is not ported is refused.

Simplified: one processor a guest; back ends are a part of the hypervisor; no grants, no ballooning (`memory_op`), no
descriptors of the guest's own.

Read more: Barham et al., "Xen and the Art of Virtualization", SOSP 2003; Xen, xen/include/public.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError, StateError
from vmlab.isa.x86.decoder import decode
from vmlab.isa.x86.faults import DB, GP, PF, WITH_ERROR_CODE, vector_name
from vmlab.isa.x86.registers import (
    DR6_BREAKPOINTS,
    DR6_SINGLE_STEP,
    EAX,
    EBX,
    ECX,
    EDI,
    EDX,
    ESI,
    IF,
    TF,
)
from vmlab.isa.x86.semantics import SEMANTICS
from vmlab.machine.machine import Machine
from vmlab.machine.memory import PAGE_SHIFT, MemoryWindow
from vmlab.machine.platform import Platform
from vmlab.machine.processor import Processor
from vmlab.machine.state import rollback
from vmlab.machine.trace import ControlWrite
from vmlab.vmm.exits import ExitReason
from vmlab.vmm.host_memory import HOST_BASE, host_bytes
from vmlab.vmm.hypervisor import TIMER_VECTOR, Hypervisor
from vmlab.vmm.xen import abi, event_calls, page_calls, processor_calls
from vmlab.vmm.xen.access import GuestAccess
from vmlab.vmm.xen.builder import build_domain
from vmlab.vmm.xen.domain import Domain
from vmlab.vmm.xen.event_channels import ChannelKind
from vmlab.vmm.xen.frame_types import HYPERVISOR, FrameTypes
from vmlab.vmm.xen.handlers import bounce, upcall
from vmlab.vmm.xen.hypercalls import HANDLERS, call
from vmlab.vmm.xen.notes import require_notes
from vmlab.vmm.xen.ring_switch import DPL, RingSwitch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.image import Image
    from vmlab.vmm.guest import Guest

__all__ = ["Paravirtualization"]

CALLS = (event_calls, page_calls, processor_calls)
"""Modules that enter their hypercalls into the table."""

ARGUMENTS = (EBX, ECX, EDX, ESI, EDI)
IDT_ERROR, ERROR_BITS = 2, 7
INT_BYTES = 2
RDTSC_CODE = 0x310F
RDTSC = decode(RDTSC_CODE.to_bytes(2, "little"))


class Paravirtualization(Hypervisor):
    """A type 1 hypervisor for ported guests, with direct paging.

    Counts `"hypercalls"`, those of them in lists as `"batched hypercalls"`, `"page-table updates"`, `"injected"`,
    `"world switches"`.

    Attributes
    ----------
    domains : list of Domain
        Its guests.
    frames : FrameTypes
        The frames of the computer, their types and counts.
    access : GuestAccess
        The memory of the guest whose page tables are loaded.
    """

    technique = "paravirtualization"
    memory_virtualizations = ("direct",)
    needs_port = True
    name = "paravirtualizing VMM"

    def build(self, images: Sequence[Image], memory_size: int, model: CpuModel, processors: int) -> None:
        """Build the computer, the hypervisor's tables, and the guests."""
        for image in images:
            require_notes(image)
        if processors != 1:
            raise OptionError(
                f"a guest with {processors} processors is not possible under paravirtualization: give it one, or run it natively"
            )
        if any(text for _, text in self.keys):
            raise OptionError(
                "a paravirtualized guest has no keyboard: type at its console (input=), and leave keys out"
            )
        if sum(each is not None for each in self.disks) > 1:
            raise OptionError(
                "a paravirtualized guest has one disk at most, behind its block ring: leave the others out"
            )
        guest_base = HOST_BASE + host_bytes(len(images))
        self.machine = Machine(guest_base + len(images) * memory_size, self.host_model, self.trace)
        self.switcher = RingSwitch(self.machine, TIMER_VECTOR, len(images))
        self.access = GuestAccess(self.machine.cpu)
        owners = [HYPERVISOR] * (self.machine.memory.size >> PAGE_SHIFT)
        self.frames = FrameTypes(self.machine.memory, owners, self.switcher.reserved, self._reload)
        self.domains: list[Domain] = []
        self.build_guests(images, memory_size, model, guest_base)
        for number, domain in enumerate(self.domains):
            for page, frame in enumerate(domain.memory.frames):
                owners[frame] = number
                self.switcher.write_m2p(frame, page)
            owners[domain.shared >> PAGE_SHIFT] = number

    def make_guest(self, name: str, image: Image, memory: MemoryWindow, model: CpuModel, processors: int) -> Domain:
        """Return a guest on the computer's own memory; its frames lie in it from the last one down, as Xen hands them out."""
        memory.frames.reverse()
        disks = self.copy_disks(image)
        platform = Platform(self.machine.memory, disks, masters=False)
        number, shared = len(self.domains), self.switcher.host.allocate()

        def build(domain: Domain) -> None:
            build_domain(domain, self.frames, number)

        def ring() -> int:
            running = not self.machine.in_host and self.machine.guest == number
            return (self.machine.cpu if running else domain.vcpu).cpl

        domain = Domain(name, image, [Processor(platform, model)], platform, memory, shared, build, ring)
        disk = next(filter(None, disks), None)
        if disk:
            domain.add_disk(disk, self.frames, number)
        self.domains.append(domain)
        return domain

    @property
    def domain(self) -> Domain:
        """The guest that has the CPU."""
        return self.domains[self.current]

    def cpu_state(self, guest: int = 0, cpu: int = 0) -> Processor:
        """Return the registers as the guest would find them; those that it changes itself may be in the real processor."""
        vcpu = self.guests[guest].vcpus[cpu]
        if guest != self.current or (self.in_vmm and self.phase != "handle"):
            return vcpu
        return self.switcher.look(self.domain, trapped=self.in_vmm)

    # -- an exit ---------------------------------------------------------------------------------------------------------

    def handle(self) -> None:
        """Save the VCPU, do what was called for, or hand the exception on to the guest."""
        domain = self.domain
        vector, code = self.switcher.leave(domain)
        domain.platform.now(domain.vcpu.retired)
        for root in self.machine.cpu.user_spaces:  # it enters user mode, and leaves it, without an exit
            if self.frames.is_own(self.current, root >> PAGE_SHIFT):
                domain.vcpu.user_spaces.setdefault(root)
        if vector == TIMER_VECTOR:
            self.count_exit(ExitReason.EXTERNAL_INTERRUPT, "time slice or virtual device")
        elif vector == abi.HYPERCALL_VECTOR:
            self._hypercall(domain)
        else:
            self._exception(domain, vector, code)

    def _hypercall(self, domain: Domain) -> None:
        registers = domain.vcpu.registers
        number = registers[EAX]
        name = abi.Hypercall(number).name.lower() if number in HANDLERS else f"number {number}"
        self.count_exit(ExitReason.HYPERCALL, name)
        result = call(self, domain, number, [registers[each] for each in ARGUMENTS])
        registers[EAX] = result & 0xFFFFFFFF

    def _exception(self, domain: Domain, vector: int, code: int) -> None:
        """Hand an exception on to the guest's kernel; emulate RDTSC."""
        cpu = self.machine.cpu
        if vector == GP and code & ERROR_BITS == IDT_ERROR and self._software_interrupt(domain, code >> 3):
            return
        if vector == GP and not code and self._emulate(domain):
            return
        if vector == PF:
            self.count_exit(ExitReason.TRUE_PAGE_FAULT, f"{cpu.cr2:#x}")
            domain.tell_fault(cpu.cr2)
        else:
            self.count_exit(ExitReason.GUEST_EXCEPTION, vector_name(vector))
        if vector == DB:
            cpu.debug[6] &= ~(DR6_SINGLE_STEP | DR6_BREAKPOINTS)
        bounce(self, domain, vector, code if vector in WITH_ERROR_CODE else None)

    def _software_interrupt(self, domain: Domain, vector: int) -> bool:
        """Do INT n for a guest whose handler may be called so; False where it may not."""
        vcpu = domain.vcpu
        handler = domain.traps.get(vector)
        if handler is None or handler[0] & DPL < vcpu.cpl:
            return False
        self.count_exit(ExitReason.SOFTWARE_INTERRUPT, f"int {vector:#x}")
        vcpu.ip = vcpu.ip + INT_BYTES & 0xFFFFFFFF
        vcpu.retired += 1
        bounce(self, domain, vector)
        return True

    def _emulate(self, domain: Domain) -> bool:
        """Execute RDTSC on the VCPU, in the guest's time; False where it is another instruction that has faulted."""
        vcpu = domain.vcpu
        try:
            if self.access.read(vcpu.ip, RDTSC.length) != RDTSC_CODE:
                return False
        except abi.Refused:
            return False
        address = vcpu.linear_ip
        text = vcpu.disassemble(RDTSC) if self.trace.on else ""
        SEMANTICS[RDTSC.mnemonic](vcpu, RDTSC)
        vcpu.ip = vcpu.ip + RDTSC.length & 0xFFFFFFFF
        vcpu.retired += 1
        self.count_exit(ExitReason.RDTSC, text)
        self.note_emulation(RDTSC, address, text, self.control_registers(vcpu))
        if vcpu.flags & TF:
            bounce(self, domain, DB)
        return True

    def crash(self, domain: Domain) -> None:
        """End a guest that cannot go on: an exception without a handler or a stack, a return to nowhere."""
        self.end_guest(self.domains.index(domain), "triple-fault")

    # -- for hypercalls --------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        self.machine.cpu.set_cr3(self.machine.cpu.cr3)

    def flush(self) -> None:
        """Flush the TLB, but for the hypervisor's own pages."""
        self._reload()
        self.frames.flushed()

    def load_base(self, domain: Domain) -> None:
        """Load the page directory that a guest has just chosen."""
        vcpu, old = domain.vcpu, domain.vcpu.cr3
        self.machine.cpu.set_cr3(domain.base)
        self.frames.flushed()
        vcpu.set_cr3(domain.base)
        if self.trace.on:
            self.trace.emit(ControlWrite(self.steps, vcpu.retired, self.current, "cr3", old, domain.base))

    def write_m2p(self, guest: int, frame: int, page: int) -> None:
        """Let a guest say which page of its memory a frame of it is; Refused for a frame of another."""
        if not self.frames.is_own(guest, frame):
            raise abi.Refused(abi.Errno.EINVAL)
        self.switcher.write_m2p(frame, page)

    # -- back to a guest -------------------------------------------------------------------------------------------------

    def can_run(self, guest: Guest) -> bool:
        """Say whether a guest runs, or will wake by itself: by its timer or its disk, or by what is typed."""
        domain = self.domains[self.guests.index(guest)]
        wakes = domain.wakes or domain.console_ring.can_feed
        return guest.outcome is None and (wakes or not guest.vcpu.halted)

    def can_enter(self, guest: Guest) -> bool:
        """Say whether a guest is neither blocked nor at its end."""
        return guest.outcome is None and not guest.vcpu.halted

    def stand_still(self) -> None:
        """End the guests that are blocked for ever: none is left to send an event."""
        for index, guest in enumerate(self.guests):
            if guest.outcome is None:
                self.end_guest(index, "halt")

    def devices(self, guest: Guest) -> None:
        """Let time pass for the guest's timer and console, and call it where an event is due."""
        domain = self.domain
        vcpu, platform = domain.vcpu, domain.platform
        if self.switcher.load_base(domain.base):
            self.frames.flushed()
        platform.service(vcpu.retired)
        self._feed(domain)
        if vcpu.halted:
            self._wait(domain)
        if not self.can_enter(domain):
            return
        domain.tell_time()
        if domain.channels.due and domain.event_handler:
            upcall(self, domain)
        while vcpu.ip > abi.SEGMENT_LIMIT and domain.outcome is None:  # IRET itself would fault for it
            bounce(self, domain, GP, 0)

    def _wait(self, domain: Domain) -> None:
        """Pass the time of a blocked guest until an event comes; where time sends none, another guest must."""
        vcpu, platform = domain.vcpu, domain.platform
        if domain.wakes:
            platform.await_interrupt(vcpu.retired, lambda: not vcpu.halted)
        if platform.idle > self.most_idle:
            self.end_guest(self.current, "limit")

    def _feed(self, domain: Domain) -> None:
        """Hand over what was typed, with an event."""
        if domain.console_ring.can_feed and domain.console_ring.feed():
            domain.channels.send(domain.console_port)

    def enter(self, guest: Guest, instructions: int) -> None:
        """Return to a guest by IRET."""
        vcpu = guest.vcpu
        vcpu.flags = vcpu.flags & ~IF | (0 if self.domain.channels.masked else IF)
        self.switcher.enter(self.domain, self.current, instructions)

    def send(self, data: bytes, guest: int = 0, device: str = "serial") -> None:
        """Type at a guest's console; OptionError for a keyboard, which it has not."""
        if device == "keyboard":
            raise OptionError("a paravirtualized guest has no keyboard: type at its serial console")
        super().send(data, guest, device)
        domain = self.domains[guest]
        self._feed(domain)
        if not domain.vcpu.halted:
            if domain.outcome == "halt":
                domain.outcome = None
            self.interrupted(guest)

    # -- costs and saving ------------------------------------------------------------------------------------------------

    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles of the hardware, and of the hypervisor's software."""
        costs, counters = self.machine.cpu.model.costs, self.counters
        return self.hardware_cycles() | {
            "hypercalls": counters["hypercalls"] * costs.vmm_hypercall,
            "direct paging": self.frames.entries_checked * costs.vmm_check_entry,
            "emulation": counters["emulated"] * costs.vmm_emulate,
            "event delivery": counters["injected"] * costs.vmm_bounce,
            "world switches": counters["world switches"] * costs.vmm_world_switch,
        }

    def save(self) -> dict[str, Any]:
        """Save everything but physical memory as plain data."""
        return {"version": 1, **self.save_common(), "switcher": self.switcher.save(), "frames": self.frames.save()}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        self.check_common(state, {"switcher": dict, "frames": dict})
        with rollback(self):
            self.load_common(state)
            self.switcher.load(state["switcher"])
            self._check_channels()
            bases = [(number, domain.base >> PAGE_SHIFT) for number, domain in enumerate(self.domains)]
            held = [(number, frame) for number, domain in enumerate(self.domains) for frame in domain.held]
            self.frames.load(state["frames"], bases, held)

    def _check_channels(self) -> None:
        """Check that each end of a loaded event channel has another end."""
        for number, domain in enumerate(self.domains, 1):
            for port, channel in domain.channels.bound.items():
                if channel.kind is not ChannelKind.INTERDOMAIN:
                    continue
                if channel.target == abi.DOMAIN_0 and channel.port in domain.back_ends:
                    continue
                other = self.domains[channel.target - 1] if 0 < channel.target <= len(self.domains) else None
                if other is None or other.channels.bound.get(channel.port) != (ChannelKind.INTERDOMAIN, number, port):
                    raise StateError(
                        f"paravirtualization: a saved event channel of guest {number - 1} has no other end"
                    )
