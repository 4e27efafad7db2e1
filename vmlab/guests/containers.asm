; containers: one kernel with containers, each with its own processes, root, address and limits; and a bug, if wanted
;
; Every rule is kept here, in the kernel: a system call looks at the container of the process that makes it. Of other
; containers it sees nothing; what it shares with them is this kernel. Container 0, `global`, sees and may do all.
;
; Simplified: time is charged by the tick, to whoever runs when it comes, and memory when it is asked for (a page frame
; is found at the first touch). The kernel is interrupted where it is idle, and between two steps of long work: there a
; tick is counted, but nobody else runs. As minios, it keeps away from the instructions that are sensitive but do not
; trap. The files in the folder of its name are its parts: processes, files and addresses, containers, the serial port;
; and the programs that run in ring 3.
bits 32
org 0x100000

SCENE   equ 0                           ; 0: the workload in both containers, 1: and a virus in the second,
                                        ; 2: which gets out by a bug of the kernel, 3: or brings the kernel down by it
BUG     equ 0                           ; 1: that bug is there in scenes 0 and 1, too
SCRIPT_1 equ 0                          ; what the containers do instead: hexadecimal digits, the last one first, each a
SCRIPT_2 equ 0                          ; line of `programs`
SEED    equ 1                           ; of the program that makes random system calls,
ROUNDS  equ 60                          ; and their number
PAGES_1 equ 32                          ; limits of container 1, `web`, and of container 2, `db`: pages of memory,
PAGES_2 equ 24
PROCESSES_1 equ 6                       ; processes,
PROCESSES_2 equ 5
SHARE_1 equ 5                           ; ticks of a period
SHARE_2 equ 3
PERIOD  equ 10                          ; ticks
DEADLINE equ 300                        ; ticks after which the host stops what still runs
COUNT   equ 200                         ; timer: of its ticks between interrupts; in each 10 instructions retire

LOAD    equ 0x100000                    ; where the boot loader puts this image
TABLE   equ 0x120000                    ; page table of the first 4 MiB, the kernel's: the same for all processes
DIRECTORY equ 0x121000                  ; a page directory with the kernel alone
STACKS  equ 0x122000                    ; kernel stacks, one a process
STACK_SIZE equ 0x400
SLOTS   equ 16                          ; processes that there can be
BOOT_STACK equ 0x127000                 ; grows down from here at boot and when idle
TSS     equ 0x127000
POOL    equ 0x180000                    ; page frames for processes
POOL_END equ 0x200000
FRAMES  equ (POOL_END - POOL) / 0x1000
PRIVATE equ 0x400000                    ; virtual: a process's own page of data, then its stack,
STACK_TOP equ PRIVATE + 0x2000
HEAP    equ STACK_TOP                   ; then what it asks for
HIGHEST equ 0x800000
OWN_PAGES equ 4                         ; of a process without a heap: directory, table, data, stack
COM1    equ 0x3F8
DISK    equ 1                           ; in place of a file's contents
SECTOR  equ 512
PRESENT equ 1                           ; bits of page-table entries
WRITABLE equ 2
USER    equ 4
KERNEL_CODE equ 0x08                    ; selectors
KERNEL_DATA equ 0x10
USER_CODE equ 0x18 | 3
USER_DATA equ 0x20 | 3
TIMER   equ 32                          ; vectors
SYSTEM_CALL equ 0x80                    ; number in EAX, arguments in EBX, ECX, EDX; the result or -error in EAX
EXIT    equ 0
WRITE   equ 1                           ; address, length
GETPID  equ 2
YIELD   equ 3
SLEEP   equ 4                           ; ticks
TICKS   equ 5                           ; since the kernel started, in all containers
FORK    equ 6
EXEC    equ 7                           ; program, argument
WAITPID equ 8                           ; pid of a child
PS      equ 9                           ; address, records that fit there: pid, container, ticks, name of the program
KILL    equ 10                          ; pid
OPEN    equ 11                          ; path
READ    equ 12                          ; file, address, length; of the disk a sector
BIND    equ 13                          ; address, port
SBRK    equ 14                          ; pages; the result is where they begin
GETHOSTNAME equ 15                      ; address
SETHOSTNAME equ 16                      ; address
UNAME   equ 17                          ; address
CONTAINERCTL equ 18                     ; operation, container, argument
DEBUG_POKE equ 19                       ; address, value: the bug
GETKEY  equ 20                          ; what has been typed at the serial console; 0: nothing
CREATE  equ 0                           ; operations: address of a configuration; the result is the container
START   equ 1                           ; and a script
STOP    equ 2
DESTROY equ 3
POPULATION equ 4                        ; how many processes it has
EPERM   equ 1                           ; errors, as Linux numbers them
ENOENT  equ 2
ESRCH   equ 3
EIO     equ 5
EBADF   equ 9
ECHILD  equ 10
EAGAIN  equ 11
ENOMEM  equ 12
EFAULT  equ 14
EINVAL  equ 22
EMFILE  equ 24
ENOSYS  equ 38
EADDRINUSE equ 98
EADDRNOTAVAIL equ 99
ERRORS  equ 4095                        ; results from -4095 on are errors

