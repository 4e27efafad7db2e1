"""What the sensitive unprivileged instructions of IA-32 show a kernel, natively and under a technique: found by running them.

Each case is a small kernel with tables of its own (GDT, LDT, TSS, IDT), which executes one instruction in its kernel mode.
The divergence finder runs it twice and says what the kernel found different after that very instruction, if anything.

Robin and Irvine group them by the requirement that they break: those that store a sensitive register, those that deal with
EFLAGS, those that look at a descriptor or store a segment register, with what they tell of its privilege, and transfers
that a monitor must see. A monitor whose interrupt gates have DPL 0 sees `int`, and far returns inwards: they trap.

Read more: Robin and Irvine, USENIX Security 2000, 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmlab.isa.x86.decoder import decode
from vmlab.isa.x86.privilege import GROUPS
from vmlab.machine.program import assemble
from vmlab.machine.trace import Emulate
from vmlab.vmm.divergence_finder import find_divergence
from vmlab.vmm.techniques import build

if TYPE_CHECKING:
    from vmlab.isa.x86.instruction import Privilege
    from vmlab.machine.image import Image
    from vmlab.machine.trace import Event
    from vmlab.vmm.divergence import Divergence

__all__ = ["Sensitive", "SensitiveCase", "sensitive"]

# What comes before the instruction, and the instruction. The kernel's code is segment 0x08, its data 0x10, its user code
# 0x1B; 0x28 is its TSS, 0x30 its LDT.
CASES = {
    "sgdt": ("", "sgdt [seen]"),
    "sidt": ("", "sidt [seen]"),
    "sldt": ("", "sldt [seen]"),
    "str": ("", "str [seen]"),
    "smsw": ("", "smsw ax"),
    "pushf": ("cli", "pushfd"),
    "popf (IF)": ("cli\n push dword 0x202", "popfd"),
    "popf (IOPL)": ("push dword 0x3002", "popfd"),
    "lar": ("mov eax, 0x10", "lar ebx, eax"),
    "lsl": ("mov eax, 0x28", "lsl ebx, eax"),
    "verr": ("mov eax, 0x1B", "verr ax"),
    "verw": ("mov eax, 0x38", "verw ax"),
    "push (segment)": ("", "push cs"),
    "pop (segment)": ("push dword 0x13", "pop es"),
    "mov (from segment)": ("", "mov eax, cs"),
    "mov (to segment)": ("mov eax, 0x13", "mov es, eax"),
    "call (far)": ("", "call 0x08:end"),
    "jmp (far)": ("", "jmp 0x0B:end"),
    "retf": ("push dword 0x08\n push dword end", "retf"),
    "int": ("", "int 0x30"),
}
FRAME = """
bits 32
org 0x100000
seen equ 0x80000                        ; on another page than the tables, which the hypervisor watches
start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        lidt [idt_pointer]
        jmp 0x08:.flat
.flat:  mov eax, 0x10
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov eax, 0x28
        ltr ax
        mov eax, 0x30
        lldt ax
        mov dword [seen], 0
        {before}
case:   {instruction}
end:    mov al, 0
        out 0xF4, al
gdt_pointer: dw gdt_end - gdt - 1
        dd gdt
idt_pointer: dw 0x31 * 8 - 1
        dd idt
align 8
gdt:    dq 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF
        dw 103, tss - $$, 0x8910, 0         ; the program lies in one stretch of 64 KiB, from 0x100000 on
        dw 7, ldt - $$, 0x8210, 0
        dq 0x00CF92000000FFFF               ; data that nobody has used yet: its accessed bit is clear
gdt_end:
ldt:    dq 0
tss:    times 26 dd 0
idt:    times 0x31 dw end - $$, 0x08, 0x8E00, 0x10
"""
OPTIONS: dict[str, Any] = {"memory": 2 << 20, "max_instructions": 1_000}


@dataclass(frozen=True, slots=True)
class SensitiveCase:
    """One instruction, and what came of it.

    Attributes
    ----------
    name : str
        Mnemonic, and the form where it matters.
    image : Image
        The kernel; the instruction stands at its label `case`.
    text : str
        The instruction.
    group : str
        Its group, as in `vmlab.classify()`.
    privilege : Privilege
        Its class.
    emulated : bool
        True where the hypervisor executed it on the VCPU.
    divergence : Divergence or None
        What the guest found different; None where it could not tell.
    """

    name: str
    image: Image
    text: str
    group: str
    privilege: Privilege
    emulated: bool
    divergence: Divergence | None

    def saw(self, side: int) -> str:
        """Return what the guest found first: natively (0) or under the technique (1); empty where there is no difference."""
        found = self.divergence
        if found is None:
            return ""
        if any(found.events):
            return ", ".join(found.events[side]) or "no fault"
        row = found.rows()[0]
        return f"{row['what']} = {row[found.names[side]]}"

    @property
    def flags(self) -> str:
        """Which flags differ, where flags do, in brackets for the table."""
        note = self.divergence.differences[0].note if self.divergence and not any(self.divergence.events) else ""
        return f" ({note} differs)" if note else ""


@dataclass(frozen=True, slots=True)
class Sensitive:
    """All cases under one technique; prints as a table.

    Attributes
    ----------
    cases : dict
        Cases by name.
    under : str
        The technique.
    cpu : str
        The CPU model.
    """

    cases: dict[str, SensitiveCase]
    under: str
    cpu: str

    def __getitem__(self, name: str) -> SensitiveCase:
        return self.cases[name]

    @property
    def differing(self) -> list[str]:
        """Names of the cases in which the guest can tell the technique."""
        return [name for name, case in self.cases.items() if case.divergence]

    @property
    def emulated(self) -> list[str]:
        """Names of the cases that the hypervisor executed on the VCPU."""
        return [name for name, case in self.cases.items() if case.emulated]

    def rows(self) -> list[dict[str, Any]]:
        """Return a table: one row each case."""
        return [
            {
                "name": case.name,
                "instruction": case.text,
                "group": case.group,
                "emulated": case.emulated,
                "same": case.divergence is None,
                "native": case.saw(0),
                self.under: case.saw(1),
            }
            for case in self.cases.values()
        ]

    def describe(self) -> str:
        """Return the table as text, by groups."""
        lines = [f"{'':<20}{'by VMM':<8}{'natively':<30}under {self.under}, cpu={self.cpu!r}"]
        for group in dict.fromkeys(case.group for case in self.cases.values()):
            lines.append(f"{group}: {GROUPS[group].reason}")
            lines += [
                f"  {case.name:<20}{'yes' if case.emulated else 'no':<6}{case.saw(0) or 'the same':<30}{case.saw(1)}{case.flags}".rstrip()
                for case in self.cases.values()
                if case.group == group
            ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


def sensitive(under: str = "trap-and-emulate", *, cpu: str = "pentium-4") -> Sensitive:
    """Run each of the sensitive unprivileged instructions in a kernel, natively and under a technique.

    Parameters
    ----------
    under : str
        The technique.
    cpu : str
        CPU model; `"umip"` has user-mode instruction prevention.

    Returns
    -------
    Sensitive

    Raises
    ------
    OptionError
        There is no such technique or model, or they do not go together.

    Examples
    --------
    >>> table = sensitive()
    >>> table["str"].saw(0), table["int"].emulated, table["pushf"].emulated
    ('[0x80000] = 0x28', True, False)
    >>> sensitive("vt-x").differing
    []
    """
    return Sensitive({name: _run(name, *parts, under, cpu) for name, parts in CASES.items()}, under, cpu)


def _run(name: str, before: str, instruction: str, under: str, cpu: str) -> SensitiveCase:
    image = assemble(FRAME.format(before=before, instruction=instruction), name)
    systems = [build(image, each, cpu=cpu, **OPTIONS) for each in ("native", under)]
    found = find_divergence(systems, ("native", under), every=1)
    case = image.symbols["case"]
    segment = image.segments[0]
    row = decode(segment.data[case - segment.address :][:15]).row
    assert found is None or found.address == case, f"{name} is not what the kernel notices: {found}"
    emulated: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, Emulate):
            emulated.append(event.address)

    system = build(image, under, cpu=cpu, detail="events", **OPTIONS)
    system.trace.observers.append(observe)
    system.run()
    return SensitiveCase(name, image, instruction, row.group, row.privilege, case in emulated, found)
