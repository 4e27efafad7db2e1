// workload: a kernel with a process at EL0: disk, a sieve, pages on demand, system calls, timer ticks
//
// The kernel runs at EL1 in the high half (TTBR1), the process at EL0 in the low half (TTBR0). Its result is one line, the
// same as that of every other kind of virtual machine in this laboratory.

        .equ RAM, 0x40000000
        .equ HIGH, 0xffffff8000000000           // TTBR1 maps the first GiBs of physical memory from here on
        .equ UART, 0x09000000
        .equ GICD, 0x08000000
        .equ GICC, 0x08010000
        .equ BLOCK, 0x0a000000
        .equ TICK, 200                          // counter ticks of a timer tick
        .equ SECTORS, 8
        .equ PRIMES, 2000
        .equ PAGES, 8
        .equ CALLS, 64

// physical places
        .equ KERNEL_TABLE, 0x40010000           // TTBR1: level 1, then nothing below (blocks of 1 GiB)
        .equ USER_TABLE, 0x40011000             // TTBR0: levels 1, 2, 3
        .equ USER_LEVEL2, 0x40012000
        .equ USER_LEVEL3, 0x40013000
        .equ KERNEL_STACK, 0x40018000
        .equ BUFFER, 0x40020000                 // a sector, by DMA
        .equ FRAMES, 0x40200000                 // frames to give away

// the process's addresses
        .equ USER_CODE, 0x400000
        .equ USER_DATA, 0x500000                // from here on, pages come on demand
        .equ USER_STACK, 0x600000

// descriptors
        .equ TABLE, 3
        .equ NORMAL, 0x401                      // a block: AF, attribute 0
        .equ DEVICE, 0x405 | 1 << 53 | 1 << 54  // attribute 1, never executed
        .equ USER_RX, 0x4c3 | 1 << 11           // a page: AF, AP = read-only for both, not global; EL0 executes it
        .equ USER_RW, 0x443 | 1 << 11 | 1 << 53 | 1 << 54

