"""The command line: `vmlab run`, `vmlab compare`, `vmlab lab`, `vmlab glossary`, `vmlab doctor`.

A wrong argument gets one clear line on standard error and exit code 2, never a traceback.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vmlab.errors import AssemblyError, OptionError, VmlabError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmlab.machine.image import Image
    from vmlab.vmm.run import Run
    from vmlab.vmm.snapshot import Snapshot

__all__ = ["main"]

NOT_REACHED = 1
WRONG_USE = 2
INTERRUPTED = 130
ESCAPES = {"n": 10, "r": 13, "t": 9, "b": 8, "e": 27, "0": 0, "\\": 92}
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def parse_size(text: str) -> int:
    """Read a size as `16M`, `4096`, `0x400000`.

    >>> parse_size("16M")
    16777216

    Raises
    ------
    OptionError
        It is no size.
    """
    found = re.fullmatch(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,18})([kKmMgG]?)(?:i?[bB])?", text.strip())
    if not found:
        raise OptionError(f"memory size {text!r} is not a number of bytes: write it as 16M, 4096K or 16777216")
    return int(found[1], 0 if found[1][:2].lower() == "0x" else 10) * UNITS[found[2].upper()]


def read_count(text: str, what: str = "limit of instructions", example: str = "50000000 or 50_000_000") -> int:
    """Read a positive count, digit groups allowed as in Python (`50_000_000`); say what it is where it is none.

    Raises
    ------
    OptionError
        It is none.
    """
    if len(text) > 24 or not re.fullmatch(r"[0-9]+(_[0-9]+)*", text) or int(text) <= 0:
        raise OptionError(f"the {what} is a positive number, as {example}, not {text!r}")
    return int(text)


def read_input(text: str) -> bytes:
    r"""Read what is to be typed at the serial console: text with the escapes `\n \r \t \b \e \0 \\ \xHH`.

    >>> read_input(r"ls\n\x04")
    b'ls\n\x04'

    Raises
    ------
    OptionError
        There is no such escape.
    """
    result = bytearray()
    for found in re.finditer(r"\\x([0-9a-fA-F]{2})|\\(.?)|([^\\]+)", text, re.DOTALL):
        if found[1]:
            result.append(int(found[1], 16))
        elif found[3]:
            result += found[3].encode("utf-8", "surrogateescape")
        elif found[2] in ESCAPES:
            result.append(ESCAPES[found[2]])
        else:
            allowed = " ".join(f"\\{letter}" for letter in ESCAPES)
            raise OptionError(
                f"there is no escape {found[0]!r} in {text!r}: write {allowed} or \\x and two hexadecimal digits"
            )
    return bytes(result)


def read_image(path: str) -> Image | Snapshot:
    """Load an image file or a saved state, assemble a source file (`.asm`), or take a guest of vmlab's (`guest:minios`).

    Raises
    ------
    ImageError, AssemblyError, OptionError, StateError
        As the loader, the assembler or the list of guests says.
    """
    import vmlab
    from vmlab.errors import ImageError
    from vmlab.machine.state_file import is_state_file

    if path.startswith("guest:"):
        return vmlab.guests.load(path.removeprefix("guest:"))
    if path.endswith((".asm", ".s", ".S")):
        try:
            source = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ImageError(f"{path}: cannot be read as assembly source: {error}") from None
        return vmlab.assemble(source, path)
    return vmlab.load_state(path) if is_state_file(path) else vmlab.load(path)


def read_pairs(text: str) -> dict[str, object]:
    """Return names and values, as `sets=16,ways=4,replacement=lru`.

    >>> read_pairs("sets=16,replacement=lru,counts_hits=True")
    {'sets': 16, 'replacement': 'lru', 'counts_hits': True}
    """
    words: dict[str, object] = {"True": True, "False": False}
    found: dict[str, object] = {}
    for each in text.split(","):
        name, equals, value = each.partition("=")
        if not equals:
            raise OptionError(f"{each!r} is no name and value: write them as sets=16,ways=4,replacement=lru")
        found[name.strip()] = int(value) if value.isdecimal() and value.isascii() else words.get(value, value.strip())
    return found


def read_switch(text: str) -> bool:
    """Return whether something is to be on."""
    if text not in ("on", "off"):
        raise OptionError(f"walk caches are on or off, not {text!r}")
    return text == "on"


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given: a saved state keeps its own, an image gets the defaults."""
    readers: dict[str, Callable[[str], object]] = {
        "memory": parse_size,
        "cpu": str,
        "memory_virtualization": str,
        "host_cpu": str,
        "ept_pages": str,
        "shadow_policy": str,
        "tlb": read_pairs,
        "walk_caches": read_switch,
        "cpus": lambda text: read_count(text, "number of processors", "1 or 2"),
        "max_instructions": read_count,
        "input": read_input,
        "keys": lambda text: read_input(text).decode("utf-8", "replace"),
    }
    given = {name: read(text) for name, read in readers.items() if (text := getattr(arguments, name)) is not None}
    return given | ({"disks": arguments.disk} if arguments.disk else {})


def _run(arguments: argparse.Namespace) -> int:
    import vmlab

    until = None if arguments.until is None else read_input(arguments.until)
    result = vmlab.run(read_image(arguments.image), arguments.under, until=until, **_options(arguments))
    if until is not None and not result.reached:
        _print_run(arguments, result)
        saved = "" if arguments.save is None else ", and nothing is saved"
        print(f"vmlab: the console has not shown {arguments.until!r}{saved}", file=sys.stderr)
        return NOT_REACHED
    if arguments.save is not None:
        vmlab.save(result, arguments.save)
    _print_run(arguments, result)
    return 0


