; minios: a small kernel with paging, a timer, system calls, two processes, and a fault that it survives
;
; The same bytes run on the bare machine and under a trap-and-emulate hypervisor, which puts this kernel into an outer
; ring. So that it cannot tell the difference, it keeps away from the instructions that are sensitive but do not trap:
; no pushf and popf (cli and sti say what is meant), no look at CS or SS, no sgdt, sidt, str, smsw, lar. It enters user
; mode and leaves interrupts by iret alone.
;
; Physical addresses are virtual addresses too, up to 2 MiB, but for the kernel alone (and the page with the user
; programs). At PRIVATE each process has a page of its own.
bits 32
org 0x100000

LOAD    equ 0x100000                    ; where the boot loader puts this image
KERNEL_TABLE equ 0x110000               ; page table of the first 4 MiB, the same for both processes
DIRECTORY_1 equ 0x111000                ; the page directories: one address space each
DIRECTORY_2 equ 0x112000
TABLE_1 equ 0x113000                    ; page tables of the second 4 MiB, where processes have their own
TABLE_2 equ 0x114000
FRAME_1 equ 0x115000                    ; the page frames behind PRIVATE
FRAME_2 equ 0x116000
BOOT_STACK equ 0x118000                 ; kernel stacks grow down from here: at boot and when idle,
STACK_1 equ 0x119000                    ; and in traps from process 1 or 2
STACK_2 equ 0x11A000
TSS     equ 0x11A000
END     equ 0x11B000
PRIVATE equ 0x400000                    ; virtual: data from here up, the stack from the page's end down
COM1    equ 0x3F8
PERIOD  equ 300                         ; timer ticks between interrupts; in one tick 10 instructions retire
PRESENT equ 1                           ; bits of page-table entries
WRITE   equ 2
USER    equ 4
KERNEL_CODE equ 0x08                    ; selectors: an offset into the GDT; user mode's ask for ring 3
KERNEL_DATA equ 0x10
USER_CODE equ 0x18 | 3
USER_DATA equ 0x20 | 3
TIMER   equ 32                          ; vectors: below are the processor's exceptions, from here on the PIC's,
SYSTEM_CALL equ 0x80                    ; and this is for user mode: number in EAX, argument in EBX
EXIT    equ 0
PRINT   equ 1                           ; a text
PUTCHAR equ 2
GETPID  equ 3
YIELD   equ 4
TICKS   equ 5
SLEEP   equ 6                           ; some ticks

header: dd 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000)         ; multiboot 1, with addresses:
        dd header, LOAD, 0, END, start                          ; header, load, file end, zeros' end, entry

; ---- boot ------------------------------------------------------------------------------------------------------------
start:  cli
        mov esp, BOOT_STACK
        lgdt [gdt_pointer]
        jmp KERNEL_CODE:.reload         ; CS takes a new descriptor only by a far jump
.reload:
        mov eax, KERNEL_DATA
        mov ss, eax
        mov eax, USER_DATA              ; as flat, and good in ring 0 too: DS and ES can stay so in user mode
        mov ds, eax
        mov es, eax
        mov dword [TSS + 8], KERNEL_DATA        ; SS0: a trap from ring 3 takes its stack from the TSS
        mov word [TSS + 102], 104       ; no I/O permission map: user mode may use no port
        mov eax, 0x28                   ; the TSS in the GDT
        ltr ax
        lidt [idt_pointer]

        mov eax, PRESENT | WRITE        ; map 2 MiB one to one, for the kernel
        mov edi, KERNEL_TABLE
.map:   stosd
        add eax, 0x1000
        cmp eax, 0x200000
        jb .map
        mov eax, user_programs          ; but user mode may read the page with its programs
        mov edi, eax
        shr edi, 12
        or eax, PRESENT | USER
        mov [KERNEL_TABLE + edi * 4], eax
        mov esi, tables                 ; pairs of an address and an entry for it
