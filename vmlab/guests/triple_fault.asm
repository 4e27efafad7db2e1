; triple_fault: a fault with no handler, and none for the double fault either: the processor shuts down
bits 32
org 0x100000

start:  lidt [no_idt]
        int3                            ; no gate: #GP; no gate for that: #DF; no gate for that: shutdown

no_idt: dw 0
        dd 0
