"""Models of processors: which features they have, how many address bits, what things cost on them.

A model announces only what is really there: no x87, MMX or SSE (nor FXSAVE with them), no machine checks, no
performance counters, no MONITOR, no FSGSBASE. What CPUID says is in `vmlab.machine.cpuid`.

Simplified: on AMD's models SYSENTER and SYSEXIT work in long mode, too, and SYSCALL and SYSRET in 64-bit mode alone, as on
Intel's; nor have they MSRs of their own but those of SVM.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.isa.x86.registers import CR4_PCE
from vmlab.machine.costs import AMD_V, CORE_2, PENTIUM_4, SANDY_BRIDGE, WESTMERE, CostModel
from vmlab.machine.cpu_features import FEATURES, combine
from vmlab.machine.cpuid import AMD, INTEL, Cache
from vmlab.machine.tlb_geometry import (
    BROADWELL_TLB,
    BULLDOZER_TLB,
    CORE_2_TLB,
    K8_TLB,
    K10_TLB,
    PENTIUM_4_TLB,
    WESTMERE_TLB,
    TlbGeometry,
)  # fmt: skip

if TYPE_CHECKING:
    from vmlab.machine.walk_caches import WalkCacheSizes

__all__ = ["CPU_MODELS", "CpuModel", "find_cpu_model"]

_P6 = frozenset({"de", "pse", "tsc", "msr", "pae", "cx8", "apic", "sep", "mtrr", "pge", "cmov", "pat", "pse36"})
_PRESCOTT = _P6 | {"cx16", "lm", "nx", "syscall", "vmx", "tpr-shadow"}
_CORE = _PRESCOTT | {"lahf64"}
_WESTMERE = _CORE | {
    "pcid", "pdpe1gb", "rdtscp", "constant-tsc", "ept", "vpid", "unrestricted-guest", "virtual-apic", "monitor-trap-flag",
    "preemption-timer",
}  # fmt: skip
_BROADWELL = _WESTMERE | {"smep", "smap", "invpcid", "ept-dirty", "pml"}
_K8 = _P6 | {"cx16", "lm", "nx", "lahf64", "syscall", "rdtscp", "svm"}
_K10 = _K8 | {"pdpe1gb", "constant-tsc", "npt"}
_BULLDOZER = _K10 | {"nrip-save", "flush-by-asid", "decode-assists"}

_DATA, _CODE = Cache(1, 1, 8, 64), Cache(2, 1, 8, 64)
_AMD_DATA, _AMD_CODE = Cache(1, 1, 2, 512), Cache(2, 1, 2, 512)


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
    brand : str
        What the brand string begins with.
    vendor : str
        The maker, as CPUID leaf 0 names it.
    asids : int
        How many address-space identifiers there are for guests of AMD-V, and one for the host.
    features : frozenset of str
        Names from `FEATURES`.
    physical_bits : int
        Width of physical addresses (MAXPHYADDR).
    last_leaf, last_extended_leaf : int
        Greatest leaves of CPUID.
    cache_descriptors : tuple of int
        Leaf 2, as it is on the real processor.
    caches : tuple of Cache
        Leaf 4.
    tlb : TlbGeometry
        What its TLB looks like.
    walk_caches : WalkCacheSizes or None
        Its paging-structure caches and nested TLB; None where each walk begins at the root.
    costs : CostModel
        Cycles of each primitive.
    """

    name: str
    year: int
    summary: str
    signature: int
    brand: str
    features: frozenset[str]
    physical_bits: int = 36
    last_leaf: int = 2
    last_extended_leaf: int = 0x8000_0004
    cache_descriptors: tuple[int, int, int, int] = (0x665B_5001, 0, 0, 0x007B_7040)
    caches: tuple[Cache, ...] = ()
    tlb: TlbGeometry = PENTIUM_4_TLB
    walk_caches: WalkCacheSizes | None = None
    costs: CostModel = PENTIUM_4
    vendor: str = INTEL
    asids: int = 0
    cr4_mask: int = field(init=False)
    efer_mask: int = field(init=False)

    def __post_init__(self) -> None:
        cr4, efer = combine(self.features)
        object.__setattr__(self, "cr4_mask", cr4 | CR4_PCE)
        object.__setattr__(self, "efer_mask", efer)

    def has(self, feature: str) -> bool:
        """Say whether it has a feature.

        >>> CPU_MODELS["pentium-4"].has("nx"), CPU_MODELS["core-2"].has("nx")
        (False, True)
        """
        assert feature in FEATURES, feature
        return feature in self.features

    def without(self, *features: str) -> CpuModel:
        """Return the same model without some features, as a hypervisor shows it to its guests."""
        return replace(self, features=self.features - set(features))

    @property
    def brand_string(self) -> str:
        """What CPUID leaves 80000002H to 80000004H say: at most 47 characters."""
        return f"{self.brand}, in vmlab"