// ---------------------------------------------------------------------------------------------- start, the MMU off
start:
        ldr x0, =KERNEL_TABLE
        ldr x1, =0 | DEVICE
        str x1, [x0]                            // 0000_0000: devices
        ldr x1, =RAM | NORMAL
        str x1, [x0, #8]                        // 4000_0000: memory
        ldr x0, =USER_TABLE
        ldr x1, =RAM | NORMAL
        str x1, [x0, #8]                        // for the next few instructions, the kernel where it is
        ldr x1, =USER_LEVEL2 | TABLE
        str x1, [x0]
        ldr x0, =USER_LEVEL2
        ldr x1, =USER_LEVEL3 | TABLE
        str x1, [x0, #USER_CODE >> 21 << 3]
        ldr x0, =USER_LEVEL3                    // one table for 4 MiB to 6 MiB
        adr x1, user
        ldr x2, =USER_RX
        orr x1, x1, x2
        str x1, [x0]

        mov x0, #0x00ff                         // attribute 0: normal memory, 1: Device-nGnRnE
        msr mair_el1, x0
        ldr x0, =25 | 25 << 16 | 2 << 30 | 5 << 32      // 39 bits each, 4 KiB granules, 48 physical bits
        msr tcr_el1, x0
        ldr x0, =USER_TABLE
        msr ttbr0_el1, x0
        ldr x0, =KERNEL_TABLE
        msr ttbr1_el1, x0
        isb
        mrs x0, sctlr_el1
        orr x0, x0, #1
        orr x0, x0, #0x18                       // SA, SA0
        msr sctlr_el1, x0
        isb
        ldr x0, =HIGH
        adr x1, high
        orr x0, x0, x1
        br x0

high:   ldr x0, =HIGH | KERNEL_STACK
        mov sp, x0
        adr x0, vectors
        msr vbar_el1, x0
        ldr x0, =USER_TABLE
        str xzr, [x0, #8]                       // the low half is the process's from here on
        tlbi vmalle1
        dsb ish
        isb
        bl start_interrupts
        ldr x0, =FRAMES
        adr x1, next_frame
        str x0, [x1]
        ldr x0, =USER_CODE
        msr elr_el1, x0
        ldr x0, =USER_STACK
        msr sp_el0, x0
        msr spsr_el1, xzr                       // EL0, interrupts open
        eret

start_interrupts:
        ldr x0, =HIGH | GICD
        mov w1, #1
        str w1, [x0]
        ldr w1, =1 << 30                        // the physical timer
        str w1, [x0, #0x100]
        ldr w1, =1 << 16                        // 48: the block device
        str w1, [x0, #0x104]
        ldr x0, =HIGH | GICC
        mov w1, #0xf0
        str w1, [x0, #4]
        mov w1, #1
        str w1, [x0]
        mov x1, #TICK
        msr cntp_tval_el0, x1
        mov x1, #1
        msr cntp_ctl_el0, x1
        ret

// --------------------------------------------------------------------------------------------------------- vectors
        .balign 2048
vectors:
        b panic
        .balign 128
        b panic
        .balign 128
        b panic
        .balign 128
        b panic
        .balign 128
        b panic                                 // from EL1 on SP_EL1: synchronous
        .balign 128
        b kernel_irq
        .balign 128
        b panic
        .balign 128
        b panic
        .balign 128
        b user_sync                             // from EL0
        .balign 128
        b user_irq
        .balign 128
        b panic
        .balign 128
        b panic
        .balign 128

panic:  adr x0, panic_text
        bl print
        ldr x0, =0x84000008
        hvc #0

// Registers that a handler may change: x0 to x18 and x30.
save_registers:                                 // x30 is saved by the caller, at [sp]
        stp x0, x1, [sp, #16]
        stp x2, x3, [sp, #32]
        stp x4, x5, [sp, #48]
        stp x6, x7, [sp, #64]
        stp x8, x9, [sp, #80]
        stp x10, x11, [sp, #96]
        mrs x10, elr_el1
        mrs x11, spsr_el1
        stp x10, x11, [sp, #112]
        ret

restore_and_return:
        ldp x10, x11, [sp, #112]
        msr elr_el1, x10
        msr spsr_el1, x11
        ldp x10, x11, [sp, #96]
        ldp x8, x9, [sp, #80]
        ldp x6, x7, [sp, #64]
        ldp x4, x5, [sp, #48]
        ldp x2, x3, [sp, #32]
        ldp x0, x1, [sp, #16]
        ldr x30, [sp], #128
        eret

user_irq:
kernel_irq:
        str x30, [sp, #-128]!
        bl save_registers
        bl interrupt
        b restore_and_return

// Acknowledge the interrupt, do what it wants, end it.
interrupt:
        ldr x9, =HIGH | GICC
        ldr w10, [x9, #12]
        cmp w10, #30
        b.ne 1f
        mov x1, #TICK                           // the timer
        msr cntp_tval_el0, x1
        adr x1, ticks
        ldr x2, [x1]
        add x2, x2, #1
        str x2, [x1]
        b 2f
1:      cmp w10, #48
        b.ne 3f
        ldr x1, =HIGH | BLOCK                   // the disk has finished
        ldr w2, [x1, #0x1c]
        adr x3, disk_status
        str x2, [x3]
        str wzr, [x1, #0x20]
2:      str w10, [x9, #16]
3:      ret

user_sync:
        str x30, [sp, #-128]!
        bl save_registers
        mrs x9, esr_el1
        lsr x10, x9, #26
        cmp x10, #0x15                          // SVC
        b.eq system_call
        cmp x10, #0x24                          // a data abort from EL0
        b.ne panic
        and x10, x9, #0x3c
        cmp x10, #4                             // a translation fault
        b.ne panic
        mrs x0, far_el1
        bl demand_page
        b restore_and_return

// A page of zeros for address x0, if it lies in the process's data.
demand_page:
        ldr x1, =USER_DATA
        cmp x0, x1
        b.lo panic
        ldr x1, =USER_STACK
        cmp x0, x1
        b.hs panic
        adr x1, next_frame
        ldr x2, [x1]
        add x3, x2, #0x1000
        str x3, [x1]
        ldr x3, =HIGH
        orr x3, x3, x2
        add x4, x3, #0x1000
1:      stp xzr, xzr, [x3], #16
        cmp x3, x4
        b.lo 1b
        ldr x3, =USER_RW
        orr x2, x2, x3
        ldr x1, =HIGH | USER_LEVEL3
        ubfx x0, x0, #12, #9
        str x2, [x1, x0, lsl #3]
        dsb ish
        ret

// ---------------------------------------------------------------------------------------------------- system calls
// x8: 0 getpid, 1 read sector x0 to x1, 2 ticks so far, 3 wait for an interrupt, 4 write x1 bytes from x0, 5 exit
system_call:
        cmp x8, #5
        b.hi panic
        adr x9, call_table
        ldr w10, [x9, x8, lsl #2]
        add x9, x9, x10
        blr x9
        str x0, [sp, #16]                       // its result
        b restore_and_return

call_table:
        .word call_getpid - call_table, call_read - call_table, call_ticks - call_table
        .word call_wait - call_table, call_write - call_table, call_exit - call_table

call_getpid:
        mov x0, #1
        ret

call_ticks:
        adr x0, ticks
        ldr x0, [x0]
        ret

call_wait:
        wfi                                     // interrupts are masked: it ends, and the process takes it
        ret

call_read:
        ldr x9, =HIGH | BLOCK
        str w0, [x9, #0x08]
        mov w10, #1
        str w10, [x9, #0x0c]
        ldr w11, =BUFFER
        str w11, [x9, #0x10]
        str wzr, [x9, #0x14]
        adr x2, disk_status
        str xzr, [x2]
        str w10, [x9, #0x18]
        mov x4, x30
        mov x5, x1
1:      wfi
        bl interrupt
        adr x2, disk_status
        ldr x3, [x2]
        cbz x3, 1b
        cmp x3, #2
        b.ne panic
        ldr x2, =HIGH | BUFFER
        add x3, x2, #512
2:      ldr x6, [x2], #8
        str x6, [x5], #8                        // the process has touched the page, so it is there
        cmp x2, x3
        b.lo 2b
        mov x0, #0
        ret x4

call_write:
        ldr x9, =HIGH | UART
        add x1, x0, x1
1:      cmp x0, x1
        b.hs 2f
        ldrb w10, [x0], #1
        str w10, [x9]
        b 1b
2:      ret

call_exit:
        ldr x0, =0x84000008                     // PSCI SYSTEM_OFF
        hvc #0

print:  ldr x9, =HIGH | UART
1:      ldrb w10, [x0], #1
        cbz w10, 2f
        str w10, [x9]
        b 1b
2:      ret
        .ltorg

panic_text:
        .asciz "panic\n"
        .balign 8
next_frame:
        .quad 0
ticks:  .quad 0
disk_status:
        .quad 0

// ----------------------------------------------------------------------------------------------------- the process
        .balign 4096
user:   ldr x19, =USER_DATA                     // 1. the disk: 8 sectors, one call each, hashed as Java does
        mov x20, #0
        mov w21, #0
1:      strb wzr, [x19]                         // touch it: the kernel copies to pages that are there
        mov x0, x20
        mov x1, x19
        mov x8, #1
        svc #0
        mov x2, #0
2:      ldrb w3, [x19, x2]
        lsl w4, w21, #5
        sub w4, w4, w21
        add w21, w4, w3
        add x2, x2, #1
        cmp x2, #512
        b.lo 2b
        add x20, x20, #1
        cmp x20, #SECTORS
        b.lo 1b

        ldr x19, =USER_DATA + 0x10000           // 2. the sieve
        mov x0, #0
        mov x22, #0                             // how many primes
        mov x1, #2
1:      ldrb w2, [x19, x1]
        cbnz w2, 3f
        add x22, x22, #1
        add x3, x1, x1
        mov w4, #1
2:      cmp x3, #PRIMES
        b.hs 3f
        strb w4, [x19, x3]
        add x3, x3, x1
        b 2b
3:      add x1, x1, #1
        cmp x1, #PRIMES
        b.lo 1b

        ldr x19, =USER_DATA + 0x20000           // 3. eight new pages
        mov x1, #0
1:      add x2, x1, #1
        str x2, [x19, x1, lsl #3]
        lsl x3, x1, #12
        str x2, [x19, x3]
        mov x1, x2
        cmp x1, #PAGES
        b.lo 1b
        mov x23, #0
        mov x1, #0
2:      lsl x3, x1, #12
        ldr x2, [x19, x3]
        add x23, x23, x2
        add x1, x1, #1
        cmp x1, #PAGES
        b.lo 2b

        mov x20, #CALLS                         // 4. the cheapest system call
        mov x24, #0
1:      mov x8, #0
        svc #0
        add x24, x24, x0
        subs x20, x20, #1
        b.ne 1b

        mov x8, #2                              // 5. two ticks
        svc #0
        add x20, x0, #2
1:      mov x8, #3
        svc #0
        mov x8, #2
        svc #0
        cmp x0, x20
        b.lo 1b

        ldr x19, =USER_DATA + 0x30000           // 6. one line
        mov x25, x19
        adr x0, text_primes
        bl append
        mov x0, x22
        bl decimal
        adr x0, text_disk
        bl append
        mov w0, w21
        bl hexadecimal
        adr x0, text_pages
        bl append
        mov x0, x23
        bl decimal
        mov w1, #'\n'
        strb w1, [x25], #1
        mov x0, x19
        sub x1, x25, x19
        mov x8, #4
        svc #0
        mov x8, #5
        svc #0

append: ldrb w1, [x0], #1                       // a text, at x25
        cbz w1, 1f
        strb w1, [x25], #1
        b append
1:      ret

decimal:                                        // x0 in decimal, up to 20 digits
        add x2, x19, #256
        mov x3, x2
        mov x4, #10
1:      udiv x1, x0, x4
        msub x5, x1, x4, x0
        add w5, w5, #'0'
        strb w5, [x3, #-1]!
        mov x0, x1
        cbnz x0, 1b
2:      ldrb w5, [x3], #1
        strb w5, [x25], #1
        cmp x3, x2
        b.lo 2b
        ret

hexadecimal:                                    // w0 in eight digits
        mov w2, #8
1:      ror w0, w0, #28
        and w1, w0, #15
        cmp w1, #10
        add w3, w1, #'0'
        add w4, w1, #'a' - 10
        csel w1, w3, w4, lo
        strb w1, [x25], #1
        subs w2, w2, #1
        b.ne 1b
        ret

text_primes:
        .asciz "primes "
text_disk:
        .asciz " disk "
text_pages:
        .asciz " pages "
        .ltorg