; A process:
P_STATE equ 0                           ; 0: there is none
P_PID   equ 4                           ; as the global container sees it,
P_VPID  equ 8                           ; and as its own does
P_CONTAINER equ 12
P_PARENT equ 16
P_WAKE  equ 20                          ; the tick from which on it may run
P_WAIT  equ 24                          ; the process whose end it waits for
P_FRAME equ 28                          ; where on its kernel stack a trap puts its state
P_DIRECTORY equ 32                      ; its page directory
P_TABLE equ 36                          ; and the table of what is its own
P_BREAK equ 40                          ; the end of its heap
P_PAGES equ 44                          ; what it is charged
P_TICKS equ 48
P_NAME  equ 52                          ; its program's
P_PORT  equ 56                          ; where it listens, at its container's address; 0: nowhere
P_FILES equ 60                          ; open files: node and offset
FILES   equ 4
P_SIZE  equ P_FILES + FILES * 8

; A container; up to the script it is as a configuration says:
C_STATE equ 0                           ; 0: there is none, 1: configured, 2: running
C_NAME  equ 4                           ; 8 bytes
C_HOSTNAME equ 12                       ; 16 bytes
C_ROOT  equ 28                          ; node; in a configuration a path
C_ADDRESS equ 32                        ; its IP address
C_PAGES equ 36                          ; limits
C_PROCESSES equ 40
C_SHARE equ 44
C_SCRIPT equ 48
C_USED  equ 52                          ; ticks of this period
C_TICKS equ 56                          ; of all
C_NEXT_PID equ 60
C_PEAK_PAGES equ 64                     ; the most at any time
C_PEAK_PROCESSES equ 68
C_CALLS equ 72                          ; system calls,
C_REFUSED equ 76                        ; and those that ended in an error
C_NUMBER equ 80
C_SIZE  equ 84
CONTAINERS equ 4                        ; that there can be, with the global one

N_NAME  equ 0                           ; a file or directory: its name, the directory above it, its first entry,
N_PARENT equ 4                          ; the next one beside it, a file's contents and where they end
N_CHILD equ 8
N_NEXT  equ 12
N_DATA  equ 16
N_END   equ 20

header: dd 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000)         ; multiboot 1, with addresses:
        dd header, LOAD, 0, POOL_END, start                     ; header, load, file end, zeros' end, entry

; ---- boot ------------------------------------------------------------------------------------------------------------
start:  cli
        mov esp, BOOT_STACK
        lgdt [gdt_pointer]
        jmp KERNEL_CODE:.reload
.reload:
        mov eax, KERNEL_DATA
        mov ss, eax
        mov eax, USER_DATA
        mov ds, eax
        mov es, eax
        mov dword [TSS + 8], KERNEL_DATA
        mov word [TSS + 102], 104       ; no I/O permission map
        mov eax, 0x28
        ltr ax
        lidt [idt_pointer]

        mov eax, PRESENT | WRITABLE     ; map 2 MiB one to one, for the kernel
        mov edi, TABLE
