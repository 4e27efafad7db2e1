; two_cpus: starts the other processors and shares work with them under a spinlock
bits 32
org 0x100000

APIC    equ 0xFEE00000                  ; each processor finds its own local APIC here
ICR     equ APIC + 0x300                ; interrupt command register
OTHERS  equ 3 << 18                     ; destination shorthand: all but oneself
ASSERT  equ 1 << 14
INIT    equ 5 << 8
STARTUP equ 6 << 8
PAGE    equ 8                           ; where the others start: 0x8000, in real mode
LAST    equ 1000
COM1    equ 0x3F8                       ; a 16550 UART

start:  mov esp, stacks
        lgdt [table]                    ; the others will need it; so does this one, to be the same
        jmp 8:.flat
.flat:  mov ax, 16
        mov ds, ax
        mov es, ax
        mov ss, ax
        call count_processors
        mov esi, trampoline             ; the code that the others start with must lie below 1 MiB
        mov edi, PAGE << 12
        mov ecx, trampoline.end - trampoline
        rep movsb
        cmp dword [processors], 1
        je .work
        mov dword [ICR], OTHERS | ASSERT | INIT
        mov ecx, 100                    ; a PC needs 10 ms here
.wait:  pause
        loop .wait
        mov dword [ICR], OTHERS | ASSERT | STARTUP | PAGE
.work:  call work
.join:  pause                           ; until all have done their part
        mov eax, [finished]
        cmp eax, [processors]
        jne .join
        mov esi, text1
        call print
        mov eax, [processors]
        call print_number
        mov esi, text2
        call print
        mov eax, [sum]
        call print_number
        mov esi, text3
        call print
        mov al, 0
        out 0xF4, al                    ; the debug-exit port: status (0 << 1) | 1

; Add up the squares of the numbers that nobody else has taken.
work:   mov eax, 1
        lock xadd [started], eax        ; EAX: which processor this is, in the order in which they came
        lea ebp, [shares + 4 * eax]
.next:  call acquire
        mov eax, [number]
        cmp eax, LAST
        ja .done
        inc dword [number]
        call release
        mul eax
        call acquire
        add [sum], eax                  ; without the lock an addition would now and then get lost
        call release
        inc dword [ebp]
        jmp .next
.done:  call release
        lock inc dword [finished]
        ret

acquire:
        push eax
.try:   mov eax, 1
        xchg [lock_word], eax           ; locks the bus by itself
        test eax, eax
        jz .mine
        pause
        jmp .try
.mine:  pop eax
        ret

release:
        mov dword [lock_word], 0
        ret

; Where another processor starts: real mode, CS = PAGE << 8, IP = 0.
bits 16
trampoline:
        cli
        mov ax, cs
        mov ds, ax
        o32 lgdt [.table - trampoline]
        mov eax, cr0
        or al, 1                        ; protected mode
        mov cr0, eax
        jmp dword 8:other
.table: dw gdt.end - gdt - 1
        dd gdt
.end:

bits 32
other:  mov ax, 16
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov eax, 256                    ; a stack of its own
        lock xadd [next_stack], eax
        mov esp, eax
        call work
.stop:  cli
        hlt
        jmp .stop

; Count the processors of the MP configuration table, to which a floating pointer leads in the BIOS's memory.
count_processors:
        mov esi, 0xF0000
.look:  cmp dword [esi], "_MP_"
        je .found
        add esi, 16
        cmp esi, 0x100000
        jb .look
        ret                             ; no table: one processor
.found: mov esi, [esi + 4]
        movzx ecx, word [esi + 34]      ; number of entries
        add esi, 44
        mov dword [processors], 0
.entry: cmp byte [esi], 0               ; type 0: a processor, 20 bytes; the others have 8
        jne .other
        inc dword [processors]
        add esi, 12
.other: add esi, 8
        loop .entry
        ret

print:  lodsb                           ; text at ESI, up to a zero byte
        test al, al
        jz .done
        call put
        jmp print
.done:  ret

print_number:                           ; EAX, in decimal
        mov ecx, 10
        xor edx, edx
        div ecx
        push edx
        test eax, eax
        jz .digit
        call print_number
.digit: pop eax
        add al, "0"

put:    push edx                        ; character AL
        mov ah, al
        mov dx, COM1 + 5                ; line status register
.wait:  in al, dx
        test al, 0x20                   ; transmitter empty?
        jz .wait
        mov al, ah
        mov dx, COM1
        out dx, al
        pop edx
        ret

text1:  db "processors: ", 0
text2:  db 10, "sum of squares: ", 0
text3:  db 10, 0

align 8
gdt:    dq 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
.end:
table:  dw gdt.end - gdt - 1
        dd gdt

align 4
processors  dd 1
started     dd 0
finished    dd 0
lock_word   dd 0
number      dd 1                        ; the next one that nobody has taken
sum         dd 0
next_stack  dd stacks + 256
shares      times 16 dd 0               ; how many numbers each processor did
            times 256 db 0
stacks      times 16 * 256 db 0
