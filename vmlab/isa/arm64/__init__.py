"""AArch64: what the instructions of a subset are, and everything that one table says about them.

`table` holds the instructions; `decoder`, `assembler`, `disassembler` and `semantics` read it. Names are imported when they
are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmlab.isa.arm64.assembler import Assembly, assemble
    from vmlab.isa.arm64.decoder import decode
    from vmlab.isa.arm64.disassembler import disassemble, format_instruction
    from vmlab.isa.arm64.instruction import Instruction, Row
    from vmlab.isa.arm64.table import ALIASES, ROWS, rows_of

__all__ = [
    "ALIASES", "ROWS", "Assembly", "Instruction", "Row", "assemble", "decode", "disassemble", "format_instruction", "rows_of",
]  # fmt: skip

_MODULES = {
    "assembler": ("Assembly", "assemble"),
    "decoder": ("decode",),
    "disassembler": ("disassemble", "format_instruction"),
    "instruction": ("Instruction", "Row"),
    "table": ("ALIASES", "ROWS", "rows_of"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    """Import the module of a public name when it is first used."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
