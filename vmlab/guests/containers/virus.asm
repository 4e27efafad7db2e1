; ---- what a virus tries ----------------------------------------------------------------------------------------------
read_files:
        mov esi, paths
.next:  lodsd
        test eax, eax
        jz .done
        push esi
        mov edx, eax
        call show
        pop esi
        jmp .next
.done:  system EXIT
kill_all:
        system GETPID
        mov esi, eax
        mov edi, 40
        xor ebp, ebp                    ; how many it could end
.next:  cmp edi, esi
        je .skip
        system KILL, edi
        cmp eax, 1
        adc ebp, 0
.skip:  dec edi
        cmp edi, 1                      ; its container's first process it spares
        ja .next
        say kill_text, ebp
        system EXIT
bind_all:
        mov edi, 0x0A000001
.next:  system BIND, edi, 80
        mov ecx, edi
        and ecx, 15
        push eax
        say bind_text, ecx
        pop eax
        say result_text
        inc edi
        cmp edi, 0x0A000004
        jb .next
        system EXIT
peek:   say peek_text, header
        mov eax, [header]
        say got_text
        system EXIT
memory_bomb:
        xor ebp, ebp
.next:  system SBRK, 1
        cmp eax, -ERRORS
        jae .full
        mov [eax], ebp                  ; touched: it is its own now
        inc ebp
        jmp .next
.full:  mov edi, eax
        say memory_text, ebp
        say result_text, edi
        system EXIT
fork_bomb:
        system GETPID
        mov ebp, eax
.next:  system FORK
        cmp eax, -ERRORS
        jb .next                        ; the children do the same
        mov esi, eax
        system GETPID
        cmp eax, ebp
        jne .sleep
        say fork_text, esi
        call list
        mov esi, BUFFER                 ; the first one ends the others: these it sees
        mov edi, SLOTS
.kill:  cmp [esi], ebp
        jbe .older
        system KILL, [esi]
.older: add esi, 16
        dec edi
        jnz .kill
        system EXIT
.sleep: system SLEEP, 1000
        jmp .sleep
control:
        system CONTAINERCTL, STOP, 1
        say stop_text
        system CONTAINERCTL, CREATE, config_1
        say create_text
        system DEBUG_POKE, header, 0x1BADB002
        say poke_text
        system SETHOSTNAME, taken_text
        say rename_text
        system EXIT
spin:   jmp spin
measure:
        system TICKS
        mov ebp, eax
        mov ecx, 30000                  ; 60000 instructions: 30 ticks of a processor of one's own
.work:  dec ecx
        jnz .work
        system TICKS
        sub eax, ebp
        say measure_text
        system EXIT
escape: system DEBUG_POKE, last, processes      ; the process that ran last is itself
        say poke_text
        cmp eax, -ERRORS
        jae .no
        add eax, P_CONTAINER
        system DEBUG_POKE, eax, containers      ; now it is the global container's
        call list
        mov edx, secret_path
        call show
        system CONTAINERCTL, STOP, 1
        say stop_text
.no:    system EXIT
crash:  system DEBUG_POKE, schedule, 0x0B0F     ; the scheduler's first instruction is ud2 now
        say poke_text
        system YIELD
        system EXIT
fuzz:   system TICKS
        imul ebp, eax, 2654435
        add ebp, SEED
        mov edi, ROUNDS
.next:  call random_value
        push eax
        call random_value
        push eax
        call random_value
        push eax
        call random
        and eax, 31
        jnz .number
        inc eax                         ; it does not exit
.number:
        pop ebx
        pop ecx
        pop edx
        cmp eax, SLEEP
        jne .call
        and ebx, 3                      ; not for ever
.call:  int SYSTEM_CALL
        dec edi
        jnz .next
        mov ecx, 128                    ; at its end it executes random bytes
.write: call random
        mov [BUFFER + ecx * 4 - 4], eax
        loop .write
        jmp BUFFER
random_value:                           ; one of the table, or any
        call random
        mov ecx, eax
        and ecx, 31
        mov eax, [values + ecx * 4]
        cmp ecx, (values_end - values) / 4
        jb random.done
random: imul ebp, ebp, 1664525
        add ebp, 1013904223
        mov eax, ebp
        rol eax, 13                     ; the low bits are the least random
.done:  ret

paths:  dd motd_path, secret_path, escape_path, up_path, 0
values: dd 0, 1 << 31, -1, 2, 3, 16, 80, 512, 4096, header, processes, user_programs, motd_path, user_end - 4, user_end
        dd PRIVATE, BUFFER, STACK_TOP - 4, STACK_TOP - 1, HEAP, HIGHEST, POOL, 0x0A000003
values_end:
secret_path: db "/zones/web/etc/secret", 0
escape_path: db "/../zones/web/etc/secret", 0
up_path: db "/etc/../../../etc/motd", 0
kill_text: db "kills # processes", 10, 0
bind_text: db "binds 10.0.0.#, port 80: ", 0
peek_text: db "reads the kernel's memory at $", 10, 0
got_text: db "got $", 10, 0
memory_text: db "takes # pages of memory, then ", 0
fork_text: db "forks and forks, then !", 10, 0
stop_text: db "stops container 1: !", 10, 0
create_text: db "makes a container: !", 10, 0
poke_text: db "pokes into the kernel: !", 10, 0
rename_text: db "renames itself: !", 10, 0
taken_text: db "taken over", 0, 0, 0, 0, 0, 0
measure_text: db "the same work takes # ticks", 10, 0
user_end:
