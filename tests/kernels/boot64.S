# The start of every C kernel of 64 bits: multiboot 1 header, into long mode, a stack, the C function `kernel`.

        .set MAGIC, 0x1BADB002
        .set FLAGS, 0

        .section .multiboot, "a"
        .balign 4
        .long MAGIC, FLAGS, -(MAGIC + FLAGS)

        .section .bss
        .balign 4096
tables: .skip 0x3000                    # four levels for the first GiB, the last in pages of 2 MiB
        .skip 0x4000
stack_top:

        .data
        .balign 8
gdt:    .quad 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF
gdt_pointer:
        .word . - gdt - 1
        .long gdt

        .text
        .code32
        .globl _start
_start:
        cld
        movl %eax, %edi                 # multiboot magic
        movl %ebx, %esi                 # multiboot information
        movl $tables, %ebx
        leal 0x1003(%ebx), %eax
        movl %eax, (%ebx)
        leal 0x2003(%ebx), %eax
        movl %eax, 0x1000(%ebx)
        movl $0x83, %eax
        xorl %ecx, %ecx
1:      movl %eax, 0x2000(%ebx, %ecx, 8)
        addl $0x200000, %eax
        incl %ecx
        cmpl $512, %ecx
        jb 1b
        movl %ebx, %cr3
        movl %cr4, %eax
        orl $0x20, %eax                 # PAE
        movl %eax, %cr4
        movl $0xC0000080, %ecx          # EFER.LME
        rdmsr
        orl $0x100, %eax
        wrmsr
        movl %cr0, %eax
        orl $0x80000000, %eax
        movl %eax, %cr0
        lgdt gdt_pointer
        ljmp $0x08, $1f

        .code64
1:      movl $0x10, %eax
        movl %eax, %ds
        movl %eax, %es
        movl %eax, %ss
        movl $stack_top, %esp
        xorl %ebp, %ebp
        call kernel
        outb %al, $0xF4                 # the debug-exit port
1:      cli
        hlt
        jmp 1b

        .section .note.GNU-stack, "", @progbits
