# The start of every C kernel: multiboot 1 header, a stack, the C function `kernel`, and the end of the machine.

        .set MAGIC, 0x1BADB002
        .set FLAGS, 0

        .section .multiboot, "a"
        .balign 4
        .long MAGIC, FLAGS, -(MAGIC + FLAGS)

        .section .bss
        .balign 16
        .skip 0x4000
stack_top:

        .text
        .globl _start
_start:
        movl $stack_top, %esp
        xorl %ebp, %ebp
        cld
        subl $8, %esp                   # arguments end on a 16-byte boundary, as the ABI has it
        pushl %ebx                      # multiboot information
        pushl %eax                      # multiboot magic
        call kernel
        outb %al, $0xF4                 # the debug-exit port
1:      cli
        hlt
        jmp 1b

        .section .note.GNU-stack, "", @progbits
