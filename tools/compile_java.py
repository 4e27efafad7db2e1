"""Compile the Java sources that vmlab ships: the virtual machine's library, and its programs.

    python -m tools.compile_java            compile both, in place
    python -m tools.compile_java FOLDER     compile into a folder instead
    python -m tools.compile_java --expect   also run the programs by the real `java`, and store what they print for the tests

The class files are kept in the repository, since who uses vmlab need not have a compiler.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
LIBRARY = PROJECT / "vmlab" / "jvm" / "library"
PROGRAMS = PROJECT / "vmlab" / "guests" / "java"
EXPECTED = PROJECT / "tests" / "jvm" / "expected.json"
MACHINE = PROJECT / "tests" / "jvm" / "real"
"""A class vmlab.Machine in Java, for the real `java`."""

COMMON = ["-nowarn", "-Xlint:-options", "-XDstringConcat=inline", "-implicit:none", "-encoding", "UTF-8"]
QUIET = ["-XX:-ShowCodeDetailsInExceptionMessages", "-XX:TieredStopAtLevel=1", "-Xmx64m", "-Xshare:auto"]


def compile_library(folder: Path) -> None:
    """Compile the library into a folder, against nothing but itself."""
    sources = sorted(map(str, LIBRARY.rglob("*.java")))
    options = ["-source", "8", "-target", "8", "-bootclasspath", "none", "-g:source,lines", "-d", str(folder)]
    _javac(*COMMON, *options, *sources)


def compile_programs(folder: Path, *sources: Path) -> None:
    """Compile programs into a folder: those of vmlab, or others."""
    with tempfile.TemporaryDirectory() as path:
        _javac(*COMMON, "--release", "8", "-d", path, str(LIBRARY / "vmlab" / "Machine.java"))
        options = ["--release", "8", "-g:source,lines", "-cp", path, "-d", str(folder)]
        _javac(*COMMON, *options, *map(str, sources or sorted(PROGRAMS.glob("*.java"))))


def _javac(*arguments: str) -> None:
    done = subprocess.run(["javac", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def run_really(name: str, folder: Path, classes: Path) -> dict[str, str | int]:
    """Run a program by the real `java`; `classes` holds the class vmlab.Machine for it."""
    path = f"{folder}:{classes}"
    done = subprocess.run(["java", *QUIET, "-Dstdout.encoding=UTF-8", "-Dfile.encoding=UTF-8", "-cp", path, name], capture_output=True, text=True, encoding="utf-8", check=False)  # fmt: skip
    return {"output": done.stdout, "errors": done.stderr, "status": done.returncode}


def compile_machine(folder: Path) -> None:
    """Compile the class vmlab.Machine for the real `java`."""
    _javac(*COMMON, "--release", "8", "-d", str(folder), *map(str, MACHINE.rglob("*.java")))


def expect() -> None:
    """Store what the real `java` prints."""
    with tempfile.TemporaryDirectory() as path:
        compile_machine(Path(path))
        names = sorted(source.stem for source in PROGRAMS.glob("*.java"))
        found = {name: run_really(name, PROGRAMS, Path(path)) for name in names}
    EXPECTED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Compile."""
    if not shutil.which("javac"):
        raise SystemExit("javac is missing: install Debian's default-jdk-headless")
    folders = [Path(each) for each in sys.argv[1:] if not each.startswith("-")]
    if folders:
        compile_library(folders[0])
        compile_programs(folders[0])
        return
    for place in (LIBRARY, PROGRAMS):
        for old in place.rglob("*.class"):
            old.unlink()
    compile_library(LIBRARY)
    compile_programs(PROGRAMS)
    if "--expect" in sys.argv:
        expect()


if __name__ == "__main__":
    main()
