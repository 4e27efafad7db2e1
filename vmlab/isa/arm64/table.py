"""The instruction table of the AArch64 subset: every instruction, one encoding a line.

Decoder, encoder, assembler, disassembler and semantics all read `ROWS`. A line is

    mnemonic  pattern  | operands  | rule

The pattern goes from bit 31 down: digits are fixed bits, a name is a field (`FIELD_BITS` has its width). A family stands on
one line: `add/sub` with a `*` in the pattern means that this bit counts through the names; several `*` make one number, the
first the highest bit; `-` is an unallocated one. A name may say the width of its Rt: `ldrsb:X` (`prfm:P` has an operation
instead). Operand codes are those of `vmlab.isa.arm64.operands`, rules those of `vmlab.isa.arm64.rules`.

`ALIASES` are other spellings of the same instructions, the ones that a disassembler prefers first; an assembler takes all.

Simplified: the base instructions of Armv8.0 without CRC32 and without pairs of exclusives; no floating point and no SIMD, as
on a processor whose ID_AA64PFR0_EL1 denies them; so every other encoding is undefined.

Read more: Arm ARM (DDI 0487), C4.1 (encodings), C6.2 (instructions by name).
"""

from __future__ import annotations

from functools import cache

from vmlab.isa.arm64.instruction import FIELD_BITS, Field, Row

__all__ = ["ALIASES", "CONDITIONS", "ROWS", "aliases_of", "rows_of"]

CONDITIONS = ("eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "al", "nv")
"""Names of the conditions 0 to 15 (C1.2.4)."""

_INDEXED = "strb:W/ldrb:W/ldrsb:X/ldrsb:W/strh:W/ldrh:W/ldrsh:X/ldrsh:W/str:W/ldr:W/ldrsw:X/-/str:X/ldr:X/-/-"
_OFFSET = _INDEXED.removesuffix("-/-") + "prfm:P/-"
_UNSCALED = _OFFSET.replace("ldr", "ldur").replace("str", "stur").replace("prfm", "prfum")
_USER = _INDEXED.replace("ldr", "ldtr").replace("str", "sttr")
_B_COND = "/".join(f"b.{condition}" for condition in CONDITIONS)

TEXT = f"""
# Data processing, immediate (C4.1.93)
adr            0 immlo 10000 immhi rd           | Xd, adr
adrp           1 immlo 10000 immhi rd           | Xd, adrp
add/sub        sf * 0 100010 sh imm12 rn rd     | Rd^, Rn^, imm12
adds/subs      sf * 1 100010 sh imm12 rn rd     | Rd, Rn^, imm12
and/orr/eor    sf ** 100100 N immr imms rn rd   | Rd^, Rn, bitmask      | bitmask
ands           sf 11 100100 N immr imms rn rd   | Rd, Rn, bitmask       | bitmask
movn/-/movz/movk  sf ** 100101 hw imm16 rd      | Rd, wide              | wide
sbfm/bfm/ubfm  sf ** 100110 N immr imms rn rd   | Rd, Rn, immr, imms    | bitfield
extr           sf 00 100111 N 0 rm imms rn rd   | Rd, Rn, Rm, imms      | bitfield

# Branches, exceptions, system (C4.1.94)
{_B_COND}      01010100 imm19 0 ****            | label19
-/svc/hvc/smc  11010100 000 imm16 000 **        | imm16
brk            11010100 001 imm16 000 00        | imm16
hint           11010101000000110010 CRm op2 11111   | hint
clrex          11010101000000110011 CRm 010 11111   | {{CRm}}
dsb            11010101000000110011 CRm 100 11111   | barrier
dmb            11010101000000110011 CRm 101 11111   | barrier
isb            11010101000000110011 CRm 110 11111   | {{barrier}}
sys            1101010100001 op1 CRn CRm op2 rt     | op1, CRn, CRm, op2, {{Xt}}
msr            110101010001 o0 op1 CRn CRm op2 rt   | sysreg, Xt
msr            1101010100000 op1 0100 CRm op2 11111 | pstate, imm4       | pstate
mrs            110101010011 o0 op1 CRn CRm op2 rt   | Xt, sysreg
br/blr         110101100 0* 11111 000000 rn 00000   | Xn
ret            110101100 10 11111 000000 rn 00000   | {{Xn}}
eret           11010110100 11111 000000 11111 00000 |
b/bl           * 00101 imm26                    | label26
cbz/cbnz       sf 011010 * imm19 rt             | Rt, label19
tbz/tbnz       b5 011011 * b40 imm14 rt         | Bt, bit, label14

# Loads and stores (C4.1.95)
stxrb:W/stxrh:W/stxr:W/stxr:X      ** 0010000 0 0 rs 0 11111 rn rt  | Ws, Rt, [Xn]
stlxrb:W/stlxrh:W/stlxr:W/stlxr:X  ** 0010000 0 0 rs 1 11111 rn rt  | Ws, Rt, [Xn]
ldxrb:W/ldxrh:W/ldxr:W/ldxr:X      ** 0010000 1 0 11111 0 11111 rn rt  | Rt, [Xn]
ldaxrb:W/ldaxrh:W/ldaxr:W/ldaxr:X  ** 0010000 1 0 11111 1 11111 rn rt  | Rt, [Xn]
stlrb:W/stlrh:W/stlr:W/stlr:X      ** 0010001 0 0 11111 1 11111 rn rt  | Rt, [Xn]
ldarb:W/ldarh:W/ldar:W/ldar:X      ** 0010001 1 0 11111 1 11111 rn rt  | Rt, [Xn]
ldr:W/ldr:X/ldrsw:X/prfm:P         ** 011 0 00 imm19 rt        | Rt, label19
stnp:W/ldnp:W/-/-/stnp:X/ldnp:X/-/-    ** 101 0 000 * imm7 rt2 rn rt   | Rt, Rt2, [Xn,imm7]
stp:W/ldp:W/-/ldpsw:X/stp:X/ldp:X/-/-  ** 101 0 001 * imm7 rt2 rn rt   | Rt, Rt2, [Xn],imm7
stp:W/ldp:W/-/ldpsw:X/stp:X/ldp:X/-/-  ** 101 0 010 * imm7 rt2 rn rt   | Rt, Rt2, [Xn,imm7]
stp:W/ldp:W/-/ldpsw:X/stp:X/ldp:X/-/-  ** 101 0 011 * imm7 rt2 rn rt   | Rt, Rt2, [Xn,imm7]!
{_OFFSET}      ** 111 0 01 ** imm12 rn rt       | Rt, [Xn,imm12]
{_UNSCALED}    ** 111 0 00 ** 0 imm9 00 rn rt   | Rt, [Xn,imm9]
{_INDEXED}     ** 111 0 00 ** 0 imm9 01 rn rt   | Rt, [Xn],imm9
{_USER}        ** 111 0 00 ** 0 imm9 10 rn rt   | Rt, [Xn,imm9]
{_INDEXED}     ** 111 0 00 ** 0 imm9 11 rn rt   | Rt, [Xn,imm9]!
{_OFFSET}      ** 111 0 00 ** 1 rm option S 10 rn rt  | Rt, [Xn,Rm]     | option

# Data processing, register (C4.1.96)
and/orr/eor/ands  sf ** 01010 shift 0 rm imm6 rn rd  | Rd, Rn, Rm, shift  | amount
bic/orn/eon/bics  sf ** 01010 shift 1 rm imm6 rn rd  | Rd, Rn, Rm, shift  | amount
add/adds/sub/subs  sf ** 01011 shift 0 rm imm6 rn rd  | Rd, Rn, Rm, shift  | shifted
add/sub        sf * 0 01011 00 1 rm option imm3 rn rd  | Rd^, Rn^, Em, extend  | extended
adds/subs      sf * 1 01011 00 1 rm option imm3 rn rd  | Rd, Rn^, Em, extend  | extended
adc/adcs/sbc/sbcs  sf ** 11010000 rm 000000 rn rd     | Rd, Rn, Rm
ccmn/ccmp      sf * 111010010 rm cond 00 rn 0 nzcv    | Rn, Rm, nzcv, cond
ccmn/ccmp      sf * 111010010 imm5 cond 10 rn 0 nzcv  | Rn, imm5, nzcv, cond
csel/csinc     sf 0011010100 rm cond 0* rn rd         | Rd, Rn, Rm, cond
csinv/csneg    sf 1011010100 rm cond 0* rn rd         | Rd, Rn, Rm, cond
udiv/sdiv      sf 0011010110 rm 00001* rn rd          | Rd, Rn, Rm
lslv/lsrv/asrv/rorv  sf 0011010110 rm 0010** rn rd    | Rd, Rn, Rm
rbit/rev16     sf 101101011000000 00000* rn rd        | Rd, Rn
rev            0 101101011000000 000010 rn rd         | Wd, Wn
rev32/rev      1 101101011000000 00001* rn rd         | Xd, Xn
clz/cls        sf 101101011000000 00010* rn rd        | Rd, Rn
madd/msub      sf 0011011000 rm * ra rn rd            | Rd, Rn, Rm, Ra
smaddl/smsubl  1 0011011001 rm * ra rn rd             | Xd, Wn, Wm, Xa
umaddl/umsubl  1 0011011101 rm * ra rn rd             | Xd, Wn, Wm, Xa
smulh          1 0011011010 rm 0 11111 rn rd          | Xd, Xn, Xm
umulh          1 0011011110 rm 0 11111 rn rd          | Xd, Xn, Xm
"""

ALIAS_TEXT = """
mov            sf 00 100010 0 000000000000 rn rd  | Rd^, Rn^            | stack
cmn/cmp        sf * 1 100010 sh imm12 rn 11111    | Rn^, imm12
tst            sf 11 100100 N immr imms rn 11111  | Rn, bitmask         | bitmask
mov            sf 10 100101 hw imm16 rd           | Rd, moved           | movz_move
mov            sf 00 100101 hw imm16 rd           | Rd, inverted        | movn_move
mov            sf 01 100100 N immr imms 11111 rd  | Rd^, bitmask        | bitmask_move
asr/-/lsr      sf ** 100110 N immr imms rn rd   | Rd, Rn, right       | right
sxtb           sf 00 100110 N 000000 000111 rn rd | Rd, Wn              | bitfield
sxth           sf 00 100110 N 000000 001111 rn rd | Rd, Wn              | bitfield
sxtw           1  00 100110 1 000000 011111 rn rd | Xd, Wn
uxtb           0  10 100110 0 000000 000111 rn rd | Wd, Wn
uxth           0  10 100110 0 000000 001111 rn rd | Wd, Wn
lsl            sf 10 100110 N immr imms rn rd     | Rd, Rn, left        | left
sbfiz/bfi/ubfiz  sf ** 100110 N immr imms rn rd   | Rd, Rn, insert      | insert
sbfx/bfxil/ubfx  sf ** 100110 N immr imms rn rd   | Rd, Rn, extract     | extract
ror            sf 00 100111 N 0 rm imms rn rd     | Rd, Sn, imms        | rotate
nop/yield/wfe/wfi/sev/sevl/-/- 11010101000000110010 0000 *** 11111  |
ic             1101010100001 op1 CRn CRm op2 rt   | ic, {Xt}            | ic
dc             1101010100001 op1 CRn CRm op2 rt   | dc, {Xt}            | dc
at             1101010100001 op1 CRn CRm op2 rt   | at, {Xt}            | at
tlbi           1101010100001 op1 CRn CRm op2 rt   | tlbi, {Xt}          | tlbi
mov            sf 01 01010 00 0 rm 000000 11111 rd | Rd, Rm
mvn            sf 01 01010 shift 1 rm imm6 11111 rd | Rd, Rm, shift     | amount
tst            sf 11 01010 shift 0 rm imm6 rn 11111 | Rn, Rm, shift     | amount
cmn/cmp        sf * 1 01011 shift 0 rm imm6 rn 11111 | Rn, Rm, shift    | shifted
neg/negs       sf 1 * 01011 shift 0 rm imm6 11111 rd | Rd, Rm, shift    | shifted
cmn/cmp        sf * 1 01011 00 1 rm option imm3 rn 11111 | Rn^, Em, extend  | extended
ngc/ngcs       sf 1 * 11010000 rm 000000 11111 rd | Rd, Rm
cset           sf 0011010100 11111 cond 01 11111 rd | Rd, inverse       | inverse
csetm          sf 1011010100 11111 cond 00 11111 rd | Rd, inverse       | inverse
cinc           sf 0011010100 rm cond 01 rn rd     | Rd, Sn, inverse     | same
cinv           sf 1011010100 rm cond 00 rn rd     | Rd, Sn, inverse     | same
cneg           sf 1011010100 rm cond 01 rn rd     | Rd, Sn, inverse     | same_negated
lsl/lsr/asr/ror  sf 0011010110 rm 0010** rn rd    | Rd, Rn, Rm
mul/mneg       sf 0011011000 rm * 11111 rn rd     | Rd, Rn, Rm
smull/smnegl   1 0011011001 rm * 11111 rn rd      | Xd, Wn, Wm
umull/umnegl   1 0011011101 rm * 11111 rn rd      | Xd, Wn, Wm
"""


def _row(mnemonic: str, tokens: list[str], operands: str, rule: str, counter: int) -> Row:
    """Make one row; `counter` holds the bits of the asterisks."""
    name, _, width = mnemonic.partition(":")
    shift, mask, value, fields = 32, 0, 0, []
    stars = "".join(tokens).count("*")
    for token in tokens:
        if token in FIELD_BITS:
            shift -= FIELD_BITS[token]
            fields.append(Field(token, shift, (1 << FIELD_BITS[token]) - 1))
            continue
        for letter in token:
            shift -= 1
            if letter == "*":
                stars -= 1
            bit = counter >> stars & 1 if letter == "*" else int(letter)
            mask |= 1 << shift
            value |= bit << shift
    if shift:
        raise ValueError(f"{mnemonic}: the pattern has {32 - shift} bits")
    codes = tuple(code for code in operands.split(", ") if code)
    if width:
        codes = tuple(code.replace("Rt", "prefetch" if width == "P" else f"{width}t") for code in codes)
    return Row(name, mask, value, tuple(fields), codes, rule)


def _parse(text: str) -> tuple[Row, ...]:
    rows = []
    for line in text.strip().splitlines():
        if not line or line.startswith("#"):
            continue
        head, operands, rule, *_ = (part.strip() for part in f"{line}||".split("|"))
        names, *tokens = head.split()
        rows += [
            _row(name, tokens, operands, rule, counter) for counter, name in enumerate(names.split("/")) if name != "-"
        ]
    return tuple(rows)


ROWS = _parse(TEXT)
"""The instructions."""
ALIASES = _parse(ALIAS_TEXT)
"""Their other spellings."""


@cache
def _by_mnemonic(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.mnemonic, []).append(row)
    return found


def rows_of(mnemonic: str) -> list[Row]:
    """Return the rows and aliases of a mnemonic, as assembly writes it; none where there is no such instruction."""
    names = [mnemonic]
    if mnemonic[:3] in ("ldr", "str"):  # an offset that is not scaled is taken too, as by GNU as
        names.append(mnemonic[:2] + "ur" + mnemonic[3:])
    return [row for rows in (ALIASES, ROWS) for name in names for row in _by_mnemonic(rows).get(name, [])]


@cache
def aliases_of(row: Row) -> tuple[Row, ...]:
    """Return the aliases that may spell an instruction of a row."""
    return tuple(each for each in ALIASES if each.mask & row.mask == row.mask and each.value & row.mask == row.value)
