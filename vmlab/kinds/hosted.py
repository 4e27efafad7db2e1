"""Hypervisors that have a general-purpose operating system beside or below them: KVM, and the VMMs of type 2.

The host's kernel schedules *threads*: those of its own processes, and for each virtual machine the one that runs its VCPU. The
virtual machine is a process: in user mode it emulates the devices, and reads the guest's disk by system calls.

In the kernel (KVM; VirtualBox): the hypervisor is a part of the host's kernel. An exit for a device returns to the process's user
mode, and its next `ioctl` enters the guest again.

Outside of it (type 2 with a VMM in a world of its own: VMware Workstation): the VMM has its own page tables, descriptor tables
and stack. An exit for a device, or an interrupt, is a world switch: the host's are loaded into the processor, its kernel goes on
where it had called the driver, and the process does the rest.

Simplified: the processes that are virtual machines are host software in Python, as the kernels are; other processes are machine
code in ring 3. The interrupt controllers and the timer are emulated without the process.

Read more: Kivity et al., "kvm: the Linux Virtual Machine Monitor", OLS 2007; Linux, `Documentation/virt/kvm/api.rst`; Sugerman,
Venkitachalam and Lim, USENIX 2001.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.kinds.host_os import HostOs
from vmlab.kinds.organized import CALL, THREAD, USER, WORLD, Organized
from vmlab.machine.recordable import check_guest
from vmlab.machine.state import COUNT, Entries, check_state
from vmlab.machine.trace import Switch
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.intercepts import IO_IN, IO_PORT_SHIFT
from vmlab.machine.vmx.reasons import BasicReason
from vmlab.vmm.host_frames import HostFrames
from vmlab.vmm.hypervisor import QUANTUM, TIMER_VECTOR
from vmlab.vmm.vt_x import VtX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.kinds.process import Process
    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.image import Image
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.virtual_machine import VirtualMachine

__all__ = ["Hosted", "KvmExit", "OwnWorld"]

IN_KERNEL = frozenset({"pic", "pit", "local-apics", "io-apic"})
"""Devices that are emulated where the exit arrives."""
IO = "KVM_EXIT_IO"
PROCESS_FRAMES = 128
WORLD_FRAMES = 48


@dataclass(frozen=True, slots=True)
class KvmExit:
    """Why KVM_RUN has returned.

    Attributes
    ----------
    reason : str
        `"KVM_EXIT_IO"`, `"KVM_EXIT_SHUTDOWN"`, or `"KVM_EXIT_SYSTEM_EVENT"` after the guest has ended otherwise.
    port : int or None
        Of an access to a device: the first port.
    is_in : bool
        True for IN.
    device : str
        What is behind the port.
    """

    reason: str
    port: int | None = None
    is_in: bool = False
    device: str = ""


class Hosted(Organized, VtX):
    """A hypervisor in the kernel of a general-purpose operating system.

    Attributes
    ----------
    os : HostOs
        The host's operating system.
    thread : int
        Whose turn it is: the number of a guest, or behind them that of a process.
    user_exits : Counter
        Why the guests were left for user mode, by KVM's names.
    """

    name = "KVM"
    own_world: ClassVar[bool] = False
    return_words: ClassVar[str] = "KVM_RUN returns"

    def build(self, images: Sequence[Image], memory_size: int, model: CpuModel, processors: int) -> None:
        """Build the computer, the hypervisor and the host's operating system."""
        super().build(images, memory_size, model, processors)
        self.frames = self.host
        if self.own_world:
            first = self.host.allocate_run(WORLD_FRAMES)
            self.frames = HostFrames(self.machine.memory, WORLD_FRAMES, self.machine.cpu.model.physical_bits, first)
        pool = [self.host.allocate() for _ in range(PROCESS_FRAMES * len(images))]
        self.os = HostOs(self.machine, self.frames, pool, self.driver)
        self.own_entry = self.machine.host_entry
        self.machine.host_entry = self.os.entries
        self.user_exits: Counter[str] = Counter()
        self.last_exit: KvmExit | None = None
        self.thread = 0
        self.in_process = self.in_host_world = False
        self.turn_end = 0

    def frames_of(self, model: CpuModel) -> int:
        """Frames for the processes, and for a world of the host's own."""
        return super().frames_of(model) + PROCESS_FRAMES + WORLD_FRAMES

    def start_process(self, name: str, program: object) -> Process:
        """Start an ordinary process of the host's, beside the virtual machines."""
        return self.os.start(name, program)

    # -- exits -----------------------------------------------------------------------------------------------------------

    def answer(self, guest: Guest, reason: int) -> None:
        """Handle an exit: here, or in the user mode of the guest's process."""
        port, is_in, device = self._access(guest, reason)
        if reason == BasicReason.EXTERNAL_INTERRUPT:
            self.to_host("an interrupt is the host kernel's")
        elif port is not None and device not in IN_KERNEL:
            self._leave(KvmExit(IO, port, is_in, device))
            self.to_user(f"device {device}")
        super().answer(guest, reason)
        if guest.outcome in ("triple-fault", "livelock"):
            self._leave(KvmExit("KVM_EXIT_SHUTDOWN"))

    def _leave(self, why: KvmExit) -> None:
        self.user_exits[why.reason] += 1
        self.last_exit = why

    def _access(self, guest: Guest, reason: int) -> tuple[int | None, bool, str]:
        """Return port, direction and device of an I/O instruction's exit; no port for another."""
        if reason != BasicReason.IO_INSTRUCTION:
            return None, False, ""
        machine: VirtualMachine = self.machines[self.slot]  # type: ignore[assignment] # VT-x's
        qualification = machine.read(f.EXIT_QUALIFICATION)
        port = qualification >> IO_PORT_SHIFT & 0xFFFF
        device = guest.platform.bus.device_at_port(port)
        return port, bool(qualification & IO_IN), "none" if device is None else device.name

    def kvm_run(self, guest: int = 0) -> KvmExit:
        """Do what a virtual machine's process does by `ioctl(vcpu, KVM_RUN)`: let it run until user mode is needed.

        The host's other threads get their turns meanwhile.

        Raises
        ------
        OptionError
            There is no such guest.
        """
        check_guest(guest, len(self.guests))
        before = self.user_exits.total()
        while self.guests[guest].outcome is None:
            self.advance(1)
            if self.user_exits.total() > before:
                if self.current == guest and self.last_exit is not None:
                    return self.last_exit
                before = self.user_exits.total()
        return KvmExit("KVM_EXIT_SYSTEM_EVENT")

    def to_user(self, what: str) -> None:
        """Go out to the user mode of the process that is the virtual machine, and in again with its next call."""
        self.to_host(what)
        self.go(1, "host/kernel", f"host/vm{self.current}", f"{what}: {self.return_words} to user mode", USER)

    def to_host(self, what: str) -> None:
        """Be in the host's kernel: there is nothing to be done, the hypervisor is in it."""

    def read_sector(self, guest: int, sector: int) -> bytes:
        """Read a sector of a guest's disk: its process asks the host's kernel."""
        self.to_host("its disk")
        self.go(1, f"host/vm{guest}", "host/kernel", f"pread() of sector {sector}", CALL)
        self.go(0, "host/kernel", "hardware/disk", f"the host's driver reads sector {sector}")
        return self.driver.read(sector)

    # -- threads ---------------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when neither a guest nor a process can go on."""
        return super().finished and all(each.outcome is not None for each in self.os.processes)

    def handle(self) -> None:
        """Take the processor back from a guest, or from a process."""
        if not self.in_process:
            super().handle()
            return
        process = self.os.running
        what = self.os.take(TIMER_VECTOR)
        self.in_process = False
        assert process is not None, "no process has run"
        self.go(0, f"host/process{process.pid}", "host/kernel", what)
        if process.instructions >= self.limit and process.outcome is None:
            self.os.end(process, "limit")

    def _resume(self) -> bool:
        """Give the processor to the thread whose turn it is."""
        threads = len(self.guests) + len(self.os.processes)
        if self.thread >= len(self.guests) or not self._goes_on():
            self._choose(threads)
        if self.thread >= len(self.guests):
            return self._enter_process(self.os.processes[self.thread - len(self.guests)])
        return super()._resume()

    def _goes_on(self) -> bool:
        """Say whether the guest that has the processor keeps it."""
        guest = self.guest
        return guest.outcome is None and not guest.is_halted and guest.instructions < self.slice_end

    def _choose(self, threads: int) -> None:
        """Round robin: the next thread that can run; one of a process goes on as long as its time is not over."""
        guests = len(self.guests)
        if self.thread >= guests:
            process = self.os.processes[self.thread - guests]
            if self.os.can_run(process, self.os.time) and self.machine.retired < self.turn_end:
                return
        for distance in range(1, threads + 1):
            number = (self.thread + distance) % threads
            able = (
                self.can_run(self.guests[number])
                if number < guests
                else self.os.can_run(self.os.processes[number - guests], self.os.time)
            )
            if able:
                break
        else:
            wake = self.os.next_wake()
            if wake is not None:
                self.os.idle += max(0, wake - self.os.time)
                self._choose(threads)
            return
        if number != self.thread:
            self.to_host("another thread's turn")
            self.go(1, "host/kernel", self._thread_name(number), "the scheduler chooses it", THREAD)
        self.thread = number
        self.turn_end = self.machine.retired + QUANTUM
        if number < guests:
            previous, self.current = self.current, number
            self.slice_end = self.guest.instructions + QUANTUM
            if previous != number:
                self.counters["world switches"] += 1
                if self.trace.on:
                    self.trace.emit(Switch(self.steps, self.guest.instructions, number, previous))

    def _thread_name(self, number: int) -> str:
        guests = len(self.guests)
        return f"host/vm{number}" if number < guests else f"host/process{self.os.processes[number - guests].pid}"

    def _schedule(self) -> None:
        """Nothing: the host's kernel has chosen."""

    def _enter_process(self, process: Process) -> bool:
        """Go to a process, or keep the processor where none can run."""
        if not self.os.can_run(process, self.os.time):
            return False
        machine = self.machine
        self.to_host("a process's turn")
        machine.counter_limit = machine.cpu.retired + max(1, self.turn_end - machine.retired)
        self.os.enter(process)
        self.in_process = True
        machine.in_host = False
        return True

    def enter(self, guest: Guest, instructions: int) -> None:
        """Enter a guest, from the VMM's world."""
        self.to_vmm()
        super().enter(guest, instructions)

    def to_vmm(self) -> None:
        """Be in the VMM's world: the same."""

    # -- views -----------------------------------------------------------------------------------------------------------

    def instructions(self, guest: int = 0) -> int:
        """Return the instructions that a guest has retired by now."""
        return self.guests[guest].instructions if self.in_process else super().instructions(guest)

    def cpu_state(self, guest: int = 0, cpu: int = 0) -> Any:  # noqa: ANN401 - as of the base
        """Return the registers of a guest's processor as the guest would find them now."""
        return self.guests[guest].vcpus[cpu] if self.in_process else super().cpu_state(guest, cpu)

    @property
    def exact(self) -> bool:
        """True between two of the guest's instructions."""
        return self.in_process or super().exact

    @property
    def in_control(self) -> str:
        """The part that has the processor."""
        if self.in_process and self.os.running:
            return "host/kernel" if self.in_vmm else f"host/process{self.os.running.pid}"
        if self.in_vmm and self.in_host_world:
            return "host/kernel"
        return super().in_control

    # -- state -----------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the host's operating system, too."""
        return {
            "version": 1,
            "organized": super().save(),
            "os": self.os.save(),
            "user_exits": dict(self.user_exits),
            **{name: getattr(self, name) for name in ("thread", "turn_end", "in_process", "in_host_world")},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged."""
        threads = len(self.guests) + len(self.os.processes)
        own = {"thread": range(threads), "turn_end": COUNT, "in_process": bool, "in_host_world": bool}
        check_state(state, "hosted", {"organized": dict, "os": dict, "user_exits": Entries(str, COUNT), **own})
        super().load(state["organized"])
        self.os.load(state["os"])
        self.user_exits = Counter(state["user_exits"])
        for name in own:
            setattr(self, name, state[name])
        if self.own_world:
            self.machine.host_entry = self.os.entries if self.in_host_world or self.in_process else self.own_entry


class OwnWorld(Hosted):
    """A VMM of type 2 that is in a world of its own, apart from that of its host."""

    name = "hosted VMM"
    own_world = True
    return_words = "its driver returns"

    def build(self, images: Sequence[Image], *arguments: Any) -> None:  # noqa: ANN401 - as of the base
        """The VMM has the processor first."""
        super().build(images, *arguments)
        self.machine.host_entry = self.own_entry

    def to_host(self, what: str) -> None:
        """Load the host's world into the processor, if it is not there."""
        if not self.in_host_world:
            self.frames.resume(self.machine.cpu)
            self.machine.host_entry = self.os.entries
            self.in_host_world = True
            self.go(1, "vmm", "host/kernel", f"world switch: {what}", WORLD)

    def to_vmm(self) -> None:
        """Load the VMM's world into the processor, if it is not there."""
        if self.in_host_world:
            self.host.resume(self.machine.cpu)
            self.machine.host_entry = self.own_entry
            self.in_host_world = False
            self.go(1, "host/kernel", "vmm", "world switch: back to the VMM", WORLD)
