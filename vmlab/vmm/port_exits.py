"""IN and OUT as the reason of an exit: the processor tells port, size and direction, and nothing is left to decode.

What is executed on the VCPU is the very instruction, put together from what was told. Where there may be more to it (string
instructions, needless prefixes, a check of the task's permission map), it is read from the guest's memory as any other.

Read more: Intel SDM vol. 3, table 27-5; AMD APM vol. 2, 15.10.2.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from vmlab.isa.x86.decoder import decode
from vmlab.isa.x86.registers import VM
from vmlab.machine.intercepts import semantic_of

if TYPE_CHECKING:
    from vmlab.machine.processor import Decoded, Processor

__all__ = ["port_instruction"]

BY_DX = 0x08
"""Added to the opcodes of IN and OUT with the port behind them: the port is in DX."""
IN, OUT, WIDE = 0xE4, 0xE6, 1
OPERAND_SIZE = b"\x66"
IOPL_SHIFT = 12


@cache
def _decoded(bits: int, width: int, port: int | None, *, is_in: bool) -> Decoded:
    """Return IN or OUT of so many bytes in code of so many bits; the port is in DX where none is given."""
    opcode = (IN if is_in else OUT) + (WIDE if width > 1 else 0)
    prefix = OPERAND_SIZE if width > 1 and (width == 2) != (bits == 16) else b""
    code = prefix + (bytes((opcode + BY_DX,)) if port is None else bytes((opcode, port)))
    instruction = decode(code, bits)
    return semantic_of(instruction), instruction, instruction.length


def port_instruction(vcpu: Processor, width: int, port: int | None, length: int, *, is_in: bool) -> Decoded | None:
    """Return the instruction that a VCPU is at; None where it is to be read from memory.

    Parameters
    ----------
    vcpu : Processor
        It has left the processor for this instruction.
    width : int
        Bytes.
    port : int or None
        The port, where it is part of the instruction; None where it is in DX.
    length : int
        Bytes of the instruction.
    is_in : bool
        IN, or OUT.
    """
    if vcpu.ring > vcpu.flags >> IOPL_SHIFT & 3 or vcpu.flags & VM or vcpu.non_root or vcpu.spy:
        return None
    decoded = _decoded(vcpu.fetch_bits, width, port, is_in=is_in)
    return decoded if decoded[2] == length else None
