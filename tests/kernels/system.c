/*
 * A kernel in C: segments, gates, a TSS, paging, the timer, system calls, three user processes, faults.
 *
 * Like minios, it keeps away from instructions that are sensitive and do not trap, but in one harmless place: a trap
 * saves and restores DS and ES by push and pop, as kernels do. What it prints does not depend on how fast it runs.
 */
#include "console.h"
#include "ports.h"

enum { KERNEL_CODE = 0x08, KERNEL_DATA = 0x10, USER_CODE = 0x1B, USER_DATA = 0x23, TASK = 0x28 };
enum { PRESENT = 1, WRITE = 2, USER = 4, LARGE = 0x80 };
enum { PAGE_FAULT = 14, TIMER = 0x20, SPURIOUS = 0x27, SYSTEM_CALL = 0x80, VECTORS = 0x81 };
enum { EXIT, PRINT, TICKS, SLEEP };
enum { PROCESSES = 3, HOME = 0x800000, LAZY = 0x900000, STACK_TOP = 0x802000 };

struct frame {
    uint32_t es, ds, edi, esi, ebp, ignored, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss;
};

struct process {
    struct frame *frame;
    uint32_t *directory;
    uint32_t wake;
    int alive;
    uint32_t stack[512];
};

static struct __attribute__((packed)) {
    uint32_t link, esp0, ss0, others[22];
    uint16_t trap, permissions;
} task = {.ss0 = KERNEL_DATA, .permissions = 104};

static uint64_t gdt[6] = {0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00CFFA000000FFFF, 0x00CFF2000000FFFF};
static uint64_t idt[VECTORS];
static struct process processes[PROCESSES], *current;
static volatile uint32_t ticks;
static uint32_t calls, faults, repaired;
static volatile int idle;
static uint8_t pool[40][4096] __attribute__((aligned(4096)));
static unsigned used;

#define STUB(number) "push $0; push $" #number "; jmp trap; .balign 16;"
#define CODED(number) "push $" #number "; jmp trap; .balign 16;"

/* The interrupt stubs: one of 16 bytes for each exception, then timer and system call. */
__asm__(".text; .balign 16; stubs:"
        STUB(0) STUB(1) STUB(2) STUB(3) STUB(4) STUB(5) STUB(6) STUB(7) CODED(8) STUB(9) CODED(10) CODED(11) CODED(12)
        CODED(13) CODED(14) STUB(15) STUB(16) CODED(17) STUB(18) STUB(19) STUB(20) CODED(21)
        "timer_stub: push $0; push $0x20; jmp trap;"
        "spurious_stub: iret;"
        "call_stub: push $0; push $0x80;"
        "trap: pushal; push %ds; push %es; mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; cld;"
        "push %esp; call on_trap; mov %eax, %esp;"
        "pop %es; pop %ds; popal; add $8, %esp; iret;"
        ".globl sleep_until_interrupt; sleep_until_interrupt: sti; hlt; cli; ret;");

extern char stubs[], timer_stub[], spurious_stub[], call_stub[];
void sleep_until_interrupt(void);
struct frame *on_trap(struct frame *frame);

static void set_gate(unsigned vector, const char *handler, unsigned privilege)
{
    uint32_t address = (uint32_t)handler;

    idt[vector] = (uint64_t)(address & 0xFFFF0000) << 32 | (uint64_t)(0x8E00 | privilege << 13) << 32 |
                  KERNEL_CODE << 16 | (address & 0xFFFF);
}

