"""Page tables built in memory, of any format that is declared: mapped, unmapped, protected, and listed entry by entry.

The builder knows no format by name: where an address indexes, what an entry holds and what makes it a leaf it takes from
the same data as the walker.

Simplified: a table that has become empty stays where it is; a large page is not split.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmlab.errors import OptionError
from vmlab.machine.nested_walk import AddressSpace
from vmlab.machine.paging import PAGE, PSE36_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vmlab.machine.paging import Level, PageTableFormat

__all__ = ["PageTables", "TableEntry", "table_entries"]

READ, WRITE, USER, EXECUTE = "readable", "writable", "user", "executable"
_ALL = (READ, WRITE, USER, EXECUTE)
HIGHEST = 1 << 64


class _Memory(Protocol):
    def read(self, address: int, size: int, /) -> int: ...

    def write(self, address: int, size: int, value: int, /) -> None: ...


class TableEntry(NamedTuple):
    """An entry that is present.

    Attributes
    ----------
    level : int
        Its table's level: 0 is the root.
    table, slot, place : int
        The table's address, which entry of it, and the entry's own address; the last is -1 for an entry in a register.
    entry : int
        Its value.
    address, span : int
        The first address that it maps, and how many bytes.
    target : int
        The table or the page that it points to.
    is_leaf : bool
        True where that is a page.
    """

    level: int
    table: int
    slot: int
    place: int
    entry: int
    address: int
    span: int
    target: int
    is_leaf: bool


class PageTables:
    """The page tables of one address space.

    Parameters
    ----------
    format_ : PageTableFormat
        What they look like.
    memory : PhysicalMemory or alike
        Where they lie: it has `read(address, size)` and `write(address, size, value)`.
    allocate : callable
        `allocate(bytes)` returns the address of that many bytes, all 0, aligned to their number: 4096 for a table, but for
        the root tables of some formats.

    Attributes
    ----------
    root : int
        What goes into the root register: the root table's address.
    registers : list of int
        Entries of a root table that the processor holds in registers.
    tables : list of int
        Addresses of all tables, the root's first.

    Examples
    --------
    >>> from itertools import count
    >>> from vmlab.machine.memory import PhysicalMemory
    >>> from vmlab.machine.page_formats import IA32
    >>> memory, free = PhysicalMemory(1 << 20), count(0x1000, 0x1000)
    >>> tables = PageTables(IA32, memory, lambda size: next(free))
    >>> tables.map(0x40_0000, 0x5000, writable=False)
    >>> [hex(entry.entry) for entry in tables.entries()]
    ['0x2007', '0x5005']
    """

    def __init__(self, format_: PageTableFormat, memory: _Memory, allocate: Callable[[int], int]) -> None:
        self.format = format_
        self._memory = memory
        self._allocate = allocate
        self.tables: list[int] = []
        top = format_.levels[0]
        self.registers = [0] * (1 << top.bits) if top.in_registers else []
        self.root = 0
        if format_.root_mask:
            address = self._new_table(top)
            self.root = address >> format_.root_shift

    @property
    def space(self) -> AddressSpace:
        """What a walk needs to know."""
        return AddressSpace(self.format, self.root, tuple(self.registers))

    # -- where entries lie ---------------------------------------------------------------------------------------------

    def _new_table(self, level: Level) -> int:
        size = max(PAGE, self.format.entry_bytes << level.bits)
        address = self._allocate(size)
        if address & ~(self.format.frame_mask << self.format.frame_shift) or address & size - 1:
            raise OptionError(
                f"a table of {size} bytes cannot lie at {address:#x}: an address aligned to them is needed"
            )
        self.tables.append(address)
        return address

    def _read(self, level: Level, table: int, slot: int) -> int:
        if level.in_registers:
            return self.registers[slot]
        return self._memory.read(table + slot * self.format.entry_bytes, self.format.entry_bytes)

    def _write(self, level: Level, table: int, slot: int, entry: int) -> None:
        if level.in_registers:
            self.registers[slot] = entry
            if not self.format.root_mask:
                return
        self._memory.write(table + slot * self.format.entry_bytes, self.format.entry_bytes, entry)

    def _target(self, entry: int) -> int:
        return (entry & self.format.frame_mask) << self.format.frame_shift

    def _is_leaf(self, level: Level, entry: int) -> bool:
        return bool((entry ^ self.format.inverted) & level.leaf)

    def _top(self) -> int:
        return (self.root & self.format.root_mask) << self.format.root_shift

    def _find(self, address: int) -> tuple[Level, int, int, int] | None:
        """Return level, table, slot and entry of the leaf that maps an address; None where nothing does."""
        table = self._top()
        for level in self.format.levels:
            slot = address >> level.shift & (1 << level.bits) - 1
            entry = self._read(level, table, slot)
            if not entry & self.format.present:
                return None
            if self._is_leaf(level, entry):
                return level, table, slot, entry
            table = self._target(entry)
        return None

    # -- mapping -------------------------------------------------------------------------------------------------------

    def map(
        self,
        address: int,
        physical: int,
        size: int = PAGE,
        *,
        readable: bool = True,
        writable: bool = True,
        user: bool = True,
        executable: bool = True,
        extra: int = 0,
    ) -> None:
        """Map one page; what was mapped there before is replaced.

        Parameters
        ----------
        address, physical : int
            The page's address, and where it lies.
        size : int
            Bytes of the page: one of `sizes`.
        readable, writable, user, executable : bool
            Rights; one that the format has not is ignored.
        extra : int
            More bits of the entry.

        Raises
        ------
        OptionError
            The format has no such page or address, or a page of another size is in the way.
        """
        format_ = self.format
        self._check(address, physical, size)
        table = self._top()
        for level in format_.levels:
            slot = address >> level.shift & (1 << level.bits) - 1
            if 1 << level.shift == size:
                rights = self._rights({READ: readable, WRITE: writable, USER: user, EXECUTE: executable})
                high = physical >> PSE36_SHIFT & level.leaf_high
                entry = physical >> format_.frame_shift & format_.frame_mask | high | (level.maps or 0) | rights | extra
                old = self._read(level, table, slot)
                if old & format_.present and not self._is_leaf(level, old):
                    raise OptionError(
                        f"{address:#x} has a table of smaller pages: unmap them, or map pages of that size"
                    )
                self._write(level, table, slot, entry)
                return
            entry = self._read(level, table, slot)
            if not entry & format_.present:
                below = self._new_table(format_.levels[format_.levels.index(level) + 1])
                points = format_.present if level.in_registers else format_.points
                entry = below >> format_.frame_shift | points
                self._write(level, table, slot, entry)
            elif self._is_leaf(level, entry):
                raise OptionError(f"{address:#x} lies in a page of {1 << level.shift:#x} bytes: unmap that first")
            table = self._target(entry)

    def _mask(self, rights: Iterable[str]) -> int:
        """Return the bits of some rights."""
        masks = {
            READ: self.format.readable,
            WRITE: self.format.writable,
            USER: self.format.user,
            EXECUTE: self.format.executable | self.format.user_executable,
        }
        return reduce(or_, (masks[right] for right in rights), 0)

    def _rights(self, granted: dict[str, bool]) -> int:
        """Return how an entry grants and denies rights."""
        given = self._mask(right for right, value in granted.items() if value)
        return (given ^ self.format.inverted) & self._mask(granted)

    def unmap(self, address: int) -> int:
        """Unmap the page around an address, of any size; return its size, 0 where there was none."""
        self._check_address(address)
        found = self._find(address)
        if not found:
            return 0
        level, table, slot, _ = found
        self._write(level, table, slot, 0)
        return 1 << level.shift

    def protect(
        self,
        address: int,
        *,
        readable: bool | None = None,
        writable: bool | None = None,
        user: bool | None = None,
        executable: bool | None = None,
    ) -> int:
        """Change rights of the page around an address, those that are not None; return its size.

        Raises
        ------
        OptionError
            Nothing is mapped there.
        """
        self._check_address(address)
        found = self._find(address)
        if not found:
            raise OptionError(f"nothing is mapped at {address:#x}: map it first")
        level, table, slot, entry = found
        asked = {READ: readable, WRITE: writable, USER: user, EXECUTE: executable}
        granted = {right: value for right, value in asked.items() if value is not None}
        self._write(level, table, slot, entry & ~self._mask(granted) | self._rights(granted))
        return 1 << level.shift

    # -- looking -------------------------------------------------------------------------------------------------------

    def entries(self) -> Iterator[TableEntry]:
        """Yield the entries that are present: each table's in order, and what an entry points to after it."""
        return table_entries(self.space, self._memory.read)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that a page can have, the smallest first."""
        return tuple(1 << level.shift for level in reversed(self.format.levels) if level.maps is not None)

    def _check(self, address: int, physical: int, size: int) -> None:
        format_ = self.format
        self._check_address(address)
        if size not in self.sizes:
            raise OptionError(f"{format_.name} has no pages of {size!r} bytes: choose from {self.sizes}")
        if address % size or physical % size:
            raise OptionError(f"{address:#x} and {physical:#x} must be multiples of the page's {size:#x} bytes")
        widest = (
            format_.frame_mask << format_.frame_shift | max(level.leaf_high for level in format_.levels) << PSE36_SHIFT
        )
        if physical & ~widest:
            raise OptionError(f"{physical:#x} does not fit into an entry of {format_.name}")

    def _check_address(self, address: int) -> None:
        format_ = self.format
        top = format_.levels[0]
        if type(address) is not int:
            raise OptionError(f"an address is an int, not {address!r}")
        if format_.tops is None:
            inside = 0 <= address < 1 << top.shift + top.bits
        else:
            inside = 0 <= address < HIGHEST and address >> format_.top_shift in format_.tops
        if not inside:
            raise OptionError(f"{address:#x} is no address that {format_.name} can map")


def table_entries(space: AddressSpace, read: Callable[[int, int], int]) -> Iterator[TableEntry]:
    """Yield the entries of any tables that are present: each table's in order, and what an entry points to after it.

    Parameters
    ----------
    space : AddressSpace
        The tables.
    read : callable
        `read(physical, bytes)`, of the memory that holds them.
    """
    return _entries_of(space, read, 0, space.top, 0)


def _entries_of(
    space: AddressSpace, read: Callable[[int, int], int], n: int, table: int, base: int
) -> Iterator[TableEntry]:
    format_ = space.format
    level, size = format_.levels[n], format_.entry_bytes
    in_memory = not level.in_registers or bool(format_.root_mask)
    for slot in range(1 << level.bits):
        place = table + slot * size
        entry = space.registers[slot] if level.in_registers else read(place, size)
        if not entry & format_.present:
            continue
        leaf = bool((entry ^ format_.inverted) & level.leaf)
        span = 1 << level.shift
        address = base | slot << level.shift
        target = (entry & format_.frame_mask) << format_.frame_shift
        if leaf:
            target = target & -span | (entry & level.leaf_high) << PSE36_SHIFT
        yield TableEntry(
            n, table, slot, place if in_memory else -1, entry, _extended(format_, address), span, target, leaf
        )
        if not leaf and n + 1 < len(format_.levels):
            yield from _entries_of(space, read, n + 1, target, address)


def _extended(format_: PageTableFormat, address: int) -> int:
    """Return an address with the upper bits that it must have."""
    if format_.tops is None or address >> format_.top_shift in format_.tops:
        return address
    return max(format_.tops) << format_.top_shift | address & (1 << format_.top_shift) - 1
