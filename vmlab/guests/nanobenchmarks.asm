; nanobenchmarks: does one small thing over and over, one of those of Adams and Agesen, chosen by WHICH
bits 32
org 0x100000

WHICH   equ 0                           ; 0 nothing, 1 syscall, 2 in, 3 cr8wr, 4 callret, 5 pgfault, 6 divzero, 7 ptemod
ROUNDS  equ 100                         ; how often
DIRECTORY equ 0x110000
TABLE   equ 0x111000                    ; maps the first 4 MiB one to one, for both rings
PML4    equ 0x114000                    ; three tables for 64-bit mode follow each other
ABSENT  equ 0x300000                    ; a page that is not there
UNUSED  equ 0x301000                    ; one that is, and that nobody uses

start:  mov esp, 0x90000
        lgdt [gdt_pointer]
        mov word [gates], divided - $$
        mov word [gates + 14 * 8], faulted - $$
        lidt [idt_pointer]
        mov eax, 0x28
        ltr ax
        mov eax, 0x23                   ; data, for both rings
        mov ds, eax
        mov es, eax
        mov edi, TABLE
        mov eax, 7                      ; present, writable, for ring 3, too
.entry: stosd
        add eax, 0x1000
        cmp eax, 0x400000
        jb .entry
        mov dword [TABLE + ABSENT / 0x400], 0
        mov dword [DIRECTORY], TABLE + 7
        mov ecx, ROUNDS
        jmp [tests + WHICH * 4]
tests:  dd do_nothing, do_syscall, do_in, do_cr8wr, do_callret, do_pgfault, do_divzero, do_ptemod

do_nothing:
        call paging_on
.next:  loop .next
        jmp stop

do_callret:
        call paging_on
.next:  call nothing
        loop .next
        jmp stop
nothing: ret

do_in:  call paging_on
        mov edx, 0x80
.next:  in al, dx
        loop .next
        jmp stop

do_divzero:
        call paging_on
        xor ebx, ebx
.next:  div ebx                         ; two bytes: the handler goes on behind them
        loop .next
        jmp stop
divided: add dword [esp], 2             ; EIP
        iret

do_pgfault:
        call paging_on
        mov ebx, ABSENT
.next:  mov eax, [ebx]                  ; two bytes
        loop .next
        jmp stop
faulted: add dword [esp + 4], 2         ; EIP, above the error code
        add esp, 4
        iret

do_ptemod:
        call paging_on
        mov ebx, TABLE + UNUSED / 0x400
        mov eax, UNUSED + 7
.next:  mov [ebx], eax
        loop .next
        jmp stop

do_syscall:
       call paging_on
        mov ebx, ecx
        xor edx, edx
        mov ecx, 0x174                  ; IA32_SYSENTER_CS, _ESP, _EIP
        mov eax, 0x08
        wrmsr
        inc ecx
        mov eax, esp
        wrmsr
        inc ecx
        mov eax, serve
        wrmsr
        mov edx, user
        sysexit                         ; into ring 3, at EDX
user:   sysenter
serve:  dec ebx                         ; ring 0
        jz stop
        sysexit

do_cr8wr:
        mov dword [PML4], PML4 + 0x1003
        mov dword [PML4 + 0x1000], PML4 + 0x2003
        mov dword [PML4 + 0x2000], 0x83 ; the first 2 MiB
        mov eax, PML4
        mov cr3, eax
        mov eax, 0x20                   ; PAE
        mov cr4, eax
        mov ecx, 0xC0000080             ; EFER: LME
        rdmsr
        or eax, 0x100
        wrmsr
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        jmp 0x30:.long
bits 64
.long:  mov ecx, ROUNDS
        mov eax, 5
.next:  mov cr8, rax
        loop .next
bits 32                                 ; the same bytes do the same in both modes
stop:   mov al, 0
        out 0xF4, al

paging_on:
        mov eax, DIRECTORY
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000              ; PG
        mov cr0, eax
        ret

align 8
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00CFFA000000FFFF, 0x00CFF2000000FFFF
        dw 103, tss - $$, 0x8910, 0
        dq 0x00AF9A000000FFFF           ; 30: code of 64 bits
gdt_pointer: dw $ - gdt - 1
        dd gdt
idt_pointer: dw 15 * 8 - 1
        dd gates
align 8
gates:  times 15 dw 0, 0x08, 0x8E00, 0x10       ; of ring 0, at 0x100000
tss:    dd 0, 0x90000, 0x10             ; ESP0 and SS0
        times 100 - ($ - tss) db 0
        dd 104 << 16                    ; no I/O permission map
