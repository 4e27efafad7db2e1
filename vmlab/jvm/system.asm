; system: what the Java virtual machine's process asks of the computer, in ring 0: the disk, the timer, the serial port
;
; The runtime, which is written in Python, sets EIP to one of these routines and the registers to its arguments; DONE leads
; back to it. It does not run in between, so one buffer serves all.
bits 32
org 0x8000

BUFFER  equ 0xF000                      ; a page of the system's own, below the video memory
COM1    equ 0x3F8
ATA     equ 0x1F0
DONE    equ 0xFF                        ; vector that leads back to the runtime
PERIOD  equ 300                         ; timer ticks between interrupts, as the workload's kernel has them

print:  mov esi, BUFFER                 ; ECX bytes of the buffer
.next:  mov edx, COM1 + 5
.wait:  in al, dx                       ; line status
        test al, 0x20                   ; transmitter empty?
        jz .wait
        lodsb
        mov edx, COM1
        out dx, al
        loop .next
        int DONE

read:   mov ebx, eax                    ; sector EAX to the buffer; EAX is 0, or -1 where it cannot be read
        mov edx, ATA + 6                ; device: LBA 27:24
        shr eax, 24
        or al, 0xE0
        out dx, al
        inc edx
        in al, dx                       ; the status: no drive has none
        test al, al
        jz .failed
        sub edx, 5                      ; sector count
        mov al, 1
        out dx, al
        mov eax, ebx
        mov ecx, 3                      ; LBA 7:0, 15:8, 23:16
.address:
        inc edx
        out dx, al
        shr eax, 8
        loop .address
        mov edx, ATA + 7
        mov al, 0x20                    ; READ SECTORS
        out dx, al
.wait:  in al, dx
        test al, 0x80                   ; busy?
        jnz .wait
        test al, 1                      ; error?
        jnz .failed
        mov edx, ATA
        mov edi, BUFFER
        mov ecx, 256
        rep insw
        xor eax, eax
        int DONE
.failed:
        mov eax, -1
        int DONE

start_timer:
        mov esi, devices                ; pairs of a port and a value for it
.port:  movzx edx, byte [esi]
        mov al, [esi + 1]
        out dx, al
        add esi, 2
        cmp esi, devices_end
        jb .port
        int DONE

sleep:  sti                             ; takes effect after hlt has begun: no interrupt is missed
        hlt
        cli
        mov eax, [ticks]
        int DONE

timer:  push eax                        ; IRQ 0
        inc dword [ticks]
        mov al, 0x20                    ; end of interrupt
        out 0x20, al
        pop eax
        iret

ticks:  dd 0
devices:
        db 0x20, 0x11, 0x21, 0x20, 0x21, 0x04, 0x21, 0x01, 0x21, 0xFE   ; PIC: vectors from 0x20 on, only IRQ 0
        db 0x43, 0x34                   ; PIT: counter 0, both bytes of the count, mode 2
        db 0x40, PERIOD & 0xFF, 0x40, PERIOD >> 8
devices_end:
