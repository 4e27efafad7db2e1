"""When: the conditions for which a recording can be searched, as `recording.find(when.register("ebx", 5))`.

A condition knows two things. *Exactly*: whether it came about in one step, from what the system was before and after it.
*Quickly*: in which stretches of a run that is possible, so that most of a long run is passed at the engine's speed, or not
run at all: by the events of the recording, by the pages that a checkpoint says were written, by a watch on one page of
memory, by a mark at one instruction.

A function is a condition, too: `recording.find(lambda system: "panic" in system.guests[0].console)` finds the step at which
it becomes true. It is called after each step, so this is slow: about a minute for a few million steps.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.isa.x86.registers import (
    CONTROL_NAMES,
    FLAG_BITS,
    GENERAL_NAMES,
    NAMES_8_LEGACY,
    SEGMENT_NAMES,
)
from vmlab.machine.event_log import RECORDED, check_kind

if TYPE_CHECKING:
    from vmlab.machine.cpu_state import CpuState

__all__ = ["Condition", "becomes", "control", "event", "executes", "register", "writes"]

TABLE_NAMES = ("gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit", "efer")
CONTROLS = ("cr0", "cr2", "cr3", "cr4")
LARGEST_WRITE = 4096


class Condition:
    """Base of all conditions; see the functions of this module."""

    def describe(self) -> str:
        """Say what is searched for."""
        raise NotImplementedError


@dataclass(frozen=True)
class RegisterIs(Condition):
    """A register gets a value, or another value."""

    name: str
    value: int | None
    cpu: int
    read: Callable[[CpuState], int]

    def describe(self) -> str:
        return f"{self.name} changes" if self.value is None else f"{self.name} becomes {self.value:#x}"

    def fits(self, old: int, new: int) -> bool:
        """Say whether it came about between two values."""
        return old != new and (self.value is None or new == self.value)


@dataclass(frozen=True)
class Writes(Condition):
    """Memory is written."""

    address: int | str
    size: int
    value: int | None
    physical: bool

    def describe(self) -> str:
        place = self.address if isinstance(self.address, str) else f"{self.address:#x}"
        what = "a write" if self.value is None else f"a write of {self.value:#x}"
        return f"{what} to the {self.size} bytes at {'physical ' if self.physical else ''}{place}"


@dataclass(frozen=True)
class Executes(Condition):
    """An instruction is about to be executed."""

    address: int | str

    def describe(self) -> str:
        return f"the instruction at {self.address if isinstance(self.address, str) else f'{self.address:#x}'}"


@dataclass(frozen=True)
class Happens(Condition):
    """An event of the recording."""

    kind: str
    fields: tuple[tuple[str, Any], ...]

    def describe(self) -> str:
        return f"{self.kind} event" + "".join(f", {name}={value!r}" for name, value in self.fields)


@dataclass(frozen=True)
class Becomes(Condition):
    """A function of the system becomes true."""

    predicate: Callable[[Any], object]

    def describe(self) -> str:
        return f"{getattr(self.predicate, '__name__', 'a predicate')} becomes true"


# -- registers -----------------------------------------------------------------------------------------------------------


def _general(number: int, shift: int, mask: int) -> Callable[[CpuState], int]:
    return lambda state: state.registers[number] >> shift & mask


def _flag(bit: int) -> Callable[[CpuState], int]:
    return lambda state: int(bool(state.flags & bit))


def _selector(number: int) -> Callable[[CpuState], int]:
    return lambda state: state.segments[number].selector


def _readers() -> dict[str, Callable[[CpuState], int]]:
    found: dict[str, Callable[[CpuState], int]] = {}
    for bits, names in GENERAL_NAMES.items():
        found |= {name: _general(number, 0, (1 << bits) - 1) for number, name in enumerate(names[:16])}
    found |= {name: _general(number & 3, number >> 2 << 3, 0xFF) for number, name in enumerate(NAMES_8_LEGACY)}
    found |= {name: attrgetter("ip") for name in ("eip", "rip")} | {
        name: attrgetter("flags") for name in ("eflags", "rflags")
    }
    found |= {name.lower(): _flag(bit) for name, bit in FLAG_BITS.items()}
    found |= {name: _selector(number) for number, name in enumerate(SEGMENT_NAMES)}
    found |= {name: attrgetter(name) for name in (*CONTROLS, *TABLE_NAMES)}
    return found | {name: attrgetter(f"{name}.selector") for name in ("ldtr", "tr")}


READERS = _readers()
"""How a register, or a flag, is read from a state, by its name in lower case."""

WIDTHS = {
    **{name: bits for bits, names in GENERAL_NAMES.items() for name in names[:16]},
    **dict.fromkeys(NAMES_8_LEGACY, 8),
    **dict.fromkeys((name.lower() for name in FLAG_BITS), 1),
    **dict.fromkeys((*SEGMENT_NAMES, "ldtr", "tr"), 16),
}
"""Bits of those that have fewer than 64."""


def register(name: str, value: int | None = None, *, cpu: int = 0) -> Condition:
    """When a register of the guest gets a value.

    Parameters
    ----------
    name : str
        As `"ebx"`, `"al"`, `"rip"`, `"eflags"`, a flag as `"zf"`, `"cs"` (the selector), `"cr3"`, `"gdtr_base"`.
    value : int, optional
        The value, that it had not before; any other value than before if not given.
    cpu : int
        Of which of the guest's processors.

    Raises
    ------
    OptionError
        There is no such register.

    Examples
    --------
    >>> register("ebx", 5).describe()
    'ebx becomes 0x5'
    """
    known = str(name).lower()
    if known not in READERS:
        close = difflib.get_close_matches(known, READERS, 3)
        hint = f": did you mean {' or '.join(close)}?" if close else f": choose one of {', '.join(READERS)}"
        raise OptionError(f"there is no register {name!r}{hint}")
    if value is not None and (type(value) is not int or value < 0):
        raise OptionError(f"the value of a register is an int, not negative, and not {value!r}")
    most = (1 << WIDTHS.get(known, 64)) - 1
    if value is not None and value > most:
        raise OptionError(f"{known} holds at most {most:#x}, and never {value:#x}")
    if type(cpu) is not int or cpu < 0:
        raise OptionError(f"a processor is named by its number, from 0 on, not by {cpu!r}")
    return RegisterIs(known, value, cpu, READERS[known])


# -- memory and code -----------------------------------------------------------------------------------------------------


def _check_address(address: object) -> int | str:
    if isinstance(address, str) or (type(address) is int and 0 <= address < 1 << 64):
        return address
    raise OptionError(f"an address is an int, not negative, or the name of a symbol, not {address!r}")


def writes(address: int | str, size: int = 4, value: int | None = None, *, physical: bool = False) -> Condition:
    """When memory is written.

    Parameters
    ----------
    address : int or str
        Guest-virtual address, or a symbol of the image. It is translated once, by the page tables that the guest has at the
        cursor; from then on it is that place in memory, whoever writes there through whatever address.
    size : int
        Bytes, 1 to 4096; a write of any of them counts, of the same value too.
    value : int, optional
        Only a write after which they hold this little-endian number.
    physical : bool
        The address is guest-physical.

    Raises
    ------
    OptionError
        No such address or size.

    Examples
    --------
    >>> writes(0x104000, 4, physical=True).describe()
    'a write to the 4 bytes at physical 0x104000'
    """
    if type(size) is not int or not 1 <= size <= LARGEST_WRITE:
        raise OptionError(f"a place in memory has 1 to {LARGEST_WRITE} bytes, not {size!r}")
    if value is not None and (type(value) is not int or not 0 <= value < 1 << (8 * size)):
        raise OptionError(f"{size} bytes hold an int from 0 to {(1 << 8 * size) - 1:#x}, not {value!r}")
    return Writes(_check_address(address), size, value, bool(physical))


def executes(address: int | str) -> Condition:
    """When the instruction at a linear address (or a symbol) is about to be executed: a breakpoint.

    Examples
    --------
    >>> executes("main").describe()
    'the instruction at main'
    """
    return Executes(_check_address(address))


# -- events --------------------------------------------------------------------------------------------------------------


def event(kind: str, **fields: object) -> Condition:
    """When an event of a kind happens, with these fields: `event("trap", vector=14)`, `event("port", port=0x3F8, write=True)`.

    Raises
    ------
    OptionError
        No events of this kind are recorded, or they have no such field.

    Examples
    --------
    >>> event("trap", vector=14).describe()
    'trap event, vector=14'
    """
    check_kind(kind)
    names = RECORDED[kind]
    for name in fields:
        if name not in names:
            raise OptionError(f"a {kind} event has no {name!r}: choose from {', '.join(names)}")
    return Happens(kind, tuple(fields.items()))


def control(name: str) -> Condition:
    """When a control register of the guest changes: `control("cr3")` is the next address space.

    Raises
    ------
    OptionError
        It is none whose changes are events.
    """
    if name not in CONTROL_NAMES or name not in ("cr0", "cr3", "cr4"):
        raise OptionError(f"changes of {name!r} are no events: choose one of cr0, cr3, cr4, or use register()")
    return event("control", register=name)


def becomes(predicate: Callable[[Any], object]) -> Condition:
    """When a function of the system becomes true; a function alone says the same.

    Raises
    ------
    OptionError
        It is no function.
    """
    if not callable(predicate):
        raise OptionError(f"a predicate is a function of the system, not {predicate!r}")
    return Becomes(predicate)
