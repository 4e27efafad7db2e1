; What a test's kernel stands on: GDT, TSS, an IDT with a handler that logs every event, paging, and a way to ring 3.
;
; A test's source is assembled behind this one and holds the label `main`. It may set, before it risks something:
;   [resume]   address where an exception's handler returns to instead (0: to the instruction that faulted)
;   [hooks + 4 * vector]   address of a routine called in the handler, with EBX at the frame
; and ends with `call quit`. Nothing here is sensitive and unprivileged: a kernel written with it runs the same anywhere.
bits 32

KERNEL_CODE equ 0x08
KERNEL_DATA equ 0x10
USER_CODE   equ 0x1B
USER_DATA   equ 0x23
TASK        equ 0x28
SPARE       equ 0x30                    ; eight descriptors for the test
STACK       equ 0x9F000
USER_STACK  equ 0x8F000
LOG         equ 0x200000                ; vector, error code, EIP, CS, EFLAGS, CR2 of each event
DIRECTORY   equ 0x210000
TABLE_0     equ 0x211000                ; maps 0-4 MiB
TABLE_1     equ 0x212000                ; maps 4-8 MiB
FREE        equ 0x280000                ; memory for the test, up to 0x300000 and from 0x400000 on

; frame in a handler, from EBX
F_EDI equ 0
F_ESI equ 4
F_EBP equ 8
F_EBX equ 16
F_EDX equ 20
F_ECX equ 24
F_EAX equ 28
F_VECTOR equ 32
F_ERROR equ 36
F_EIP equ 40
F_CS equ 44
F_FLAGS equ 48
F_ESP equ 52

%macro try 1+                           ; an instruction that may fault: go on behind it
        mov dword [resume], %%next
        %1
%%next: mov dword [resume], 0
%endmacro

%macro to_user 1                        ; IRET to ring 3 at an address
        mov eax, USER_DATA
        mov ds, eax
        mov es, eax
        push dword USER_DATA
        push dword USER_STACK
        push dword [user_flags]
        push dword USER_CODE
        push dword %1
        iret
%endmacro

%ifndef TEST
org 0x100000
start:  mov esp, STACK
        lgdt [gdt_pointer]
        jmp KERNEL_CODE:.flat
.flat:  mov eax, KERNEL_DATA
        mov ds, eax
        mov es, eax
        mov fs, eax
        mov gs, eax
        mov ss, eax
        mov edi, idt                    ; every gate: its stub, DPL 0 but for 0x80
        mov eax, stubs
        mov ecx, 256
.gate:  mov [edi], ax
        mov word [edi + 2], KERNEL_CODE
        mov word [edi + 4], 0x8E00
        mov edx, eax
        shr edx, 16
        mov [edi + 6], dx
        add eax, 16
        add edi, 8
        dec ecx
        jnz .gate
        mov word [idt + 0x80 * 8 + 4], 0xEE00
        mov word [idt + 3 * 8 + 4], 0xEE00
        lidt [idt_pointer]
        mov eax, TASK
        ltr ax
        jmp body

align 16
stubs:
%assign vector 0
%rep 256
%if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
        nop
        nop
%else
        push byte 0
%endif
        push dword vector
        jmp handler
        align 16
%assign vector vector + 1
%endrep

handler:
        pushad
        mov ebx, esp
        mov eax, KERNEL_DATA
        mov ds, eax
        mov es, eax
        mov edi, [log_end]
        mov eax, [ebx + F_VECTOR]
        mov [edi], eax
        mov eax, [ebx + F_ERROR]
        mov [edi + 4], eax
        mov eax, [ebx + F_EIP]
        mov [edi + 8], eax
        mov eax, [ebx + F_CS]
        mov [edi + 12], eax
        mov eax, [ebx + F_FLAGS]
        mov [edi + 16], eax
        mov eax, cr2
        mov [edi + 20], eax
        add edi, 24
        and edi, 0xFFFF
        add edi, LOG & 0xFFFF0000
        mov [log_end], edi
        inc dword [events]
        mov eax, [ebx + F_VECTOR]
        mov ecx, [hooks + eax * 4]
        test ecx, ecx
        jz .unhooked
        call ecx
        jmp .leave
.unhooked:
        cmp eax, 32
        jae .leave
        mov ecx, [resume]
        test ecx, ecx
        jz .leave
        mov [ebx + F_EIP], ecx
.leave: test byte [ebx + F_CS], 3
        jz .same
        mov eax, USER_DATA
        mov ds, eax
        mov es, eax
.same:  mov esp, ebx
        popad
        add esp, 8
        iret

; ---- routines ----
paging_on:                              ; identity for 8 MiB, user and supervisor, writable
        mov edi, DIRECTORY
        mov ecx, 1024
        xor eax, eax
        rep stosd
        mov dword [DIRECTORY], TABLE_0 + 7
        mov dword [DIRECTORY + 4], TABLE_1 + 7
        mov edi, TABLE_0
        mov eax, 7
        mov ecx, 2048
.entry: mov [edi], eax
        add edi, 4
        add eax, 0x1000
        dec ecx
        jnz .entry
        mov eax, DIRECTORY
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80010000              ; PG and WP
        mov cr0, eax
        ret

pic_on: mov al, 0x11                    ; vectors from 0x20 on; all lines masked but those in AH
        out 0x20, al
        out 0xA0, al
        mov al, 0x20
        out 0x21, al
        mov al, 0x28
        out 0xA1, al
        mov al, 4
        out 0x21, al
        mov al, 2
        out 0xA1, al
        mov al, 1
        out 0x21, al
        out 0xA1, al
        mov al, ah
        out 0x21, al
        mov al, 0xFF
        out 0xA1, al
        ret

timer_on:                               ; counter 0 every ECX ticks
        mov al, 0x34
        out 0x43, al
        mov al, cl
        out 0x40, al
        mov al, ch
        out 0x40, al
        ret

acknowledge:                            ; a hook: end of interrupt
        mov al, 0x20
        out 0x20, al
        ret

print:  mov dx, 0x3F8                   ; the text at ESI
.next:  lodsb
        test al, al
        jz .done
        out dx, al
        jmp .next
.done:  ret

print_number:                           ; EAX in hexadecimal
        mov ecx, 8
        mov dx, 0x3F8
        mov edi, eax
.digit: rol edi, 4
        mov eax, edi
        and eax, 15
        mov al, [digits + eax]
        out dx, al
        dec ecx
        jnz .digit
        mov al, 10
        out dx, al
        ret

quit:   mov eax, [events]
        call print_number
        mov al, [status]
        out 0xF4, al
        jmp quit

user_quit:                              ; from ring 3
        int 0x80
        jmp user_quit

align 4096
resume: dd 0
log_end: dd LOG
events: dd 0
status: dd 0
user_flags: dd 0x202
digits: db "0123456789ABCDEF"
align 16
hooks:  times 256 dd 0
idt:    times 512 dd 0
align 4096
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00CFFA000000FFFF, 0x00CFF2000000FFFF
        dw tss_end - tss - 1, tss - $$, 0x8910, 0
spare:  times 8 dq 0
gdt_end:
gdt_pointer: dw gdt_end - gdt - 1
        dd gdt
idt_pointer: dw 0x7FF
        dd idt
align 16
tss:    dd 0, STACK - 0x1000, KERNEL_DATA
        times 22 dd 0
        dw 0, tss_bitmap - tss
tss_bitmap: times 128 db 0xFF           ; ports below 0x400
        db 0xFF
tss_end:
align 4096
body:
%endif
