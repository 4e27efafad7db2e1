"""Application containment (textbook 18.5.8): one kernel, several containers, as Solaris Zones, BSD Jails and AIX WPARs are.

The kernel is the guest `containers`, on the bare machine. What there is of containers and processes its own tables say
(`vmlab.vmm.containers`): a container that it stops is no part any more.

Containers are made and stopped by the process in the global one, the host's; a process is ended by its kernel alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError, VmlabError
from vmlab.kinds.journey import DISK_READ, SYSTEM_CALL, follow_guest
from vmlab.kinds.part import Part
from vmlab.kinds.x86_running import X86Running
from vmlab.vmm.containers import containers
from vmlab.vmm.native import Native
from vmlab.vmm.system import USER

if TYPE_CHECKING:
    from vmlab.kinds.journey import Journey
    from vmlab.vmm.container_table import Container, ContainerTable

__all__ = ["ContainedRunning", "ContainingSystem"]

NUMBERS = {SYSTEM_CALL: 2, DISK_READ: 12}  # GETPID, READ
UP = "containers: one kernel for all"
RUNNING = "running"
KERNEL = "guest0/kernel"
STOPPABLE = ("1", "2")
PIECE, LOOKS = 500, 1_000
CRASH_SCENE = 3


class ContainingSystem(Native):
    """The bare machine with a kernel that knows containers."""

    @property
    def in_control(self) -> str:
        """The process of a container that runs, or the kernel."""
        if self.guest_level != USER:
            return KERNEL
        for container in containers(self):
            for process in container.processes:
                if process.state == RUNNING:
                    return f"container{container.number}/process{process.pid}"
        return KERNEL


class ContainedRunning(X86Running):
    """A kernel with containers, and what runs in them."""

    modified = "nothing"

    @property
    def table(self) -> ContainerTable:
        """What the kernel's tables say now."""
        return containers(self.system)

    @property
    def is_up(self) -> bool:
        return UP in self.system.guests[0].console

    @property
    def booting(self) -> bool:
        return not self.is_up

    @property
    def consoles(self) -> dict[str, str]:
        """Return what the kernel and each container have printed: the console's lines begin with a container's name."""
        found: dict[str, list[str]] = {}
        for line in self.system.guests[0].console.splitlines():
            name, colon, text = line.partition(": ")
            known = colon and name in {each.name for each in self.table}
            found.setdefault(name if known else "kernel", []).append(text if known else line)
        return {name: "\n".join(lines) for name, lines in found.items()}

    def kill(self, name: str) -> None:
        """Stop a container, as an administrator does: by a key at the console, which the host's process obeys when it looks."""
        number = self.find(name).name.partition("/")[0].removeprefix("container")
        if number not in STOPPABLE:
            raise OptionError(f"{name!r} is not stopped from the console: choose container1 or container2")
        self.system.send(number.encode())
        for _ in range(LOOKS):
            if self.finished or f"container{number}" not in {part.name for part in self.parts()}:
                return
            self.system.advance(PIECE)
        raise VmlabError(f"the host's process has not stopped container {number}: is it there?")

    def follow(self, event: str) -> Journey:
        """Follow one event of a container's process."""
        return follow_guest(self._build, event, 0, NUMBERS)

    def crash(self) -> tuple[int, int]:
        """Let a program of one container bring the kernel down, by the bug of scene 3."""
        fallen = self.preset.build(scene=CRASH_SCENE).run()
        others = [each.name for each in self.table if each.number][:1]
        return sum(name in fallen.results for name in others), len(others)

    @property
    def footprint(self) -> int:
        """Bytes of the pages that the containers' processes are charged: the kernel is there once for all."""
        return sum(process.pages for container in self.table for process in container.processes) * 0x1000

    def parts(self) -> list[Part]:
        alive = [each for each in self.table if each.state == RUNNING]
        processes = [
            Part(
                f"container{each.number}/process{process.pid}",
                process.program,
                "processes",
                "ring 3",
                (f"container{each.number}",),
                (KERNEL,),
                state={"pid": process.own_pid, "state": process.state},
                counters={"pages": process.pages, "ticks": process.ticks},
            )
            for each in alive
            for process in each.processes
        ]
        kernel = self._kernel(0, self.system.guests[0])
        return [*processes, *(self._container(each) for each in alive), kernel, *self._hardware()]

    def _container(self, each: Container) -> Part:
        word = self.preset.words["global"] if not each.number else self.preset.words["container"]
        return Part(
            f"container{each.number}",
            f"{word} {each.name}" if each.number else word,
            "containers",
            "",
            (KERNEL,),
            state={
                "root": each.root,
                "address": each.address,
                "host name": each.hostname,
                "pages": f"of {each.page_limit}",
            },
            counters={
                "processes": len(each.processes),
                "ticks": each.ticks,
                "calls": each.calls,
                "refused": each.refused,
            },
        )
