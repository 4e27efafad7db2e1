"""Random programs on several processors that write to each other's data and code, and interrupt each other.

The interpreter is the definition; the translator, runs that are cut in pieces, and states that are saved and loaded on the
way must give the same, bit for bit.
"""

from __future__ import annotations

import random

import pytest

from tests.machine.several import Several

ITEMS = 14
MOST = 60_000
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 200))]


def operation(choose: random.Random, number: int) -> str:
    """One piece of work in the loop of a processor: EBP counts down, ESI is its own number."""
    word = f"[data + {4 * choose.randrange(32)}]"
    register = choose.choice(("eax", "ebx", "ecx", "edx"))
    return choose.choice((
        f"mov {register}, {word}",
        f"mov {word}, {register}",
        f"add {word}, {register}",
        f"lock add {word}, {register}",
        f"lock xadd {word}, {register}",
        f"xchg {word}, {register}",
        f"lock cmpxchg {word}, {register}",
        f"lock bts dword {word}, {choose.randrange(32)}",
        f"imul {register}, {register}, {choose.randrange(1, 1000)}",
        f"xor {register}, ebp",
        f"rdtsc\n xor {word}, eax",
        "pause",
        "cli" if choose.random() < 0.3 else "sti",
        f"call function{choose.randrange(4)}",
        f"mov {word}, ebp\n mov dword [function{choose.randrange(4)} + 1], ebp",  # cross-modifying code
        f"push ecx\n mov ecx, {choose.randrange(1, 60)}\n .here{number}: inc dword {word}\n loop .here{number}\n pop ecx",
        f"push edi\n push ecx\n mov edi, data\n mov ecx, {choose.randrange(1, 32)}\n rep stosd\n pop ecx\n pop edi",
        f"mov dword [edi + ICR_HIGH], {choose.randrange(4)} << 24\n mov dword [edi + ICR], {choose.choice((0x4040, 0x4041, 0x4400))}",
        f"mov dword [edi + ICR], {choose.choice((1, 2, 3))} << 18 | 0x4040",
        f"mov eax, [edi + 0x390]\n add {word}, eax",
        "sti\n hlt" if choose.random() < 0.3 else "nop",
    ))  # fmt: skip


def program(seed: int) -> tuple[str, int]:
    """A source, and for how many processors."""
    choose = random.Random(seed)
    processors = choose.randrange(2, 5)
    parts = []
    for cpu in range(processors):
        work = "\n".join(operation(choose, number) for number in range(ITEMS))
        parts.append(
            f"""
    work{cpu}: mov dword [edi + 0x320], 0x20042         ; a periodic timer, so that all that halt go on
            mov dword [edi + 0x3E0], 0xB
            mov dword [edi + 0x380], {choose.randrange(9_000, 30_000)}
            mov esi, {cpu}
            mov ebp, {choose.randrange(60, 200)}
            sti
    .again: {work}
            dec ebp
            jnz .again
            lock inc dword [done]
            jmp finish
    """
        )
    table = ", ".join(f"work{cpu}" for cpu in range(processors))
    functions = "\n".join(f"align 64\n function{n}: mov edx, {n}\n add [data + {8 * n}], edx\n ret" for n in range(4))
    source = f"""
    first:  mov eax, {processors - 1}
            call start_all
            xor ebx, ebx
    others: lock inc dword [here]
            jmp [works + 4 * ebx]
    finish: pause
            cmp dword [done], {processors}
            jb finish
            mov al, 0
            out 0xF4, al
    {"".join(parts)}
    tell:   inc dword [told]
            mov dword [edi + EOI], 0
            iret
    nmi:    inc dword [told + 4]
            iret
    {functions}
    align 4096
    works   dd {table}
    done    dd 0
    told    dd 0, 0
    align 256
    data    times 32 dd 0
    """
    return source, processors


def made(seed: int, *, translate: bool = False) -> Several:
    source, processors = program(seed)
    handlers = {2: "nmi", 0x40: "tell", 0x41: "tell", 0x42: "tell"}
    return Several(source, processors, handlers, translate=translate)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs_run_the_same_whoever_executes_them_and_however(seed: int) -> None:
    straight = made(seed)
    straight.run(MOST)
    translated = made(seed, translate=True)
    translated.run(MOST)
    assert translated.save() == straight.save()
    assert translated.events == straight.events
    choose = random.Random(-seed)
    chopped = made(seed, translate=True)
    while chopped.machine.outcome is None and chopped.machine.steps < straight.machine.steps:
        chopped.run(min(choose.randrange(1, 4_000), straight.machine.steps - chopped.machine.steps))
        if choose.random() < 0.2:
            other = made(seed, translate=choose.random() < 0.5)
            other.memory.load(chopped.memory.save())
            other.machine.load(chopped.machine.save())
            other.events = chopped.events
            other.machine.trace.observers[:] = [chopped.events.append]
            chopped = other
    assert chopped.save() == straight.save()
    assert chopped.events == straight.events
    assert straight.machine.outcome in ("exit", None)  # or it had more to do
    assert all(cpu.retired > 1_000 for cpu in straight.cpus)