static void load_tables(void)
{
    struct __attribute__((packed)) { uint16_t limit; uint32_t base; } gdtr, idtr;
    uint32_t base = (uint32_t)&task;

    gdt[5] = (uint64_t)(base >> 24) << 56 | 0x890000000000 | (uint64_t)(base & 0xFFFFFF) << 16 | (sizeof task - 1);
    for (unsigned vector = 0; vector < 22; vector++)
        set_gate(vector, stubs + 16 * vector, 0);
    set_gate(TIMER, timer_stub, 0);
    set_gate(SPURIOUS, spurious_stub, 0);
    set_gate(SYSTEM_CALL, call_stub, 3);
    gdtr.limit = sizeof gdt - 1;
    gdtr.base = (uint32_t)gdt;
    idtr.limit = sizeof idt - 1;
    idtr.base = (uint32_t)idt;
    __asm__ volatile("lgdt %0; lidt %1; ljmp $0x08, $1f; 1:" : : "m"(gdtr), "m"(idtr) : "memory");
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; ltr %w1" : : "r"(KERNEL_DATA), "r"(TASK) : "memory");
}

static void *new_page(void)
{
    return pool[used++];
}

/* Map a fresh page at a virtual address; paging may be on, since all of the pool is mapped one to one. */
static uint8_t *map(uint32_t *directory, uint32_t address, uint32_t rights)
{
    uint32_t *entry = &directory[address >> 22], *table;
    uint8_t *page = new_page();

    if (!(*entry & PRESENT))
        *entry = (uint32_t)new_page() | PRESENT | WRITE | USER;
    table = (uint32_t *)(*entry & ~0xFFFu);
    table[address >> 12 & 1023] = (uint32_t)page | PRESENT | rights;
    return page;
}

/* -- the user processes: the same page of code is copied to HOME in each address space --------------------------------- */

__asm__(".text; .balign 16; user_start:"
        "   movl $0x801FFC, %ecx; movl (%ecx), %ebx;"           /* the kernel has left a number on the stack */
        "   cmpl $2, %ebx; je 2f;"
        "   xorl %esi, %esi;"
        "1: addl $0x1000, %esi; movl %esi, 0x8FF000(%esi);"     /* pages at LAZY appear when they are touched */
        "   cmpl $0x3000, %esi; jb 1b;"
        "   movl 0x900000, %ecx; addl 0x901000, %ecx; addl 0x902000, %ecx;"
        "   movl $1, %eax; int $0x80;"                          /* PRINT ECX */
        "   movl $9, %ebx; movl $3, %eax; int $0x80;"           /* SLEEP nine ticks: the kernel will be idle */
        "   movl $1000000, %edx; divl %edx;"                    /* EDX:EAX is too large: #DE ends the process */
        "   jmp .;"
        "2: movl $2, %eax; int $0x80; movl %eax, %esi;"         /* TICKS: wait for three more, without a call for it */
        "3: movl $3000, %ecx; 4: loop 4b;"
        "   movl $2, %eax; int $0x80; subl %esi, %eax; cmpl $3, %eax; jb 3b;"
        "   movl $77, %ecx; movl $1, %eax; int $0x80;"
        "   movl $0x100000, %ebx; movl %ebx, (%ebx);"           /* the kernel is not to be written: #PF */
        "   jmp .;"
        "user_end:");

extern char user_start[], user_end[];

static void create(struct process *process, uint32_t number)
{
    uint8_t *stack;

    process->directory = new_page();
    process->directory[0] = PRESENT | WRITE | LARGE; /* the first 4 MiB, for the kernel alone */
    __builtin_memcpy(map(process->directory, HOME, USER), user_start, (size_t)(user_end - user_start));
    stack = map(process->directory, HOME + 0x1000, USER | WRITE);
    *(uint32_t *)(stack + 0xFFC) = number;
    process->frame = (struct frame *)(process->stack + 512) - 1;
    *process->frame = (struct frame){
        .es = USER_DATA, .ds = USER_DATA, .ss = USER_DATA, .cs = USER_CODE, .eip = HOME, .esp = STACK_TOP - 16, .eflags = 0x202,
        .edx = 0x7FFFFFFF,
    };
    process->alive = 1;
}