.entry: lodsd
        mov edi, eax
        movsd
        cmp esi, tables_end
        jb .entry
        mov eax, DIRECTORY_1
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000              ; PG: paging is on
        mov cr0, eax
        mov esi, devices                ; pairs of a port and a value for it
.port:  movzx edx, byte [esi]
        mov al, [esi + 1]
        out dx, al
        add esi, 2
        cmp esi, devices_end
        jb .port
        mov esi, banner
        mov edi, 0xB8000                ; the screen: in each cell a character and its colours,
        mov ah, 0x1F                    ; white on blue
.cell:  lodsb
        stosw
        cmp byte [esi], 10
        jne .cell
        mov esi, banner
        call print
        jmp schedule

; ---- traps -----------------------------------------------------------------------------------------------------------
; The processor has pushed SS, ESP, EFLAGS, CS, EIP and, for some exceptions, an error code. A stub adds a zero for the
; others and the vector, so that all frames are alike.
align 16
stubs:
%assign vector 0
%rep 33                                 ; the exceptions and the timer
align 16
%if vector != 8 && (vector < 10 || vector > 14) && vector != 17
        push dword 0
%endif
        push dword vector
        jmp trap
%assign vector vector + 1
%endrep
system_call_stub:
        push dword 0
        push dword SYSTEM_CALL

trap:   pushad
        mov eax, USER_DATA              ; user mode may have loaded anything
        mov ds, eax
        mov es, eax
        cld
        mov ebx, [current]
        test ebx, ebx
        jz .dispatch                    ; the kernel was idle: nothing to come back to
        mov [ebx + FRAME], esp          ; all that the process was is on its kernel stack now
.dispatch:
        mov eax, [esp + 32]             ; the vector
        cmp eax, TIMER
        je timer
        cmp eax, SYSTEM_CALL
        jne fault
system_call:
        inc dword [calls]
        mov eax, [esp + 28]             ; the process's EAX and EBX, as pushad saved them
        mov esi, [esp + 16]
        cmp eax, (call_table_end - call_table) / 4
        jae resume                      ; no such call
        call [call_table + eax * 4]     ; the argument is in ESI, the process in EBX
        mov edx, [ebx + FRAME]
        mov [edx + 28], eax             ; the result will be popped into EAX
resume: mov ebx, [current]
        mov esp, [ebx + FRAME]
        popad
        add esp, 8                      ; vector and error code
        iret                            ; EIP, CS, EFLAGS, ESP and SS at once: back in ring 3
timer:  inc dword [ticks]
        mov al, 0x20                    ; end of interrupt: the PIC may send the next
        out 0x20, al
        jmp schedule                    ; whoever ran has had its turn
fault:  inc dword [faults]              ; the end of the process that caused it, not of the system
        test ebx, ebx
        jz panic                        ; the kernel's own fault
        mov eax, cr2                    ; the address that could not be used, if this is a page fault
        push eax
        push dword [esp + 40]           ; error code
        push dword [esp + 40]           ; vector
        push dword [ebx + PID]
        mov ebp, esp
        mov esi, fault_text
        call report
call_exit:
        mov dword [ebx + WAKE], NEVER
        dec dword [living]
        jmp schedule                    ; what is on this stack is never needed again
call_sleep:
        add esi, [ticks]
        mov [ebx + WAKE], esi
        jmp schedule
call_getpid:
        mov eax, [ebx + PID]
        ret
call_ticks:
        mov eax, [ticks]
        ret

; ---- scheduler: round robin ------------------------------------------------------------------------------------------
schedule:
        mov ebx, [last]
        mov ecx, 2                      ; look at every process once, at the one that ran last at the end
.next:  mov ebx, [ebx + NEXT]
        mov eax, [ticks]
        cmp eax, [ebx + WAKE]
        jae run
        loop .next
        cmp dword [living], 0
        je shutdown
