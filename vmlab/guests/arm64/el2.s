// el2: a thin hypervisor at EL2 with one guest at EL1: stage 2, hypercalls, a serial line by trap, WFI and TVM trapped
//
// The guest believes that it has a machine of its own. Its memory is mapped by stage 2 when it is first touched, 2 MiB at
// a time; its serial line is not mapped at all, so that each access comes here with a syndrome that says what to emulate.

        .equ START_EL, 2
        .equ UART, 0x09000000
        .equ STAGE2, 0x40010000                 // level 1: a GiB an entry
        .equ STAGE2_MEMORY, 0x40011000          // level 2 for 4000_0000: 2 MiB an entry
        .equ STACK, 0x40020000
        .equ GUEST_PAGE, 0x40a00000             // what the guest touches beyond its code
        .equ BLOCK, 0x7fd                       // AF, inner shareable, read and write, normal memory, valid
        .equ TABLE, 3
        .equ HCR, 1 << 31 | 1 << 26 | 1 << 13 | 1 << 3 | 1 << 4 | 1     // RW, TVM, TWI, FMO, IMO, VM
        .equ SYSTEM_OFF, 0x84000008

start:  ldr x0, =STACK
        mov sp, x0
        adr x0, vectors
        msr vbar_el2, x0
        ldr x0, =STAGE2                         // stage 2: nothing is mapped yet, but for the table of memory
        ldr x1, =STAGE2_MEMORY | TABLE
        str x1, [x0, #8]
        msr vttbr_el2, x0
        ldr x0, =25 | 1 << 6 | 3 << 12 | 5 << 16        // 39 bits, from level 1, 48 physical bits
        msr vtcr_el2, x0
        ldr x0, =HCR
        msr hcr_el2, x0
        ldr x0, =0x000f0999                     // the guest sees this processor in MIDR_EL1
        msr vpidr_el2, x0
        isb
        adr x0, text_start
        bl print
        adr x0, guest
        msr elr_el2, x0
        mov x0, #0x3c5                          // EL1 on SP_EL1, all masked
        msr spsr_el2, x0
        eret

        .balign 2048
vectors:
        b .
        .balign 128
        b .
        .balign 128
        b .
        .balign 128
        b .
        .balign 128
        b failed                                // from EL2 itself
        .balign 128
        b .
        .balign 128
        b .
        .balign 128
        b .
        .balign 128
        b from_guest
        .balign 128
        b .
        .balign 128
        b .
        .balign 128
        b .
        .balign 128

// The guest's x0 to x30 stand at [sp, #8 * number] while the hypervisor works for it.
from_guest:
        sub sp, sp, #256
        stp x0, x1, [sp]
        stp x2, x3, [sp, #16]
        stp x4, x5, [sp, #32]
        stp x6, x7, [sp, #48]
        stp x8, x9, [sp, #64]
        stp x10, x11, [sp, #80]
        stp x12, x13, [sp, #96]
        stp x14, x15, [sp, #112]
        stp x16, x17, [sp, #128]
        stp x18, x19, [sp, #144]
        stp x20, x21, [sp, #160]
        stp x22, x23, [sp, #176]
        stp x24, x25, [sp, #192]
        stp x26, x27, [sp, #208]
        stp x28, x29, [sp, #224]
        str x30, [sp, #240]
        mrs x20, esr_el2
        lsr x21, x20, #26
        cmp x21, #0x16
        b.eq hypercall
        cmp x21, #0x24
        b.eq data_abort
        cmp x21, #0x20
        b.eq map_block                          // it runs where nothing is mapped yet
        cmp x21, #0x01
        b.eq waited
        cmp x21, #0x18
        b.eq register
        b failed

skip:   mrs x0, elr_el2                         // the instruction is done
        add x0, x0, #4
        msr elr_el2, x0
resume: ldp x0, x1, [sp]
        ldp x2, x3, [sp, #16]
        ldp x4, x5, [sp, #32]
        ldp x6, x7, [sp, #48]
        ldp x8, x9, [sp, #64]
        ldp x10, x11, [sp, #80]
        ldp x12, x13, [sp, #96]
        ldp x14, x15, [sp, #112]
        ldp x16, x17, [sp, #128]
        ldp x18, x19, [sp, #144]
        ldp x20, x21, [sp, #160]
        ldp x22, x23, [sp, #176]
        ldp x24, x25, [sp, #192]
        ldp x26, x27, [sp, #208]
        ldp x28, x29, [sp, #224]
        ldr x30, [sp, #240]
        add sp, sp, #256
        eret

data_abort:
        mrs x22, hpfar_el2                      // bits 47:12 of the intermediate physical address, from bit 4 up
        lsl x22, x22, #8
        ldr x23, =UART
        cmp x22, x23
        b.eq serial
map_block:
        mrs x22, hpfar_el2
        lsl x22, x22, #8
        lsr x0, x22, #30
        cmp x0, #1
        b.ne failed                             // not in memory
        ubfx x0, x22, #21, #9
        and x22, x22, #~0x1fffff
        ldr x1, =BLOCK
        orr x1, x1, x22
        ldr x2, =STAGE2_MEMORY
        str x1, [x2, x0, lsl #3]
        dsb ish
        adr x0, text_fault
        bl print
        mov x0, x22
        bl print_hex
        b resume

serial: tbz x20, #24, failed                    // ISV: the syndrome tells the access
        ubfx x0, x20, #16, #5                   // SRT
        tbz x20, #6, 1f
        mov x1, #0                              // a store: number 31 is zero
        cmp x0, #31
        b.eq 2f
        ldr x1, [sp, x0, lsl #3]
2:      ldr x2, =UART
        strb w1, [x2]
        b skip
1:      cmp x0, #31                             // a load
        b.eq skip
        str xzr, [sp, x0, lsl #3]
        b skip

hypercall:                                      // the return address is behind it already
        and w0, w20, #0xffff
        cbz w0, 1f
        ldp x1, x2, [sp]                        // 1: x0 + x1
        add x1, x1, x2
        str x1, [sp]
        adr x0, text_call
        bl print
        b resume
1:      adr x0, text_end                        // 0: the guest is done
        bl print
        ldr x0, =SYSTEM_OFF
        smc #0
        b .

waited: adr x0, text_wait
        bl print
        b skip

register:
        adr x0, text_register
        bl print
        mov x0, x20
        bl print_hex
        ubfx x0, x20, #5, #5                    // Rt; TVM traps writes alone
        ldr x1, [sp, x0, lsl #3]
        msr sctlr_el1, x1                       // the guest may have what it asked for
        b skip

failed: adr x0, text_failed
        bl print
        mrs x0, esr_el2
        bl print_hex
        ldr x0, =SYSTEM_OFF
        smc #0
        b .

print:  ldr x9, =UART
1:      ldrb w10, [x0], #1
        cbz w10, 2f
        strb w10, [x9]
        b 1b
2:      ret

print_hex:
        ldr x9, =UART
        mov w2, #8
1:      ror w0, w0, #28
        and w1, w0, #15
        cmp w1, #10
        add w3, w1, #'0'
        add w4, w1, #'a' - 10
        csel w1, w3, w4, lo
        strb w1, [x9]
        subs w2, w2, #1
        b.ne 1b
        mov w1, #'\n'
        strb w1, [x9]
        ret
        .ltorg

text_start:
        .asciz "EL2: the guest starts\n"
text_fault:
        .asciz "EL2: stage 2 maps "
text_call:
        .asciz "EL2: hypercall 1\n"
text_wait:
        .asciz "EL2: the guest waits\n"
text_register:
        .asciz "EL2: the guest writes a register, syndrome "
text_end:
        .asciz "EL2: the guest is done\n"
text_failed:
        .asciz "EL2: unexpected, syndrome "

// ------------------------------------------------------------------------------------------------ the guest, at EL1
        .balign 4096
guest:  adr x0, guest_text
        bl say
        mrs x19, midr_el1
        mov x0, #40
        mov x1, #2
        hvc #1
        mov x20, x0
        ldr x0, =GUEST_PAGE
        str x20, [x0]                           // nothing is mapped there yet
        ldr x21, [x0]
        wfi
        mrs x1, sctlr_el1
        msr sctlr_el1, x1
        add w0, w21, #'0' - 40                  // 2, if the sum was right
        adr x1, guest_sum
        strb w0, [x1]
        ldr x2, =0x000f0999
        cmp x19, x2
        mov w0, #'y'
        mov w2, #'n'
        csel w0, w0, w2, eq
        strb w0, [x1, #guest_midr - guest_sum]
        adr x0, guest_end
        bl say
        hvc #0

say:    ldr x9, =UART
1:      ldrb w10, [x0], #1
        cbz w10, 2f
        strb w10, [x9]                          // each of these is a trap
        b 1b
2:      ret
        .ltorg

guest_text:
        .asciz "EL1: hello\n"
guest_end:
        .ascii "EL1: the sum is 4"
guest_sum:
        .ascii "?, the processor is the one promised: "
guest_midr:
        .asciz "?\n"
