"""Assembler for IA-32 and x86-64 in the syntax of NASM, producing flat images.

From source to bytes: `preprocessor` carries out macros, `lexer` and `syntax` make statements, `program` settles
addresses in passes, `matching` finds the row of the instruction table for each instruction, and the encoder of
`vmlab.isa.x86.encoder` writes it. Whatever is wrong is an `AssemblyError` with line and column.

Simplified: flat images only, as `nasm -f bin`; no `struc`, no include, no linker; `%define` without parameters.
Beyond NASM: `[rip+label]` is `[rel label]`, and `[rip+5]` counts from the next instruction.
Where to read more: NASM manual, chapters 3 and 4.
"""

from __future__ import annotations

from vmlab.errors import AssemblyError, OptionError
from vmlab.isa.x86.assembler.preprocessor import preprocess
from vmlab.isa.x86.assembler.program import Assembly, Program

__all__ = ["Assembly", "assemble"]


def assemble(source: str, origin: int | None = None, bits: int = 32) -> Assembly:
    r"""Assemble a program.

    Parameters
    ----------
    source : str
        NASM source.
    origin : int, optional
        Address of the first byte where the source has no `org`; 0 if neither says it.
    bits : int
        16, 32 or 64, until the source has a `bits` directive.

    Raises
    ------
    AssemblyError
        If the source is wrong; its message has line, column and the line itself.
    OptionError
        If `bits` or `origin` is impossible.

    Examples
    --------
    >>> program = assemble("start: mov eax, 5\n jmp start", origin=0x100000)
    >>> program.code.hex(" "), hex(program.symbols["start"])
    ('b8 05 00 00 00 eb f9', '0x100000')
    """
    if bits not in (16, 32, 64):
        raise OptionError(f"bits={bits!r}: code is assembled for 16, 32 or 64 bits")
    if origin is not None and not 0 <= origin < 1 << max(bits, 32):
        raise OptionError(f"origin={origin!r}: an origin lies within {max(bits, 32)} bits")
    try:
        return Program(preprocess(source), origin, bits).assemble()
    except RecursionError:
        raise AssemblyError("the source is nested too deep") from None
