"""Random guests of a guest: a hypervisor in assembly (L1) that logs every VM exit of 32-bit code (L2), and answers it simply.

L1 asks for random controls; L2 is random instructions that lead out, fault, are interrupted, or do neither. What both see lies
in memory: L1's log holds reason, qualification, RIP, interruption and vectoring information, EAX, RFLAGS of each exit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab import guests
from vmlab.machine.program import assemble
from vmlab.machine.vmx.fields import FIELDS

if TYPE_CHECKING:
    import random

    from vmlab.machine.image import Image

__all__ = ["own_guest"]

HEAD = guests.source("thin_hypervisor").partition("\nstart:")[0]
"""Where its structures lie, and its macros."""
SOURCE = """
BITMAPS equ 0x98000                     ; of ports, A and B, then of MSRs
LOG     equ 0x200000
GUEST   equ 0x300000
GUEST_IDT equ 0x310000
GUEST_DATA equ 0x320000
MOST_EXITS equ 150
%macro note 1                           ; a field into the log
        get ebx, %1
        mov [edi], ebx
        add edi, 4
%endmacro

start:  mov esp, STACK
        lgdt [gdt_pointer]
        jmp 0x08:.flat
.flat:  mov eax, 0x10
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov eax, 0x18
        ltr ax
        mov dword [DIRECTORY], 0x83
        mov eax, DIRECTORY
        mov cr3, eax
        mov eax, 0x2010
        mov cr4, eax
        mov eax, cr0
        or eax, 0x80000020
        mov cr0, eax
        mov al, 0x11                    ; the PICs: vectors from 0x20 on, the timer alone
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 1
        out 0x21, al
        mov al, 0xFE
        out 0x21, al
        mov al, 0x34
        out 0x43, al
        mov al, {timer}
        out 0x40, al
        mov al, 0
        out 0x40, al
        mov ecx, 0x3A
        xor edx, edx
        mov eax, 5
        wrmsr
        mov ecx, 0x480
        rdmsr
        mov [VMXON_REGION], eax
        mov [VMCS], eax
        vmxon [vmxon_pointer]
        vmclear [vmcs_pointer]
        vmptrld [vmcs_pointer]
        mov dword [PML4], PML4 + 0x1007
        mov dword [PML4 + 0x1000], PML4 + 0x2007
        mov dword [PML4 + 0x2000], TABLE + 7
        mov dword [PML4 + 0x2008], TABLE + 0x1007
        mov edi, BITMAPS
        mov ecx, 0x3000 / 4
        mov eax, {bitmap}
        rep stosd
        mov edi, GUEST_IDT              ; L2's gates: error codes are taken off, then all the same
        mov ecx, 64
        mov eax, stubs
.gate:  mov [edi], ax
        mov word [edi + 2], 0x08
        mov word [edi + 4], 0x8E00
        mov edx, eax
        shr edx, 16
        mov [edi + 6], dx
        add edi, 8
        add eax, 16
        loop .gate
        control 0x4000, 0x48D, {pin}
        control 0x4002, 0x48E, 0x80000000 | {primary}
        control 0x401E, 0x48B, 0x82 | {secondary}
        control 0x400C, 0x48F, 0x8000 | {saves} ; acknowledge interrupts on exit
        control 0x4012, 0x490, 0
        set 0x201A, PML4 + 0x1E
        set 0x2000, BITMAPS
        set 0x2002, BITMAPS + 0x1000
        set 0x2004, BITMAPS + 0x2000
        set 0x2010, {offset}
        set 0x482E, {period}
        set 0x4004, {exceptions}
        set 0x4006, {mask}
        set 0x4008, {match}
        set 0x6000, {cr0_mask}
        set 0x6002, {cr4_mask}
        set 0x6004, 0x31
        set 0x6006, 0
        set 0, 7                        ; VPID
        set 0x2800, 0xFFFFFFFF
        set 0x2801, 0xFFFFFFFF
        mov eax, cr0
        set 0x6C00, eax
        mov eax, cr3
        set 0x6C02, eax
        mov eax, cr4
        set 0x6C04, eax
        set 0x0C02, 0x08
        set 0x0C04, 0x10
        set 0x0C06, 0x10
        set 0x0C00, 0x10
        set 0x0C0C, 0x18
        set 0x6C0A, tss
        set 0x6C0C, gdt
        set 0x6C0E, 0
        set 0x6C14, STACK
        set 0x6C16, leave
%assign number 0
%rep 6
        set 0x800 + 2 * number, 0x10
        describe number, 0xFFFFFFFF, 0xC093
