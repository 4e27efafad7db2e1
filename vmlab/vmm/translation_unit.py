r"""Translation units: from a guest kernel's code to code that may run in ring 3 (textbook 18.4.2).

A unit is a basic block of at most 12 instructions on one page. Each guest instruction becomes

    innocuous              itself, byte for byte
    CLI, STI, PUSHF, POPF  a few instructions on the virtual interrupt flag, in the hypervisor's data (GS)
    MOV from a register    of the local APIC, once it has trapped: MOV from a copy in the data, if the address is still that
    jump, call, return     pushes of the guest's own return address, and jumps within the translation cache
    anything else          UD2, a *call-out*: the trap enters the hypervisor, which executes it on the VCPU

A direct jump is at first UD2 and padding, five bytes, and later JMP to the unit behind it (*chained*). An indirect one
looks its goal up in a table by the low 14 bits of the guest's address, without a change of the flags: the table leads to a
*landing*, which compares the goal with its own, and jumps on to the unit.

Exactly one instruction of what an instruction of the guest became *counts* it. The others are the translator's own: no time
of the guest passes in them, and the processor's counter of retired instructions leaves them out. The processor is stopped
right behind one that counts, or by a trap; and at each place where that may be, what the guest's registers are is known
(`Place`). CLI for one is MOV to the virtual flag, and a return is

    mov [gs:ECX], ecx       before the return; may be repeated
    pop ecx                 counts
    mov [gs:GOAL], ecx      behind it: EIP is in ECX
    lea ecx, [ecx*4]                   EIP is in GOAL, and ECX is in the data
    movzx ecx, cx
    jmp [gs:ecx+TABLE]

Simplified: a call-out is a trap, where a VMM that shares the guest's ring would call itself.

Read more: Adams and Agesen, ASPLOS 2006, 3.1 and 3.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.decoder import SEGMENT_PREFIXES, DecodeError, TooLong, Truncated, decode
from vmlab.isa.x86.instruction import Privilege
from vmlab.isa.x86.operands import Memory, Relative
from vmlab.isa.x86.registers import CS, ECX, ESP, GS
from vmlab.isa.x86.table import CONDITIONS
from vmlab.vmm.translation_code import (
    AT_GOAL,
    CALL_OUT,
    CLI,
    IN_ECX,
    JUMP_BYTES,
    LOOK_UP,
    POPF,
    PUSHF,
    READ,
    READ_OTHER,
    SAVE,
    STI,
    Copy,
    Place,
    Unit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from vmlab.isa.x86.instruction import Instruction

__all__ = ["MOST_INSTRUCTIONS", "reads_register", "translate"]

MOST_INSTRUCTIONS = 12
MOV, LEA, REGISTER = 0x8B, 0x8D, 0xC0  # MOV into a general register; a ModRM byte that names two
MASK = 0xFFFFFFFF

PREFIXES = frozenset({*SEGMENT_PREFIXES, 0x66, 0x67, 0xF0, 0xF2, 0xF3})
COUNTED = frozenset({"loop", "loope", "loopne", "jcxz", "jecxz"})
CONDITIONAL = frozenset(f"j{condition}" for condition in CONDITIONS)
BRANCHES = frozenset({"jmp", "call", "ret"}) | CONDITIONAL | COUNTED
TRAPPING = frozenset({"ud0", "ud1", "ud2", "fwait"})
"""Innocuous, but what they raise depends on what the hypervisor keeps to itself."""
ENDING = frozenset({
    "jmpf", "callf", "retf", "iret", "int", "int1", "int3", "into", "hlt", "syscall", "sysret", "sysenter", "sysexit",
    "ud0", "ud1", "ud2",
})  # fmt: skip


def translate(
    ip: int,
    source: bytes,
    data: int,
    trapping: Collection[int] = (),
    copies: Mapping[int, Copy] | None = None,
    *,
    alone: bool = True,
) -> Unit | None:
    r"""Translate a unit.

    Parameters
    ----------
    ip : int
        Address of the guest's first instruction.
    source : bytes
        Code from there on, to the end of the page at most.
    data : int
        Linear address of the hypervisor's data.
    trapping : collection of int
        Addresses of instructions that become call-outs whatever they are.
    copies : mapping of int to Copy
        Addresses of instructions that read a device's register, of which the data has a copy.
    alone : bool
        False where the guest has other processors, to which PAUSE leaves the time: it is a call-out then.

    Returns
    -------
    Unit or None
        None where the first instruction does not end within `source`.

    Examples
    --------
    >>> unit = translate(0x1000, b"\x43\xfa\xc3", 0xFFC80000)  # inc ebx, cli, ret
    >>> unit.code[:1].hex(), unit.places[1].ip == 0x1001, len(unit.source)
    ('43', True, 3)
    """
    unit = Unit(ip, data)
    at = 0
    for _ in range(MOST_INSTRUCTIONS):
        here = ip + at
        try:
            instruction = decode(source[at : at + 15])
        except (Truncated, TooLong):
            break
        except DecodeError:
            unit.starts[here] = len(unit.code)
            unit.emit(Place(here), CALL_OUT)
            unit.source = source[: at + 15]  # how long it is nobody knows: a change of any byte counts
            return unit
        unit.starts[here] = len(unit.code)
        at += instruction.length
        copy = copies.get(here) if copies else None
        if copy is not None and reads_register(instruction):
            _read_copy(unit, here, instruction, copy)
            unit.source = source[:at]
            continue
        yields = instruction.mnemonic == "pause" and not alone
        ends = _translate(unit, here, instruction, called_out=yields or here in trapping)
        unit.source = source[:at]
        if ends:
            return unit
    if not at:
        return None
    unit.jump(Place(ip + at & MASK), ip + at, counts=False)
    return unit


def _translate(unit: Unit, ip: int, instruction: Instruction, *, called_out: bool) -> bool:
    """Translate one instruction; say whether the unit ends with it."""
    name, behind = instruction.mnemonic, ip + instruction.length & MASK
    plain = instruction.size == 32 and not instruction.lock and not instruction.repeat
    if called_out or uses_own(instruction):
        pass
    elif name in INLINE and (plain or name in ("cli", "sti")):
        INLINE[name](unit, ip, behind)
        return False
    elif instruction.privilege is not Privilege.INNOCUOUS or name in TRAPPING:
        pass
    elif name not in BRANCHES:
        unit.emit(Place(ip), instruction.raw, counts=True)
        return False
    elif instruction.operands and isinstance(instruction.operands[0], Relative):
        if plain or (name in CONDITIONAL | COUNTED and 0x66 not in _prefixes(instruction)):
            _direct(unit, ip, behind, instruction)
            return True
    elif plain and (name in ("jmp", "call") or (name == "ret" and not instruction.operands)):
        _indirect(unit, ip, behind, instruction)
        return True
    unit.emit(Place(ip), CALL_OUT)
    return name in ENDING or name in BRANCHES


def uses_own(instruction: Instruction) -> bool:
    """Say whether an instruction reaches memory through a segment register that is not the guest's in translated code."""
    return instruction.segment in (CS, GS) or any(
        isinstance(operand, Memory) and operand.segment in (CS, GS) for operand in instruction.operands
    )


def _prefixes(instruction: Instruction) -> bytes:
    raw = instruction.raw
    return raw[: next(n for n, byte in enumerate(raw) if byte not in PREFIXES)]


def _cli(unit: Unit, ip: int, behind: int) -> None:
    unit.sequence(CLI, (Place(ip), True))


def _sti(unit: Unit, ip: int, behind: int) -> None:
    saved = Place(ip, saved=True)
    after = Place(behind, saved=True, shadow=True)
    unit.sequence(
        STI, (Place(ip), False), *[(saved, False)] * 6, (saved, True),
        (after, False), (after._replace(saved=False), False), (saved, True),
    )  # fmt: skip


def _pushf(unit: Unit, ip: int, behind: int) -> None:
    saved, pushed = Place(ip, saved=True), Place(ip, saved=True, pushed=4)
    unit.sequence(
        PUSHF, (Place(ip), False), (saved, False), *[(pushed, False)] * 4, *[(saved, False)] * 2, (pushed, True)
    )


def _popf(unit: Unit, ip: int, behind: int) -> None:
    saved = Place(ip, saved=True)
    unit.sequence(POPF, (Place(ip), False), *[(saved, False)] * 11, (Place(ip), True))


INLINE: dict[str, Callable[[Unit, int, int], None]] = {"cli": _cli, "sti": _sti, "pushf": _pushf, "popf": _popf}
"""Sensitive instructions that need no call-out."""


