"""Random programs, compared with the real `java`: the interpreter, compiled code, and the two in turn."""

from __future__ import annotations

import shutil

import pytest

from tests.jvm import random_java
from tools import compile_java
from vmlab.jvm import compiler_rules
from vmlab.jvm.java_machine import JavaMachine

pytestmark = pytest.mark.skipif(
    not (shutil.which("javac") and shutil.which("java")),
    reason="javac and java are not installed: nothing to compare with",
)


def compare(folder, seed, count, machine=JavaMachine):
    sources = random_java.programs(seed, count)
    for name, text in sources.items():
        (folder / f"{name}.java").write_text(text)
    compile_java.compile_programs(folder, *(folder / f"{name}.java" for name in sources))
    real = compile_java.run_really("All", folder, folder)
    assert real["status"] == 0, real["errors"]
    wanted = dict(line.split(" ", 1) for line in real["output"].splitlines())
    assert len(wanted) == count
    compiled = 0
    for name, text in wanted.items():
        for options in ({"jit": False}, {"threshold": 1}, {"threshold": 5}):
            ours = machine(folder / f"{name}.class", **options)
            assert ours.run()
            assert (ours.output.strip(), ours.errors) == (text, ""), (name, options)
            compiled += sum(each.startswith(f"{name}.m") for each in ours.compiled)
    return compiled


def test_random_programs(tmp_path):
    assert compare(tmp_path, 3, 3) > 2


def test_the_comparison_finds_a_wrong_shift(tmp_path, monkeypatch):
    right = compiler_rules.RULES["ishl"]

    def wrong(at, code):
        right(at, code)
        at.lines[-1] = at.lines[-1].replace("shl", "rol")

    monkeypatch.setitem(compiler_rules.RULES, "ishl", wrong)
    with pytest.raises(AssertionError, match="threshold"):
        compare(tmp_path, 3, 2)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 104))
def test_many_random_programs(tmp_path, seed):
    assert compare(tmp_path, seed, 100) > 100
