"""One scene as a self-contained SVG, and as text: what a viewer without a kernel or without scripts sees.

The picture has the theatre's parts without its controls: layers, code around the current line, registers, console,
caption. It uses the light theme and no style sheet, since saved notebooks strip those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from vmlab.isa.x86.registers import IF, describe_flags
from vmlab.views.instant import shown_name
from vmlab.views.theme import LIGHT, PLAIN_MONO, PLAIN_SANS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["describe_scene", "scene_svg"]

WIDTH, HEIGHT = 1010, 410
TOP = 38
CODE, REGISTERS = 466, 774  # left edges of the panels
LINES_BEFORE, LINES = 4, 11
DASHES = {"traps to": "5 3", "maps to": "1.5 3", "assigned to": "1.5 3"}


def scene_svg(scene: Mapping[str, Any], script: Mapping[str, Any]) -> str:
    """Draw a scene.

    Parameters
    ----------
    scene : mapping
        A full scene with its listings and consoles, from `SceneWriter.scene`.
    script : mapping
        From `SceneWriter.script`.

    Returns
    -------
    str
        An SVG document.
    """
    guest = scene["guest"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f'<g role="img" font-family="{escape(PLAIN_SANS, QUOTED)}" font-size="12" fill="{LIGHT.text}">',
        f"<title>{escape(script['title'])}, step {scene['step']} of {script['length']}</title>",
        f"<desc>{escape(scene['caption'])}</desc>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{LIGHT.page}" stroke="{LIGHT.rule}"/>',
        _text(12, 24, script["title"], size=15, weight=650),
        _text(WIDTH - 12, 24, f"step {scene['step']:,} of {script['length']:,}", anchor="end", fill=LIGHT.muted),
        f'<g transform="translate(12 {TOP})">{_graph(scene, script)}</g>',
        _code(scene, guest),
        _console(scene, guest),
        _registers(scene, script, guest),
        _caption(scene),
        "</g></svg>",
    ]
    return "".join(parts)


QUOTED = {'"': "&quot;"}


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 12,
    weight: int = 400,
    anchor: str = "start",
    fill: str = LIGHT.text,
    mono: bool = False,
) -> str:
    font = f' font-family="{escape(PLAIN_MONO, QUOTED)}" xml:space="preserve"' if mono else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" font-weight="{weight}" text-anchor="{anchor}" fill="{fill}"{font}>{escape(text)}</text>'


def _panel(x: float, y: float, w: float, h: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" fill="{LIGHT.panel}" stroke="{LIGHT.rule}"/>'


def _graph(scene: Mapping[str, Any], script: Mapping[str, Any]) -> str:
    shape = script["shape"]
    parts = []
    for zone in shape["zones"]:
        here = zone["id"] == scene["zone"]
        role = "vmm" if zone["id"] == "kernel" else "user"
        parts.append(
            f'<rect x="1" y="{zone["y"]:g}" width="{shape["width"] - 2:g}" height="{zone["h"]:g}" rx="5" fill="{LIGHT.tint(role) if here else LIGHT.panel}"/>'
        )
        middle = zone["y"] + zone["h"] / 2
        words = [(13, zone["label"]), (26, f"ring {scene['ring']}" if here else "")]
        for x, word in words:
            turned = _text(
                x,
                middle + 4,
                word,
                size=11,
                anchor="middle",
                weight=650 if here else 400,
                fill=LIGHT.ink[role] if here else LIGHT.muted,
            )
            parts.append(f'<g transform="rotate(-90 {x} {middle:g})">{turned}</g>')
    for frame in shape["frames"]:
        current = frame["guest"] == scene["guest"]
        stroke = LIGHT.line["kernel"] if current else LIGHT.line["neutral"]
        parts.append(
            f'<rect x="{frame["x"]:g}" y="{frame["y"]:g}" width="{frame["w"]:g}" height="{frame["h"]:g}" rx="7" fill="{LIGHT.page}" '
            f'fill-opacity="0.7" stroke="{stroke}" stroke-dasharray="{"none" if current else "4 3"}"/>'
        )
        parts.append(_text(frame["x"] + 9, frame["y"] + 14.5, frame["title"], size=11.5, weight=600))
        if not frame["narrow"]:
            number = frame["guest"]
            mode = "ended" if scene[f"state:{number}"] == "ended" else f"virtual {scene[f'mode:{number}']} mode"
            parts.append(
                _text(frame["x"] + frame["w"] - 8, frame["y"] + 14.5, mode, size=10.5, anchor="end", fill=LIGHT.muted)
            )
    motion = scene["motion"] or {"edge": "", "role": "neutral", "glyph": ""}
    for edge in shape["edges"]:
        moving = edge["id"] == motion["edge"]
        colour = LIGHT.line[motion["role"]] if moving else LIGHT.line["neutral"]
        dash = "none" if moving else DASHES.get(edge["relation"], "none")
        parts.append(
            f'<path d="{edge["d"]}" fill="none" stroke="{colour}" stroke-width="{2.5 if moving else 1.2}" stroke-dasharray="{dash}"/>'
        )
    parts += [_node(node, scene) for node in shape["nodes"]]
    return "".join(parts)


def _node(node: Mapping[str, Any], scene: Mapping[str, Any]) -> str:
    lit = node["id"] in scene["lit"]
    line = LIGHT.line[node["role"]]
    parts = [f'<path d="{node["stroke"]}" fill="none" stroke="{line}"/>'] if node["stroke"] else []
    parts.append(
        f'<path d="{node["d"]}" fill="{LIGHT.tint(node["role"]) if lit else LIGHT.page}" stroke="{line}" stroke-width="{2.75 if lit else 1.25}"/>'
    )
    sub = scene.get(f"sub:{node['id']}", node["sub"])
    middle, centre = node["x"] + node["w"] / 2, node["y"] + node["h"] / 2 + 4
    weight = 700 if lit else 500
    if node["h"] < 34:
        label = f"{node['label']} · {sub}" if sub else node["label"]
        return "".join([*parts, _text(middle, centre, label, weight=weight, anchor="middle")])
    room = int((node["w"] - 20) / 5.9 if node["kind"] == "processes" else node["w"] / 5.2)
    sub = sub if len(sub) <= room else f"{sub[: room - 1]}…" if room > 5 else ""
    parts.append(_text(middle, centre - (6.5 if sub else 0), node["label"], weight=weight, anchor="middle"))
    parts.append(_text(middle, centre + 8, sub, size=10.5, anchor="middle", fill=LIGHT.muted) if sub else "")
    return "".join(parts)


def _around(scene: Mapping[str, Any], guest: int) -> tuple[list[Sequence[Any]], int]:
    """Return the lines of code around the current one, and its address."""
    name, address = scene[f"code:{guest}"]
    lines = scene["listings"].get(name, [])
    here = next((index for index, line in enumerate(lines) if line[0] == address), 0)
    first = max(0, min(here - LINES_BEFORE, len(lines) - LINES))
    return list(lines[first : first + LINES]), address


def _code(scene: Mapping[str, Any], guest: int) -> str:
    lines, address = _around(scene, guest)
    parts = [
        _panel(CODE, TOP, 300, 212),
        _text(CODE + 9, TOP + 16, "Guest code", size=11.5, weight=600, fill=LIGHT.muted),
    ]
    legend = "P privileged · S sensitive"
    parts.append(_text(CODE + 291, TOP + 16, legend, size=10.5, anchor="end", fill=LIGHT.muted))
    for row, (at, label, text, mark) in enumerate(lines):
        y = TOP + 36 + row * 16.6
        if at == address:
            parts.append(
                f'<rect x="{CODE + 1}" y="{y - 12:g}" width="298" height="16.6" fill="{LIGHT.tint("kernel")}"/>'
            )
            parts.append(f'<rect x="{CODE + 1}" y="{y - 12:g}" width="3" height="16.6" fill="{LIGHT.line["kernel"]}"/>')
        parts.append(_text(CODE + 9, y, f"{at:08x}", size=10.5, fill=LIGHT.muted, mono=True))
        role = {"p": "trap", "s": "inject"}.get(mark, "neutral")
        parts.append(_text(CODE + 68, y, mark.upper(), size=10.5, weight=700, fill=LIGHT.ink[role]) if mark else "")
        tail = f"  ; {label}" if label else ""
        parts.append(
            _text(CODE + 83, y, f"{text}{tail}"[:31], size=11, weight=700 if at == address else 400, mono=True)
        )
    return "".join(parts)


def _console_text(scene: Mapping[str, Any], guest: int) -> str:
    console = scene["consoles"][guest]
    return str(console["text"][: max(0, scene[f"console:{guest}"] - console["base"])])


def _console(scene: Mapping[str, Any], guest: int) -> str:
    parts = [
        _panel(CODE, TOP + 220, 300, 92),
        _text(CODE + 9, TOP + 236, "Console", size=11.5, weight=600, fill=LIGHT.muted),
    ]
    for row, line in enumerate(_console_text(scene, guest).splitlines()[-4:]):
        parts.append(_text(CODE + 9, TOP + 253 + row * 16, line[:41], size=11, mono=True))
    return "".join(parts)


def _registers(scene: Mapping[str, Any], script: Mapping[str, Any], guest: int) -> str:
    columns = _columns(scene, script, guest)
    parts = [_panel(REGISTERS, TOP, 224, 312)]
    for column, (title, mode, values) in enumerate(columns):
        right = REGISTERS + 138 + column * 78 if len(columns) > 1 else REGISTERS + 216
        parts.append(_text(right, TOP + 17, title, size=11.5, weight=600, anchor="end", fill=LIGHT.muted))
        parts.append(_text(right, TOP + 35, mode, size=11.5, weight=600, anchor="end"))
        flag = values["EFLAGS"] & IF
        parts.append(
            _text(
                right,
                TOP + 52,
                "1 on" if flag else "0 off",
                size=11,
                weight=700,
                anchor="end",
                fill=LIGHT.ink["kernel" if flag else "trap"],
                mono=True,
            )
        )
        for row, (name, value) in enumerate(values.items()):
            digits = 4 if name in {"CS", "SS"} else 8
            parts.append(_text(right, TOP + 71 + row * 16, f"{value:0{digits}x}", size=11, anchor="end", mono=True))
    for row, name in enumerate(("mode", "IF")):
        parts.append(
            _text(
                REGISTERS + 9,
                TOP + 35 + 17 * row,
                name,
                size=11,
                fill=LIGHT.muted,
                weight=700 if name == "IF" else 400,
                mono=True,
            )
        )
    for row, register in enumerate(script["registers"]):
        name = shown_name(register, long=scene["long"])
        parts.append(_text(REGISTERS + 9, TOP + 71 + row * 16, name, size=11, fill=LIGHT.muted, mono=True))
    return "".join(parts)


def _columns(scene: Mapping[str, Any], script: Mapping[str, Any], guest: int) -> list[tuple[str, str, dict[str, int]]]:
    names = script["registers"]
    physical = ("CPU", f"ring {scene['ring']}", dict(zip(names, scene["cpu"], strict=True)))
    if not script["virtual"]:
        return [physical]
    return [("VCPU", scene[f"mode:{guest}"], dict(zip(names, scene[f"vcpu:{guest}"], strict=True))), physical]


def _caption(scene: Mapping[str, Any]) -> str:
    """Set the sentence in at most two lines, its event's glyph before it."""
    lines = [""]
    for word in scene["caption"].split():
        if len(lines[-1]) + len(word) > 125:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    shown = next((event for event in scene["events"] if event["glyph"]), None)
    parts = [_text(20, TOP + 341, shown["glyph"], size=15, fill=LIGHT.ink[shown["role"]])] if shown else []
    parts += [_text(42, TOP + 341 + 18 * row, line, size=14.5) for row, line in enumerate(lines[:2])]
    return "".join(parts)


def describe_scene(scene: Mapping[str, Any], script: Mapping[str, Any]) -> str:
    """Say in words what the picture of a scene shows."""
    guest = scene["guest"]
    lines = [
        f"{script['title']}, step {scene['step']} of {script['length']}",
        scene["caption"],
        f"guest: {script['guests'][guest]}",
    ]
    for title, mode, values in _columns(scene, script, guest):
        shown = " ".join(
            f"{name} {value:08x}" for name, value in values.items() if name in {"EIP", "ESP", "EAX", "CR0", "CR3"}
        )
        lines.append(
            f"{title}: {mode}, IF {int(bool(values['EFLAGS'] & IF))}, flags {describe_flags(values['EFLAGS'])}; {shown}"
        )
    code, address = _around(scene, guest)
    lines += [f"{'>' if line[0] == address else ' '} {line[0]:08x}  {line[2]}" for line in code]
    text = _console_text(scene, guest)
    return "\n".join([*lines, "console:", text[-400:]] if text else lines)
