; control: the kernel of a control domain, which has the disk and reads it for the other domains
;
; Dom0, root partition, control partition: one domain drives the device that the others share. What they ask for comes
; by a channel (vmlab.machine.devices.channel): IRQ 10 says that a request waits. The kernel reads the sector by its own
; driver, hands the data to the channel, and halts until there is more. Once each timer tick, if nothing else is to be
; done, it lets an ordinary process of its own run, which counts. It never ends by itself.
;
; As minios does, it keeps away from the instructions that are sensitive but do not trap.
bits 32
org 0x100000

PERIOD  equ 1000                        ; timer ticks between interrupts; in one tick 10 instructions retire
DRIVE   equ 0xE0                        ; device register of its disk: LBA, and bit 4 for the slave
COUNTS  equ 200                         ; how far the process counts at a time

LOAD    equ 0x100000                    ; where the boot loader puts this image
DIRECTORY equ 0x110000                  ; page directory,
TABLE   equ 0x111000                    ; and page table of the first 4 MiB, one to one
BOOT_STACK equ 0x113000                 ; stacks grow down from here: the kernel's,
KERNEL_STACK equ 0x114000               ; and for traps from the process, of which the state stays there
TSS     equ 0x114000
END     equ 0x115000
COM1    equ 0x3F8
ATA     equ 0x1F0
STATUS  equ 0x520                       ; the channel's registers: 1 where a request waits; 1 is done, 2 has failed
SECTOR  equ 0x524                       ; which sector
DATA    equ 0x52C                       ; the answer
PRESENT equ 1                           ; bits of page-table entries
WRITE   equ 2
USER    equ 4
KERNEL_CODE equ 0x08                    ; selectors: an offset into the GDT; user mode's ask for ring 3
KERNEL_DATA equ 0x10
USER_CODE equ 0x18 | 3
USER_DATA equ 0x20 | 3
TIMER   equ 32                          ; vectors: below 32 are the processor's exceptions, then come the PICs'
CHANNEL equ 42
DISK    equ 46
%assign VECTORS 48
SYSTEM_CALL equ 0x80                    ; the process has counted enough

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
        mov dword [TSS + 4], KERNEL_STACK       ; ESP0 and SS0: a trap from ring 3 takes its stack from the TSS
        mov dword [TSS + 8], KERNEL_DATA
        mov word [TSS + 102], 104       ; no I/O permission map: user mode may use no port
        mov eax, 0x28                   ; the TSS in the GDT
        ltr ax
        lidt [idt_pointer]
        mov eax, PRESENT | WRITE        ; map 4 MiB one to one, for the kernel
        mov edi, TABLE
.map:   stosd
        add eax, 0x1000
        cmp eax, 0x400000
        jb .map
        mov eax, tool                   ; but the process may use its page
        mov edi, eax
        shr edi, 12
        or eax, PRESENT | WRITE | USER
        mov [TABLE + edi * 4], eax
        mov dword [DIRECTORY], TABLE + PRESENT + WRITE + USER
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
        mov edx, STATUS
        in eax, dx
        cmp eax, -1                     ; nobody there?
        je no_channel
        mov esi, banner
        call print
        mov esp, KERNEL_STACK           ; the process is as if a trap had come from it:
        push dword USER_DATA            ; SS and ESP,
        push dword tool + 0x1000
        push dword 0x202                ; EFLAGS with IF, CS and EIP
        push dword USER_CODE
        push dword tool

; ---- what it does: requests first, then the process, then nothing ----------------------------------------------------
serve:  mov esp, BOOT_STACK
        mov edx, STATUS
        in eax, dx
        test eax, eax
        jnz request
        cmp byte [rests], 0
        je run
        sti                             ; takes effect after hlt has begun: no interrupt is missed
        hlt
        cli
        jmp serve
request:
        mov edx, SECTOR
        in eax, dx
        call read
        mov ebx, 2
        test eax, eax
        jnz .reply
        mov esi, buffer
        mov edx, DATA
        mov ecx, 128
        rep outsd
        inc dword [served]
        mov ebx, 1
.reply: mov eax, ebx
        mov edx, STATUS
        out dx, eax
        jmp serve
run:    mov byte [runs], 1
        mov esp, KERNEL_STACK - 60      ; what its last trap has left: registers, vector, error code, and for iret
        jmp back
no_channel:
        mov esi, no_channel_text
        call print
.end:   hlt
        jmp .end

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
        cmp eax, CHANNEL
        je end_of_interrupts
        cmp eax, TIMER
        je timer
        ja back                         ; an interrupt that nobody has asked for
        mov eax, cr2                    ; a fault: the address that could not be used, if this is a page fault
        push eax
        push dword [esp + 40]           ; error code
        push dword [esp + 40]           ; vector
        mov ebp, esp
        mov esi, fault_text
        call report
        mov al, 1
        out 0xF4, al                    ; the debug-exit port stops the machine, with status (1 << 1) | 1
system_call:
        mov byte [rests], 1
        jmp leave_trap
disk:   mov edx, ATA + 7
        in al, dx                       ; the status: to read it takes the interrupt back
        mov [disk_status], al
end_of_interrupts:
        mov al, 0x20                    ; for the second PIC, and the first
        out 0xA0, al
        jmp end_of_interrupt
timer:  mov byte [rests], 0
end_of_interrupt:
        mov al, 0x20
        out 0x20, al
leave_trap:
        cmp byte [runs], 0              ; was it the process that ran? Its state stays on this stack
        mov byte [runs], 0
        jne serve
back:   popad
        add esp, 8                      ; vector and error code
        iret

; ---- the disk --------------------------------------------------------------------------------------------------------
read:   cmp eax, 1 << 28                ; sector EAX to the buffer; EAX is 0 then, or -1
        jae .failed
        mov ebx, eax
        mov edx, ATA + 6                ; device: LBA 27:24
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
        mov edi, buffer
        mov ecx, 256
        rep insw
        xor eax, eax
        ret
.failed:
        mov eax, -1
        ret

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
        db 0x21, 0xFA, 0xA1, 0xBB       ; all lines masked but 0, the timer, 2, 10, the channel, and 14, the disk
        db 0x43, 0x34                   ; PIT: counter 0, both bytes of the count, mode 2
        db 0x40, PERIOD & 0xFF, 0x40, PERIOD >> 8
devices_end:
served: dd 0                            ; requests that are done
disk_status: db 0                       ; as of the last interrupt
runs:   db 0                            ; 1 while the process runs
rests:  db 1                            ; 1 from when it has counted enough to the next tick
digits: db "0123456789abcdef"
banner: db "control domain: ready", 10, 0
no_channel_text: db "control domain: there is no channel", 10, 0
fault_text: db "exception $, error code $, CR2 $", 10, 0
align 4
buffer: times 512 db 0

; ---- the process, in a page of its own -------------------------------------------------------------------------------
align 4096
tool:   mov ecx, COUNTS
.count: inc dword [counted]
        loop .count
        int SYSTEM_CALL
        jmp tool
align 4
counted: dd 0
