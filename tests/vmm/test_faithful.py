"""Random kernels of every kind under every technique that ought to be faithful: bit for bit what they are natively.

Trap-and-emulate is so exactly where a kernel executes nothing that is sensitive, unprivileged and shows it: those kernels are
told by the instructions that they execute.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vmm.harness import differences, finish, kernel, seen
from tests.vmm.mode_kernels import IPI, ModeWriter
from tests.vmm.random_kernels import PaeWriter, SensitiveWriter, Writer
from tests.vmm.test_random_kernels import Drawn
from vmlab.isa.x86.operands import SegmentOperand
from vmlab.isa.x86.registers import CS, VM
from vmlab.vmm.techniques import TECHNIQUES, build

LIMIT = 8_000
WRITERS = {"plain": Writer, "PAE": PaeWriter, "sensitive": SensitiveWriter, "modes": ModeWriter}
WAYS = [
    (technique, memory)
    for technique, kind in TECHNIQUES.items()
    if technique not in ("native", "trap-and-emulate") and not kind.needs_port
    for memory in kind.memory_virtualizations
]
"""All but those that are not faithful, or run ported guests alone."""
TELLING = ("system-register", "flags", "selector-check")
"""Groups of sensitive unprivileged instructions that show a kernel its ring or its tables; loads of segments are checked with the
RPL that a kernel uses, and interrupts trap."""


def options(writer: str, under: str) -> dict:
    """A guest's physical addresses are as wide as the host's, where it has PAE: see `vmlab.vmm.hardware_assist`."""
    wide = {"vt-x": "westmere", "amd-v": "barcelona"} if writer == "PAE" else {}
    return {"cpu": wide.get(under, "pentium-4")}


def check(image, writer: str, way: tuple[str, str], listing: str) -> None:
    """Compare a kernel under a technique with the bare machine; a failure prints where it comes from."""
    under, memory = way
    own = {"max_instructions": LIMIT, "input": "abcdef", **options(writer, under)}
    native = finish(image, "native", **own)
    virtual = finish(image, under, memory_virtualization=memory, **own)
    found = differences(seen(native.guests[0]), seen(virtual.guests[0]))
    assert not found, "\n".join([f"{writer} kernel, {image.name}, under {under}/{memory}:", *found, listing])


def check_seeds(writer: str, seeds: range) -> None:
    """Each seed under one of the techniques in turn, or under all in a long run."""
    for seed in seeds:
        text = WRITERS[writer](random.Random(seed)).kernel()
        check(kernel(text, f"seed {seed}"), writer, WAYS[seed % len(WAYS)], text)


@pytest.mark.parametrize(
    ("writer", "way"),
    [
        pytest.param(writer, way, id=f"{writer}-{'/'.join(way)}")
        for writer in ("sensitive", "modes")
        for way in WAYS
        if writer == "modes" or way[0] != "binary-translation"  # tests/vmm/test_binary_translation.py has those
    ],
)
def test_kernels_under_every_faithful_technique(writer, way):
    for seed in range(8):
        text = WRITERS[writer](random.Random(seed)).kernel()
        check(kernel(text, f"seed {seed}"), writer, way, text)


@pytest.mark.parametrize("way", WAYS, ids="/".join)
@given(data=st.data())
@settings(max_examples=6)
def test_kernels_that_shrink(way, data):
    text = ModeWriter(Drawn(data)).kernel()
    check(kernel(text), "modes", way, text)


@pytest.mark.long
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("group", range(100))
def test_ten_thousand_kernels(writer, group):
    """25 kernels in each of the 400 groups, each kernel under one technique."""
    first = 100_000 + 25 * group
    check_seeds(writer, range(first, first + 25))


def test_the_kernels_reach_every_mode():
    """What the sample above is about happens in it: seeds 0 to 7 run virtual-8086 code, 16-bit code, ring 3, and take an IPI."""
    seen_modes = set()
    for seed in range(8):
        system = build(
            kernel(ModeWriter(random.Random(seed)).kernel()), "native", max_instructions=LIMIT, engine="interpreter"
        )
        cpu = system.guests[0].vcpu
        while not system.finished:
            system.advance(1)
            seen_modes |= {("virtual-8086", bool(cpu.flags & VM)), ("ring", cpu.cpl)}
            seen_modes |= {
                ("width", 32 if cpu.segments[CS].big else 16),
                ("IPI", system.guests[0].memory.read(0x2807E0, 4) > 0),
            }
    wanted = {("virtual-8086", True), ("ring", 0), ("ring", 3), ("width", 16), ("IPI", True)}
    assert wanted <= seen_modes
    assert IPI >= 32


def tells(image) -> bool:
    """Say whether a kernel executes something that may show it a technique without extensions, by its class."""
    system = build(image, "native", max_instructions=LIMIT, input="abcdef", engine="interpreter")
    cpu, found = system.guests[0].vcpu, []

    def look(_linear, instruction, semantic):
        row = instruction.row
        stores = row.group == "segment" and not isinstance(instruction.operands[0], SegmentOperand)
        if row.group in TELLING or (stores and cpu.cpl == 0):
            found.append(row.mnemonic)
        return semantic

    cpu.spy = look
    system.run()
    return bool(found)


@pytest.mark.parametrize("writer", ["plain", "sensitive"])
def test_trap_and_emulate_is_right_where_nothing_tells(writer):
    right = wrong = 0
    for seed in range(12):
        image = kernel(WRITERS[writer](random.Random(seed)).kernel(), f"seed {seed}")
        own = {"max_instructions": LIMIT, "input": "abcdef"}
        first, other = (seen(finish(image, under, **own).guests[0]) for under in ("native", "trap-and-emulate"))
        differs = bool(differences(first, other))
        told = tells(image)
        assert not (told and writer == "plain"), f"seed {seed}"
        assert told or not differs, f"{writer}, seed {seed}"
        right, wrong = right + (not differs), wrong + differs
    assert right if writer == "plain" else wrong
