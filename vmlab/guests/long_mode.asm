; long_mode: into 64-bit mode, where a kernel in the upper half takes ticks and serves a program in ring 3
bits 32
org 0x100000

HIGH    equ 0xFFFFFFFF80000000          ; where the kernel sees the memory once more
PML4    equ 0x80000                     ; four tables follow each other
IDT     equ 0x90000
USER    equ 0x200000

start:  mov esp, 0x70000
        mov eax, 0x80000000             ; CPUID: is there a leaf 80000001H, and bit 29 of EDX in it?
        cpuid
        cmp eax, 0x80000001
        jb none
        mov eax, 0x80000001
        cpuid
        bt edx, 29
        jc tables
none:   mov esi, no_long_mode
        call print
        mov al, 0
        out 0xF4, al
tables:                                 ; two pages of 2 MiB, at 0 and at HIGH: the first for ring 0, the second for all
        mov dword [PML4], PML4 + 0x1007
        mov dword [PML4 + 511 * 8], PML4 + 0x2003
        mov dword [PML4 + 0x1000], PML4 + 0x3007
        mov dword [PML4 + 0x2000 + 510 * 8], PML4 + 0x3003
        mov dword [PML4 + 0x3000], 0x83
        mov dword [PML4 + 0x3008], USER + 0x87
        mov eax, PML4
        mov cr3, eax
        mov eax, cr4
        or eax, 0x20                    ; PAE
        mov cr4, eax
        mov ecx, 0xC0000080             ; EFER: LME, and SCE for syscall
        rdmsr
        or eax, 0x101
        wrmsr
        lgdt [gdt_pointer]
        mov eax, cr0
        or eax, 0x80000000              ; paging on: long mode is active, and this is compatibility mode
        mov cr0, eax
        jmp 0x18:inside                 ; the L bit of this code segment makes it 64-bit mode

print:  mov dx, 0x3F8                   ; the same bytes do the same in both modes
.next:  lodsb
        out dx, al
        cmp al, 10
        jne .next
        ret

bits 64
inside: mov rax, HIGH + kernel
        jmp rax
kernel: mov rsp, HIGH + 0x70000
        lgdt [rel high_gdt]
        lidt [rel high_idt]
        mov eax, 0x40
        ltr ax
        lea rsi, [rel entered]
        call print
        lea rax, [rel undefined]        ; three kinds of entry: an exception, an interrupt, a system call
        mov rdi, HIGH + IDT + 6 * 16
        mov cl, 0                       ; on the stack of ring 0
        call set_gate
        lea rax, [rel tick]
        mov rdi, HIGH + IDT + 0x20 * 16
        mov cl, 1                       ; on the first stack of the interrupt stack table
        call set_gate
        mov ecx, 0xC0000081             ; STAR: CS and SS of ring 0 from 18H on, of ring 3 from 28H on
        mov rax, 0x0028001800000000
        call set_msr
        mov ecx, 0xC0000082             ; LSTAR
        lea rax, [rel system_call]
        call set_msr
        mov ecx, 0xC0000084             ; FMASK: IF
        mov eax, 0x200
        call set_msr
        mov ecx, 0xC0000102             ; KERNEL_GS_BASE
        lea rax, [rel own]
        call set_msr
        lea rsi, [rel devices]
        mov ecx, (devices_end - devices) / 2
.port:  lodsw
        movzx edx, al
        mov al, ah
        out dx, al
        loop .port
        lea rsi, [rel program]
        mov edi, USER
        mov ecx, program_end - program
        rep movsb
        mov ecx, USER                   ; RIP, RFLAGS and RSP of the program
        mov r11d, 0x202
        mov esp, USER + 0x1000
        o64 sysret

set_gate:                               ; RDI: the gate, RAX: the handler, CL: number of its stack
        mov [rdi], ax
        mov word [rdi + 2], 0x18
        mov [rdi + 4], cl
        mov byte [rdi + 5], 0x8E
        shr rax, 16
        mov [rdi + 6], ax
        shr rax, 16
        mov [rdi + 8], rax
        ret

set_msr:                                ; ECX: its number, RAX: the value
        mov rdx, rax
        shr rdx, 32
        wrmsr
        ret

system_call:                            ; EAX 0: print the line at RSI; 1: how many ticks?
        swapgs
        mov [gs:0], rsp
        mov rsp, [gs:8]
        push rcx
        push r11
        test eax, eax
        jnz .time
        call print
        jmp .done
.time:  mov rax, [rel ticks]
.done:  pop r11
        pop rcx
        mov rsp, [gs:0]
        swapgs
        o64 sysret

tick:   push rax                        ; IRQ 0
        push rdx
        inc qword [rel ticks]
        mov al, '.'
        mov dx, 0x3F8
        out dx, al
        mov al, 0x20                    ; end of interrupt
        out 0x20, al
        pop rdx
        pop rax
        iretq

undefined:
        lea rsi, [rel from_ring_0]
        test byte [rsp + 8], 3          ; CS
        jz .say
        lea rsi, [rel from_ring_3]
.say:   call print
        mov al, 0
        out 0xF4, al

program:                                ; runs at USER, wherever it stands here
        lea rsi, [rel hello]
        mov eax, 0
        syscall
.wait:  mov eax, 1
        syscall
        cmp rax, 3
        jb .wait
        lea rsi, [rel line_end]
        mov eax, 0
        syscall
        ud2
hello:  db "a program in ring 3"
line_end: db 10
program_end:

no_long_mode: db "this processor has no long mode", 10
entered: db "a kernel in 64-bit mode", 10
from_ring_0: db "undefined opcode in ring 0", 10
from_ring_3: db "undefined opcode in ring 3", 10
devices: db 0x20, 0x11, 0x21, 0x20, 0x21, 0x04, 0x21, 0x01, 0x21, 0xFE  ; PIC: vectors from 0x20 on, only IRQ 0
        db 0x43, 0x34, 0x40, 50, 0x40, 0                        ; PIT: every 50 ticks, 500 instructions
devices_end:
        align 8
ticks:  dq 0
own:    dq 0, HIGH + 0x70000            ; the program's RSP while the kernel runs; the kernel's
gdt_pointer: dw 0x4F
        dd gdt
high_gdt: dw 0x4F
        dq HIGH + gdt
high_idt: dw 0x21 * 16 - 1
        dq HIGH + IDT
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF    ; 08, 10: code and data of 32 bits
        dq 0x00AF9A000000FFFF, 0x00CF92000000FFFF       ; 18, 20: of the kernel
        dq 0, 0x00CFF2000000FFFF, 0x00AFFA000000FFFF    ; 30, 38: of the program
        dw 0x67, tss - $$, 0x8910, 0x8000               ; 40: TSS, of 16 bytes
        dd HIGH >> 32, 0
tss:    dd 0
        dq HIGH + 0x70000, 0, 0, 0                      ; the stack of ring 0
        dq HIGH + 0x6F000                               ; the first of the interrupt stack table
        times 0x66 - ($ - tss) db 0
        dw 0x68                                         ; no I/O permission map
