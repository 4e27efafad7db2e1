; thin_hypervisor: a hypervisor of one page, on VT-x: it runs a guest in real mode and answers its VM exits
bits 32
org 0x100000

DIRECTORY equ 0x80000                   ; the hypervisor's own page directory: one page of 4 MiB
STACK   equ 0x90000
VMXON_REGION equ 0x90000
VMCS    equ 0x91000
PML4    equ 0x92000                     ; four tables follow each other: they map what is physical memory to the guest
TABLE   equ 0x95000
MEMORY  equ 0x200000                    ; where it lies: 64 KiB
ENTRY   equ 0x1000                      ; where in it the guest begins

%include "vmx/macros.asm"

start:  mov esp, STACK
        mov eax, 1                      ; CPUID: bit 5 of ECX says whether there is VT-x
        cpuid
        bt ecx, 5
        mov esi, none
        jnc .without
        mov ecx, 0x48B                  ; the secondary controls that there are, in EDX
        rdmsr
        and edx, 0x82
        cmp edx, 0x82                   ; extended page tables, unrestricted guest
        mov esi, too_old
        je on
.without: call print
        mov al, 0
        out 0xF4, al

on:     lgdt [gdt_pointer]
        jmp 0x08:.flat
.flat:  mov eax, 0x10
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov eax, 0x18
        ltr ax
        mov dword [DIRECTORY], 0x83     ; VMX operation asks for paging, protected mode and CR0.NE
        mov eax, DIRECTORY
        mov cr3, eax
        mov eax, 0x2010                 ; VMXE, and pages of 4 MiB
        mov cr4, eax
        mov eax, cr0
        or eax, 0x80000020
        mov cr0, eax
        mov ecx, 0x3A                   ; IA32_FEATURE_CONTROL: lock it with VMXON allowed, as firmware does
        xor edx, edx
        mov eax, 5
        wrmsr
        mov ecx, 0x480                  ; IA32_VMX_BASIC: the revision that both regions begin with
        rdmsr
        mov [VMXON_REGION], eax
        mov [VMCS], eax
        vmxon [vmxon_pointer]
        vmclear [vmcs_pointer]
        vmptrld [vmcs_pointer]
        jbe failed

; -- the guest's memory: nothing is mapped yet but the way to one table
        mov dword [PML4], PML4 + 0x1007
        mov dword [PML4 + 0x1000], PML4 + 0x2007
        mov dword [PML4 + 0x2000], TABLE + 7
        mov esi, guest
        mov edi, MEMORY + ENTRY
        mov ecx, guest_end - guest
        rep movsb

; -- the VMCS: controls
        control 0x4000, 0x48D, 0                ; pin-based
        control 0x4002, 0x48E, 0x81000080       ; primary: HLT and every port lead out, secondary controls
        control 0x401E, 0x48B, 0x82             ; secondary: extended page tables, unrestricted guest
        control 0x400C, 0x48F, 0                ; VM exit: back to 32 bits
        control 0x4012, 0x490, 0                ; VM entry
        set 0x201A, PML4 + 0x1E                 ; EPT pointer: four levels, write-back
        set 0x2800, 0xFFFFFFFF                  ; VMCS link pointer: none
        set 0x2801, 0xFFFFFFFF
; -- the host: where a VM exit leads to
        mov eax, cr0
        set 0x6C00, eax
        mov eax, cr3
        set 0x6C02, eax
        mov eax, cr4
        set 0x6C04, eax
        set 0x0C02, 0x08                        ; CS, then SS, DS, ES, TR
        set 0x0C04, 0x10
        set 0x0C06, 0x10
        set 0x0C00, 0x10
        set 0x0C0C, 0x18
        set 0x6C0A, tss
        set 0x6C0C, gdt
        set 0x6C14, STACK
        set 0x6C16, leave
; -- the guest: as a processor begins, in real mode, but at ENTRY
%assign number 0
%rep 6
        describe number, 0xFFFF, 0x93            ; ES, CS, SS, DS, FS, GS
