; The core of an interpreter of AArch64, as an emulator for x86-64 has it: threaded code over records of decoded instructions.
;
; record:  +0 handler | +8 Rd, +12 Rn: places in the register file | +16 immediate, or place of Rm | +24 record to branch to
; rbx  the present record      rbp  the register file, with the flags behind it      r12  instructions until the next look
; r13  table of pages: 256 times (page number, what to add to a guest's address)
bits 32
org 0x100000

PML4    equ 0x80000
FLAGS   equ 34 * 8

start:  mov dword [PML4], PML4 + 0x1003         ; two pages of 2 MiB, mapped to where they are
        mov dword [PML4 + 0x1000], PML4 + 0x2003
        mov dword [PML4 + 0x2000], 0x83
        mov dword [PML4 + 0x2008], 0x200083
        mov eax, PML4
        mov cr3, eax
        mov eax, cr4
        or eax, 0x20
        mov cr4, eax
        mov ecx, 0xC0000080
        rdmsr
        or eax, 0x100
        wrmsr
        lgdt [gdt_pointer]
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        jmp 0x08:inside

bits 64
inside: mov ebp, registers
        mov r13d, pages
        mov r12d, 1000000
        mov ebx, records
begin:  jmp [rbx]

%macro next 0
        add rbx, 32
        dec r12
        jz look
        jmp [rbx]
%endmacro

add_immediate:
        mov ecx, [rbx + 12]
        mov rax, [rbp + rcx]
        add rax, [rbx + 16]
        mov ecx, [rbx + 8]
        mov [rbp + rcx], rax
        next

add_register:
        mov ecx, [rbx + 12]
        mov edx, [rbx + 16]
        mov rax, [rbp + rcx]
        add rax, [rbp + rdx]
        mov ecx, [rbx + 8]
        mov [rbp + rcx], rax
        next

add_word:
        mov ecx, [rbx + 12]
        mov edx, [rbx + 16]
        mov eax, [rbp + rcx]
        add eax, [rbp + rdx]
        mov ecx, [rbx + 8]
        mov [rbp + rcx], rax
        next

sub_word:
        mov ecx, [rbx + 12]
        mov edx, [rbx + 16]
        mov eax, [rbp + rcx]
        sub eax, [rbp + rdx]
        mov ecx, [rbx + 8]
        mov [rbp + rcx], rax
        next

shift_word:                                     ; LSL
        mov edx, [rbx + 12]
        mov ecx, [rbx + 16]
        mov eax, [rbp + rdx]
        shl eax, cl
        mov ecx, [rbx + 8]
        mov [rbp + rcx], rax
        next

move:   mov ecx, [rbx + 8]
        mov rax, [rbx + 16]
        mov [rbp + rcx], rax
        next

compare:                                        ; SUBS with an immediate; the flags stay as x86 has them
        mov ecx, [rbx + 12]
        mov rdx, [rbp + rcx]
        sub rdx, [rbx + 16]
        lahf
        seto al
        mov [rbp + FLAGS], ax
        mov ecx, [rbx + 8]
        mov [rbp + rcx], rdx
        next

branch: mov rbx, [rbx + 24]
        dec r12
        jz look
        jmp [rbx]

branch_lo:
        mov eax, [rbp + FLAGS]
        add al, 127                             ; OF again
        sahf
        jc branch
        next

branch_hs:
        mov eax, [rbp + FLAGS]
        add al, 127
        sahf
        jnc branch
        next

branch_nonzero:                                 ; CBNZ of a W register
        mov ecx, [rbx + 12]
        cmp dword [rbp + rcx], 0
        jne branch
        next

%macro place 0                                  ; the host's address of Rn + Rm, to rax
        mov ecx, [rbx + 12]
        mov edx, [rbx + 16]
        mov rax, [rbp + rcx]
        add rax, [rbp + rdx]
        mov rdx, rax
        shr rdx, 12
        movzx ecx, dl
        shl ecx, 4
        cmp [r13 + rcx], rdx
        jne fill
        add rax, [r13 + rcx + 8]
%endmacro

load_byte:
        place
        movzx eax, byte [rax]
        mov ecx, [rbx + 8]
        mov [rbp + rcx], rax
        next

store_byte:
        place
        mov ecx, [rbx + 8]
        mov edx, [rbp + rcx]
        mov [rax], dl
        next

fill:   mov [r13 + rcx], rdx                    ; a miss: here the guest's tables would be walked
        mov qword [r13 + rcx + 8], MEMORY
        jmp [rbx]

look:   mov r12d, 1000000
        jmp [rbx]

leave_: mov al, 0
        out 0xF4, al

        align 8
gdt:    dq 0, 0x00AF9A000000FFFF
gdt_pointer:
        dw $ - gdt - 1
        dd gdt
        align 16
registers:
        times 36 dq 0
pages:  times 512 dq -1
records:
