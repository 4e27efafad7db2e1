"""A laboratory for page walks: tables of any format, in one dimension or two, built in a memory of their own.

The simulated processor runs 32-bit, PAE and 4-level paging; here the other formats are walked too, by the same walker:
EPT and NPT under any guest, 5 levels, VT-d, AArch64, RISC-V. Eight neighbouring pages are mapped; entries can be changed
and broken, and an access marks tables, fills walk caches and the TLB as a processor's would.

Guest-physical memory lies from 2 GiB on in the host's, and the host's tables map as much of it as there is something in.

Simplified: the TLB is `vmlab.machine.tlb.Tlb`, without address spaces to switch between.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.nested_walk import walk_nested
from vmlab.machine.page_format_names import FORMATS, HOST_FORMATS
from vmlab.machine.page_tables import PageTables, TableEntry
from vmlab.machine.paging import PAGE, walk
from vmlab.machine.tlb import Tlb, TlbEntry
from vmlab.machine.walk_caches import NestedCaches, read_walk_caches
from vmlab.vmm.page_walk import check_access, look

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmlab.machine.nested_walk import AddressSpace, NestedTranslation
    from vmlab.machine.paging import PageTableFormat, Translation
    from vmlab.machine.walk_caches import WalkCacheSizes
    from vmlab.vmm.page_walk import Walked

__all__ = ["GUEST_FORMATS", "PAGE_SIZES", "WalkLab", "format_of", "size_of", "sizes_of"]

GUEST_FORMATS = tuple(name for name in FORMATS if name not in HOST_FORMATS)
"""The names of formats that map a program's addresses."""

PAGE_SIZES = {"4 KiB": 1 << 12, "2 MiB": 1 << 21, "4 MiB": 1 << 22, "1 GiB": 1 << 30}
"""Sizes of pages by name."""

GUEST_AT = 0x8000_0000
"""Host-physical address of guest-physical address 0: a multiple of every page."""
TABLES_AT, DATA_AT, HOST_TABLES_AT = 0x10_0000, 0x40_0000, 0x1_0000
PAGES = 8
RULES = {"reports_fetch": True}
"""How the processor of the laboratory is set: an error code tells fetches from reads."""
EXAMPLE = 0x5A_2A25_1234_5678
"""An address in which each field that indexes a table has a value of its own; narrower formats take its lower bits."""


class SparseMemory:
    """Physical memory of which only the pages that were written take room; the rest is 0."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def read(self, address: int, size: int) -> int:
        """Read a little-endian integer within one page."""
        page, offset = self.pages.get(address >> 12), address & PAGE - 1
        return int.from_bytes(page[offset : offset + size], "little") if page else 0

    def write(self, address: int, size: int, value: int) -> None:
        """Write a little-endian integer within one page."""
        page, offset = self.pages.setdefault(address >> 12, bytearray(PAGE)), address & PAGE - 1
        page[offset : offset + size] = value.to_bytes(size, "little")


class _Window:
    """Guest-physical memory in the host's."""

    def __init__(self, memory: SparseMemory) -> None:
        self._memory = memory

    def read(self, address: int, size: int) -> int:
        return self._memory.read(GUEST_AT + address, size)

    def write(self, address: int, size: int, value: int) -> None:
        self._memory.write(GUEST_AT + address, size, value)


