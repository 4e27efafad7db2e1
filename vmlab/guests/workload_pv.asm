; workload_pv: workload ported to a hypervisor: hypercalls, checked page tables, events, a block ring
;
; The same program as in workload, byte for byte, and the same console; but this kernel knows that it runs in ring 1, as
; minios_pv does. A page that is touched is given by an update of a page table that the hypervisor checks. The disk is
; in domain 0: a request is written into a ring in memory that both share, with the frame for the data; one call tells
; the other end of it, and an event tells that the answer is there.
bits 32
org 0x100000

ROUNDS  equ 1                           ; how often the program does the whole of it, with a line each time
PERIOD  equ 251428                      ; nanoseconds between ticks: as long as workload's 300 ticks of the PIT
EXIT    equ 0                           ; system calls: end, with a status
PRINT   equ 1                           ; a text, up to a zero byte
PUTCHAR equ 2                           ; a character
GETPID  equ 3
TICKS   equ 4                           ; how many there have been
SLEEP   equ 5                           ; some ticks
READ    equ 6                           ; a sector, to an address
MORE    equ 7                           ; so many pages behind the end: gives where they begin

LOAD    equ 0x100000                    ; where this image lies; linear and pseudo-physical addresses are the same
KERNEL_END equ 0x400000                 ; up to here; the hypervisor has mapped it
VIRTUAL equ 0x400000                    ; the process: its program,
HEAP    equ 0x402000                    ; behind its stack what it has been given
M2P     equ 0xFF800000                  ; the hypervisor's table: which page of its guest's memory is a frame?
PRESENT equ 1                           ; bits of page-table entries
WRITE   equ 2
USER    equ 4
KERNEL_CODE equ 0xE019                  ; selectors of the hypervisor's: flat segments of ring 1 and of ring 3
KERNEL_DATA equ 0xE021
USER_CODE equ 0xE02B
USER_DATA equ 0xE033
PAGE_FAULT equ 14
EVENT   equ 32                          ; not a vector here, but as if: below are the processor's exceptions
SYSTEM_CALL equ 0x80                    ; for user mode

HYPERVISOR equ 0x82                     ; hypercalls: the vector, and their numbers
SET_TRAP_TABLE equ 0
MMU_UPDATE equ 1
STACK_SWITCH equ 3
SET_CALLBACKS equ 4
UPDATE_VA_MAPPING equ 14
RETURN  equ 23
VCPU_OP equ 24
SCHED_OP equ 29
EVENT_CHANNEL_OP equ 32
SELF    equ 0x7FF0                      ; the calling guest
BIND_VIRQ equ 1                         ; commands of event_channel_op,
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
SENT_CONSUMER equ 3080                  ; and how many have been taken and put, ever
SENT_PRODUCER equ 3084
REQUESTS equ 0                          ; in the block ring: how many requests there were ever,
ANSWERS equ 8                           ; and how many answers; each end wants to be told
REQUEST_EVENT equ 4                     ; when the one reaches this,
ANSWER_EVENT equ 12                     ; or the other this
SLOTS   equ 64                          ; then 32 slots, for a request or its answer
SLOT_SIZE equ 108

%macro note 2                           ; how the hypervisor knows a ported kernel
        dd 4, 4, %1
        db "Xen", 0
        dd %2
%endmacro
header: note 1, start                   ; entry
        note 3, 0                       ; what is linear address 0
        dd 4, 8, 5                      ; interface
        db "Xen", 0, "xen-3.0", 0
        dd 4, 9, 6                      ; name
        db "Xen", 0, "workload", 0, 0, 0, 0
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
        mov [next_frame], esp           ; behind the stack all memory is free
        mov eax, [esi + 68]             ; which frame is a page of this guest's memory?
        mov [p2m], eax
        mov eax, [esi + 32]             ; up to how many pages?
        shl eax, 12
        cmp eax, KERNEL_END
        jb .room
        mov eax, KERNEL_END
