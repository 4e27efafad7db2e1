"""The instruction table of IA-32 and x86-64: every integer and system instruction, one opcode and form a line.

Decoder, assembler, disassembler, interpreter and the Popek-Goldberg classification all read `ROWS`. A line is

    mnemonic  operands  opcode  [/extension]  [attributes]

with the operand codes of `vmlab.isa.x86.instruction` (`-` for none). A family stands on one line: `add/or/adc`
with opcode `00+8` means opcodes 00, 08, 10 and with extension `/0+` means `/0 /1 /2`; `j*` stands for the sixteen
conditions in the order of their numbers. A third opcode byte after `0F xx` is a ModRM byte that must be just so,
except after `0F 38`, where it is an opcode byte; a leading `66` or `F3` is a prefix that belongs to the opcode.

Attributes: `lock` (LOCK allowed on a memory destination), `rep` and `repz` (string instruction), `8` (byte form
without an operand to show it), `16` `32` `64` (only with this operand size), `a16` `a32` `a64` (only with this
address size), `np` (no 66, F2, F3 prefix allowed), `alias` (decoded, never encoded), `i64` `o64` `d64` `f64` `n64`
(what 64-bit code makes of it, see `Row.in_64`), `@group` (see `vmlab.isa.x86.privilege`).

Simplified: no x87, MMX or SSE, so their opcodes but FWAIT are undefined (#UD) as on a processor whose CPUID denies them;
F3 before `bsf`, `bsr` and `wbinvd` is ignored, as before TZCNT, LZCNT and WBNOINVD existed; `callf` and `jmpf`
name the far transfers, as `retf` does. Source: Intel SDM vol. 2, chapters 3-5 and appendix A.
"""

from __future__ import annotations

from functools import cache

from vmlab.isa.x86.instruction import Row
from vmlab.isa.x86.privilege import GROUPS

__all__ = ["CONDITIONS", "ROWS", "rows_of"]

CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
"""Names of the condition codes 0 to 15 (SDM vol. 2, B.1.4.7)."""