.map:   mov edx, eax
        cmp eax, user_programs
        jb .entry
        cmp eax, user_end
        jae .entry
        xor edx, WRITABLE | USER        ; but user mode may read the pages with its programs
.entry: mov [edi], edx
        add edi, 4
        add eax, 0x1000
        cmp eax, POOL_END
        jb .map
        mov dword [DIRECTORY], TABLE + PRESENT + WRITABLE + USER
        mov eax, DIRECTORY
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

        mov eax, POOL_END - 0x1000      ; the first word of a free frame leads to the next
.free:  mov edx, [free]
        mov [eax], edx
        mov [free], eax
        sub eax, 0x1000
        cmp eax, POOL
        jae .free
        mov edi, processes              ; each has its kernel stack from the start
        mov eax, STACKS + STACK_SIZE - 60
.stack: mov [edi + P_FRAME], eax
        add eax, STACK_SIZE
        add edi, P_SIZE
        cmp edi, processes_end
        jb .stack
        mov esi, banner
        call print
        mov ebp, containers             ; the first process: the host, in the global container
        xor edx, edx
        call start_process
        jmp schedule

; ---- traps -----------------------------------------------------------------------------------------------------------
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

; On the stack now: EDI ESI EBP ESP EBX EDX ECX EAX (28), vector (32), error code, EIP (40), CS, EFLAGS, and from ring 3
; ESP and SS. A trap from ring 3 begins at the top of its process's kernel stack: this is where P_FRAME points to.
trap:   pushad
        mov eax, USER_DATA              ; user mode may have loaded anything
        mov ds, eax
        mov es, eax
        cld
        mov ebx, [current]
        mov eax, [esp + 32]
        cmp eax, TIMER
        je timer
        test byte [esp + 44], 3         ; CS: the ring that it came from
        jz panic                        ; the kernel's own fault
        cmp eax, SYSTEM_CALL
        jne fault
system_call:
        inc dword [calls]
        mov ebp, [ebx + P_CONTAINER]
        inc dword [ebp + C_CALLS]
        mov eax, [esp + 28]             ; number and arguments, as pushad saved them
        mov esi, [esp + 16]
        mov ecx, [esp + 24]
        mov edx, [esp + 20]
        mov dword [esp + 28], 0         ; the result of a call that does not come back here
        mov edi, no_call
        cmp eax, (call_table_end - call_table) / 4
        jae .call
        mov edi, [call_table + eax * 4]
.call:  call edi                        ; the process in EBX, its container in EBP, arguments in ESI, ECX, EDX
        mov ebx, [current]
        mov edx, [ebx + P_FRAME]
        mov [edx + 28], eax
        cmp eax, -ERRORS
        jb finish
        mov ebp, [ebx + P_CONTAINER]
        inc dword [ebp + C_REFUSED]
finish: cmp dword [turn_over], 0        ; a tick came while the kernel worked
        jne schedule
resume: mov ebx, [current]
        mov esp, [ebx + P_FRAME]
        popad
        add esp, 8                      ; vector and error code
        iret
timer:  mov al, 0x20                    ; end of interrupt
        out 0x20, al
        inc dword [ticks]
        test ebx, ebx
        jz .idle
        inc dword [ebx + P_TICKS]
        mov ebp, [ebx + P_CONTAINER]
        inc dword [ebp + C_TICKS]
        inc dword [ebp + C_USED]
        jmp .period
.idle:  inc dword [idle_ticks]
.period:
        dec dword [period_left]
        jnz .return
        mov dword [period_left], PERIOD
        mov ebp, containers             ; all may run again
.again: mov eax, [ebp + C_USED]
        sub eax, [ebp + C_SHARE]        ; what the kernel's work for it took too much, it takes less now
        jae .debt
        xor eax, eax
.debt:  mov [ebp + C_USED], eax
        add ebp, C_SIZE
        cmp ebp, containers_end
        jb .again
.return:
        test ebx, ebx
        jz schedule
        test byte [esp + 44], 3
        jnz schedule                    ; whoever ran has had its turn
        mov dword [turn_over], 1        ; the kernel works for it: it ends that first
        popad
        add esp, 8
        iret
