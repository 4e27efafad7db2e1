"""The block translator: the interpreter's meaning, compiled to Python functions for speed.

`region` finds the instructions that belong together, `flags` decides which flags anyone will look at, `emit` writes
Python for each instruction, `engine` runs the result. Whatever is not written here, the interpreter executes.
"""

from __future__ import annotations

from vmlab.machine.translator.engine import Engine

__all__ = ["Engine"]
