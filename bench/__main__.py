"""Print the figures: `python -m bench [NAME ...]`."""

from __future__ import annotations

import argparse
import os
import platform
import sys

from bench import first_stage, imports, interpreter, recording, translator

FIGURES = {
    "interpreter": interpreter.measure,
    "translator": translator.measure,
    "recording": recording.measure,
    "imports": imports.measure,
    "first-stage": first_stage.measure,
}


def main() -> int:
    """Measure what was asked for, or everything."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Print vmlab's figures of speed.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)} (default: all)")
    names = parser.parse_args().names or list(FIGURES)
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        parser.error(f"unknown figure {unknown[0]!r}: choose from {', '.join(FIGURES)}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    for name in names:
        for line in FIGURES[name]():
            print(f"{name:<12} {line}", flush=True)
    return 0


sys.exit(main())
