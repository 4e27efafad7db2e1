"""What each instruction does, one function a mnemonic, on any `Processor`.

The interpreter calls these; so does a hypervisor that emulates an instruction on a VCPU. `SEMANTICS` maps a
mnemonic to its function. A function gets the processor with `ip` already past the instruction, and either
finishes or raises `Fault` with nothing changed; the caller restores `ip`.
"""

from __future__ import annotations

from vmlab.isa.x86.semantics import (
    absent,
    arithmetic,
    bits,
    control,
    data,
    far,
    fast_calls,
    flags,
    io,
    logic,
    multiply,
    paging,
    returns,
    shift,
    strings,
    svm,
    system,
    vmx,
)
from vmlab.isa.x86.semantics.processor import Processor
from vmlab.isa.x86.semantics.registry import SEMANTICS, Semantic

__all__ = ["SEMANTICS", "Processor", "Semantic"]

_FAMILIES = (
    absent, arithmetic, bits, control, data, far, fast_calls, flags, io, logic, multiply, paging, returns, shift, strings,
    svm, system, vmx,
)  # fmt: skip
