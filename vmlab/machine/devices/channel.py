"""An inter-domain channel: requests of other domains come to the domain that owns a disk, and its answers go back.

A hypervisor or firmware that gives one disk to several domains lets one of them, the control domain, have the disk, and
hands it what the others ask for. Each maker has such a channel: Oracle's Logical Domain Channel, Xen's event channel with a
ring, Hyper-V's VMBus. This is the smallest form: a queue of requests to read a sector, of which the device shows the first.

Bus range: ports 0x520-0x52F, registers of 32 bits. Interrupt: IRQ 10, high while a request waits.

    offset  register  read                                    write
    0       STATUS    bit 0: a request waits                  1: the request is done, 2: it has failed
    4       SECTOR    which sector it asks for
    8       CLIENT    which domain asks, by its index
    12      DATA                                              the next 4 bytes of the answer

An answer is what was written to DATA since its request came to the head of the queue: 128 words; more are lost, and with
fewer a request that is called done has failed. Where no request waits, SECTOR and CLIENT read as all ones, and what is
written is lost. So it is with accesses that are not of a whole register.

Simplified: reading alone; data move by the processor, where real channels share a page of memory.

Read more: OpenSPARC T2 Hypervisor API Specification (LDC); Barham et al., "Xen and the Art of Virtualization", SOSP 2003,
3.2 and 3.4; Microsoft, Hypervisor Top Level Functional Specification (VMBus's signals).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError, StateError
from vmlab.machine.disk import SECTOR as SECTOR_BYTES
from vmlab.machine.state import LONG, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus

__all__ = ["PORT", "Channel"]

PORT, PORTS = 0x520, 16
STATUS, SECTOR, CLIENT, DATA = 0, 4, 8, 12
DONE, FAILED = 1, 2
WORD = 4
NOTHING = 0xFFFF_FFFF


class Channel:
    """The control domain's end of a channel.

    Parameters
    ----------
    line : callable
        Drives the interrupt request line.

    Attributes
    ----------
    on_reply : callable or None
        Called with client, sector and the sector's 512 bytes, or None where the request has failed.
    """

    __slots__ = ("_data", "_high", "_line", "_requests", "name", "on_reply")

    def __init__(self, line: Callable[[bool], None], name: str = "channel") -> None:
        self.name = name
        self._line = line
        self._high = False
        self._requests: deque[tuple[int, int]] = deque()
        self._data = bytearray()  # of the answer to the first
        self.on_reply: Callable[[int, int, bytes | None], None] | None = None

    def attach(self, bus: Bus) -> None:
        """Claim its ports."""
        bus.add_ports(self, PORT, PORTS, width=WORD)

    # -- the other end -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Requests that have no answer yet."""
        return len(self._requests)

    def post(self, client: int, sector: int) -> None:
        """Ask for a sector, for a domain.

        Raises
        ------
        OptionError
            The index or the sector is no number of 32 bits.
        """
        for name, value in (("client", client), ("sector", sector)):
            if type(value) is not int or value not in LONG:
                raise OptionError(f"a request's {name} is an int from 0 to {LONG.stop - 1}, not {value!r}")
        self._requests.append((client, sector))
        self._update()

    def _update(self) -> None:
        high = bool(self._requests)
        if high != self._high:
            self._high = high
            self._line(high)

    # -- registers ---------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        if size != WORD:
            return (1 << 8 * size) - 1
        if offset == STATUS:
            return int(self._high)
        if offset not in (SECTOR, CLIENT) or not self._requests:
            return NOTHING
        client, sector = self._requests[0]
        return sector if offset == SECTOR else client

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        if size != WORD or not self._requests:
            return
        if offset == DATA and len(self._data) < SECTOR_BYTES:
            self._data += (value & NOTHING).to_bytes(WORD, "little")
        elif offset == STATUS and value in (DONE, FAILED):
            self._reply(done=value == DONE)

    def _reply(self, *, done: bool) -> None:
        """Answer the first request, and go on to the next."""
        client, sector = self._requests.popleft()
        data = bytes(self._data) if done and len(self._data) == SECTOR_BYTES else None
        self._data.clear()
        self._update()
        if self.on_reply is not None:
            self.on_reply(client, sector, data)

    # -- state -------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save the requests, and what there is of an answer."""
        return {"version": 1, "requests": [list(each) for each in self._requests], "data": bytes(self._data)}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave; StateError where it is damaged, and nothing has changed then."""
        check_state(state, self.name, {"requests": Items(Items(LONG, 2)), "data": bytes})
        most = SECTOR_BYTES if state["requests"] else 0
        if len(state["data"]) > most or len(state["data"]) % WORD:
            raise StateError(
                f"{self.name}: a saved answer has {len(state['data'])} bytes, not whole words up to {most}"
            )
        self._requests = deque((client, sector) for client, sector in state["requests"])
        self._data = bytearray(state["data"])
        self._high = bool(self._requests)  # the interrupt controller saves the level of its line itself
