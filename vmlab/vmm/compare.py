"""The same guest under several techniques, side by side: what it saw, compared bit for bit.

Fidelity (Popek and Goldberg, 1974) is judged at the end of the runs: console, screen, outcome, retired instructions,
registers and every byte of guest-physical memory. Where a guest could tell the difference, two more runs go in lockstep to
the first instruction at which it could: see `vmlab.vmm.divergence_finder`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.image import Image
from vmlab.machine.memory import PAGE_SIZE
from vmlab.vmm.divergence_finder import EVERY, find_divergence
from vmlab.vmm.run import DEFAULT_LIMIT, Run, run
from vmlab.vmm.techniques import build, find_technique

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.vmm.divergence import Divergence
    from vmlab.vmm.guest import Guest

__all__ = ["Comparison", "compare", "guest_differences", "options_of"]

FOR_SOME = ("memory_virtualization", "host_cpu", "ept_pages")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs of one guest; the first is the measure.

    Attributes
    ----------
    runs : tuple of Run
        One each technique, in the order asked for.
    options : tuple of (str, dict)
        Technique and options of each, to run it again; where they are not known, no `divergence` can be found.
    """

    runs: tuple[Run, ...]
    options: tuple[tuple[str, dict[str, Any]], ...] = ()
    _found: dict[tuple[int, int], Divergence | None] = field(default_factory=dict, repr=False, compare=False)

    def differences(self, index: int) -> list[str]:
        """Return what the guest could tell apart between run `index` and the first, one line each.

        Of a port of the guest, whose kernel is another: what its programs did, and how it ended.
        """
        first, other = self.runs[0].guests[0], self.runs[index].guests[0]
        if self.is_port(index):
            return [
                f"{name}: {getattr(first, name)!r} against {getattr(other, name)!r}"
                for name in ("outcome", "status", "console")
                if getattr(first, name) != getattr(other, name)
            ]
        return guest_differences(first, other)

    def is_port(self, index: int) -> bool:
        """Say whether run `index` is that of another image than the first: of a ported kernel."""
        return self.runs[index].guests[0].image.digest != self.runs[0].guests[0].image.digest

    @property
    def faithful(self) -> bool:
        """True where no technique changed anything that the guest can see."""
        return not any(self.differences(index) for index in range(1, len(self.runs)))

    @property
    def names(self) -> list[str]:
        """Names of the runs: the technique, with how it virtualized memory where it is there more than once."""
        strategies = {
            run.under: {each.memory_virtualization for each in self.runs if each.under == run.under}
            for run in self.runs
        }
        return [
            f"{each.under}/{each.memory_virtualization}"
            if strategies[each.under] - {each.memory_virtualization}
            else each.under
            for each in self.runs
        ]

    def divergence(self, under: str | None = None, *, every: int = EVERY) -> Divergence | None:
        """Find the first instruction at which the guest could tell a technique from the first one.

        Parameters
        ----------
        under : str, optional
            One of `names`; if not given, the first that is not faithful.
        every : int
            The two are compared after so many instructions, and then step by step where they differ: a difference that
            comes and goes in between is found by a smaller number alone, 1 at last, in more time.

        Returns
        -------
        Divergence or None
            None where the guest saw no difference. It may be there though the runs end alike: see `every`.

        Raises
        ------
        OptionError
            There is no such run, `every` is no positive int, or the options are not known.

        Examples
        --------
        >>> import vmlab
        >>> found = vmlab.compare(vmlab.guests.load("popf")).divergence()
        >>> found.text, found.symbol, found.privilege
        ('pushf', 'print_if+0xa', 'sensitive but unprivileged')
        """
        names = self.names
        if under is None:
            others = [index for index in range(1, len(names)) if not self.is_port(index)]
            index = next((index for index in others if self.differences(index)), 0)
            if not index:
                return None
        elif under in names[1:]:
            index = names.index(under, 1)
        else:
            choice = " or ".join(map(repr, names[1:]))
            raise OptionError(f"there is no run under {under!r} to compare with {names[0]}: choose {choice}")
        if self.is_port(index):
            raise OptionError(f"under {names[index]} a port ran, whose instructions are others: compare its console")
        if (index, every) not in self._found:
            if not self.options:
                raise OptionError("these runs cannot be run again: compare by vmlab.compare(image, under=[...])")
            image = self.runs[0].guests[0].image
            systems = [build(image, name, **options) for name, options in (self.options[0], self.options[index])]
            found = find_divergence(systems, (names[0], names[index]), every=every)
            self._found[index, every] = found
        return self._found[index, every]

    def rows(self) -> list[dict[str, Any]]:
        """Return a table: one row each technique."""
        first, names = self.runs[0], self.names
        return [
            {
                "under": names[index],
                "outcome": each.outcome,
                "same console": each.console == first.console if index else None,
                "same as first": not self.differences(index) if index else None,
                "instructions": each.instructions,
                "exits": each.exits.total(),
                "cycles": each.cycles,
                "slow-down": round(each.cycles / first.cycles, 2),
            }
            for index, each in enumerate(self.runs)
        ]

    def describe(self) -> str:
        """Return the table and the verdict as text."""
        lines = [f"{'under':<20}{'outcome':<14}{'instructions':>13}{'exits':>8}{'cycles':>13}{'slow-down':>11}"]
        lines += [
            f"{row['under']:<20}{row['outcome']:<14}{row['instructions']:>13,}{row['exits']:>8,}"
            f"{row['cycles']:>13,}{row['slow-down']:>10.2f}x"
            for row in self.rows()
        ]
        names = self.names
        for index in range(1, len(self.runs)):
            found = self.differences(index)
            same = (
                "console and end are the same (of the guest's port)"
                if self.is_port(index)
                else "the guest cannot tell the difference"
            )
            verdict = f"{len(found)} differences" if found else same
            lines.append(f"{names[0]} and {names[index]}: {verdict}")
            lines += [f"  {line}" for line in found[:8]]
            if found and self.options and not self.is_port(index) and (parting := self.divergence(names[index])):
                lines += parting.describe().splitlines()
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