TEXT = """
# Arithmetic and logic
add/or/adc/sbb/and/sub/xor  Eb,Gb  00+8  lock
add/or/adc/sbb/and/sub/xor  Ev,Gv  01+8  lock
add/or/adc/sbb/and/sub/xor  Gb,Eb  02+8
add/or/adc/sbb/and/sub/xor  Gv,Ev  03+8
add/or/adc/sbb/and/sub/xor  AL,Ib  04+8
add/or/adc/sbb/and/sub/xor  eAX,Iz  05+8
add/or/adc/sbb/and/sub/xor  Eb,Ib  80 /0+  lock
add/or/adc/sbb/and/sub/xor  Ev,Iz  81 /0+  lock
add/or/adc/sbb/and/sub/xor  Eb,Ib  82 /0+  lock alias i64
add/or/adc/sbb/and/sub/xor  Ev,Ix  83 /0+  lock
cmp     Eb,Gb   38
cmp     Ev,Gv   39
cmp     Gb,Eb   3A
cmp     Gv,Ev   3B
cmp     AL,Ib   3C
cmp     eAX,Iz  3D
cmp     Eb,Ib   80 /7
cmp     Ev,Iz   81 /7
cmp     Eb,Ib   82 /7  alias i64
cmp     Ev,Ix   83 /7
inc/dec Zv      40+8  i64
inc/dec Eb      FE /0+  lock
inc/dec Ev      FF /0+  lock
test    Eb,Gb   84
test    Ev,Gv   85
test    AL,Ib   A8
test    eAX,Iz  A9
test    Eb,Ib   F6 /0
test    Ev,Iz   F7 /0
test    Eb,Ib   F6 /1  alias
test    Ev,Iz   F7 /1  alias
not/neg Eb      F6 /2+  lock
not/neg Ev      F7 /2+  lock
mul/imul/div/idiv  Eb  F6 /4+
mul/imul/div/idiv  Ev  F7 /4+
imul    Gv,Ev     0FAF
imul    Gv,Ev,Iz  69
imul    Gv,Ev,Ix  6B
rol/ror/rcl/rcr/shl/shr  Eb,Ib  C0 /0+
rol/ror/rcl/rcr/shl/shr  Ev,Ib  C1 /0+
rol/ror/rcl/rcr/shl/shr  Eb,1   D0 /0+
rol/ror/rcl/rcr/shl/shr  Ev,1   D1 /0+
rol/ror/rcl/rcr/shl/shr  Eb,CL  D2 /0+
rol/ror/rcl/rcr/shl/shr  Ev,CL  D3 /0+
shl     Eb,Ib   C0 /6  alias
sar     Eb,Ib   C0 /7
shl     Ev,Ib   C1 /6  alias
sar     Ev,Ib   C1 /7
shl     Eb,1    D0 /6  alias
sar     Eb,1    D0 /7
shl     Ev,1    D1 /6  alias
sar     Ev,1    D1 /7
shl     Eb,CL   D2 /6  alias
sar     Eb,CL   D2 /7
shl     Ev,CL   D3 /6  alias
sar     Ev,CL   D3 /7
shld    Ev,Gv,Ib  0FA4
shld    Ev,Gv,CL  0FA5
shrd    Ev,Gv,Ib  0FAC
shrd    Ev,Gv,CL  0FAD
bt      Ev,Gv   0FA3
bts     Ev,Gv   0FAB  lock
btr     Ev,Gv   0FB3  lock
btc     Ev,Gv   0FBB  lock
bt      Ev,Ib   0FBA /4
bts/btr/btc  Ev,Ib  0FBA /5+  lock
bsf     Gv,Ev   0FBC
bsr     Gv,Ev   0FBD
cbw     -       98  16
cwde    -       98  32
cdqe    -       98  64
cwd     -       99  16
cdq     -       99  32
cqo     -       99  64
daa     -       27  i64
das     -       2F  i64
aaa     -       37  i64
aas     -       3F  i64
aam     Ib      D4  i64
aad     Ib      D5  i64

# Moves
mov     Eb,Gb   88
mov     Ev,Gv   89
mov     Gb,Eb   8A
mov     Gv,Ev   8B
mov     AL,Ob   A0
mov     eAX,Ov  A1
mov     Ob,AL   A2
mov     Ov,eAX  A3
mov     Zb,Ib   B0
mov     Zv,Iv   B8
mov     Eb,Ib   C6 /0
mov     Ev,Iz   C7 /0
mov     Er,Sw   8C  @segment
mov     Sw,Ew   8E  @segment
mov     Ry,Cy   0F20  f64 @cpl0
mov     Ry,Dy   0F21  f64 @cpl0
mov     Cy,Ry   0F22  f64 @cpl0
mov     Dy,Ry   0F23  f64 @cpl0
movzx   Gv,Eb   0FB6
movzx   Gv,Ew   0FB7
movsx   Gv,Eb   0FBE
movsx   Gv,Ew   0FBF
movsxd  Gv,Ez   63  o64
cmov*   Gv,Ev   0F40+1
set*    Eb      0F90+1
lea     Gv,M    8D
nop     -       90
pause   -       F390
xchg    eAX,Zv  90
xchg    Eb,Gb   86  lock
xchg    Ev,Gv   87  lock
cmpxchg Eb,Gb   0FB0  lock
cmpxchg Ev,Gv   0FB1  lock
cmpxchg16b  Mdq  0FC7 /1  64 lock
cmpxchg8b  Mq   0FC7 /1  lock
xadd    Eb,Gb   0FC0  lock
xadd    Ev,Gv   0FC1  lock
bswap   Zv      0FC8
xlat    -       D7  8
lahf    -       9F
sahf    -       9E
les     Gv,Mp   C4  i64 @segment
lds     Gv,Mp   C5  i64 @segment
lss     Gv,Mp   0FB2  @segment
lfs     Gv,Mp   0FB4  @segment
lgs     Gv,Mp   0FB5  @segment

# Stack
push    Zv      50  d64
pop     Zv      58  d64
push    Ix      6A  d64
push    Iz      68  d64
push    Ev      FF /6  d64
pop     Ev      8F /0  d64
push    ES      06  i64 @segment
push    CS      0E  i64 @segment
push    SS      16  i64 @segment
push    DS      1E  i64 @segment
push    FS      0FA0  d64 @segment
push    GS      0FA8  d64 @segment
pop     ES      07  i64 @segment
pop     SS      17  i64 @segment
pop     DS      1F  i64 @segment
pop     FS      0FA1  d64 @segment
pop     GS      0FA9  d64 @segment
pusha   -       60  i64
popa    -       61  i64
pushf   -       9C  d64 @flags
popf    -       9D  d64 @flags
enter   Iw,Ib   C8  d64
leave   -       C9  d64

# Strings
movs    -       A4  8 rep
movs    -       A5  rep
cmps    -       A6  8 repz
cmps    -       A7  repz
stos    -       AA  8 rep
stos    -       AB  rep
lods    -       AC  8 rep
lods    -       AD  rep
scas    -       AE  8 repz
scas    -       AF  repz
ins     -       6C  8 rep @iopl
ins     -       6D  rep n64 @iopl
outs    -       6E  8 rep @iopl
outs    -       6F  rep n64 @iopl

# Control transfer
j*      Jb      70+1  f64
j*      Jz      0F80+1  f64
jcxz    Jb      E3  a16
jecxz   Jb      E3  a32 f64
jrcxz   Jb      E3  a64 f64
loopne/loope/loop  Jb  E0+1  f64
jmp     Jb      EB  f64
jmp     Jz      E9  f64
jmp     Ev      FF /4  f64
call    Jz      E8  f64
call    Ev      FF /2  f64
ret     -       C3  f64
ret     Iw      C2  f64
jmpf    Ap      EA  i64 @far-transfer
jmpf    Mp      FF /5  @far-transfer
callf   Ap      9A  i64 @far-transfer
callf   Mp      FF /3  @far-transfer
retf    -       CB     @far-transfer
retf    Iw      CA     @far-transfer
int     Ib      CD     @far-transfer
int3    -       CC     @far-transfer
into    -       CE  i64 @far-transfer
int1    -       F1     @far-transfer
iret    -       CF     @far-transfer
sysenter  -     0F34   @fast-call
sysexit   -     0F35   @cpl0
bound   Gv,Ma   62  i64
syscall  -      0F05   @fast-call
sysret  -       0F07   @cpl0
ud0     Gv,Ev   0FFF
ud1     Gv,Ev   0FB9
ud2     -       0F0B

# Flags
cmc     -       F5
clc     -       F8
stc     -       F9
cli     -       FA  @iopl
sti     -       FB  @iopl
cld     -       FC
std     -       FD

# Ports
in      AL,Ib   E4  @iopl
in      eAX,Ib  E5  n64 @iopl
out     Ib,AL   E6  @iopl
out     Ib,eAX  E7  n64 @iopl
in      AL,DX   EC  @iopl
in      eAX,DX  ED  n64 @iopl
out     DX,AL   EE  @iopl
out     DX,eAX  EF  n64 @iopl

# System
sldt    Er      0F00 /0  @system-register
str     Er      0F00 /1  @system-register
lldt    Ew      0F00 /2  @cpl0
ltr     Ew      0F00 /3  @cpl0
verr    Ew      0F00 /4  @selector-check
verw    Ew      0F00 /5  @selector-check
sgdt    Ms      0F01 /0  f64 @system-register
sidt    Ms      0F01 /1  f64 @system-register
lgdt    Ms      0F01 /2  f64 @cpl0
lidt    Ms      0F01 /3  f64 @cpl0
smsw    Er      0F01 /4  @system-register
lmsw    Ew      0F01 /6  @cpl0
invlpg  M       0F01 /7  @cpl0
lar     Gv,Ew   0F02     @selector-check
lsl     Gv,Ew   0F03     @selector-check
arpl    Ew,Gw   63  i64
clts    -       0F06  @cpl0
invd    -       0F08  @cpl0
wbinvd  -       0F09  @cpl0
wrmsr   -       0F30  @cpl0
rdtsc   -       0F31  @time
rdmsr   -       0F32  @cpl0
rdpmc   -       0F33  @pmc
cpuid   -       0FA2  @identity
rdtscp  -       0F01F9  @time
swapgs  -       0F01F8  o64 @cpl0
invpcid  Gy,Mdq  660F3882  f64 @cpl0
monitor  -      0F01C8  np @cpl0-hidden
mwait   -       0F01C9  np @cpl0-hidden
clac    -       0F01CA  np @cpl0-hidden
stac    -       0F01CB  np @cpl0-hidden
xgetbv  -       0F01D0  np @extended-state
xsetbv  -       0F01D1  np @cpl0
hlt     -       F4    @cpl0

# Virtual-machine extensions
vmcall/vmlaunch/vmresume/vmxoff  -  0F01C1+1  np @vmx
vmptrld  Mq      0FC7 /6  np f64 @vmx
vmptrst  Mq      0FC7 /7  np f64 @vmx
vmclear  Mq      660FC7 /6  f64 @vmx
vmxon    Mq      F30FC7 /6  f64 @vmx
vmread   Ey,Gy   0F78  np f64 @vmx
vmwrite  Gy,Ey   0F79  np f64 @vmx
invept/invvpid  Gy,Mdq  660F3880+1  f64 @vmx
vmrun/vmmcall/vmload/vmsave/stgi/clgi/skinit/invlpga  -  0F01D8+1  @svm

# Hints and fences
prefetchnta/prefetcht0/prefetcht1/prefetcht2  Mb  0F18 /0+
nop     Ev      0F1F
nop     Ev      0F0D  alias
nop/nop/nop/nop  Rv  0F18 /0+  alias
nop/nop/nop/nop  Ev  0F18 /4+  alias
nop     Ev      0F19  alias
nop     Ev      0F1A  alias
nop     Ev      0F1B  alias
nop     Ev      0F1C  alias
nop     Ev      0F1D  alias
nop     Ev      0F1E  alias
fwait   -       9B
lfence  -       0FAEE8  np
mfence  -       0FAEF0  np
sfence  -       0FAEF8  np
"""