class _Frames:
    """Hands out frames, aligned to their size."""

    def __init__(self, start: int) -> None:
        self._next = start

    def __call__(self, size: int) -> int:
        address = -(-self._next // size) * size
        self._next = address + size
        return address


def format_of(name: object, names: tuple[str, ...], what: str) -> PageTableFormat:
    """Return a format by its name; OptionError for one that is not among these."""
    if name not in names:
        raise OptionError(f"{what} is one of {', '.join(names)}, not {name!r}")
    return FORMATS[str(name)]


def sizes_of(name: str) -> list[str]:
    """Return the names of the page sizes that a format has.

    >>> sizes_of("4-level")
    ['4 KiB', '2 MiB', '1 GiB']
    """
    if name not in FORMATS:
        raise OptionError(f"there is no format {name!r}: choose from {', '.join(FORMATS)}")
    shifts = [level.shift for level in FORMATS[name].levels if level.maps is not None]
    return [size for size, count in PAGE_SIZES.items() if count.bit_length() - 1 in shifts]


def size_of(page: object, name: str) -> int:
    """Return the bytes of a page that was given by name or in bytes; OptionError where a format has none such."""
    sizes = sizes_of(name)
    for each in sizes:
        if page == each or (type(page) is int and page == PAGE_SIZES[each]):
            return PAGE_SIZES[each]
    raise OptionError(f"{name} has pages of {', '.join(sizes)}, not {page!r}")


class WalkLab:
    """Tables to be walked.

    Parameters
    ----------
    guest : str or None
        Format of the guest's tables: one of `GUEST_FORMATS`; None where paging is off in the guest.
    host : str or None
        Format of the host's: one of `HOST_FORMATS`; None for a walk in one dimension.
    guest_page, host_page : str or int
        Size of a page, as `"2 MiB"` or in bytes.
    caches : bool, mapping or NestedCaches
        True for paging-structure caches of both dimensions, a nested TLB, and a TLB of 64 entries; False for none of them;
        or some walk caches, as the option `walk_caches` of a run, with the TLB.

    Attributes
    ----------
    memory : SparseMemory
        Host-physical memory: all tables lie in it.
    guest, host : PageTables or None
        The tables: `map`, `unmap`, `protect`, `entries`.
    address : int
        An address that is mapped; the seven pages after it are, too.
    caches : NestedCaches or None
        Walk caches.
    tlb : Tlb or None
        The TLB.

    Raises
    ------
    OptionError
        There is no such format or page.

    Examples
    --------
    >>> lab = WalkLab("4-level", "ept", host_page="2 MiB")
    >>> lab.look(lab.address).references
    19
    """

    def __init__(
        self,
        guest: str | None = "4-level",
        host: str | None = "ept",
        *,
        guest_page: str | int = "4 KiB",
        host_page: str | int = "4 KiB",
        caches: bool | Mapping[str, object] | WalkCacheSizes | NestedCaches = False,
    ) -> None:
        if guest is None and host is None:
            raise OptionError("there is nothing to walk: give a guest's format, a host's, or both")
        self.names = guest, host
        self.memory = SparseMemory()
        self.host: PageTables | None = None
        self.guest: PageTables | None = None
        self.guest_page = self.host_page = 0
        if host is not None:
            host_format = format_of(host, HOST_FORMATS, "a host's format")
            self.host_page = size_of(host_page, host)
            self.host = PageTables(host_format, self.memory, _Frames(HOST_TABLES_AT))
        self._guest_memory = _Window(self.memory) if self.host else self.memory
        if guest is not None:
            guest_format = format_of(guest, GUEST_FORMATS, "a guest's format")
            self.guest_page = size_of(guest_page, guest)
            self.guest = PageTables(guest_format, self._guest_memory, _Frames(TABLES_AT))
        top = FORMATS[guest or host or ""]
        self.address = EXAMPLE & (1 << _width(top) - 1) - 1
        self.tlb = None if caches is False else Tlb()
        sizes = None if isinstance(caches, NestedCaches) else read_walk_caches(caches)
        made = None if sizes is None else sizes.make()
        self.caches = caches if isinstance(caches, NestedCaches) else made
        if self.guest:
            self._frames = count(max(DATA_AT, self.guest_page), self.guest_page)
        else:
            self._frames = count(GUEST_AT, self.host_page)
        step = self.guest_page or self.host_page
        for n in range(PAGES):
            self.map(self.address + n * step)

    def __repr__(self) -> str:
        names = [f"{FORMATS[name].name}, pages of {page}" for name, page in self._sizes]
        return f"<WalkLab: {' over '.join(names)}; {'no caches' if self.caches is None else self.caches}>"

    @property
    def _sizes(self) -> list[tuple[str, str]]:
        named = {size: name for name, size in PAGE_SIZES.items()}
        both = zip(self.names, (self.guest_page, self.host_page), strict=True)
        return [(name, named[page]) for name, page in both if name is not None]

    @property
    def spaces(self) -> tuple[AddressSpace | None, AddressSpace | None]:
        """Both dimensions, as a walk takes them."""
        return self.guest.space if self.guest else None, self.host.space if self.host else None

    def read_guest(self, address: int, size: int) -> int:
        """Read the memory in which the guest's tables lie: guest-physical, where there is a host."""
        return self._guest_memory.read(address, size)

    def map(self, address: int, **rights: bool) -> None:
        """Map the page around an address to a frame of its own, in both dimensions.

        Raises
        ------
        OptionError
            No address of the format; something else is mapped there.
        """
        check_access(address, "read", None)
        if self.guest:
            frame = next(self._frames)
            self.guest.map(address & -self.guest_page, frame, self.guest_page, **rights)
            physical = frame | address & self.guest_page - 1
        else:
            physical = address
        for table in [*(self.guest.tables if self.guest else ()), physical]:
            self._back(table)
        place = self.look(address & -PAGE).physical
        if place is not None:
            text = f"page {place >> 12:#x} of physical memory ".encode()
            self.memory.pages[place >> 12] = bytearray((text * PAGE)[:PAGE])

    def _back(self, physical: int) -> None:
        """Let the host map a guest-physical page."""
        if self.host and look(None, self.host.space, physical, self.memory.read).fault:
            first = physical & -self.host_page
            # Under a guest all of its memory in one piece; alone, a page's frame is the next one.
            self.host.map(first, GUEST_AT + first if self.guest else next(self._frames), self.host_page)

    def look(self, address: int, access: str = "read", *, user: bool = True) -> Walked:
        """Walk for an address, and change nothing.

        Raises
        ------
        OptionError
            No address, no access.
        """
        check_access(address, access, user)
        if not 0 <= address < 1 << 64:
            raise OptionError(f"{address:#x} is no address of 64 bits")
        guest, host = self.spaces
        read = self.memory.read
        return look(guest, host, address, read, access=access, user=user, caches=self.caches, rules=RULES)

    def held(self, address: int, access: str = "read", *, user: bool = True) -> tuple[TlbEntry | None, str]:
        """Return what the TLB holds for an address: `"hit"`, `"miss"`, `"rights"`, or `"none"` where there is no TLB."""
        if self.tlb is None:
            return None, "none"
        entry = self.tlb.peek(address >> 12)
        if entry is None:
            return None, "miss"
        allows = entry.user or not user
        allows &= entry.executable if access == "fetch" else access == "read" or (entry.writable and entry.dirty)
        return entry, "hit" if allows else "rights"

    def access(
        self, address: int, access: str = "read", *, user: bool = True
    ) -> Translation | NestedTranslation | None:
        """Make an access: mark the tables, and fill the caches and the TLB; return the walk, None after a hit in the TLB.

        Raises
        ------
        Fault, WalkFault
            The tables do not allow it.
        """
        check_access(address, access, user)
        entry, state = self.held(address, access, user=user)
        if state == "hit":
            return None
        if self.tlb and entry:
            self.tlb.drop(address >> 12)
        guest, host = self.spaces
        how: dict[str, Any] = {"is_write": access == "write", "is_fetch": access == "fetch", "is_user": user, **RULES}
        found: Translation | NestedTranslation
        if guest and host:
            found = walk_nested(guest, host, address, self.memory.read, self.memory.write, caches=self.caches, **how)
        else:
            only = guest or host
            assert only
            cache = None if self.caches is None else self.caches.guest if guest else self.caches.host
            found = walk(
                only.format, only.root, address, self.memory.read, self.memory.write,
                registers=only.registers, cache=cache, **how,
            )  # fmt: skip
        if self.tlb:
            rights = found.writable, found.user, found.executable, found.dirty, found.global_
            self.tlb.insert(address >> 12, TlbEntry(found.frame, *rights, found.page_size))
        return found

    def forget(self) -> None:
        """Empty the caches and the TLB."""
        if self.tlb:
            self.tlb.flush()
        if self.caches:
            for cache in (self.caches.guest, self.caches.host, self.caches.nested_tlb):
                if cache:
                    cache.flush()

    def path(self, address: int, *, host: bool = False) -> list[TableEntry]:
        """Return the entries that an address uses in the guest's tables, or in the host's: what can be changed."""
        tables = self.host if host else self.guest
        if tables is None:
            raise OptionError("this laboratory has no such tables")
        return [each for each in tables.entries() if each.address <= address < each.address + each.span]

    def change(self, entry: TableEntry, value: int, *, host: bool = False) -> None:
        """Write an entry: break it, mend it. The caches and the TLB are not told.

        Raises
        ------
        OptionError
            No value of an entry.
        """
        tables = self.host if host else self.guest
        if tables is None:
            raise OptionError("this laboratory has no such tables")
        if not isinstance(entry, TableEntry):
            raise OptionError(f"an entry is one that path() returns, not {entry!r}")
        size = tables.format.entry_bytes
        if type(value) is not int or not 0 <= value < 1 << 8 * size:
            raise OptionError(f"an entry of {size} bytes cannot be {value!r}")
        if entry.place < 0:
            tables.registers[entry.slot] = value
            return
        (self.memory if host else self._guest_memory).write(entry.place, size, value)


def _width(format_: PageTableFormat) -> int:
    """Return the bits of an address that a format translates."""
    top = format_.levels[0]
    return format_.top_shift if format_.tops is not None else top.shift + top.bits