def _print_run(arguments: argparse.Namespace, result: Run) -> None:
    if arguments.json:
        print(json.dumps(result.to_dict()))
    else:
        sys.stdout.write(result.console)
        if result.console and not result.console.endswith("\n"):
            print()
        if not result.console and result.screen.strip():
            print(result.screen.rstrip())  # what a boot sector has to say
        print(result.describe())


def _compare(arguments: argparse.Namespace) -> int:
    import vmlab

    techniques = arguments.under.split(",")
    image: Any = read_image(arguments.image)
    ported: Any = None if arguments.ported is None else read_image(arguments.ported)
    result = vmlab.compare(image, under=techniques, ported=ported, **_options(arguments))
    if arguments.json:
        rows = [row | {"differences": result.differences(n) if n else []} for n, row in enumerate(result.rows())]
        parting = result.divergence()
        found = None if parting is None else parting.to_dict()
        print(json.dumps({"faithful": result.faithful, "divergence": found, "runs": rows}))
    else:
        print(result.describe())
    return 0 if result.faithful else 1


def _lab(arguments: argparse.Namespace) -> int:
    from vmlab.lab import command

    try:
        return subprocess.call(command(arguments.jupyter))  # noqa: S603 - our own Python, the user's own options
    except KeyboardInterrupt:
        return 0


def _glossary(arguments: argparse.Namespace) -> int:
    import vmlab

    if arguments.search is not None:
        print(repr(vmlab.glossary().search(arguments.search)))
    else:
        print(repr(vmlab.glossary(" ".join(arguments.term) or None)))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from vmlab.doctor import diagnose

    checks = diagnose()
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}")
        if check.advice:
            print(f"      {check.advice}")
    return 0 if all(check.ok for check in checks) else 1


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image",
        help="ELF or flat image, boot disk, assembly source (.asm), saved state, or guest:NAME for one of vmlab's own",
    )
    parser.add_argument("--memory", help="memory of the guest, as 16M (the default)")
    parser.add_argument("--cpu", help="CPU model (default: pentium-4)")
    parser.add_argument("--memory-virtualization", help="of a hypervisor: nested or shadow")
    parser.add_argument("--host-cpu", help="CPU model of the host, under vt-x and amd-v")
    parser.add_argument(
        "--ept-pages", help="largest page of nested page tables: '4 KiB', '2 MiB' (the default), '1 GiB'"
    )
    parser.add_argument("--shadow-policy", help="of shadow page tables: cached (the default), traced or flush")
    parser.add_argument("--tlb", help="the processor's TLB, as sets=16,ways=4,replacement=lru")
    parser.add_argument("--walk-caches", help="whether the processor caches page walks: on or off (the default)")
    parser.add_argument("--cpus", help="processors, 1 to 16 (default: 1)")
    parser.add_argument("--max-instructions", help="stop the guest there (default: 50000000)")
    parser.add_argument("--input", help=r"typed at the serial console; \n is a newline")
    parser.add_argument("--keys", help=r"typed at the keyboard; \n is Enter")
    parser.add_argument("--disk", action="append", default=[], help="disk image (never written); twice for two")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vmlab", description="A virtual-machine laboratory: run real x86 guests, see how.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    run = commands.add_parser("run", help="run a guest")
    _add_run_options(run)
    run.add_argument("--under", help="technique (default: native)")
    run.add_argument("--until", help=r"stop when the console has shown this; \n is a newline")
    run.add_argument("--save", metavar="FILE", help="save the state at the end, to run on from it")
    run.set_defaults(action=_run)
    compare = commands.add_parser("compare", help="run a guest under several techniques and compare what it saw")
    _add_run_options(compare)
    compare.add_argument("--under", default="native,trap-and-emulate", help="techniques, with commas (%(default)s)")
    compare.add_argument("--ported", metavar="IMAGE", help="the guest's port, which runs under paravirtualization")
    compare.set_defaults(action=_compare)
    lab = commands.add_parser("lab", help="open the notebooks in JupyterLab; other options are jupyter lab's own")
    lab.set_defaults(action=_lab)
    glossary = commands.add_parser("glossary", help="say what a term of the chapter means, in English and in Korean")
    glossary.add_argument("term", nargs="*", help="the term, in either language (default: the list of all)")
    glossary.add_argument("--search", metavar="TEXT", help="list the terms that have this in a name or a definition")
    glossary.set_defaults(action=_glossary)
    doctor = commands.add_parser("doctor", help="say what is wrong with this environment")
    doctor.set_defaults(action=_doctor)
    return parser


def _one_line(error: VmlabError, image: str | None) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, AssemblyError) and error.line:
        text = f"{image}: line {error.line}, column {error.column}: {error.message}"
    # A file's name may hold anything, and a terminal would obey it.
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    if rest and parsed.action is not _lab:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.jupyter = rest
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a guest may print what this terminal cannot
    try:
        action: int = parsed.action(parsed)
        sys.stdout.flush()
    except VmlabError as error:
        print(f"vmlab: {_one_line(error, getattr(parsed, 'image', None))}", file=sys.stderr)
        return WRONG_USE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return 0
    except KeyboardInterrupt:
        print("vmlab: interrupted", file=sys.stderr)
        return INTERRUPTED
    return action


if __name__ == "__main__":
    sys.exit(main())
