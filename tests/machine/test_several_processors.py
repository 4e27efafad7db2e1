"""Several processors: started by INIT and STARTUP, in turns, with signals, locks, caches of code, TLBs."""

from __future__ import annotations

import random

import pytest

from tests.machine.several import CODE, Several
from vmlab.errors import StateError
from vmlab.isa.x86.registers import CR0_CD, CR0_NW, CR0_PE, CS, EAX, EDX
from vmlab.machine.machine import LIVELOCK, Machine
from vmlab.machine.trace import Signal, Trap
from vmlab.machine.turns import TURN

EXIT = "\n mov al, 0\n out 0xF4, al\n jmp $\n"
COUNT_IN = "others: lock inc dword [here]\n"
SLEEP = "\n sleep: cli\n hlt\n jmp sleep\n"
BOTH = pytest.mark.parametrize("translate", [False, True], ids=["interpreter", "translator"])


def traps(several: Several, vector: int) -> list[int]:
    """The processors that took a vector, in order."""
    return [event.cpu for event in several.events if isinstance(event, Trap) and event.vector == vector]


def signals(several: Several) -> list[tuple[str, int, int]]:
    return [(event.name, event.cpu, event.address) for event in several.events if isinstance(event, Signal)]


# -- INIT and STARTUP --------------------------------------------------------------------------------------------------------


def test_the_others_wait_until_they_are_started() -> None:
    several = Several("first: jmp $\n others: jmp $", 4)
    several.run(5 * TURN)
    assert [cpu.retired for cpu in several.cpus] == [5 * TURN, 0, 0, 0]
    assert [cpu.signals.waiting for cpu in several.cpus] == [False, True, True, True]


def test_startup_begins_in_real_mode_at_the_page_of_its_vector() -> None:
    several = Several(f"first: mov edx, 1\n mov eax, STARTUP\n call send\n jmp $\n{COUNT_IN}jmp $")
    other = several.cpus[1]
    while not signals(several):
        several.run(1)
    assert signals(several) == [("STARTUP", 1, CODE)]
    code = other.segments[CS]
    assert (code.selector, code.base, other.ip, other.cr0 & CR0_PE, other.halted) == (0x0800, 0x8000, 0, 0, False)
    assert other.registers[EDX] == other.model.signature
    several.run_until("here", 1)
    assert several.machine.cpu is other


def test_init_and_two_startups_start_once() -> None:
    several = Several(f"first: mov eax, 3\n call start_all\n{EXIT}{COUNT_IN}{SLEEP}", 4)
    assert several.run() == "exit"
    assert several.word("here") == 3
    expected = [(name, cpu) for cpu in (1, 2, 3) for name in ("INIT", "STARTUP")]
    assert [(name, cpu) for name, cpu, _ in signals(several)] == expected


def test_the_first_startup_counts() -> None:
    sends = "".join(f"mov edx, 1\n mov eax, {what}\n call send\n" for what in ("INIT", "STARTUP", "STARTUP + 1"))
    several = Several(f"first: {sends} jmp $\n {COUNT_IN}{SLEEP}")
    several.run_until("here", 1)
    assert signals(several)[-1] == ("STARTUP", 1, CODE)


def test_startup_of_a_running_processor_is_ignored() -> None:
    several = Several(
        f"first: mov eax, 1\n call start_all\n mov edx, 1\n mov eax, STARTUP\n call send\n jmp $\n{COUNT_IN}jmp $"
    )
    several.run(20 * TURN)
    assert several.word("here") == 1
    assert not several.cpus[1].signals.due


def test_init_resets_a_running_processor_but_not_its_msrs() -> None:
    source = f"""
    first:  mov eax, 1
            call start_all
            mov eax, INIT
            mov edx, 1
            call send
            jmp $
    {COUNT_IN}
            mov eax, cr0
            and eax, 0xDFFFFFFF         ; NW off, CD stays
            mov cr0, eax
            mov eax, 1000
            mov edx, 5
            mov ecx, 0x10
            wrmsr
            jmp $
    """
    several = Several(source)
    other = several.cpus[1]
    several.run_until("here", 1)
    several.run(10 * TURN)
    assert [name for name, *_ in signals(several)] == ["INIT", "STARTUP", "INIT"]
    assert other.signals.waiting
    assert other.halted
    assert other.cr0 & (CR0_PE | CR0_CD | CR0_NW) == CR0_CD
    assert (other.ip, other.registers[EAX], other.flags) == (0xFFF0, 0, 2)
    assert other.msrs[0x10]  # the time-stamp counter goes on
    assert not other.tlb.entries


