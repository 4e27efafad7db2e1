"""The assembler against NASM, byte for byte: every form of every instruction, and whole programs."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from tests.isa.nasm import nasm, nasm_lines
from vmlab.errors import AssemblyError, OptionError
from vmlab.isa.x86.assembler import assemble
from vmlab.isa.x86.assembler.mnemonics import known_mnemonics

REGISTERS = ["al", "cl", "bh", "ax", "dx", "si", "eax", "ebx", "esp"]
SYSTEM = ["ds", "es", "gs", "cr0", "cr3", "dr7"]
MEMORY = [
    "[0x1234]", "byte [ebx]", "word [ebx+4]", "dword [ebp]", "[eax+ecx*4-5]", "[es:esp+300]", "dword [fs:edi*8]",
    "qword [eax]", "far [eax]", "dword far [eax]", "word far [ebx]", "word [bx+si]", "[bp+2]",
]  # fmt: skip
REGISTERS_64 = ["al", "ah", "sil", "r9b", "cx", "r10w", "eax", "r8d", "rax", "rbx", "rsp", "r12", "r13"]
SYSTEM_64 = ["ds", "gs", "cr0", "cr8", "dr7"]
MEMORY_64 = [
    "[0x1234]", "byte [rbx]", "word [rbx+4]", "dword [r13]", "qword [rbp-5]", "[rax+r12*4-5]", "[fs:rsp+300]", "[gs:0x30]",
    "qword [r12]", "oword [rax]", "far [rax]", "dword far [rax]", "word far [rbx]", "[ebx+r9d*8]", "[rel $]",
    "[rel fs:$+4]", "dword [rel $-300]", "[qword 0x123456789]", "qword [-5]", "[r8*2]", "[dword rax+5]",
]  # fmt: skip
CONSTANTS_64 = [
    "0x7fffffff",
    "0x80000000",
    "0xffffffff",
    "-0x80000000",
    "0x123456789",
    "0xffffffff80000000",
    "-1",
    "qword 5",
    "strict qword 5",
]
CONSTANTS = [
    "0", "1", "-5", "127", "128", "255", "300", "0xff80", "0x80000", "0x12345678", "-129", "0xffffff80", "byte 5", "word 5", "dword 5",
    "strict dword 5", "strict byte 5", "8:5",
]  # fmt: skip
DIGITS = frozenset("0123456789abcdef")
OPERANDS = REGISTERS + SYSTEM + MEMORY + CONSTANTS
OPERANDS_64 = REGISTERS_64 + SYSTEM_64 + MEMORY_64 + CONSTANTS + CONSTANTS_64
JUMPS = {word for word in known_mnemonics() if word[0] == "j" or word.startswith(("loop", "call"))}
QUIRKS = {"ud0", "ud1", "ud2b", "lretq", "sysretq", "sysexitq"}  # NASM takes them without operands, or for labels
# A REX.W without effect; eight bytes of which two count.
TASTE_64 = re.compile(r"invpcid|mov ([dg]s, )?qword \[[^,]+(, [dg]s)?$")


def corpus(bits: int) -> list[str]:
    """Each mnemonic with no operand, every single one, and a seeded choice of pairs and triples."""
    rng = random.Random(bits)
    operands = OPERANDS_64 if bits == 64 else OPERANDS
    registers, memory = (REGISTERS_64, MEMORY_64) if bits == 64 else (REGISTERS, MEMORY)
    pairs = list(itertools.product(operands, operands))
    lines: list[str] = []
    for word in sorted(known_mnemonics()):
        lines.append(word)
        lines += [f"{word} {operand}" for operand in operands if word not in JUMPS or operand[-1] not in DIGITS]
        lines += [f"{word} {', '.join(pair)}" for pair in rng.sample(pairs, 150) if word not in JUMPS]
    common = (
        "add",
        "cmp",
        "mov",
        "test",
        "xchg",
        "shl",
        "bt",
        "bts",
        "imul",
        "movzx",
        "in",
        "out",
        "lea",
        "les",
        "lar",
        "movsxd",
        "lss",
    )
    for word in common:
        lines += [f"{word} {', '.join(pair)}" for pair in (rng.sample(pairs, 1500) if bits == 64 else pairs)]
    for word in ("imul", "shld"):
        lines += [
            f"{word} {a}, {b}, {c}"
            for a in registers[3:] + memory[1:4]
            for b in registers[3:] + memory[:4]
            for c in [*CONSTANTS, "cl"]
        ]
    return lines


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_every_form_is_encoded_as_nasm_encodes_it(bits: int) -> None:
    wrong = []
    for line, expected in nasm_lines(corpus(bits), bits).items():
        if expected is None or line in QUIRKS or TASTE_64.match(line):
            continue
        try:
            code = assemble(line, bits=bits).code
        except AssemblyError as error:
            if "does not fit in" not in error.message:  # NASM cuts it off with a warning
                wrong.append((line, expected.hex(), error.message))
        else:
            if code != expected:
                wrong.append((line, expected.hex(), code.hex()))
    assert wrong == []


BOOT_SECTOR = """
%define COM1 0x3f8
%macro handler 1
isr%1:
    push dword 0
    push dword %1
    jmp shared
