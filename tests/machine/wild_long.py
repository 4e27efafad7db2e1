"""The kernel that brings a processor into long mode, or into PAE paging, and jumps into random bytes: see `wild`."""

from __future__ import annotations

LONG_DIRECTORY, PAE_DIRECTORY = 0x8_2000, 0x8_4000
"""CR3 of each kind of tables; page directories for 4 GiB follow behind the second, and a page table for the first 2 MiB."""

LONG = """
bits 32
org 0x100000
start:
    lgdt [gdt_pointer]
    mov eax, 0x20
    mov cr4, eax
    mov eax, LONG_DIRECTORY
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x901                ; SCE, LME, NXE
    wrmsr
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
    jmp 0x08:long
bits 64
long:
    mov rsp, 0x9F000
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rdi, idt
    xor ecx, ecx
.gate:
    mov rax, forgive
    cmp ecx, 32
    jb .exception
    mov rax, acknowledge
    jmp .set
.exception:
    mov edx, 0x00027D00
    bt edx, ecx
    jnc .set
    mov rax, forgive_with_code
.set:
    mov [rdi], ax
    mov word [rdi + 2], 0x08
    mov word [rdi + 4], 0xEE01   ; the stack of IST 1
    shr rax, 16
    mov [rdi + 6], ax
    add rdi, 16
    inc ecx
    cmp ecx, 256
    jb .gate
    lidt [idt_pointer]
    mov rax, tss
    mov [gdt + 0x3A], ax
    shr rax, 16
    mov [gdt + 0x3C], al
    mov dword [tss + 4], 0x98000
    mov dword [tss + 0x24], 0x9C000
    mov word [tss + 0x66], 0x68
    mov ax, 0x38
    ltr ax
    mov ecx, 0xC0000082          ; where SYSCALL goes: on in the noise
    mov eax, NOISE
    xor edx, edx
    wrmsr
    mov ecx, 0xC0000081
    mov edx, 0x00180008
    wrmsr
    {timer}
    {enter}

forgive_with_code:
    add rsp, 8
forgive:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rsi, [abs cursor]
    add rsi, 136
    and rsi, POOL_SIZE - 1
    mov [abs cursor], rsi
    add rsi, POOL
    mov rdi, rsp
    mov ecx, 15
    rep movsq
    lodsq
    or byte [rdi + 17], 2        ; IF
    mov rdx, [rdi]
    inc rdx
    test al, 3
    jnz .near
    shr rax, 8
    and eax, {size} - 1
    lea rdx, [rax + {window}]
.near:
    mov [rdi], rdx
    mov qword [rdi + 24], 0x97000
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    iretq
acknowledge:
    push rax
    mov al, 0x20
    out 0x20, al
    pop rax
    jmp forgive

    align 8
gdt:
    dq 0
    dq 0x00af9b000000ffff, 0x00cf93000000ffff     ; 08, 10: ring 0, 64 bits
    dq 0x00affb000000ffff, 0x00cff3000000ffff     ; 18, 20: ring 3, 64 bits
    dq 0x00cffb000000ffff, 0x000ffb000000ffff     ; 28, 30: ring 3, 32 and 16 bits
    dq 0x0000890000000067, 0                      ; 38: TSS
gdt_pointer: dw 0x47
    dd gdt
idt_pointer: dw 0xFFF
    dq idt
cursor: dq 0
tss: times 0x6C db 0
    align 16
idt: times 4096 db 0
"""

TO_RING_3 = "push 0x23\n push 0x97000\n push 0x3202\n push {selector}\n push NOISE\n iretq"
ENTER_LONG = {
    "64 bits, ring 0": "sti\n mov rax, NOISE\n jmp rax",
    "64 bits, ring 3": TO_RING_3.replace("{selector}", "0x1B"),
    "compatibility": TO_RING_3.replace("{selector}", "0x2B"),
    "compatibility, 16 bits": TO_RING_3.replace("{selector}", "0x33").replace("NOISE", "0x1000"),
}

PAE = """
    mov eax, 0x20
    mov cr4, eax
    mov eax, PAE_DIRECTORY
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
"""


def long_tables() -> bytes:
    """Return, for 0x82000: PML4, its PDPT, PAE's PDPT, four page directories and a page table: each address is its own."""
    pages = 0x1000
    level_4 = [LONG_DIRECTORY + pages | 7]
    level_3 = [PAE_DIRECTORY + pages * (n + 1) | 7 for n in range(4)]
    pae = [PAE_DIRECTORY + pages * (n + 1) | 1 for n in range(4)]
    small = PAE_DIRECTORY + 5 * pages
    directories = [small | 7] + [n << 21 | 0x87 for n in range(1, 2048)]
    table = [n << 12 | 7 for n in range(512)]
    parts = (level_4, level_3, pae, directories, table)
    return b"".join(_entries(part) for part in parts)


def _entries(values: list[int]) -> bytes:
    data = b"".join(value.to_bytes(8, "little") for value in values)
    return data.ljust(-(-len(data) // 0x1000) * 0x1000, b"\0")
