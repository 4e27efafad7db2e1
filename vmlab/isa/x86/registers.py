"""Names and numbers of the x86 registers and flags.

Numbers are those of the machine encoding (Intel SDM vol. 2, table 2-2 and 3-1), so that a register field
of an instruction indexes these tuples.
"""

from __future__ import annotations

EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI = range(8)
R8, R9, R10, R11, R12, R13, R14, R15 = range(8, 16)
RIP = 16  # as the base of an address relative to the next instruction
ES, CS, SS, DS, FS, GS = range(6)

NAMES_8_LEGACY = ("al", "cl", "dl", "bl", "ah", "ch", "dh", "bh")
NAMES_16 = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
NAMES_32 = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
NAMES_64 = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
GENERAL_NAMES = {
    8: ("al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", *(f"r{n}b" for n in range(8, 16))),
    16: (*NAMES_16, *(f"r{n}w" for n in range(8, 16)), "ip"),
    32: (*NAMES_32, *(f"r{n}d" for n in range(8, 16)), "eip"),
    64: (*NAMES_64, "rip"),
}
"""Names of the sixteen general registers of 64-bit mode by their width, with the instruction pointer after them."""
SEGMENT_NAMES = ("es", "cs", "ss", "ds", "fs", "gs")
CONTROL_NAMES = tuple(f"cr{n}" for n in range(16))
DEBUG_NAMES = tuple(f"dr{n}" for n in range(16))

# EFLAGS (SDM vol. 1, 3.4.3):
#  21  20   19   18  17  16   14  13:12  11  10   9   8   7   6   4   2   1   0
#  ID  VIP  VIF  AC  VM  RF   NT  IOPL   OF  DF  IF  TF  SF  ZF  AF  PF   1  CF
CF, PF, AF, ZF, SF = 1 << 0, 1 << 2, 1 << 4, 1 << 6, 1 << 7
TF, IF, DF, OF = 1 << 8, 1 << 9, 1 << 10, 1 << 11
IOPL, NT, RF, VM = 3 << 12, 1 << 14, 1 << 16, 1 << 17
AC, VIF, VIP, ID = 1 << 18, 1 << 19, 1 << 20, 1 << 21
FIXED = 1 << 1
ARITHMETIC = CF | PF | AF | ZF | SF | OF

FLAG_BITS = {
    "CF": CF, "PF": PF, "AF": AF, "ZF": ZF, "SF": SF, "TF": TF, "IF": IF, "DF": DF, "OF": OF,
    "NT": NT, "RF": RF, "VM": VM, "AC": AC, "VIF": VIF, "VIP": VIP, "ID": ID,
}  # fmt: skip

# CR0 and CR4 (SDM vol. 3, 2.5)
CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE = (1 << n for n in range(6))
CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = 1 << 16, 1 << 18, 1 << 29, 1 << 30, 1 << 31
CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PSE, CR4_PAE, CR4_MCE, CR4_PGE, CR4_PCE = (1 << n for n in range(9))
CR4_UMIP, CR4_LA57, CR4_VMXE, CR4_SMXE = 1 << 11, 1 << 12, 1 << 13, 1 << 14
CR4_FSGSBASE, CR4_PCIDE, CR4_OSXSAVE = 1 << 16, 1 << 17, 1 << 18
CR4_SMEP, CR4_SMAP, CR4_PKE = 1 << 20, 1 << 21, 1 << 22

# DR6, the causes of #DB that can be told (SDM vol. 3, 18.2.3)
DR6_SINGLE_STEP, DR6_TASK_SWITCH = 1 << 14, 1 << 15
DR6_BREAKPOINTS, DR7_ENABLED, DR7_GD = 0xF, 0xFF, 1 << 13

# IA32_EFER (SDM vol. 3, 2.2.1; SVME: AMD APM vol. 2, 3.1.7)
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE, EFER_SVME = 1 << 0, 1 << 8, 1 << 10, 1 << 11, 1 << 12

# Numbers of model-specific registers (SDM vol. 4, table 2-2)
MSR_TSC, MSR_APIC_BASE, MSR_FEATURE_CONTROL, MSR_BIOS_SIGN_ID = 0x10, 0x1B, 0x3A, 0x8B
MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP = 0x174, 0x175, 0x176
MSR_MISC_ENABLE, MSR_PAT = 0x1A0, 0x277
MSR_EFER, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FMASK = 0xC000_0080, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
MSR_VM_CR, MSR_VM_HSAVE_PA = 0xC001_0114, 0xC001_0117
MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX = 0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103


def describe_flags(flags: int) -> str:
    """Name the flags that are set.

    >>> describe_flags(0x246)
    'IF ZF PF'
    """
    names = [name for name, bit in FLAG_BITS.items() if flags & bit]
    iopl = (flags & IOPL) >> 12
    return " ".join([*reversed(names), *([f"IOPL={iopl}"] if iopl else [])])
