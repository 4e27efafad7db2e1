"""A guest: an operating system's image, the VCPU it runs on, its memory and its devices.

Natively the VCPU, the memory and the devices are the real ones; under a hypervisor they are virtual. Either way
this is where one asks what the guest has done.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from vmlab.machine.firmware.boot import power_on
from vmlab.machine.loader import place
from vmlab.machine.state import COUNT, Entries, Items, check_state, rollback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.machine.image import Image
    from vmlab.machine.memory import MemoryWindow, PhysicalMemory
    from vmlab.machine.platform import Platform
    from vmlab.machine.processor import Processor
    from vmlab.vmm.vcpu_turns import VcpuTurns

__all__ = ["Guest"]


class Guest:
    """One guest of a system.

    Parameters
    ----------
    name : str
        For display.
    image : Image
        What it boots.
    vcpus : sequence of Processor
        Its processors: the registers are what the guest believes.
    platform : Platform
        Its devices, bus and memory.

    Attributes
    ----------
    outcome : str or None
        Why it ended: `"exit"`, `"halt"`, `"triple-fault"`, `"reset"`, `"livelock"`, `"limit"`, or None while it runs.
    status : int or None
        Exit status, after `"exit"`.
    exits : Counter
        Exits to the hypervisor by reason.
    emulated : Counter
        Instructions executed on the VCPU by the hypervisor, by mnemonic.
    turns : VcpuTurns or None
        Whose turn it is, where several VCPUs share a hypervisor's processor.
    """

    def __init__(self, name: str, image: Image, vcpus: Sequence[Processor], platform: Platform) -> None:
        self.name = name
        self.image = image
        self.vcpus = vcpus
        self.platform = platform
        self.outcome: str | None = None
        self.status: int | None = None
        self.exits: Counter[str] = Counter()
        self.emulated: Counter[str] = Counter()
        self.turns: VcpuTurns | None = None

    @property
    def device_names(self) -> list[str]:
        """What it has for devices, real or virtual ones."""
        return list(self.platform.devices)

    def boot(self, command_line: str = "") -> None:
        """Do what firmware does, and a multiboot loader: write the firmware's tables, load the image, set the registers."""
        signature, _, _, features = self.vcpu.cpuid(1, 0)
        self.platform.install_firmware(signature, features)
        state = place(self.image, self.memory, command_line)
        registers = self.vcpu.registers
        registers[0], registers[3] = state.eax, state.ebx
        self.vcpu.ip = state.eip
        if self.image.disk is not None:
            power_on(self.platform, self.vcpu)
        self.platform.firmware.cpus = self.vcpus

    @property
    def vcpu(self) -> Processor:
        """Its processor; with several, the one whose turn it is."""
        return self.vcpus[self.platform.apics.current]

    @property
    def is_halted(self) -> bool:
        """True where all its processors have halted."""
        return all(vcpu.halted for vcpu in self.vcpus)

    @property
    def memory(self) -> PhysicalMemory | MemoryWindow:
        """Guest-physical memory."""
        return self.platform.memory

    @property
    def console(self) -> str:
        """What it has sent to its serial port so far."""
        return self.platform.console

    @property
    def screen(self) -> str:
        """The text on its CGA screen."""
        return self.platform.screen

    @property
    def instructions(self) -> int:
        """Instructions that it has retired."""
        first, *others = self.vcpus
        return first.retired + sum(vcpu.retired for vcpu in others) if others else first.retired

    @property
    def mode(self) -> Literal["kernel", "user"]:
        """The mode in which it believes to run."""
        return "user" if self.vcpu.cpl == 3 else "kernel"

    def end(self, outcome: str, status: int | None = None) -> None:
        """Note that the guest will not run again."""
        self.outcome, self.status = outcome, status

    def save(self) -> dict[str, Any]:
        """Save all but memory as plain data."""
        self.platform.now(self.vcpu.retired)
        return {
            "version": 3,
            "vcpus": [vcpu.save() for vcpu in self.vcpus],
            "turn_end": self.turns.end if self.turns else 0,
            "relaxed": self.vcpu.relaxed,
            "platform": self.platform.save(),
            "outcome": self.outcome,
            "status": self.status,
            "exits": dict(self.exits),
            "emulated": dict(self.emulated),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        vcpus = {"vcpus": Items(dict, len(self.vcpus)), "turn_end": COUNT, "relaxed": bool}
        fields = {**vcpus, "platform": dict, "exits": Entries(str, COUNT), "emulated": Entries(str, COUNT)}
        check_state(state, "guest", {**fields, "outcome": (str, type(None)), "status": (int, type(None))}, version=3)
        with rollback(self):
            self.platform.load(state["platform"])
            for vcpu, saved in zip(self.vcpus, state["vcpus"], strict=True):
                vcpu.load(saved)
            for vcpu in self.vcpus:
                vcpu.relaxed = (
                    vcpu is self.vcpu and state["relaxed"]
                )  # of the turn, which the hypervisor has yet to pass on
            if self.turns:
                self.turns.load(state["turn_end"])
            self.platform.check_time(self.vcpu.retired)
            self.outcome, self.status = state["outcome"], state["status"]
            self.exits, self.emulated = Counter(state["exits"]), Counter(state["emulated"])
