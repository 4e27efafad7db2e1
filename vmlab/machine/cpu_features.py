"""Features of processors: where CPUID announces each, and which bits of CR4 and IA32_EFER come with it.

A model has a set of these names; its CPUID leaves, the bits that its control registers accept, its model-specific
registers and its undefined instructions all follow from that set.

Read more: Intel SDM vol. 2, CPUID, tables 3-8, 3-10 and 3-11; vol. 3, 2.5 (CR4) and 2.2.1 (IA32_EFER); AMD APM vol. 3,
appendix E (CPUID), and vol. 2, 3.1.7 (EFER).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import (
    CR4_DE,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    CR4_TSD,
    CR4_UMIP,
    CR4_VMXE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    EFER_SVME,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FEATURES", "VIRTUALIZATION", "Feature", "combine", "flags_of"]

NOWHERE = -1
OUTPUTS = ("eax", "ebx", "ecx", "edx")

# name, CPUID leaf, register and bit, what it is; those without a leaf are told by a capability MSR
TEXT = """
de            00000001 edx  2  debugging extensions
pse           00000001 edx  3  pages of 4 MiB
tsc           00000001 edx  4  time-stamp counter
msr           00000001 edx  5  RDMSR and WRMSR
pae           00000001 edx  6  physical address extension
cx8           00000001 edx  8  CMPXCHG8B
apic          00000001 edx  9  local APIC
sep           00000001 edx 11  SYSENTER and SYSEXIT
mtrr          00000001 edx 12  memory type range registers
pge           00000001 edx 13  global pages
cmov          00000001 edx 15  conditional moves
pat           00000001 edx 16  page attribute table
pse36         00000001 edx 17  pages of 4 MiB above 4 GiB
vmx           00000001 ecx  5  virtual-machine extensions (VT-x)
cx16          00000001 ecx 13  CMPXCHG16B
pcid          00000001 ecx 17  process-context identifiers
smep          00000007 ebx  7  supervisor-mode execution prevention
invpcid       00000007 ebx 10  INVPCID
smap          00000007 ebx 20  supervisor-mode access prevention
umip          00000007 ecx  2  user-mode instruction prevention
svm           80000001 ecx  2  secure virtual machine (AMD-V)
npt           8000000A edx  0  AMD-V: nested page tables
nrip-save     8000000A edx  3  AMD-V: the next rIP at an exit
flush-by-asid 8000000A edx  6  AMD-V: flushes of one address-space identifier
decode-assists 8000000A edx 7  AMD-V: operands and bytes of an instruction at an exit
lahf64        80000001 ecx  0  LAHF and SAHF in 64-bit mode
syscall       80000001 edx 11  SYSCALL and SYSRET
nx            80000001 edx 20  execute-disable bit
pdpe1gb       80000001 edx 26  pages of 1 GiB
rdtscp        80000001 edx 27  RDTSCP and IA32_TSC_AUX
lm            80000001 edx 29  Intel 64 architecture
constant-tsc  80000007 edx  8  time-stamp counter of constant rate
ept           -        -    -  VT-x: extended page tables
ept-dirty     -        -    -  VT-x: accessed and dirty bits in extended page tables
pml           -        -    -  VT-x: page-modification logging
vpid          -        -    -  VT-x: virtual-processor identifiers
unrestricted-guest  -  -    -  VT-x: guests in real mode, and without paging
tpr-shadow    -        -    -  VT-x: CR8 virtualized (TPR shadow)
virtual-apic  -        -    -  VT-x: accesses to the local APIC virtualized (FlexPriority)
apic-registers  -      -    -  VT-x: registers of the local APIC virtualized (APICv)
monitor-trap-flag  -   -    -  VT-x: an exit after each instruction (MTF)
preemption-timer  -    -    -  VT-x: an exit when a time has passed
"""

_CR4 = {
    "tsc": CR4_TSD, "de": CR4_DE, "pse": CR4_PSE, "pae": CR4_PAE, "pge": CR4_PGE, "umip": CR4_UMIP, "pcid": CR4_PCIDE,
    "smep": CR4_SMEP, "smap": CR4_SMAP, "vmx": CR4_VMXE,
}  # fmt: skip
_EFER = {"syscall": EFER_SCE, "lm": EFER_LME | EFER_LMA, "nx": EFER_NXE, "svm": EFER_SVME}


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature.

    Attributes
    ----------
    name : str
        As in `CpuModel.features`.
    leaf : int
        CPUID leaf (subleaf 0) that announces it; -1 for none.
    output : int
        Index of the register: EAX, EBX, ECX, EDX.
    bit : int
        Mask of its bit there.
    meaning : str
        What it is.
    cr4, efer : int
        Bits that exist with it.
    """

    name: str
    leaf: int
    output: int
    bit: int
    meaning: str
    cr4: int = 0
    efer: int = 0


def _parse() -> dict[str, Feature]:
    features = {}
    for line in TEXT.split("\n"):
        if line:
            name, leaf, output, bit, meaning = line.split(maxsplit=4)
            features[name] = Feature(
                name,
                NOWHERE if leaf == "-" else int(leaf, 16),
                0 if leaf == "-" else OUTPUTS.index(output),
                0 if leaf == "-" else 1 << int(bit),
                meaning,
                _CR4.get(name, 0),
                _EFER.get(name, 0),
            )
    return features


FEATURES = _parse()
"""Every feature by name."""

VIRTUALIZATION = (
    "vmx", "ept", "ept-dirty", "pml", "vpid", "unrestricted-guest", "tpr-shadow", "virtual-apic", "apic-registers",
    "monitor-trap-flag", "preemption-timer", "svm", "npt", "nrip-save", "flush-by-asid", "decode-assists",
)  # fmt: skip
"""Those that a VMM needs, and does not give to its guests."""


def flags_of(leaf: int, features: Iterable[str]) -> tuple[int, int, int, int]:
    """Return the feature bits that a CPUID leaf shows for these features.

    >>> [hex(value) for value in flags_of(0x80000001, {"nx", "lm", "cmov"})]
    ['0x0', '0x0', '0x0', '0x20100000']
    """
    outputs = [0, 0, 0, 0]
    for name in features:
        feature = FEATURES[name]
        if feature.leaf == leaf:
            outputs[feature.output] |= feature.bit
    eax, ebx, ecx, edx = outputs
    return eax, ebx, ecx, edx


def combine(features: Iterable[str]) -> tuple[int, int]:
    """Return the bits of CR4 and of IA32_EFER that these features bring."""
    cr4 = efer = 0
    for name in features:
        cr4 |= FEATURES[name].cr4
        efer |= FEATURES[name].efer
    return cr4, efer