static void start_devices(void)
{
    static const uint8_t values[][2] = {
        {0x20, 0x11}, {0xA0, 0x11}, {0x21, TIMER}, {0xA1, TIMER + 8}, {0x21, 4}, {0xA1, 2}, {0x21, 1}, {0xA1, 1},
        {0x21, 0xFE}, {0xA1, 0xFF}, {0x43, 0x34}, {0x40, 0x90}, {0x40, 0x01},
    };

    for (unsigned i = 0; i < sizeof values / sizeof values[0]; i++)
        out8(values[i][0], values[i][1]);
}

/* Choose who goes on; with nobody ready, wait for the timer right here, interrupts let in. */
static struct frame *schedule(void)
{
    struct process *candidate = current;

    for (;;) {
        int alive = 0;

        for (unsigned i = 0; i < PROCESSES; i++) {
            candidate = candidate == processes + PROCESSES - 1 ? processes : candidate + 1;
            alive |= candidate->alive;
            if (!candidate->alive || candidate->wake > ticks)
                continue;
            current = candidate;
            task.esp0 = (uint32_t)(candidate->stack + 512);
            __asm__ volatile("mov %0, %%cr3" : : "r"(candidate->directory) : "memory");
            return candidate->frame;
        }
        if (!alive) {
            print("%u calls, %u faults, %u repaired, %s\n", calls, faults, repaired, ticks >= 9 ? "enough ticks" : "few ticks");
            out8(0xF4, 0);
        }
        idle = 1;
        sleep_until_interrupt();
        idle = 0;
    }
}

static struct frame *end(const char *why)
{
    print("process %u %s\n", (unsigned)(current - processes), why);
    current->alive = 0;
    return schedule();
}

static struct frame *on_fault(struct frame *frame)
{
    uint32_t address;

    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    if (frame->vector == PAGE_FAULT && address >= LAZY && address < LAZY + 0x3000 && !(frame->error & PRESENT)) {
        map(current->directory, address, USER | WRITE);
        repaired++;
        return frame;
    }
    faults++;
    print("exception %u, error code %u", frame->vector, frame->error);
    if (frame->vector == PAGE_FAULT)
        print(", address %08x", address);
    print("\n");
    return end("is ended");
}

static struct frame *on_call(struct frame *frame)
{
    calls += frame->eax != TICKS; /* how often the time is asked for depends on the speed */
    switch (frame->eax) {
    case PRINT:
        print("process %u says %u\n", (unsigned)(current - processes), frame->ecx);
        return frame;
    case TICKS:
        frame->eax = ticks;
        return frame;
    case SLEEP:
        current->wake = ticks + frame->ebx;
        return schedule();
    default:
        return end("exits");
    }
}

struct frame *on_trap(struct frame *frame)
{
    if (frame->vector == TIMER) {
        ticks++;
        out8(0x20, 0x20);
        if (idle)
            return frame; /* to where sleep_until_interrupt() waits */
        current->frame = frame;
        return schedule();
    }
    if (!current || idle) {
        print("exception %u in the kernel at %08x\n", frame->vector, frame->eip);
        out8(0xF4, 2);
    }
    current->frame = frame;
    return frame->vector == SYSTEM_CALL ? on_call(frame) : on_fault(frame);
}

int kernel(uint32_t magic, const uint32_t *information)
{
    uint32_t value;

    if (magic != 0x2BADB002 || !(information[0] & 1))
        return 1;
    load_tables();
    for (uint32_t number = 0; number < PROCESSES; number++)
        create(&processes[number], number);
    __asm__ volatile("mov %%cr4, %0; or $0x10, %0; mov %0, %%cr4" : "=r"(value)); /* PSE: pages of 4 MiB */
    __asm__ volatile("mov %0, %%cr3" : : "r"(processes[0].directory) : "memory");
    __asm__ volatile("mov %%cr0, %0; or $0x80000000, %0; mov %0, %%cr0" : "=r"(value) : : "memory");
    print("paging is on\n");
    start_devices();
    current = processes + PROCESSES - 1;
    __asm__ volatile("mov %0, %%esp; pop %%es; pop %%ds; popal; add $8, %%esp; iret" : : "r"(schedule()) : "memory");
    return 3;
}
