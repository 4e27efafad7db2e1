"""The programs that come with vmlab, compared with what the real `java` prints: stored, and where it is installed, anew."""

from __future__ import annotations

import json
import shutil

import pytest

from tools import compile_java
from vmlab.guests.workload import workload_disk
from vmlab.jvm.class_path import programs
from vmlab.jvm.java_machine import JavaMachine

EXPECTED = json.loads(compile_java.EXPECTED.read_text(encoding="utf-8"))
HAS_JAVA = shutil.which("javac") and shutil.which("java")
needs_java = pytest.mark.skipif(not HAS_JAVA, reason="javac and java are not installed; stored outputs are compared")


def result(program, **options):
    machine = JavaMachine(program, disk=workload_disk(), **options)
    assert machine.run()
    return {"output": machine.output, "errors": machine.errors, "status": machine.status}


def test_there_are_enough_programs():
    assert programs() == sorted(EXPECTED)
    assert len(EXPECTED) >= 15


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_interpreter_does_as_java_does(name):
    assert result(name, jit=False) == EXPECTED[name]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_compiled_code_does_as_java_does(name):
    assert result(name) == EXPECTED[name]


@pytest.mark.parametrize("name", ["Bits", "Calculator", "Interfaces", "StaticInit"])
def test_all_compiled_does_as_java_does(name):
    assert result(name, threshold=1) == EXPECTED[name]


@pytest.mark.long
@pytest.mark.parametrize("threshold", [1, 2, 7])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_however_much_is_compiled(name, threshold):
    assert result(name, threshold=threshold) == EXPECTED[name]


@needs_java
def test_the_stored_outputs_are_those_of_java(tmp_path):
    compile_java.compile_machine(tmp_path)
    for name in EXPECTED:
        assert compile_java.run_really(name, compile_java.PROGRAMS, tmp_path) == EXPECTED[name], name


@needs_java
def test_the_sources_compiled_anew_do_the_same(tmp_path):
    compile_java.compile_programs(tmp_path)
    for name in ("Shapes", "Switches", "Uncaught"):
        assert result(tmp_path / f"{name}.class") == EXPECTED[name]
