"""Names in the encoding space of the system instructions: registers, operations on caches and TLBs, barriers, PSTATE fields.

    register    op0 op1 CRn CRm op2      of MRS and MSR: op0 is 2 or 3
    operation       op1 CRn CRm op2      of SYS

Simplified: what a processor with EL0 to EL2 and a kernel of moderate size need: no debug, performance monitor or EL3
registers but the few that kernels write when they start.

Read more: Arm ARM (DDI 0487), C5.1 and D17 (registers), C5.3 to C5.5 (operations), table D18-2.
"""

from __future__ import annotations

__all__ = ["BARRIERS", "OPERATIONS", "PSTATE", "REGISTERS", "REGISTER_NAMES", "RegisterKey"]

RegisterKey = tuple[int, int, int, int, int]
"""op0, op1, CRn, CRm, op2."""

REGISTER_TEXT = """
midr_el1 3 0 0 0 0         mpidr_el1 3 0 0 0 5        revidr_el1 3 0 0 0 6
id_aa64pfr0_el1 3 0 0 4 0  id_aa64pfr1_el1 3 0 0 4 1  id_aa64dfr0_el1 3 0 0 5 0   id_aa64dfr1_el1 3 0 0 5 1
id_aa64isar0_el1 3 0 0 6 0 id_aa64isar1_el1 3 0 0 6 1 id_aa64mmfr0_el1 3 0 0 7 0  id_aa64mmfr1_el1 3 0 0 7 1
id_aa64mmfr2_el1 3 0 0 7 2 mdscr_el1 2 0 0 2 2        oslar_el1 2 0 1 0 4         oslsr_el1 2 0 1 1 4
sctlr_el1 3 0 1 0 0        actlr_el1 3 0 1 0 1        cpacr_el1 3 0 1 0 2
ttbr0_el1 3 0 2 0 0        ttbr1_el1 3 0 2 0 1        tcr_el1 3 0 2 0 2
spsr_el1 3 0 4 0 0         elr_el1 3 0 4 0 1          sp_el0 3 0 4 1 0            spsel 3 0 4 2 0
currentel 3 0 4 2 2        afsr0_el1 3 0 5 1 0        afsr1_el1 3 0 5 1 1         esr_el1 3 0 5 2 0
far_el1 3 0 6 0 0          par_el1 3 0 7 4 0          mair_el1 3 0 10 2 0         amair_el1 3 0 10 3 0
vbar_el1 3 0 12 0 0        isr_el1 3 0 12 1 0         contextidr_el1 3 0 13 0 1   tpidr_el1 3 0 13 0 4
cntkctl_el1 3 0 14 1 0     ccsidr_el1 3 1 0 0 0       clidr_el1 3 1 0 0 1         csselr_el1 3 2 0 0 0
ctr_el0 3 3 0 0 1          dczid_el0 3 3 0 0 7        nzcv 3 3 4 2 0              daif 3 3 4 2 1
tpidr_el0 3 3 13 0 2       tpidrro_el0 3 3 13 0 3     cntfrq_el0 3 3 14 0 0       cntpct_el0 3 3 14 0 1
cntvct_el0 3 3 14 0 2      cntp_tval_el0 3 3 14 2 0   cntp_ctl_el0 3 3 14 2 1     cntp_cval_el0 3 3 14 2 2
cntv_tval_el0 3 3 14 3 0   cntv_ctl_el0 3 3 14 3 1    cntv_cval_el0 3 3 14 3 2
vpidr_el2 3 4 0 0 0        vmpidr_el2 3 4 0 0 5       sctlr_el2 3 4 1 0 0         actlr_el2 3 4 1 0 1
hcr_el2 3 4 1 1 0          mdcr_el2 3 4 1 1 1         cptr_el2 3 4 1 1 2          hstr_el2 3 4 1 1 3
hacr_el2 3 4 1 1 7         ttbr0_el2 3 4 2 0 0        tcr_el2 3 4 2 0 2           vttbr_el2 3 4 2 1 0
vtcr_el2 3 4 2 1 2         spsr_el2 3 4 4 0 0         elr_el2 3 4 4 0 1           sp_el1 3 4 4 1 0
afsr0_el2 3 4 5 1 0        afsr1_el2 3 4 5 1 1        esr_el2 3 4 5 2 0           far_el2 3 4 6 0 0
hpfar_el2 3 4 6 0 4        mair_el2 3 4 10 2 0        amair_el2 3 4 10 3 0        vbar_el2 3 4 12 0 0
tpidr_el2 3 4 13 0 2       cntvoff_el2 3 4 14 0 3     cnthctl_el2 3 4 14 1 0      cnthp_tval_el2 3 4 14 2 0
cnthp_ctl_el2 3 4 14 2 1   cnthp_cval_el2 3 4 14 2 2
"""


