"""A guest from assembly source: assembled, with its labels, and placed where a boot loader or a BIOS would put it."""

from __future__ import annotations

import re

from vmlab.errors import ImageError, OptionError
from vmlab.isa.x86.assembler import assemble as assemble_source
from vmlab.machine.disk import SECTOR, Disk
from vmlab.machine.image import (
    BOOT_ADDRESS,
    BOOT_SIGNATURE,
    DEFAULT_ORIGIN,
    Image,
    check_name,
    flat,
    from_disk,
    is_boot_disk,
)

__all__ = ["ENTRY_LABELS", "assemble", "boot_sector"]

ENTRY_LABELS = ("start", "_start")
"""Labels at which a program starts; without one of them it starts at its first byte."""

_ORG = re.compile(r"^\s*\[?\s*org\b", re.IGNORECASE | re.MULTILINE)


def assemble(source: str, name: str = "program") -> Image:
    """Assemble source into a bootable image.

    Parameters
    ----------
    source : str
        Assembly in NASM's Intel syntax, 32-bit unless it says `bits 16`. Without `org` it is placed at 1 MiB. Source whose
        first 512 bytes end in 55 AA, at `org 0x7c00`, `org 0` or without one, is a boot disk: see `boot_sector`.
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
    has_origin = bool(_ORG.search(_text(source)))
    program = assemble_source(source, None if has_origin else DEFAULT_ORIGIN)
    if program.code[:SECTOR][-2:] == BOOT_SIGNATURE and len(program.code) >= SECTOR:
        if not has_origin:
            program = assemble_source(source, 0)  # as NASM does
        if program.origin in (0, BOOT_ADDRESS):
            return from_disk(Disk(program.code, name=check_name(name), pad=True), program.symbols)
    entry = next((program.symbols[label] for label in ENTRY_LABELS if label in program.symbols), program.origin)
    return flat(program.code, program.origin, entry, name, program.symbols)


def boot_sector(source: str, name: str = "boot sector") -> Image:
    r"""Assemble a boot sector, and make the disk that a machine boots from it.

    Parameters
    ----------
    source : str
        Assembly in NASM's Intel syntax, 16-bit, for address 0x7C00 where it has no `org`. Up to 510 bytes are filled with
        zeros and signed with 55 AA. Longer programs sign their first sector themselves, as with
        `times 510-($-$$) db 0` and `dw 0xaa55`, and load the rest from the disk.
    name : str
        For display.

    Returns
    -------
    Image
        It starts at 0000:7C00 in real mode, as firmware leaves the processor (see `vmlab.machine.firmware.boot`).

    Raises
    ------
    AssemblyError
        The source is wrong; carries line and column.
    ImageError
        The first sector has no room for its signature.
    OptionError
        The source is no text.

    Examples
    --------
    >>> image = boot_sector("mov ax, 0x0e41\n int 0x10\n cli\n hlt")
    >>> image.bits, hex(image.entry), image.segments[0].data[-2:].hex()
    (16, '0x7c00', '55aa')
    """
    program = assemble_source(source, None if _ORG.search(_text(source)) else BOOT_ADDRESS, 16)
    code = program.code
    if not code:
        raise ImageError(f"{name}: empty: there is nothing to run")
    if len(code) <= SECTOR - len(BOOT_SIGNATURE):
        code = code.ljust(SECTOR - len(BOOT_SIGNATURE), b"\0") + BOOT_SIGNATURE
    if not is_boot_disk(code[:SECTOR]):
        raise ImageError(
            f"{name}: {len(code)} bytes, and bytes 510 and 511 are not 55 AA: a boot sector holds 510 bytes of code; put "
            "`times 510-($-$$) db 0` and `dw 0xaa55` behind its first part, and load the rest with INT 13h"
        )
    return from_disk(Disk(code, name=check_name(name), pad=True), program.symbols)


def _text(source: object) -> str:
    if not isinstance(source, str):
        raise OptionError(f"assembly source is text (a str), not {type(source).__name__}")
    return source
