"""The block translator against Unicorn: with a Python function called for each instruction, and left alone.

The hot loop is that of `bench.interpreter`. The OS mix is minios, made to run a hundred times as long: processes that
compute, sleep, call the system and print, with a timer interrupt every 3000 instructions, each trap with a switch of
stacks and most with one of address spaces. The peer executes the very same stream: see `bench.os_mix`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from unicorn import UC_ARCH_X86, UC_HOOK_CODE, UC_MODE_32, Uc
from unicorn.x86_const import UC_X86_REG_EDI

import vmlab
from bench import os_mix
from bench.interpreter import PROGRAM
from bench.sampling import noise, ratio, take_turns
from vmlab.machine.loader import place
from vmlab.machine.machine import Machine
from vmlab.machine.translator import Engine

__all__ = ["hooked", "measure"]

ROUNDS = 7
HOT_STEPS, HOOKED_STEPS, SECONDS = 4_000_000, 300_000, 0.5
LEADER_STEPS = 20_000


def _hot() -> tuple[float, float]:
    """Return instructions a second, and instructions for each count in EDI."""
    machine = Machine(16 << 20)
    machine.engine = Engine()
    machine.cpu.ip = place(vmlab.assemble(PROGRAM), machine.memory).eip
    machine.run(LEADER_STEPS)
    start = time.process_time()
    machine.run(HOT_STEPS)
    return HOT_STEPS / (time.process_time() - start), machine.cpu.retired / machine.cpu.registers[7]


def _unicorn() -> tuple[Any, int]:
    image = vmlab.assemble(PROGRAM)
    unicorn = Uc(UC_ARCH_X86, UC_MODE_32)
    unicorn.mem_map(0, 4 << 20)
    for segment in image.segments:
        unicorn.mem_write(segment.address, segment.data)
    return unicorn, image.entry


def hooked() -> float:
    """Return Unicorn's instructions a second on the hot loop, with a Python function called for each."""
    unicorn, entry = _unicorn()
    unicorn.hook_add(UC_HOOK_CODE, lambda _uc, _address, _size, _data: None)
    start = time.process_time()
    unicorn.emu_start(entry, 0xFFFFFFFF, count=HOOKED_STEPS)
    return HOOKED_STEPS / (time.process_time() - start)


def _alone(per_count: float) -> float:
    """Return Unicorn's instructions a second without a hook; EDI tells how many there were."""
    unicorn, entry = _unicorn()
    start = time.process_time()
    unicorn.emu_start(entry, 0xFFFFFFFF, timeout=int(SECONDS * 1e6))
    return unicorn.reg_read(UC_X86_REG_EDI) * per_count / (time.process_time() - start)


def _mix() -> float:
    """Return instructions a second, from the boot loader to the end."""
    system = os_mix.ours()
    start = time.process_time()
    system.run()
    assert system.guests[0].outcome == "exit"
    return system.machine.cpu.retired / (time.process_time() - start)


def _hooked_mix() -> float:
    """Return Unicorn's instructions a second on the same stream."""
    peer = os_mix.Peer(os_mix.record())
    seconds = peer.run()
    peer.check()
    return peer.retired / seconds


def _line(what: str, ours: list[float], whom: str, peer: list[float], goal: float) -> str:
    return (
        f"{what} {statistics.median(ours):,.0f} instructions/s ({noise(ours)}) against {whom} "
        f"{statistics.median(peer):,.0f} ({noise(peer)}): {ratio(ours, peer):.2f} x (goal: at least {goal} x)"
    )


def measure() -> Iterator[str]:
    """Yield the figures."""
    per_count = _hot()[1]
    yield _line("hot loop", *_pair(lambda: _hot()[0], hooked, "Unicorn with a code hook"), 8)
    yield _line("hot loop", *_pair(lambda: _hot()[0], lambda: _alone(per_count), "Unicorn without"), 0.1)
    _mix()  # what is compiled stays
    yield _line("OS mix", *_pair(_mix, _hooked_mix, "Unicorn with a code hook"), 2.5)


def _pair(ours: Callable[[], float], peer: Callable[[], float], whom: str) -> tuple[list[float], str, list[float]]:
    first, second = take_turns(ours, peer, ROUNDS)
    return first, whom, second
