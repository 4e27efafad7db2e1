; cli_sti: the privileged instructions that a kernel uses most, one after the other
bits 32
org 0x100000

start:  mov esp, 0x90000
        cli                             ; each of these is harmless in ring 0 and faults in an outer ring:
        sti                             ; there a hypervisor has to do it for the kernel
        cli
        lgdt [gdt_pointer]
        lidt [idt_pointer]
        mov eax, cr0
        mov cr0, eax
        mov eax, cr4
        mov cr4, eax
        mov eax, page_directory         ; paging stays off: CR3 is only a register here
        mov cr3, eax
        mov eax, cr3
        invlpg [start]
        clts
        wbinvd
        mov eax, dr7
        mov dr7, eax
        mov al, 'K'                     ; ports are privileged too: IOPL is 0
        mov dx, 0x3F8
        out dx, al
        mov al, 10
        out dx, al
        mov al, 0
        out 0xF4, al

gdt_pointer: dw 23, gdt - $$, 0x10      ; limit, base 15:0, base 31:16
idt_pointer:
        dw 0
        dd 0
align 8
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF    ; null, code, data: flat
page_directory equ 0x110000
