; minios_pv: minios ported to a hypervisor: hypercalls, checked page tables, events, a console in memory
;
; The same two programs as in minios, byte for byte, and the same console; but this kernel knows that it runs in ring 1,
; on page tables that it may read and not write. Where minios uses a privileged instruction, it calls the hypervisor
; (Xen's interface): EAX the number, EBX, ECX, EDX, ESI the arguments. With BATCH it saves such calls up and makes many
; in one. The programs' system calls come here directly, and go back by iret: no hypervisor is in between.
bits 32
org 0x100000

LOAD    equ 0x100000                    ; where this image lies; linear and pseudo-physical addresses are the same
BATCH   equ 1                           ; 0: each call by itself, and a notice for each text
PRIVATE equ 0x400000                    ; virtual: a process's data from here up, the stack from the page's end down
PERIOD  equ 251428                      ; nanoseconds between ticks: as long as minios's 300 ticks of the PIT
M2P     equ 0xFF800000                  ; the hypervisor's table: which page of its guest's memory is a frame?
PRESENT equ 1                           ; bits of page-table entries
WRITE   equ 2
USER    equ 4
KERNEL_CODE equ 0xE019                  ; selectors of the hypervisor's: flat segments of ring 1 and of ring 3
KERNEL_DATA equ 0xE021
USER_CODE equ 0xE02B
USER_DATA equ 0xE033
TIMER   equ 32                          ; not a vector here, but as if: below are the processor's exceptions
SYSTEM_CALL equ 0x80                    ; for user mode: number in EAX, argument in EBX
EXIT    equ 0
PRINT   equ 1                           ; a text
PUTCHAR equ 2
GETPID  equ 3
YIELD   equ 4
TICKS   equ 5
SLEEP   equ 6                           ; some ticks

HYPERVISOR equ 0x82                     ; hypercalls: the vector, and their numbers
SET_TRAP_TABLE equ 0
MMU_UPDATE equ 1
STACK_SWITCH equ 3
SET_CALLBACKS equ 4
MULTICALL equ 13
UPDATE_VA_MAPPING equ 14
RETURN  equ 23
VCPU_OP equ 24
MMUEXT_OP equ 26
SCHED_OP equ 29
EVENT_CHANNEL_OP equ 32
SELF    equ 0x7FF0                      ; the calling guest
PIN_L2  equ 1                           ; commands of mmuext_op,
NEW_BASEPTR equ 5
BIND_VIRQ equ 1                         ; of event_channel_op,
SEND    equ 4
BLOCK   equ 1                           ; of sched_op,
SHUTDOWN equ 2
SET_PERIODIC_TIMER equ 6                ; of vcpu_op

UPCALL_PENDING equ 0                    ; in the page that is shared with the hypervisor: an event waits,
UPCALL_MASK equ 1                       ; the virtual interrupt flag (1: no events),
PENDING_SELECTOR equ 4
FAULT_ADDRESS equ 8                     ; the address of a page fault,
PENDING equ 0x800                       ; and which events wait
SENT    equ 1024                        ; in the console's ring: the characters,
SENT_SIZE equ 2048
SENT_CONSUMER equ 3080                   ; and how many have been taken and put, ever
SENT_PRODUCER equ 3084

%macro note 2                           ; how the hypervisor knows a ported kernel
        dd 4, 4, %1
        db "Xen", 0
        dd %2
%endmacro
header: note 1, start                   ; entry
        note 3, 0                       ; what is linear address 0
        dd 4, 8, 5                      ; interface
        db "Xen", 0, "xen-3.0", 0
        dd 4, 7, 6                      ; name
        db "Xen", 0, "minios", 0, 0
%macro hypercall 2-5 0, 0, 0
        mov ebx, %2
        mov ecx, %3
        mov edx, %4
        mov esi, %5
        mov eax, %1
        int HYPERVISOR
%endmacro

; ---- boot: paging is on, ESI is the start info, ESP a stack ----------------------------------------------------------
start:  cld
        mov eax, USER_DATA              ; as flat, and good in ring 1 too: DS and ES can stay so in user mode
        mov ds, eax
        mov es, eax
        mov [boot_stack], esp
        mov eax, [esi + 68]             ; which frame is a page of this guest's memory?
        mov [p2m], eax
        mov eax, [esi + 52]             ; the console's frame: which page is it?
        mov eax, [M2P + eax * 4]
        shl eax, 12
        mov [ring], eax
        mov eax, [esi + 56]
        mov [console_port], eax
        mov edi, [esi + 36]             ; the shared page, to where its label is
        or edi, PRESENT | WRITE
        mov ebp, [esi + 60]             ; the page directory, and behind it the page table of the first 4 MiB
        hypercall UPDATE_VA_MAPPING, shared, edi
        hypercall SET_TRAP_TABLE, trap_table
        hypercall SET_CALLBACKS, KERNEL_CODE, upcall, KERNEL_CODE, upcall

        lea eax, [ebp + 0x1000]         ; that table is the kernel's in both address spaces
        call machine
        or eax, PRESENT | WRITE | USER
        mov [directory_1], eax
        mov [directory_2], eax
        mov ebp, tables                 ; triples of a page, an entry in it, and what is to stand there
.entry: mov eax, [ebp + 8]
        call machine
        or eax, PRESENT | WRITE | USER
        mov edi, [ebp]
        add edi, [ebp + 4]
        mov [edi], eax
        add ebp, 12
        cmp ebp, tables_end
        jb .entry
        mov ebp, protected              ; page tables are to be read alone; user mode may read its programs
.page:  mov eax, [ebp]
        call machine
        or eax, [ebp + 4]
        mov ecx, eax
        mov ebx, [ebp]
        xor edx, edx
        mov esi, 2                      ; and no stale translation (UVMF_INVLPG)
        mov eax, UPDATE_VA_MAPPING
        call queue
        add ebp, 8
        cmp ebp, protected_end
        jb .page
        mov eax, directory_1            ; the hypervisor is to check the tables now, and to keep them checked
        call machine
        shr eax, 12
        mov [pins + 4], eax
        mov [process_1 + BASE + 4], eax
        mov eax, directory_2
        call machine
        shr eax, 12
        mov [pins + 12 + 4], eax
        mov [process_2 + BASE + 4], eax
        mov ebx, pins
        mov ecx, 2
        xor edx, edx
        mov esi, SELF
        mov eax, MMUEXT_OP
        call queue
        mov ebx, BIND_VIRQ
        mov ecx, bind_timer
        mov eax, EVENT_CHANNEL_OP
        call queue
        mov ebx, SET_PERIODIC_TIMER
        xor ecx, ecx
        mov edx, period
        mov eax, VCPU_OP
        call queue
        call make_calls
        mov esi, banner
        call print
        jmp schedule
machine:                                ; the machine address of the page EAX
        shr eax, 12
        shl eax, 2
        add eax, [p2m]
        mov eax, [eax]
        shl eax, 12
        ret

; ---- calls to the hypervisor, saved up -------------------------------------------------------------------------------
queue:  mov edi, BATCH                  ; EAX, EBX, ECX, EDX, ESI
        test edi, edi
        jnz .later
        int HYPERVISOR
        ret
.later: mov edi, [queued]
        inc dword [queued]
        shl edi, 5                      ; 32 bytes: number, result, six arguments
        mov [call_list + edi], eax
        mov [call_list + edi + 8], ebx
        mov [call_list + edi + 12], ecx
        mov [call_list + edi + 16], edx
        mov [call_list + edi + 20], esi
        ret
make_calls:
        xor ecx, ecx
        xchg ecx, [queued]
        jecxz .none
        hypercall MULTICALL, call_list, ecx
.none:  ret

; ---- traps -----------------------------------------------------------------------------------------------------------
; The hypervisor, or for system calls the processor, has pushed SS, ESP, EFLAGS, CS, EIP and, for some exceptions, an
; error code. A stub adds a zero for the others and the vector, so that all frames are alike.
align 16
stubs:
%assign vector 0
%rep 32                                 ; the exceptions
align 16
%if vector != 8 && (vector < 10 || vector > 14) && vector != 17
        push dword 0
%endif
        push dword vector
        jmp trap
%assign vector vector + 1
%endrep
upcall: test byte [esp + 4], 2          ; an event: of CS, has it interrupted user mode?
        jnz .take
        cmp dword [cs:current], 0       ; or the idle kernel?
        je .take
        cmp dword [esp], resume.open    ; or one that was on its last steps to user mode, all registers restored?
        jb .later
        cmp dword [esp], resume.shut
        jae .later
        add esp, 12                     ; then it is as if it had interrupted user mode
        jmp .take
.later: and dword [esp + 8], 0xFFFFFDFF ; the kernel goes on, without events; this one still waits
        push eax
        mov eax, RETURN
        int HYPERVISOR
.take:  push dword 0
        push dword TIMER
        jmp trap
system_call_stub:
        push dword 0
        push dword SYSTEM_CALL

trap:   pushad
        mov eax, USER_DATA              ; user mode may have loaded anything
        mov ds, eax
        mov es, eax
        cld
        mov byte [shared + UPCALL_MASK], 1      ; no events in the kernel
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
        mov byte [shared + UPCALL_MASK], 0
.open:  cmp byte [shared + UPCALL_PENDING], 0   ; has one come meanwhile?
        jne .events
        iret                            ; EIP, CS, EFLAGS, ESP and SS at once: back in ring 3
.events:
        mov byte [shared + UPCALL_MASK], 1
.shut:  push eax
        mov eax, RETURN                   ; the hypervisor returns in our place, and calls for the event at once
        int HYPERVISOR
timer:  mov byte [shared + UPCALL_PENDING], 0
        mov dword [shared + PENDING_SELECTOR], 0
        xor eax, eax
        xchg eax, [shared + PENDING]    ; what waits; of 1024 events two are in use
        mov ecx, [timer_port]
        bt eax, ecx
        jnc schedule
        inc dword [ticks]
        jmp schedule                    ; whoever ran has had its turn
fault:  inc dword [faults]              ; the end of the process that caused it, not of the system
        test ebx, ebx
        jz panic                        ; the kernel's own fault
        mov eax, [shared + FAULT_ADDRESS]       ; the address that could not be used, if this is a page fault
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
        mov esp, [boot_stack]
        call notify
        call make_calls
.wait:  hypercall SCHED_OP, BLOCK       ; until an event: the only place where the kernel lets itself be interrupted
        jmp .wait
run:    mov [current], ebx
        mov [last], ebx
        push ebx
        call notify
        mov eax, [esp]
        mov ecx, [eax + STACK]
        mov ebx, KERNEL_DATA
        mov eax, STACK_SWITCH           ; its next trap comes to its own kernel stack
        call queue
        mov ebx, [esp]
        add ebx, BASE
        mov ecx, 1
        xor edx, edx
        mov esi, SELF
        mov eax, MMUEXT_OP              ; its address space; the kernel is in both, at the same place
        call queue
        call make_calls
        jmp resume
shutdown:
        mov ebp, ticks                  ; and after it calls and faults
        mov esi, shutdown_text
        call report
        call notify
        call make_calls
        hypercall SCHED_OP, SHUTDOWN, reason_end
panic:  mov esi, panic_text
        call print
        call notify
        call make_calls
        hypercall SCHED_OP, SHUTDOWN, reason_crash

; ---- output on the console -------------------------------------------------------------------------------------------
call_putchar:
        mov eax, esi
        call put
        jmp sent
put:    push edx                        ; the character AL
        push edi
        mov edi, [ring]
        mov edx, [edi + SENT_PRODUCER]
        and edx, SENT_SIZE - 1
        mov [edi + edx + SENT], al
        inc dword [edi + SENT_PRODUCER]
        mov edx, [edi + SENT_PRODUCER]
        sub edx, [edi + SENT_CONSUMER]
        cmp edx, SENT_SIZE              ; full?
        jb .room
        pushad
        hypercall EVENT_CHANNEL_OP, SEND, console_port
        popad
.room:  pop edi
        pop edx
        ret
print:  lodsb                           ; the text at ESI, up to a zero byte
        test al, al
        jz sent
        call put
        jmp print
sent:   mov byte [unsent], 1            ; it lies in the ring: the other end is to be told, now or with other calls
        mov edx, BATCH
        test edx, edx
        jnz notify.done
notify: cmp byte [unsent], 0
        je .done
        mov byte [unsent], 0
        push ebx
        mov ebx, SEND
        mov ecx, console_port
        mov eax, EVENT_CHANNEL_OP
        call queue
        pop ebx
.done:  ret
report: lodsb                           ; the text at ESI; # is the next number at EBP, $ the same in hexadecimal
        mov ecx, 10
        cmp al, '#'
        je .number
        mov ecx, 16
        cmp al, '$'
        je .number
        test al, al
        jz sent
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
trap_table:                             ; vector; 4 for no events, or 3 for user mode; selector, address
%assign vector 0
%rep 32
        db vector, 4
        dw KERNEL_CODE
        dd stubs + vector * 16
%assign vector vector + 1
%endrep
        db SYSTEM_CALL, 3               ; the processor itself may enter here
        dw KERNEL_CODE
        dd system_call_stub
        dd 0, 0
tables: ; A page is the user's if directory and table say so: the directories allow all, the tables decide.
        dd directory_1, 4, table_1, directory_2, 4, table_2
        dd table_1, 0, frame_1_page, table_2, 0, frame_2_page   ; one virtual address, two page frames
tables_end:
protected:
        dd directory_1, PRESENT, directory_2, PRESENT, table_1, PRESENT, table_2, PRESENT
        dd user_programs, PRESENT | USER
protected_end:
pins:   dd PIN_L2, 0, 0, PIN_L2, 0, 0
bind_timer: dd 0, 0                     ; VIRQ_TIMER, processor 0,
timer_port: dd 0                        ; is told here
console_port: dd 0
period: dd PERIOD, 0
reason_end: dd 0                        ; SHUTDOWN_poweroff
reason_crash: dd 3

WAKE    equ 0                           ; fields of a process: the tick from which on it may run
FRAME   equ 4                           ; where on its kernel stack its state is
STACK   equ 8                           ; top of its kernel stack
PID     equ 12
NEXT    equ 16
BASE    equ 20                          ; a command for the hypervisor: load its page directory
NEVER   equ 0xFFFFFFFF                  ; WAKE of a process that has ended
process_1: dd 0, frame_1, stack_1 + 0x1000, 1, process_2, NEW_BASEPTR, 0, 0
process_2: dd 0, frame_2, stack_2 + 0x1000, 2, process_1, NEW_BASEPTR, 0, 0
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
boot_stack: dd 0
p2m:    dd 0
ring:   dd 0
queued: dd 0
unsent: dd 0
call_table:                             ; print trusts the address that it is given: an exercise
        dd call_exit, print, call_putchar, call_getpid, schedule, call_ticks, call_sleep
call_table_end:
digits: db "0123456789abcdef"
banner: db "minios: paging is on", 10, 0
fault_text: db "process #: exception #, error code #, CR2 $: killed", 10, 0
shutdown_text: db "# ticks, # system calls, # fault: shutdown", 10, 0
panic_text: db "panic: a fault in the kernel", 10, 0
align 4
call_list: times 16 * 8 dd 0

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

; ---- pages -----------------------------------------------------------------------------------------------------------
align 4096
shared: times 4096 db 0                 ; another page will be here
directory_1: times 4096 db 0            ; the page directories: one address space each
directory_2: times 4096 db 0
table_1: times 4096 db 0                ; page tables of the second 4 MiB, where processes have their own
table_2: times 4096 db 0
frame_1_page: times 4096 db 0           ; the page frames behind PRIVATE
frame_2_page: times 4096 db 0
stack_1: times 4096 db 0                ; kernel stacks grow down from their ends
stack_2: times 4096 db 0
