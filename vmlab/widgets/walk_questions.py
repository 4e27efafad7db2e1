"""What the walk theatre asks about: an address in a running system, or in a laboratory whose formats can be changed.

A question knows its controls, takes their values, and answers with a `PageWalk`. It needs no widget.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.isa.x86.faults import Fault
from vmlab.machine.page_format_names import FORMATS, HOST_FORMATS
from vmlab.machine.recording import Recording
from vmlab.machine.walk_faults import WalkFault
from vmlab.views.page_walk import PageWalk, walk
from vmlab.vmm.page_walk import ACCESSES, check_access, runs_as_user
from vmlab.vmm.walk_lab import GUEST_FORMATS, WalkLab, size_of, sizes_of

if TYPE_CHECKING:
    from vmlab.vmm.run import Run
    from vmlab.vmm.system import System

__all__ = ["LabQuestion", "SystemQuestion"]

NONE = "none"
MODES = ("user", "supervisor")

Control = dict[str, Any]


def _choice(name: str, label: str, options: list[str], value: str) -> Control:
    return {"name": name, "label": label, "kind": "choice", "options": options, "value": value}


def read_address(text: object) -> int:
    """Return a number that was typed, as `0x1234`, `1234h` or `4096`; OptionError where it is none."""
    words = str(text).strip().lower().replace("_", "")
    try:
        return int(words[:-1], 16) if words.endswith("h") else int(words, 0)
    except ValueError:
        raise OptionError(f"{text!r} is no address: type one as 0x401000") from None


def read_number(text: object, allowed: range, what: str) -> int:
    """Return a number that was typed; OptionError where it is none of those allowed."""
    try:
        number = int(str(text))
    except ValueError:
        number = -1
    if number not in allowed:
        raise OptionError(f"{text!r} is not {what}: these are {allowed[0]} to {allowed[-1]}")
    return number


class _Question:
    """The access: address, kind, mode."""

    editable = False
    actions: tuple[tuple[str, str, str], ...] = ()

    def __init__(self, address: int, access: str, user: bool | None) -> None:
        check_access(address, access, user)
        self.address, self.access, self.user = address, access, user

    def answer(self) -> PageWalk:
        """Walk."""
        raise NotImplementedError

    def controls(self) -> list[Control]:
        """Return the controls of the access."""
        return [
            {"name": "address", "label": "Address", "kind": "text", "value": f"{self.address:#x}"},
            _choice("access", "Access", list(ACCESSES), self.access),
            _choice("mode", "by", list(MODES), MODES[0] if self.is_user else MODES[1]),
        ]

    @property
    def is_user(self) -> bool:
        """Whether the access is a user's."""
        return self.user is not False

    def set(self, name: str, value: object) -> None:
        """Take the value of a control; OptionError where it is not possible, and nothing has changed then."""
        before = dict(self.__dict__)
        try:
            self._set(name, value)
            self.answer()
        except OptionError:
            self.__dict__.update(before)
            raise

    def _set(self, name: str, value: object) -> None:
        if name == "address":
            self.address = read_address(value)
        elif name == "access":
            self.access = str(value)
        elif name == "mode":
            self.user = value == MODES[0]
        else:
            raise OptionError(f"there is no control {name!r}")

    def act(self, name: str) -> None:
        """Do what a button says."""
        raise OptionError(f"there is no action {name!r}")

    def flip(self, step: int, bit: int) -> None:
        """Change a bit of an entry that the walk uses: in a laboratory only."""
        raise OptionError(f"bit {bit} of entry {step} is the guest's: change tables in vmlab.walk_lab(...)")


class SystemQuestion(_Question):
    """An address of a guest of a running system."""

    def __init__(
        self,
        of: System | Run | Recording,
        address: int,
        access: str,
        user: bool | None,
        guest: int,
    ) -> None:
        super().__init__(address, access, user)
        self.of, self.guest = of, guest

    @property
    def system(self) -> System:
        """The system."""
        holder: Any = self.of
        system: System = getattr(holder, "system", holder)
        return system

    @property
    def is_user(self) -> bool:
        """Whether the access is a user's: if nothing was said, as the guest runs now."""
        return runs_as_user(self.system, self.guest) if self.user is None else self.user

    def answer(self) -> PageWalk:
        """Walk the system's tables."""
        return walk(self.of, self.address, guest=self.guest, access=self.access, user=self.user)

    def controls(self) -> list[Control]:
        """Return the controls of the access, which guest, and of a recording the step at which it stands."""
        names = [str(number) for number in range(len(self.system.guests))]
        more = [_choice("guest", "Guest", names, str(self.guest))] if len(names) > 1 else []
        if isinstance(self.of, Recording):
            label = f"at step (of {self.of.length})"
            more.append({"name": "instant", "label": label, "kind": "text", "value": str(self.of.position)})
        return [*super().controls(), *more]

    def _set(self, name: str, value: object) -> None:
        if name == "guest":
            self.guest = read_number(value, range(len(self.system.guests)), "a guest")
        elif name == "instant" and isinstance(self.of, Recording):
            self.of.seek(read_number(value, range(self.of.length + 1), "a step of this recording"))
        else:
            super()._set(name, value)