%endmacro
%macro put 1
    mov al, %1
%%wait:
    test ah, 0x20
    jz %%wait
    out COM1 & 0xff, al
%endmacro
    org 0x100000
section .text
global _start
_start:
    cli
    lgdt [gdtr]
    jmp 0x08:.flush
.flush: mov ax, 0x10
    mov ds, ax
    put 'a'
    put 'b'
%assign i 0
%rep 20
    handler i
%assign i i+1
%endrep
shared:
    pushad
    call dispatch
    popad
    add esp, 8
    iretd
dispatch:
    mov ebx, table
    mov edx, [table+4*eax]
    cmp eax, entries
    jae .done
    jmp [table+eax*4]
    loop .done
    jecxz .done
.done: ret
    align 16
size equ $ - _start
late equ later+1
    mov eax, late
    mov byte [ebx+later], 5
later equ 7
%ifdef COM1
    mov dx, COM1
%else
    %error no port
%endif
%if size > 16 && late == 8
    nop
%elif 1
    hlt
%endif
section .data
table:
%assign i 0
%rep 20
    dd isr%+i
%assign i i+1
%endrep
entries equ ($-table)/4
message: db `hello\\n`, 0, "it's", 'a', 0
gdtr: dw 23
    dd gdt
align 8
gdt: dq 0, 0x00cf9a000000ffff
    dq 0x00cf92000000ffff
section .rodata align=16
    db 1
section .bss
    alignb 16
stack: resb 4096
.top:
section .text
    mov esp, stack.top
    times 3 jmp dispatch
    times 3 dd $
