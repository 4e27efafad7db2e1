; ---- system calls: containers ----------------------------------------------------------------------------------------
call_containerctl:
        mov eax, -EPERM
        cmp ebp, containers             ; the global one's alone
        jne .done
        mov eax, -EINVAL
        cmp esi, (operation_table_end - operation_table) / 4
        jae .done
        mov edi, [operation_table + esi * 4]
        cmp esi, CREATE
        je .go
        dec ecx                         ; which: not the global one
        cmp ecx, CONTAINERS - 1
        jae .done
        imul ecx, ecx, C_SIZE
        lea ebp, [containers + C_SIZE + ecx]
        cmp dword [ebp + C_STATE], 0
        je .done
.go:    jmp edi
.done:  ret
create:
        mov esi, ecx
        mov ecx, C_USED
        mov al, 0
        call check_user
        jc .done
.look:  add ebp, C_SIZE
        mov eax, -EAGAIN
        cmp ebp, containers_end
        jae .done
        cmp dword [ebp + C_STATE], 0
        jne .look
        push esi
        mov esi, [esi + C_ROOT]
        mov edi, root
        call find_path
        pop esi
        jc .done
        push edi
        mov edi, ebp
        mov ecx, C_USED / 4
        rep movsd
        mov ecx, (C_NUMBER - C_USED) / 4
        xor eax, eax
        rep stosd
        pop dword [ebp + C_ROOT]
        mov [ebp + C_NAME + 7], al      ; names end
        mov [ebp + C_HOSTNAME + 15], al
        mov dword [ebp + C_STATE], 1
        mov eax, [ebp + C_NUMBER]
.done:  ret
launch: cmp dword [ebp + C_STATE], 1
        jne call_containerctl.done
        mov [ebp + C_SCRIPT], edx
        mov dword [ebp + C_NEXT_PID], 1
        call start_process
        jc call_containerctl.done
        mov dword [ebp + C_STATE], 2
        xor eax, eax
        ret
halt:   call stop_container
        xor eax, eax
        cmp [current], eax
        je schedule
        ret
destroy:
        call stop_container
        mov dword [ebp + C_STATE], 0
        xor eax, eax
        cmp [current], eax
        je schedule
        ret
population:
        call usage
        mov eax, edx
        ret

; The bug: a call for the kernel's developers, left in. It exchanges a word of memory, and never asks whose that is.
call_debug_poke:
        cmp dword [bug], 0
        je no_call
        xchg [esi], ecx
        mov eax, ecx
        ret
