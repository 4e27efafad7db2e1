; spin: a hostile guest: it disables interrupts and never gives the processor back
bits 32
org 0x100000

start:  cli
        jmp $                           ; natively this is the end; a hypervisor still takes the processor away
