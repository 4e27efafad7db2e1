"""Compiles the C kernels of the tests: as multiboot kernels for the machine, and for the host as their oracle."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = sorted(path.stem for path in (HERE / "programs").glob("*.c"))

FREESTANDING = [
    "-std=gnu11", "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
]  # fmt: skip
OF_32_BITS = ["-march=i686", "-mno-mmx", "-mno-sse", "-mno-80387"]
# An interrupt would write over the red zone; this processor has general registers alone.
OF_64_BITS = ["-m64", "-mno-red-zone", "-mgeneral-regs-only"]
# It is the processor that is tested, not what C leaves open: wrap around, and no assumptions about aliasing.
MEANING = ["-fwrapv", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror"]

VARIANTS = {
    "O0": ["-O0"],
    "O2": ["-O2"],
    "Os": ["-Os"],
    "O2-endbr": ["-O2", "-fcf-protection=full"],
}
"""Options by name; `endbr32` (or `endbr64`) stands at the start of each function with the last."""


def _compile(command: list[str], result: Path) -> Path:
    done = subprocess.run([*command, "-o", str(result)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
    return result


def source(name: str) -> Path:
    """Return the source of a program, or of the kernel `system`."""
    return HERE / "system.c" if name == "system" else HERE / "programs" / f"{name}.c"


def build(name: str, variant: str, compiler: list[str], folder: Path, *, bits: int = 32) -> Path:
    """Compile a program as a multiboot 1 kernel in ELF; one of 64 bits enters long mode by itself."""
    protection = [] if variant.endswith("endbr") else ["-fcf-protection=none"]
    width = OF_32_BITS if bits == 32 else OF_64_BITS
    options = [*FREESTANDING, *width, *MEANING, *protection, *VARIANTS[variant], f"-I{HERE}", "-Wl,-z,noexecstack"]
    script = [
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=0x1000",
        "-Wl,--no-warn-rwx-segments",
        "-T",
        str(HERE / "kernel.ld"),
    ]
    start = HERE / ("boot.S" if bits == 32 else "boot64.S")
    files = [str(start), str(HERE / "freestanding.c"), str(source(name)), "-lgcc"]
    return _compile([*compiler, *options, *script, *files], folder / f"{name}-{variant}-{bits}.elf")


def expected(name: str, folder: Path) -> str:
    """Compile a program for the host, run it there, and return what it prints."""
    files = [str(HERE / "hosted.c"), str(source(name))]
    program = _compile(["gcc", "-std=gnu11", "-O1", *MEANING, f"-I{HERE}", *files], folder / name)
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout
