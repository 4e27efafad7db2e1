; ---- processes and their memory --------------------------------------------------------------------------------------
; What the container EBP uses: pages in EAX, processes in EDX; pages of all containers in ESI.
usage:  push edi
        xor eax, eax
        xor edx, edx
        xor esi, esi
        mov edi, processes
.next:  cmp dword [edi + P_STATE], 0
        je .skip
        add esi, [edi + P_PAGES]
        cmp [edi + P_CONTAINER], ebp
        jne .skip
        inc edx
        add eax, [edi + P_PAGES]
.skip:  add edi, P_SIZE
        cmp edi, processes_end
        jb .next
        pop edi
        ret

; May the container EBP have ECX pages more? CF: no, with the error in EAX. EDX is the number of its processes.
allow:  call usage
        add eax, ecx
        add esi, ecx
        cmp eax, [ebp + C_PAGES]
        ja .no
        cmp esi, FRAMES                 ; never more than there are: a first touch always finds a frame
        ja .no
        cmp eax, [ebp + C_PEAK_PAGES]
        jbe .yes
        mov [ebp + C_PEAK_PAGES], eax
.yes:   clc
        ret
.no:    mov eax, -ENOMEM
        stc
        ret

; A new process of ECX pages in the container EBP: EDI. It does not run yet. CF: none, with the error in EAX.
new_process:
        call usage
        mov eax, -EAGAIN
        cmp edx, [ebp + C_PROCESSES]
        jae .no
        mov edi, processes
.look:  cmp dword [edi + P_STATE], 0
        je .found
        add edi, P_SIZE
        cmp edi, processes_end
        jb .look
.no:    stc
        ret
.found: call allow
        jc .no
        inc edx
        cmp edx, [ebp + C_PEAK_PROCESSES]
        jbe .fill
        mov [ebp + C_PEAK_PROCESSES], edx
.fill:  mov [edi + P_CONTAINER], ebp
        mov [edi + P_PAGES], ecx
        mov eax, [next_pid]
        inc dword [next_pid]
        mov [edi + P_PID], eax
        mov edx, [ebp + C_NEXT_PID]
        inc dword [ebp + C_NEXT_PID]
        cmp ebp, containers             ; in the global container both are the same
        cmove edx, eax
        mov [edi + P_VPID], edx
        xor eax, eax
        mov [edi + P_PARENT], eax
        mov [edi + P_WAKE], eax
        mov [edi + P_WAIT], eax
        mov [edi + P_TICKS], eax
        mov [edi + P_PORT], eax
        mov dword [edi + P_BREAK], HEAP
        call take_frame
        mov [edi + P_TABLE], eax
        mov edx, eax
        call take_frame
        mov [edi + P_DIRECTORY], eax
        or edx, PRESENT | WRITABLE | USER
        mov dword [eax], TABLE + PRESENT + WRITABLE + USER
        mov [eax + 4], edx
        clc
        ret

; Start a process in the container EBP: program 0 in the global one, else 15. It finds EDX in EAX. CF: no, error in EAX.
start_process:
        push edx
        mov ecx, OWN_PAGES
        call new_process
        pop edx
        jc .no
        xor eax, eax
        cmp ebp, containers
        je .enter
        mov eax, (programs_end - programs) / 8 - 1
.enter: call enter_program
        mov dword [edi + P_STATE], 1
.no:    ret

; Let the process EDI begin with program EAX, which finds EDX in EAX: no files, an empty heap, zeros in all else.
enter_program:
        push ebx
        lea ebx, [programs + eax * 8]
        mov eax, [ebx]
        mov [edi + P_NAME], eax
        mov ebx, [ebx + 4]
        push edi
        add edi, P_FILES
        mov ecx, FILES * 2
        xor eax, eax
        rep stosd
        mov edi, [esp]
        mov edi, [edi + P_FRAME]
        mov ecx, 10
        rep stosd
        mov [edi - 12], edx             ; EAX
        mov eax, ebx
        stosd                           ; EIP
        mov eax, USER_CODE
        stosd
        mov eax, 0x202                  ; EFLAGS: IF
        stosd
        mov eax, STACK_TOP
        stosd
        mov eax, USER_DATA
        stosd
        pop edi
        pop ebx
        ret

