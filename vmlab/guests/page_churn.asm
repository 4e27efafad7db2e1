; page_churn: maps pages by page faults, uses them, unmaps them, with INVLPG and a load of CR3, again and again
bits 32
org 0x100000

PAGES   equ 32                          ; that come and go in each round
ROUNDS  equ 20
WINDOW  equ 0x200000                    ; where they appear
FRAMES  equ 0x180000                    ; what lies behind them: these page frames in turn
POOL    equ 27                          ; their number
DIRECTORY equ 0x110000
TABLE   equ 0x111000                    ; its page table: the first 4 MiB
start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        lidt [idt_pointer]
        jmp 0x08:.flat                  ; iret will return to this selector
.flat:  mov edi, TABLE
        mov eax, 3                      ; present, writable
.map:   stosd                           ; one to one,
        add eax, 0x1000
        cmp eax, WINDOW                 ; but nothing from here on
        jb .map
        mov dword [DIRECTORY], TABLE + 3
        mov eax, DIRECTORY
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000              ; PG
        mov cr0, eax
        mov edi, FRAMES + 3             ; the next page frame
        xor ebx, ebx
        mov ebp, ROUNDS
.round: mov esi, WINDOW
.touch: add [esi], ebp                  ; faults: `repair` maps the page
        rol ebx, 1
        add ebx, [esi]
        add esi, 0x1000
        cmp esi, WINDOW + PAGES * 0x1000
        jb .touch
.unmap: sub esi, 0x1000
        mov eax, esi
        shr eax, 12
        mov dword [TABLE + eax * 4], 0
.gone:  invlpg [esi]                    ; the table says so; the TLB must be told
        cmp esi, WINDOW
        ja .unmap
        mov eax, cr3
.switch:
        mov cr3, eax                    ; as if to another process
        dec ebp
        jnz .round

        mov dx, 0x3F8                   ; the checksum, in hexadecimal digits
        mov cl, 8
.digit: rol ebx, 4
        mov al, bl
        and al, 15
        add al, '0'
        cmp al, '9'
        jbe .print
        add al, 'a' - '9' - 1
.print: out dx, al
        dec cl
        jnz .digit
        mov al, 10
        out dx, al
        mov al, 0
        out 0xF4, al

repair: mov eax, cr2                    ; the page-fault handler
        shr eax, 12
        mov [TABLE + eax * 4], edi
        add edi, 0x1000
        cmp edi, FRAMES + POOL * 0x1000
        jb .done
        mov edi, FRAMES + 3
.done:  add esp, 4                      ; the error code
        iret                            ; back to the instruction that faulted

gdt_pointer: dw 23, gdt - $$, 0x10      ; limit, base 15:0, base 31:16
idt_pointer: dw 15 * 8 - 1
        dd gate - 14 * 8                ; only this one vector is ever used
gate:   dw repair - $$, 0x08, 0x8E00, 0x10
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
