"""The containers of a running kernel, as its own tables say at this instant: what `vmlab.containers` gives.

The kernel is the guest `containers`, or one that was made of its source: its tables are found by the symbols of its image,
and where their fields are it says itself, in a table for those who look from outside. They are read from the guest's
memory, natively and under every hypervisor, and nothing is kept beside them: what the kernel believes is what is shown,
where somebody has written into its tables, too.

Simplified: the kernel's addresses are guest-physical ones, as they are in that kernel.

Read more: Linux, Documentation/admin-guide/kdump/vmcoreinfo.rst, which is such a table.
"""

from __future__ import annotations

from struct import iter_unpack
from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.vmm.container_table import DEAD, Container, ContainerProcess, ContainerTable
from vmlab.vmm.system import System, system_of

if TYPE_CHECKING:
    from vmlab.machine.image import Image
    from vmlab.machine.recording import Recording
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.run import Run

__all__ = ["containers"]

NEEDED = frozenset({
    "containers", "containers_end", "processes", "processes_end", "root", "current", "ticks", "idle_ticks", "calls", "faults", "panicked",
    "bug", "version", "layout", "layout_end",
})  # fmt: skip
"""Symbols of such a kernel."""
LAYOUT = (
    "PERIOD",
    "C_SIZE", "C_STATE", "C_NAME", "C_HOSTNAME", "C_ROOT", "C_ADDRESS", "C_PAGES", "C_PROCESSES", "C_SHARE", "C_USED", "C_TICKS", "C_PEAK_PAGES",
    "C_PEAK_PROCESSES", "C_CALLS", "C_REFUSED", "C_NUMBER",
    "P_SIZE", "P_STATE", "P_PID", "P_VPID", "P_CONTAINER", "P_PARENT", "P_WAKE", "P_WAIT", "P_PAGES", "P_TICKS", "P_NAME", "P_PORT",
    "N_NAME", "N_PARENT",
)  # fmt: skip
"""Constants of its source, in the order in which its table `layout` has them."""
STATES = {1: "configured", 2: "running"}
DEEPEST = 16  # directories of a path
LONGEST = 16  # characters of a name


def containers(of: System | Run | Recording, *, guest: int = 0) -> ContainerTable:
    """Return the containers of a guest's kernel as they are now, from that kernel's own tables.

    Parameters
    ----------
    of : System, Run or Recording
        A running system, a finished run, or a recording at its cursor.
    guest : int
        Whose kernel.

    Returns
    -------
    ContainerTable

    Raises
    ------
    OptionError
        There is no such guest, or its kernel knows no containers.

    Examples
    --------
    >>> import vmlab
    >>> found = vmlab.containers(vmlab.run(vmlab.guests.load("containers"), until="on containers"))
    >>> [(each.name, each.address, len(each.processes)) for each in found]
    [('global', '10.0.0.1', 1), ('web', '10.0.0.2', 2), ('db', '10.0.0.3', 2)]
    >>> found["db"].processes[0].program, found["db"].root
    ('init', '/zones/db')
    """
    system = system_of(of, guest, "containers takes a Run, a Recording or a System")
    return _Reader(system.guests[guest], system.technique).table()


def _layout(image: Image) -> dict[str, int]:
    """Return what the kernel's table says, from its image: there no guest can have changed it."""
    if set(image.symbols) >= NEEDED:
        start, end = image.symbols["layout"], image.symbols["layout_end"]
        for segment in image.segments:
            data = segment.data[max(0, start - segment.address) : max(0, end - segment.address)]
            found = dict(zip(LAYOUT, (word for (word,) in iter_unpack("<I", data[: len(data) & ~3])), strict=False))
            if len(data) == 4 * len(LAYOUT) and found["C_SIZE"] and found["P_SIZE"]:
                return found
    raise OptionError(
        f"{image.name} is no kernel with containers: run vmlab.guests.load('containers'), or one made of its source"
    )