fault:  inc dword [faults]
        mov edi, cr2
        cmp eax, 14
        jne .kill
        test byte [esp + 36], PRESENT   ; a page fault: is it the first touch of what is its own?
        jnz .kill
        cmp edi, PRIVATE
        jb .kill
        cmp edi, [ebx + P_BREAK]
        jae .kill
        call map_page
        jmp finish
.kill:  push edi                        ; CR2, the address of the last page fault
        push eax
        push dword [ebx + P_VPID]
        mov ebp, [ebx + P_CONTAINER]
        call new_line
        call print_name
        mov ebp, esp
        mov esi, fault_text
        call report
        mov ebx, [current]
call_exit:
        mov edi, ebx
        call end_process
        jmp schedule
panic:  mov dword [panicked], 1
        mov dword [current], 0
        push dword [esp + 40]           ; EIP
        push eax
        call new_line
        mov ebp, esp
        mov esi, panic_text
        call report
        mov al, 1
        out 0xF4, al

; ---- scheduler: round robin among those whose container has not used up its share ------------------------------------
schedule:
        mov dword [turn_over], 0
        mov ebx, [last]
        mov ecx, SLOTS
        xor esi, esi
.next:  add ebx, P_SIZE
        cmp ebx, processes_end
        jb .look
        mov ebx, processes
.look:  or esi, [ebx + P_STATE]
        cmp dword [ebx + P_STATE], 0
        je .not
        cmp dword [ebx + P_WAIT], 0
        jne .not
        mov eax, [ticks]
        cmp eax, [ebx + P_WAKE]
        jb .not
        mov ebp, [ebx + P_CONTAINER]
        mov eax, [ebp + C_USED]
        cmp eax, [ebp + C_SHARE]
        jb run
.not:   loop .next
        mov dword [current], 0
        test esi, esi
        jz shutdown
        mov esp, BOOT_STACK
        sti                             ; with nothing to do it waits for the timer
.idle:  hlt
        jmp .idle
run:    mov [current], ebx
        mov [last], ebx
        mov eax, [ebx + P_FRAME]
        add eax, 60
        mov [TSS + 4], eax              ; ESP0
        mov eax, [ebx + P_DIRECTORY]
        mov cr3, eax
        xor eax, eax                    ; nothing of another process is left in the processor
        mov fs, eax
        mov gs, eax
        jmp resume
shutdown:
        call new_line
        mov ebp, ticks                  ; and after it idle_ticks and calls
        mov esi, shutdown_text
        call report
        mov edi, containers
.next:  cmp dword [edi + C_STATE], 0
        je .none
        lea esi, [edi + C_NAME]
        call print
        push dword [edi + C_REFUSED]
        push dword [edi + C_CALLS]
        push dword [edi + C_PEAK_PROCESSES]
        push dword [edi + C_PEAK_PAGES]
        push dword [edi + C_TICKS]
        mov ebp, esp
        mov esi, account_text
        call report
        add esp, 20
.none:  add edi, C_SIZE
        cmp edi, containers_end
        jb .next
        mov al, 0
        out 0xF4, al

%include "containers/processes.asm"
%include "containers/files.asm"
%include "containers/control.asm"
%include "containers/output.asm"

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
devices:
        db 0x20, 0x11, 0xA0, 0x11       ; both PICs: initialize (ICW1)
        db 0x21, TIMER, 0xA1, TIMER + 8 ; their first vectors (ICW2)
        db 0x21, 0x04, 0xA1, 0x02       ; joined at line 2 (ICW3)
        db 0x21, 0x01, 0xA1, 0x01       ; for an 8086 (ICW4)
        db 0x21, 0xFE, 0xA1, 0xFF       ; all lines masked but 0, the timer
        db 0x43, 0x34                   ; PIT: counter 0, both bytes of the count, mode 2
        db 0x40, COUNT & 0xFF, 0x40, COUNT >> 8
devices_end:
align 4
call_table:
        dd call_exit, call_write, call_getpid, schedule, call_sleep, call_ticks, call_fork, call_exec, call_wait
        dd call_ps, call_kill, call_open, call_read, call_bind, call_sbrk, call_gethostname, call_sethostname
        dd call_uname, call_containerctl, call_debug_poke, call_getkey
call_table_end:
operation_table:
        dd create, launch, halt, destroy, population
operation_table_end:
containers:
        dd 2                            ; the global container: it may have all
        db "global", 0, 0, "host", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
        dd root, 0x0A000001, FRAMES, SLOTS, PERIOD, 0
        times C_NUMBER - C_USED db 0
        dd 0
        times C_NUMBER db 0
        dd 1
        times C_NUMBER db 0
        dd 2
        times C_NUMBER db 0
        dd 3
containers_end:
layout:                                 ; where what is, for those who look at this kernel from outside
        dd PERIOD
        dd C_SIZE, C_STATE, C_NAME, C_HOSTNAME, C_ROOT, C_ADDRESS, C_PAGES, C_PROCESSES, C_SHARE, C_USED, C_TICKS
        dd C_PEAK_PAGES, C_PEAK_PROCESSES, C_CALLS, C_REFUSED, C_NUMBER
        dd P_SIZE, P_STATE, P_PID, P_VPID, P_CONTAINER, P_PARENT, P_WAKE, P_WAIT, P_PAGES, P_TICKS, P_NAME, P_PORT
        dd N_NAME, N_PARENT
layout_end:
processes: times SLOTS * P_SIZE db 0
processes_end:
current: dd 0                           ; the process that runs; 0 while the kernel boots or is idle
last:   dd processes                    ; the process that ran last
free:   dd 0                            ; the first free page frame
next_pid: dd 1
period_left: dd PERIOD
turn_over: dd 0                         ; 1: whoever runs has had its turn
panicked: dd 0                          ; 1: the kernel has come to its end, and all with it
bug:    dd BUG | SCENE >> 1
ticks:  dd 0
idle_ticks: dd 0
calls:  dd 0
faults: dd 0
path:   times 64 db 0
path_end:
written: db 10                          ; the last character
align 4
writer: dd 0                            ; and the container that it was from
digits: db "0123456789abcdef"
version: db "containers 1.0", 0, 0
banner: db "containers: one kernel for all", 10, 0
colon:  db ": ", 0
fault_text: db "process # killed: exception #, address $", 10, 0
panic_text: db "panic: exception # in the kernel at $: all containers are gone", 10, 0
shutdown_text: db "shutdown after # ticks, # of them idle, # system calls, # exceptions", 10, 0
account_text: db ": # ticks, # pages and # processes at most, # system calls, # refused", 10, 0

; The files: name, directory above, first entry, next one beside, contents, their end. Each container's root is here.
%macro zone 2                           ; label, the zone beside
%{1}:   dd %{1}_name, zones, %{1}_etc, %2, 0, 0
%{1}_etc: dd etc_name, %{1}, %{1}_motd, %{1}_data, 0, 0
%{1}_motd: dd motd_name, %{1}_etc, 0, %{1}_secret, %{1}_motd_text, %{1}_secret_text
%{1}_secret: dd secret_name, %{1}_etc, 0, 0, %{1}_secret_text, %{1}_end
%{1}_data: dd data_name, %{1}, 0, 0, DISK, 0
%endmacro
align 4
root:   dd colon, root, etc, 0, 0, 0
etc:    dd etc_name, root, motd, zones, 0, 0
motd:   dd motd_name, etc, 0, secret, motd_text, secret_text
secret: dd secret_name, etc, 0, 0, secret_text, secret_end
zones:  dd zones_name, root, web, data, 0, 0
data:   dd data_name, root, 0, 0, DISK, 0
        zone web, db_
        zone db_, 0
etc_name: db "etc", 0
motd_name: db "motd", 0
secret_name: db "secret", 0
zones_name: db "zones", 0
data_name: db "data", 0
web_name: db "web", 0
db__name: db "db", 0
motd_text: db "this is the host", 10
secret_text: db "the host's password", 10
secret_end:
web_motd_text: db "this is web", 10
web_secret_text: db "web's password", 10
web_end:
db__motd_text: db "this is db", 10
db__secret_text: db "db's password", 10
db__end:

%include "containers/programs.asm"
%include "containers/virus.asm"
