; critical_section: main program and timer handler share a counter, guarded as kernels do it: save IF, cli, restore IF
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
        sti
.wait:  call count                      ; once by ourselves,
        hlt                             ; and once by each tick of the timer
        cmp dword [ticks], 5
        jb .wait
        mov al, 10
        mov dx, 0x3F8
        out dx, al
        mov al, 0
        out 0xF4, al

count:  pushfd                          ; is the interrupt flag set? The stack remembers it
        cli                             ; no tick may come between the load and the store
        mov eax, [counter]
        inc eax
        mov [counter], eax
        popfd                           ; back to what it was: set in the main program, clear in the handler
        ret

tick:   pushad                          ; IRQ 0, vector 0x20
        call count
        inc dword [ticks]
        mov al, '.'
        mov dx, 0x3F8
        out dx, al
        mov al, 0x20                    ; end of interrupt: without it there is no second one
        out 0x20, al
        popad
        iret

counter: dd 0
ticks:  dd 0
devices: db 0x20, 0x11, 0x21, 0x20, 0x21, 0x04, 0x21, 0x01, 0x21, 0xFE  ; PIC: vectors from 0x20 on, only IRQ 0
        db 0x43, 0x34, 0x40, 100, 0x40, 0                       ; PIT: every 100 ticks, 1000 instructions
devices_end:
gdt_pointer: dw 23, gdt - $$, 0x10      ; limit, base 15:0, base 31:16
idt_pointer: dw 0x21 * 8 - 1
        dd gate - 0x20 * 8              ; only this one vector is ever used
gate:   dw tick - $$, 0x08, 0x8E00, 0x10
align 8
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