.room:  sub eax, esp
        mov [room], eax
        mov eax, [esi + 52]            ; the console's frame: which page is it?
        mov eax, [M2P + eax * 4]
        shl eax, 12
        mov [ring], eax
        mov eax, [esi + 56]
        mov [console_port], eax
        mov eax, [esi + 1112]           ; the same of the block ring, if there is a disk
        test eax, eax
        jz .no_disk
        mov eax, [M2P + eax * 4]
        shl eax, 12
        mov [block_ring], eax
        mov dword [eax + REQUEST_EVENT], 1
        mov dword [eax + ANSWER_EVENT], 1
        mov eax, [esi + 1116]
        mov [block_port], eax
        mov eax, block_page
        call machine
        shr eax, 12
        mov [block_frame], eax
.no_disk:
        mov eax, program                ; the process's page table
        call machine
        or eax, PRESENT | WRITE | USER
        mov [user_table], eax
        mov eax, user_stack
        call machine
        or eax, PRESENT | WRITE | USER
        mov [user_table + 4], eax
        mov eax, user_table
        call machine
        mov ebp, eax
        or eax, PRESENT | WRITE | USER
        mov [directory_update + 8], eax
        mov eax, [esi + 60]             ; the page directory
        call machine
        add eax, 4
        mov [directory_update], eax
        mov edi, [esi + 36]             ; the shared page, to where its label is
        or edi, PRESENT | WRITE
        or ebp, PRESENT                 ; a page table is to be read alone
        hypercall UPDATE_VA_MAPPING, shared, edi
        hypercall SET_TRAP_TABLE, trap_table
        hypercall SET_CALLBACKS, KERNEL_CODE, upcall, KERNEL_CODE, upcall
        hypercall STACK_SWITCH, KERNEL_DATA, kernel_stack_end
        hypercall UPDATE_VA_MAPPING, user_table, ebp, 0, 2      ; and no stale translation (UVMF_INVLPG)
        hypercall MMU_UPDATE, directory_update, 1, 0, SELF
        hypercall EVENT_CHANNEL_OP, BIND_VIRQ, bind_timer
        hypercall VCPU_OP, SET_PERIODIC_TIMER, 0, period
        mov esi, banner
        call print
        push dword USER_DATA            ; to user mode, as if a trap had come from there:
        push dword HEAP                 ; SS and ESP,
        push dword 0x202                ; EFLAGS, CS and EIP,
        push dword USER_CODE
        push dword VIRTUAL
        sub esp, 40                     ; error code, vector, registers
        jmp resume
machine:                                ; the machine address of the page EAX
        shr eax, 12
        shl eax, 2
        add eax, [p2m]
        mov eax, [eax]
        shl eax, 12
        ret

; ---- traps -----------------------------------------------------------------------------------------------------------
; The hypervisor, or for system calls the processor, has pushed SS and ESP, where it comes from user mode, EFLAGS, CS,
; EIP and, for some exceptions, an error code. A stub adds a zero for the others and the vector, so that all frames are
; alike.
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
        cmp dword [cs:wait_stack], 0    ; or a kernel that waits?
        jne .woken
        cmp dword [esp], resume.open    ; or one that was on its last steps back, all registers restored?
        jb .later
        cmp dword [esp], resume.shut
        jae .later
        add esp, 12                     ; then it is as if it had interrupted what comes behind them
        jmp .take
.later: and dword [esp + 8], 0xFFFFFDFF ; the kernel goes on, without events; this one still waits
        push eax
        mov eax, RETURN
        int HYPERVISOR
.woken: mov esp, [wait_stack]           ; go on behind the call of await_event
        mov dword [wait_stack], 0
        jmp take_events
.take:  push dword 0
        push dword EVENT
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
        mov eax, [esp + 32]             ; the vector
        cmp eax, SYSTEM_CALL
        je system_call
        cmp eax, EVENT
        je event
        cmp eax, PAGE_FAULT
        je page_fault
fault:  push dword [shared + FAULT_ADDRESS]     ; the address that could not be used, if this is a page fault
        push dword [esp + 40]           ; error code
        push dword [esp + 40]           ; vector
        mov ebp, esp
        mov esi, fault_text
        call report
        mov ebx, 1                      ; the end of the only process, or of the kernel