CPU_MODELS = {
    model.name: model
    for model in (
        CpuModel(
            "pentium-4", 2003, "32-bit, before any virtualization extension", 0xF29, "Intel(R) Pentium(R) 4 CPU", _P6
        ),
        CpuModel(
            "umip",
            2018,
            "the same, with user-mode instruction prevention (UMIP)",
            0x50670,
            "Intel(R) Pentium(R) 4 CPU",
            _P6 | {"umip"},
            last_leaf=7,
        ),
        CpuModel(
            "core-2",
            2006,
            "64-bit, with the execute-disable bit",
            0x6F6,
            "Intel(R) Core(TM)2 CPU",
            _CORE,
            costs=CORE_2,
            tlb=CORE_2_TLB,
            last_leaf=0xA,
            last_extended_leaf=0x8000_0008,
            cache_descriptors=(0x05B0_B101, 0x0056_57F0, 0, 0x2CB4_3049),
            caches=(_DATA, _CODE, Cache(3, 2, 16, 4096, shared=True)),
        ),
        CpuModel(
            "prescott",
            2005,
            "64-bit, the first with VT-x: a Pentium 4 672",
            0xF4A,
            "Intel(R) Pentium(R) 4 CPU 672",
            _PRESCOTT,
            last_leaf=5,
            last_extended_leaf=0x8000_0008,
            cache_descriptors=(0x605B_5001, 0, 0, 0x007D_7040),
            caches=(Cache(1, 1, 8, 32), Cache(3, 2, 8, 4096)),
        ),
        CpuModel(
            "westmere",
            2010,
            "64-bit, with process-context identifiers (PCID) and pages of 1 GiB",
            0x206C2,
            "Intel(R) Xeon(R) CPU (Westmere)",
            _WESTMERE,
            physical_bits=40,
            costs=WESTMERE,
            tlb=WESTMERE_TLB,
            last_leaf=0xB,
            last_extended_leaf=0x8000_0008,
            cache_descriptors=(0x5503_5A01, 0x00F0_B2FF, 0, 0x00CA_0000),
            caches=(_DATA, Cache(2, 1, 4, 128), Cache(3, 2, 8, 512), Cache(3, 3, 16, 12288, shared=True)),
        ),
        CpuModel(
            "broadwell",
            2014,
            "64-bit, with supervisor-mode prevention (SMEP, SMAP) and INVPCID",
            0x306D4,
            "Intel(R) Core(TM) CPU (Broadwell)",
            _BROADWELL,
            physical_bits=39,
            costs=SANDY_BRIDGE,
            tlb=BROADWELL_TLB,
            last_leaf=0xB,
            last_extended_leaf=0x8000_0008,
            cache_descriptors=(0x7603_6301, 0x00F0_B5FF, 0, 0x00C3_0000),
            caches=(_DATA, _CODE, Cache(3, 2, 8, 512), Cache(3, 3, 16, 4096, shared=True)),
        ),
        CpuModel(
            "broadwell-ep",
            2016,
            "64-bit, the same for servers: with virtual registers of the local APIC (APICv)",
            0x406F1,
            "Intel(R) Xeon(R) CPU E5 v4",
            _BROADWELL | {"apic-registers"},
            physical_bits=46,
            costs=SANDY_BRIDGE,
            tlb=BROADWELL_TLB,
            last_leaf=0xB,
            last_extended_leaf=0x8000_0008,
            cache_descriptors=(0x7603_6301, 0x00F0_B5FF, 0, 0x00C3_0000),
            caches=(_DATA, _CODE, Cache(3, 2, 8, 512), Cache(3, 3, 20, 28672, shared=True)),
        ),
        CpuModel(
            "ice-lake",
            2019,
            "64-bit, with all of that and user-mode instruction prevention (UMIP)",
            0x706E5,
            "Intel(R) Core(TM) CPU (Ice Lake)",
            _BROADWELL | {"umip"},
            physical_bits=39,
            costs=SANDY_BRIDGE,
            tlb=BROADWELL_TLB,
            last_leaf=0xB,
            last_extended_leaf=0x8000_0008,
            cache_descriptors=(0x00FE_FF01, 0x0000_00F0, 0, 0),
            caches=(Cache(1, 1, 12, 64), _CODE, Cache(3, 2, 8, 1024), Cache(3, 3, 16, 8192, shared=True)),
        ),
        CpuModel(
            "opteron",
            2006,
            "64-bit, of AMD's make, with AMD-V but without nested page tables",
            0x40F12,
            "AMD Opteron(tm) Processor 2218",
            _K8,
            physical_bits=40,
            costs=AMD_V,
            tlb=K8_TLB,
            last_leaf=1,
            last_extended_leaf=0x8000_0018,
            caches=(_AMD_DATA, _AMD_CODE, Cache(3, 2, 16, 1024)),
            vendor=AMD,
            asids=64,
        ),
        CpuModel(
            "barcelona",
            2007,
            "64-bit, of AMD's make, with nested page tables and pages of 1 GiB",
            0x100F23,
            "AMD Opteron(tm) Processor 2356",
            _K10,
            physical_bits=48,
            costs=AMD_V,
            tlb=K10_TLB,
            last_leaf=5,
            last_extended_leaf=0x8000_001A,
            caches=(_AMD_DATA, _AMD_CODE, Cache(3, 2, 16, 512), Cache(3, 3, 32, 1024, shared=True)),
            vendor=AMD,
            asids=64,
        ),
        CpuModel(
            "bulldozer",
            2011,
            "64-bit, of AMD's make, with decode assists and the next rIP at an exit",
            0x600F12,
            "AMD Opteron(TM) Processor 6272",
            _BULLDOZER,
            physical_bits=48,
            costs=AMD_V,
            tlb=BULLDOZER_TLB,
            last_leaf=0xD,
            last_extended_leaf=0x8000_001E,
            caches=(Cache(1, 1, 4, 64), _AMD_CODE, Cache(3, 2, 16, 2048), Cache(3, 3, 64, 2048, shared=True)),
            vendor=AMD,
            asids=0x1_0000,
        ),
    )
}
"""Models by name."""


def find_cpu_model(name: object) -> CpuModel:
    """Return the model of a name; OptionError for an unknown one."""
    if not isinstance(name, str) or name not in CPU_MODELS:
        raise OptionError(f"unknown CPU model {name!r}: choose one of {', '.join(CPU_MODELS)}")
    return CPU_MODELS[name]
