"""What translated code is made of: units, places, and the sequences that stand for a guest's instructions.

`vmlab.vmm.translation_unit` says what they are for. A sequence is text, with names for places in the hypervisor's data;
each of its instructions is given a `Place`, and counts as the guest's or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from vmlab.isa.x86.assembler import assemble
from vmlab.machine.memory import PAGE_SIZE
from vmlab.vmm.host_memory import room_for

__all__ = [
    "AT_GOAL",
    "CALL_OUT",
    "CLI",
    "COPIES",
    "GOAL",
    "IN_ECX",
    "JUMP_BYTES",
    "LOOK_UP",
    "OTHER_PAGES",
    "POPF",
    "PUSHF",
    "READ",
    "READ_OTHER",
    "SAVE",
    "SAVED_ECX",
    "STI",
    "TABLE",
    "TABLE_BYTES",
    "UNCHAINED",
    "VIRTUAL_IF",
    "WAITING",
    "Copy",
    "Place",
    "Unit",
    "cache_pages",
    "jump_to",
    "landing",
]  # fmt: skip

MASK = 0xFFFFFFFF
CALL_OUT = b"\x0f\x0b"
JUMP_BYTES = 5
UNCHAINED = CALL_OUT + bytes(JUMP_BYTES - 2)

# The data page, and the table behind it: virtual IF (0 or 200h), whether STI must call out, ECX, goal of an indirect jump,
# copies of devices' registers.
VIRTUAL_IF, WAITING, SAVED_ECX, GOAL, COPIES = 0, 4, 8, 12, 16
TABLE = 0x1000
TABLE_BYTES = 0x10000
CODE_PAGES, LEAST_CODE = 64, 8
"""Pages of generated code that a cache holds, if the window has room for them, and at least."""
OTHER_PAGES = (TABLE + TABLE_BYTES) // PAGE_SIZE
AT_GOAL, IN_ECX = -1, -2
"""What stands for an EIP that is in the data, or in ECX."""

CLI = "mov dword [gs:{VIRTUAL_IF}], 0"
STI = """mov [gs:{SAVED_ECX}], ecx
mov ecx, [gs:{VIRTUAL_IF}]
lea ecx, [ecx-0x200]
jecxz $+33
mov ecx, [gs:{WAITING}]
jecxz $+4
ud2
mov dword [gs:{VIRTUAL_IF}], 0x200
mov ecx, [gs:{SAVED_ECX}]
jmp short $+9
mov ecx, [gs:{SAVED_ECX}]"""
"""Two ways, of which each counts once: IF was 0, and interrupts wait for one more instruction; or it was 1 already."""
PUSHF = """mov [gs:{SAVED_ECX}], ecx
pushf
mov ecx, [gs:{VIRTUAL_IF}]
lea ecx, [ecx-0x200]
jecxz $+10
pop ecx
lea ecx, [ecx-0x200]
push ecx
mov ecx, [gs:{SAVED_ECX}]"""
READ = """lea ecx, [ecx+{offset}]
jecxz $+4
ud2"""
READ_OTHER = (
    READ
    + """
mov ecx, [gs:{SAVED_ECX}]"""
)
POPF = """mov [gs:{SAVED_ECX}], ecx
mov ecx, [esp]
test ecx, 0xFFFFF128
jz $+4
ud2
and ecx, 0x200
jz $+14
cmp dword [gs:{WAITING}], 0
jz $+4
ud2
mov [gs:{VIRTUAL_IF}], ecx
mov ecx, [gs:{SAVED_ECX}]
popfd"""
"""For what sets no other flags than those that count or compare, DF and IF; until POPF they are free to use."""
SAVE = "mov [gs:{SAVED_ECX}], ecx"
LOOK_UP = """mov [gs:{GOAL}], ecx
lea ecx, [ecx*4]
movzx ecx, cx
jmp [gs:ecx+{TABLE}]"""
GOAL_OF = "mov ecx, [gs:{GOAL}]"
LANDING = """jecxz $+4
ud2
mov ecx, [gs:{SAVED_ECX}]"""
LEA_ECX = b"\x8d\x89"
"""LEA ECX, [ECX + a displacement of 32 bits]."""


class Place(NamedTuple):
    """What an address in the translation cache is to the guest.

    Attributes
    ----------
    ip : int
        Address of the guest's next instruction, or `AT_GOAL`, `IN_ECX`.
    saved : bool
        True where its ECX is in the hypervisor's data.
    pushed : int
        Bytes on its stack that it has not pushed.
    shadow : bool
        True right behind STI: interrupts wait for one more instruction.
    """

    ip: int
    saved: bool = False
    pushed: int = 0
    shadow: bool = False


class Copy(NamedTuple):
    """A copy of a device's register: the linear address of the register, and where in the data it is."""

    linear: int
    place: int