"""


def same_as_nasm(source: str, bits: int = 32) -> bytes:
    image, messages = nasm(f"bits {bits}\n{source}")
    assert image is not None, messages
    code = assemble(source, bits=bits).code
    assert code == image
    return code


def test_a_whole_program() -> None:
    source = BOOT_SECTOR.replace("%if size > 16 && late == 8\n    nop\n%elif 1\n    hlt\n%endif\n", "")
    same_as_nasm(source)


@pytest.mark.parametrize(
    "source",
    [
        "bits 16\norg 0x7c00\nstart: cli\nlgdt [p]\nmov eax, cr0\nor al, 1\nmov cr0, eax\njmp dword 8:go\nbits 32\ngo: mov ax, 16\nmov ds, ax\njmp $\np: dw 0, 0, 0\ntimes 510-($-$$) db 0\ndw 0xaa55",
        "a: jmp .b\n.b: nop\nc: jmp .b\n.b: jmp a.b\njmp c.b",
        "l:\nx equ 5\n.y equ 6\nmov eax, l.y\nm:\n.y equ 7\nmov eax, .y",
        "dd 0x1F, 1Fh, $1F, 0b101, 101b, 0y11, 11y, 0o17, 17q, 17o, 0d15, 15d, 0x_ff_ff, 1_000, 0ffh, 0hff, 0b1h",
        "dd 'a', 'ab', 'abcd', \"abc\", `\\x41\\t\\0\\n`, `\\e`\ndw 'abc', 'a'\ndq 'abcdefgh', 'abcdefghi'\ndb 'a'+1, \"\"",
        "dd 1+2*3, (1+2)*3, -5, ~0, !5, !0, 7/2, -7//2, 7 % 4, -7 %% 4, 1<<4|1, 6&3^1, 5-3-1, 2+3<<1, -1>>60, 1==1, 2<1",
        "dd 1||0, 1&&0, 3<>3, 3!=4, 4>=4, +5, - - 5, ~-1",
        "mov eax, [ebx*2]\nmov eax, [ebx*3]\nmov eax, [ebx*5+1]\nmov eax, [ebx*9]\nmov eax, [ebp*1]\nmov eax, [esp+eax]",
        "mov eax, [eax+ebx]\nmov eax, [ebx+eax]\nmov eax, [ebx*1+eax]\nmov eax, [eax+ebp]\nmov eax, [ebp+eax]",
        "mov eax, [eax+eax]\nmov eax, [4*eax+ebx-4]\nmov eax, [8+ebx*2+4+eax-12]\nmov eax, [byte ebx+4]\nmov eax, [dword ebx+4]",
        "mov eax, [bx+si]\nmov al, [word 0x1234]\nmov eax, [fs:dword 0]\nmov eax, [word fs:4]\nmov [bp], al\nmov ax, [di+300]",
        "add eax, strict dword 5\npush strict dword 5\nadd eax, x\nmov ebx, x-y\nadd ebx, x-y\ny: nop\nx: nop",
        "shl eax, x-y\ny: nop\nx: imul eax, x-y\npush x-y\nmov eax, [ebx+x-y]\nmov eax, [ebx+z]\nz equ 5",
        "es movsb\nrep es movsb\nlock inc dword [fs:eax]\no16 ret\na16 movsd\nrepne scasb\ncs nop\nrep ret",
        "loop x\nx: loop x, cx\nloope x, ecx\njcxz x\njecxz x\ncall word x\njmp near x\njmp short x\njz near x\njmp strict near x",
        "align 8\nnop\nalign 8, db 0\nnop\nalignb 8\nalign 4, int3\nsection .data\nalign 16\ndb 1\nalign 4\nresb 3\nresd 1",
        "section .bss\nx: resb 5\nsection .data\ndd x\nsection .text\nmov eax, x\nsection .data\ndb 9\nsection .foo\ndb 3",
        "section .data\ndb 1,2,3\nsection .rodata\ndb 4\nsection .text\ndb 5,6,7\nsection .bss align=64\nb: resd 1\nsection .text\ndd b",
        "%macro m 1-3 7, 8\ndb %0, %1, %2, %3\n%endmacro\nm 1\nm 1, 2\nm 1, 2, 3\n%macro n 1+\ndb %1\n%endmacro\nn 1, 2, 'a,b'",
        "%macro p 2\ndb %2, %1\n%endmacro\np {1, 2}, 3 ; comment\n%define a b\n%define b 5\ndb a\n%undef a\na: db b",
        "%macro w 0\n%%l: dec eax\njnz %%l\n%endmacro\nw\nw\nlabel: w\nlab w",
        "%assign n 3\n%rep n\n%rep 2\ndb n\n%endrep\n%assign n n+1\n%endrep\n%rep 10\n%if n > 8\n%exitrep\n%endif\ndb n\n%assign n n+1\n%endrep",
        "%define x 3\n%xdefine y x\n%define x 4\ndb x, y\n%ifndef z\ndb 1\n%else\ndb 2\n%endif\n%if 0\n%rep 5\n%macro q 0\n%endmacro\n%endrep\n%endif",
        "mov eax, \\\n  5 ; a line in two\ndb 1, \\\n 2",
        "[bits 16]\nmov eax, ebx\n[section .data]\ndb 1\n[bits 32]\nuse16\nmov eax, ebx\nuse32\nmov ax, bx",
        "$eax: jmp $eax\nmov EAX, [EBX + Ecx * 4]\nMOV al, BYTE [$eax]\nfoo.bar: jmp foo.bar\n_a?b@c: nop",
        "movsx eax, byte [ebx]\nmovzx ax, [ebx]\nimul eax, 5\nimul eax, [ebx], 5\naam\naad 7\nlea eax, [5]\nint3\nxlatb\nsal eax, 1",
        "dw x, x-y\ndd x, y-x, $$, $-$$\ny: times 3 dw $-y\nx: times 2 jmp x\ntimes 2 call y",
    ],
)  # fmt: skip
def test_programs_are_assembled_as_nasm_assembles_them(source: str) -> None:
    same_as_nasm(source)


@pytest.mark.parametrize(
    "source",
    [
        "default rel\norg 0x400000\nmov rax, [x]\nlea rbx, [x+4]\nmov dword [x], 5\nmov [x], rcx\nadd qword [x], 0x12345\nx: dq x, $, 5",
        "default abs\nmov rax, [x]\nmov rax, [rel x]\nmov eax, [abs x]\nmov rax, [rel 5]\nmov eax, [fs:x]\ndefault rel\nmov eax, [fs:x]\nmov eax, [gs:0]\nmov eax, [rel fs:x]\ndefault abs\nx: nop",
        "default rel\nmov eax, [y]\nmov eax, [y+x-z]\nmov eax, [x-z]\nmov eax, [rax+x]\ny equ 5\nx: nop\nz: nop\ndefault abs\nmov eax, [x]\ndefault rel",
        "mov rax, x\nmov eax, x\nmov rax, 5\nmov rax, y\nmov rax, x-z\nmov r9, -1\nmov qword [rax], x\ny equ 0x123456789\nx: push x\nz: push -1",
        "call x\njmp x\njz x\njmp [rel x]\ncall [x]\ncall qword [rax]\njmp near x\nx: jmp rax\nloop x\njrcxz x\njecxz x\nloop x, ecx",
        "bits 16\norg 0x7c00\nmov eax, cr0\njmp dword 8:go\nbits 32\ngo: mov eax, cr4\njmp 24:far64\nbits 64\nfar64: mov rax, cr4\nlea rsp, [rel far64]\nuse32\npush eax\n[bits 64]\npush rax",
        "push rax\npop r8\npush fs\npush word 5\npush 0x12345\npushfq\niretq\nretfq\no64 retf\nsyscall\no64 sysret\nsysret\nswapgs\nrdtscp\nenter 8, 0\nleave",
        "rep movsq\na32 stosq\nfs lodsq\nscasq\ncmpsq\nmovsd\nrepne scasb\nxlatb\nlock cmpxchg16b [rax]\nlock xadd [r8], r9\nbswap r15\ncqo\ncdqe",
        "mov [qword 0x1122334455667788], al\nmov rax, [qword x]\na32 mov eax, [0x1234]\nmov eax, [dword 0x1234]\nx: mov eax, [-5]",
        "default rel\ntimes 3 mov eax, [x]\ntimes 2 lea rax, [x]\nx: times 2 mov byte [x], 7\nimul eax, [x], 300\nshld [x], eax, 5\ntest byte [x], 1",
        "section .data\na: dq b, a\nb: db 'x'\nsection .text\nmov rsi, a\nlea rdi, [rel b]\nmov al, [rel b]\nsection .bss\nc: resq 4\nsection .text\nmov [rel c+8], rax",
        "xchg eax, eax\nxchg rax, rax\nxchg ax, ax\nxchg r8, rax\nxchg rax, r8\nxchg r8d, eax\nnop\nmov ah, bh\nmov spl, dil\nmov [rbp], ah",
        "mov rax, [r12]\nmov rax, [r13]\nmov rax, [r12+r13]\nmov rax, [r13+r12]\nmov rax, [rsp+r12*8]\nmov rax, [r8*2]\nmov rax, [r13*3]\nmov rax, [rbp+rsp]\nlea eax, [r9d+4]",
    ],
)  # fmt: skip
def test_64_bit_programs_are_assembled_as_nasm_assembles_them(source: str) -> None:
    same_as_nasm(source, bits=64)


def test_rip_may_be_named() -> None:
    """NASM has no such name; other assemblers mean this by it."""
    code = assemble(
        "mov rax, [rip+8]\nmov rax, [rip+x]\nmov rax, [rel x]\nx: lea rax, [rip]\nmov byte [rip-1], 5", bits=64
    ).code
    assert (
        code.hex(" ", 1)
        == "48 8b 05 08 00 00 00 48 8b 05 07 00 00 00 48 8b 05 00 00 00 00 48 8d 05 00 00 00 00 c6 05 ff ff ff ff 05"
    )


def test_code_in_the_upper_half() -> None:
    source = (
        "default rel\nstart: mov rax, [x]\nmov rbx, x\nmov rcx, strict dword x\ncall start\njmp near x\nx: dq x, start"
    )
    program = assemble(source, origin=0xFFFFFFFF80000000, bits=64)
    lower = assemble(source, origin=0x10000, bits=64)
    assert program.symbols == {name: value - 0x10000 + 0xFFFFFFFF80000000 for name, value in lower.symbols.items()}
    assert len(program.code) == len(lower.code)
    assert program.code[:7] == lower.code[:7]
    assert program.code[-16:] == program.symbols["x"].to_bytes(8, "little") + program.symbols["start"].to_bytes(
        8, "little"
    )
    assert assemble(f"org 0xffffffff80000000\n{source}", bits=64).code == program.code
    assert assemble(f"org 0xffffffff80000000\nbits 64\n{source}").code == program.code


def random_program(rng: random.Random, bits: int) -> str:
    """Labels with jumps, constants and alignments between them: sizes depend on sizes."""
    labels = [f"l{n}" for n in range(rng.randrange(5, 50))]
    lines = []
    for label in labels:
        lines.append(f"{label}:")
        for _ in range(rng.randrange(4)):
            to, other = rng.choice(labels), rng.choice(labels)
            forms = [
                f"jmp {to}", f"jz {to}", f"jnz {to}", f"call {to}", f"times {rng.randrange(60)} nop", f"mov eax, {to}",
                f"add eax, {to}-{other}", f"push {to}-{other}", f"mov [ebx+{to}-{other}], eax", f"mov [ebx+{to}], al",
                f"dd {to}, $, $$, $-$$", f"imul eax, ebx, {to}-{other}+3", f"jmp {to}+3", "call $+5", "jmp $",
                f"times 3 jmp {to}", f"k{len(lines)} equ {to}-{other}", "align 8" if rng.random() < 0.3 else "nop",
            ]  # fmt: skip
            if bits == 64:
                forms += [
                    f"mov rax, {to}", f"lea rax, [rel {to}]", f"mov eax, [{to}]", f"mov byte [rel {to}], 7", f"call [rel {to}]",
                    f"add qword [rel {to}], {to}-{other}", f"times 2 mov rax, [{to}]",
                    f"mov rax, {to}-{other}", f"dq {to}",
                ]  # fmt: skip
            lines.append(rng.choice(forms))
    default = rng.choice(["default rel\n", "default abs\n"]) if bits == 64 else ""
    return default + rng.choice(["", "org 0x7c00\n", "org 0x100000\n"]) + "\n".join(lines)


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_jumps_settle_where_nasm_settles_them(bits: int) -> None:
    rng = random.Random(2026)
    compared = 0
    for _ in range(40):
        source = random_program(rng, bits)
        image, _ = nasm(f"bits {bits}\n{source}")
        try:
            code = assemble(source, bits=bits).code
        except AssemblyError as error:
            if "does not fit in" not in error.message:  # NASM cuts it off with a warning
                raise
            continue
        if image is not None:  # NASM itself gives some up
            assert code == image
            compared += 1
    assert compared > 20


def test_what_nasm_gives_up_still_settles() -> None:
    """Two jumps whose alignment makes each other alternate, by the thousands if need be."""
    rng = random.Random(7)
    lines = [f"l{n}: jmp l{rng.randrange(400)}\n align 8" for n in range(400)]
    program = assemble("\n".join(lines))
    assert len(program.code) % 8 == 0


def test_symbols_lines_and_sizes() -> None:
    program = assemble(
        "org 0x1000\nstart: nop\n.loop: jmp .loop\ncount equ 5\nsection .data\nvalue: dd 1, 2\nsection .bss\nbuffer: resb 16\n"
    )
    assert program.origin == 0x1000
    assert program.symbols == {"start": 0x1000, "start.loop": 0x1001, "value": 0x1004, "buffer": 0x100C}
    assert program.constants == {"count": 5}
    assert program.lines == [(0x1000, 1, 2), (0x1001, 2, 3), (0x1004, 8, 6)]
    assert program.code == bytes.fromhex("90 ebfe 00 01000000 02000000")
    assert program.size == 0x1C


def test_lines_of_a_macro_are_those_of_its_call_and_of_a_repetition_its_own() -> None:
    program = assemble("%macro two 0\nnop\nnop\n%endmacro\ntwo\n%rep 2\nhlt\n%endrep")
    assert [(length, line) for _, length, line in program.lines] == [(1, 5), (1, 5), (1, 7), (1, 7)]


def test_addresses_may_be_taken_apart() -> None:
    """NASM refuses this in an IDT entry; here the final address is known."""
    program = assemble("org 0x123456\nisr: nop\ndw isr & 0xffff, 8, 0x8e00, isr >> 16")
    assert program.code[1:] == bytes.fromhex("5634 0800 008e 1200")


def test_origin_and_bits() -> None:
    assert assemble("x: dd x", origin=0x100).code == bytes.fromhex("00010000")
    assert assemble("org 0x100\nx: dd x", origin=0x100).origin == 0x100
    assert assemble("mov eax, 5", bits=16).code.hex() == "66b805000000"
    assert assemble("").code == b""
    with pytest.raises(AssemblyError, match="contradicts"):
        assemble("org 0x200", origin=0x100)
    with pytest.raises(OptionError, match="128"):
        assemble("nop", bits=128)
    with pytest.raises(OptionError, match="32 bits"):
        assemble("nop", origin=1 << 32)
    assert assemble("nop", origin=1 << 32, bits=64).origin == 1 << 32
    with pytest.raises(OptionError, match="-1"):
        assemble("nop", origin=-1)


@pytest.mark.parametrize(
    ("source", "line", "column", "message"),
    [
        ("nop\n mvo eax, 5", 2, 2, "did you mean 'mov'"),
        ("htl", 1, 1, "did you mean 'hlt'"),
        ("start", 1, 1, "a label needs a colon"),
        ("jmp strat\nstart: nop", 1, 5, "'strat' is not defined; did you mean 'start'"),
        ("mov eax, ffh", 1, 10, "0ffh"),
        ("mov eax, 12ab", 1, 10, "0x12ab"),
        ("mov [eax], 5", 1, 5, "size of this memory operand"),
        ("inc [eax]", 1, 5, "size of this memory operand"),
        ("mov ax, ebx", 1, 1, "ax, ebx; their sizes differ"),
        ("mov [eax], [ebx]", 1, 1, "two memory operands"),
        ("mov eax", 1, 1, "takes 2 operands, not 1"),
        ("cli 5", 1, 1, "takes 0 operands"),
        ("a: nop\na: nop", 2, 1, "defined twice, first in line 1"),
        ("jmp short x\ntimes 200 nop\nx:", 1, 5, "200 bytes away"),
        ("loop x\ntimes 200 nop\nx:", 1, 6, "200 bytes away"),
        ("mov al, 300", 1, 9, "does not fit in 8 bits"),
        ("push byte 200", 1, 6, "does not fit in a signed byte"),
        ("db 1, 300", 1, 7, "does not fit in 8 bits"),
        ("dw x\ntimes 70000 nop\nx:", 1, 4, "does not fit in 16 bits"),
        ("mov eax, [ebx+0x123456789]", 1, 10, "does not fit in 32 bits"),
        ("mov eax, [eax+ebx+ecx]", 1, 10, "two registers at most"),
        ("mov eax, [eax+esp*2]", 1, 10, "esp is no index"),
        ("mov eax, [ax]", 1, 10, "16-bit address"),
        ("mov eax, [eax+bx]", 1, 10, "32-bit registers, or of 16-bit ones"),
        ("mov eax, [eax*ebx]", 1, 14, "multiplied by a plain number"),
        ("mov eax, es:[ebx]", 1, 10, "in the brackets"),
        ("mov eax, dword ptr [ebx]", 1, 16, "without ptr|size alone"),
        ("mov eax, offset x", 1, 10, "its name is its address"),
        ("mov eax, [ebx", 1, 14, "expected ']'"),
        ("mov eax, (5", 1, 12, r"expected '\)'"),
        ("mov eax, 5 5", 1, 12, "expected ',' or the end"),
        ("mov eax, #5", 1, 10, "immediates stand plain"),
        ("db 'abc", 1, 4, "no closing quote"),
        ("dd 1.5", 1, 5, "expected ',' or the end"),
        ("dd 1/0", 1, 5, "division by zero"),
        ("dd 0x1ffffffffffffffff", 1, 4, "64 bits"),
        ("dd a\na equ b\nb equ a", 1, 4, "defined by itself"),
        ("a equ a+1", 1, 1, "does not settle"),
        ("times x nop\nx:", 1, 7, "must be known at this point"),
        ("x: times x nop", 1, 10, "this is an address"),
        ("times -1 nop", 1, 7, "negative"),
        ("times 100000000 nop", 1, 17, "exceeds"),
        ("align 3", 1, 1, "power of two"),
        ("bits 48", 1, 1, "16, 32 or 64"),
        ("default near", 1, 1, "rel or abs"),
        ("mov rax, 5", 1, 5, "rax exists in 64-bit code alone"),
        ("mov al, sil", 1, 9, "sil exists in 64-bit code alone"),
        ("mov eax, [rbx]", 1, 10, "32-bit registers, or of 16-bit"),
        ("mov eax, [r8d]", 1, 10, "32-bit registers, or of 16-bit"),
        ("mov eax, [rip]", 1, 10, "32-bit registers, or of 16-bit"),
        ("movsq", 1, 1, "64 bits, which only 64-bit code has"),
        ("cqo", 1, 1, "does not exist in 32-bit code"),
        ("swapgs", 1, 1, "does not exist in 32-bit code"),
        ("extern f\ncall f", 2, 6, "not linked"),
        ("lock nop", 1, 6, "lock is not allowed"),
        ("lock add eax, 5", 1, 6, "lock is not allowed"),
        ("mov cs, ax", 1, 5, "far jump"),
        ("mov eax, cr1", 1, 10, "there is no cr1"),
        ("section .bss\ndb 5", 2, 1, "no contents"),
        ("incbin 'x'", 1, 1, "files cannot be included"),
        ("%include 'x'", 1, 1, "not supported"),
        ("%macro m 0", 1, 1, "no %endmacro"),
        ("%rep 3\nnop", 1, 1, "no %endrep"),
        ("%if 1\nnop", 1, 1, "no %endif"),
        ("%endif", 1, 1, "without %if"),
        ("%define f(x) x", 1, 1, "use %macro"),
        ("%if x\n%endif\nx:", 1, 1, "not a constant"),
        ("%error stop here", 1, 1, "stop here"),
        ("%macro m 1\nmov %1\n%endmacro\n\nm eax", 5, 1, "in macro 'm'"),
        ("%macro m 1\nnop\n%endmacro\nm 1, 2", 4, 1, "takes 1 parameters, not 2"),
    ],
)  # fmt: skip
def test_errors_say_where_and_what(source: str, line: int, column: int, message: str) -> None:
    with pytest.raises(AssemblyError, match=message) as caught:
        assemble(source)
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize(
    ("source", "column", "message"),
    [
        ("pusha", 1, "does not exist in 64-bit code"),
        ("into", 1, "does not exist in 64-bit code"),
        ("jcxz $", 1, "does not exist in 64-bit code"),
        ("push eax", 1, "no form for these operands: eax"),
        ("push es", 1, "no form for these operands: es"),
        ("jmp 8:5", 1, "no form"),
        ("pushfd", 1, "no form"),
        ("mov spl, ah", 1, "beside what needs a REX prefix"),
        ("mov [r8], ah", 1, "beside what needs a REX prefix"),
        ("inc [rax]", 5, "write byte, word, dword or qword"),
        ("mov eax, [bx]", 10, "64-bit registers, or of 32-bit ones"),
        ("mov eax, [rax+ebx]", 10, "64-bit registers, or of 32-bit ones"),
        ("mov eax, [rax+0x80000000]", 10, "does not fit in 32 bits with a sign\n"),
        ("mov ebx, [0x80000000]", 10, r"does not fit in 32 bits with a sign: write \[qword"),
        ("mov rbx, [qword 0x123456789]", 1, "does not fit in 32 bits"),
        ("mov eax, [qword rbx]", 10, "cannot have 64 bits here"),
        ("mov eax, [byte rbx+300]", 10, "cannot have 8 bits here"),
        ("add rax, 0x80000000", 10, "does not fit in 32 bits with a sign"),
        ("mov qword [rax], 0x80000000", 18, "does not fit in 32 bits with a sign"),
        ("mov rax, cr1", 10, "there is no cr1"),
        ("mov rax, cr9", 10, "there is no cr9"),
        ("mov rax, dr8", 10, "there is no dr8"),
        ("mov eax, [rip+rax]", 10, "rip stands alone"),
        ("mov eax, [rip+0x80000000]", 10, "does not fit in 32 bits"),
        ("mov eax, [byte rel $]", 10, "has 32 bits"),
        ("mov rax, rip", 1, "no form for these operands: rax, rip"),
        ("x equ $+0x80000100\njmp x", 5, "more than 32 bits reach"),
        ("x equ $+0x80000100\nmov eax, [rel x]", 10, "more than 32 bits reach"),
        ("loop $, cx", 9, "rcx"),
    ],
)
def test_errors_in_64_bit_code(source: str, column: int, message: str) -> None:
    with pytest.raises(AssemblyError, match=message) as caught:
        assemble(source, bits=64)
    assert caught.value.column == column


def test_an_error_shows_the_line() -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble("nop\nmov eax, [ebx+]")
    expected = "line 2, column 15: expected a value, found ']'\n    mov eax, [ebx+]\n                  ^"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "source",
    [
        "times 0x7fffffffffffffff db 0",
        "%rep 1000000000\n%endrep",
        "%rep 1000\n%rep 1000\n%rep 1000\nnop\n%endrep\n%endrep\n%endrep",
        "%rep 2\n" * 2000 + "nop\n" + "%endrep\n" * 2000,
        "%macro a 0\na\n%endmacro\na",
        "%macro a0 0\nnop\n%endmacro\n" + "".join(f"%macro a{n} 0\na{n - 1}\na{n - 1}\n%endmacro\n" for n in range(1, 40)) + "a39",
        "%define d0\n" + "".join(f"%define d{n} d{n - 1} d{n - 1}\n" for n in range(1, 60)) + "dd 1 d59",
        "dd " + "(" * 10_000 + "1" + ")" * 10_000,
        "dd " + "9" * 100_000,
        "resb 0xffffffff",
        "x: times 65536 jmp x",
        "\0",
        "'" * 1001,
        "`" + "\\" * 1001,
        "a: times (b-a) nop\nb:",
    ],
)  # fmt: skip
def test_hostile_sources_end_in_an_error(source: str) -> None:
    with pytest.raises(AssemblyError):
        assemble(source)


def test_large_sources_end() -> None:
    assert len(assemble("dd " + "-" * 20_000 + "1").code) == 4
    assert len(assemble("dd 1" + "+1" * 10_000).code) == 4
    assert assemble("dd 1<<9999999999, 1>>9999999999").code == bytes(8)
    assert assemble("section .bss\nresb 0xffffffff").size == 0xFFFFFFFF
    chain = "".join(f"l{n}: jmp l{n + 1}\n times 60 nop\n jmp l{max(0, n - 3)}\n" for n in range(300)) + "l300:"
    assert len(assemble(chain).code) > 300 * 64


WORDS = [
    "mov", "add", "push", "jmp", "call", "rep", "lock", "movsb", "eax", "al", "es", "cr0", "rax", "r8d", "rel", "rip", "qword", "[", "]", "[eax", "+4]", ",", ":",
    "(", ")", "+", "-", "*", "/", "%", "<<", "~", "$", "$$", "'a'", "5", "0ffh", "byte", "dword", "short", "far", "strict",
    "times", "db", "dd", "resb", "equ", "org", "align", "section", ".text", ".bss", "a", "b", "a:", ".x", ".x:", "bits",
    "16", "%define", "%macro", "%endmacro", "%rep", "%endrep", "%if", "%else", "%endif", "%assign", "%%l", "%1", "%+", ";",
    "\\", "?", "{", "}", "=", "`\\n`", "@", "1e5", "0x", "'",
]  # fmt: skip


def test_nonsense_raises_nothing_but_an_assembly_error() -> None:
    rng = random.Random(5)
    places = []
    for _ in range(1500):
        lines = [" ".join(rng.choices(WORDS, k=rng.randrange(1, 8))) for _ in range(rng.randrange(1, 8))]
        try:
            assemble("\n".join(lines), bits=rng.choice((16, 32, 64)))
        except AssemblyError as error:
            places.append(0 <= error.line <= len(lines))
    assert len(places) > 1000
    assert all(places)
