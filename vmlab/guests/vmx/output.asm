; output on the serial port
print:  mov dx, 0x3F8                           ; the text at ESI
.next:  lodsb
        test al, al
        jz .end
        out dx, al
        jmp .next
.end:   ret
number_out:                                     ; EAX, in decimal, and a new line
        mov ecx, 10
        push dword 10
.digit: xor edx, edx
        div ecx
        add edx, 0x30
        push edx
        test eax, eax
        jnz .digit
        mov dx, 0x3F8
.out:   pop eax
        out dx, al
        cmp al, 10
        jne .out
        ret