%assign number number + 1
%endrep
        set 0x802, 0x08
        describe 1, 0xFFFFFFFF, 0xC09B
        describe 6, 0, 0x10000
        describe 7, 0xFFFF, 0x8B
        set 0x6800, 0x31
        set 0x6804, 0x2000
        set 0x6816, gdt
        set 0x4810, gdt_end - gdt - 1
        set 0x6818, GUEST_IDT
        set 0x4812, 0x1FF
        set 0x681A, 0x400
        set 0x681C, GUEST + 0xF000
        set 0x681E, guest
        set 0x6820, 2
{writes}
        vmlaunch
failed: get eax, 0x4400
        mov [LOG], eax
        mov al, 1
        out 0xF4, al

leave:  pushad
        mov edi, [end]
        note 0x4402
        note 0x6400
        note 0x681E
        note 0x4404
        note 0x4406
        note 0x4408
        note 0x440A
        note 0x440C
        note 0x2400
        note 0x640A
        note 0x4824
        note 0x6820
        note 0x6822
        mov eax, [esp + 28]
        mov [edi], eax
        add edi, 12
        mov [end], edi
        inc dword [exits]
        cmp dword [exits], MOST_EXITS
        jae done
        get eax, 0x4402
        test eax, eax
        js failed
        cmp eax, 2
        je done
        cmp eax, 48
        je violation
        cmp eax, 1
        je interrupt
        cmp eax, 0
        je exception
        cmp eax, 7
        je window
        cmp eax, 9
        je done
        cmp eax, 37
        je passed
        cmp eax, 52
        je expired
        get ecx, 0x440C                 ; what an instruction has asked for: it is passed over
        get eax, 0x681E
        add eax, ecx
        set 0x681E, eax
        set 0x4824, 0
        popad
        add eax, {step}
        jmp again
violation:
        get eax, 0x2400
        shr eax, 12
        cmp eax, 1024
        jae done
        mov ecx, eax
        shl ecx, 12
        test eax, 1
        jz .whole
        get edx, 0x6400                 ; an odd page can be written only once it has been written to
        and edx, 2
        lea ecx, [ecx + edx + 0x35]
        jmp .map
.whole: add ecx, 0x37
.map:   mov [TABLE + eax * 8], ecx
        {invept}
vectored:                               ; what was being delivered goes in once more
        get eax, 0x4408
        test eax, eax
        jns .none
        and eax, 0xFFFFEFFF
        set 0x4016, eax
        get eax, 0x440A
        set 0x4018, eax
        get eax, 0x440C
        set 0x401A, eax
.none:  popad
        jmp again
exception:                              ; it goes in, as it would have
        get eax, 0x4408
        test eax, eax
        js done                         ; but for one on the way to another
        get ebx, 0x4404
        and ebx, 0xFFFFEFFF
        mov eax, 0x4016
        vmwrite eax, ebx
        get eax, 0x4406
        set 0x4018, eax
        get eax, 0x440C
        set 0x401A, eax
        popad
        jmp again
interrupt:
        mov al, 0x20
        out 0x20, al
        inc dword [ticks]
        test dword [ticks], 1
        jz vectored
        get eax, 0x4002                 ; every other one shall go in: when it can
        or eax, 4
        set 0x4002, eax
        jmp vectored
window: get eax, 0x4002
        and eax, 0xFFFFFFFB
        set 0x4002, eax
        set 0x4016, {injected}
        popad
        jmp again
expired:
        set 0x482E, {period}
passed: popad
        jmp again
done:   mov al, 0
        out 0xF4, al
again:  vmresume
        jmp failed

align 16
stubs:
%assign vector 0
%rep 64
%if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
        add esp, 4
        jmp near fault
%elif vector < 32
        jmp near fault
%elif vector == 0x20
        jmp near tick
%else
        jmp near caught
%endif
        align 16
%assign vector vector + 1
%endrep
fault:  inc dword [GUEST_DATA + 0x40]   ; behind the instruction, which is 16 bytes with what fills it up
        and dword [esp], 0xFFFFFFF0
        add dword [esp], 16
        and dword [esp + 8], 0xFFFFFEFF
        iret
tick:   push eax
        mov al, 0x20
        out 0x20, al
        pop eax
caught: inc dword [GUEST_DATA + 0x44]
        iret

align 16
guest:
{body}
        hlt
        jmp guest

align 8
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
        dw 0x67, tss - $$, 0x8910, 0
        dq 0x00CFF2000000FFFF
gdt_end:
gdt_pointer: dw gdt_end - gdt - 1
        dd gdt
