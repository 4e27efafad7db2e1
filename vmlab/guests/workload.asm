; workload: a small kernel whose one program does what every kind of virtual machine is measured by
;
; The program reads a disk, computes, touches new memory, makes system calls, sleeps, and prints one line:
;
;       primes 303 disk e3ad8000 pages 36
;
; The kernel takes interrupts of the timer and of the disk, and gives memory when it is touched. As minios does, it
; keeps away from the instructions that are sensitive but do not trap, so that it runs under trap-and-emulate too.
;
; Another kernel can run the same program: the bytes from `program` to `program_end` belong at VIRTUAL, in a page that
; user mode may write; the next page is the stack, with ESP at its end; behind it the process ends. It starts at its
; first byte. System calls are made by int 0x80: number in EAX, arguments in EBX and ECX, result in EAX, which is -1
; where a call is refused; the other registers stay as they are.
;
; The disk is the master of the first channel; DRIVE=0xF0 makes it the slave. vmlab.guests.workload_disk() has the data.
bits 32
org 0x100000

ROUNDS  equ 1                           ; how often the program does the whole of it, with a line each time
PERIOD  equ 300                         ; timer ticks between interrupts; in one tick 10 instructions retire
DRIVE   equ 0xE0                        ; device register: LBA, and bit 4 for the slave
EXIT    equ 0                           ; system calls: end, with a status for the debug-exit port
PRINT   equ 1                           ; a text, up to a zero byte
PUTCHAR equ 2                           ; a character
GETPID  equ 3
TICKS   equ 4                           ; how many there have been
SLEEP   equ 5                           ; some ticks
READ    equ 6                           ; a sector, to an address
MORE    equ 7                           ; so many pages behind the end: gives where they begin

LOAD    equ 0x100000                    ; where the boot loader puts this image
DIRECTORY equ 0x110000                  ; page directory,
KERNEL_TABLE equ 0x111000               ; page table of the first 4 MiB: one to one, for the kernel alone
USER_TABLE equ 0x112000                 ; and of the second 4 MiB, where the process is
USER_STACK equ 0x113000                 ; page frame of its stack
BOOT_STACK equ 0x115000                 ; kernel stacks grow down from here: at boot,
KERNEL_STACK equ 0x116000               ; and in traps
TSS     equ 0x116000
FRAMES  equ 0x117000                    ; page frames to give away, up to the end of memory or
KERNEL_END equ 0x400000                 ; up to here
VIRTUAL equ 0x400000                    ; the process: its program,
HEAP    equ 0x402000                    ; behind its stack what it has been given
COM1    equ 0x3F8
ATA     equ 0x1F0
PRESENT equ 1                           ; bits of page-table entries
WRITE   equ 2
USER    equ 4
KERNEL_CODE equ 0x08                    ; selectors: an offset into the GDT; user mode's ask for ring 3
KERNEL_DATA equ 0x10
USER_CODE equ 0x18 | 3
USER_DATA equ 0x20 | 3
PAGE_FAULT equ 14                       ; vectors: below 32 are the processor's exceptions, then come the PICs'
TIMER   equ 32
DISK    equ 46
%assign VECTORS 48
SYSTEM_CALL equ 0x80

header: dd 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000)         ; multiboot 1, with addresses:
        dd header, LOAD, 0, FRAMES, start                       ; header, load, file end, zeros' end, entry

; ---- boot: EBX is the boot loader's information ----------------------------------------------------------------------
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
        mov dword [TSS + 4], KERNEL_STACK       ; ESP0 and SS0: a trap from ring 3 takes its stack from the TSS
        mov dword [TSS + 8], KERNEL_DATA
        mov word [TSS + 102], 104       ; no I/O permission map: user mode may use no port
        mov eax, 0x28                   ; the TSS in the GDT
        ltr ax
        lidt [idt_pointer]
        mov eax, [ebx + 8]              ; KiB of memory from 1 MiB on
        shl eax, 10
        add eax, 0x100000
        cmp eax, KERNEL_END
        jae .tables
        mov [frames_end], eax

.tables:
        mov eax, PRESENT | WRITE
        mov edi, KERNEL_TABLE
.map:   stosd
        add eax, 0x1000
        cmp eax, KERNEL_END
        jb .map
        mov dword [DIRECTORY], KERNEL_TABLE + PRESENT + WRITE
        mov dword [DIRECTORY + 4], USER_TABLE + PRESENT + WRITE + USER
        mov eax, program                ; the program is run where the boot loader has put it
        or eax, PRESENT | WRITE | USER
        mov [USER_TABLE], eax
        mov dword [USER_TABLE + 4], USER_STACK + PRESENT + WRITE + USER
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
        mov esi, banner
        call print
        push dword USER_DATA            ; to user mode, as if a trap had come from there:
        push dword HEAP                 ; SS and ESP,
        push dword 0x202                ; EFLAGS with IF, CS and EIP
        push dword USER_CODE
        push dword VIRTUAL
        iret

; ---- traps -----------------------------------------------------------------------------------------------------------
; The processor has pushed SS and ESP, where it comes from user mode, EFLAGS, CS, EIP and, for some exceptions, an error
; code. A stub adds a zero for the others and the vector, so that all frames are alike.
align 16
stubs:
%assign vector 0
%rep VECTORS
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
        mov eax, [esp + 32]             ; the vector
        cmp eax, SYSTEM_CALL
        je system_call
        cmp eax, DISK
        je disk
        cmp eax, TIMER
        je timer
        ja back                         ; an interrupt that nobody has asked for
        cmp eax, PAGE_FAULT
        je page_fault
fault:  mov eax, cr2                    ; the address that could not be used, if this is a page fault
        push eax
        push dword [esp + 40]           ; error code
        push dword [esp + 40]           ; vector
        mov ebp, esp
        mov esi, fault_text
        call report
        mov ebx, 1                      ; the end of the only process, or of the kernel
call_exit:
        mov eax, ebx
        out 0xF4, al                    ; the debug-exit port stops the machine, with status (EBX << 1) | 1
.end:   hlt
        jmp .end

timer:  inc dword [ticks]
        jmp end_of_interrupt
disk:   mov edx, ATA + 7
        in al, dx                       ; the status: to read it takes the interrupt back
        mov [disk_status], al
        mov al, 0x20                    ; end of interrupt for the second PIC
        out 0xA0, al
end_of_interrupt:
        mov al, 0x20
        out 0x20, al
        jmp back
page_fault:
        test byte [esp + 36], PRESENT   ; the error code: may the page not be used so, or is it not there?
        jnz fault
        mov edx, cr2
        cmp edx, HEAP                   ; has the process been given it?
        jb fault
        cmp edx, [process_end]
        jae fault
        inc dword [faults]
        mov edi, [next_frame]           ; then it gets it now, and finds nothing of others in it
        add dword [next_frame], 0x1000
        lea ebx, [edi + PRESENT + WRITE + USER]
        mov ecx, 0x400
        xor eax, eax
        rep stosd
        shr edx, 12
        mov [USER_TABLE + edx * 4 - (VIRTUAL >> 10)], ebx
        jmp back
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
back:   popad
        add esp, 8                      ; vector and error code
        iret

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
        sti                             ; takes effect after hlt has begun: no interrupt is missed
        hlt
        cli
        jmp .wait
.done:  xor eax, eax
        ret
call_more:
        cmp ebx, (KERNEL_END - FRAMES) / 0x1000
        ja .done                        ; more than there can be
        shl ebx, 12
        add ebx, [process_end]
        lea edx, [ebx - HEAP + FRAMES]  ; each page gets a frame one day: are there so many?
        cmp edx, [frames_end]
        ja .done
        mov eax, ebx
        xchg eax, [process_end]
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
        cmp ebx, 1 << 28                ; is there such a sector?
        jae .done
        cmp ecx, VIRTUAL                ; is all of the buffer the process's?
        jb .done
        lea edx, [ecx + 512]
        cmp edx, VIRTUAL                ; beyond 4 GiB all begins anew
        jb .done
        cmp edx, [process_end]
        ja .done
        mov edi, ecx
        mov edx, ATA + 6                ; device: LBA 27:24
        mov eax, ebx
        shr eax, 24
        or al, DRIVE
        out dx, al
        inc edx
        in al, dx                       ; the status: no drive has none
        test al, al
        jz .failed
        sub edx, 5                      ; sector count
        mov al, 1
        out dx, al
        mov eax, ebx
        mov ecx, 3                      ; LBA 7:0, 15:8, 23:16
.address:
        inc edx
        out dx, al
        shr eax, 8
        loop .address
        mov byte [disk_status], 0
        mov edx, ATA + 7
        mov al, 0x20                    ; READ SECTORS
        out dx, al
.wait:  sti
        hlt
        cli
        mov al, [disk_status]           ; not by the timer, but by the disk?
        test al, al
        jz .wait
        test al, 1                      ; error?
        jnz .failed
        mov edx, ATA
        mov ecx, 256
        rep insw
        xor eax, eax
        ret
.failed:
        mov eax, -1
.done:  ret

; ---- output on the serial port ---------------------------------------------------------------------------------------
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
report: lodsb                           ; the text at ESI; $ is the next number at EBP, in hexadecimal
        test al, al
        jz print.done
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
%rep VECTORS
        dw stubs - $$ + vector * 16, KERNEL_CODE, 0x8E00, LOAD >> 16    ; interrupt gate: clears IF on the way in
%assign vector vector + 1
%endrep
        times SYSTEM_CALL - VECTORS dq 0
        dw system_call_stub - $$, KERNEL_CODE, 0xEE00, LOAD >> 16       ; user mode may use this one by int
idt_end:
devices:
        db 0x20, 0x11, 0xA0, 0x11       ; both PICs: initialize (ICW1)
        db 0x21, TIMER, 0xA1, TIMER + 8 ; their first vectors (ICW2)
        db 0x21, 0x04, 0xA1, 0x02       ; joined at line 2 (ICW3)
        db 0x21, 0x01, 0xA1, 0x01       ; for an 8086 (ICW4)
        db 0x21, 0xFA, 0xA1, 0xBF       ; all lines masked but 0, the timer, 2 and 14, the disk
        db 0x43, 0x34                   ; PIT: counter 0, both bytes of the count, mode 2
        db 0x40, PERIOD & 0xFF, 0x40, PERIOD >> 8
devices_end:
call_table:
        dd call_exit, call_print, call_putchar, call_getpid, call_ticks, call_sleep, call_read, call_more
call_table_end:
next_frame: dd FRAMES                   ; the first that nobody has
frames_end: dd KERNEL_END
process_end: dd HEAP
ticks:  dd 0
calls:  dd 0
faults: dd 0                            ; pages that were given since they were touched
disk_status: db 0                       ; as of the last interrupt
digits: db "0123456789abcdef"
banner: db "workload: paging is on", 10, 0
fault_text: db "exception $, error code $, CR2 $", 10, 0

%include "programs/workload.asm"