%assign number number + 1
%endrep
        describe 1, 0xFFFF, 0x9B
        describe 6, 0, 0x10000                   ; LDTR: unusable
        describe 7, 0xFFFF, 0x8B
        set 0x6800, 0x20                        ; CR0.NE and CR4.VMXE: what VMX operation demands of every guest
        set 0x6804, 0x2000
        set 0x681A, 0x400                       ; DR7
        set 0x681E, ENTRY
        set 0x6820, 2
        mov esi, begins
        call print
        vmlaunch
failed: mov esi, refused                        ; it comes back only if something is wrong
        call print
        get eax, 0x4400
        call number_out
        mov al, 1
        out 0xF4, al

; -- each VM exit arrives here
leave:  pushad
        inc dword [exits]
        get eax, 0x4402                         ; the exit reason
        cmp eax, 48
        je violation
        cmp eax, 30
        je port
        cmp eax, 10
        je identify
        cmp eax, 12
        je halted
        push eax
        mov esi, unknown
        call print
        pop eax
        call number_out
        mov al, 2
        out 0xF4, al

violation:                                      ; it touches a page for the first time: map it
        inc dword [pages]
        get eax, 0x2400                         ; the guest-physical address
        shr eax, 12
        mov ecx, eax
        shl ecx, 12
        add ecx, MEMORY + 0x37                  ; read, write, execute; write-back
        mov [TABLE + eax * 8], ecx
        popad
        jmp again
port:   get eax, 0x6400                         ; the exit qualification: bits 31:16 are the port
        shr eax, 16
        cmp eax, 0xE9                           ; what a guest writes there comes out at the serial port
        jne .done
        mov al, [esp + 28]                      ; its AL
        mov dx, 0x3F8
        out dx, al
.done:  popad
        jmp behind
identify:                                       ; this is the processor's name here
        popad
        mov ebx, [vendor]
        mov edx, [vendor + 4]
        mov ecx, [vendor + 8]
behind: push eax                                ; go on behind the instruction
        push ebx
        push ecx
        get eax, 0x440C                         ; its length
        get ecx, 0x681E
        add eax, ecx
        set 0x681E, eax
        pop ecx
        pop ebx
        pop eax
again:  vmresume
        jmp failed
halted: vmxoff
        mov esi, done
        call print
        mov eax, [pages]
        call number_out
        mov esi, of
        call print
        mov eax, [exits]
        call number_out
        mov al, 0
        out 0xF4, al

%include "vmx/output.asm"

; -- the guest: 16-bit code, which knows nothing of all this
bits 16
guest:  mov si, text - guest + ENTRY
.next:  lodsb
        out 0xE9, al
        cmp al, 10
        jne .next
        xor eax, eax
        cpuid
        mov [0x2000], ebx
        mov [0x2004], edx
        mov [0x2008], ecx
        mov byte [0x200C], 10
        mov si, 0x2000
.name:  lodsb
        out 0xE9, al
        cmp al, 10
        jne .name
        hlt
text:   db "the guest asks what its processor is called:", 10
guest_end:

align 8
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
        dw 0x67, tss - $$, 0x8910, 0
gdt_end:
gdt_pointer: dw gdt_end - gdt - 1
        dd gdt
vmxon_pointer: dq VMXON_REGION
vmcs_pointer: dq VMCS
exits:  dd 0
pages:  dd 0
vendor: db "ThinVMMinASM"
none:   db "this processor has no VT-x", 10, 0
too_old: db "this processor's VT-x has no extended page tables", 10, 0
begins: db "the hypervisor launches its guest", 10, 0
refused: db "VM-instruction error ", 0
unknown: db "VM exit for an unknown reason ", 0
done:   db "it has halted. Pages mapped: ", 0
of:     db "VM exits: ", 0
align 16
tss:    times 26 dd 0
