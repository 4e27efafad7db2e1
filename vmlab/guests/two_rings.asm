; two_rings: the same cli in ring 0, where it works, and in ring 3, where the processor refuses it (#GP)
bits 32
org 0x100000

start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        lidt [idt_pointer]
        mov eax, 0x28
        ltr ax
        cli
        mov esi, ring_0
        call print
        push dword 0x23                 ; SS, ESP, EFLAGS, CS, EIP of the code in ring 3
        push dword 0x80000
        push dword 2
        push dword 0x1B
        push dword outer
        iret
outer:  cli
refused:                                ; the handler of #GP
        mov eax, 0x10                   ; iret has emptied DS, which was not for ring 3
        mov ds, eax
        mov esi, ring_3
        call print
        mov al, 0
        out 0xF4, al
print:  mov dx, 0x3F8
.next:  lodsb
        out dx, al
        cmp al, 10
        jne .next
        ret

ring_0: db "ring 0: cli works", 10
ring_3: db "ring 3: cli is refused", 10
gdt_pointer: dw 47, gdt - $$, 0x10      ; limit, base 15:0, base 31:16
idt_pointer: dw 14 * 8 - 1
        dd gate - 13 * 8            ; only this one vector is ever used
gate:   dw refused - $$, 0x08, 0x8E00, 0x10
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00CFFA000000FFFF, 0x00CFF2000000FFFF
        dw 103, tss - $$, 0x8910, 0
tss:    dd 0, 0x90000, 0x10             ; the stack of ring 0
        times 100 - ($ - tss) db 0
        dd 104 << 16                    ; no I/O permission map
