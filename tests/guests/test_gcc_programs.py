"""C programs compiled by gcc behave on the machine as they do on the host, under every technique."""

from __future__ import annotations

import hashlib
import zlib

import pytest

import vmlab
from tests.kernels.build import PROGRAMS, VARIANTS, build, expected

LIMIT = 5_000_000
OTHERS = [name for name, kind in vmlab.TECHNIQUES.items() if name != "native" and not kind.needs_port]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def compiled(cc32, folder):
    """Return the image of a program in a variant; each is compiled once."""
    images = {}

    def get(name, variant, bits=32):
        if (name, variant, bits) not in images:
            compiler = cc32 if bits == 32 else ["gcc"]
            images[name, variant, bits] = vmlab.load(build(name, variant, compiler, folder, bits=bits))
        return images[name, variant, bits]

    return get


@pytest.fixture(scope="module")
def oracle(folder):
    """Return what a program prints as a process of the host; each is compiled and run once."""
    texts = {}

    def get(name):
        if name not in texts:
            texts[name] = expected(name, folder)
        return texts[name]

    return get


@pytest.fixture(scope="module")
def ran(compiled):
    """Return a run's figures and the digest of the memory that it leaves; each is run once."""
    runs = {}

    def get(name, variant, technique):
        if (name, variant, technique) not in runs:
            run = vmlab.run(compiled(name, variant), under=technique, max_instructions=LIMIT)
            memory = run.guests[0].memory
            digest = hashlib.sha256(memory.read_bytes(0, memory.size)).hexdigest()
            runs[name, variant, technique] = run.to_dict() | {"memory": digest}
        return runs[name, variant, technique]

    return get


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_prints_natively_what_it_prints_on_the_host(name, variant, ran, oracle):
    run = ran(name, variant, "native")
    assert run["console"] == oracle(name)
    assert (run["outcome"], run["status"]) == ("exit", 1)


OFTEN = ("O0", "O2-endbr")


@pytest.mark.parametrize(
    "variant", [each if each in OFTEN else pytest.param(each, marks=pytest.mark.long) for each in VARIANTS]
)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("under", ["native", "vt-x"])
def test_a_program_of_64_bits_prints_in_long_mode_what_it_prints_on_the_host(under, name, variant, compiled, oracle):
    run = vmlab.run(compiled(name, variant, 64), under=under, cpu="core-2", max_instructions=LIMIT)
    assert run.console == oracle(name)
    assert (run.outcome, run.status) == ("exit", 1)
    assert run.guests[0].vcpu.code_64


@pytest.mark.parametrize("technique", OTHERS)
@pytest.mark.parametrize("variant", ["O0", "O2"])
@pytest.mark.parametrize("name", [*PROGRAMS, "system"])
def test_a_program_cannot_tell_a_technique_from_the_bare_machine(name, variant, technique, ran):
    native, other = ran(name, variant, "native"), ran(name, variant, technique)
    for figure in ("console", "outcome", "status", "instructions", "memory"):
        assert other[figure] == native[figure], figure


def test_the_oracle_itself_computes_known_checksums(oracle):
    text = b"The quick brown fox jumps over the lazy dog"
    lines = oracle("checksums").splitlines()
    assert lines[:2] == [f"{zlib.crc32(text):08x}", hashlib.sha256(text).hexdigest()]


def test_the_variant_with_endbr_begins_its_functions_with_it(compiled):
    endbr32 = bytes.fromhex("f30f1efb")
    for variant in VARIANTS:
        image = compiled("recursion", variant)
        start = image.symbols["program"]
        (text,) = [segment for segment in image.segments if segment.address <= start < segment.end]
        found = text.data[start - text.address :].startswith(endbr32)
        assert found is variant.endswith("endbr")


def test_long_division_is_done_by_functions_of_libgcc(compiled):
    # Were it not so, the program would not test what it is for.
    assert {"__udivdi3", "__divdi3", "__umoddi3", "__moddi3"} <= set(compiled("division64", "O0").symbols)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_kernel_in_c_runs_its_processes(variant, ran):
    run = ran("system", variant, "native")
    lines = run["console"].splitlines()
    assert (run["outcome"], run["status"]) == ("exit", 1)
    assert lines[0] == "paging is on"
    # Processes 0 and 1: three pages that appeared when they were touched, holding 0x1000, 0x2000 and 0x3000.
    for number in "01":
        said, ended = lines.index(f"process {number} says {0x6000}"), lines.index(f"process {number} is ended")
        assert said < ended
        assert lines[ended - 1] == "exception 0, error code 0"
    # Process 2: a write (2) in user mode (4) to a page that is there (1), the kernel's.
    assert lines.index("process 2 says 77") < lines.index("exception 14, error code 7, address 00100000")
    assert lines[lines.index("process 2 is ended") - 1] == "exception 14, error code 7, address 00100000"
    # Two calls of each of processes 0 and 1, one of process 2 (those for the time are not counted).
    assert lines[-1] == "5 calls, 3 faults, 6 repaired, enough ticks"
    assert len(lines) == 11
