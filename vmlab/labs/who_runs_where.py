"""Exercise: in which ring does it run, and in which does it believe to run? On a system stopped in the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.labs.exercise import Exercise, Verdict
from vmlab.machine.program import assemble
from vmlab.vmm.techniques import build

if TYPE_CHECKING:
    import random

__all__ = ["WhoRunsWhere"]

# A kernel that enters user mode at once and is called back by a system call, for ever.
SOURCE = """
start:  mov esp, 0x90000
        lgdt [gdtr]
        lidt [idtr]
        mov word [gdt + 0x28], 103          ; the descriptor of the TSS
        mov dword [gdt + 0x2a], tss
        mov word [gdt + 0x2d], 0x0089
        mov ax, 0x28
        ltr ax
        push 0x23
        push 0x80000
        push 2
        push 0x1b
        push user
        iret
user:   inc ebx
        int 0x80
        jmp user
kernel: inc ecx
        iret
align 8
gdt:    dq 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0
gdtr:   dw 47
        dd gdt
idt:    times 0x80 dq 0
        dw kernel - 0x100000, 8, 0xee00, 0x10
idtr:   dw 0x81 * 8 - 1
        dd idt
tss:    dd 0, 0x90000, 16
        times 100 db 0
"""
PARTS = ("ring", "virtual ring", "in control")


class WhoRunsWhere(Exercise):
    """A system, native or virtual, stopped at a seeded step."""

    name = "who-runs-where"

    def draw(self, chance: random.Random) -> None:
        """Draw the technique, the number of guests, the step; run up to it."""
        under = chance.choice(("native", "trap-and-emulate", "trap-and-emulate"))
        count = 1 if under == "native" else chance.randrange(1, 4)
        image = assemble(SOURCE, "two-rings")
        self.system = build([image] * count if count > 1 else image, under)
        self.system.advance(chance.randrange(60, 400))
        others = f"{count} guests" if count > 1 else "1 guest"
        where = "on the bare machine" if under == "native" else f"under {under} with {others}"
        address = self.system.machine.cpu.linear_ip
        self.question = (
            f"A system {where} is stopped; the processor's next instruction is at {address:#x}. Answer with a dict:\n"
            "  'ring': the processor's real privilege level (0 to 3),\n"
            "  'virtual ring': the level that the running guest believes to have,\n"
            "  'in control': 'user', 'kernel' or 'vmm' - who has the processor.\n"
            "Look at exercise.system: .machine.cpu, .guest.vcpu, .in_vmm, vmlab.layers(exercise.system)."
        )

    def judge(self, answer: Any) -> Verdict:  # noqa: ANN401 - a dict
        """Compare with the running system."""
        system = self.system
        truth = {
            "ring": system.machine.cpu.cpl,
            "virtual ring": system.guest.vcpu.cpl,
            "in control": "vmm" if system.in_vmm else system.guest.mode,
        }
        if not isinstance(answer, dict) or set(answer) != set(truth):
            return Verdict(correct=False, message=f"Give a dict with the keys {', '.join(map(repr, PARTS))}.")
        wrong = [part for part in PARTS if answer[part] != truth[part]]
        if not wrong:
            return Verdict(correct=True, message="The real ring is the hardware's, the virtual one is in the VCPU.")
        return self.hint(
            f"Look again at {', '.join(map(repr, wrong))}.",
            f"Look again at {', '.join(map(repr, wrong))}: the lowest two bits of CS are the level, in the real CPU as "
            "in the VCPU; and under a hypervisor no guest ever runs in ring 0.",
        )
