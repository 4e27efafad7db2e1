; syscall: into ring 3 by iret, back to the kernel by int 0x80
bits 32
org 0x100000

start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        lidt [idt_pointer]
        mov eax, 0x28
        ltr ax                          ; the TSS says which stack ring 0 has when ring 3 traps
        mov eax, 0x23
        mov ds, eax
        push dword 0x23                 ; what iret pops: SS,
        push dword 0x80000              ; ESP,
        push dword 2                    ; EFLAGS,
        push dword 0x1B                 ; CS: code, ring 3,
        push dword user                 ; EIP
        iret

user:   mov eax, 'u'                    ; the user program: it may not use a port, so it asks the kernel
        int 0x80
        mov eax, 10
        int 0x80
        mov eax, -1
        int 0x80

kernel: mov dx, 0x3F8                   ; the kernel: prints AL, or stops the machine
        cmp eax, -1
        je .exit
        out dx, al
        iret
.exit:  mov al, 0
        out 0xF4, al

gdt_pointer: dw 47, gdt - $$, 0x10      ; limit, base 15:0, base 31:16
idt_pointer: dw 0x81 * 8 - 1
        dd gate - 0x80 * 8            ; only this one vector is ever used
gate:   dw kernel - $$, 0x08, 0xEE00, 0x10      ; $$ is 0x100000; ring 3 may use it
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00CFFA000000FFFF, 0x00CFF2000000FFFF
        dw 103, tss - $$, 0x8910, 0
tss:    dd 0, 0x90000, 0x10             ; ESP0 and SS0
        times 100 - ($ - tss) db 0
        dd 104 << 16                    ; no I/O permission map
