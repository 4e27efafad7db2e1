"""The memory of a computer as a map: who owns which frame, drawn from the running system.

Each cell of the map is a frame, or as many as are needed for the map to fit; a cell of several frames shows the rarest
kind in it. Colour says the kind, and so does the letter: `A` memory of the first guest, `a` what its user mode can reach, `#`
its page tables, `S` shadow tables, `N` nested tables, `H` the hypervisor, `=` shared, `·` nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.views.layers import guest_names
from vmlab.views.theme import Mode, colours_of, template
from vmlab.vmm.frame_map import KINDS, FrameRange, frame_map
from vmlab.vmm.system import System

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from vmlab.machine.recording import Recording
    from vmlab.vmm.run import Run

__all__ = ["MemoryMap", "memory_map"]

ACROSS = 64
MOST_ROWS = 48
CELL = 13  # pixels
GUEST_ROLES = ("user", "kernel", "inject", "switch")
ROLES = {
    "nobody": "neutral",
    "host": "vmm",
    "free": "vmm",
    "shadow": "shadow",
    "nested": "hardware",
    "shared": "emulate",
}
LETTERS = {"nobody": "·", "host": "H", "free": "-", "shadow": "S", "nested": "N", "tables": "#", "shared": "="}
SHARES = {"nobody": 0.06, "free": 0.1, "memory": 0.2, "mapped": 0.5, "tables": 0.95, "host": 0.55, "shadow": 0.9, "nested": 0.8, "shared": 0.9}  # fmt: skip
STRONG = 0.8
"""A fill so strong takes letters in the colour of the page."""
RARE = ("shared", "tables", "shadow", "nested", "host", "mapped", "free", "memory", "nobody")
"""What a cell of several frames shows first."""


class MemoryMap:
    """The map of a system's memory at an instant.

    Attributes
    ----------
    ranges : list of FrameRange
        Neighbouring frames of one owner and kind.
    names : list of str
        The guests.
    title : str
        What runs.
    """

    def __init__(self, ranges: list[FrameRange], names: list[str], title: str) -> None:
        self.ranges, self.names, self.title = ranges, names, title

    def _whose(self, range_: FrameRange) -> str:
        return ", ".join(self.names[guest] for guest in range_.guests)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of frames by kind and guest."""
        found: dict[tuple[str, str], int] = {}
        for each in self.ranges:
            key = each.kind, self._whose(each)
            found[key] = found.get(key, 0) + each.count
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return the ranges as rows of a table."""
        return [
            {
                "from": f"{each.first << 12:#x}",
                "to": f"{(each.first + each.count << 12) - 1:#x}",
                "frames": each.count,
                "owner": self._whose(each) or ("hypervisor" if each.kind in ("host", "free") else ""),
                "what": KINDS[each.kind],
                "guest-physical": "" if each.guest_page is None else f"{each.guest_page << 12:#x}",
            }
            for each in self.ranges
        ]

    def describe(self) -> str:
        """Say in words who owns what."""
        total = sum(each.count for each in self.ranges)
        lines = [f"{self.title}: {total:,} frames of 4 KiB"]
        for (kind, whose), count in sorted(self.counts().items(), key=lambda item: -item[1]):
            lines.append(f"{count:>8,}  {KINDS[kind]}{f' ({whose})' if whose else ''}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()

    def cells(self) -> tuple[int, list[FrameRange]]:
        """Return how many frames a cell of the map stands for, and what each cell shows."""
        frames = [each for each in self.ranges for _ in range(each.count)]
        unit = 1
        while len(frames) > unit * ACROSS * MOST_ROWS:
            unit *= 2
        parts = (frames[n : n + unit] for n in range(0, len(frames), unit))
        return unit, [min(part, key=lambda each: RARE.index(each.kind)) for part in parts]

    def figure(self, mode: str = "light") -> go.Figure:
        """Draw the map.

        Parameters
        ----------
        mode : {"light", "dark"}
            Colours.

        Raises
        ------
        OptionError
            There is no such mode.
        """
        import plotly.graph_objects as go

        colours = colours_of(mode)
        unit, cells = self.cells()
        figure = go.Figure()
        for (kind, guests), places in self._groups(cells).items():
            whose = ", ".join(self.names[guest] for guest in guests)
            figure.add_trace(
                go.Scatter(
                    x=[place % ACROSS for place in places],
                    y=[place // ACROSS for place in places],
                    mode="markers+text",
                    name=f"{self._letter(kind, guests)}  {KINDS[kind]}{f' ({whose})' if whose else ''}",
                    text=[self._letter(kind, guests)] * len(places),
                    textfont={"size": 8, "color": colours.page if SHARES[kind] >= STRONG else colours.text},
                    marker={
                        "symbol": "square",
                        "size": CELL - 1.5,
                        "color": colours.tint(self._role(kind, guests), SHARES[kind]),
                        "line": {"width": 0.5, "color": colours.line[self._role(kind, guests)]},
                    },
                    hovertext=[self._hover(cells[place], place * unit, unit) for place in places],
                    hoverinfo="text",
                )
            )
        rows = -(-len(cells) // ACROSS)
        self._frame(figure, mode, colours, rows, unit)
        return figure

    def _frame(self, figure: go.Figure, mode: str, colours: Mode, rows: int, unit: int) -> None:
        marks = range(0, rows, max(1, rows // 8))
        each = "a frame" if unit == 1 else f"{unit} frames"
        figure.update_layout(
            template=template(mode),
            title={"text": f"{self.title}: physical memory, a cell is {each}", "font": {"size": 14}, "x": 0.01},
            width=96 + ACROSS * CELL + 250,
            height=70 + max(rows, 12) * CELL,
            xaxis={"visible": False, "range": [-0.7, ACROSS - 0.3], "fixedrange": True},
            yaxis={
                "range": [max(rows, 12) - 0.3, -0.7], "fixedrange": True, "showgrid": False, "zeroline": False,
                "tickvals": list(marks), "ticktext": [f"{row * ACROSS * unit << 12:#x}" for row in marks],
                "tickfont": {"size": 10, "color": colours.muted},
            },
            legend={"x": 1.01, "y": 1, "font": {"size": 11.5}},
            margin={"l": 80, "r": 8, "t": 40, "b": 12},
        )  # fmt: skip

    @staticmethod
    def _groups(cells: list[FrameRange]) -> dict[tuple[str, tuple[int, ...]], list[int]]:
        found: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for place, each in enumerate(cells):
            found.setdefault((each.kind, each.guests), []).append(place)
        return found

    @staticmethod
    def _role(kind: str, guests: tuple[int, ...]) -> str:
        return ROLES.get(kind) or GUEST_ROLES[guests[0] % len(GUEST_ROLES)]

    @staticmethod
    def _letter(kind: str, guests: tuple[int, ...]) -> str:
        if kind in LETTERS:
            return LETTERS[kind]
        letter = chr(ord("A") + guests[0] % 26)
        return letter.lower() if kind == "mapped" else letter

    def _hover(self, each: FrameRange, frame: int, unit: int) -> str:
        whose = self._whose(each)
        lines = [f"host-physical {frame << 12:#x}", f"{KINDS[each.kind]}{f' ({whose})' if whose else ''}"]
        if each.guest_page is not None and unit == 1:
            lines.append(f"guest-physical {each.guest_page + frame - each.first << 12:#x}")
        return "<br>".join(lines)


def memory_map(of: System | Run | Recording) -> MemoryMap:
    """Return the map of a running system's memory: who owns which frame.

    Parameters
    ----------
    of : System, Run or Recording
        A system, or what holds one: a finished run, or a recording at its cursor.

    Returns
    -------
    MemoryMap
        With `rows()`, `describe()` and `figure()`.

    Raises
    ------
    OptionError
        It is none of these.
    """
    holder: Any = of
    system = getattr(holder, "system", holder)
    if not isinstance(system, System):
        raise OptionError(f"memory_map takes a Run, a Recording or a System, not {type(of).__name__}")
    return MemoryMap(frame_map(system), guest_names(system), f"{system.technique}, {system.memory_virtualization} paging" if system.memory_virtualization != "none" else system.technique)  # fmt: skip
