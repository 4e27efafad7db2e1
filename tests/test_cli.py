"""The command line: what it prints, and that wrong use gets one line and exit code 2."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys

import pytest

import vmlab
from vmlab import cli
from vmlab.errors import OptionError
from vmlab.machine.elf import MAGIC

HELLO = "start: mov esi, text\n mov dx, 0x3F8\n.next: lodsb\n test al, al\n jz .end\n out dx, al\n jmp .next\n.end: mov al, 3\n out 0xF4, al\ntext: db 'hello', 10, 0\n"
ECHO = "start: mov dx, 0x3FD\n in al, dx\n test al, 1\n jz start\n mov dx, 0x3F8\n in al, dx\n out dx, al\n cmp al, '.'\n jne start\n mov al, 0\n out 0xF4, al\n"
FIELDS = {"outcome", "status", "console", "instructions", "cycles", "exits", "under", "memory_virtualization"}


def elf(bits: int = 1, machine: int = 3, kind: int = 2, length: int | None = None) -> bytes:
    """Return a small ELF file: one segment at 1 MiB that ends the machine with status 5."""
    code = bytes.fromhex("b002e6f4f4")
    header = struct.pack(
        "<4sBBBB8xHHIIIIIHHHHHH", MAGIC, bits, 1, 1, 0, kind, machine, 1, 0x100000, 52, 0, 0, 52, 32, 1, 0, 0, 0
    )
    segment = struct.pack("<IIIIIIII", 1, 84, 0x100000, 0x100000, len(code), len(code), 5, 0x1000)
    return (header + segment + code)[:length]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello.asm").write_text(HELLO)
    (tmp_path / "echo.asm").write_text(ECHO)
    (tmp_path / "good.elf").write_bytes(elf())
    return tmp_path


@pytest.fixture
def ask(folder, capsys):
    """Run the command line in this process; return exit code, standard output and standard error."""

    def run(*arguments):
        try:
            code = cli.main([str(each) for each in arguments])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


# -- what it prints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("under", [name for name, kind in vmlab.TECHNIQUES.items() if not kind.needs_port])
def test_run_prints_one_json_object(ask, under):
    code, out, err = ask("run", "hello.asm", "--under", under, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert set(found) >= FIELDS
    assert (found["outcome"], found["status"], found["console"], found["under"]) == ("exit", 7, "hello\n", under)
    assert found["instructions"] == 37
    memory, exits = {
        "native": ("none", 0),
        "trap-and-emulate": ("shadow", 8),
        "binary-translation": ("shadow", 10),
        "vt-x": ("nested", 8),
        "amd-v": ("nested", 8),
    }[under]
    assert found["memory_virtualization"] == memory
    assert sum(found["exits"].values()) == exits
    assert found["cycles"] > 35


def test_the_tlb_and_walk_caches(ask):
    chase = ("run", "guest:pointer_chase", "--json")
    runs = (ask(*chase, *more) for more in ((), ("--tlb", "sets=1,ways=512"), ("--walk-caches", "on")))
    usual, large, cached = (json.loads(out) for _, out, _ in runs)
    assert usual["console"] == large["console"] == cached["console"]
    assert usual["cycles"] > cached["cycles"] > large["cycles"]
    for option, value, message in (
        ("--tlb", "16x4", "'16x4' is no name and value"),
        ("--tlb", "sets=many", "a number of sets from 1 to 65536, not 'many'"),
        ("--walk-caches", "1", "walk caches are on or off, not '1'"),
        ("--shadow-policy", "none", "unknown shadow policy 'none'"),
    ):
        code, _, err = ask(*chase, option, value)
        assert (code, message in err) == (2, True), err


def test_how_memory_is_virtualized(ask):
    code, out, _ = ask("run", "hello.asm", "--under", "vt-x", "--memory-virtualization", "shadow", "--json")
    assert (code, json.loads(out)["memory_virtualization"]) == (0, "shadow")
    code, out, _ = ask(
        "compare", "hello.asm", "--under", "native,vt-x/nested,vt-x/shadow", "--json", "--host-cpu", "broadwell"
    )
    found = json.loads(out)
    assert (code, found["faithful"]) == (0, True)
    assert [row["under"] for row in found["runs"]] == ["native", "vt-x/nested", "vt-x/shadow"]
    code, _, err = ask("run", "hello.asm", "--memory-virtualization", "nested")
    assert (code, err.count("\n")) == (2, 1)
    assert "is not possible under native" in err


def test_a_port_runs_in_the_guests_place(ask):
    line = "compare", "guest:minios", "--under", "native,paravirtualization", "--json"
    code, out, _ = ask(*line, "--ported", "guest:minios_pv")
    found = json.loads(out)
    assert (code, found["faithful"]) == (0, True)
    assert [row["under"] for row in found["runs"]] == ["native", "paravirtualization"]
    code, _, err = ask(*line)
    assert (code, err.count("\n")) == (2, 1)
    assert "minios is not ported to paravirtualization" in err


def test_run_prints_text(ask):
    code, out, err = ask("run", "hello.asm", "--under", "trap-and-emulate")
    assert (code, err) == (0, "")
    assert out.startswith("hello\nhello.asm under trap-and-emulate: exit with status 7\n")
    assert "I/O instruction" in out


def test_run_takes_elf_flat_and_own_guests(ask, folder):
    (folder / "flat.bin").write_bytes(bytes.fromhex("b002e6f4"))
    for image in ("good.elf", "flat.bin"):
        assert json.loads(ask("run", image, "--json")[1])["status"] == 5
    assert json.loads(ask("run", "guest:hello", "--json")[1])["outcome"] == "exit"


def test_run_boots_a_disk_and_types_at_its_keyboard(ask, folder):
    source = "bits 16\norg 0x7c00\nmore: mov ah, 0\nint 0x16\nmov ah, 0x0e\nint 0x10\ncmp al, 13\njne more\ncli\nhlt\n"
    (folder / "echo.asm").write_text(source + "times 510-($-$$) db 0\ndw 0xaa55\n")
    code, out, _ = ask("run", str(folder / "echo.asm"), "--keys", r"Typed!\n")
    assert (code, out.splitlines()[0]) == (0, "Typed!")
    _, out, _ = ask("run", str(folder / "echo.asm"), "--keys", r"ab\n", "--json")
    result = json.loads(out)
    assert (result["screen"], result["console"], result["outcome"]) == ("ab", "", "halt")


def test_compare_prints_a_table_and_a_verdict(ask):
    code, out, _ = ask("compare", "hello.asm")
    assert code == 0
    assert "the guest cannot tell the difference" in out
    code, out, _ = ask("compare", "hello.asm", "--json", "--under", "native,trap-and-emulate,native")
    found = json.loads(out)
    assert found["faithful"] is True
    assert [row["under"] for row in found["runs"]] == ["native", "trap-and-emulate", "native"]
    assert all(row["differences"] == [] for row in found["runs"])


def test_compare_says_by_its_exit_code_that_a_guest_sees_a_difference(ask):
    code, out, _ = ask("compare", "guest:popf", "--json")
    assert code == 1
    assert json.loads(out)["runs"][1]["differences"]
    code, out, _ = ask("compare", "guest:popf")
    assert code == 1
    assert "console:" in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"ab\n.", "ab\n."), (r"\x41\t\\.", "A\t\\."), ("é.", "é."), (r"\r\b\e\0.", "\r\b\x1b\0."), (r"\xe2\x82\xac.", "€."),
        ("a\nb.", "a\nb."),
    ],
)  # fmt: skip
def test_input_is_typed_at_the_console(ask, text, expected):
    code, out, _ = ask("run", "echo.asm", "--json", "--input", text)
    assert (code, json.loads(out)["console"]) == (0, expected)


def test_limits(ask):
    found = json.loads(ask("run", "echo.asm", "--json", "--max-instructions", "1_000")[1])
    assert (found["outcome"], found["status"], found["instructions"]) == ("limit", None, 1000)


@pytest.mark.parametrize(("text", "size"), [("4M", 4 << 20), ("4096K", 4 << 20), ("0x400000", 4 << 20), ("4194304", 4 << 20), ("4MiB", 4 << 20), ("4mb", 4 << 20), (" 4M ", 4 << 20)])  # fmt: skip
def test_sizes(ask, text, size):
    assert cli.parse_size(text) == size
    assert ask("run", "hello.asm", "--json", "--memory", text)[0] == 0


def test_a_term(ask):
    code, out, err = ask("glossary", "live", "migration")
    assert (code, err) == (0, "")
    assert out.startswith("live migration · 라이브 마이그레이션\n")
    assert ask("glossary", "실시간 마이그레이션")[1] == out
    everything = ask("glossary")[1]
    assert everything.splitlines()[-1] == f"{len(vmlab.glossary())} terms"
    assert ask("glossary", "--search", "VMCB")[1] == repr(vmlab.glossary().search("VMCB")) + "\n"


def test_options_of_jupyter_reach_it(ask, monkeypatch):
    commands = []
    monkeypatch.setattr("subprocess.call", lambda command: commands.append(command) or 0)
    for given in ([], ["--port=8899"], ["--port", "8899", "--no-browser", "--ip=127.0.0.1"]):
        assert ask("lab", *given) == (0, "", "")
        command = commands.pop()
        assert command[1:3] == ["-m", "jupyterlab"]
        assert command[len(command) - len(given) :] == given
    assert ask("doctor", "--port=8899")[0] == 2  # nobody else's


def test_help(ask):
    for arguments in (["--help"], ["run", "--help"], ["compare", "--help"]):
        code, out, err = ask(*arguments)
        assert (code, err) == (0, "")
        assert "usage: vmlab" in out


# -- wrong use ------------------------------------------------------------------------------------------------------

WRONG = {
    "no term": [["glossary", "VMCX"], "no term 'VMCX' .did you mean .*'VMCS'"],
    "no letters": [["glossary", "--search", " "], "some letters of a word"],
    "no command": [[], "COMMAND"],
    "unknown command": [["fly"], "invalid choice"],
    "no image": [["run"], "image"],
    "unknown option": [["run", "hello.asm", "--fast"], "unrecognized"],
    "missing file": [["run", "nothing.elf"], "nothing.elf: no such file"],
    "missing source": [["run", "nothing.asm"], "nothing.asm"],
    "a directory": [["run", "."], "directory"],
    "a directory as source": [["run", "folder.asm"], "folder.asm"],
    "an empty file": [["run", "empty.elf"], "empty"],
    "an empty source": [["run", "empty.asm"], "empty"],
    "ELF of the x32 ABI": [["run", "long.elf"], "x86-64"],
    "ELF for Arm": [["run", "arm.elf"], "386|x86"],
    "an object file": [["run", "object.o"], "relocatable|link"],
    "half a header": [["run", "half.elf"], "truncated"],
    "three bytes of a header": [["run", "three.elf"], "truncated"],
    "half a segment": [["run", "cut.elf"], "truncated"],
    "a text": [["run", "text.txt"], "neither ELF nor multiboot"],
    "a name with a zero byte": [["run", "a\0b"], r"a\\x00b"],
    "a guest that is not there": [["run", "guest:minos"], "minios"],
    "unknown technique": [["run", "hello.asm", "--under", "nativ"], "native"],
    "no technique": [["run", "hello.asm", "--under", ""], "choose one of"],
    "one technique to compare": [["compare", "hello.asm", "--under", "native"], "two techniques"],
    "unknown technique to compare": [["compare", "hello.asm", "--under", "native,x"], "unknown technique 'x'"],
    "unknown CPU": [["run", "hello.asm", "--cpu", "8086"], "pentium-4"],
    "no size": [["run", "hello.asm", "--memory", "much"], "16M"],
    "negative size": [["run", "hello.asm", "--memory=-16M"], "16M"],
    "odd size": [["run", "hello.asm", "--memory", "1000001"], "multiple of 4096"],
    "no memory": [["run", "hello.asm", "--memory", "0"], "multiple of 4096"],
    "absurd memory": [["run", "hello.asm", "--memory", "999999999G"], "multiple of 4096"],
    "a size of many digits": [["run", "hello.asm", "--memory", "9" * 5000], "16M"],
    "no limit": [["run", "hello.asm", "--max-instructions", "0"], "positive"],
    "negative limit": [["run", "hello.asm", "--max-instructions=-5"], "positive"],
    "a limit that is none": [["run", "hello.asm", "--max-instructions", "5_"], "positive"],
    "a limit of many digits": [["run", "hello.asm", "--max-instructions", "9" * 5000], "positive"],
    "an unknown escape": [["run", "hello.asm", "--input", r"a\q"], r"no escape '\\\\q'"],
    "half an escape": [["run", "hello.asm", "--input", r"\x4"], "escape"],
    "an escape at the end": [["run", "hello.asm", "--input", "abc\\"], "escape"],
    "a character by name": [["run", "hello.asm", "--input", r"\u20ac"], "escape"],
    "an unknown escape at the keyboard": [["run", "hello.asm", "--keys", r"a\q"], r"no escape '\\\\q'"],
    "a key that is not there": [["run", "hello.asm", "--keys", "\u20ac"], "US keyboard"],
    "an odd disk": [["run", "hello.asm", "--disk", "text.txt"], "truncated"],
    "an empty disk": [["run", "hello.asm", "--disk", "empty.elf"], "empty"],
    "a directory as disk": [["run", "hello.asm", "--disk", "."], "directory"],
    "too many disks beside a boot disk": [
        ["run", "boot.img", "--disk", "boot.img", "--disk", "boot.img"],
        "1 more at most",
    ],
    "more image than memory": [["run", "large.bin", "--memory", "1M"], "memory"],
    "bad assembly": [["run", "bad.asm"], "bad.asm: line 2, column "],
    "assembly that is no text": [["run", "noise.asm"], "noise.asm"],
    "a missing disk": [["run", "hello.asm", "--disk", "none.img"], "none.img"],
    "too many disks": [["run", "hello.asm", "--disk", "a", "--disk", "b", "--disk", "c"], "at most 2"],
}


@pytest.fixture
def wrong_files(folder):
    (folder / "folder.asm").mkdir()
    (folder / "empty.elf").touch()
    (folder / "empty.asm").touch()
    (folder / "long.elf").write_bytes(elf(machine=62))
    (folder / "arm.elf").write_bytes(elf(machine=40))
    (folder / "object.o").write_bytes(elf(kind=1))
    (folder / "half.elf").write_bytes(elf(length=30))
    (folder / "three.elf").write_bytes(elf(length=3))
    (folder / "cut.elf").write_bytes(elf(length=86))
    (folder / "text.txt").write_text("this is no kernel")
    (folder / "boot.img").write_bytes(bytes(510) + b"\x55\xaa")
    (folder / "large.bin").write_bytes(bytes(1 << 20))
    (folder / "bad.asm").write_text("start: nop\n movv eax, 5\n")
    (folder / "noise.asm").write_bytes(b"\xff\xfe\x00\x80")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_gets_one_line_and_exit_code_2(name, ask, wrong_files):
    import re

    arguments, expected = WRONG[name]
    code, out, err = ask(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("vmlab")
    assert "Traceback" not in err
    assert "\0" not in err
    assert len(err) < 6_000
    assert re.search(expected, err)


def test_the_same_through_a_process(folder, wrong_files):
    """The installed program: exit codes, streams, no traceback."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}
    options = {"capture_output": True, "env": environment, "cwd": folder, "timeout": 120}
    program = [sys.executable, "-W", "error", "-m", "vmlab.cli"]
    bad = subprocess.run([*program, "run", "half.elf"], check=False, **options)
    assert (bad.returncode, bad.stdout, bad.stderr.count(b"\n")) == (2, b"", 1)
    assert b"truncated" in bad.stderr
    good = subprocess.run(
        [*program, "run", "echo.asm", "--under", "trap-and-emulate", "--input", r"\xc3\xa9."], check=False, **options
    )
    assert (good.returncode, good.stderr) == (0, b"")
    assert good.stdout.startswith(b"\\xe9.")  # this terminal knows no é