def test_init_of_oneself_waits_for_the_end_of_the_instruction() -> None:
    """Sent by the last of four stores of MOVS: the registers of the instruction are gone all the same."""
    source = """
    first:  mov eax, 1
            call start_all
            jmp $
    others: lock inc dword [here]
            mov dword [edi + ICR_HIGH], 1 << 24
            mov esi, command
            add edi, ICR
            movsd
            ud2
    align 4
    command dd INIT
    """
    several = Several(source)
    several.run(20 * TURN)
    other = several.cpus[1]
    assert [name for name, *_ in signals(several)] == ["INIT", "STARTUP", "INIT"]
    assert other.signals.waiting
    assert other.registers == [0, 0, other.model.signature, *[0] * (len(other.registers) - 3)]


def test_init_sends_the_first_processor_to_the_reset_vector() -> None:
    several = Several(
        f"first: mov eax, 1\n call start_all\n jmp $\n{COUNT_IN} mov edx, 0\n mov eax, INIT\n call send\n jmp $"
    )
    while signals(several)[-1:] != [("INIT", 0, 0xFFFF_FFF0)]:
        several.run(1)
    first = several.cpus[0]
    assert (first.halted, first.signals.waiting, first.linear_ip) == (False, False, 0xFFFF_FFF0)


def test_each_processor_knows_its_own_place() -> None:
    """APIC ID in the APIC's register and in CPUID; how many there are; who starts the computer."""
    source = """
    first:  mov eax, 3
            call start_all
            xor ebx, ebx
            call tell
            mov al, 0
            out 0xF4, al
    others: call tell
            lock inc dword [here]
            cli
            hlt
    tell:   mov eax, [edi + 0x20]
            shr eax, 24
            mov esi, eax
            mov [register + 4 * esi], eax
            mov eax, 1
            cpuid
            mov [leaf + 4 * esi], ebx
            mov ecx, 0x1B
            rdmsr
            mov [base + 4 * esi], eax
            ret
    align 4
    register times 4 dd 99
    leaf    times 4 dd 99
    base    times 4 dd 99
    """
    several = Several(source, 4)
    assert several.run() == "exit"
    assert [several.word("register", n) for n in range(4)] == [0, 1, 2, 3]
    leaves = [several.word("leaf", n) for n in range(4)]
    assert [leaf >> 24 for leaf in leaves] == [0, 1, 2, 3]
    assert {leaf >> 16 & 0xFF for leaf in leaves} == {4}
    assert [several.word("base", n) for n in range(4)] == [0xFEE00900, 0xFEE00800, 0xFEE00800, 0xFEE00800]


# -- interrupts --------------------------------------------------------------------------------------------------------------

PING_PONG = """
first:  mov eax, 1
        call start_all
        sti
        mov eax, 0x40
        mov edx, 1
        call send
.wait:  cmp dword [pongs], 50
        jb .wait
        mov al, 0
        out 0xF4, al
others: lock inc dword [here]
.sleep: sti
        hlt
        jmp .sleep
ping:   inc dword [pings]
        mov dword [edi + EOI], 0
        push eax
        push edx
        mov eax, 0x41
        mov edx, 0
        call send
        pop edx
        pop eax
        iret
pong:   inc dword [pongs]
        mov dword [edi + EOI], 0
        push eax
        push edx
        mov eax, 0x40
        mov edx, 1
        call send
        pop edx
        pop eax
        iret
align 4
pings   dd 0
pongs   dd 0
"""


@BOTH
def test_interrupts_go_to_and_fro(translate: bool) -> None:
    several = Several(PING_PONG, handlers={0x40: "ping", 0x41: "pong"}, translate=translate)
    assert several.run() == "exit"
    assert (several.word("pings"), several.word("pongs")) == (50, 50)
    assert traps(several, 0x40) == [1] * 50
    assert traps(several, 0x41) == [0] * 50


TELL = """
tell:   push eax
        push ebx
        mov ebx, [0xFEE00020]
        shr ebx, 24
        mov dword [0xFEE000B0], 0
        inc dword [told + 4 * ebx]
        pop ebx
        pop eax
        iret
align 4
told    times 8 dd 0
"""
ASLEEP = f"{COUNT_IN}.sleep: sti\n hlt\n jmp .sleep\n{TELL}"


def broadcast(command: str, *, processors: int = 4, before: str = "", others: str = "") -> list[int]:
    """How often each processor was interrupted by what the first one sends."""
    waits = "mov ecx, 200\n .wait: pause\n loop .wait"
    source = f"first: mov eax, {processors - 1}\n call start_all\n sti\n{before}\n{command}\n{waits}\n{EXIT}"
    body = ASLEEP.replace("others:", f"others: {others}\n")
    several = Several(source + body, processors, {0x50: "tell"})
    assert several.run() == "exit"
    return [several.word("told", n) for n in range(processors)]


LOGICAL = "mov eax, 1\n mov cl, bl\n shl eax, cl\n shl eax, 24\n mov [edi + 0xD0], eax"
CLUSTERS = "mov eax, ebx\n shr eax, 1\n shl eax, 4\n mov ecx, ebx\n and ecx, 1\n inc ecx\n or eax, ecx\n shl eax, 24\n mov [edi + 0xD0], eax\n mov dword [edi + 0xE0], 0x0FFFFFFF"


@pytest.mark.parametrize(
    ("command", "setup", "expected"),
    [
        ("mov dword [edi + ICR], 0x4050 | 1 << 18", "", [1, 0, 0, 0]),
        ("mov dword [edi + ICR], 0x4050 | 2 << 18", "", [1, 1, 1, 1]),
        ("mov dword [edi + ICR], 0x4050 | 3 << 18", "", [0, 1, 1, 1]),
        ("mov edx, 2\n mov eax, 0x4050\n call send", "", [0, 0, 1, 0]),
        ("mov edx, 0xFF\n mov eax, 0x4050\n call send", "", [1, 1, 1, 1]),
        ("mov edx, 9\n mov eax, 0x4050\n call send", "", [0, 0, 0, 0]),
        ("mov edx, 0b1010\n mov eax, 0x4850\n call send", LOGICAL, [0, 1, 0, 1]),
        ("mov edx, 0x12\n mov eax, 0x4850\n call send", CLUSTERS, [0, 0, 0, 1]),
        ("mov edx, 0xF1\n mov eax, 0x4850\n call send", CLUSTERS, [1, 0, 1, 0]),
        ("mov dword [edi + 0x80], 0x20\n mov edx, 0xFF\n mov eax, 0x4950\n call send", LOGICAL, [0, 1, 0, 0]),
    ],
    ids=["self", "all", "others", "one", "physical-all", "nobody", "flat", "cluster", "all-clusters", "lowest-priority"],
)  # fmt: skip
def test_an_interrupt_reaches_those_whom_it_names(command: str, setup: str, expected: list[int]) -> None:
    assert broadcast(command, before=f"mov ebx, 0\n{setup}", others=setup) == expected


def test_a_device_interrupts_the_processor_that_the_io_apic_names() -> None:
    source = f"""
    first:  mov eax, 1
            call start_all
            mov dword [0xFEC00000], 0x15
            mov dword [0xFEC00010], 1 << 24     ; pin 2, the timer: to processor 1
            mov dword [0xFEC00000], 0x14
            mov dword [0xFEC00010], 0x50
            mov al, 0x34
            out 0x43, al
            mov al, 100
            out 0x40, al
            mov al, 0
            out 0x40, al
            hlt
    {ASLEEP}
    """
    several = Several(source, handlers={0x50: "tell"})
    assert several.run(20_000) is None
    assert several.word("told", 1) > 100
    assert several.word("told", 0) == 0
    assert several.cpus[0].halted
    # All sleep but for the handler: time is the timer's.
    clock, ticks = several.machine.platform.clock.now, several.word("told", 1)
    assert abs(clock - 1000 * ticks) < 10_000