class LabQuestion(_Question):
    """An address in a laboratory; another format builds the tables anew."""

    editable = True
    actions = (
        ("make", "Access it", "Make this access: mark the tables, fill the caches and the TLB; then walk again"),
        ("map", "Map it", "Map the page of this address"),
        ("mend", "Mend", "Build the tables anew, and empty the caches"),
    )

    def __init__(self, lab: WalkLab, address: int | None, access: str, user: bool | None) -> None:
        super().__init__(lab.address if address is None else address, access, user)
        self.lab = lab

    def answer(self) -> PageWalk:
        """Walk the laboratory's tables."""
        return walk(self.lab, self.address, access=self.access, user=self.user)

    def controls(self) -> list[Control]:
        """Return the controls of the access, and those of the tables."""
        names = self.lab.names
        controls = super().controls()
        for what, name, allowed in (("guest", names[0], GUEST_FORMATS), ("host", names[1], HOST_FORMATS)):
            controls.append(_choice(f"{what}_format", what.capitalize(), [NONE, *allowed], name or NONE))
            if name:
                size = self.lab.guest_page if what == "guest" else self.lab.host_page
                sizes = sizes_of(name)
                now = next(each for each in sizes if _bytes(each) == size)
                controls.append(_choice(f"{what}_page", "pages", sizes, now))
        return [*controls, {"name": "caches", "label": "caches", "kind": "check", "value": self.lab.caches is not None}]

    def _set(self, name: str, value: object) -> None:
        lab = self.lab
        formats = {"guest_format": lab.names[0], "host_format": lab.names[1]}
        rest = {"guest_page": lab.guest_page, "host_page": lab.host_page, "caches": lab.caches is not None}
        if name in formats:
            formats[name] = None if value == NONE else str(value)
        elif name == "caches":
            rest["caches"] = bool(value)
        elif name in rest:
            rest[name] = size_of(value, (lab.names[0] if name == "guest_page" else lab.names[1]) or "")
        else:
            super()._set(name, value)
            return
        self._rebuild(formats, rest)

    def _rebuild(self, formats: dict[str, str | None], rest: dict[str, Any]) -> None:
        guest, host = formats["guest_format"], formats["host_format"]
        for name, what in ((guest, "guest_page"), (host, "host_page")):
            sizes = [_bytes(size) for size in sizes_of(name)] if name in FORMATS else []
            if sizes and rest[what] not in sizes:
                rest[what] = sizes[0]
        old = self.lab
        self.lab = WalkLab(guest, host, **rest)
        if self.address == old.address or (guest, host) != old.names:
            self.address = self.lab.address

    def act(self, name: str) -> None:
        """Make the access, map its page, or build the tables anew."""
        if name == "make":
            with suppress(Fault, WalkFault):  # what has been marked before a fault stays so, as on a processor
                self.lab.access(self.address, self.access, user=self.is_user)
        elif name == "map":
            self.lab.map(self.address)
        elif name == "mend":
            names = self.lab.names
            rest = {"guest_page": self.lab.guest_page, "host_page": self.lab.host_page}
            address = self.address
            self._rebuild(
                {"guest_format": names[0], "host_format": names[1]}, {**rest, "caches": self.lab.caches is not None}
            )
            self.address = address
        else:
            super().act(name)

    def flip(self, step: int, bit: int) -> None:
        """Change a bit of the entry that a step of the walk has read."""
        steps = self.answer().steps
        if not 0 <= step < len(steps) or not 0 <= bit < 8 * steps[step].entry_bytes:
            raise OptionError(f"there is no bit {bit} of entry {step} in this walk")
        used = steps[step]
        if used.served == "register":
            tables = self.lab.guest if used.dimension == "guest" else self.lab.host
            assert tables
            tables.registers[used.slot] ^= 1 << bit
            return
        address = used.address
        if used.served in ("cache", "nested TLB") and used.dimension == "guest" and self.lab.host:
            raise OptionError("this entry came from a cache: mend, or walk without caches, to change it in memory")
        self.lab.memory.write(address, used.entry_bytes, self.lab.memory.read(address, used.entry_bytes) ^ 1 << bit)


def _bytes(size: str) -> int:
    """Return the bytes of a page by its name.

    >>> _bytes("2 MiB")
    2097152
    """
    number, unit = size.split()
    return int(number) << {"KiB": 10, "MiB": 20, "GiB": 30}[unit]
