"""Physical memory: one array of bytes, and who wrote to which of its pages.

`PhysicalMemory` is the RAM of one computer. Memory is read far more often than anything else in the laboratory, so
its inside is public: the processor's fast path indexes `view32`, `data` and `pages` itself (see `PhysicalMemory`).
Each 4 KiB page carries a few flag bits, so that one comparison after a write serves four users at once: dirty logging
(live migration), copy-on-write checkpoints (rewind), the cache of decoded instructions (self-modifying code) and
watchers (a hypervisor tracing a guest's descriptor table).

`MemoryWindow` is guest-physical memory: a list of host frames that look like one memory.

Simplified: no ECC, no caches, no memory types; the byte order is little-endian, as the guest's, and the host's must be.

Read more: Intel SDM vol. 3, 3.3 (physical address space); Waldspurger, OSDI 2002 (guest-physical, machine memory).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vmlab.errors import OptionError, StateError
from vmlab.machine.memory_parts import CodeBytes, Listeners, Memory
from vmlab.machine.state import check_state

__all__ = ["PAGE_SHIFT", "PAGE_SIZE", "ZERO_PAGE", "Memory", "MemoryWindow", "PhysicalMemory"]

PAGE_SIZE = 0x1000
PAGE_SHIFT = 12
OFFSET_MASK = PAGE_SIZE - 1
SMALLEST = 0x1_0000  # 64 KiB
LARGEST = 0xC000_0000  # 3 GiB: a PC keeps the last GiB below 4 GiB for devices

# One flag byte a page, `PhysicalMemory.pages`:
#   3        2        1     0
#   CHANGED  WATCHED  CODE  DIRTY
DIRTY = 1  # written since take_dirty()
CODE = 2  # `decoded` holds instructions of this page
WATCHED = 4  # someone wants to know of every write
CHANGED = 8  # written since take_changed()
WRITTEN = DIRTY | CHANGED  # the state in which one more write has nothing to tell anyone

ZERO_PAGE = bytes(PAGE_SIZE)
_SELECT = {bit: bytes(bool(flags & bit) for flags in range(256)) for bit in (DIRTY, CHANGED)}


def _check_run(address: int, length: int, size: int) -> None:
    if address < 0 or length < 0 or address + length > size:
        raise OptionError(f"{length} bytes at {address:#x} are outside memory, which ends at {size:#x}")


class PhysicalMemory:
    """The RAM of a computer.

    Parameters
    ----------
    size : int
        Bytes: a multiple of 4096, from 64 KiB to 3 GiB.

    Attributes
    ----------
    size : int
        Bytes.
    data : bytearray
        The bytes. Its length never changes.
    view16, view32, view64 : memoryview
        The same bytes as aligned words: `view32[address >> 2]`.
    pages : bytearray
        Flag bits of each page. Who writes through `data` or a view must say so **after** the write:
        `if pages[address >> 12] != WRITTEN: touch(address >> 12)`, for each page written.
    decoded : dict
        Page number to that page's cache of decoded instructions. Fill through `code_page()`; a write to its code
        (see `mark_code`) empties and drops it; what is still true may be in another one then.
    quick_pages, quick_maps : set of int, list of dict
        Pages that someone writes without a look at `pages`, because they are WRITTEN and the bytes written are no code,
        and where they know them from: emptied as soon as this is no longer so.

    Raises
    ------
    OptionError
        The size is not allowed.
    """

    __slots__ = (
        "_code", "_listeners", "data", "decoded", "pages", "quick_maps", "quick_pages", "size", "view16", "view32",
        "view64",
    )  # fmt: skip

    def __init__(self, size: int) -> None:
        if type(size) is not int:
            raise OptionError(f"memory size is a number of bytes (an int), not {size!r}")
        if not SMALLEST <= size <= LARGEST or size % PAGE_SIZE:
            raise OptionError(
                f"memory of {size} bytes is not possible: give a multiple of {PAGE_SIZE} "
                f"from {SMALLEST} (64 KiB) to {LARGEST} (3 GiB)"
            )
        if sys.byteorder != "little":
            raise OptionError("vmlab needs a little-endian host: guest words are read straight from host memory")
        self.size = size
        self.data = bytearray(size)
        whole = memoryview(self.data)
        self.view16, self.view32, self.view64 = whole.cast("H"), whole.cast("I"), whole.cast("Q")
        self.pages = bytearray(size >> PAGE_SHIFT)
        self.decoded: dict[int, dict[int, Any]] = {}
        self._listeners = Listeners()
        self._code = CodeBytes()
        self.quick_pages: set[int] = set()
        self.quick_maps: list[dict[int, int]] = []

    # -- reading and writing ---------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> int:
        """Read a little-endian integer of 1, 2, 4 or 8 bytes; the caller guarantees that it lies in memory."""
        if size == 4 and not address & 3:
            return self.view32[address >> 2]
        if size == 1:
            return self.data[address]
        if size == 8 and not address & 7:
            return self.view64[address >> 3]
        return int.from_bytes(self.data[address : address + size], "little")

    def write(self, address: int, size: int, value: int) -> None:
        """Write the low `size` (1, 2, 4 or 8) bytes of `value`; the caller guarantees that they lie in memory."""
        if size == 4 and not address & 3:
            self.view32[address >> 2] = value & 0xFFFF_FFFF
        elif size == 1:
            self.data[address] = value & 0xFF
        else:
            value &= (1 << (size << 3)) - 1
            self.data[address : address + size] = value.to_bytes(size, "little")
            last = (address + size - 1) >> PAGE_SHIFT
            if last != address >> PAGE_SHIFT and self.pages[last] != WRITTEN:
                self.touch(last, 0, address + size & OFFSET_MASK)
        page = address >> PAGE_SHIFT
        if self.pages[page] != WRITTEN:
            self.touch(page, address & OFFSET_MASK, size)

    def read_bytes(self, address: int, length: int) -> bytes:
        """Read a run of bytes.

        Raises
        ------
        OptionError
            The run leaves memory.
        """
        _check_run(address, length, self.size)
        return bytes(self.data[address : address + length])

    def write_bytes(self, address: int, data: bytes) -> None:
        """Write a run of bytes.

        Raises
        ------
        OptionError
            The run leaves memory.
        """
        _check_run(address, len(data), self.size)
        self.data[address : address + len(data)] = data
        for page in range(address >> PAGE_SHIFT, (address + len(data) + OFFSET_MASK) >> PAGE_SHIFT):
            if self.pages[page] != WRITTEN and data:
                start = max(address, page << PAGE_SHIFT)
                self.touch(page, start & OFFSET_MASK, min(PAGE_SIZE, address + len(data) - start))

    # -- who wants to know of a write --------------------------------------------------------------------------------

    def touch(self, page: int, offset: int = 0, size: int = PAGE_SIZE) -> None:
        """Note that bytes of a page have been written: the slow half of every write, taken only when there is news."""
        flags = self.pages[page]
        self.pages[page] = flags | WRITTEN
        if flags & CODE and self.is_code(page, offset, size):
            self._drop_code(page, offset, size)
        if flags & WATCHED:
            self._listeners.call(page, offset, size)

    def code_page(self, page: int) -> dict[int, Any]:
        """Return the cache of decoded instructions of a page, empty at first; a write to the page empties it."""
        self.pages[page] |= CODE
        if page in self.quick_pages and self._code.holds(page, 0, PAGE_SIZE):
            self._end_quick()
        return self.decoded.setdefault(page, {})

    def mark_code(self, page: int, offset: int, size: int) -> None:
        """Note which bytes of a page its decoded instructions depend on; where none are noted, it is the whole page."""
        self._code.mark(page, offset, size)
        if page in self.quick_pages:
            self._end_quick()

    def is_code(self, page: int, offset: int, size: int) -> bool:
        """Say whether decoded instructions depend on any of these bytes of a page."""
        return bool(self.pages[page] & CODE) and self._code.holds(page, offset, size)

    def free_lines(self, page: int, size: int) -> Iterable[int]:
        """Return where lines of `size` bytes begin on which no decoded instructions depend."""
        return self._code.others(page, size) if self.pages[page] & CODE else range(0, PAGE_SIZE, size)

    def _drop_code(self, page: int, offset: int = 0, size: int = PAGE_SIZE) -> None:
        decoded = self.decoded.pop(page, {})
        kept = self._code.survivors(page, decoded, offset, size)
        if kept:
            self.decoded[page] = kept
        else:
            self.pages[page] &= ~CODE & 0xFF
            self._code.drop(page)
        decoded.clear()  # not only dropped: a processor in the middle of this page may hold the dict

    def _end_quick(self) -> None:
        self.quick_pages.clear()  # everyone looks at `pages` again before writing
        for each in self.quick_maps:
            each.clear()

    def watch(self, page: int, callback: Callable[[int], None]) -> None:
        """Call `callback(page)` after every write to a page (not after `load` or `replace`)."""
        self._listen(self._listeners.watchers, page, callback)

    def spy(self, page: int, callback: Callable[[int, int, int], None]) -> None:
        """Call `callback(page, offset, size)` after every write to a page; a write may be told of as of the whole page."""
        self._listen(self._listeners.spies, page, callback)

    def _listen(self, to: dict[int, list[Any]], page: int, callback: object) -> None:
        if not 0 <= page < len(self.pages):
            raise OptionError(f"page {page} is outside memory, which has {len(self.pages)} pages")
        to.setdefault(page, []).append(callback)
        self.pages[page] |= WATCHED
        self._end_quick()

    def unwatch(self, page: int, callback: Callable[..., None]) -> None:
        """End a `watch` or a `spy`; unknown ones are ignored."""
        if self._listeners.remove(page, callback):
            self.pages[page] &= ~WATCHED & 0xFF

    def forget_code(self) -> None:
        """Empty the caches of decoded instructions."""
        for page in list(self.decoded):
            self._drop_code(page)

    def take_dirty(self) -> list[int]:
        """Return the numbers of the pages written since the last call, ascending, and clear their dirty bits."""
        return self._take(DIRTY)

    def _take(self, bit: int) -> list[int]:
        self._end_quick()
        taken = list(self._flagged(bit))
        for page in taken:
            self.pages[page] &= ~bit & 0xFF
        return taken

    def _flagged(self, bit: int) -> Iterator[int]:
        selected = self.pages.translate(_SELECT[bit])
        page = selected.find(1)
        while page >= 0:
            yield page
            page = selected.find(1, page + 1)

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def contents(self) -> dict[int, bytes]:
        """Return the pages that hold more than zeros: page number to contents."""
        return {page: contents for page in range(len(self.pages)) if (contents := self.page(page)) != ZERO_PAGE}

    def take_changed(self) -> list[int]:
        """Return the numbers of the pages written since the last call or `replace`, ascending, and clear their bits."""
        return self._take(CHANGED)

    def page(self, number: int) -> bytes:
        """Return the contents of a page."""
        return bytes(self.data[number << PAGE_SHIFT : (number + 1) << PAGE_SHIFT])

    def replace(self, pages: Mapping[int, bytes]) -> None:
        """Set whole pages from outside the machine, to go to another instant; they do not count as changed."""
        for page, contents in pages.items():
            self._replace(page, contents)

    def save(self) -> dict[str, Any]:
        """Save the contents as plain data: the pages that hold more than zeros.

        Flags, watchers and decoded instructions are tools of whoever set them and are not saved.
        """
        return {"version": 1, "size": self.size, "pages": self.contents()}

    def load(self, state: dict[str, Any]) -> None:
        """Load saved contents; pages that change become dirty.

        Raises
        ------
        StateError
            The state is damaged or of a memory of another size.
        """
        check_state(state, "memory", {"size": int, "pages": dict})
        if state["size"] != self.size:
            raise StateError(f"memory: saved state has {state['size']} bytes, this memory {self.size}")
        pages: dict[Any, Any] = state["pages"]
        for page, contents in pages.items():
            if type(page) is not int or not 0 <= page < len(self.pages):
                raise StateError(f"memory: saved page {page!r} is outside memory of {len(self.pages)} pages")
            if not isinstance(contents, bytes) or len(contents) != PAGE_SIZE:
                raise StateError(f"memory: saved page {page} must be {PAGE_SIZE} bytes")
        for page in range(len(self.pages)):
            if self._replace(page, pages.get(page, ZERO_PAGE)):
                self.pages[page] |= CHANGED

    def _replace(self, page: int, contents: bytes) -> bool:
        """Set a page's contents from outside the machine; say whether that changed it."""
        start = page << PAGE_SHIFT
        if self.data[start : start + PAGE_SIZE] == contents:
            return False
        self.data[start : start + PAGE_SIZE] = contents
        if self.pages[page] & CODE:
            self._drop_code(page)
        self.pages[page] |= DIRTY
        return True

    def digest(self) -> str:
        """SHA-256 of the contents, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


class MemoryWindow:
    """Guest-physical memory: host frames in the order in which the guest sees them.

    Parameters
    ----------
    host : PhysicalMemory
        The memory that holds the frames.
    frames : sequence of int
        Host page number of each guest page.

    Raises
    ------
    OptionError
        No frame, or one outside host memory.
    """

    __slots__ = ("frames", "host", "size")

    def __init__(self, host: PhysicalMemory, frames: Sequence[int]) -> None:
        self.host = host
        self.frames = list(frames)
        self.size = len(self.frames) << PAGE_SHIFT
        if not self.frames:
            raise OptionError("a memory window needs at least one frame")
        limit = host.size >> PAGE_SHIFT
        if {*map(type, self.frames)} != {int} or min(self.frames) < 0 or max(self.frames) >= limit:
            wrong = next(frame for frame in self.frames if type(frame) is not int or not 0 <= frame < limit)
            raise OptionError(f"frame {wrong!r} is outside host memory, which has {limit} frames")

    def host_address(self, guest_physical: int) -> int:
        """Translate a guest-physical to a host-physical address."""
        return (self.frames[guest_physical >> PAGE_SHIFT] << PAGE_SHIFT) | (guest_physical & OFFSET_MASK)

    def read(self, address: int, size: int) -> int:
        """Read a little-endian integer of 1, 2, 4 or 8 bytes; the caller guarantees that it lies in the window."""
        if (address & OFFSET_MASK) + size <= PAGE_SIZE:
            return self.host.read(self.host_address(address), size)
        return int.from_bytes(self.read_bytes(address, size), "little")

    def write(self, address: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value`; the caller guarantees that they lie in the window."""
        if (address & OFFSET_MASK) + size <= PAGE_SIZE:
            self.host.write(self.host_address(address), size, value)
        else:
            self.write_bytes(address, (value & ((1 << (size << 3)) - 1)).to_bytes(size, "little"))

    def read_bytes(self, address: int, length: int) -> bytes:
        """Read a run of bytes.

        Raises
        ------
        OptionError
            The run leaves the window.
        """
        _check_run(address, length, self.size)
        return b"".join(self.host.read_bytes(place, part) for place, _, part in self._pieces(address, length))

    def write_bytes(self, address: int, data: bytes) -> None:
        """Write a run of bytes.

        Raises
        ------
        OptionError
            The run leaves the window.
        """
        _check_run(address, len(data), self.size)
        for place, done, part in self._pieces(address, len(data)):
            self.host.write_bytes(place, data[done : done + part])

    def _pieces(self, address: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Split a run at page borders: (host address, offset in the run, length)."""
        done = 0
        while done < length:
            part = min(length - done, PAGE_SIZE - ((address + done) & OFFSET_MASK))
            yield self.host_address(address + done), done, part
            done += part

    def digest(self) -> str:
        """SHA-256 of the contents as the guest sees them, in hexadecimal."""
        hasher = hashlib.sha256()
        for frame in self.frames:
            hasher.update(self.host.data[frame << PAGE_SHIFT : (frame + 1) << PAGE_SHIFT])
        return hasher.hexdigest()
