"""A domain: a guest that knows its hypervisor, and what the hypervisor keeps for it beside the VCPU.

The VCPU is on the computer's own memory: page tables of a domain hold machine addresses. Its *pseudo-physical* memory, frames
0 to n in a row, is a matter of its tables P2M and M2P, and of whoever looks from outside.

Read more: Barham et al., SOSP 2003, 3.2 and 3.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vmlab.errors import StateError
from vmlab.machine.memory import PAGE_SHIFT
from vmlab.machine.state import BYTE, COUNT, LONG, Items, check_state, rollback
from vmlab.vmm.guest import Guest
from vmlab.vmm.xen.abi import DOMAIN_0, INFO_CR2, TIME_SYSTEM, TIME_TSC, TIME_VERSION, BackEnd, Virq
from vmlab.vmm.xen.block import BlockRing
from vmlab.vmm.xen.console import ConsoleRing
from vmlab.vmm.xen.event_channels import ChannelKind, EventChannels
from vmlab.vmm.xen.timer import VirtualTimer, nanoseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.disk import Disk
    from vmlab.machine.image import Image
    from vmlab.machine.memory import MemoryWindow, PhysicalMemory
    from vmlab.machine.platform import Platform
    from vmlab.machine.processor import Processor
    from vmlab.vmm.xen.frame_types import FrameTypes

__all__ = ["Domain", "TrapHandler"]

TrapHandler = tuple[int, int]
"""Flags (DPL in bits 1:0, bit 2 set where events are masked on entry) and linear address."""


class Domain(Guest):
    """A paravirtualized guest.

    Parameters
    ----------
    name, image, vcpus, platform
        As of `Guest`; the platform is on the computer's memory.
    window : MemoryWindow
        Its pseudo-physical memory.
    shared : int
        Machine address of the page that it shares with the hypervisor.
    builder : callable
        Builds it, in place of a boot loader.
    ring : callable
        Returns the ring in which it runs.

    Attributes
    ----------
    traps : dict of int to TrapHandler
        Its handlers, by vector.
    event_handler, failsafe : int
        Linear addresses of its callbacks; 0 for none.
    stack : int
        Where the stack of its kernel begins when it is entered from user mode.
    base : int
        Machine address of the page directory in use.
    channels : EventChannels
        Its event channels.
    timer : VirtualTimer
        Its timer.
    console_ring : ConsoleRing
        Its console's back end.
    console_port : int
        The event channel of its console.
    block : BlockRing or None
        The back end of its disk, if it has one.
    """

    def __init__(
        self,
        name: str,
        image: Image,
        vcpus: Sequence[Processor],
        platform: Platform,
        window: MemoryWindow,
        shared: int,
        builder: Callable[[Domain], None],
        ring: Callable[[], int],
    ) -> None:
        super().__init__(name, image, vcpus, platform)
        self._window = window
        self._build = builder
        self._ring = ring
        self.shared = shared
        self.traps: dict[int, TrapHandler] = {}
        self.event_handler = self.failsafe = self.stack = self.base = 0
        self.channels = EventChannels(self.machine_memory, shared, self.wake)
        self.timer = VirtualTimer(platform.clock, self._tick)
        self.console_ring = ConsoleRing(self.machine_memory, platform, 0)
        self.console_port = 0
        self.block: BlockRing | None = None

    @property
    def machine_memory(self) -> PhysicalMemory:
        """The computer's memory, which holds the guest's frames."""
        return self._window.host

    @property
    def memory(self) -> MemoryWindow:
        """Pseudo-physical memory."""
        return self._window

    @property
    def mode(self) -> Literal["kernel", "user"]:
        """The mode in which it runs: it changes between them without an exit."""
        return "user" if self._ring() == 3 else "kernel"

    @property
    def device_names(self) -> list[str]:
        """What it has in place of devices: those of a PC it cannot reach."""
        return ["console", "timer", "event-channels", *(["block"] if self.block else [])]

    def add_disk(self, disk: Disk, frames: FrameTypes, guest: int) -> None:
        """Give it a disk, before it is built."""
        self.block = BlockRing(guest, disk, frames, self.platform.clock, self._answered)

    def boot(self, command_line: str = "") -> None:
        """Let the domain builder do its work: there is no firmware and no boot loader."""
        self._build(self)

    def wake(self) -> None:
        """An event is pending: the guest is blocked no more."""
        self.vcpu.halted = False

    def _tick(self) -> None:
        port = self.channels.port_of(ChannelKind.VIRQ, Virq.TIMER)
        if port is not None:
            self.channels.send(port)

    def _answered(self) -> None:
        port = self.channels.port_of(ChannelKind.INTERDOMAIN, DOMAIN_0, BackEnd.BLOCK)
        if port is not None:
            self.channels.send(port)

    @property
    def back_ends(self) -> list[BackEnd]:
        """What serves it in domain 0."""
        return [BackEnd.CONSOLE, *([BackEnd.BLOCK] if self.block else [])]

    def hear(self, end: int) -> None:
        """Let a back end in domain 0 hear an event that the guest has sent."""
        if end == BackEnd.CONSOLE:
            self.console_ring.drain()
        elif self.block:
            self.block.hear()

    @property
    def wakes(self) -> bool:
        """True where time alone may send it an event."""
        return self.timer.next_event() is not None or (self.block is not None and self.block.due is not None)

    # -- what is told in the shared page ---------------------------------------------------------------------------------

    def tell_fault(self, address: int) -> None:
        """Tell the address of a page fault: the guest cannot read CR2."""
        self.vcpu.cr2 = address
        self.machine_memory.write(self.shared + INFO_CR2, 4, address)

    def tell_time(self) -> None:
        """Tell the time: an even version says that it is whole."""
        memory, now = self.machine_memory, self.platform.clock.now
        memory.write(self.shared + TIME_VERSION, 4, memory.read(self.shared + TIME_VERSION, 4) + 2)
        memory.write(self.shared + TIME_TSC, 8, now)
        memory.write(self.shared + TIME_SYSTEM, 8, nanoseconds(now))

    # -- saving ----------------------------------------------------------------------------------------------------------

    @property
    def held(self) -> list[int]:
        """Frames that are held writable as long as it lives: the shared page and the rings."""
        pages = [self.shared, self.console_ring.ring, *([self.block.ring] if self.block else [])]
        return [page >> PAGE_SHIFT for page in pages]

    def save(self) -> dict[str, Any]:
        """Save all but memory as plain data."""
        own = {
            "version": 2,
            "traps": [[vector, *handler] for vector, handler in sorted(self.traps.items())],
            "event_handler": self.event_handler,
            "failsafe": self.failsafe,
            "stack": self.stack,
            "base": self.base,
            "channels": self.channels.save(),
            "timer": self.timer.save(),
            "block": self.block and self.block.save(),
        }
        return super().save() | {"domain": own}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        check_state({"version": 1, "domain": state.get("domain")}, "domain", {"domain": dict})
        own: dict[str, Any] = state["domain"]
        numbers = {"event_handler": LONG, "failsafe": LONG, "stack": LONG, "base": COUNT}
        parts = {"channels": dict, "timer": dict, "block": dict if self.block else type(None)}
        check_state(own, "domain", {"traps": Items(Items(LONG, 3)), **parts, **numbers}, version=2)
        if any(vector not in BYTE or flags not in BYTE for vector, flags, _ in own["traps"]) or own["base"] & 0xFFF:
            raise StateError("domain: a saved trap handler has no vector, or the page directory no address")
        with rollback(self):
            super().load({name: value for name, value in state.items() if name != "domain"})
            self.channels.load(own["channels"])
            self.timer.load(own["timer"])
            if self.block:
                self.block.load(own["block"])
            for name in numbers:
                setattr(self, name, own[name])
            self.traps = {vector: (flags, address) for vector, flags, address in own["traps"]}
