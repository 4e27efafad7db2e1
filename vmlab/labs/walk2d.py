"""Exercise: write the page walker of a processor that virtualizes, in two dimensions, and walk random tables by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.labs.exercise import Exercise, Verdict
from vmlab.labs.random_tables import DENIED, HOST_PAGE, HOST_TABLE, MISSING, RandomTables
from vmlab.labs.student_code import Endless, call, shown

if TYPE_CHECKING:
    import random

    from vmlab.labs.random_tables import Access
    from vmlab.machine.memory import PhysicalMemory
    from vmlab.machine.nested_walk import NestedStep
    from vmlab.machine.paging import PageTableFormat

__all__ = ["TableMemory", "Walk2d"]

PAIRS = (
    ("4-level", "npt"), ("4-level", "ept"), ("ia32", "ept"), ("5-level", "ept"), ("4-level", "ept-5"), ("ia32", "npt"),
    ("5-level", "ept-5"),
)  # fmt: skip
SIZES = {12: "4 KiB", 21: "2 MiB", 30: "1 GiB"}
MOST_READS = 500

QUESTION = """\
Write the page walk of a processor that runs a guest in {guest.name} over {host.name}.

walk2d(memory, guest_root, host_root, address, is_write) returns
    an int: the host-physical address to which the guest's linear address leads;
    or ('page fault', error_code): the guest's own fault;
    or ({fault!r}, guest_physical): the host's, with the guest-physical address that it refused.

memory.read(host_physical, size) is the only way to see an entry. Two things are judged: the result, and which
entries were read in which order. They are the processor's, without a TLB and without any cache.

{guest_table}

{host_table}

An entry that denies writing denies it to all below. Rights count once a walk has reached its page, not before;
where there is no page, they do not matter. Accesses are the supervisor's, with CR0.WP set. All that is there may
be read, and the host denies writing to none of the guest's tables. The error code: bit 0 is 1 where the page was
there and the right was not, bit 1 is 1 for a write. Nothing is marked accessed or dirty.

