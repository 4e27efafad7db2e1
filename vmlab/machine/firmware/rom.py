"""The BIOS's read-only memory: real machine code at F000:E000, entered through the interrupt vectors.

What a service does is done by host software. Its entry is one OUT to the APM control port, which on a PC raises a system
management interrupt: the processor leaves for firmware that no guest sees, and comes back. The rest is what a BIOS does
in ordinary code: return from the interrupt, wait for a key, count ticks, acknowledge the interrupt controllers.

    F000:E000  entries, one for each service          F000:FFF0  where a processor starts: a reset
    F000:FF53  IRET, for vectors that nobody serves   F000:FFFE  model byte: FC, a PC AT

Read more: IBM PC/AT Technical Reference, section 5 (ROM BIOS listing, compatibility addresses of PS/2 and PC BIOS).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from vmlab.isa.x86.assembler import assemble

__all__ = ["ENTRIES", "PORT", "ROM_BASE", "SEGMENT", "Rom", "build_rom"]

PORT = 0xB2
"""APM control port: a write is a system management interrupt."""

SEGMENT = 0xF000
ROM_BASE = 0xF_E000
ORIGIN = ROM_BASE - (SEGMENT << 4)

SERVICES = {
    0x10: "video", 0x11: "equipment", 0x12: "memory_size", 0x13: "disk", 0x14: "serial", 0x15: "system", 0x16: "keyboard",
    0x17: "printer", 0x18: "no_boot", 0x19: "reboot", 0x1A: "time",
}  # fmt: skip
EXCEPTIONS = {0x00: "#DE", 0x06: "#UD", 0x07: "#NM"}
SHARED = {0x0A: "IRQ 2", 0x0B: "#NP", 0x0C: "#SS", 0x0D: "#GP", 0x0E: "#PF", 0x0F: "IRQ 7"}
"""Vectors that the interrupt controller and the processor both use."""

ENTRIES = {
    **{f"service_{vector:02x}": vector for vector in SERVICES},
    **{f"fault_{vector:02x}": vector for vector in (*EXCEPTIONS, *SHARED)},
    "key": 0x09, "reset": 0x19,
}  # fmt: skip
"""Labels of the entries, and the vector that each serves."""

_PLAIN = """
{label}:
    out PORT, al
    iret
"""

_REST = """
; INT 16h and 15h: the host goes on here where a guest has to wait, and is asked again after each interrupt
wait_16:
    sti
    hlt
    jmp service_16
wait_15:
    sti
    hlt
    jmp service_15

; IRQ 0, 18.2 times a second: the ticks of this day
int_08:
    push ds
    push ax
    push dx
    mov ax, 0x40
    mov ds, ax
    inc dword [0x6c]
    cmp dword [0x6c], 0x1800b0
    jb .same_day
    mov dword [0x6c], 0
    mov byte [0x70], 1
.same_day:
    int 0x1c
    mov al, 0x20
    out 0x20, al
    pop dx
    pop ax
    pop ds
    iret

; IRQ 1: a scan code; INT 15h, AH=4Fh may change it, or keep it to itself with CF clear
int_09:
    push ax
    in al, 0x60
    mov ah, 0x4f
    stc
    int 0x15
    jnc key_done
key:
    out PORT, al
key_done:
    mov al, 0x20
    out 0x20, al
    pop ax
    iret
key_break:
    mov al, 0x20
    out 0x20, al
    int 0x1b
    pop ax
    iret

; IRQ 8: the real-time clock's alarm is INT 4Ah
int_70:
    push ax
    mov al, 0x0c
    out 0x70, al
    in al, 0x71
    test al, 0x20
    jz slave_done
    int 0x4a
    jmp slave_done

; IRQ 14: a disk is done
int_76:
    push ax
    push ds
    mov ax, 0x40
    mov ds, ax
    mov byte [0x8e], 0xff
    pop ds
    jmp slave_done

irq_slave:
    push ax
slave_done:
    mov al, 0x20
    out 0xa0, al
    out 0x20, al
    pop ax
    iret

; F000:F000 and on: tables
times 0xf000 - ORIGIN - ($ - $$) db 0
configuration:                 ; INT 15h, AH=C0h: length, model, submodel, revision, features
    dw 8
    db 0xfc, 1, 0, 0x74, 0, 0, 0, 0
diskette:                      ; INT 1Eh: how a diskette drive is driven
    db 0xdf, 0x02, 0x25, 0x02, 18, 0x1b, 0xff, 0x6c, 0xf6, 0x0f, 0x08
video_parameters:              ; INT 1Dh: the CRT controller's registers in text modes, twice; lengths, columns, modes
    db 0x38, 0x28, 0x2d, 0x0a, 0x1f, 6, 0x19, 0x1c, 2, 7, 6, 7, 0, 0, 0, 0
    db 0x71, 0x50, 0x5a, 0x0a, 0x1f, 6, 0x19, 0x1c, 2, 7, 6, 7, 0, 0, 0, 0
    db 0x38, 0x28, 0x2d, 0x0a, 0x7f, 6, 0x64, 0x70, 2, 1, 6, 7, 0, 0, 0, 0
    db 0x61, 0x50, 0x52, 0x0f, 0x19, 6, 0x19, 0x19, 2, 0x0d, 0x0b, 0x0c, 0, 0, 0, 0
    dw 2048, 4096, 16384, 16384
    db 40, 40, 80, 80, 40, 40, 80, 80, 0x2c, 0x28, 0x2d, 0x29, 0x2a, 0x2e, 0x1e, 0x29
fixed_disks:                   ; INT 41h and 46h: filled in
    times 32 db 0

times 0xff53 - ORIGIN - ($ - $$) db 0
nobody:
    iret
reset:
    out PORT, al
stop:
    cli
    hlt
    jmp stop

times 0xfff0 - ORIGIN - ($ - $$) db 0
    jmp 0xf000:reset
    db "01/01/26", 0, 0xfc, 0
"""


@dataclass(frozen=True, slots=True)
class Rom:
    """The read-only memory.

    Attributes
    ----------
    code : bytes
        8 KiB, to stand at `ROM_BASE`.
    labels : dict
        Name to offset in segment F000.
    calls : dict
        Linear address behind each OUT to the vector that it serves.
    """

    code: bytes
    labels: dict[str, int]
    calls: dict[int, int]


@cache
def build_rom() -> Rom:
    """Assemble the read-only memory."""
    entries = [label for label in ENTRIES if label not in ("key", "reset")]
    source = f"bits 16\norg {ORIGIN}\nORIGIN equ {ORIGIN}\nPORT equ {PORT}\n"
    source += "".join(_PLAIN.format(label=label) for label in entries) + _REST
    program = assemble(source)
    labels = dict(program.symbols)
    calls = {(SEGMENT << 4) + labels[label] + 2: vector for label, vector in ENTRIES.items()}
    return Rom(program.code, labels, calls)
