; ---- the programs, in pages that ring 3 may read ---------------------------------------------------------------------
POSITION equ PRIVATE                    ; where the line that is being written goes on; 0 at first
LINE    equ PRIVATE + 4
LEFT    equ PRIVATE + 0x1FC
BUFFER  equ PRIVATE + 0x200
SIEVE   equ PRIVATE + 0x400
LIMIT   equ 2000                        ; primes below this
align 4096
user_programs:
programs:                               ; name and entry; the digits of scripts
        dd host_name, host              ; 0
        dd workload_name, workload      ; 1: the workload
        dd files_name, read_files       ; 2: reads what is not its own,
        dd kill_name, kill_all          ; 3: ends whom it can,
        dd bind_name, bind_all          ; 4: takes addresses,
        dd peek_name, peek              ; 5: reads the kernel's memory,
        dd memory_name, memory_bomb     ; 6: takes all memory,
        dd fork_name, fork_bomb         ; 7: takes all processes,
        dd control_name, control        ; 8: stops the neighbour
        dd spin_name, spin              ; 9: computes for ever
        dd measure_name, measure        ; A: how long does the same take?
        dd hello_name, hello            ; B: says where it is
        dd escape_name, escape          ; C: becomes global by the bug
        dd crash_name, crash            ; D: ends the kernel by the bug
        dd fuzz_name, fuzz              ; E: makes random system calls
        dd init_name, init              ; F: first process of a container
programs_end:

%macro system 1-4                       ; call, arguments
%if %0 > 3
        mov edx, %4
%endif
%if %0 > 2
        mov ecx, %3
%endif
%if %0 > 1
        mov ebx, %2
%endif
        mov eax, %1
        int SYSTEM_CALL
%endmacro
%macro say 1-2 eax                      ; text, value
        mov eax, %2
        mov esi, %1
        call tell
%endmacro

; Say the text at ESI. In it # is EAX as a number, $ in 8 hexadecimal digits, @ the text there, ! what a result means.
tell:   pushad
        mov ebp, eax
        mov edi, [POSITION]
        test edi, edi
        jnz .next
        mov edi, LINE
.next:  lodsb
        mov ecx, (tell_table_end - tell_table) / 5
        mov edx, tell_table
.look:  cmp al, [edx]
        je .special
        add edx, 5
        loop .look
        stosb
        jmp .next
.special:
        call [edx + 1]
        jmp .next
.end:   pop eax                         ; does not go on
        mov [POSITION], edi
        popad
        ret
.line:  stosb                           ; a whole line: write it
        lea ecx, [edi - LINE]
        system WRITE, LINE
        mov edi, LINE
        ret
.decimal:
        mov eax, ebp
.divide:
        xor edx, edx
        mov ecx, 10
        div ecx
        push edx
        test eax, eax
        jz .digit
        call .divide
.digit: pop eax
        add al, '0'
        stosb
        ret
.hexadecimal:
        mov ecx, 8
.four:  rol ebp, 4
        mov al, 15
        and eax, ebp
        and eax, 15
        cmp al, 10
        jb .low
        add al, 'a' - '0' - 10
.low:   add al, '0'
        stosb
        loop .four
        ret
.result:
        mov edx, errors                 ; pairs of a number and a text; the last one fits all
.error: mov eax, [edx]
        add eax, ebp
        jz .named
        cmp dword [edx], 0
        je .named
        add edx, 8
        jmp .error
.named: mov edx, [edx + 4]
        jmp .insert
.text:  mov edx, ebp
.insert:
        mov al, [edx]
        inc edx
        test al, al
        jz .inserted
        cmp al, 10
        je .newline
        stosb
        jmp .insert
.newline:
        push edx
        call .line
        pop edx
        jmp .insert
.inserted:
        ret

host:   system CONTAINERCTL, CREATE, config_1
        cmp eax, -ERRORS
        jae .done                       ; this is no host
        say created_text
        system CONTAINERCTL, CREATE, config_2
        say created_text
        mov edx, SCRIPT_1
        test edx, edx
        jnz .first
        mov edx, [scenes + SCENE * 8]
.first: system CONTAINERCTL, START, 1
        mov edx, SCRIPT_2
        test edx, edx
        jnz .second
        mov edx, [scenes + SCENE * 8 + 4]
.second:
        system CONTAINERCTL, START, 2
.wait:  system SLEEP, 5
        system GETKEY                   ; 1 or 2 at the console stops that container
        sub eax, '0'
        jbe .look
        cmp eax, 2
        ja .look
        system CONTAINERCTL, STOP, eax
        say halt_text
.look:  system CONTAINERCTL, POPULATION, 1
        mov esi, eax
        system CONTAINERCTL, POPULATION, 2
        add esi, eax
        jz .done
        system TICKS
        cmp eax, DEADLINE
        jb .wait
        say deadline_text
        call list
        system CONTAINERCTL, STOP, 1
        system CONTAINERCTL, STOP, 2
.done:  system EXIT

init:   mov ebp, eax                    ; a script: for each of its digits a child, one after the other
.next:  mov esi, ebp
        and esi, 15
        jz .done
        shr ebp, 4
        system FORK
        test eax, eax
        jz .child
        system WAITPID, eax
        jmp .next
.child: system EXEC, esi
.done:  system EXIT

; The workload that every kind of virtual machine runs.
workload:
        system OPEN, data_path
        mov ebp, eax
        xor edi, edi                    ; checksum: h = 31 h + byte
        mov dword [LEFT], 8
.sector:
        system READ, ebp, BUFFER, SECTOR
        cmp eax, SECTOR
        jne .no_disk
        mov esi, BUFFER
        mov ecx, SECTOR
.byte:  imul edi, edi, 31
        lodsb
        movzx eax, al
        add edi, eax
        loop .byte
        dec dword [LEFT]
        jnz .sector
.sieve: xor ebp, ebp                    ; primes
        mov ecx, 2
.number:
        cmp byte [SIEVE + ecx], 0
        jne .crossed
        inc ebp
        mov eax, ecx
.cross: add eax, ecx
        cmp eax, LIMIT
        jae .crossed
        mov byte [SIEVE + eax], 1
        jmp .cross
.crossed:
        inc ecx
        cmp ecx, LIMIT
        jb .number
        say primes_text, ebp
        cmp dword [LEFT], 0
        jne .memory
        say disk_text, edi
.memory:
        system SBRK, 8
        cmp eax, -ERRORS
        jae .no_memory
        mov ecx, 1
        mov esi, eax
.touch: mov [eax], ecx
        add eax, 0x1000
        inc ecx
        cmp ecx, 8
        jbe .touch
        xor ebp, ebp
        mov ecx, 8
.add:   add ebp, [esi]
        add esi, 0x1000
        loop .add
        xor edi, edi
        mov ecx, 64
.call:  system GETPID
        add edi, eax
        loop .call
        system SLEEP, 2
        say pages_text, ebp
        system EXIT
.no_memory:
        say result_text
        system EXIT
.no_disk:
        say no_disk_text
        jmp .sieve

hello:  mov byte [BUFFER], 0
        system GETHOSTNAME, BUFFER
        say hello_text, BUFFER
        system UNAME, BUFFER
        say uname_text, BUFFER
        call list
        mov edx, motd_path
        call show
        system EXIT

list:   pushad
        system PS, BUFFER, SLOTS        ; what it sees of the processes
        mov ebp, eax
        mov edi, BUFFER
.next:  say process_text, [edi]
        say of_text, [edi + 4]
        say ticks_text, [edi + 8]
        say program_text, [edi + 12]
        add edi, 16
        dec ebp
        jnz .next
        popad
        ret

show:   mov edi, edx                    ; a file, by its path at EDX, with its contents
        say path_text, edi
        system OPEN, edi
        cmp eax, -ERRORS
        jae .no
        mov edi, eax
        mov ecx, 32
        xor eax, eax
.clear: mov [BUFFER + ecx * 4 - 4], eax
        loop .clear
        system READ, edi, BUFFER, 120
        say text_text, BUFFER
        ret
.no:    say result_text
        ret

; ---- their data ------------------------------------------------------------------------------------------------------
tell_table:
        db 0
        dd tell.end
        db 10
        dd tell.line
        db '#'
        dd tell.decimal
        db '$'
        dd tell.hexadecimal
        db '@'
        dd tell.text
        db '!'
        dd tell.result
tell_table_end:
errors: dd EPERM, eperm, ENOENT, enoent, ESRCH, esrch, EIO, eio, EAGAIN, eagain, ENOMEM, enomem, EFAULT, efault
        dd EINVAL, einval, ENOSYS, enosys, EADDRINUSE, eaddrinuse, EADDRNOTAVAIL, eaddrnotavail, 0, done
scenes: dd 0x1B, 0x1B                   ; scripts of container 1 and 2
        dd 0x41, 0x98765432
        dd 0x9B, 0xC2
        dd 0x9B, 0xD2
config_1: dd 0
        db "web", 0, 0, 0, 0, 0, "web.example", 0, 0, 0, 0, 0
        dd web_path, 0x0A000002, PAGES_1, PROCESSES_1, SHARE_1, 0
config_2: dd 0
        db "db", 0, 0, 0, 0, 0, 0, "db.example", 0, 0, 0, 0, 0, 0
        dd db_path, 0x0A000003, PAGES_2, PROCESSES_2, SHARE_2, 0
host_name: db "host", 0
workload_name: db "workload", 0
files_name: db "files", 0
kill_name: db "kill", 0
bind_name: db "bind", 0
peek_name: db "peek", 0
memory_name: db "memory", 0
fork_name: db "fork", 0
control_name: db "control", 0
spin_name: db "spin", 0
measure_name: db "measure", 0
hello_name: db "hello", 0
escape_name: db "escape", 0
crash_name: db "crash", 0
fuzz_name: db "fuzz", 0
init_name: db "init", 0
eperm:  db "EPERM", 0
enoent: db "ENOENT", 0
esrch:  db "ESRCH", 0
eio:    db "EIO", 0
eagain: db "EAGAIN", 0
enomem: db "ENOMEM", 0
efault: db "EFAULT", 0
einval: db "EINVAL", 0
enosys: db "ENOSYS", 0
eaddrinuse: db "EADDRINUSE", 0
eaddrnotavail: db "EADDRNOTAVAIL", 0
done:   db "done", 0
web_path: db "/zones/web", 0
db_path: db "/zones/db", 0
data_path: db "/data", 0
motd_path: db "/etc/motd", 0
created_text: db "container # is there", 10, 0
halt_text: db "stops a container: !", 10, 0
deadline_text: db "this takes too long: all containers stop", 10, 0
primes_text: db "primes #", 0
disk_text: db " disk $", 0
pages_text: db " pages #", 10, 0
no_disk_text: db "no disk: !", 10, 0
result_text: db "!", 10, 0
hello_text: db "this is @", 0
uname_text: db " on @", 10, 0
process_text: db "process #", 0
of_text: db " of container #", 0
ticks_text: db ", # ticks", 0
program_text: db ": @", 10, 0
path_text: db "reads @: ", 0
text_text: db "@", 0
