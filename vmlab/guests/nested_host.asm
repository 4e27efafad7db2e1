; nested_host: a type 1 hypervisor on VT-x: it boots an unmodified kernel, which has the computer's devices
;
; The kernel is its multiboot module (the guest `workload`, where none is given): it is loaded and started as its header
; says. The devices' ports and interrupts are the kernel's own. What leads out of it is CPUID, the first use of each
; page, the debug-exit port, and VMCALL, which gives in EAX how many VM exits there have been.
;
; Natively its VM exits lead here. On a processor that is itself virtual they first lead to the hypervisor below, which
; hands them on, and each VMREAD, VMWRITE and VMRESUME here is one more exit.
bits 32
org 0x100000

MEMORY  equ 0x400000                    ; where the guest's memory lies: its address 0,
SIZE    equ 0x400000                    ; and how much it has
INFORMATION equ 0x9000                  ; where in it the boot loader's information stands
DIRECTORY equ 0x80000                   ; the hypervisor's own page directory: two pages of 4 MiB
STACK   equ 0x90000
VMXON_REGION equ 0x90000
VMCS    equ 0x91000
PML4    equ 0x92000                     ; extended page tables: the way to
TABLE   equ 0x95000                     ; two tables, which follow each other: one entry for each page of SIZE,
APIC_TABLE equ 0x98000                  ; and to the table with the local APIC's page
PORTS   equ 0x99000                     ; two pages: a bit for each port whose use leads out
APIC    equ 0xFEE00000
EXIT_PORT equ 0xF4

header: dd 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000)         ; multiboot 1, with addresses:
        dd header, header, 0, 0, start                          ; header, load, file end, zeros' end, entry

%include "vmx/macros.asm"

start:  mov esp, STACK
        mov ebp, [ebx + 24]             ; the first module: its start and end
        mov esi, no_kernel
        cmp dword [ebx + 20], 0
        je .without
        mov eax, [ebp]
        cmp dword [eax], 0x1BADB002
        jne .without
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
        out EXIT_PORT, al

on:     lgdt [gdt_pointer]
        jmp 0x08:.flat
.flat:  mov eax, 0x10
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov eax, 0x18
        ltr ax
        mov dword [DIRECTORY], 0x83     ; VMX operation asks for paging, protected mode and CR0.NE
        mov dword [DIRECTORY + 4], 0x400083
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
        mov esi, is_on
        call print

; -- the kernel: as a multiboot loader puts it into memory
        mov esi, [ebp]
        mov edi, [esi + 16]             ; of its header, with which it begins: the load address,
        add edi, MEMORY
        mov ecx, [ebp + 4]
        sub ecx, esi
        mov edx, [esi + 28]             ; the entry,
        mov ebp, [esi + 24]             ; and the zeros' end
        add ebp, MEMORY
        rep movsb
        set 0x681E, edx
        mov ecx, ebp
        sub ecx, edi
        jbe .loaded
        add ecx, 3
        shr ecx, 2
        xor eax, eax
        rep stosd
.loaded:
        mov edi, MEMORY + INFORMATION
        mov dword [edi], 1              ; flags: how much memory there is,
        mov dword [edi + 4], 639        ; in KiB: below the video memory,
        mov dword [edi + 8], (SIZE - 0x100000) / 1024   ; and from 1 MiB on

; -- its memory: nothing is mapped yet but the way to the tables
        mov dword [PML4], PML4 + 0x1007
        mov dword [PML4 + 0x1000], PML4 + 0x2007
        mov dword [PML4 + 0x1000 + (APIC >> 30) * 8], PML4 + 0x5007
        mov dword [PML4 + 0x2000], TABLE + 7
        mov dword [PML4 + 0x2008], TABLE + 0x1007
        mov dword [PML4 + 0x5000 + (APIC >> 21 & 511) * 8], APIC_TABLE + 7
        mov byte [PORTS + EXIT_PORT / 8], 1 << (EXIT_PORT & 7)

; -- the VMCS: controls
        control 0x4000, 0x48D, 0                ; pin-based: external interrupts are the guest's
        control 0x4002, 0x48E, 0x82000000       ; primary: the ports that PORTS says lead out, secondary controls
        control 0x401E, 0x48B, 0x82             ; secondary: extended page tables, unrestricted guest
        control 0x400C, 0x48F, 0                ; VM exit: back to 32 bits
        control 0x4012, 0x490, 0                ; VM entry
        set 0x2000, PORTS
        set 0x2002, PORTS + 0x1000
        set 0x201A, PML4 + 0x1E                 ; EPT pointer: four levels, write-back
        set 0x2800, 0xFFFFFFFF                  ; VMCS link pointer: none
        set 0x2801, 0xFFFFFFFF
        set 0x6000, 0x20                        ; CR0.NE and CR4.VMXE, which VMX operation demands
        set 0x6002, 0x2000                      ; of every guest, are the host's: the guest reads 0
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
; -- the guest: as a boot loader leaves the processor, in protected mode without paging
%assign number 0
%rep 6
        describe number, 0xFFFFFFFF, 0xC093      ; ES, CS, SS, DS, FS, GS
