"""The interpreter, trace off, against Unicorn single-stepped from Python on the same program."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from unicorn import UC_ARCH_X86, UC_MODE_32, Uc
from unicorn.x86_const import UC_X86_REG_EIP

import vmlab
from bench.sampling import noise, ratio, take_turns
from vmlab.machine.loader import place
from vmlab.machine.machine import Machine

__all__ = ["measure"]

ROUNDS = 7
OUR_STEPS, PEER_STEPS = 200_000, 60_000
GOAL = 2.0

# Arithmetic, memory, branches, a call: what compiled code is made of.
PROGRAM = """
start:  mov esp, 0x90000
        mov ebx, 0x200000
again:  mov ecx, 1000
next:   lea esi, [ebx + ecx * 4]
        mov eax, [esi]
        add eax, ecx
        xor eax, 0x5a5a5a5a
        mov [esi], eax
        call mix
        test eax, 1
        jz even
        inc edi
even:   dec ecx
        jnz next
        jmp again
mix:    push edx
        mov edx, eax
        shr edx, 3
        add eax, edx
        pop edx
        ret
"""


def _ours() -> float:
    machine = Machine(16 << 20)
    machine.cpu.ip = place(vmlab.assemble(PROGRAM), machine.memory).eip
    machine.run(2_000)
    start = time.perf_counter()
    machine.run(OUR_STEPS)
    return OUR_STEPS / (time.perf_counter() - start)


def _peer() -> float:
    image = vmlab.assemble(PROGRAM)
    unicorn = Uc(UC_ARCH_X86, UC_MODE_32)
    unicorn.mem_map(0, 4 << 20)
    for segment in image.segments:
        unicorn.mem_write(segment.address, segment.data)
    address = image.entry
    start = time.perf_counter()
    for _ in range(PEER_STEPS):
        unicorn.emu_start(address, 0xFFFFFFFF, count=1)
        address = unicorn.reg_read(UC_X86_REG_EIP)
    return PEER_STEPS / (time.perf_counter() - start)


def measure() -> Iterator[str]:
    """Yield the figure."""
    ours, peer = take_turns(_ours, _peer, ROUNDS)
    yield (
        f"{statistics.median(ours):,.0f} instructions/s ({noise(ours)}) against Unicorn single-stepped "
        f"{statistics.median(peer):,.0f} ({noise(peer)}): {ratio(ours, peer):.2f} x (goal: at least {GOAL} x)"
    )
