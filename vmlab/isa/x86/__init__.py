"""IA-32 and x86-64: what its instructions are, and everything that one table says about them.

`table` holds the instructions; `decoder`, `encoder`, `assembler`, `disassembler`, `classification` and `semantics`
read it. Names are imported when they are first used, so that `import vmlab` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmlab.isa.x86.assembler import Assembly, assemble
    from vmlab.isa.x86.classification import Classification, ClassifiedForm, classify
    from vmlab.isa.x86.decoder import DecodeError, InvalidOpcode, TooLong, Truncated, decode
    from vmlab.isa.x86.disassembler import Line, disassemble, format_instruction
    from vmlab.isa.x86.encoder import encode, encode_instruction
    from vmlab.isa.x86.instruction import Instruction, Privilege, Row
    from vmlab.isa.x86.table import ROWS, rows_of

__all__ = [
    "ROWS",
    "Assembly",
    "Classification",
    "ClassifiedForm",
    "DecodeError",
    "Instruction",
    "InvalidOpcode",
    "Line",
    "Privilege",
    "Row",
    "TooLong",
    "Truncated",
    "assemble",
    "classify",
    "decode",
    "disassemble",
    "encode",
    "encode_instruction",
    "format_instruction",
    "rows_of",
]

_MODULES = {
    "assembler": ("Assembly", "assemble"),
    "classification": ("Classification", "ClassifiedForm", "classify"),
    "decoder": ("DecodeError", "InvalidOpcode", "TooLong", "Truncated", "decode"),
    "disassembler": ("Line", "disassemble", "format_instruction"),
    "encoder": ("encode", "encode_instruction"),
    "instruction": ("Instruction", "Privilege", "Row"),
    "table": ("ROWS", "rows_of"),
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
