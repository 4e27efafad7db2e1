"""Print the figures: `python -m bench [NAME ...]`, or `python -m bench xv6 KERNEL XV6.IMG FS.IMG`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable

from bench import emulator, first_stage, imports, interpreter, recording, translator, walk_theatre, walks, xv6

FIGURES = {
    "interpreter": interpreter.measure,
    "translator": translator.measure,
    "emulator": emulator.measure,
    "recording": recording.measure,
    "walks": walks.measure,
    "imports": imports.measure,
    "first-stage": first_stage.measure,
    "walk-theatre": walk_theatre.measure,
}

XV6_FILES = 3


def main() -> int:
    """Measure what was asked for, or everything."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Print vmlab's figures of speed.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)} (default: all)")
    names = parser.parse_args().names or list(FIGURES)
    if names[0] == "xv6":
        if len(names) != XV6_FILES + 1:
            parser.error("xv6 asks for three files that you have built: xv6 KERNEL XV6.IMG FS.IMG")
        return show("xv6", xv6.measure(*names[1:]))
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        parser.error(f"unknown figure {unknown[0]!r}: choose from {', '.join(FIGURES)}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    for name in names:
        show(name, FIGURES[name]())
    return 0


def show(name: str, lines: Iterable[str]) -> int:
    """Print a figure; return the exit status."""
    for line in lines:
        print(f"{name:<12} {line}", flush=True)
    return 0


sys.exit(main())