def test_nmi_wakes_who_is_deaf_and_another_waits_for_iret() -> None:
    source = f"""
    first:  mov eax, 1
            call start_all
            mov eax, 0x4400
            mov edx, 1
            call send
            mov ecx, 20
    .wait:  pause
            loop .wait
            mov eax, 0x4400                     ; while the handler of the first one runs
            mov edx, 1
            call send
            mov ecx, 20
    .more:  pause
            loop .more
            mov dword [go], 1
            jmp $
    {COUNT_IN}{SLEEP}
    nmi:    push eax
            push ebx
            mov eax, [go]
            mov ebx, [nmis]
            mov [found + 4 * ebx], eax
            pop ebx
            pop eax
            inc dword [nmis]
    .wait:  cmp dword [go], 0
            je .wait
            iret
    align 4
    go      dd 0
    nmis    dd 0
    found   dd 9, 9
    """
    several = Several(source, handlers={2: "nmi"})
    several.run_until("nmis", 1)
    several.run(60 * TURN)
    assert [several.word("found", n) for n in range(2)] == [0, 1]
    assert traps(several, 2) == [1, 1]
    assert several.cpus[1].halted
    assert not several.cpus[1].signals.nmi_blocked


def test_nmi_to_oneself() -> None:
    several = Several(f"first: mov eax, 0x4400\n mov edx, 0\n call send\n{EXIT}others:\n nmi: iret", 1, {2: "nmi"})
    assert several.run() == "exit"
    assert traps(several, 2) == [0]


# -- shared memory -----------------------------------------------------------------------------------------------------------

COUNTING = """
first:  mov eax, 2
        call start_all
        call count
.wait:  pause
        cmp dword [done], 3
        jb .wait
        mov al, 0
        out 0xF4, al
others: lock inc dword [here]
        call count
        cli
        hlt
count:  mov ecx, 600
.again: {enter}
        mov eax, [counter]
        inc eax
        mov [counter], eax
        {leave}
        loop .again
        lock inc dword [done]
        ret
align 4
counter dd 0
done    dd 0
word_   dd 0
"""
LOCKS = {
    "xchg": ("call .lock", "mov dword [word_], 0", ".lock: mov edx, 1\n .spin: xchg [word_], edx\n test edx, edx\n jnz .spin\n ret"),
    "bts": ("call .lock", "mov dword [word_], 0", ".lock: lock bts dword [word_], 0\n jc .lock\n ret"),
    "cmpxchg": ("call .lock", "mov dword [word_], 0", ".lock: xor eax, eax\n mov edx, 1\n lock cmpxchg [word_], edx\n pause\n jnz .lock\n ret"),
}  # fmt: skip


MIXED = COUNTING.format(enter="call .lock", leave="mov dword [word_], 0").replace(
    "align 4\ncounter", LOCKS["xchg"][2] + "\nalign 4\ncounter"
)


@BOTH
@pytest.mark.parametrize("lock", LOCKS)
def test_a_spinlock_lets_no_addition_get_lost(lock: str, translate: bool) -> None:
    enter, leave, function = LOCKS[lock]
    source = COUNTING.format(enter=enter, leave=leave).replace("align 4\ncounter", f"{function}\nalign 4\ncounter")
    several = Several(source, 3, translate=translate)
    assert several.run(2_000_000) == "exit"
    assert several.word("counter") == 3 * 600


@BOTH
def test_without_a_lock_additions_get_lost(translate: bool) -> None:
    several = Several(COUNTING.format(enter="", leave=""), 3, translate=translate)
    assert several.run() == "exit"
    assert 600 < several.word("counter") < 3 * 600


LONG_MODE = """
first:  mov dword [0x50000], 0x51000 + 3        ; PML4, PDPT, and a directory of pages of 2 MiB for each end of 4 GiB
        mov dword [0x51000], 0x52000 + 3
        mov dword [0x51018], 0x53000 + 3
        mov dword [0x52000], 0x83
        mov dword [0x53000 + 8 * 0x1F7], 0xFEE00000 | 0x83
        mov eax, 2
        call start_all
        xor ebx, ebx
        jmp enter
others: lock inc dword [here]
enter:  mov eax, cr4
        or eax, 0x20                            ; PAE
        mov cr4, eax
        mov eax, 0x50000
        mov cr3, eax
        mov ecx, 0xC0000080
        rdmsr
        or eax, 0x100                           ; LME
        wrmsr
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        lgdt [wide]
        jmp 8:long
wide:   dw 0x17
        dd codes
align 8
codes:  dq 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
bits 64
long:   mov r12, 0x100000001                    ; more than 32 bits
        mov edi, 0xFEE00000
        mov eax, [rdi + 0x20]
        shr eax, 24
        mov r13, rax
        mov ecx, 0xC0000101                     ; GS base: each has its own
        lea rax, [own]
        lea rax, [rax + 8 * r13]
        xor edx, edx
        wrmsr
        mov ecx, 400
.again: lock bts dword [word_], 0
        jc .again
        mov rax, [counter]
        add rax, r12
        mov [counter], rax
        mov dword [word_], 0
        inc qword [gs:0]
        dec ecx
        jnz .again
        lock inc dword [done]
        test r13, r13
        jnz .sleep
.wait:  pause
        cmp dword [done], 3
        jb .wait
        mov al, 0
        out 0xF4, al
.sleep: cli
        hlt
bits 32
align 8
counter dq 0
own     dq 0, 0, 0
done    dd 0
word_   dd 0
"""