class _Reader:
    """Reads a kernel's tables. A guest may have written anything there: what leads nowhere reads as zeros."""

    def __init__(self, guest: Guest, technique: str) -> None:
        self.guest = guest
        self.symbols = guest.image.symbols
        self.layout = _layout(guest.image)
        self.title = f"{guest.name} under {technique}"
        self.panicked = bool(self.at("panicked"))
        self.ticks = self.at("ticks")

    def word(self, address: int) -> int:
        memory = self.guest.memory
        return memory.read(address, 4) if address + 4 <= memory.size else 0

    def at(self, symbol: str) -> int:
        return self.word(self.symbols[symbol])

    def text(self, address: int) -> str:
        memory = self.guest.memory
        data = memory.read_bytes(address, min(LONGEST, memory.size - address)) if address < memory.size else b""
        return data.partition(b"\0")[0].decode("ascii", "replace")

    def field(self, record: int, name: str) -> int:
        return self.word(record + self.layout[name])

    def records(self, table: str, size: str) -> range:
        return range(self.symbols[table], self.symbols[table + "_end"], self.layout[size])

    def table(self) -> ContainerTable:
        """Return all."""
        owned: dict[int, list[ContainerProcess]] = {record: [] for record in self.records("containers", "C_SIZE")}
        strays: list[ContainerProcess] = []
        for record in self.records("processes", "P_SIZE"):
            if self.field(record, "P_STATE"):
                owned.get(self.field(record, "P_CONTAINER"), strays).append(self.process(record))
        found = [self.container(record, tuple(owned[record])) for record in owned if self.field(record, "C_STATE")]
        state = "panicked" if self.panicked else "ended" if self.guest.outcome == "exit" else "running"
        return ContainerTable(
            self.title,
            self.text(self.symbols["version"]),
            state,
            bool(self.at("bug")),
            self.ticks,
            self.at("idle_ticks"),
            self.at("calls"),
            self.at("faults"),
            self.layout["PERIOD"],
            tuple(found),
            tuple(strays),
        )

    def container(self, record: int, processes: tuple[ContainerProcess, ...]) -> Container:
        state = STATES.get(self.field(record, "C_STATE"), "damaged")
        return Container(
            number=self.field(record, "C_NUMBER"),
            name=self.text(record + self.layout["C_NAME"]),
            hostname=self.text(record + self.layout["C_HOSTNAME"]),
            state=DEAD if self.panicked else state,
            root=self.path(self.field(record, "C_ROOT")),
            address=".".join(map(str, self.field(record, "C_ADDRESS").to_bytes(4, "big"))),
            processes=processes,
            page_limit=self.field(record, "C_PAGES"),
            process_limit=self.field(record, "C_PROCESSES"),
            share=self.field(record, "C_SHARE"),
            used=self.field(record, "C_USED"),
            ticks=self.field(record, "C_TICKS"),
            calls=self.field(record, "C_CALLS"),
            refused=self.field(record, "C_REFUSED"),
            peak_pages=self.field(record, "C_PEAK_PAGES"),
            peak_processes=self.field(record, "C_PEAK_PROCESSES"),
        )

    def process(self, record: int) -> ContainerProcess:
        parent = self.field(record, "P_PARENT")
        return ContainerProcess(
            pid=self.field(record, "P_PID"),
            own_pid=self.field(record, "P_VPID"),
            parent=self.field(parent, "P_PID") if parent else None,
            program=self.text(self.field(record, "P_NAME")),
            state=self.state(record),
            pages=self.field(record, "P_PAGES"),
            ticks=self.field(record, "P_TICKS"),
            port=self.field(record, "P_PORT") or None,
        )

    def state(self, record: int) -> str:
        """Say what a process does, by the same fields by which the kernel's scheduler goes."""
        container, awaited, wake = (self.field(record, name) for name in ("P_CONTAINER", "P_WAIT", "P_WAKE"))
        if self.panicked:
            return DEAD
        if awaited:
            return f"waits for process {self.field(awaited, 'P_PID')}"
        if wake > self.ticks:
            return f"sleeps until tick {wake}"
        if self.at("current") == record:
            return "running"
        held = self.field(container, "C_USED") >= self.field(container, "C_SHARE")
        return "held: its container has used its share" if held else "ready"

    def path(self, node: int) -> str:
        """Return the path of a directory, from the global container's root."""
        names: list[str] = []
        while node != self.symbols["root"] and len(names) < DEEPEST:
            names.insert(0, self.text(self.field(node, "N_NAME")))
            node = self.field(node, "N_PARENT")
        return "/" + "/".join(names)
