"""Limits of the assembler: any source ends, in bounded time and space.

A student's mistake (`times 1000000000`, a macro that calls itself twice) must not stop a notebook.
"""

from __future__ import annotations

LARGEST_IMAGE = 16 << 20
"""Bytes that a program may have."""

LARGEST_MEMORY = 1 << 32
"""Bytes that sections without contents may reserve."""

MOST_JUMPS = 1 << 12
"""Repetitions of one jump by `times`; each has another distance."""

MOST_LINES = 100_000
"""Lines after macros are expanded."""

MOST_CHARACTERS = 16_000_000
"""Characters after macros are expanded."""

LONGEST_LINE = 65_536
"""Characters of one line after its names are replaced."""

DEEPEST_MACRO = 64
"""Macros within macros."""

DEEPEST_EXPRESSION = 64
"""Parentheses within parentheses."""

FREE_PASSES, GROWING_PASSES, LAST_PASSES = 24, 12, 12
"""Passes in which instructions may take any length, only grow, and take their longest form."""
