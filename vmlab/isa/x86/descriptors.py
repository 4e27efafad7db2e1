"""Segment and gate descriptors, and the segment register with its hidden part (Intel SDM vol. 3, 3.4.5, 5.8.3 and 6.14).

System descriptors and gates have 8 bytes, and 16 in long mode, where the upper half holds bits 63:32 of the address.
"""

from __future__ import annotations

from dataclasses import dataclass

# A segment descriptor, 8 bytes, as one integer (SDM vol. 3, figure 3-8):
#  63:56 base 31:24 | 55 G | 54 D/B | 53 L | 52 AVL | 51:48 limit 19:16 | 47 P | 46:45 DPL | 44 S | 43:40 type
#  39:16 base 23:0  | 15:0 limit 15:0
# The access byte is bits 47:40. A system descriptor of long mode goes on with base 63:32 in bits 95:64.
PRESENT, SYSTEM_OR_CODE_DATA = 0x80, 0x10
CODE, CONFORMING_OR_DOWN, WRITE_OR_READ, ACCESSED = 0x08, 0x04, 0x02, 0x01

# System types (SDM vol. 3, table 3-2)
TSS16, LDT, TSS16_BUSY, CALL_GATE16, TASK_GATE, INTERRUPT_GATE16, TRAP_GATE16 = 1, 2, 3, 4, 5, 6, 7
TSS32, TSS32_BUSY, CALL_GATE32, INTERRUPT_GATE32, TRAP_GATE32 = 9, 11, 12, 14, 15

TSS64, TSS64_BUSY, CALL_GATE64, INTERRUPT_GATE64, TRAP_GATE64 = (
    TSS32, TSS32_BUSY, CALL_GATE32, INTERRUPT_GATE32, TRAP_GATE32,
)  # fmt: skip
"""What the types of 32 bits mean in long mode, where the others are not allowed."""

WIDE = 0xFFC00000
"""Offsets from here on may be beyond the limit of a segment that translated code takes for a flat one: those of the window in
which a hypervisor lives, and which it takes from its guest's segments."""

RPL = 3
TABLE_INDICATOR = 4


