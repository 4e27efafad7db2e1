; ---- the program, in a page of its own -------------------------------------------------------------------------------
%define AT VIRTUAL - program +         ; where a label of the program is when it runs
%macro system 1-3 0, 0                  ; call, arguments
        mov ecx, %3
        mov ebx, %2
        mov eax, %1
        int SYSTEM_CALL
%endmacro
SECTORS equ 8
LIMIT   equ 2000
PAGES   equ 8

align 4096
program:
        mov ebp, ROUNDS
round:  xor edi, edi                    ; 1. the disk: a checksum, as Java's String.hashCode
        xor edx, edx
.sector:
        system READ, edx, AT buffer
        mov esi, AT no_disk_text
        test eax, eax
        jnz failed
        mov esi, AT buffer
        mov ecx, 512
.byte:  lodsb                           ; the rest of EAX is zero
        imul edi, edi, 31
        add edi, eax
        loop .byte
        inc edx
        cmp edx, SECTORS
        jb .sector
        mov [AT checksum], edi

        mov edi, AT sieve              ; 2. compute: the sieve of Eratosthenes
        mov ecx, LIMIT / 4
        xor eax, eax
        rep stosd
        xor ebx, ebx                    ; primes
        mov edx, 2
.number:
        cmp byte [AT sieve + edx], 0
        jne .composite
        inc ebx
        mov eax, edx
        imul eax, edx
        jmp .first
.multiple:
        mov byte [AT sieve + eax], 1
        add eax, edx
.first: cmp eax, LIMIT
        jb .multiple
.composite:
        inc edx
        cmp edx, LIMIT
        jb .number
        mov [AT primes], ebx

        system MORE, PAGES              ; 3. memory: touch pages that are new
        mov esi, AT no_memory_text
        cmp eax, -1
        je failed
        mov edx, 1
.touch: mov [eax], edx
        add eax, 0x1000
        inc edx
        cmp edx, PAGES
        jbe .touch
        xor edx, edx
        mov ecx, PAGES
.add:   sub eax, 0x1000
        add edx, [eax]
        loop .add
        mov [AT pages], edx

        xor edi, edi                    ; 4. system calls
        mov edx, 64
.call:  system GETPID
        add edi, eax
        dec edx
        jnz .call
        mov [AT sum], edi
        system SLEEP, 2                 ; 5. the timer

        mov edi, AT line               ; 6. the result
        mov esi, AT primes_text
        call text
        mov eax, [AT primes]
        call decimal
        mov esi, AT disk_text
        call text
        mov edx, [AT checksum]
        mov ecx, 8
.digit: rol edx, 4
        mov eax, edx
        and eax, 0xF
        mov al, [AT hexadecimal + eax]
        stosb
        loop .digit
        mov esi, AT pages_text
        call text
        mov eax, [AT pages]
        call decimal
        mov eax, 10                     ; a line feed, and the text's end
        stosw
        system PRINT, AT line
        dec ebp
        jnz round
        system EXIT, 0
failed: system PRINT, esi
        system EXIT, 1
text:   lodsb                           ; copy the text at ESI to EDI
        stosb
        test al, al
        jnz text
        dec edi                         ; the next goes where its zero byte is
        ret
decimal:                                ; write EAX to EDI: the last digit is found first, so the others before it
        xor edx, edx
        mov ecx, 10
        div ecx
        push edx
        test eax, eax
        jz .digit
        call decimal
.digit: pop eax
        add al, '0'
        stosb
        ret
hexadecimal: db "0123456789abcdef"
primes_text: db "primes ", 0
disk_text: db " disk ", 0
pages_text: db " pages ", 0
no_disk_text: db "workload: the disk cannot be read", 10, 0
no_memory_text: db "workload: there is no more memory", 10, 0
align 4
checksum: dd 0
primes: dd 0
pages:  dd 0
sum:    dd 0                            ; of what the system calls gave
line:   times 64 db 0
sieve:  times LIMIT db 0                ; 1 for what is no prime
buffer: times 512 db 0
program_end:
