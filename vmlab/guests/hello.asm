; hello: greets on the serial port and stops the machine
bits 32
org 0x100000

COM1    equ 0x3F8                       ; a 16550 UART

start:  mov esi, text
.next:  lodsb                           ; the next character, up to a zero byte
        test al, al
        jz .done
        mov ah, al
        mov dx, COM1 + 5                ; line status register
.wait:  in al, dx
        test al, 0x20                   ; transmitter empty?
        jz .wait
        mov al, ah
        mov dx, COM1
        out dx, al
        jmp .next
.done:  mov al, 0
        out 0xF4, al                    ; the debug-exit port: status (0 << 1) | 1

text:   db "Hello from a real x86 guest.", 10, 0