call_exit:
        test ebx, ebx
        jnz .crash
        hypercall SCHED_OP, SHUTDOWN, reason_end
.crash: hypercall SCHED_OP, SHUTDOWN, reason_crash

event:  call take_events
        jmp resume
take_events:
        mov byte [shared + UPCALL_PENDING], 0
        mov dword [shared + PENDING_SELECTOR], 0
        xor eax, eax
        xchg eax, [shared + PENDING]    ; what waits; of 1024 events three are in use
        mov ecx, [timer_port]
        bt eax, ecx
        jnc .done                       ; the block ring itself says what has come
        inc dword [ticks]
.done:  ret
await_event:                            ; the only place where the kernel lets itself be interrupted
        mov [wait_stack], esp
        hypercall SCHED_OP, BLOCK
        jmp await_event
page_fault:
        test byte [esp + 36], PRESENT   ; the error code: may the page not be used so, or is it not there?
        jnz fault
        mov edx, [shared + FAULT_ADDRESS]
        cmp edx, HEAP                   ; has the process been given it?
        jb fault
        cmp edx, [process_end]
        jae fault
        inc dword [faults]
        mov edi, [next_frame]           ; then it gets it now, and finds nothing of others in it
        add dword [next_frame], 0x1000
        mov ebp, edi
        mov ecx, 0x400
        xor eax, eax
        rep stosd
        mov eax, ebp
        call machine
        or eax, PRESENT | WRITE | USER
        hypercall UPDATE_VA_MAPPING, edx, eax
        test eax, eax
        jnz fault
        jmp resume
system_call:
        inc dword [calls]
        mov ebx, [esp + 16]             ; the process's registers, as pushad saved them
        mov ecx, [esp + 24]
        mov edx, [esp + 28]
        mov eax, -1
        cmp edx, (call_table_end - call_table) / 4
        jae .done                       ; no such call
        call [call_table + edx * 4]
.done:  mov [esp + 28], eax             ; the result will be popped into EAX
resume: popad
        add esp, 8                      ; vector and error code
        mov byte [shared + UPCALL_MASK], 0
.open:  cmp byte [shared + UPCALL_PENDING], 0   ; has one come meanwhile?
        jne .events
        iret                            ; EIP, CS, EFLAGS, ESP and SS at once: back in ring 3
.events:
        mov byte [shared + UPCALL_MASK], 1
.shut:  push eax
        mov eax, RETURN                 ; the hypervisor returns in our place, and calls for the event at once
        int HYPERVISOR

; ---- system calls: arguments in EBX and ECX, result in EAX, which is -1 now ------------------------------------------
call_getpid:
        mov eax, 1
        ret
call_ticks:
        mov eax, [ticks]
        ret
call_sleep:
        add ebx, [ticks]
.wait:  cmp ebx, [ticks]
        jbe .done
        push ebx
        call await_event
        pop ebx
        jmp .wait
.done:  xor eax, eax
        ret
call_more:
        cmp ebx, (KERNEL_END - LOAD) / 0x1000
        ja .done                        ; more than there can be
        shl ebx, 12
        cmp ebx, [room]                 ; each page gets a frame one day: are there so many?
        ja .done
        sub [room], ebx
        mov eax, [process_end]
        add [process_end], ebx
.done:  ret
call_print:
        mov esi, ebx
.check: cmp esi, VIRTUAL                ; is all of the text the process's?
        jb .done
        cmp esi, [process_end]
        jae .done
        inc esi
        cmp byte [esi - 1], 0           ; a page that has not been touched is there now
        jne .check
        mov esi, ebx
        call print
        xor eax, eax
.done:  ret
call_putchar:
        mov eax, ebx
        call put
        xor eax, eax
        ret
