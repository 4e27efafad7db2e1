; popf: saves IF by pushf and restores it by popf: right natively, wrong where the kernel is not in ring 0
bits 32
org 0x100000

start:  mov esp, 0x90000
        cli
        mov esi, after_cli
        call print_if                   ; natively: off
        sti
        mov esi, after_sti
        call print_if                   ; natively: on
        pushfd                          ; the idiom around a critical section: remember IF,
        cli
        popfd                           ; and restore it. In an outer ring popf does not touch IF and does not trap:
        mov esi, after_popf             ; the hypervisor still believes what cli told it, no interrupt will come
        call print_if                   ; natively: on
        mov al, 0
        out 0xF4, al

print_if:                               ; the text at ESI, then "on" or "off"
        call print
        mov esi, off
        pushfd                          ; in an outer ring this is the real IF, not the one the kernel believes in
        pop eax
        test eax, 0x200
        jz print
        mov esi, on
print:  mov dx, 0x3F8
.next:  lodsb
        test al, al
        jz .done
        out dx, al
        jmp .next
.done:  ret

after_cli: db "after cli:  interrupts are ", 0
after_sti: db "after sti:  interrupts are ", 0
after_popf: db "after popf: interrupts are ", 0
on:     db "on", 10, 0
off:    db "off", 10, 0