def test_a_reader_that_goes_away_is_no_error(folder):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "vmlab.cli", "run", "hello.asm"], stdout=writer, stderr=subprocess.PIPE, env=environment, cwd=folder, timeout=120, check=False)  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupt_from_the_keyboard(ask, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "read_image", interrupted)
    assert ask("run", "hello.asm") == (130, "", "vmlab: interrupted\n")


def test_streams_that_are_not_files_are_left_alone(folder, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["run", "hello.asm", "--json"]) == 0
    assert json.loads(stream.getvalue())["console"] == "hello\n"


def test_escapes():
    assert cli.read_input("") == b""
    assert cli.read_input("plain\udcff") == b"plain\xff"  # a byte of the shell's that is no text
    with pytest.raises(OptionError, match=r"write \\n"):
        cli.read_input("\\")


# -- saved states --------------------------------------------------------------------------------------------------------


def test_a_run_is_saved_at_a_text_and_goes_on(tmp_path, capsys):
    state = tmp_path / "booted.vmlab"
    assert cli.main(["run", "guest:minios", "--until", "awake: 2\\n", "--save", str(state), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["outcome"] == "until"
    assert "awake: 3" not in first["console"]
    assert cli.main(["run", str(state), "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert cli.main(["run", "guest:minios", "--json"]) == 0
    assert second == json.loads(capsys.readouterr().out)


def test_a_text_that_never_comes(tmp_path, capsys):
    state = tmp_path / "booted.vmlab"
    assert cli.main(["run", "guest:hello", "--until", "$ ", "--save", str(state)]) == 1
    out, err = capsys.readouterr()
    assert "Hello from a real x86 guest." in out
    assert err == "vmlab: the console has not shown '$ ', and nothing is saved\n"
    assert not state.exists()


def test_input_for_a_saved_state_and_options_that_it_keeps(tmp_path, capsys):
    state = tmp_path / "asleep.vmlab"
    assert cli.main(["run", "guest:echo", "--save", str(state)]) == 0
    assert "echo under native: halt" in capsys.readouterr().out
    assert cli.main(["run", str(state), "--input", "typed\\x04"]) == 0
    assert capsys.readouterr().out.startswith("typed\necho under native: exit with status 1\n")
    assert cli.main(["run", str(state), "--memory", "8M"]) == 2
    assert "a saved system keeps its memory" in capsys.readouterr().err
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 4
    state.write_bytes(data)
    assert cli.main(["run", str(state)]) == 2
    assert "damaged or truncated" in capsys.readouterr().err
