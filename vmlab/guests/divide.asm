; divide: a division by zero, caught by the handler of vector 0, which repairs the divisor
bits 32
org 0x100000

start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        lidt [idt_pointer]
        jmp 0x08:.flat                  ; iret will return to this selector
.flat:  mov eax, 42
        xor edx, edx
        xor ecx, ecx
        div ecx                         ; #DE; executed again after the handler: 42 / 6 = 7
        add al, '0'
        call put
        mov al, 10
        call put
        mov al, 0
        out 0xF4, al

divide_error:
        push eax
        mov al, '!'
        call put
        pop eax
        mov ecx, 6
        iret                            ; #DE is a fault: the saved EIP is that of the div itself

put:    push edx
        mov dx, 0x3F8
        out dx, al
        pop edx
        ret

gdt_pointer: dw 23, gdt - $$, 0x10      ; limit, base 15:0, base 31:16
idt_pointer: dw 7, idt - $$, 0x10
idt:    dw divide_error - $$, 0x08, 0x8E00, 0x10
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