@dataclass(slots=True)
class Unit:
    """A translation; addresses within it are offsets.

    Attributes
    ----------
    ip : int
        Address of the guest's first instruction.
    data : int
        Linear address of the hypervisor's data.
    source : bytes
        The guest's code.
    code : bytearray
        What it became.
    places : dict of int to Place
        What each generated instruction belongs to.
    starts : dict of int to int
        Offset at which each of the guest's instructions begins, by its address.
    glue : list of int
        Generated instructions that count nothing.
    jumps : dict of int to int
        Direct jumps, and the guest's address to which each goes.
    """

    ip: int
    data: int
    source: bytes = b""
    code: bytearray = field(default_factory=bytearray)
    places: dict[int, Place] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    glue: list[int] = field(default_factory=list)
    jumps: dict[int, int] = field(default_factory=dict)

    def emit(self, place: Place, code: bytes, *, counts: bool = False) -> None:
        """Append one generated instruction."""
        offset = len(self.code)
        self.places[offset] = place
        if not counts:
            self.glue.append(offset)
        self.code += code

    def jump(self, place: Place, goal: int, *, counts: bool) -> None:
        """Append a direct jump."""
        self.jumps[len(self.code)] = goal & MASK
        self.emit(place, UNCHAINED, counts=counts)

    def sequence(self, text: str, *places: tuple[Place, bool], ip: int = 0) -> None:
        """Append instructions, of which each is at one of the places, and counts or not."""
        for code, (place, counts) in zip(_pieces(text, self.data, ip), places, strict=True):
            self.emit(place, code, counts=counts)


@cache
def _pieces(text: str, data: int, ip: int) -> tuple[bytes, ...]:
    """Assemble a sequence for a data page; return its instructions."""
    names = {"VIRTUAL_IF": VIRTUAL_IF, "WAITING": WAITING, "SAVED_ECX": SAVED_ECX, "GOAL": GOAL, "TABLE": TABLE}
    program = assemble(text.format(offset=-ip & MASK, **{name: data + offset for name, offset in names.items()}))
    return tuple(program.code[offset : offset + size] for offset, size, _ in program.lines)


def cache_pages(vcpus: int) -> int:
    """Return how many pages each cache has where there are as many: they share the window.

    >>> [cache_pages(vcpus) for vcpus in (1, 8, 16)]
    [81, 81, 30]
    """
    return OTHER_PAGES + min(CODE_PAGES, max(LEAST_CODE, room_for(vcpus) - OTHER_PAGES))


def jump_to(address: int, goal: int) -> bytes:
    """Return JMP from an address to another."""
    return b"\xe9" + (goal - address - JUMP_BYTES & MASK).to_bytes(4, "little")


def landing(ip: int, data: int) -> Unit:
    """Return where an indirect jump to an address of the guest arrives; a direct jump ends it."""
    unit = Unit(ip, data)
    unknown = Place(AT_GOAL, saved=True)
    unit.sequence(GOAL_OF, (unknown, False))
    unit.emit(unknown, LEA_ECX + (-ip & MASK).to_bytes(4, "little"))
    unit.sequence(LANDING, *[(unknown, False)] * 2, (Place(ip, saved=True), False))
    unit.jump(Place(ip), ip, counts=False)
    return unit
