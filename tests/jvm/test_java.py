"""`vmlab.java`: its options, its figures, what it says; the workload."""

from __future__ import annotations

import shutil
import zipfile

import pytest

import vmlab
from tests.jvm.class_maker import ClassMaker
from tools.compile_java import PROGRAMS
from vmlab.errors import ImageError, OptionError
from vmlab.jvm.java_machine import JavaMachine


def test_the_workload():
    run = vmlab.java("Workload", disk=vmlab.guests.workload_disk())
    assert run.console == "primes 303 disk e3ad8000 pages 36\n"
    assert (run.outcome, run.status) == ("exit", 0)
    assert run.calls["vmlab.Machine.read(int, byte[])"] == 8
    assert run.calls["vmlab.Machine.process()"] == 64
    assert run.calls["vmlab.Machine.tick()"] == 3
    disk_ports = 8 * (256 + 7)
    assert run.cycles_by_cause["port accesses"] > disk_ports * run.machine.process.machine.cpu.model.costs.port_access


def test_the_disk_is_real():
    data = bytes(range(256)) * 16
    other = vmlab.java("Workload", disk=data)
    checksum = 0
    for byte in data:
        checksum = (checksum * 31 + byte) & 0xFFFFFFFF
    assert other.console == f"primes 303 disk {checksum:08x} pages 36\n"
    none = vmlab.java("Workload")
    assert none.status == 1
    assert none.errors.startswith(
        'Exception in thread "main" java.lang.IllegalStateException: the disk cannot be read\n'
    )


def test_both_streams_reach_the_serial_port():
    run = vmlab.java("Uncaught")
    assert run.status == 1
    assert run.console == run.output + run.errors
    assert "\tat Uncaught.main(Uncaught.java:" in run.errors
    assert "Caused by: java.lang.ArithmeticException: / by zero\n" in run.errors


def test_a_run_that_is_too_long():
    run = vmlab.java("Sorting", max_bytecodes=5000)
    assert (run.outcome, run.status) == ("limit", None)
    assert run.machine.run()
    assert run.outcome == "exit"


def test_an_endless_loop_ends_in_compiled_code_too():
    code = [0xA7, 0, 0]  # goto itself
    run = vmlab.java(ClassMaker().build(code), max_bytecodes=100_000)
    assert run.outcome == "limit"
    assert run.instructions > 90_000


def test_what_it_says():
    run = vmlab.java("Chain")
    text = run.describe()
    assert text == repr(run)
    for part in ("Chain: exit with status 0", "bytecodes interpreted", f"{run.cycles:,}", "interpretation"):
        assert part in text
    assert run._repr_html_().startswith("<table>")
    assert "<th" in run._repr_html_()


OPTIONS = [
    ({"jit": 1}, "jit is True or False"),
    ({"threshold": 0}, "threshold is a number"),
    ({"heap": 100}, "a heap has 65536"),
    ({"heap": "1M"}, "a heap has"),
    ({"disk": 5}, "disk is a Disk or bytes"),
    ({"arguments": "abc"}, "arguments are a list"),
    ({"max_bytecodes": 0}, "max_bytecodes is a number"),
    ({"stack": 5}, "no option stack: it has max_bytecodes, jit"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=lambda value: str(value)[:20])
def test_options(options, message):
    with pytest.raises(OptionError, match=message):
        vmlab.java("Chain", **options)


def test_where_class_files_may_be(tmp_path):
    for path in PROGRAMS.glob("Shapes*.class"):
        shutil.copy(path, tmp_path)
    wanted = vmlab.java("Shapes").console
    assert vmlab.java(tmp_path / "Shapes.class").console == wanted
    assert vmlab.java(str(tmp_path)).console == wanted
    files = {path.stem: path.read_bytes() for path in tmp_path.glob("*.class")}
    assert vmlab.java(files).console == wanted
    with zipfile.ZipFile(tmp_path / "shapes.jar", "w") as archive:
        for name, raw in files.items():
            archive.writestr(f"{name}.class", raw)
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMain-Class: Shapes\n")
    assert vmlab.java(tmp_path / "shapes.jar").console == wanted
    (tmp_path / "Shapes$Square.class").unlink()
    with pytest.raises(ImageError, match=r"class Shapes\$Square is neither among the program's classes \(Shapes"):
        vmlab.java(tmp_path / "Shapes.class")
    with pytest.raises(ImageError, match="public static void main"):
        vmlab.java(tmp_path / "Shapes$Shape.class")
    with pytest.raises(ImageError, match="cannot be read"):
        vmlab.java(tmp_path / "None.class")
    (tmp_path / "broken.jar").write_bytes(b"PK")
    with pytest.raises(ImageError, match="cannot be read"):
        vmlab.java(tmp_path / "broken.jar")


def test_arguments_and_exit_status():
    maker = ClassMaker()
    leave = maker.method("java/lang/System", "exit", "(I)V")
    code = [0x2A, 0xBE, 0xB8, *leave.to_bytes(2, "big"), 0xB1]  # System.exit(args.length)
    machine = JavaMachine(maker.build(code), arguments=["a", "b", "c"])
    machine.run()
    assert machine.status == 3


def test_deep_recursion_of_the_runtime_is_none():
    # A static method that calls itself: frames, not Python's stack.
    maker = ClassMaker()
    own = maker.method("T", "main", "([Ljava/lang/String;)V")
    code = [0x2A, 0xB8, *own.to_bytes(2, "big"), 0xB1]
    for options in ({"jit": False}, {"threshold": 1}):
        machine = JavaMachine(maker.build(code), **options)
        machine.run()
        assert machine.status == 1
        assert machine.errors.startswith('Exception in thread "main" java.lang.StackOverflowError\n\tat T.main(')
        assert machine.errors.count("\tat ") == 1024