def _direct(unit: Unit, ip: int, behind: int, instruction: Instruction) -> None:
    """Translate a jump or call whose goal is in its code."""
    operand = instruction.operands[0]
    assert isinstance(operand, Relative)
    goal = behind + operand.displacement & MASK
    if instruction.mnemonic == "jmp":
        unit.jump(Place(ip), goal, counts=True)
        return
    if instruction.mnemonic == "call":
        unit.emit(Place(ip), _push(behind), counts=True)
        unit.jump(Place(goal), goal, counts=False)
        return
    prefixes = _prefixes(instruction)
    opcode = instruction.raw[len(prefixes)]
    if opcode == 0x0F:
        opcode = instruction.raw[len(prefixes) + 1] - 0x10
    unit.emit(Place(ip), prefixes + bytes((opcode, JUMP_BYTES)), counts=True)
    unit.jump(Place(behind), behind, counts=False)
    unit.jump(Place(goal), goal, counts=False)


def reads_register(instruction: Instruction) -> bool:
    """Say whether an instruction reads 32 bits of memory into a general register other than ESP, and has no prefixes."""
    return (
        instruction.mnemonic == "mov"
        and instruction.raw[0] == MOV
        and not uses_own(instruction)
        and (instruction.raw[1] >> 3 & 7 != ESP and instruction.raw[1] < REGISTER)
    )


def _read_copy(unit: Unit, ip: int, instruction: Instruction, copy: Copy) -> None:
    """Translate a read of a device's register: from its copy, or a call-out where the address is another."""
    modrm = instruction.raw[1:]
    register = modrm[0] >> 3 & 7
    saved = Place(ip, saved=True)
    unit.sequence(SAVE, (Place(ip), False))
    unit.emit(Place(ip), bytes((LEA, modrm[0] & 0xC7 | ECX << 3)) + modrm[1:])
    if register == ECX:
        unit.sequence(READ, *[(saved, False)] * 3, ip=copy.linear)
    else:
        unit.sequence(READ_OTHER, *[(saved, False)] * 4, ip=copy.linear)
    unit.emit(saved if register == ECX else Place(ip), _load(register, unit.data + copy.place), counts=True)


def _load(register: int, address: int) -> bytes:
    """Return MOV of 32 bits from the hypervisor's data."""
    return bytes((0x65, MOV, register << 3 | 0x05)) + address.to_bytes(4, "little")


def _push(value: int) -> bytes:
    return b"\x68" + value.to_bytes(4, "little")


def _indirect(unit: Unit, ip: int, behind: int, instruction: Instruction) -> None:
    """Translate a return, or a jump or call through a register or memory: the goal comes into ECX."""
    unit.sequence(SAVE, (Place(ip), False))
    if instruction.mnemonic == "ret":
        unit.emit(Place(ip), b"\x59", counts=True)
    else:
        prefixes = _prefixes(instruction)
        modrm = instruction.raw[len(prefixes) + 1 :]
        calls = instruction.mnemonic == "call"
        unit.emit(Place(ip), prefixes + bytes((0x8B, modrm[0] & 0xC7 | 0x08)) + modrm[1:], counts=not calls)
        if calls:
            unit.emit(Place(ip, saved=True), _push(behind), counts=True)
    unit.sequence(LOOK_UP, (Place(IN_ECX, saved=True), False), *[(Place(AT_GOAL, saved=True), False)] * 3)
