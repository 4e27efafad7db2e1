; ---- system calls: files ---------------------------------------------------------------------------------------------
call_open:
        mov edi, [ebp + C_ROOT]
        call find_path
        jc .done
        cmp dword [edi + N_DATA], 0     ; a directory cannot be read
        mov eax, -EINVAL
        je .done
        xor eax, eax
.file:  cmp dword [ebx + P_FILES + eax * 8], 0
        je .free
        inc eax
        cmp eax, FILES
        jb .file
        mov eax, -EMFILE
.done:  ret
.free:  mov [ebx + P_FILES + eax * 8], edi
        mov dword [ebx + P_FILES + eax * 8 + 4], 0
        ret

; What the path at ESI leads to, in the process EBX, from the root EDI: EDI. CF: nothing, with the error in EAX.
find_path:
        push edi
        mov edi, path                   ; a copy: what is looked at twice must not change
.copy:  mov ecx, 1
        mov al, 0
        call check_user
        jc .wrong
        lodsb
        stosb
        test al, al
        jz .copied
        cmp edi, path_end
        jb .copy
        mov eax, -ENOENT                ; no path is so long
        stc
.wrong: pop edi
        ret
.copied:
        pop edi
        mov edx, edi                    ; the root
        mov esi, path
.part:  cmp byte [esi], '/'
        jne .name
        inc esi
        jmp .part
.name:  cmp byte [esi], 0
        je .found
        cmp word [esi], '..'
        jne .enter
        cmp byte [esi + 2], '/'
        je .up
        cmp byte [esi + 2], 0
        jne .enter
.up:    add esi, 2
        cmp edi, edx                    ; nothing is above the root
        je .part
        mov edi, [edi + N_PARENT]
        jmp .part
.enter: mov edi, [edi + N_CHILD]
.try:   test edi, edi
        jz .none
        mov ecx, [edi + N_NAME]
        push esi
.same:  mov al, [ecx]
        test al, al
        jz .end
        cmp al, [esi]
        jne .other
        inc ecx
        inc esi
        jmp .same
.end:   cmp byte [esi], 0               ; the name ends: this part of the path must, too
        je .match
        cmp byte [esi], '/'
        je .match
.other: pop esi
        mov edi, [edi + N_NEXT]
        jmp .try
.match: pop eax
        jmp .part
.none:  mov eax, -ENOENT
        stc
        ret
.found: clc
        ret

call_read:
        cmp esi, FILES
        jae .bad
        lea ebp, [ebx + P_FILES + esi * 8]
        mov edi, [ebp]
        test edi, edi
        jz .bad
        mov esi, ecx
        mov ecx, edx
        mov al, 1
        call check_user
        jc .done
        mov edx, esi
        mov esi, [edi + N_DATA]
        cmp esi, DISK
        je .disk
        mov eax, [edi + N_END]
        sub eax, esi
        sub eax, [ebp + 4]              ; what is left
        cmp ecx, eax
        cmova ecx, eax
        add esi, [ebp + 4]
        mov edi, edx
        mov eax, ecx
        rep movsb
        add [ebp + 4], eax
.done:  ret
.bad:   mov eax, -EBADF
        ret
.disk:  mov eax, -EINVAL
        cmp ecx, SECTOR
        jne .done
        mov edi, edx
        mov ecx, [ebp + 4]
        shr ecx, 9
        mov dx, 0x3F6                   ; device control: no interrupts, the kernel asks
        mov al, 2
        out dx, al
        mov dx, 0x1F2                   ; the primary channel: sector count, sector number, drive, command
        mov al, 1
        out dx, al
        mov eax, ecx
        mov ecx, 3
.byte:  inc edx
        out dx, al
        shr eax, 8
        loop .byte
        inc edx
        mov al, 0xE0                    ; the first drive, by LBA
        out dx, al
        inc edx
        mov al, 0x20                    ; READ SECTORS
        out dx, al
.busy:  call breathe
        in al, dx
        test al, al
        js .busy                        ; BSY
        test al, 8                      ; DRQ: there is data; else an error, or no drive
        mov eax, -EIO
        jz .done
        mov dx, 0x1F0
        mov ecx, SECTOR / 2
        rep insw
        mov eax, SECTOR
        add [ebp + 4], eax
        ret

; ---- system calls: addresses and names -------------------------------------------------------------------------------
call_bind:
        mov eax, -EADDRNOTAVAIL
        cmp esi, [ebp + C_ADDRESS]      ; the others' are not here
        jne .done
        mov eax, -EINVAL
        cmp dword [ebx + P_PORT], 0     ; it has one
        jne .done
        test ecx, ecx
        jz .done
        mov edi, processes
.look:  cmp [edi + P_PORT], ecx
        jne .next
        cmp [edi + P_CONTAINER], ebp
        jne .next                       ; the same port of another address
        cmp dword [edi + P_STATE], 0
        je .next
        mov eax, -EADDRINUSE
        ret
.next:  add edi, P_SIZE
        cmp edi, processes_end
        jb .look
        mov [ebx + P_PORT], ecx
        xor eax, eax
.done:  ret
call_uname:
        mov edx, version                ; one kernel for all
        jmp give_name
call_gethostname:
        lea edx, [ebp + C_HOSTNAME]
give_name:
        mov ecx, 16
        mov al, 1
        call check_user
        jc call_bind.done
        mov edi, esi
        mov esi, edx
        jmp copy_name
call_sethostname:
        mov ecx, 16
        mov al, 0
        call check_user
        jc call_bind.done
        lea edi, [ebp + C_HOSTNAME]
copy_name:
        rep movsb
        mov byte [edi - 1], 0
        xor eax, eax
        ret
