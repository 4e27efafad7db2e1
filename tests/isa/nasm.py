"""NASM as an oracle: assemble a source, or many single lines at once."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

MARK = b"\x0f\x0b<mark>"
_ERROR = re.compile(r":(\d+): error")


def nasm(source: str) -> tuple[bytes | None, str]:
    """Return NASM's flat image, or None, and what it says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.asm")
        path.write_text(source)
        command = ["nasm", "-w-all", "-f", "bin", "-o", f"{folder}/a.bin", str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        return (Path(folder, "a.bin").read_bytes() if run.returncode == 0 else None), run.stderr


def nasm_lines(lines: list[str], bits: int) -> dict[str, bytes | None]:
    """Return the bytes of each line, assembled alone, None for one that NASM refuses.

    All are assembled in one run, each between two marks; a second run leaves out what the first refused.
    """
    result: dict[str, bytes | None] = dict.fromkeys(lines)
    accepted = list(result)
    mark = "db " + ",".join(str(byte) for byte in MARK)
    while True:
        source = f"bits {bits}\n" + "".join(f"{mark}\n{line}\n" for line in accepted) + mark + "\n"
        image, messages = nasm(source)
        if image is not None:
            break
        refused = {(int(number) - 3) // 2 for number in _ERROR.findall(messages)}
        assert refused, messages
        accepted = [line for position, line in enumerate(accepted) if position not in refused]
    return result | dict(zip(accepted, image.split(MARK)[1:-1], strict=True))
