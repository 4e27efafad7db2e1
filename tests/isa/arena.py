"""Where an instruction is tried: the memory map, the descriptor table and the modes that both processors share.

0x000000  low memory, 64 KiB: GDT, TSS, then a window into which all memory operands point
0x100000  code, one slot a trial, filled with `jmp $`
0x2E0000  landing ground of jumps, filled with `jmp $`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmlab.isa.x86.descriptors import encode_descriptor, encode_gate

if TYPE_CHECKING:
    import random

LOW_SIZE = 0x1_0000
GDT, TSS, WINDOW, WINDOW_END = 0x800, 0x1000, 0x2000, 0xE000
TASK, TASK_LIMIT = 0x68, 0x67
CODE, LANDING, MEMORY_SIZE = 0x10_0000, 0x2E_0000, 0x30_0000
SLOT = 32
JUMP_TO_SELF = b"\xeb\xfe"

FLAT = 0xFFFF_FFFF
DESCRIPTORS = (
    0,
    encode_descriptor(0, FLAT, 0x9B),  # 08 code, ring 0
    encode_descriptor(0, FLAT, 0x93),  # 10 data, ring 0
    encode_descriptor(0, FLAT, 0xFB),  # 18 code, ring 3
    encode_descriptor(0, FLAT, 0xF3),  # 20 data, ring 3
    encode_descriptor(0, FLAT, 0x9B, big=False),  # 28 code, ring 0, 16 bits
    encode_descriptor(0, FLAT, 0x93, big=False),  # 30 data, ring 0, a stack of 16 bits
    encode_descriptor(0, FLAT, 0x9F),  # 38 conforming code, ring 0
    encode_descriptor(0, FLAT, 0x99),  # 40 execute-only code, ring 0
    encode_descriptor(0x100, 0xFFFF, 0xF1),  # 48 read-only data, ring 3
    encode_descriptor(0, 0xFFFF, 0x13),  # 50 data that is not present
    encode_descriptor(0x200, 0x345FFF, 0xF2),  # 58 data, not accessed yet
    encode_descriptor(0, 7, 0x82, big=False),  # 60 LDT
    encode_descriptor(TSS, TASK_LIMIT, 0x8B, big=False),  # 68 TSS, busy: the task register's
    encode_gate(0x08, LANDING, 12, dpl=3),  # 70 call gate
    encode_descriptor(0, 0xFFF, 0x97),  # 78 expand-down data
    encode_descriptor(0, FLAT, 0xFF),  # 80 conforming code, ring 3
    encode_descriptor(0, FLAT, 0xB3),  # 88 data, ring 1
    encode_descriptor(TSS, 0x2B, 0x81, big=False),  # 90 TSS of 16 bits
    encode_gate(0x08, LANDING, 14, dpl=3),  # 98 interrupt gate
    encode_descriptor(0, FLAT, 0x9B, big=False, long=True),  # A0 code, ring 0, 64 bits
    encode_descriptor(0, FLAT, 0xFB, big=False, long=True),  # A8 code, ring 3, 64 bits
    encode_descriptor(0, FLAT, 0xFF, big=False, long=True),  # B0 conforming code, ring 3, 64 bits
)
CODE_SELECTORS = (0x08, 0x1B, 0x28, 0x38, 0x40, 0x83, 0x73)
CODE_SELECTORS_64 = (0xA0, 0xA0, 0xAB, 0xAB, 0xB3, 0x08, 0x1B)
GDT_BYTES = b"".join(raw.to_bytes(8, "little") for raw in DESCRIPTORS)


@dataclass(frozen=True)
class Mode:
    """A privilege level with its code and stack segments; ES, DS, FS and GS hold `data`. `long`: in long mode."""

    name: str
    code: int = 0x08
    stack: int = 0x10
    data: int = 0x10
    bits: int = 32
    long: bool = False

    @property
    def selectors(self) -> tuple[int, ...]:
        return (self.data, self.code, self.stack, self.data, self.data, self.data)


MODES = (
    Mode("ring 0"),
    Mode("ring 3", 0x1B, 0x23, 0x23),
    Mode("16-bit code", 0x28, 0x10, 0x10, 16),
    Mode("16-bit stack", 0x08, 0x30, 0x10),
)
WEIGHTS = (6, 2, 1, 1)
MODES_64 = (
    Mode("64-bit code", 0xA0, 0x10, 0x10, 64, long=True),
    Mode("64-bit code, ring 3", 0xAB, 0x23, 0x23, 64, long=True),
    Mode("compatibility code", 0x08, 0x10, 0x10, 32, long=True),
)
WEIGHTS_64 = (6, 2, 1)
FS_BASE, GS_BASE = 0x120, 0x8
"""In long mode."""


@dataclass(frozen=True)
class Trial:
    """One instruction and the state in which it is tried.

    Attributes
    ----------
    registers : tuple of int
        In machine order: sixteen in 64-bit code, else eight.
    pokes : tuple of (int, bytes)
        What is written to memory first.
    """

    mode: Mode
    address: int
    code: bytes
    registers: tuple[int, ...]
    flags: int
    pokes: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True)
class Result:
    """What became of a trial. `vector` is that of an exception, or None."""

    registers: tuple[int, ...]
    ip: int
    flags: int
    selectors: tuple[int, ...]
    vector: int | None


def initial_low(rng: random.Random) -> bytes:
    """Return random low memory with the GDT in it."""
    low = bytearray(rng.randbytes(LOW_SIZE))
    low[GDT : GDT + len(GDT_BYTES)] = GDT_BYTES
    low[TSS : TSS + TASK_LIMIT + 1] = bytes(TASK_LIMIT + 1)
    low[TSS + 4 : TSS + 12] = bytes.fromhex("00300000 10000000")  # ESP0 and SS0
    low[TSS + 0x66] = TASK_LIMIT + 1  # no I/O bitmap
    return bytes(low)