idle:   mov dword [current], 0
        mov esp, BOOT_STACK
        sti                             ; the only place where the kernel lets itself be interrupted
.wait:  hlt
        jmp .wait
run:    mov [current], ebx
        mov [last], ebx
        mov eax, [ebx + STACK]
        mov [TSS + 4], eax              ; ESP0: its next trap comes to its own kernel stack
        mov eax, [ebx + DIRECTORY]
        mov cr3, eax                    ; its address space; the kernel is in both, at the same place
        jmp resume
shutdown:
        mov ebp, ticks                  ; and after it calls and faults
        mov esi, shutdown_text
        call report
        mov al, 0
        out 0xF4, al                    ; the debug-exit port stops the machine, with status (0 << 1) | 1
panic:  mov esi, panic_text
        call print
        mov al, 1
        out 0xF4, al

; ---- output on the serial port ---------------------------------------------------------------------------------------
call_putchar:
        mov eax, esi
put:    push edx                        ; the character AL
        push eax
        mov edx, COM1 + 5
.wait:  in al, dx                       ; line status
        test al, 0x20                   ; transmitter empty?
        jz .wait
        pop eax
        mov edx, COM1
        out dx, al
        pop edx
        ret
print:  lodsb                           ; the text at ESI, up to a zero byte
        test al, al
        jz .done
        call put
        jmp print
.done:  ret
report: lodsb                           ; the text at ESI; # is the next number at EBP, $ the same in hexadecimal
        mov ecx, 10
        cmp al, '#'
        je .number
        mov ecx, 16
        cmp al, '$'
        je .number
        test al, al
        jz print.done
        call put
        jmp report
.number:
        mov eax, [ebp]
        add ebp, 4
        push report                     ; is where print_number returns to
print_number:                           ; EAX to base ECX: the last digit is found first, so print the others before it
        xor edx, edx
        div ecx
        push edx
        test eax, eax
        jz .digit
        call print_number
.digit: pop edx
        mov al, [digits + edx]
        jmp put

; ---- the kernel's data -----------------------------------------------------------------------------------------------
align 8
gdt:    dq 0                            ; the null selector
        dq 0x00CF9A000000FFFF           ; kernel code: base 0, limit 4 GiB, ring 0
        dq 0x00CF92000000FFFF           ; kernel data
        dq 0x00CFFA000000FFFF           ; user code: the same for ring 3
        dq 0x00CFF2000000FFFF           ; user data
        dw 103, TSS & 0xFFFF, 0x8900 | TSS >> 16 & 0xFF, TSS >> 24 << 8
gdt_pointer:
        dw gdt_pointer - gdt - 1
        dd gdt
idt_pointer:
        dw idt_end - idt - 1
        dd idt
idt:                                    ; a gate: address 15:0, selector, attributes, address 31:16
%assign vector 0
%rep 33
        dw stubs - $$ + vector * 16, KERNEL_CODE, 0x8E00, LOAD >> 16    ; interrupt gate: clears IF on the way in
%assign vector vector + 1
%endrep
        times SYSTEM_CALL - 33 dq 0
        dw system_call_stub - $$, KERNEL_CODE, 0xEE00, LOAD >> 16       ; user mode may use this one by int
idt_end:

tables: ; A page is the user's if directory and table say so: the directories allow all, the tables decide.
        dd DIRECTORY_1, KERNEL_TABLE + PRESENT + WRITE + USER, DIRECTORY_1 + 4, TABLE_1 + PRESENT + WRITE + USER
        dd DIRECTORY_2, KERNEL_TABLE + PRESENT + WRITE + USER, DIRECTORY_2 + 4, TABLE_2 + PRESENT + WRITE + USER
        dd TABLE_1, FRAME_1 + PRESENT + WRITE + USER    ; one virtual address,
        dd TABLE_2, FRAME_2 + PRESENT + WRITE + USER    ; two page frames