%assign number number + 1
%endrep
        describe 1, 0xFFFFFFFF, 0xC09B
        describe 6, 0, 0x10000                   ; LDTR: unusable
        describe 7, 0xFFFF, 0x8B
        set 0x6800, 0x31                        ; CR0: PE, ET, NE
        set 0x6804, 0x2000
        set 0x681A, 0x400                       ; DR7
        set 0x6820, 2
        mov eax, 0x2BADB002                     ; it has been booted so,
        mov ebx, INFORMATION                    ; and this is what there is
        vmlaunch
failed: mov esi, refused                        ; it comes back only if something is wrong
        call print
        get eax, 0x4400
        call number_out
        mov al, 1
        out EXIT_PORT, al

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
        cmp eax, 18
        je called
unexpected:
        mov esi, unknown
        call print
        get eax, 0x4402
        call number_out
        mov al, 2
        out EXIT_PORT, al

violation:                                      ; it touches a page for the first time: map it
        get ecx, 0x2401                         ; the guest-physical address, above 4 GiB,
        get eax, 0x2400                         ; and below
        test ecx, ecx
        jnz unexpected
        mov ecx, eax
        shr eax, 12
        and ecx, -0x1000
        cmp ecx, APIC                           ; the local APIC and the video memory are the computer's
        je .apic
        cmp ecx, SIZE
        jae unexpected
        cmp ecx, 0xA0000
        jb .memory
        cmp ecx, 0xC0000
        jb .device
.memory: add ecx, MEMORY + 0x30                  ; write-back
.device: add ecx, 7                              ; read, write, execute
        mov [TABLE + eax * 8], ecx
        jmp .deliver
.apic:  mov dword [APIC_TABLE + (APIC >> 12 & 511) * 8], APIC + 7
.deliver:
        get ecx, 0x4408                         ; was an event being delivered?
        and ecx, ~0x1000                        ; bit 12 is undefined
        jns .again
        set 0x4016, ecx                         ; then it goes in once more: event,
        get ecx, 0x440A
        set 0x4018, ecx                         ; error code,
        get ecx, 0x440C
        set 0x401A, ecx                         ; length of the instruction that has asked for it
.again: popad
        jmp again
port:   get eax, 0x6400                         ; the exit qualification: bits 31:16 are the port, bit 6 says how it
        and eax, ~0x40                          ; was named, bit 3 whether it is read, bits 2:0 the width
        cmp eax, EXIT_PORT << 16
        jne unexpected
        mov esi, name
        call print
        mov eax, [exits]
        call number_out
        mov al, [esp + 28]                      ; the guest's status
        out EXIT_PORT, al
identify:
        mov eax, [esp + 28]
        mov ecx, [esp + 24]
        cpuid
        cmp dword [esp + 28], 1
        jne .give
        and ecx, ~0x20                          ; there is no VT-x for the guest
.give:  mov [esp + 28], eax
        mov [esp + 24], ecx
        mov [esp + 20], edx
        mov [esp + 16], ebx
        jmp behind
called: mov eax, [exits]
        mov [esp + 28], eax
behind: get eax, 0x440C                         ; go on behind the instruction, of this length
        get ecx, 0x681E
        add eax, ecx
        set 0x681E, eax
        get eax, 0x4824                         ; where STI or MOV SS was before it, no more is held back now
        and eax, ~3
        set 0x4824, eax
        popad
again:  vmresume
        jmp failed

%include "vmx/output.asm"

align 8
gdt:    dq 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
        dw 0x67, tss - $$, 0x8910, 0
gdt_end:
gdt_pointer: dw gdt_end - gdt - 1
        dd gdt
vmxon_pointer: dq VMXON_REGION
vmcs_pointer: dq VMCS
exits:  dd 0
no_kernel: db "nested host: no module is a kernel that begins with its multiboot header", 10, 0
none:   db "nested host: this processor has no VT-x", 10, 0
too_old: db "nested host: this processor's VT-x has no extended page tables", 10, 0
is_on:  db "nested host: VMX is on", 10, 0
refused: db "nested host: VM-instruction error ", 0
unknown: db "nested host: unexpected VM exit ", 0
name:   db "nested host: VM exits: ", 0
align 16
tss:    times 26 dd 0