def compare(
    image: Image,
    under: Sequence[str] = ("native", "trap-and-emulate"),
    *,
    ported: Image | None = None,
    **options: Any,  # noqa: ANN401 - as of run()
) -> Comparison:
    """Run a guest under several techniques and compare what it saw.

    Parameters
    ----------
    image : Image
        What the guest boots.
    under : sequence of str
        Techniques; the first is the measure. `"vt-x/shadow"` and `"vt-x/nested"` say how memory is virtualized, too.
    ported : Image, optional
        The guest's port, which runs in its place under `"paravirtualization"`: there console and end are compared alone.
    **options
        As of `vmlab.run`; `memory_virtualization`, `host_cpu`, `ept_pages` and `shadow_policy` are for those that can have them.
        With `until`, the first run says after how many instructions all are compared.

    Raises
    ------
    OptionError
        Fewer than two techniques, or several images.
    """
    if not isinstance(image, Image):
        raise OptionError(
            f"a comparison is of one Image, as of vmlab.load('file') or vmlab.assemble('source'), not {type(image).__name__}"
        )
    if not isinstance(under, (list, tuple)) or len(under) < 2:
        raise OptionError(
            f"a comparison needs at least two techniques, as ['native', 'trap-and-emulate'], not {under!r}"
        )
    if options.get("until") is not None:
        name, own = options_of(str(under[0]), options)
        options["max_instructions"] = max(1, run(image, name, **own).instructions)
    options.pop("until", None)
    wanted = tuple(options_of(str(each), options) for each in under)
    runs = tuple(
        run(ported if ported is not None and find_technique(name).needs_port else image, name, **own)
        for name, own in wanted
    )
    return Comparison(runs, wanted)


def guest_differences(first: Guest, other: Guest) -> list[str]:
    """Return what two guests could tell apart, one line each: how they ended, console, screen, time, registers, memory."""
    found = [
        f"{name}: {getattr(first, name)!r} against {getattr(other, name)!r}"
        for name in ("outcome", "status", "console", "screen", "instructions")
        if getattr(first, name) != getattr(other, name)
    ]
    registers, others = first.vcpu.visible(), other.vcpu.visible()
    found += [
        f"{name}: {value:#x} against {others[name]:#x}" for name, value in registers.items() if value != others[name]
    ]
    size = first.memory.size
    left, right = first.memory.read_bytes(0, size), other.memory.read_bytes(0, size)
    pages = [at for at in range(0, size, PAGE_SIZE) if left[at : at + PAGE_SIZE] != right[at : at + PAGE_SIZE]]
    places = [n for at in pages for n in range(at, at + PAGE_SIZE) if left[n] != right[n]]
    if places:
        place = places[0]
        found.append(
            f"memory: {len(places)} bytes differ, the first at {place:#x}: "
            f"{left[place]:#04x} against {right[place]:#04x}"
        )
    return found


def options_of(under: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a technique, and those of the options that it can have."""
    name, _, strategy = under.partition("/")
    able = find_technique(name).memory_virtualizations
    own = {key: value for key, value in options.items() if len(able) > 1 or key not in FOR_SOME}
    if strategy:
        own["memory_virtualization"] = strategy
    if own.get("memory_virtualization", able[0]) != "shadow":
        own.pop("shadow_policy", None)
    return name, {"max_instructions": DEFAULT_LIMIT, **own}