print(exercise.skeleton) is a beginning. Your tables: guest_root {guest_root:#x}, host_root {host_root:#x}.
exercise.arguments(n) are the arguments for access n, from 0 (a read of {address:#x}) to {last}:
try walk2d(*exercise.arguments(0)). exercise.check(walk2d) judges them all.
"""

SKELETON = '''\
def walk_host(memory, host_root, guest_physical, is_write):
    """One dimension: the host-physical address of a guest-physical one, or the host's fault."""
    table = host_root
    for shift in {host_shifts}:
        slot = guest_physical >> shift & 511
        entry = memory.read(table + 8 * slot, 8)
        # Is anything there? Is it one table more, or a page already? What does it deny?
        table = entry & 0x000FFFFFFFFFF000
    return table | guest_physical & 0xFFF


def walk2d(memory, guest_root, host_root, address, is_write):
    """Two: each table of the guest, and the page at the end, is found through the host's tables."""
    # guest_root is a guest-physical address, and so is what an entry of the guest leads to.
    return ...
'''


class TableMemory:
    """The memory with the tables, as `walk2d` may see it: each reference is written down.

    Attributes
    ----------
    references : list of (int, int)
        Address and bytes of each.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self.references: list[tuple[int, int]] = []

    def read(self, address: int, size: int) -> int:
        """Read a little-endian integer of 4 or 8 bytes.

        Raises
        ------
        OptionError
            There is no such entry.
        """
        end = self._memory.size
        if type(size) is not int or size not in (4, 8):
            raise OptionError(f"an entry has 4 or 8 bytes, not {shown(size)}")
        if type(address) is not int or not 0 <= address <= end - size:
            raise OptionError(f"there is no entry at {shown(address)}: the host's memory ends at {end:#x}")
        self.references.append((address, size))
        if len(self.references) > MOST_READS:
            raise Endless
        return self._memory.read(address, size)

    def __repr__(self) -> str:
        return f"<host-physical memory, {len(self.references)} references>"


class Walk2d(Exercise):
    """Random tables of a seeded pair of formats."""

    name = "walk2d"

    def draw(self, chance: random.Random) -> None:
        """Draw formats, tables and accesses."""
        guest, host = chance.choice(PAIRS)
        self._tables = RandomTables(guest, host, chance)
        while not self._tables.is_varied:
            self._tables = RandomTables(guest, host, chance)
        self._untouched = bytes(self._tables.memory.data)
        self._sizes = {
            "guest": self._tables.guest.format.entry_bytes,
            "host": self._tables.host.format.entry_bytes,
        }
        formats = {"guest": self._tables.guest.format, "host": self._tables.host.format}
        accesses = self._tables.accesses
        faults = [access.result for access in accesses if access.ending in (HOST_PAGE, HOST_TABLE)]
        self.question = QUESTION.format(
            **formats,
            fault=next(fault[0] for fault in faults if isinstance(fault, tuple)),
            guest_table=_layout(formats["guest"], "guest", "guest_root (CR3)"),
            host_table=_layout(formats["host"], "host", "host_root"),
            guest_root=self._tables.guest.root,
            host_root=self._tables.host.root,
            address=accesses[0].address,
            last=len(accesses) - 1,
        )
        self.skeleton = SKELETON.format(host_shifts=tuple(level.shift for level in formats["host"].levels))

    def arguments(self, n: int) -> tuple[TableMemory, int, int, int, bool]:
        """Return the arguments for access `n`, with a memory that counts from 0.

        Raises
        ------
        OptionError
            There is no such access.
        """
        accesses = self._tables.accesses
        if type(n) is not int or not 0 <= n < len(accesses):
            raise OptionError(f"accesses are numbered from 0 to {len(accesses) - 1}, not {n!r}")
        tables = self._tables
        memory = TableMemory(tables.memory)
        return memory, tables.guest.root, tables.host.root, accesses[n].address, accesses[n].is_write

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - a function
        """Let the function walk for each access, up to the first that goes wrong."""
        if not callable(answer):
            return Verdict(correct=False, message=f"Give the function itself, not {shown(answer)}.")
        total = 0
        for n, access in enumerate(self._tables.accesses):
            memory, *others = self.arguments(n)
            returned, complaint = call(answer, memory, *others)
            if self._tables.memory.data != self._untouched:
                self._tables.memory.data[:] = self._untouched
                complaint = "it changes the memory; a walk only reads."
            kind = "write to" if access.is_write else "read of"
            what = f"Access {n}, a {kind} {access.address:#x}: "
            if complaint:
                return Verdict(correct=False, message=what + complaint)
            if not _is_result(returned):
                form = "an int, or a pair of the fault's name and a number"
                return Verdict(correct=False, message=f"{what}it returns {shown(returned)}. Return {form}.")
            verdict = self._compare(what, access, returned, memory.references)
            if verdict:
                return verdict
            total += len(access.steps)
        longest = max(len(access.steps) for access in self._tables.accesses)
        return Verdict(
            correct=True,
            message=f"{n + 1} accesses, {total} references, up to {longest} for one of them: your walker reads what the "
            "processor reads, and faults where it faults.",
        )

    def _compare(self, what: str, access: Access, returned: object, made: list[tuple[int, int]]) -> Verdict | None:
        """Return a hint where a walk is not the processor's."""
        right = [(step.address, self._sizes[step.dimension]) for step in access.steps]
        if made == right and returned == access.result:
            return None
        if made == right:
            return self.hint(
                f"{what}you read the right entries, but {shown(returned)} is not what they say.",
                f"{what}you read the right entries, but {shown(returned)} is not what they say: {_ending_hint(access)}",
            )
        same = next((n for n, pair in enumerate(zip(made, right, strict=False)) if pair[0] != pair[1]), None)
        if same is None and len(made) < len(right):
            short = f"{what}you stop after reference {len(made)}, with {shown(returned)}; the processor goes on."
            return self.hint(short, f"{short} Next it reads an entry of {_place(access.steps[len(made)])}.")
        if same is None:
            last = f"{what}the processor knows the result after reference {len(right)}; you go on reading"
            return self.hint(f"{last}.", f"{last}, though {_ending_hint(access)}")
        first = f"{what}reference {same + 1} is to another entry than the processor's, or of another size."
        return self.hint(
            f"{first} At what time does it read which table?",
            f"{first} There it reads an entry of {_place(access.steps[same])}.",
        )


def _is_result(value: object) -> bool:
    if type(value) is tuple:
        return len(value) == 2 and type(value[0]) is str and type(value[1]) is int
    return type(value) is int


def _place(step: NestedStep) -> str:
    """Say where in the grid a step is."""
    if step.dimension == "guest":
        return f"the guest's {step.level}"
    return f"the host's {step.level}, in row {step.guest_level + 1} of the grid"


def _ending_hint(access: Access) -> str:
    """Say what kind of end an access has."""
    if not access.ending:
        return "it has reached a page that may be used so."
    if isinstance(access.result, tuple) and access.ending in (MISSING, DENIED):
        return "the guest's tables refuse this access: which bits of the error code?"
    return "the host's tables refuse it: which guest-physical address were they walked for?"


def _bits(mask: int) -> str:
    """Name the bits of a mask."""
    high, low = mask.bit_length() - 1, (mask & -mask).bit_length() - 1
    return f"bit {low}" if high == low else f"bits {high}:{low}"


def _layout(format_: PageTableFormat, who: str, root: str) -> str:
    """Say in words what a format is, from its data."""
    many = format_.present & format_.present - 1
    lines = [
        f"The {who}: {format_.name}. {root} holds the {who}-physical address of the root table.",
        f"An entry has {format_.entry_bytes} bytes:",
        f"    {_bits(format_.frame_mask)}: the address of the next table, or of the page",
        f"    {'any of ' * bool(many)}{_bits(format_.present)}: something is there",
        f"    {_bits(format_.writable)}: it may be written",
        "    table                               index       an entry leads to",
    ]
    for n, level in enumerate(format_.levels):
        index = f"{level.shift + level.bits - 1}:{level.shift}"
        below = format_.levels[n + 1].name if n + 1 < len(format_.levels) else ""
        page = f"a page of {SIZES[level.shift]}" if level.leaf else ""
        leads = f"{page} where {_bits(level.leaf)} is 1, else: {below}" if below and page else page or below
        lines.append(f"    {level.name:<35} {index:<11} {leads}")
    return "\n".join(lines)