def _registers(text: str) -> dict[str, RegisterKey]:
    words = text.split()
    found = {}
    for place in range(0, len(words), 6):
        op0, op1, crn, crm, op2 = map(int, words[place + 1 : place + 6])
        found[words[place]] = (op0, op1, crn, crm, op2)
    return found


REGISTERS = _registers(REGISTER_TEXT)
"""Name to key."""
REGISTER_NAMES = {key: name for name, key in REGISTERS.items()}
"""Key to name."""

OPERATIONS: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "ic": {"ialluis": (0, 7, 1, 0), "iallu": (0, 7, 5, 0), "ivau": (3, 7, 5, 1)},
    "dc": {
        "ivac": (0, 7, 6, 1), "isw": (0, 7, 6, 2), "csw": (0, 7, 10, 2), "cisw": (0, 7, 14, 2), "zva": (3, 7, 4, 1),
        "cvac": (3, 7, 10, 1), "cvau": (3, 7, 11, 1), "civac": (3, 7, 14, 1),
    },
    "at": {
        "s1e1r": (0, 7, 8, 0), "s1e1w": (0, 7, 8, 1), "s1e0r": (0, 7, 8, 2), "s1e0w": (0, 7, 8, 3), "s1e2r": (4, 7, 8, 0),
        "s1e2w": (4, 7, 8, 1), "s12e1r": (4, 7, 8, 4), "s12e1w": (4, 7, 8, 5), "s12e0r": (4, 7, 8, 6), "s12e0w": (4, 7, 8, 7),
    },
    "tlbi": {
        "vmalle1is": (0, 8, 3, 0), "vae1is": (0, 8, 3, 1), "aside1is": (0, 8, 3, 2), "vaae1is": (0, 8, 3, 3),
        "vale1is": (0, 8, 3, 5), "vaale1is": (0, 8, 3, 7), "vmalle1": (0, 8, 7, 0), "vae1": (0, 8, 7, 1),
        "aside1": (0, 8, 7, 2), "vaae1": (0, 8, 7, 3), "vale1": (0, 8, 7, 5), "vaale1": (0, 8, 7, 7),
        "ipas2e1is": (4, 8, 0, 1), "ipas2le1is": (4, 8, 0, 5), "alle2is": (4, 8, 3, 0), "vae2is": (4, 8, 3, 1),
        "alle1is": (4, 8, 3, 4), "vale2is": (4, 8, 3, 5), "vmalls12e1is": (4, 8, 3, 6), "ipas2e1": (4, 8, 4, 1),
        "ipas2le1": (4, 8, 4, 5), "alle2": (4, 8, 7, 0), "vae2": (4, 8, 7, 1), "alle1": (4, 8, 7, 4), "vale2": (4, 8, 7, 5),
        "vmalls12e1": (4, 8, 7, 6),
    },
}  # fmt: skip
"""Mnemonic and name to op1, CRn, CRm, op2."""

PSTATE = {"spsel": (0, 5), "daifset": (3, 6), "daifclr": (3, 7)}
"""Fields of PSTATE that MSR writes with an immediate: op1, op2."""

BARRIERS = {
    "oshld": 1, "oshst": 2, "osh": 3, "nshld": 5, "nshst": 6, "nsh": 7, "ishld": 9, "ishst": 10, "ish": 11, "ld": 13, "st": 14,
    "sy": 15,
}  # fmt: skip
"""Options of DMB and DSB."""