; A page frame with zeros: EAX.
take_frame:
        push edi
        push ecx
        mov edi, [free]
        mov eax, [edi]
        mov [free], eax
        push edi
        mov ecx, 0x400
        xor eax, eax
        rep stosd
        call breathe
        pop eax
        pop ecx
        pop edi
        ret

; Let the timer interrupt long work: the tick is charged to whom the kernel works for.
breathe:
        cmp dword [current], 0
        je .no
        sti
        nop                             ; it comes behind this
        cli
.no:    ret

; Give the process EBX a frame for the page with the address EDI.
map_page:
        push eax
        push edi
        call take_frame
        or eax, PRESENT | WRITABLE | USER
        shr edi, 12
        and edi, 0x3FF
        shl edi, 2
        add edi, [ebx + P_TABLE]
        mov [edi], eax
        pop edi
        pop eax
        ret

; Take the pages of the process EDI back.
free_pages:
        pushad
        mov esi, [edi + P_TABLE]
        mov ecx, [edi + P_BREAK]
        sub ecx, PRIVATE
        shr ecx, 12
.next:  lodsd
        test al, PRESENT
        jz .none
        mov dword [esi - 4], 0
        call free_frame
.none:  loop .next
        popad
        ret
free_frame:                             ; with the entry EAX of a page table
        push edx
        and eax, 0xFFFFF000
        mov edx, [free]
        mov [eax], edx
        mov [free], eax
        pop edx
        ret

; End the process EDI; with the first process of a container all others end.
end_process:
        pushad
        mov dword [edi + P_STATE], 0
        cmp edi, [current]
        jne .other
        mov dword [current], 0
        mov eax, DIRECTORY              ; its own goes away
        mov cr3, eax
.other: call free_pages
        mov eax, [edi + P_TABLE]
        call free_frame
        mov eax, [edi + P_DIRECTORY]
        call free_frame
        mov esi, processes
.next:  cmp [esi + P_WAIT], edi
        jne .parent
        mov dword [esi + P_WAIT], 0
.parent:
        cmp [esi + P_PARENT], edi
        jne .skip
        mov dword [esi + P_PARENT], 0
.skip:  add esi, P_SIZE
        cmp esi, processes_end
        jb .next
        mov ebp, [edi + P_CONTAINER]
        cmp ebp, containers
        je .done
        cmp dword [edi + P_VPID], 1
        jne .done
        call stop_container
.done:  popad
        ret

; End all processes of the container EBP.
stop_container:
        pushad
        mov dword [ebp + C_STATE], 1
        mov edi, processes
.next:  cmp dword [edi + P_STATE], 0
        je .skip
        cmp [edi + P_CONTAINER], ebp
        jne .skip
        call end_process
.skip:  add edi, P_SIZE
        cmp edi, processes_end
        jb .next
        popad
        ret

; The process EDI that the one at EBX (in EBP) calls ESI. CF: it sees none.
find_process:
        mov edi, processes
        cmp ebp, containers
        je .global
.look:  cmp dword [edi + P_STATE], 0
        je .next
        cmp [edi + P_CONTAINER], ebp
        jne .next
        cmp [edi + P_VPID], esi
        je .found
.next:  add edi, P_SIZE
        cmp edi, processes_end
        jb .look
.none:  mov eax, -ESRCH
        stc
        ret
.global:
        cmp dword [edi + P_STATE], 0
        je .skip
        cmp [edi + P_PID], esi
        je .found
.skip:  add edi, P_SIZE
        cmp edi, processes_end
        jb .global
        jmp .none
.found: clc
        ret

; May the kernel read ECX bytes at ESI for the process EBX, or write them if AL is not 0? CF: no, with the error in EAX.
; All of its pages have frames then.
check_user:
        push edi
        push edx
        mov edx, esi
        add edx, ecx
        jc .no
        test al, al
        jnz .private
        cmp esi, user_programs
        jb .private
        cmp edx, user_end
        jbe .yes
.private:
        cmp esi, PRIVATE
        jb .no
        cmp edx, [ebx + P_BREAK]
        ja .no
        mov edi, esi
        and edi, 0xFFFFF000
.page:  cmp edi, edx
        jae .yes
        mov eax, edi
        shr eax, 12
        and eax, 0x3FF
        shl eax, 2
        add eax, [ebx + P_TABLE]
        test byte [eax], PRESENT
        jnz .there
        call map_page
.there: add edi, 0x1000
        jmp .page
.yes:   clc
        jmp .out
.no:    mov eax, -EFAULT
        stc
