"""Random kernels that change mode and privilege in every way: 16-bit segments, virtual-8086 mode, interrupts sent to themselves.

They are full of what is sensitive and unprivileged, too, so that trap-and-emulate is right for none but a lucky few.
"""

from __future__ import annotations

from tests.vmm.random_kernels import SensitiveWriter

SPARE_16 = 0x38
LOW = 0x9000
"""Where code for virtual-8086 mode is copied to: segment 0x900."""
IPI = 0x41

OWN = f"""
        mov dword [hooks + {IPI} * 4], own_interrupt
        mov word [idt + {IPI} * 8 + 4], 0x8E00
{{body}}
"""
ROUTINES = """
own_interrupt:                          ; end of interrupt, where the local APIC is to be seen
        inc dword [FREE + 0x7E0]
        mov eax, cr0
        test eax, eax
        js .hidden
        mov dword [0xFEE000B0], 0
.hidden: ret
"""


class ModeWriter(SensitiveWriter):
    """Writes one kernel."""

    frame = SensitiveWriter.frame.replace("{body}", OWN) + ROUTINES
    more = (
        "send_to_itself",
        "sixteen_bits",
        "virtual_8086",
        "odd_return",
        "flags",
        "sensitive",
        "divide",
        "user_flags",
    )

    def kinds(self):
        """Return what a kernel is made of: what others are, and these as often."""
        return (*super().kinds(), *(getattr(self, name) for name in self.more))

    def send_to_itself(self) -> str:
        """Send an interrupt to the own local APIC, before paging hides it."""
        masked = self.choice_of("cli", "sti", "cli")
        return (
            "mov eax, cr0\n and eax, 0x7FFFFFFF\n mov cr0, eax\n mov dword [0xFEE000F0], 0x1FF\n mov dword [0xFEE00350], 0x700\n"
            f" {masked}\n mov dword [0xFEE00300], 0x40000 + {IPI}\n {self.arithmetic()}\n sti\n nop\n nop"
        )

    def sixteen_bits(self) -> str:
        """Run code in a 16-bit segment, and come back."""
        inside, after = self.label(), self.label()
        body = self.choice_of(
            "pushf\n pop ax", "mov ax, 0x1234\n push ax\n pop cx\n add cx, ax", "mov eax, 0x12345678\n push eax\n pop edx",
            "call near .in16\n jmp short .out16\n.in16: inc bx\n ret\n.out16: nop", "cli\n pushf\n sti\n pop dx",
        ).replace("16", f"16_{self.labels}")  # fmt: skip
        low = f"({inside} & 0xFFFF) << 16 | 0xFFFF"
        high = f"({inside} >> 16 & 0xFF) | 0x00009A00 | ({inside} & 0xFF000000)"
        return (
            f"mov dword [gdt + {SPARE_16}], {low}\n mov dword [gdt + {SPARE_16} + 4], {high}\n jmp {SPARE_16}:0\n"
            f"bits 16\n{inside}: {body}\n jmp dword KERNEL_CODE:{after}\nbits 32\n{after}:"
        )

    def virtual_8086(self) -> str:
        """Run a little code in virtual-8086 mode with IOPL 3, until its INT 81h."""
        code, end, after = self.label(), self.label(), self.label()
        body = self.choice_of(
            "mov ax, cs\n mov ds, ax\n pushf\n pop bx", "mov ax, 0x1234\n mov ds, ax\n mov [0], ax\n add ax, [2]", "cli\n pushf\n sti\n pop cx",
            "pushfd\n pop eax\n mov es, ax", "call near .inv\n jmp short .outv\n.inv: inc si\n ret\n.outv: lahf",
        ).replace("inv", f"inv_{self.labels}").replace("outv", f"outv_{self.labels}")  # fmt: skip
        flags = self.choice_of("0x23202", "0x23002", "0x23ED7")
        return (
            f"mov esi, {code}\n mov edi, {LOW}\n mov ecx, {end} - {code}\n cld\n rep movsb\n mov dword [continue], {after}\n"
            f" push dword 0\n push dword 0\n push dword 0x3000\n push dword 0x2000\n push dword 0x700\n push dword 0xFFE\n"
            f" push dword {flags}\n push dword {LOW >> 4:#x}\n push dword 0\n iret\n"
            f"bits 16\n{code}: {body}\n int 0x81\n jmp short {code}\n{end}:\nbits 32\n{after}: mov eax, KERNEL_DATA\n mov ds, eax\n"
            " mov es, eax\n mov fs, eax\n mov gs, eax"
        )

    def odd_return(self) -> str:
        """IRET within ring 0 with odd flags."""
        target, flags = (
            self.label(),
            self.choice_of("0x2", "0x10002", "0x13246", "0x200202", "0x40ED7", "0xFFC0AAAA & ~0x24100"),
        )
        return f"push dword {flags}\n push dword KERNEL_CODE\n push dword {target}\n iret\n{target}: pushfd\n pop ecx\n cld"

    def divide(self) -> str:
        return self.choice_of("mov ecx, 0\n try div ecx", "mov edx, 5\n mov ecx, 2\n try div ecx", "mov al, 0x80\n cbw\n mov bl, 0xFF\n try idiv bl", "try aam 0", "try into")  # fmt: skip

    def user_flags(self) -> str:
        """Play with EFLAGS in ring 3, with IOPL 0 or 3."""
        inside, after = self.label(), self.label()
        body = self.choice_of("pushfd\n pop eax", "push dword 0x3202\n popfd\n pushfd\n pop eax", "try cli\n pushfd\n pop eax\n try sti", "push dword 2\n popfd\n pushfd\n pop edx")  # fmt: skip
        return (
            f"mov dword [continue], {after}\n mov dword [steps], 0\n mov dword [most_steps], 5\n"
            f" mov dword [user_flags], {self.choice_of('0x202', '0x3202', '0x3002')}\n to_user {inside}\n"
            f"{inside}: {body}\n int 0x81\n jmp {inside}\n{after}: mov eax, KERNEL_DATA\n mov ds, eax\n mov es, eax"
        )
