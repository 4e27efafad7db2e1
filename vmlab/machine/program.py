"""A guest from assembly source: assembled, with its labels, and placed where a boot loader would put it."""

from __future__ import annotations

import re

from vmlab.errors import OptionError
from vmlab.isa.x86.assembler import assemble as assemble_source
from vmlab.machine.image import DEFAULT_ORIGIN, Image, flat

__all__ = ["ENTRY_LABELS", "assemble"]

ENTRY_LABELS = ("start", "_start")
"""Labels at which a program starts; without one of them it starts at its first byte."""

_ORG = re.compile(r"^\s*\[?\s*org\b", re.IGNORECASE | re.MULTILINE)


def assemble(source: str, name: str = "program") -> Image:
    """Assemble source into a bootable image.

    Parameters
    ----------
    source : str
        Assembly in NASM's Intel syntax, 32-bit. Without `org` it is placed at 1 MiB.
    name : str
        For display.

    Returns
    -------
    Image
        It starts at the label `start` (or `_start`), else at its first byte, in flat 32-bit protected mode with
        paging off, as a multiboot loader leaves the processor.

    Raises
    ------
    AssemblyError
        The source is wrong; carries line and column.
    OptionError
        The source is no text.

    Examples
    --------
    >>> image = assemble("start: hlt")
    >>> hex(image.entry)
    '0x100000'
    """
    if not isinstance(source, str):
        raise OptionError(f"assembly source is text (a str), not {type(source).__name__}")
    program = assemble_source(source, None if _ORG.search(source) else DEFAULT_ORIGIN)
    entry = next((program.symbols[label] for label in ENTRY_LABELS if label in program.symbols), program.origin)
    return flat(program.code, program.origin, entry, name, program.symbols)
