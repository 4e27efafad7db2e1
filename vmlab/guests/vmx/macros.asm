; for hypervisors on VT-x: the VMCS's fields, and a segment of the guest's
%macro set 2                            ; write a field of the VMCS
        mov ebx, %2
        mov eax, %1
        vmwrite eax, ebx
%endmacro
%macro get 2                            ; read one
        mov ebx, %2
        vmread %1, ebx
%endmacro
%macro control 3                        ; write a control: what its capability MSR demands, and what it allows
        mov ecx, %2
        rdmsr
        or eax, %3
        and eax, edx
        mov ebx, %1
        vmwrite ebx, eax
%endmacro
%macro describe 3                       ; number of a guest's segment, its limit, its access rights
        set 0x4800 + 2 * %1, %2
        set 0x4814 + 2 * %1, %3
%endmacro
