"""What a debugger's view shows at one instant, as plain data that JSON can carry, and as an SVG.

Numbers that may have 64 bits are sent as text: a browser's numbers have 53.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from vmlab.errors import OptionError
from vmlab.isa.x86.registers import FLAG_BITS
from vmlab.views.theme import LIGHT, PLAIN_MONO, PLAIN_SANS
from vmlab.vmm.breakpoints import AtAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmlab.vmm.debugger import Debugger

__all__ = ["debugger_scene", "debugger_svg"]

FLAGS = ("CF", "PF", "AF", "ZF", "SF", "TF", "IF", "DF", "OF")
CONSOLE = 1500  # characters of the console's end
ROWS = 8


def debugger_scene(debugger: Debugger, place: str = "esp", *, physical: bool = False) -> dict[str, Any]:
    """Return what the view shows now.

    Parameters
    ----------
    debugger : Debugger
        Where one is.
    place : str
        Which memory to show: an expression of registers, symbols and numbers.
    physical : bool
        Whether that is a guest-physical address.
    """
    view = debugger.view
    digits = view.bits // 4
    rows: list[tuple[int, bytes]] = []
    complaint = ""
    try:
        rows = debugger.memory(place, ROWS * 16, physical=physical)
    except OptionError as error:
        complaint = str(error)
    guest = view.guest
    return {
        "step": debugger.position,
        "length": debugger.recording.length,
        "stop": debugger.stop.text.partition(": ")[2],
        "reason": debugger.stop.reason,
        "mode": f"{guest.mode} mode · CPL {view.vcpu.cpl}" + ("" if view.runs else " · the VMM has the CPU"),
        "here": f"{view.address:0{digits}x}",
        "place": debugger.place(),
        "code": [
            [f"{address:0{digits}x}", label, text, mark] for address, label, text, mark in debugger.listing(40, 40)
        ],
        "registers": [
            [name, f"{value:0{view.digits(name)}x}", name in debugger.changed]
            for name, value in debugger.registers().items()
        ],
        "flags": [[name, bool(view.flags & FLAG_BITS[name])] for name in FLAGS],
        "stack": [[f"{address:0{digits}x}", f"{value:0{digits}x}", name] for address, value, name in debugger.stack(8)],
        "memory": [[f"{address:0{digits}x}", data.hex(), _text(data)] for address, data in rows],
        "complaint": complaint,
        "breakpoints": [[each.number, each.kind, each.text] for each in debugger.breakpoints],
        "marks": [f"{each.address:0{digits}x}" for each in debugger.breakpoints if isinstance(each, AtAddress)],
        "console": guest.console[-CONSOLE:],
    }


def _text(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in data)


WIDTH, HEIGHT = 900, 330
QUOTED = {'"': "&quot;"}


def debugger_svg(scene: Mapping[str, Any], title: str) -> str:
    """Draw what a view shows: the code around the next instruction, the registers, the stack."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f'<g font-family="{escape(PLAIN_SANS, QUOTED)}" font-size="12" fill="{LIGHT.text}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{LIGHT.page}" stroke="{LIGHT.rule}"/>',
        f'<text x="12" y="22" font-size="14" font-weight="650">{escape(title)}</text>',
        f'<text x="{WIDTH - 12}" y="22" text-anchor="end" fill="{LIGHT.muted}">step {scene["step"]:,} of {scene["length"]:,}</text>',
        f'<text x="12" y="{HEIGHT - 14}" font-size="13">{escape(scene["stop"])}</text></g>',
        f'<g font-family="{escape(PLAIN_MONO, QUOTED)}" font-size="11" xml:space="preserve" fill="{LIGHT.text}">',
    ]
    code = scene["code"]
    here = next((n for n, line in enumerate(code) if line[0] == scene["here"]), 0)
    first = max(0, min(here - 6, len(code) - 15))
    for row, (address, label, text, _) in enumerate(code[first : first + 15]):
        y = 50 + row * 17
        if address == scene["here"]:
            parts.append(f'<rect x="8" y="{y - 12}" width="424" height="17" fill="{LIGHT.tint("kernel")}"/>')
        mark = "●" if address in scene["marks"] else ""
        parts.append(f'<text x="12" y="{y}" fill="{LIGHT.ink["trap"]}">{mark}</text>')
        parts.append(f'<text x="26" y="{y}" fill="{LIGHT.muted}">{address}</text>')
        tail = f"  ; {label}" if label else ""
        parts.append(f'<text x="96" y="{y}">{escape((text + tail)[:50])}</text>')
    for row, (name, value, changed) in enumerate(scene["registers"][:20]):
        y = 50 + row % 13 * 17
        x = 450 + row // 13 * 124
        weight = ' font-weight="700"' if changed else ""
        fill = LIGHT.ink["emulate"] if changed else LIGHT.text
        parts.append(
            f'<text x="{x}" y="{y}" fill="{LIGHT.muted}">{name}</text><text x="{x + 46}" y="{y}" fill="{fill}"{weight}>{value}</text>'
        )
    for row, (_, value, name) in enumerate(scene["stack"]):
        parts.append(
            f'<text x="700" y="{50 + row * 17}">{value} <tspan fill="{LIGHT.muted}">{escape(name[:16])}</tspan></text>'
        )
    return "".join([*parts, "</g></svg>"])
