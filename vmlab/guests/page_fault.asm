; page_fault: paging on, a page missing; the handler maps it and the instruction is executed again
bits 32
org 0x100000

DIRECTORY equ 0x110000
TABLE   equ 0x111000                    ; its page table: the first 4 MiB
MISSING equ 0x3FF000                    ; the page that is not mapped at first
start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        lidt [idt_pointer]
        jmp 0x08:.flat                  ; iret will return to this selector
.flat:  mov edi, TABLE
        mov eax, 3                      ; present, writable
.map:   stosd                           ; one to one,
        add eax, 0x1000
        cmp eax, MISSING                ; but for the last page
        jb .map
        mov dword [DIRECTORY], TABLE + 3
        mov eax, DIRECTORY
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000              ; PG
        mov cr0, eax
        mov byte [MISSING + 5], 'r'     ; faults; works the second time
        mov al, [MISSING + 5]
        mov dx, 0x3F8
        out dx, al
        mov al, 0
        out 0xF4, al

repair: mov al, 'f'                     ; the page-fault handler
        mov dx, 0x3F8
        out dx, al
        mov dword [TABLE + (MISSING >> 12) * 4], 0x112000 + 3   ; any free page frame will do
        add esp, 4                      ; the error code
        iret                            ; back to the instruction that faulted

gdt_pointer: dw 23, gdt - $$, 0x10      ; limit, base 15:0, base 31:16
idt_pointer: dw 15 * 8 - 1
        dd gate - 14 * 8            ; only this one vector is ever used
gate:   dw repair - $$, 0x08, 0x8E00, 0x10
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
