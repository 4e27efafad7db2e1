"""The system registers that hold a value: which bits can be written, what they hold after a reset, who may trap them.

A row is

    name  writable bits  value after reset  [marks]

`ro` is read-only, `el0` accessible there too; `translation` makes the processor look up its translations anew; `tvm` is
trapped by HCR_EL2.TVM and TRVM, `tid1` to `tid3`, `tacr` by the bits of those names.

Simplified: reserved bits and bits of features that this processor has not read as after the reset; cache maintenance finds
no cache. The identification registers tell what there is: EL0 to EL2 in AArch64 alone, no FP, 48 bits of physical address,
the 4 KiB granule, 8 bits of ASID.

Read more: Arm ARM (DDI 0487), D17.2 (by name), D17.11 (generic timer).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NO_VALUE", "ROWS", "SystemRow"]

TEXT = """
midr_el1         0  0x000F0010  ro
mpidr_el1        0  0x80000000  ro
revidr_el1       0  0           ro tid1
id_aa64pfr0_el1  0  0xFF0111    ro tid3
id_aa64pfr1_el1  0  0           ro tid3
id_aa64dfr0_el1  0  0x6         ro tid3
id_aa64dfr1_el1  0  0           ro tid3
id_aa64isar0_el1 0  0           ro tid3
id_aa64isar1_el1 0  0           ro tid3
id_aa64mmfr0_el1 0  0xF000005   ro tid3
id_aa64mmfr1_el1 0  0           ro tid3
id_aa64mmfr2_el1 0  0           ro tid3
mdscr_el1        0x1000     0
oslsr_el1        0          0x8         ro
sctlr_el1        0x405D21F  0x30D00800  translation tvm
actlr_el1        0          0           tacr
cpacr_el1        0x300000   0
ttbr0_el1        0xFFFFFFFFFFFFFFFE  0  translation tvm
ttbr1_el1        0xFFFFFFFFFFFFFFFE  0  translation tvm
tcr_el1          0x77FFFFFFBF  0        translation tvm
spsr_el1         0xF01003DF 0
elr_el1          all        0
afsr0_el1        0          0           tvm
afsr1_el1        0          0           tvm
esr_el1          0xFFFFFFFF 0           tvm
far_el1          all        0           tvm
par_el1          all        0
mair_el1         all        0           translation tvm
amair_el1        0          0           tvm
vbar_el1         0xFFFFFFFFFFFFF800  0
contextidr_el1   0xFFFFFFFF 0           tvm
tpidr_el1        all        0
cntkctl_el1      0x3FF      0
ccsidr_el1       0  0                   ro tid2
clidr_el1        0  0                   ro tid2
csselr_el1       0xF        0           tid2
ctr_el0          0  0x84448004          ro el0 tid2
dczid_el0        0  0x4                 ro el0
tpidr_el0        all        0           el0
tpidrro_el0      all        0           el0
cntfrq_el0       0xFFFFFFFF 1000000     el0
vpidr_el2        0xFFFFFFFF 0x000F0010
vmpidr_el2       0xFFFFFFFFFF  0x80000000
sctlr_el2        0x100F     0x30C50830  translation
actlr_el2        0          0
hcr_el2          0x7FEF7EFB  0x80000000  translation
mdcr_el2         0          0
cptr_el2         0x400      0x33FF
hstr_el2         0          0
hacr_el2         0          0
ttbr0_el2        0xFFFFFFFFFFFFFFFE  0  translation
tcr_el2          0x17FF3F   0x80800000  translation
vttbr_el2        0xFFFFFFFFFFFFFE  0    translation
vtcr_el2         0x7FFFF    0x80000000  translation
spsr_el2         0xF01003DF 0
elr_el2          all        0
afsr0_el2        0          0
afsr1_el2        0          0
esr_el2          0xFFFFFFFF 0
far_el2          all        0
hpfar_el2        0xFFFFFFFFF0  0
mair_el2         all        0           translation
amair_el2        0          0
vbar_el2         0xFFFFFFFFFFFFF800  0
tpidr_el2        all        0
cntvoff_el2      all        0
cnthctl_el2      0xFF       0x3
"""

NO_VALUE = {
    "currentel", "spsel", "nzcv", "daif", "sp_el0", "sp_el1", "isr_el1", "oslar_el1", "cntpct_el0", "cntvct_el0",
    *(f"{timer}_{part}_{level}" for timer, level in (("cntp", "el0"), ("cntv", "el0"), ("cnthp", "el2"))
      for part in ("tval", "ctl", "cval")),
}  # fmt: skip
"""System registers whose value lies elsewhere: in PSTATE, in a timer, in the present stack pointer."""

ALL = (1 << 64) - 1


class SystemRow(NamedTuple):
    """Writable bits, value after a reset, and marks."""

    mask: int
    reset: int
    marks: frozenset[str]


def _rows() -> dict[str, SystemRow]:
    rows = {}
    for line in TEXT.strip().splitlines():
        name, mask, reset, *marks = line.split()
        rows[name] = SystemRow(ALL if mask == "all" else int(mask, 0), int(reset, 0), frozenset(marks))
    return rows


ROWS = _rows()
"""By name."""