@BOTH
def test_processors_share_work_in_long_mode(translate: bool) -> None:
    several = Several(LONG_MODE, 3, translate=translate, model="core-2")
    assert several.run() == "exit"
    assert several.memory.read(several.symbol("counter"), 8) == 1200 * 0x1_0000_0001
    assert [several.word("own", 2 * n) for n in range(3)] == [400] * 3


@BOTH
def test_code_that_another_processor_rewrites(translate: bool) -> None:
    """Cross-modifying code: each time the other one answers with what has been written into its hot loop last."""
    source = """
    first:  mov eax, 1
            call start_all
            mov esi, 1
    .again: mov [function + 1], esi             ; the constant of its MOV
            mov dword [answer], 0
            lock inc dword [asked]
            mov ebp, [asked]
    .wait:  pause
            cmp [served], ebp
            jne .wait
            cmp [answer], esi
            jne .wrong
            inc esi
            cmp esi, 9
            jne .again
            mov al, 0
            out 0xF4, al
    .wrong: mov al, 1
            out 0xF4, al
    others: lock inc dword [here]
    .serve: mov eax, [asked]
            cmp eax, [served]
            je .serve
            mov ecx, 400
    .hot:   call function
            mov [answer], edx
            loop .hot
            mov [served], eax
            jmp .serve
    align 0x1000
    function:
            mov edx, 0
            ret
    align 0x1000
    asked   dd 0
    served  dd 0
    answer  dd 0
    """
    several = Several(source, translate=translate)
    assert several.run(400_000) == "exit"
    assert several.machine.status == 1, "an old instruction ran"


@BOTH
def test_code_that_is_rewritten_before_each_call(translate: bool) -> None:
    """No call in between: nothing may be kept of the code of the call before."""
    source = """
    first:  mov ecx, 200
    .warm:  call function
            loop .warm
            mov esi, 1
    .again: mov [function + 1], esi
            call function
            cmp edx, esi
            jne .wrong
            inc esi
            cmp esi, 20
            jne .again
            mov al, 0
            out 0xF4, al
    .wrong: mov al, 1
            out 0xF4, al
    others:
    align 0x1000
    function:
            mov edx, 0
            ret
    """
    several = Several(source, 1, translate=translate)
    assert several.run() == "exit"
    assert several.machine.status == 1, "an old instruction ran"


