"""Searching for writes to memory: checkpoints know which pages were written, and a spy sees the writes to one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.search.base import Search

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmlab.machine.checkpoints import Checkpoint
    from vmlab.machine.recording import Recording
    from vmlab.machine.when import Writes

__all__ = ["WriteSearch"]


class WriteSearch(Search):
    """Memory is written."""

    def __init__(self, recording: Recording, condition: Writes, guest: int) -> None:
        super().__init__(recording, condition, guest)
        self.memory = self.system.machine.memory
        self.parts = [*self._parts(self.address_of(condition.address), condition.size)]
        self._written = self._news = False
        self._before = b""

    def _parts(self, address: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield `(page, start, end)` of the host's memory for each part of the place."""
        vcpu, bus = self.guest.vcpu, self.guest.platform.bus
        memory: Any = self.guest.memory if self.condition.physical else vcpu.memory
        while size:
            count = min(size, PAGE_SIZE - address % PAGE_SIZE)
            physical = address if self.condition.physical else vcpu.look_up(address & vcpu.address_mask)
            if physical is None:
                raise OptionError(
                    f"{address:#x} is mapped nowhere at the cursor: seek() to where it is, or give a physical address"
                )
            if physical + count > memory.size or not bus.is_ram(physical):
                raise OptionError(f"there is no memory at the physical address {physical:#x}: give one of RAM")
            host = vcpu.ram_address(physical) if memory is vcpu.memory else memory.host_address(physical)
            yield host >> PAGE_SHIFT, host % PAGE_SIZE, host % PAGE_SIZE + count
            address, size = address + count, size - count

    def possible(self, checkpoint: Checkpoint) -> bool:
        return any(page in checkpoint.pages for page, _, _ in self.parts)

    def begin(self) -> None:
        for page, _, _ in self.parts:
            self.memory.spy(page, self._spy)

    def end(self) -> None:
        for page, _, _ in self.parts:
            self.memory.unwatch(page, self._spy)

    def _spy(self, page: int, offset: int, size: int) -> None:
        value = self.condition.value
        if value is not None and int.from_bytes(self._data(), "little") != value:
            return
        if any(page == each and offset < end and offset + size > start for each, start, end in self.parts):
            if size < PAGE_SIZE:
                self._written = True
            else:
                self._news = True  # somewhere in the page

    def _data(self) -> bytes:
        data = self.memory.data
        return b"".join(
            data[page << PAGE_SHIFT | start : (page << PAGE_SHIFT) + end] for page, start, end in self.parts
        )

    def touched(self) -> bool:
        found, self._written, self._news = self._written or self._news, False, False
        return found

    def look(self) -> tuple[bytes, bool, bool]:
        written, news, self._written, self._news = self._written, self._news, False, False
        return self._data(), written, news

    def decide(self, before: tuple[bytes, bool, bool], after: tuple[bytes, bool, bool]) -> tuple[int, int] | None:
        old, (new, written, news) = before[0], after
        if not (written or (news and old != new)):
            return None
        value = int.from_bytes(new, "little")
        if self.condition.value is not None and value != self.condition.value:
            return None
        return int.from_bytes(old, "little"), value
