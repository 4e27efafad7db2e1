"""Compiled code: what it looks like, where it leaves for the runtime and comes back, and that it charges what the hardware did."""

from __future__ import annotations

import json

import pytest

import vmlab
from tools.compile_java import EXPECTED
from vmlab.errors import OptionError
from vmlab.jvm.compiled_method import Layout
from vmlab.jvm.heap import signed
from vmlab.jvm.java_machine import JavaMachine

WANTED = json.loads(EXPECTED.read_text(encoding="utf-8"))


def test_a_frame():
    # Two parameters, the first deepest, then a return address and EBP; three other variables; the operand stack.
    layout = Layout(2, 3)
    assert [layout.local(n) for n in range(5)] == [12, 8, -4, -8, -12]
    assert [layout.stack(0), layout.stack(1), layout.top(0), layout.top(2)] == [-16, -20, -12, -20]


def test_signs():
    assert [signed(0x7FFFFFFF), signed(0x80000000), signed(-1), signed(0x1_0000_0005), signed(0xFF, 8)] == [
        (1 << 31) - 1, -(1 << 31), -1, 5, -1,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def sieve():
    return vmlab.java("Sieve")


def test_a_listing(sieve):
    listing = sieve.method("Sieve.count").listing().splitlines()
    assert listing[0].startswith("Sieve.count(int): compiled; calls 3, rounds ")
    # Java's line 12, composite[multiple] = true: index and array, one unsigned comparison for both bounds, the store.
    start = next(n for n, line in enumerate(listing) if line.startswith("   12   40 bastore"))
    code = [
        line[-200:].split(maxsplit=3 if not n else 1)[-1].strip() for n, line in enumerate(listing[start : start + 5])
    ]
    assert code[0].endswith("mov ecx, [ebp-0x10]")
    assert code[1:3] == ["mov eax, [ebp-4]", "cmp ecx, [eax+8]"]
    assert code[3].startswith("jae 0x")
    assert code[4] == "mov byte [eax+ecx+0xc], 1"
    assert any("iinc 2, 1" in line and "inc dword [ebp-8]" in line for line in listing)
    assert any("newarray boolean" in line for line in listing)
    assert "<table>" in sieve.method("Sieve.count")._repr_html_()


def test_what_a_name_may_be(sieve):
    assert sieve.method("Sieve.count(int)").title == "Sieve.count(int)"
    with pytest.raises(OptionError, match=r"no method 'Sieve.cuont'.*Sieve\.count\(int\)"):
        sieve.method("Sieve.cuont")
    with pytest.raises(OptionError, match=r"several methods java\.lang\.String\.valueOf"):
        sieve.method("java.lang.String.valueOf")
    with pytest.raises(OptionError, match=r"named as 'Sieve\.count'"):
        sieve.method(3)


def test_less_is_interpreted_and_it_costs_less(sieve):
    interpreted = vmlab.java("Sieve", jit=False)
    assert interpreted.console == sieve.console
    assert (interpreted.instructions, interpreted.compiled) == (0, {})
    assert "Sieve.count(int)" in sieve.compiled
    assert sieve.bytecodes * 10 < interpreted.bytecodes
    assert sieve.cycles * 3 < interpreted.cycles
    for run in (sieve, interpreted):
        assert run.cycles == sum(run.cycles_by_cause.values())


def test_the_processor_is_what_checks():
    # A null reference is a page fault, a division by zero a divide error: no code looks for them.
    machine = JavaMachine("Exceptions", threshold=1)
    machine.run()
    assert machine.output == WANTED["Exceptions"]["output"]
    code = machine.method("Exceptions.risky(int)")
    texts = [text for row in code.rows() for text in row.code]
    assert any("idiv ecx" in text for text in texts)
    divisions = [n for n, text in enumerate(texts) if "idiv" in text]
    assert all("cdq" in texts[n - 1] for n in divisions)


def test_a_method_goes_on_in_the_midst_of_its_loop():
    machine = JavaMachine("Workload", disk=vmlab.guests.workload_disk(), threshold=10)
    machine.run()
    view = machine.method("Workload.primes")
    assert view.compiled is not None
    assert view.method.calls == 1  # and yet it was compiled: its loops had gone round often enough
    assert view.method.loops == 90
    assert machine.output == WANTED["Workload"]["output"]


def test_a_frame_is_left_where_a_class_is_not_initialised():
    machine = JavaMachine("StaticInit", threshold=1)
    machine.run()
    assert machine.compiled_code.left > 0
    assert machine.output == WANTED["StaticInit"]["output"]


def test_what_is_not_compiled_is_said():
    machine = JavaMachine("Longs", threshold=1)
    machine.run()
    view = machine.method("Longs.power")
    assert view.compiled is None
    assert "not compiled: it takes or returns a long" in view.listing()


def test_the_same_each_time():
    first, second = (vmlab.java("Shapes", threshold=2) for _ in range(2))
    assert (first.cycles_by_cause, first.bytecodes, first.instructions) == (
        second.cycles_by_cause, second.bytecodes, second.instructions,
    )  # fmt: skip
    memories = [run.machine.process.memory.digest() for run in (first, second)]
    assert memories[0] == memories[1]


def test_it_can_be_run_in_pieces():
    machine = JavaMachine("Tree", threshold=3)
    limit = 0
    while not machine.run(limit := limit + 777):
        assert machine.status is None
        assert machine.outcome == "running"
    assert machine.output == WANTED["Tree"]["output"]
    assert limit > 10_000


def test_compiled_code_cannot_write_where_the_runtime_lives():
    from vmlab.isa.x86.assembler import assemble
    from vmlab.jvm.process import CODE, STACK_TOP, Process

    process = Process(1 << 16)
    for address in (0x1000, 0x3000, CODE, 0x1C_0000, 0):
        process.memory.write_bytes(CODE, assemble(f"mov dword [{address:#x}], 1", CODE).code)
        trap = process.enter(CODE, STACK_TOP - 16, 0)
        assert (trap.vector, trap.address, trap.ip) == (14, address, CODE)
    process.memory.write_bytes(CODE, assemble("out dx, al", CODE).code)
    assert process.enter(CODE, STACK_TOP - 16, 0).vector == 13