@BOTH
def test_a_translation_stays_until_it_is_shot_down(translate: bool) -> None:
    """The page moves under processor 1: it reads the old frame until its own INVLPG, which an interrupt asks for."""
    source = """
    first:  mov dword [0x60000], 111            ; two frames for one page
            mov dword [0x70000], 222
            mov eax, 0x50000 + 7                ; page tables: the first MiB as it is, but page 0x60
            mov [0x51000], eax
            xor ecx, ecx
    .fill:  mov eax, ecx
            shl eax, 12
            or eax, 7
            mov [0x50000 + 4 * ecx], eax
            inc ecx
            cmp ecx, 256
            jb .fill
            mov dword [0x52000 + 4 * 0x2FB], 0xFEE00000 | 3
            mov dword [0x51000 + 4 * 0x3FB], 0xFEC00000 | 0x83
            mov eax, cr4
            or al, 0x10                         ; PSE: one large page for the APIC
            mov cr4, eax
            mov eax, 0x51000
            mov cr3, eax
            mov eax, cr0
            or eax, 0x80000000
            mov cr0, eax
            mov eax, 1
            call start_all
            mov eax, [0x60000]
            mov [mine], eax
            mov dword [0x50000 + 4 * 0x60], 0x70000 | 7
            mov eax, [0x60000]
            mov [mine + 4], eax                 ; stale here too
            invlpg [0x60000]
            mov eax, [0x60000]
            mov [mine + 8], eax
            mov dword [phase], 1                ; processor 1 looks again
    .wait:  pause
            cmp dword [phase], 2
            jne .wait
            mov eax, 0x40
            mov edx, 1
            call send
    .more:  pause
            cmp dword [phase], 3
            jne .more
            mov al, 0
            out 0xF4, al
    others: mov eax, cr4
            or al, 0x10
            mov cr4, eax
            mov eax, 0x51000
            mov cr3, eax
            mov eax, cr0
            or eax, 0x80000000
            mov cr0, eax
            mov eax, [0x60000]
            mov [other], eax
            lock inc dword [here]
    .look:  cmp dword [phase], 1
            jne .look
            mov eax, [0x60000]
            mov [other + 4], eax                ; stale, and rightly so
            sti
            mov dword [phase], 2
    .hot:   mov eax, [0x60000]
            cmp eax, 111
            je .hot
            mov [other + 8], eax
            mov dword [phase], 3
            jmp $
    shoot:  invlpg [0x60000]
            mov dword [edi + EOI], 0
            iret
    align 4
    phase   dd 0
    mine    dd 0, 0, 0
    other   dd 0, 0, 0
    """
    several = Several(source, handlers={0x40: "shoot"}, translate=translate)
    assert several.run(400_000) == "exit"
    assert [several.word("mine", n) for n in range(3)] == [111, 111, 222]
    assert [several.word("other", n) for n in range(3)] == [111, 111, 222]


# -- turns and time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processors", [2, 3, 16])
def test_time_is_the_same_for_all(processors: int) -> None:
    """Each retires one instruction in a unit of the clock; a processor that sleeps does not make the others quicker."""
    several = Several(
        f"first: mov eax, {processors - 1}\n call start_all\n jmp $\n{COUNT_IN}test ebx, 1\n jnz .deaf\n jmp $\n.deaf: cli\n hlt",
        processors,
    )
    several.run_until("here", processors - 1, 20_000)
    machine = several.machine
    machine.run(processors * 10 * TURN)
    start, before = machine.platform.clock.now, [cpu.retired for cpu in several.cpus]
    machine.run(processors * 100 * TURN)
    passed = machine.platform.clock.now - start
    done = [cpu.retired - old for cpu, old in zip(several.cpus, before, strict=True)]
    assert all(abs(count - passed) <= 2 * TURN for number, count in enumerate(done) if number % 2 == 0)
    assert all(count == 0 for number, count in enumerate(done) if number % 2 == 1)


def test_the_time_stamp_counter_goes_forwards_over_all_processors() -> None:
    source = f"""
    first:  mov eax, 2
            call start_all
            jmp stamp
    {COUNT_IN}
    stamp:  mov ecx, 300
    .again: call acquire
            rdtsc
            cmp edx, [last + 4]
            jb .wrong
            ja .right
            cmp eax, [last]
            jbe .wrong
    .right: mov [last], eax
            mov [last + 4], edx
            mov dword [locked], 0
            loop .again
            lock inc dword [done]
            cli
            hlt
    .wrong: mov dword [wrong], 1
            mov al, 1
            out 0xF4, al
    acquire:
            lock bts dword [locked], 0
            jc acquire
            ret
    align 4
    last    dq 0
    locked  dd 0
    done    dd 0
    wrong   dd 0
    """
    several = Several(source, 3)
    assert several.run() == "halt"
    assert (several.word("done"), several.word("wrong")) == (3, 0)


