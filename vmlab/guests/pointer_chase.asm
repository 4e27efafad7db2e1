; pointer_chase: follows a chain through more pages than the TLB holds, so that every step of it is a miss
bits 32
org 0x100000

PAGES   equ 256                         ; of the chain, one pointer in each: a power of 2
ROUNDS  equ 64                          ; how often it is followed from end to end
CHAIN   equ 0x400000                    ; where the guest sees the chain
FRAMES  equ 0x200000                    ; where it lies
DIRECTORY equ 0x110000
TABLES  equ 0x111000                    ; page tables one after the other: of the first 4 MiB, then of the chain
start:  mov esp, 0x90000
        mov edi, TABLES
        mov eax, 3                      ; present, writable
        mov ebx, CHAIN + 3
        call map                        ; one to one
        mov eax, FRAMES + 3
        mov ebx, FRAMES + PAGES * 0x1000 + 3
        call map
        mov edi, DIRECTORY
        mov eax, TABLES + 3
        mov ebx, TABLES + (PAGES + 2047) / 1024 * 0x1000 + 3
        call map
        mov eax, DIRECTORY
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000              ; PG
        mov cr0, eax
        mov ecx, PAGES - 1
.link:  imul edx, ecx, 5                ; page n points to page 5 n + 3: all pages in turn, and no two neighbours
        add edx, 3
        and edx, PAGES - 1
        shl edx, 12
        add edx, CHAIN
        mov eax, ecx
        shl eax, 12
        mov [CHAIN + eax], edx
        dec ecx
        jns .link
        mov esi, CHAIN
        xor ebx, ebx
        mov ecx, PAGES * ROUNDS
.next:  mov esi, [esi]
        rol ebx, 1
        add ebx, esi
        dec ecx
        jnz .next

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

map:    stosd                           ; the page frames from EAX up to EBX, into the entries from EDI on
        add eax, 0x1000
        cmp eax, ebx
        jb map
        ret
