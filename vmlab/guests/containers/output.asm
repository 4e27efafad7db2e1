; ---- the serial port ------------------------------------------------------------------------------------------------
call_write:
        mov al, 0
        call check_user
        jc print.done
        cmp ecx, 100                    ; at most so much at once: no more than a tick's time
        jbe .begin
        mov ecx, 100
.begin: cmp [writer], ebp
        je .same
        call new_line                   ; nobody goes on with another's line
        mov [writer], ebp
.same:  push ecx
        jecxz .end
.next:  cmp byte [written], 10          ; each line begins with the container that wrote it
        jne .put
        push esi
        call print_name
        pop esi
.put:   lodsb
        call put
        loop .next
.end:   pop eax
        ret
call_getkey:
        mov eax, -EPERM
        cmp ebp, containers             ; the console is the global container's
        jne print.done
        mov edx, COM1 + 5
        in al, dx
        test al, 1                      ; has a character come?
        mov eax, 0
        jz print.done
        mov edx, COM1
        in al, dx
        ret
new_line:
        cmp byte [written], 10
        je print.done
        mov al, 10
        jmp put
print_name:                             ; of the container EBP
        lea esi, [ebp + C_NAME]
        call print
        mov esi, colon
print:  lodsb                           ; the text at ESI, up to a zero byte
        test al, al
        jz .done
        call put
        jmp print
.done:  ret
put:    push edx                        ; the character AL
        mov [written], al
        mov edx, COM1 + 5
.wait:  in al, dx                       ; line status
        test al, 0x20                   ; transmitter empty?
        jz .wait
        mov al, [written]
        mov edx, COM1
        out dx, al
        pop edx
        ret
report: lodsb                           ; the text at ESI; # is the next number at EBP, $ the same in hexadecimal
        mov ecx, 10
        cmp al, '#'
        je .number
        mov ecx, 16
        cmp al, '$'
        je .number
        test al, al
        jz print.done
        call put
        jmp report
.number:
        mov eax, [ebp]
        add ebp, 4
        push report                     ; is where print_number returns to
print_number:                           ; EAX to base ECX
        xor edx, edx
        div ecx
        push edx
        test eax, eax
        jz .digit
        call print_number
.digit: pop edx
        mov al, [digits + edx]
        jmp put
