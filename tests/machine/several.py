"""A computer with several processors made ready for one experiment: all start in flat protected mode, with one IDT.

    0x02000  IDT      0x04000  stacks of the processors, 0x400 each, up to 0x8000
    0x08000  where the others start, in real mode; then all of the program

The program has the labels `first`, where processor 0 begins, and `others`, where each of the others arrives after STARTUP,
with its APIC ID in EBX. Both find `apic` (EDI is 0xFEE00000) and a stack. Symbols name the words of memory that tests read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.descriptors import INTERRUPT_GATE32, encode_gate
from vmlab.isa.x86.registers import EDI, ESP
from vmlab.machine.cpu_model import find_cpu_model
from vmlab.machine.machine import Machine
from vmlab.machine.trace import Trace
from vmlab.machine.translator import Engine

if TYPE_CHECKING:
    from vmlab.machine.trace import Event

IDT, STACKS, CODE = 0x2000, 0x4000, 0x8000
APIC = 0xFEE0_0000

PRELUDE = """
bits 16
org 0x8000
        cli
        o32 lgdt [cs:table - 0x8000]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp dword 8:arrive
table:  dw gdt_end - gdt - 1
        dd gdt
idt:    dw 0x7FF
        dd 0x2000
align 8
gdt:    dq 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
gdt_end:

bits 32
ICR     equ 0x300
ICR_HIGH equ 0x310
EOI     equ 0xB0
SVR     equ 0xF0
INIT    equ 0x4500
STARTUP equ 0x4608
OTHERS  equ 3 << 18
arrive: mov ax, 16
        mov ds, ax
        mov es, ax
        mov ss, ax
        lidt [idt]
        mov edi, 0xFEE00000
        mov dword [edi + SVR], 0x1FF
        mov ebx, [edi + 0x20]
        shr ebx, 24
        mov esp, ebx
        shl esp, 10
        add esp, 0x4400
        jmp others

; Start all the others, and wait until as many as EAX says have counted themselves in `here`.
start_all:
        mov dword [edi + ICR], OTHERS | INIT
        mov dword [edi + ICR], OTHERS | STARTUP
        mov dword [edi + ICR], OTHERS | STARTUP
.wait:  pause
        cmp [here], eax
        jb .wait
        ret

; Send the interrupt, NMI, INIT or STARTUP that EAX says to the processor that EDX says.
send:   shl edx, 24
        mov [edi + ICR_HIGH], edx
        mov [edi + ICR], eax
        ret
align 4
here    dd 0
"""


class Several:
    """A machine of several processors with a program, ready at `first`.

    Parameters
    ----------
    source : str
        What follows the prelude.
    processors : int
        How many.
    handlers : dict
        Vector to label.
    translate : bool
        True to use the block translator.
    model : str
        CPU model.
    """

    def __init__(
        self,
        source: str,
        processors: int = 2,
        handlers: dict[int, str] | None = None,
        *,
        translate: bool = False,
        model: str = "pentium-4",
    ) -> None:
        self.program = assemble(PRELUDE + source, CODE)
        self.events: list[Event] = []
        trace = Trace("events", [self.events.append])
        self.machine = Machine(1 << 20, find_cpu_model(model), trace, processors=processors)
        if translate:
            self.machine.engine = Engine()
        self.memory, self.cpus = self.machine.memory, self.machine.cpus
        self.memory.write_bytes(CODE, self.program.code)
        first = self.cpus[0]
        first.gdtr_base, first.gdtr_limit = self.symbol("gdt"), 0x17
        first.idtr_base, first.idtr_limit = IDT, 0x7FF
        first.ip = self.symbol("first")
        first.registers[ESP], first.registers[EDI] = STACKS + 0x400, APIC
        for vector, label in (handlers or {}).items():
            self.memory.write(IDT + 8 * vector, 8, encode_gate(8, self.symbol(label), INTERRUPT_GATE32))

    def symbol(self, name: str) -> int:
        """Return the address of a label."""
        return self.program.symbols[name]

    def word(self, name: str, index: int = 0) -> int:
        """Read a word of memory."""
        return self.memory.read(self.symbol(name) + 4 * index, 4)

    def run(self, steps: int = 200_000) -> str | None:
        """Run; return the outcome."""
        self.machine.run(steps)
        return self.machine.outcome

    def run_until(self, name: str, value: int, most: int = 2_000) -> None:
        """Run until a word has a value, in small steps."""
        for _ in range(most):
            if self.word(name) == value:
                return
            self.machine.run(7)
        raise AssertionError(f"{name} is {self.word(name)}, not {value}")

    def save(self) -> tuple[object, str]:
        """Return the whole state, for comparison."""
        return self.machine.save(), self.memory.digest()
