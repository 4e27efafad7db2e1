"""The host's kernel and its processes: system calls checked, faults end the process alone, nothing of others is reachable."""

from __future__ import annotations

import random

import pytest

from vmlab.errors import OptionError
from vmlab.kinds.host_os import LEAST
from vmlab.kinds.presets import preset
from vmlab.machine.program import assemble

PRELUDE = """
bits 32
org 0x400000
%macro system 1-3 0, 0
        mov ebx, %2
        mov ecx, %3
        mov eax, %1
        int 0x80
%endmacro
"""


def start(*sources, name="Red Hat KVM"):
    running = preset(name, guests=1, processes=0)
    for source in sources:
        running.system.start_process("test", assemble(PRELUDE + source).segments[0].data)
    return running.run().system.os


@pytest.mark.parametrize("name", ["Red Hat KVM", "VMware Workstation"])
@pytest.mark.parametrize(
    ("source", "outcome", "console"),
    [
        ("system 2, 'A'\nsystem 0", "exit", "A"),
        ("system 3\nadd eax, '0'\nsystem 2, eax\nsystem 0", "exit", "1"),
        ("mov eax, [0x100000]", "killed", ""),  # the kernel's memory
        ("mov eax, [0x700000]", "killed", ""),  # nobody's
        ("hlt", "killed", ""),
        ("xor ecx, ecx\ndiv ecx", "killed", ""),
        ("int 0x42", "killed", ""),
        ("mov esp, 0x100000\npush eax", "killed", ""),
        ("system 99\ncmp eax, -1\nje .ok\nhlt\n.ok: system 0", "exit", ""),
        ("system 1, 0x100000\ncmp eax, -1\nje .ok\nhlt\n.ok: system 0", "exit", ""),
        ("system 6, 0, 0x100000\ncmp eax, -1\nje .ok\nhlt\n.ok: system 0", "exit", ""),
        ("system 6, 8, 0x401000\ncmp eax, -1\nje .ok\nhlt\n.ok: system 0", "exit", ""),  # beyond the disk
        ("system 7, 0x100000\ncmp eax, -1\nje .ok\nhlt\n.ok: system 0", "exit", ""),
        ("system 7, 2\nmov dword [eax + 0x1ffc], 7\nsystem 0", "exit", ""),
        ("system 7, 2\nmov dword [eax + 0x2000], 7\nsystem 0", "killed", ""),
        ("std\nsystem 5, 3\nsystem 2, 'B'\nsystem 0", "exit", "B"),
    ],
)
def test_what_a_process_may_do(source, outcome, console, name):
    process = start(source, name=name).processes[0]
    assert (process.outcome, process.console) == (outcome, console)


def test_processes_share_the_processor_but_no_memory():
    count = "mov dword [number], {n}\nmov ecx, 30000\n.l: loop .l\nmov eax, [number]\nadd eax, '0'\nsystem 2, eax\nsystem 0\nnumber: dd 0"
    host = start(count.format(n=3), count.format(n=7))
    assert [each.console for each in host.processes] == ["3", "7"]
    assert host.counters["interrupts"] > 1
    assert host.counters["context switches"] > 2


def test_the_frames_of_a_process_are_given_back():
    host = start("system 7, 3\nmov [eax], eax\nsystem 0", "hlt")
    assert [each.pages for each in host.processes] == [{}, {}]
    whole = preset("Red Hat KVM", guests=1, processes=0).system.os.pool
    assert sorted(host.pool) == sorted(whole)


def test_whoever_takes_all_memory_is_ended_and_the_guest_goes_on():
    greedy = "system 7, 900\nmov ecx, 900\n.l: mov [eax], ecx\nadd eax, 0x1000\nloop .l\nsystem 0"
    running = preset("Red Hat KVM", guests=1, processes=0)
    running.system.start_process("greedy", assemble(PRELUDE + greedy).segments[0].data)
    running.run()
    assert running.system.os.processes[0].outcome == "killed"
    assert running.results


def test_what_is_no_program_and_one_process_too_many():
    system = preset("Red Hat KVM", guests=1, processes=0).system
    for program in (b"", "nop", None, bytes(1 << 17)):
        with pytest.raises(OptionError, match="bytes of machine code"):
            system.start_process("none", program)
    while len(system.os.pool) >= LEAST:
        system.start_process("one", b"\xf4")
    with pytest.raises(OptionError, match="no memory for a process more"):
        system.start_process("one", b"\xf4")


def test_an_endless_process_ends_at_the_limit_of_the_run():
    running = preset("Red Hat KVM", guests=1, processes=0)
    running.system.limit = 300_000
    running.system.start_process("loop", assemble(PRELUDE + "jmp $").segments[0].data)
    running.run()
    assert running.system.os.processes[0].outcome == "limit"
    assert running.results


@pytest.mark.parametrize("seed", range(12))
def test_random_calls_and_code_harm_nobody(seed):
    """Whatever a process does, the guest beside it ends as if it were alone, and no Python exception comes of it."""
    rng = random.Random(seed)
    running = preset("VMware Workstation" if seed % 2 else "Red Hat KVM", guests=1, processes=0)
    lines = [
        f"system {rng.choice([1, 2, 5, 6, 7, 8, 255])}, {rng.choice([0, 1, 7, 0x400000, 0x401FFF, 0x7FFFFF, 0xFFFFFFFF])}, {rng.getrandbits(32)}"
        for _ in range(12)
    ]
    running.system.start_process("calls", assemble(PRELUDE + "\n".join(lines) + "\nsystem 0").segments[0].data)
    running.system.start_process("bytes", rng.randbytes(600))
    running.system.limit = 200_000
    running.run()
    assert list(running.results) == ["guest0"]