class SegmentRegister:
    """A segment register: the visible selector and the hidden descriptor cache.

    Attributes
    ----------
    selector : int
        What software sees.
    base, limit : int
        Linear base address; last valid offset (bytes, granularity applied).
    access : int
        Bits 47:40 of the descriptor: P, DPL, S, type. 0 makes the register unusable (null selector).
    big : bool
        D/B: 32-bit code or stack, or upper bound 4 GiB of an expand-down segment.
    long : bool
        L: 64-bit code, where long mode is active.
    flat_code, flat_read, flat_write : bool
        True where every offset may be executed (read, written) at linear address = offset, so that checks can be
        left out.
    wide : bool
        True where every offset below `WIDE` may be written so.
    flattened : bool
        True for CS, SS, DS and ES in 64-bit mode, where they are flat whatever the hidden part holds.
    mask : int
        Of the stack pointer: 64 bits where flattened, else as D/B says.
    """

    __slots__ = (
        "access", "base", "big", "flat_code", "flat_read", "flat_write", "flattened", "limit", "long", "mask", "selector",
        "wide",
    )  # fmt: skip

    def __init__(self, selector: int = 0, base: int = 0, limit: int = 0, access: int = 0, *, big: bool = False) -> None:
        self.flattened = False
        self.set(selector, base, limit, access, big=big)

    def set(self, selector: int, base: int, limit: int, access: int, *, big: bool, long: bool = False) -> None:
        """Load all parts at once."""
        self.selector = selector
        self.base = base
        self.limit = limit
        self.access = access
        self.big = big
        self.long = long
        flat = base == 0 and limit == 0xFFFFFFFF and bool(access & PRESENT)
        self.flat_code = flat and bool(access & CODE)
        expand_down = not access & CODE and bool(access & CONFORMING_OR_DOWN)
        readable = not access & CODE or bool(access & WRITE_OR_READ)
        writable = not access & CODE and bool(access & WRITE_OR_READ)
        self.flat_read = flat and readable and not expand_down
        self.flat_write = flat and writable and not expand_down
        self.wide = self.flat_write or (
            base == 0 and limit >= WIDE - 1 and writable and not expand_down and bool(access & PRESENT)
        )
        self.mask = 0xFFFFFFFF if big else 0xFFFF
        if self.flattened:
            self.flat_code = self.flat_read = self.flat_write = self.wide = True
            self.mask = 0xFFFFFFFFFFFFFFFF

    def become(self, selector: int, base: int, limit: int, access: int, *, big: bool, long: bool) -> None:
        """Load all parts at once, where one is another: what follows from them is worked out only then."""
        if (
            self.selector != selector
            or self.base != base
            or self.limit != limit
            or self.access != access
            or self.big != big
            or self.long != long
        ):
            self.set(selector, base, limit, access, big=big, long=long)

    def flatten(self, *, on: bool) -> None:
        """Enter or leave 64-bit mode."""
        self.flattened = on
        self.copy_from(self)

    def copy_from(self, other: SegmentRegister) -> None:
        """Take over all parts of `other`."""
        self.set(other.selector, other.base, other.limit, other.access, big=other.big, long=other.long)

    @property
    def dpl(self) -> int:
        """Descriptor privilege level, 0 to 3."""
        return self.access >> 5 & 3

    @property
    def key(self) -> tuple[int, int, int, int, bool, bool]:
        """All parts, for comparison and saving."""
        return (self.selector, self.base, self.limit, self.access, self.big, self.long)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SegmentRegister) and self.key == other.key

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    def __repr__(self) -> str:
        return f"SegmentRegister({self.selector:#x}, base={self.base:#x}, limit={self.limit:#x}, access={self.access:#x}, big={self.big}, long={self.long})"

    def in_bounds(self, offset: int, size: int) -> bool:
        """Say whether `size` bytes at `offset` lie within the limit (expand-down segments included).

        In a segment of 4 GiB a datum may go on at offset 0: the manual leaves that to the implementation (SDM vol. 3, 5.3).
        """
        last = offset + size - 1
        if not self.access & CODE and self.access & CONFORMING_OR_DOWN:
            return offset > self.limit and last <= (0xFFFFFFFF if self.big else 0xFFFF)
        return last <= self.limit or self.limit == 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A segment or system descriptor as read from a table."""

    raw: int

    @property
    def access(self) -> int:
        """The access byte: P, DPL, S, type."""
        return self.raw >> 40 & 0xFF

    @property
    def base(self) -> int:
        """Linear base address."""
        return self.raw >> 16 & 0xFFFFFF | (self.raw >> 56 & 0xFF) << 24 | self.raw >> 64 << 32 & 0xFFFFFFFF00000000

    @property
    def limit(self) -> int:
        """Last valid offset in bytes."""
        limit = self.raw & 0xFFFF | (self.raw >> 48 & 0xF) << 16
        return limit << 12 | 0xFFF if self.raw >> 55 & 1 else limit

    @property
    def big(self) -> bool:
        """The D/B bit."""
        return bool(self.raw >> 54 & 1)

    @property
    def long(self) -> bool:
        """The L bit of a code segment."""
        return bool(self.raw >> 53 & 1) and self.is_code

    @property
    def present(self) -> bool:
        """The P bit."""
        return bool(self.access & PRESENT)

    @property
    def dpl(self) -> int:
        """Descriptor privilege level."""
        return self.access >> 5 & 3

    @property
    def type(self) -> int:
        """Bits 43:40."""
        return self.access & 0xF

    @property
    def upper_type(self) -> int:
        """Bits 108:104 of a system descriptor of long mode, which must be 0: they lie where a second type would."""
        return self.raw >> 104 & 0x1F

    @property
    def is_segment(self) -> bool:
        """True for code and data, False for system descriptors."""
        return bool(self.access & SYSTEM_OR_CODE_DATA)

    @property
    def is_code(self) -> bool:
        """True for a code segment."""
        return self.is_segment and bool(self.access & CODE)

    @property
    def is_conforming(self) -> bool:
        """True for a conforming code segment."""
        return self.is_code and bool(self.access & CONFORMING_OR_DOWN)

    @property
    def is_readable(self) -> bool:
        """True where data may be read through it."""
        return self.is_segment and (not self.access & CODE or bool(self.access & WRITE_OR_READ))

    @property
    def is_writable(self) -> bool:
        """True for a writable data segment."""
        return self.is_segment and not self.access & CODE and bool(self.access & WRITE_OR_READ)


@dataclass(frozen=True, slots=True)
class Gate:
    """A call, interrupt, trap or task gate (SDM vol. 3, figure 6-2 and 5-8)."""

    raw: int

    @property
    def access(self) -> int:
        """The access byte: P, DPL, S, type."""
        return self.raw >> 40 & 0xFF

    @property
    def type(self) -> int:
        """Bits 43:40."""
        return self.access & 0xF

    @property
    def present(self) -> bool:
        """The P bit."""
        return bool(self.access & PRESENT)

    @property
    def dpl(self) -> int:
        """Privilege from which software may use the gate."""
        return self.access >> 5 & 3

    @property
    def selector(self) -> int:
        """Code segment of the target (TSS of a task gate)."""
        return self.raw >> 16 & 0xFFFF

    @property
    def offset(self) -> int:
        """Entry point; its upper half counts for 32-bit gates alone, and goes on in those of long mode."""
        high = (self.raw >> 48 & 0xFFFF) << 16 if self.type & 8 else 0
        return self.raw & 0xFFFF | high | self.raw >> 64 << 32 & 0xFFFFFFFF00000000

    @property
    def parameters(self) -> int:
        """Parameters that a call gate copies to the inner stack."""
        return self.raw >> 32 & 0x1F

    @property
    def stack(self) -> int:
        """Number of the stack in the interrupt stack table, 1 to 7, that an interrupt gate of long mode names; or 0."""
        return self.raw >> 32 & 7


def encode_descriptor(base: int, limit: int, access: int, *, big: bool = True, long: bool = False) -> int:
    """Pack a descriptor; a limit above 1 MiB - 1 gets page granularity, a base above 4 GiB the 16 bytes of long mode.

    Parameters
    ----------
    base, limit : int
        Linear base; last valid offset in bytes.
    access : int
        The access byte.
    big, long : bool
        The D/B and the L bit.

    Examples
    --------
    >>> hex(encode_descriptor(0, 0xFFFFFFFF, 0x9A))
    '0xcf9a000000ffff'
    """
    granular = limit > 0xFFFFF
    field = limit >> 12 if granular else limit
    flags = granular << 3 | big << 2 | long << 1
    return (
        (base >> 32) << 64
        | (base >> 24 & 0xFF) << 56
        | flags << 52
        | (field >> 16 & 0xF) << 48
        | access << 40
        | (base & 0xFFFFFF) << 16
        | field & 0xFFFF
    )


def encode_gate(selector: int, offset: int, kind: int, dpl: int = 0, stack: int = 0) -> int:
    """Pack a present gate of type `kind` (as `INTERRUPT_GATE32`), with the number of a stack in long mode."""
    access = PRESENT | dpl << 5 | kind
    high = offset >> 32 << 64 | (offset >> 16 & 0xFFFF) << 48
    return high | access << 40 | stack << 32 | selector << 16 | offset & 0xFFFF