call_read:
        cmp ecx, VIRTUAL                ; is all of the buffer the process's?
        jb .done
        lea edx, [ecx + 512]
        cmp edx, VIRTUAL                ; beyond 4 GiB all begins anew
        jb .done
        cmp edx, [process_end]
        ja .done
        mov edi, [block_ring]
        test edi, edi                   ; no disk?
        jz .done
        push ecx
        mov ebp, [edi + REQUESTS]       ; the next slot; there are never two requests at a time
        mov edx, ebp
        and edx, 31
        imul edx, SLOT_SIZE
        lea edi, [edi + edx + SLOTS]
        mov dword [edi], 0x100          ; operation 0, read; one segment
        mov [edi + 4], ebp              ; a number for the request, 64 bits
        mov dword [edi + 8], 0
        mov [edi + 12], ebx             ; the sector, 64 bits
        mov dword [edi + 16], 0
        mov eax, [block_frame]          ; the segment: a frame,
        mov [edi + 20], eax
        mov word [edi + 24], 0          ; and its first sector to its first
        inc ebp
        mov edx, [block_ring]
        mov [edx + ANSWER_EVENT], ebp
        mov [edx + REQUESTS], ebp
        hypercall EVENT_CHANNEL_OP, SEND, block_port
.wait:  mov edx, [block_ring]
        cmp [edx + ANSWERS], ebp
        je .answered
        push ebp
        push edi
        call await_event
        pop edi
        pop ebp
        jmp .wait
.answered:
        movsx eax, word [edi + 10]      ; the status
        pop edi
        test eax, eax
        jnz .done
        mov esi, block_page
        mov ecx, 512 / 4
        rep movsd                       ; a page that has not been touched is there then
.done:  ret

; ---- output on the console -------------------------------------------------------------------------------------------
put:    push edx                        ; the character AL, into the ring
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
        call sent
.room:  pop edi
        pop edx
        ret
sent:   pushad                          ; tell the other end
        hypercall EVENT_CHANNEL_OP, SEND, console_port
        popad
        ret
print:  lodsb                           ; the text at ESI, up to a zero byte
        test al, al
        jz sent
        call put
        jmp print
report: lodsb                           ; the text at ESI; $ is the next number at EBP, in hexadecimal
        test al, al
        jz sent
        cmp al, '$'
        je .number
        call put
        jmp report
.number:
        mov edx, [ebp]
        add ebp, 4
        mov ecx, 8
.digit: rol edx, 4
        mov eax, edx
        and eax, 0xF
        mov al, [digits + eax]
        call put
        loop .digit
        jmp report

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
directory_update: dd 0, 0, 0, 0         ; machine address of an entry, and the entry, 64 bits each
bind_timer: dd 0, 0                     ; VIRQ_TIMER, processor 0,
timer_port: dd 0                        ; is told here
console_port: dd 0
block_port: dd 0
period: dd PERIOD, 0
reason_end: dd 0                        ; SHUTDOWN_poweroff
reason_crash: dd 3
call_table:
        dd call_exit, call_print, call_putchar, call_getpid, call_ticks, call_sleep, call_read, call_more
call_table_end:
p2m:    dd 0
ring:   dd 0
block_ring: dd 0                        ; 0 where there is no disk
block_frame: dd 0                       ; of block_page
wait_stack: dd 0                        ; where the stack of a kernel that waits is, else 0
next_frame: dd 0                        ; the first that nobody has
room:   dd 0                            ; bytes that nobody has been promised
process_end: dd HEAP
ticks:  dd 0
calls:  dd 0
faults: dd 0                            ; pages that were given since they were touched
digits: db "0123456789abcdef"
banner: db "workload: paging is on", 10, 0
fault_text: db "exception $, error code $, CR2 $", 10, 0

; ---- pages -----------------------------------------------------------------------------------------------------------
align 4096
shared: times 4096 db 0                 ; another page will be here
user_table: times 4096 db 0             ; page table of the second 4 MiB, where the process is
user_stack: times 4096 db 0
block_page: times 4096 db 0             ; to where sectors come
kernel_stack: times 4096 db 0           ; grows down from its end
kernel_stack_end:

%include "programs/workload.asm"
