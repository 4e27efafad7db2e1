"""Running systems on the x86 computer: natively, under each kind of hypervisor, in partitions.

The parts are read off the running system each time: its guests and whether they live, the rings and modes in which the processor
runs them, host kernels and processes where the system has them, the devices and whose they are. A guest whose processor is in VMX
operation is a hypervisor, of a guest of its own from its first VMLAUNCH on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.kinds.hosted import Hosted
from vmlab.kinds.journey import EVENTS, follow_guest
from vmlab.kinds.part import Part
from vmlab.kinds.partitioned import Partitioned
from vmlab.kinds.running import Running
from vmlab.kinds.served import CONTROL
from vmlab.machine.memory import PAGE_SIZE
from vmlab.vmm.hypervisor import Hypervisor
from vmlab.vmm.xen.notes import is_ported

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.kinds.journey import Journey
    from vmlab.kinds.presets import Preset
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.system import System

__all__ = ["X86Running"]

KILLED = "killed"
UP = "paging is on"
CRASH = 30_000
"""Steps after which a guest is killed to see what it takes with it, or twice as many and so on, until all kernels are up."""


class X86Running(Running):
    """A system on the x86 computer.

    Parameters
    ----------
    preset : Preset
        What it is.
    build : callable
        Returns the system; given a number of guests, another with so many.

    Attributes
    ----------
    system : System
        What runs.
    """

    events = EVENTS

    def __init__(self, preset: Preset, build: Callable[..., System]) -> None:
        self.preset = preset
        self._build = build
        self.system: Any = build()

    # -- going on ----------------------------------------------------------------------------------------------------------

    def _advance(self, steps: int) -> None:
        self.system.advance(steps)

    @property
    def finished(self) -> bool:
        return bool(self.system.finished)

    def kill(self, name: str) -> None:
        """End a guest by one of its parts, a host's process; the process that is a virtual machine takes its guest with it."""
        system = self.system
        head, _, tail = self.find(name).name.partition("/")
        while isinstance(system, Hypervisor) and not system.in_vmm:  # whoever has the processor must give it up first
            system.interrupted(system.current)
            system.advance(1)
        if head == "host" and tail.startswith("process"):
            system.os.end(system.os.processes[int(tail.removeprefix("process")) - 1], KILLED)
            return
        number = head.removeprefix("guest") if head.startswith("guest") else tail.removeprefix("vm")
        if not number.isdigit():
            raise OptionError(f"{name!r} cannot be ended: choose a part of a guest, or a process of the host")
        index = int(number)
        if system.guests[index].outcome is None:
            system.end_guest(index, KILLED)
        else:
            system.guests[index].outcome = KILLED

    # -- what there is to see ------------------------------------------------------------------------------------------------

    @property
    def consoles(self) -> dict[str, str]:
        found = {f"guest{index}": guest.console for index, guest in enumerate(self.system.guests)}
        if isinstance(self.system, Hosted):
            found |= {f"host/process{each.pid}": each.console for each in self.system.os.processes}
        return found

    @property
    def modified(self) -> str:  # type: ignore[override] # known when it runs
        return "the kernel" if any(is_ported(guest.image) for guest in self.system.guests) else "nothing"

    @property
    def is_up(self) -> bool:
        return UP in self.system.guests[self.preset.first_guest].console

    @property
    def booting(self) -> bool:
        return not all(UP in guest.console for guest in self.system.guests[self.preset.first_guest :])

    @property
    def footprint(self) -> int:
        own: int = sum(guest.memory.size for guest in self.system.guests)
        host = getattr(self.system, "host", None)
        if host is None:
            return own
        spare = len(self.system.os.pool) if isinstance(self.system, Hosted) else 0
        return own + (len(host.addresses) - len(host.free) - spare) * PAGE_SIZE

    def cycles_by_cause(self) -> dict[str, int]:
        return dict(self.system.cycles_by_cause())

    @property
    def in_control(self) -> str:
        return str(self.system.in_control)

    def follow(self, event: str) -> Journey:
        """Follow one event of a system with one guest, beside a control domain where there is one."""
        return follow_guest(lambda: self._build(1), event, self.preset.first_guest)

    def crash(self) -> tuple[int, int]:
        """Kill the first guest in the middle of its work."""
        first = self.preset.first_guest
        if "guests" not in self.preset.options:
            return 0, 0
        fresh = self.preset.build()
        fresh.advance(CRASH)
        while fresh.booting and not fresh.finished:
            fresh.advance(CRASH)
        fresh.kill(f"guest{first}/kernel")
        others = [
            name for name in fresh.consoles if name.startswith("guest") and int(name.removeprefix("guest")) > first
        ]
        results = fresh.run().results
        return sum(name in results for name in others), len(others)

    # -- parts -------------------------------------------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        users, kernels, hypervisors = [], [], []
        for index, guest in enumerate(self.system.guests):
            if guest.outcome == KILLED:
                continue
            if guest.vcpu.vmx.on:
                hypervisors.append(self._hypervisor(index, guest))
            if not guest.vcpu.vmx.on or guest.vcpu.vmx.launched:
                kernels.append(self._kernel(index, guest))
            if any(vcpu.user_spaces for vcpu in guest.vcpus):
                users.append(self._user(index, guest))
        return [*users, *kernels, *hypervisors, *self._middle(), *self._hardware()]

    @property
    def _below(self) -> str:
        """What carries the guests' kernels."""
        system = self.system
        if isinstance(system, Hypervisor):
            return "vmm"
        return "hardware/cpu"

    def _lowest(self, index: int) -> str:
        """Return the name of a guest's lowest part: its kernel, or what is a hypervisor itself."""
        return f"guest{index}/{'vmm' if self.system.guests[index].vcpu.vmx.on else 'kernel'}"

    def _user(self, index: int, guest: Guest) -> Part:
        system, kernel = self.system, f"guest{index}/kernel"
        virtual = isinstance(system, Hypervisor)
        mode = "ring 3" + _non_root(system, guest)
        traps = (kernel,) if system.assisted or not virtual else ("vmm",)
        return Part(
            f"guest{index}/user", "process", "processes", mode, (kernel,), traps,
            state={"outcome": guest.outcome} if guest.outcome else {},
        )  # fmt: skip

    def _hypervisor(self, index: int, guest: Guest) -> Part:
        """A guest that is itself a hypervisor: the part that its kernel would be."""
        found = self._kernel(index, guest)
        state = {**found.state, "VMX": "on", "VMCS": "launched" if guest.vcpu.vmx.launched else "not launched"}
        mode = "ring 0, non-root; root to its guest" if self.system.assisted else "ring 0, root"
        return replace(
            found, name=self._lowest(index), label=self._label(index, guest), layer="guest vmm", privilege=mode, state=state,
            runs_on=(self._below_guest(index),), traps_to=self._stops(self._below_guest(index)),
        )  # fmt: skip

    def _below_guest(self, index: int) -> str:
        return f"hardware/cpu{index}" if isinstance(self.system, Partitioned) else self._below

    def _stops(self, below: str) -> tuple[str, ...]:
        """What gets control of a part that rests on another, where it is stopped."""
        return () if below == "hardware/cpu" else ("firmware" if isinstance(self.system, Partitioned) else "vmm",)

    def _label(self, index: int, guest: Guest) -> str:
        words = self.preset.words
        if self.preset.first_guest and index == CONTROL:
            return words["control"]
        return words["guest"] if "global" in words else f"{words['guest']} {index}: {guest.image.name}"

    def _kernel(self, index: int, guest: Guest) -> Part:
        system = self.system
        name = f"guest{index}/kernel"
        privilege = "ring 0" + _non_root(system, guest)
        if isinstance(system, Hypervisor) and not system.assisted:
            privilege = "ring 1" if system.needs_port else "ring 1 or 3, virtual kernel mode"
        below = self._below_guest(index)
        label, traps = self._label(index, guest), self._stops(below)
        if guest.vcpu.vmx.on:
            below = self._lowest(index)
            label = f"guest of {self.preset.words['guest']} {index}: {', '.join(each.string for each in guest.image.modules)}"
            traps = (below,) if isinstance(system, Partitioned) else (*traps, below)
        state: dict[str, Any] = {"outcome": guest.outcome} if guest.outcome else {}
        return Part(
            name, label, "guest kernel", privilege, (below,), traps,
            state=state, counters={"instructions": guest.instructions, **dict(guest.exits.most_common(4))},
        )  # fmt: skip

    def _middle(self) -> list[Part]:
        """The hypervisor, the host and its processes, or the firmware."""
        system, words = self.system, self.preset.words
        if isinstance(system, Partitioned):
            zones = {f"partition {n}": f"memory from {start:#x}" for n, start in enumerate(system.zones)}
            cpus = tuple(f"hardware/cpu{n}" for n, guest in enumerate(system.guests) if guest.outcome != KILLED)
            firmware = Part("firmware", words["vmm"], "firmware", "below ring 0", cpus)
            return [replace(firmware, state=zones, counters=dict(system.ways))]
        if not isinstance(system, Hypervisor):
            return []
        mode = "ring 0, root" if system.assisted else "ring 0"
        below = "host/kernel" if isinstance(system, Hosted) else "hardware/cpu"
        counters = dict(sorted(system.counters.items())) | dict(getattr(system, "ways", {}))
        vmm = Part("vmm", words["vmm"], "vmm", mode, (below,), counters=counters)
        return [vmm, *self._host(system)] if isinstance(system, Hosted) else [vmm]

    def _host(self, system: Hosted) -> list[Part]:
        """The host's processes, those that are virtual machines first, and its kernel."""
        word, alive = self.preset.words["process"], enumerate(system.guests)
        process = Part("", "", "host processes", "ring 3, root", ("host/kernel",), ("host/kernel",))
        machines = [
            replace(process, name=f"host/vm{n}", label=f"{word} of guest {n}", state={"thread": "VCPU 0"})
            for n, guest in alive
            if guest.outcome != KILLED
        ]
        others = [
            replace(
                process,
                name=f"host/process{each.pid}",
                label=each.name,
                counters={"instructions": each.instructions, **dict(each.calls)},
            )
            for each in system.os.processes
            if each.outcome is None
        ]
        world = {"world": "its own" if system.own_world else "that of the VMM, too"}
        counters = {**dict(system.os.counters), **dict(system.user_exits)}
        kernel = Part("host/kernel", self.preset.words["host"], "host kernel", "ring 0, root", ("hardware/cpu",))
        return [*machines, *others, replace(kernel, state=world, counters=counters)]

    def _hardware(self) -> list[Part]:
        """Processors and memory, for each partition or for all, and the disk."""
        system, parts = self.system, []
        several = isinstance(system, Partitioned)
        for index, machine in enumerate(system.machines if several else [system.machine]):
            if several and system.guests[index].outcome == KILLED:
                continue
            suffix, owner = (str(index), self._lowest(index)) if several else ("", None)
            cpu = machine.cpu
            ring = f"ring {cpu.cpl}" + (", non-root" if cpu.non_root else ", root" if cpu.vmx.on else "")
            found = Part(f"hardware/cpu{suffix}", f"CPU {suffix}".strip(), "hardware", ring, assigned_to=owner)
            size = {"size": f"{machine.memory.size >> 20} MiB"}
            parts += [
                replace(found, state={"model": cpu.model.name}, counters={"instructions": cpu.retired}),
                Part(f"hardware/memory{suffix}", f"memory {suffix}".strip(), "hardware", assigned_to=owner, state=size),
            ]
        return [*parts, Part("hardware/disk", "disk", "hardware", assigned_to=self._disk_owner())]

    def _disk_owner(self) -> str | None:
        """The part that drives the disk."""
        system = self.system
        if self.preset.first_guest:
            return f"guest{CONTROL}/kernel" if system.guests[CONTROL].outcome != KILLED else None
        if isinstance(system, Hosted):
            return "host/kernel"
        if isinstance(system, Hypervisor):
            return "vmm"
        return "guest0/kernel" if system.guests[0].outcome != KILLED else None


def _non_root(system: System, guest: Guest) -> str:
    """Say of whom a guest's kernel and program are guests, as the processor's mode tells."""
    if system.assisted:
        return ", non-root to both" if guest.vcpu.vmx.on else ", non-root"
    return ", non-root" if guest.vcpu.vmx.on else ""