vmxon_pointer: dq VMXON_REGION
vmcs_pointer: dq VMCS
eptp:   dq PML4 + 0x1E, 0
exits:  dd 0
ticks:  dd 0
end:    dd LOG
align 16
tss:    times 26 dd 0
"""
INSTRUCTIONS = (
    "cpuid", "rdtsc", "hlt", "sti", "cli", "pushfd", "pop eax", "in al, 0x40", "in al, 0x71", "out 0x80, al", "out 0xE9, eax",
    "mov eax, cr0", "mov cr0, eax", "mov eax, cr4", "mov cr4, ecx", "mov eax, cr3", "mov cr3, ecx", "clts", "smsw eax", "lmsw ax",
    "invlpg [GUEST_DATA]", "mov eax, dr7", "mov dr6, eax", "mov eax, dr0", "pause", "wbinvd", "ud2", "int 0x30", "int3", "into", "int 0x20",
    "xor edx, edx\\n div edx", "mov eax, [0x700000]", "mov [GUEST_DATA + {page}], eax", "mov eax, [GUEST_DATA + {page}]",
    "push dword [GUEST_DATA + {page}]", "inc dword [GUEST_DATA + {page}]", "mov ds, cx", "mov cx, 0x10\\n mov ds, cx", "mov ecx, 5", "mov ecx, 0x17A",
    "rdmsr", "wrmsr", "vmcall", "vmread eax, ecx", "sgdt [GUEST_DATA + 0x100]", "lidt [idt]", "sldt ax", "str ax", "xor ecx, ecx", "lodsd",
    "mov ecx, 0x30\\n.l{n}: loop .l{n}", "mov ecx, 0x180\\n.l{n}: dec ecx\\n jnz .l{n}", "mov eax, 0x12345678", "add eax, ecx", "xchg eax, ecx", "rdpmc", "mov esi, GUEST_DATA + {page}\\n mov edi, esi\\n mov ecx, 9\\n rep movsd",
    "pushfd\\n or dword [esp], 0x100\\n popfd\\n nop", "mov edx, 0x3F8\\n mov al, 0x41\\n out dx, al", "mov edx, 0x61\\n mov edi, GUEST_DATA + {page}\\n insb", "popfd", "push 0x202", "push ecx",
)  # fmt: skip
VALUES = (
    0,
    1,
    2,
    8,
    0x10,
    0x11,
    0x80,
    0x93,
    0x9B,
    0xF3,
    0xC093,
    0x10000,
    0x20000,
    0x80000000,
    0xFFFFFFFF,
    0x100000,
    0x7FFFF000,
)


def own_guest(rng: random.Random, *, hostile: bool = False) -> Image:
    """Return the image of an L1 with random controls and a random L2; a hostile one writes nonsense into its VMCS, too."""
    lines = []
    for n in range(rng.randrange(20, 60)):
        text = rng.choice(INSTRUCTIONS).replace("\\n", "\n")
        text = text.replace("{page}", f"{rng.randrange(0, 12) * 0x1000 + rng.choice((0, 0x200, 0xFFE)):#x}").replace(
            "{n}", str(n)
        )
        text = text.replace("[idt]", "[.i]")
        lines += [text, "align 16"]
    primary = 0
    for bit in (0x80, 0x200, 0x1000, 0x8000, 0x10000, 0x800000, 0x1000000, 0x2000000, 0x10000000, 0x40000000, 0x8):
        primary |= bit * rng.randrange(2)
    values = {
        "timer": rng.choice((60, 200, 255)),
        "bitmap": rng.choice((0, 0xFFFFFFFF, 0x55555555)),
        "pin": rng.choice((0, 1)),
        "primary": primary,
        "secondary": rng.choice((0, 4, 8, 0x40, 0x20, 0x6C)),
        "offset": rng.choice((0, 1000)),
        "exceptions": rng.choice((0, 0xFFFFFFFF, 0x4048, 0x2001, rng.getrandbits(32))),
        "mask": rng.choice((0, 2)),
        "match": rng.choice((0, 2)),
        "cr0_mask": rng.choice((0, 0xFFFFFFFF, 8, 0x10)),
        "cr4_mask": rng.choice((0x2000, 0xFFFFFFFF, 0x2010)),
        "step": rng.choice((0, 1, 0x10)),
        "invept": rng.choice(("", "mov eax, 1\n invept eax, [eptp]")),
    }
    fields = [
        each for each in FIELDS if FIELDS[each].group in ("guest state", "host state") and each not in (0x6C02, 0x6C16)
    ]
    timed, trapped = not rng.randrange(2), not rng.randrange(3)
    values["pin"] |= 0x40 * timed
    values["saves"] = 0x400000 * (timed and rng.randrange(2))
    values["period"] = rng.choice((0, 1, 2, 3, 5, 20))
    values["primary"] |= 0x8000000 * trapped
    values["injected"] = rng.choice((0x80000031, 0x80000700))
    writes = ((rng.choice(fields), rng.choice(VALUES)) for _ in range(rng.randrange(1, 4) if hostile else 0))
    values["writes"] = "\n".join(f"set {field:#x}, {value:#x}" for field, value in writes)
    body = "\n".join(lines) + "\n jmp guest\n align 8\n.i: dw 0x1FF\n dd GUEST_IDT\n align 16"
    source = HEAD + SOURCE
    for name, value in (values | {"body": body}).items():
        source = source.replace("{" + name + "}", str(value))
    return assemble(source, "own guest")
