"""Wrong arguments to the facade: one clear message each, that names what is allowed."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.errors import OptionError, VmlabError

HELLO = vmlab.guests.load("hello")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vmlab.run("x"), "boots an Image"),
        (lambda: vmlab.run(None), "boots an Image"),
        (lambda: vmlab.run([]), "at least one guest"),
        (lambda: vmlab.run([HELLO] * 2), "choose a hypervisor"),
        (lambda: vmlab.run([HELLO] * 40, under="trap-and-emulate", memory=1 << 20), "too many"),
        (lambda: vmlab.run(HELLO, under=5), "choose one of native"),
        (lambda: vmlab.run(HELLO, under=["native"]), "choose one of native"),
        (lambda: vmlab.run(HELLO, under="nativ"), "did you mean 'native'"),
        (lambda: vmlab.run(HELLO, memory=-1), "multiple of 4096"),
        (lambda: vmlab.run(HELLO, memory="16M"), "multiple of 4096"),
        (lambda: vmlab.run(HELLO, memory=2**40), "from 1048576"),
        (lambda: vmlab.run(HELLO, cpu="z80"), "pentium-4"),
        (lambda: vmlab.run(HELLO, memory=True), "multiple of 4096"),
        (lambda: vmlab.run(HELLO, memory=1e9), "multiple of 4096"),
        (lambda: vmlab.run(HELLO, cpu=["pentium-4"]), "unknown CPU model"),
        (lambda: vmlab.run(HELLO, disks=None), "a list of at most 2"),
        (lambda: vmlab.run(HELLO, disks=5), "a list of at most 2"),
        (lambda: vmlab.run(HELLO, disks=iter([])), "a list of at most 2"),
        (lambda: vmlab.run(HELLO, disks=[b"x"]), "truncated"),
        (lambda: vmlab.run(HELLO, disks=[b""]), "empty"),
        (lambda: vmlab.run(HELLO, disks=["/no/such/file"]), "no such file"),
        (lambda: vmlab.run(HELLO, disks=["/"]), "directory"),
        (lambda: vmlab.run(HELLO, disks=["/dev/zero"]), "not a regular file"),
        (lambda: vmlab.run(HELLO, disks=["a\0b"]), "cannot be read|no such file"),
        (lambda: vmlab.run(HELLO, input=None), "a text or bytes"),
        (lambda: vmlab.run(HELLO, input="\ud800"), "no text to send"),
        (lambda: vmlab.run(HELLO, keys=5), "a text, or a list of times and texts"),
        (lambda: vmlab.run(HELLO, keys=b"x"), "a text, or a list of times and texts"),
        (lambda: vmlab.run(HELLO, keys=[(-1, "x")]), "a text, or a list of times and texts"),
        (lambda: vmlab.run(HELLO, keys=[(1 << 70, "x")]), "a text, or a list of times and texts"),
        (lambda: vmlab.run(HELLO, keys=[(2, "x"), (1, "y")]), "in the order of their times"),
        (lambda: vmlab.run(HELLO, keys="\u00e9"), "no key of a US keyboard"),
        (lambda: vmlab.run(HELLO, max_instructions=0), "positive"),
        (lambda: vmlab.run(HELLO, max_instructions="many"), "positive"),
        (lambda: vmlab.run(HELLO, input=5), "bytes"),
        (lambda: vmlab.run(HELLO, engine="warp"), "interpreter"),
        (lambda: vmlab.run(HELLO, colour="red"), "no option 'colour'"),
        (lambda: vmlab.record(HELLO, colour="red"), "no option 'colour'"),
        (lambda: vmlab.compare(HELLO, under="native"), "two techniques"),
        (lambda: vmlab.compare(HELLO, under=["native", "fast"]), "unknown technique 'fast'"),
        (lambda: vmlab.compare(HELLO, under=5), "two techniques"),
        (lambda: vmlab.record(HELLO).seek(-1), "from 0 to"),
        (lambda: vmlab.show(5), "takes a Recording"),
        (lambda: vmlab.show(vmlab.run(HELLO)), "takes a Recording"),
        (lambda: vmlab.show(vmlab.record(HELLO), step=10**9), "no step"),
        (lambda: vmlab.layers(5), "takes a Run, a Recording or a System"),
        (lambda: vmlab.load(None), "from a path"),
        (lambda: vmlab.load("/no/such/file"), "no such file"),
        (lambda: vmlab.load_state("/dev/zero"), "not a regular file"),
        (lambda: vmlab.load_state("/"), "not a regular file"),
        (lambda: vmlab.save(vmlab.run(HELLO), "/"), "give the name of a file"),
        (lambda: vmlab.save(vmlab.run(HELLO), ""), "give the name of a file"),
        (lambda: vmlab.run(HELLO, cpus=0), "1 to 16"),
        (lambda: vmlab.run(HELLO, cpus=10**9), "1 to 16"),
        (lambda: vmlab.run(HELLO, cpus=True), "1 to 16"),
        (lambda: vmlab.load("/"), "directory"),
        (lambda: vmlab.load("/dev/zero"), "not a regular file"),
        (lambda: vmlab.load("a\0b"), "cannot be read|no such file"),
        (lambda: vmlab.load("x" * 5000), "cannot be read|no such file"),
        (lambda: vmlab.guests.load([]), "no guest"),
        (lambda: vmlab.disassemble("90"), "machine code is bytes"),
        (lambda: vmlab.disassemble(b"\x90", "0"), "an address is an int"),
        (lambda: vmlab.disassemble(b"\x90", 0, 8), "16, 32 or 64"),
        (lambda: vmlab.assemble(5), "text"),
        (lambda: vmlab.assemble("hlt", 5), "name is text"),
        (lambda: vmlab.boot_sector(""), "empty"),
        (lambda: vmlab.boot_sector("hlt", 5), "name is text"),
        (lambda: vmlab.assemble(""), "empty"),
        (lambda: vmlab.assemble("times 1000000000 db 0"), "exceeds"),
        (lambda: vmlab.run(vmlab.assemble("org 0x7fffffff\nhlt")), "give --memory"),
    ],
)
def test_misuse_is_explained(call, message):
    with pytest.raises(VmlabError, match=message):
        call()


def test_an_option_error_is_a_value_error():
    with pytest.raises(ValueError, match="unknown CPU model"):
        vmlab.run(HELLO, cpu="none")
    assert issubclass(OptionError, VmlabError)
