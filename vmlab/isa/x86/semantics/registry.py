"""The dispatch table of the semantics, filled by the decorator `semantic`."""

from __future__ import annotations

from collections.abc import Callable

from vmlab.isa.x86.instruction import Instruction
from vmlab.isa.x86.semantics.processor import Processor

Semantic = Callable[[Processor, Instruction], None]

SEMANTICS: dict[str, Semantic] = {}


def semantic(*mnemonics: str) -> Callable[[Semantic], Semantic]:
    """Enter a function into the table under its mnemonics."""

    def enter(function: Semantic) -> Semantic:
        for mnemonic in mnemonics:
            if mnemonic in SEMANTICS:
                raise ValueError(f"two semantics for {mnemonic}")
            SEMANTICS[mnemonic] = function
        return function

    return enter