def test_an_access_to_a_port_sees_the_time_of_the_clock() -> None:
    several = Several("first: out 0x80, al\n in al, 0x61\n jmp first\n others:", 2)
    clock, first, seen = several.machine.platform.clock, several.cpus[0], []
    several.machine.bus.on_access = lambda *_: seen.append((clock.now, first.ticks // 2))
    several.run(4_000)
    assert len(seen) > 1_000
    assert all(now == expected for now, expected in seen)


def test_pause_leaves_the_turn_to_the_others() -> None:
    several = Several(
        f"first: mov eax, 1\n call start_all\n .wait: pause\n jmp .wait\n{COUNT_IN}.count: inc ecx\n jmp .count"
    )
    several.run_until("here", 1)
    before = [cpu.retired for cpu in several.cpus]
    several.run(20_000)
    spinning, working = (cpu.retired - old for cpu, old in zip(several.cpus, before, strict=True))
    assert spinning * 100 < working


def test_a_local_timer_counts_at_the_same_rate_for_each() -> None:
    source = (
        """
    first:  mov eax, 2
            call start_all
            jmp timer
    others: lock inc dword [here]
    timer:  mov ebx, [edi + 0x20]
            shr ebx, 24
            mov dword [edi + 0x3E0], 0xB        ; divide by 1: eight ticks in a unit of the clock
            mov dword [edi + 0x320], 0x20050
            mov dword [edi + 0x380], 80000
            sti
    .here:  jmp .here
    """
        + TELL
    )
    several = Several(source, 3, {0x50: "tell"})
    several.run_until("here", 2)
    several.run(600_000)
    counts = [several.word("told", n) for n in range(3)]
    expected = several.machine.platform.clock.now // 10_000
    assert all(expected - 2 <= count <= expected for count in counts), (counts, expected)
    assert expected > 15


def test_the_computer_halts_when_all_sleep_for_ever() -> None:
    several = Several(f"first: mov eax, 1\n call start_all\n cli\n hlt\n{COUNT_IN} mov ecx, 5000\n loop $\n sti\n hlt")
    assert several.run() == "halt"
    assert several.cpus[1].retired > 5000
    assert several.machine.run(10) is None
    assert several.machine.outcome == "halt"


def test_a_triple_fault_of_any_processor_restarts_the_computer() -> None:
    several = Several(
        f"first: mov eax, 1\n call start_all\n jmp $\n{COUNT_IN} lidt [nothing]\n ud2\n nothing: dw 0\n dd 0"
    )
    assert several.run() == "triple-fault"
    assert several.machine.cpu is several.cpus[1]


def test_a_livelock_of_one_processor_is_the_end() -> None:
    """A handler that lies where no code is: exception after exception, with nothing done in between."""
    source = f"first: mov eax, 1\n call start_all\n jmp $\n{COUNT_IN} mov esp, 0x80000\n ud2\n bad: ud2"
    several = Several(source, handlers={6: "bad"})
    assert several.run(10 * LIVELOCK) == "livelock"


def test_the_processor_of_the_next_step_is_known_before() -> None:
    """A breakpoint is looked for where a step will be done: also in the first step of a turn."""
    several = Several(MIXED, 3)
    machine = several.machine
    switches = 0
    for _ in range(6_000):
        cpu, before = machine.cpu, [each.retired for each in several.cpus]
        several.run(1)
        assert machine.cpus[machine.ran] is cpu
        switches += machine.cpu is not cpu
        others = [n for n in range(3) if n != machine.ran]
        assert [several.cpus[n].retired for n in others] == [before[n] for n in others]
    assert switches > 10


# -- determinism, saving -------------------------------------------------------------------------------------------------------


def test_two_runs_are_the_same_whoever_executes_and_however_they_are_cut() -> None:
    whole = Several(MIXED, 4)
    assert whole.run() == "exit"
    translated = Several(MIXED, 4, translate=True)
    assert translated.run() == "exit"
    chopped = Several(MIXED, 4, translate=True)
    generator = random.Random(3)
    while chopped.machine.outcome is None:
        chopped.run(generator.randrange(1, 300))
    assert whole.save() == translated.save() == chopped.save()
    assert whole.events == translated.events == chopped.events


def test_a_state_saved_in_the_middle_goes_on_the_same() -> None:
    straight = Several(PING_PONG, handlers={0x40: "ping", 0x41: "pong"})
    straight.run()
    expected = straight.save()
    generator = random.Random(5)
    for _ in range(6):
        step = generator.randrange(1, straight.machine.steps)
        one = Several(PING_PONG, handlers={0x40: "ping", 0x41: "pong"})
        one.run(step)
        other = Several(PING_PONG, handlers={0x40: "ping", 0x41: "pong"})
        other.memory.load(one.memory.save())
        other.machine.load(one.machine.save())
        assert other.save() == one.save()
        assert other.machine.steps == one.machine.steps == step
        other.run()
        assert other.save() == expected


def test_a_state_of_another_number_of_processors_is_refused() -> None:
    two, three = Machine(1 << 20, processors=2), Machine(1 << 20, processors=3)
    before = two.save()
    with pytest.raises(StateError):
        two.load(three.save())
    assert two.save() == before
