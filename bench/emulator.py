"""The emulated AArch64 processor against Unicorn single-stepped from Python on the same loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from unicorn import UC_ARCH_ARM64, UC_MODE_ARM, Uc
from unicorn.arm64_const import UC_ARM64_REG_PC

from bench.sampling import noise, ratio, take_turns
from vmlab.guests.arm64 import machine
from vmlab.isa.arm64 import assemble
from vmlab.machine.arm64.board import LOAD, RAM

__all__ = ["measure"]

ROUNDS = 7
OUR_STEPS, PEER_STEPS = 300_000, 60_000
GOAL = 2.0

# Arithmetic, memory, branches, a call: what compiled code is made of.
PROGRAM = """
start:  ldr x0, =0x40080000
        mov sp, x0
        ldr x1, =0x40001000
again:  mov x2, #1000
next:   and x3, x2, #0x1ff
        ldr x4, [x1, x3, lsl #3]
        add x4, x4, x2
        eor x4, x4, #0x5555555555555555
        str x4, [x1, x3, lsl #3]
        bl mix
        tbz w4, #0, even
        add x5, x5, #1
even:   subs x2, x2, #1
        b.ne next
        b again
mix:    str x6, [sp, #-16]!
        lsr x6, x4, #3
        add x4, x4, x6
        ldr x6, [sp], #16
        ret
"""


def _ours() -> float:
    ours = machine(PROGRAM)
    ours.advance(2_000)
    start = time.perf_counter()
    ours.advance(OUR_STEPS)
    return OUR_STEPS / (time.perf_counter() - start)


def _peer() -> float:
    unicorn = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    unicorn.mem_map(RAM, 1 << 20)
    unicorn.mem_write(LOAD, assemble(PROGRAM, LOAD).code)
    address = LOAD
    start = time.perf_counter()
    for _ in range(PEER_STEPS):
        unicorn.emu_start(address, 0xFFFFFFFF, count=1)
        address = unicorn.reg_read(UC_ARM64_REG_PC)
    return PEER_STEPS / (time.perf_counter() - start)


def measure() -> Iterator[str]:
    """Yield the figure."""
    ours, peer = take_turns(_ours, _peer, ROUNDS)
    yield (
        f"{statistics.median(ours):,.0f} AArch64 instructions/s ({noise(ours)}) against Unicorn single-stepped "
        f"{statistics.median(peer):,.0f} ({noise(peer)}): {ratio(ours, peer):.2f} x (goal: at least {GOAL} x)"
    )
