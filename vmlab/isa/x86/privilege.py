"""Why an instruction is privileged or sensitive: the groups that a row of the table may belong to.

Popek and Goldberg (CACM 17(7), 1974) call an instruction *privileged* if it traps in user mode and not in
supervisor mode, and *sensitive* if it changes or reveals the state of the real machine. Trap-and-emulate needs
every sensitive instruction to be privileged; those of IA-32 which are not were listed by Robin and Irvine
("Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine Monitor", USENIX Security 2000).
Their list counts families differently from place to place, so this module states groups and no number.

Simplified: a class is that of the processor as it is after reset and entered into protected mode. Three control
bits move an instruction into the privileged class, and the reasons below name them: CR4.TSD (`rdtsc`), CR4.PCE
(`rdpmc`, where the bit *clear* traps) and CR4.UMIP (`sgdt sidt sldt smsw str`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from vmlab.isa.x86.instruction import Privilege

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GROUPS", "Group"]

ROBIN_IRVINE = "Robin & Irvine 2000"
SDM_CPL0 = "Intel SDM vol. 3, chapter Protection (privileged instructions)"
SDM_IOPL = "Intel SDM vol. 1, chapter Input/Output (I/O privilege level)"


@dataclass(frozen=True, slots=True)
class Group:
    """Instructions which are of one class for one reason.

    Attributes
    ----------
    name : str
        Short name, as the table's rows write it after `@`.
    privilege : Privilege
        Class of Popek and Goldberg.
    reason : str
        One sentence.
    source : str
        Where that is said.
    """

    name: str
    privilege: Privilege
    reason: str
    source: str


_P, _S = Privilege.PRIVILEGED, Privilege.SENSITIVE

GROUPS: Mapping[str, Group] = MappingProxyType(
    {
        group.name: group
        for group in (
            Group(
                "", Privilege.INNOCUOUS,
                "Computes on the program's own registers, flags and memory.",
                "Popek & Goldberg 1974",
            ),
            Group("cpl0", _P, "Faults (#GP) unless CPL is 0.", SDM_CPL0),
            Group("cpl0-hidden", _P, "Is undefined (#UD) unless CPL is 0.", "Intel SDM vol. 2, MONITOR, MWAIT, CLAC, STAC"),
            Group(
                "vmx", _P,
                "Is undefined (#UD) outside VMX operation; faults (#GP) unless CPL is 0; exits to the VMM that runs the guest.",
                "Intel SDM vol. 3, VMX Instruction Reference",
            ),
            Group(
                "svm", _P,
                "Is undefined (#UD) unless EFER.SVME is 1; faults (#GP) unless CPL is 0; leads out of a guest where the VMM asks "
                "for it (VMMCALL: is undefined, too, where it does not).",
                "AMD APM vol. 3, VMRUN and others",
            ),
            Group("iopl", _P, "Faults (#GP) when CPL exceeds IOPL; a monitor runs its guest with IOPL 0.", SDM_IOPL),
            Group(
                "pmc", _P,
                "Reads a performance counter of the real machine; faults at CPL > 0 while CR4.PCE is 0, as after reset.",
                "Intel SDM vol. 2, RDPMC",
            ),
            Group(
                "system-register", _S,
                "Stores a register of the real machine (GDTR, IDTR, LDTR, TR, CR0) at any CPL; CR4.UMIP makes it fault.",
                ROBIN_IRVINE,
            ),
            Group(
                "flags", _S,
                "Copies EFLAGS with the real IF and IOPL, or silently ignores a change of them at CPL > 0.",
                ROBIN_IRVINE,
            ),
            Group(
                "selector-check", _S,
                "Answers from the real descriptor tables and the real CPL whether a selector is visible.",
                ROBIN_IRVINE,
            ),
            Group(
                "segment", _S,
                "Moves a selector, whose RPL shows the real CPL, or loads a descriptor checked against the real CPL.",
                f"{ROBIN_IRVINE}; les, lds, lss, lfs and lgs for the same reason",
            ),
            Group(
                "far-transfer", _S,
                "Changes or compares the real CPL through a selector, gate or saved CS without any trap by itself.",
                f"{ROBIN_IRVINE}; int3, into and int1 for the same reason as int",
            ),
            Group(
                "fast-call", _S,
                "Enters ring 0 at the address in the real machine's MSRs (IA32_SYSENTER_EIP, IA32_LSTAR) at any CPL; "
                "newer than Robin & Irvine, and the same case as `int`.",
                "Intel SDM vol. 2, SYSENTER and SYSCALL",
            ),
            Group(
                "time", _S,
                "Reads the real machine's clock at any CPL; becomes privileged when CR4.TSD is set.",
                "Intel SDM vol. 2, RDTSC and RDTSCP",
            ),
            Group(
                "extended-state", _S,
                "Reads the real machine's XCR0 at any CPL once CR4.OSXSAVE is set; undefined before.",
                "Intel SDM vol. 2, XGETBV",
            ),
            Group(
                "identity", _S,
                "Tells which processor is really there at any CPL, and no control bit makes it fault; "
                "Robin & Irvine do not count it, since it shows no state that a guest could have changed.",
                "Intel SDM vol. 2, CPUID",
            ),
        )
    }
)  # fmt: skip
"""Every group by its name; the empty name is the innocuous one."""