tables_end:
devices:
        db 0x20, 0x11, 0xA0, 0x11       ; both PICs: initialize (ICW1)
        db 0x21, TIMER, 0xA1, TIMER + 8 ; their first vectors (ICW2)
        db 0x21, 0x04, 0xA1, 0x02       ; joined at line 2 (ICW3)
        db 0x21, 0x01, 0xA1, 0x01       ; for an 8086 (ICW4)
        db 0x21, 0xFE, 0xA1, 0xFF       ; all lines masked but 0, the timer
        db 0x43, 0x34                   ; PIT: counter 0, both bytes of the count, mode 2
        db 0x40, PERIOD & 0xFF, 0x40, PERIOD >> 8
devices_end:

WAKE    equ 0                           ; fields of a process: the tick from which on it may run
FRAME   equ 4                           ; where on its kernel stack its state is
STACK   equ 8                           ; top of its kernel stack
DIRECTORY equ 12                        ; its page directory
PID     equ 16
NEXT    equ 20
NEVER   equ 0xFFFFFFFF                  ; WAKE of a process that has ended
process_1: dd 0, frame_1, STACK_1, DIRECTORY_1, 1, process_2
process_2: dd 0, frame_2, STACK_2, DIRECTORY_2, 2, process_1
frame_1: times 10 dd 0                  ; what a trap would have left: registers, vector, error code,
        dd program_1, USER_CODE, 0x202, PRIVATE + 0x1000, USER_DATA     ; EIP, CS, EFLAGS (IF), ESP, SS
frame_2: times 10 dd 0
        dd program_2, USER_CODE, 0x202, PRIVATE + 0x1000, USER_DATA
current: dd 0                           ; the process that runs; 0 while the kernel boots or is idle
last:   dd process_2                    ; the process that ran last
living: dd 2
ticks:  dd 0
calls:  dd 0
faults: dd 0
call_table:                             ; print trusts the address that it is given: an exercise
        dd call_exit, print, call_putchar, call_getpid, schedule, call_ticks, call_sleep
call_table_end:
digits: db "0123456789abcdef"
banner: db "minios: paging is on", 10, 0
fault_text: db "process #: exception #, error code #, CR2 $: killed", 10, 0
shutdown_text: db "# ticks, # system calls, # fault: shutdown", 10, 0
panic_text: db "panic: a fault in the kernel", 10, 0

; ---- two programs, in a page that ring 3 may read --------------------------------------------------------------------
align 4096
user_programs:
%macro system 1-2 0                     ; call, argument
        mov ebx, %2
        mov eax, %1
        int SYSTEM_CALL
%endmacro

program_1:                              ; sleeps and wakes
        system PRINT, process_text
        system GETPID
        add eax, '0'
        system PUTCHAR, eax
        system PRINT, awake_text
        inc dword [PRIVATE]             ; a counter, at the same address as the other program's
        mov ebp, [PRIVATE]
        add ebp, '0'
        system PUTCHAR, ebp
        system PUTCHAR, 10
        system SLEEP, 3
        cmp dword [PRIVATE], 5
        jb program_1
        system PRINT, done_text
        system EXIT

program_2:                              ; computes for longer than its turns, then touches what is not its own
        mov ecx, 4000
.work:  dec ecx
        jnz .work
        inc dword [PRIVATE]
        mov ebp, [PRIVATE]
        add ebp, 'a' - 1
        system PRINT, part_text
        system PUTCHAR, ebp
        system PUTCHAR, 10
        system YIELD
        cmp dword [PRIVATE], 3
        jb program_2
        mov eax, [header]               ; the kernel's memory: a page fault
        system PRINT, secret_text
        system EXIT

process_text: db "process ", 0
awake_text: db " is awake: ", 0
done_text: db "process 1 is done", 10, 0
part_text: db "process 2 has done part ", 0
secret_text: db "process 2 has read the kernel's memory", 10, 0
