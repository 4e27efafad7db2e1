"""What the tables of a kernel with containers say: containers, their limits, and their processes. `vmlab.containers` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DEAD", "Container", "ContainerProcess", "ContainerTable"]

DEAD = "dead"
"""State of all that a kernel's end has taken with it."""


@dataclass(frozen=True, slots=True)
class ContainerProcess:
    """A process.

    Attributes
    ----------
    pid, own_pid : int
        As the global container sees it, and as its own does.
    parent : int or None
        The `pid` of the process that forked it, if that is there still.
    program : str
        What it executes.
    state : str
        `"running"`, `"ready"`, what it waits for, or `"dead"` with its kernel.
    pages, ticks : int
        Pages of memory that it is charged, and ticks of the timer that came while it ran.
    port : int or None
        Where it listens, at its container's address.
    """

    pid: int
    own_pid: int
    parent: int | None
    program: str
    state: str
    pages: int
    ticks: int
    port: int | None


@dataclass(frozen=True, slots=True)
class Container:
    """A container: a view of the one kernel, and limits.

    Attributes
    ----------
    number : int
        0 is the global container.
    name, hostname : str
        As it was configured, and as it calls itself.
    state : str
        `"configured"`, `"running"`, or `"dead"` with its kernel.
    root : str
        Its root directory, as a path of the global container.
    address : str
        Its IP address.
    processes : tuple of ContainerProcess
        Its processes.
    page_limit, process_limit, share : int
        What it may have: pages, processes, and ticks of a period.
    used : int
        Ticks that it has used of this period.
    ticks, calls, refused : int
        Ticks that it was charged, system calls that it made, and those that ended in an error.
    peak_pages, peak_processes : int
        The most that it ever had.
    """

    number: int
    name: str
    hostname: str
    state: str
    root: str
    address: str
    processes: tuple[ContainerProcess, ...]
    page_limit: int
    process_limit: int
    share: int
    used: int
    ticks: int
    calls: int
    refused: int
    peak_pages: int
    peak_processes: int

    @property
    def pages(self) -> int:
        """Pages that its processes are charged."""
        return sum(each.pages for each in self.processes)


@dataclass(frozen=True, slots=True)
class ContainerTable:
    """All containers of a kernel at an instant.

    Attributes
    ----------
    title : str
        Which guest's kernel.
    version : str
        What `uname` says in every container.
    state : str
        `"running"`, `"panicked"`, or `"ended"`.
    bug : bool
        Whether the system call that gives everything away is there.
    ticks, idle_ticks, calls, exceptions : int
        Ticks of the timer, those at which nobody ran, system calls, and exceptions in ring 3, since the kernel started.
    period : int
        Ticks of which each container has its share.
    containers : tuple of Container
        Those that are there, the global one first.
    strays : tuple of ContainerProcess
        Processes of no container: somebody has written into the kernel's tables.
    """

    title: str
    version: str
    state: str
    bug: bool
    ticks: int
    idle_ticks: int
    calls: int
    exceptions: int
    period: int
    containers: tuple[Container, ...]
    strays: tuple[ContainerProcess, ...]

    def __getitem__(self, which: int | str) -> Container:
        """Return a container by its number or name; OptionError where there is none."""
        for each in self.containers:
            if which in (each.number, each.name):
                return each
        known = ", ".join(f"{each.number} ({each.name})" for each in self.containers)
        raise OptionError(f"there is no container {which!r} now: there are {known}")

    def __iter__(self) -> Iterator[Container]:
        return iter(self.containers)

    def __len__(self) -> int:
        return len(self.containers)

    def rows(self) -> list[dict[str, Any]]:
        """Return the containers as rows of a table."""
        return [
            {
                "container": each.number,
                "name": each.name,
                "state": each.state,
                "hostname": each.hostname,
                "root": each.root,
                "address": each.address,
                "processes": f"{len(each.processes)} of {each.process_limit}",
                "pages": f"{each.pages} of {each.page_limit}",
                "ticks of this period": f"{each.used} of {each.share}",
                "ticks": each.ticks,
                "system calls": each.calls,
                "refused": each.refused,
            }
            for each in self.containers
        ]

    def process_rows(self) -> list[dict[str, Any]]:
        """Return the processes as rows of a table."""
        owned = [(each.name, process) for each in self.containers for process in each.processes]
        return [
            {
                "pid": process.pid,
                "container": name,
                "pid there": process.own_pid,
                "parent": process.parent,
                "program": process.program,
                "state": process.state,
                "pages": process.pages,
                "ticks": process.ticks,
                "port": process.port,
            }
            for name, process in [*owned, *(("none", process) for process in self.strays)]
        ]

    def _summary(self) -> str:
        bug = "; it has a bug" if self.bug else ""
        return f"{self.title}: {self.version}, {self.state} for {self.ticks} ticks ({self.idle_ticks} idle){bug}"

    def describe(self) -> str:
        """Say in words who is there, what it may use, and what it uses."""
        lines = [self._summary()]
        for row, each in zip(self.rows(), self.containers, strict=True):
            lines.append(
                f"{each.number} {each.name} ({each.state}): {each.hostname}, {each.address}, root {each.root}; {row['processes']} processes, "
                f"{row['pages']} pages, {row['ticks of this period']} ticks of this period; {each.calls} system calls, {each.refused} refused"
            )
            lines += [f"    {_words(process)}" for process in each.processes]
        return "\n".join(lines + [f"of no container: {_words(process)}" for process in self.strays])

    def __repr__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        """Return a table of the containers and one of the processes for a notebook."""
        parts = [f"<p>{escape(self._summary())}</p>", _table(self.rows()), _table(self.process_rows())]
        return "".join(parts)


def _words(process: ContainerProcess) -> str:
    port = f", port {process.port}" if process.port is not None else ""
    return (
        f"process {process.pid} ({process.own_pid} there), {process.program}: {process.state}; {process.pages} pages, "
        f"{process.ticks} ticks{port}"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    """Return rows as HTML."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{'' if value is None else escape(str(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