.out:   pop edx
        pop edi
        ret

; ---- system calls: processes -----------------------------------------------------------------------------------------
no_call:
        mov eax, -ENOSYS
        ret
call_getpid:
        mov eax, [ebx + P_VPID]
        ret
call_sleep:
        add esi, [ticks]
        mov [ebx + P_WAKE], esi
        jmp schedule
call_ticks:
        mov eax, [ticks]
        ret
call_fork:
        mov ecx, [ebx + P_PAGES]
        call new_process
        jc .done
        mov eax, [ebx + P_BREAK]
        mov [edi + P_BREAK], eax
        mov eax, [ebx + P_NAME]
        mov [edi + P_NAME], eax
        mov [edi + P_PARENT], ebx
        push edi
        lea esi, [ebx + P_FILES]
        add edi, P_FILES
        mov ecx, FILES * 2
        rep movsd
        mov edi, [esp]
        mov edi, [edi + P_FRAME]
        mov esi, [ebx + P_FRAME]
        mov ecx, 15
        rep movsd                       ; as it stands here now, EAX is 0: that is the child's result
        mov edi, [esp]
        mov edx, [ebx + P_TABLE]
        mov ebp, [edi + P_TABLE]
        mov ecx, [ebx + P_BREAK]
        sub ecx, PRIVATE
        shr ecx, 12
.page:  test byte [edx], PRESENT
        jz .next
        call take_frame
        mov edi, eax
        or eax, PRESENT | WRITABLE | USER
        mov [ebp], eax
        mov esi, [edx]
        and esi, 0xFFFFF000
        push ecx
        mov ecx, 0x400
        rep movsd
        call breathe
        pop ecx
.next:  add edx, 4
        add ebp, 4
        loop .page
        pop edi
        mov dword [edi + P_STATE], 1
        mov eax, [edi + P_VPID]
.done:  ret
call_exec:
        mov eax, -EINVAL
        cmp esi, (programs_end - programs) / 8
        jae call_fork.done
        mov edi, ebx
        call free_pages
        mov eax, [ebx + P_DIRECTORY]
        mov cr3, eax                    ; the TLB forgets them
        mov dword [ebx + P_BREAK], HEAP
        mov dword [ebx + P_PAGES], OWN_PAGES
        mov eax, esi
        mov edx, ecx
        call enter_program
        jmp finish
call_wait:
        call find_process
        jc .no
        cmp [edi + P_PARENT], ebx
        jne .no
        mov [ebx + P_WAIT], edi
        jmp schedule
.no:    mov eax, -ECHILD
        ret
call_ps:
        cmp ecx, SLOTS
        jbe .check
        mov ecx, SLOTS
.check: mov edx, ecx                    ; records that fit
        shl ecx, 4
        mov al, 1
        call check_user
        jc .done
        xor ecx, ecx                    ; records that there are
        mov edi, processes
.look:  cmp ecx, edx
        jae .end
        cmp dword [edi + P_STATE], 0
        je .next
        mov eax, [edi + P_PID]
        cmp ebp, containers
        je .seen
        cmp [edi + P_CONTAINER], ebp    ; the others' do not exist
        jne .next
        mov eax, [edi + P_VPID]
.seen:  mov [esi], eax
        mov eax, [edi + P_CONTAINER]
        mov eax, [eax + C_NUMBER]
        mov [esi + 4], eax
        mov eax, [edi + P_TICKS]
        mov [esi + 8], eax
        mov eax, [edi + P_NAME]
        mov [esi + 12], eax
        add esi, 16
        inc ecx
.next:  add edi, P_SIZE
        cmp edi, processes_end
        jb .look
.end:   mov eax, ecx
.done:  ret
call_kill:
        call find_process
        jc .done
        call end_process
        xor eax, eax
        cmp [current], eax              ; it may have ended itself
        je schedule
.done:  ret
call_sbrk:
        mov eax, -EINVAL
        cmp esi, (HIGHEST - HEAP) / 0x1000
        ja .done
        mov ecx, esi
        shl esi, 12
        add esi, [ebx + P_BREAK]
        mov eax, -ENOMEM
        cmp esi, HIGHEST
        ja .done
        push esi
        call allow
        pop esi
        jc .done
        add [ebx + P_PAGES], ecx
        mov eax, [ebx + P_BREAK]
        mov [ebx + P_BREAK], esi
.done:  ret
