"""Models of processors: what CPUID says of them, which features they have, what things cost on them.

A model announces only what is really there: no x87, MMX or SSE. Model-specific registers beside the time-stamp
counter are absent.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmlab.errors import OptionError
from vmlab.isa.x86.registers import CR4_DE, CR4_PGE, CR4_PSE, CR4_TSD, CR4_UMIP
from vmlab.machine.costs import PENTIUM_4, CostModel

__all__ = ["CPU_MODELS", "CpuModel", "find_cpu_model"]

# CPUID leaf 1, EDX: DE 2, PSE 3, TSC 4, CX8 8, PGE 13, CMOV 15. Leaf 7, ECX: UMIP 2 (SDM vol. 2, CPUID).
EDX_DE, EDX_PSE, EDX_TSC, EDX_CX8, EDX_PGE, EDX_CMOV = 1 << 2, 1 << 3, 1 << 4, 1 << 8, 1 << 13, 1 << 15
ECX7_UMIP = 1 << 2


@dataclass(frozen=True, slots=True)
class CpuModel:
    """One model of a processor.

    Attributes
    ----------
    name : str
        As in `vmlab.run(..., cpu=name)`.
    year : int
        When such processors came to market.
    summary : str
        One sentence for a menu.
    signature : int
        Family, model and stepping as CPUID leaf 1 gives them.
    umip : bool
        User-mode instruction prevention: SGDT, SIDT, SLDT, STR and SMSW can be made to fault.
    tlb_entries : int
        Pages that the TLB holds.
    costs : CostModel
        Cycles of each primitive.
    """

    name: str
    year: int
    summary: str
    signature: int
    umip: bool = False
    tlb_entries: int = 64
    costs: CostModel = PENTIUM_4

    @property
    def cr4_mask(self) -> int:
        """Bits of CR4 that exist."""
        return CR4_TSD | CR4_DE | CR4_PSE | CR4_PGE | (CR4_UMIP if self.umip else 0)

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """Return EAX, EBX, ECX, EDX of a leaf; a leaf beyond the last gives the last, as on Intel processors."""
        last = 7 if self.umip else 2
        if leaf & 0x80000000:
            return (0x80000000, 0, 0, 0) if leaf == 0x80000000 else (0, 0, 0, 0)
        leaf = min(leaf, last)
        if leaf == 0:
            vendor = b"GenuineIntel"
            ebx, edx, ecx = (int.from_bytes(vendor[n : n + 4], "little") for n in (0, 4, 8))
            return last, ebx, ecx, edx
        if leaf == 1:
            return self.signature, 0, 0, EDX_DE | EDX_PSE | EDX_TSC | EDX_CX8 | EDX_PGE | EDX_CMOV
        if leaf == 7 and subleaf == 0:
            return 0, 0, ECX7_UMIP if self.umip else 0, 0
        return 0, 0, 0, 0


CPU_MODELS = {
    model.name: model
    for model in (
        CpuModel("pentium-4", 2003, "32-bit, before any virtualization extension", 0xF29),
        CpuModel("umip", 2018, "the same, with user-mode instruction prevention (UMIP)", 0x50670, umip=True),
    )
}
"""Models by name."""


def find_cpu_model(name: str) -> CpuModel:
    """Return the model of a name; OptionError for an unknown one."""
    if name not in CPU_MODELS:
        raise OptionError(f"unknown CPU model {name!r}: choose one of {', '.join(CPU_MODELS)}")
    return CPU_MODELS[name]