def _expand(line: str) -> list[Row]:
    """Return the rows of one line."""
    names, codes, opcode, *attributes = line.split()
    operands = () if codes == "-" else tuple(codes.split(","))
    extension, step, opcode_step = -1, 0, 0
    if attributes and attributes[0][0] == "/":
        field = attributes.pop(0)
        extension, step = int(field[1]), int(field.endswith("+"))
    if "+" in opcode:
        opcode, _, increment = opcode.partition("+")
        opcode_step = int(increment)
    size = address_size = 0
    if operands and (operands[0] in ("Eb", "Gb", "Zb", "Ob") or "AL" in operands):
        size = 8
    group = repeat = in_64 = ""
    for attribute in attributes:
        if attribute.isdecimal():
            size = int(attribute)
        elif attribute[0] == "@":
            group = attribute[1:]
        elif attribute in ("a16", "a32", "a64"):
            address_size = int(attribute[1:])
        elif attribute.endswith("64"):
            in_64 = attribute
        elif attribute.startswith("rep"):
            repeat = attribute
    family = [names[:-1] + c for c in CONDITIONS] if names[-1] == "*" else names.split("/")
    number, width = int(opcode, 16), len(opcode) // 2
    privilege = GROUPS[group].privilege
    return [
        Row(
            mnemonic, operands, (number + n * opcode_step).to_bytes(width, "big"), extension + n * step, privilege,
            "lock" in attributes, repeat, size, address_size, "np" in attributes, "alias" in attributes, group, in_64,
        )
        for n, mnemonic in enumerate(family)
    ]  # fmt: skip


ROWS: tuple[Row, ...] = tuple(row for line in TEXT.splitlines() if line and line[0] != "#" for row in _expand(line))
"""The table. Where two rows claim one encoding (`nop` and `xchg eax, eax`) the first one has it."""


@cache
def _by_mnemonic() -> dict[str, tuple[Row, ...]]:
    index: dict[str, list[Row]] = {}
    for row in ROWS:
        index.setdefault(row.mnemonic, []).append(row)
    return {mnemonic: tuple(rows) for mnemonic, rows in index.items()}


def rows_of(mnemonic: str) -> tuple[Row, ...]:
    """Return the rows of one mnemonic in the order of the table, none if there is no such mnemonic.

    >>> [row.opcode.hex() for row in rows_of("bswap")]
    ['0fc8']
    """
    return _by_mnemonic().get(mnemonic, ())
