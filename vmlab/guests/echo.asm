; echo: writes what one types at the serial port, and sleeps until one types more; Ctrl-D ends it
bits 32
org 0x100000

start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        lidt [idt_pointer]
        jmp 0x08:.flat                  ; iret will return to this selector
.flat:  mov esi, devices                ; pairs of a port and a value for it
.port:  movzx edx, byte [esi]
        mov al, [esi + 1]
        out dx, al
        add esi, 2
        cmp esi, devices_end
        jb .port
        mov dx, 0x3F9                   ; UART: interrupt when a character has arrived
        mov al, 1
        out dx, al
        sti
.sleep: hlt                             ; until someone types
        jmp .sleep

typed:  pushad                          ; IRQ 4, vector 0x24
        mov dx, 0x3F8
        in al, dx
        cmp al, 4                       ; Ctrl-D?
        je stop
        out dx, al
        mov al, 0x20                    ; end of interrupt
        out 0x20, al
        popad
        iret

stop:   mov al, 0
        out 0xF4, al

devices: db 0x20, 0x11, 0x21, 0x20, 0x21, 0x04, 0x21, 0x01, 0x21, 0xEF  ; PIC: vectors from 0x20 on, only IRQ 4
devices_end:
gdt_pointer: dw 23, gdt - $$, 0x10      ; limit, base 15:0, base 31:16
idt_pointer: dw 0x25 * 8 - 1
        dd gate - 0x24 * 8              ; only this one vector is ever used
gate:   dw typed - $$, 0x08, 0x8E00, 0x10
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
