"""Wrong arguments to the facade: one clear message each, that names what is allowed."""

from __future__ import annotations

import copy
import pickle

import pytest

import vmlab
from vmlab.errors import OptionError, VmlabError
from vmlab.vmm.session import Session
from vmlab.vmm.snapshot import Snapshot, capture

HELLO = vmlab.guests.load("hello")
SAVED = Snapshot(capture(vmlab.run(HELLO).system))
ECHO = vmlab.record(vmlab.guests.load("echo"), steps=100)


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
        (lambda: vmlab.load_state("/"), "a folder"),
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
        (lambda: vmlab.run([SAVED]), "a saved system goes on alone"),
        (lambda: vmlab.Recording(vmlab.run(HELLO)), "made of a system"),
        (lambda: vmlab.Recording(None), "made of a system"),
        (lambda: ECHO.next([]), "no events of kind"),
        (lambda: ECHO.events_at("1"), "a step is an int"),
        (lambda: vmlab.when.event([]), "no events of kind"),
        (lambda: copy.copy(ECHO), "not copied"),
        (lambda: copy.deepcopy(vmlab.run(HELLO)), "not copied"),
        (lambda: pickle.dumps(ECHO), "vmlab.load_state"),
        (lambda: vmlab.Debugger(ECHO).break_at(-1), "an address is an int from 0"),
        (lambda: vmlab.Debugger(ECHO).break_at(1 << 64), "an address is an int from 0"),
        (lambda: vmlab.Debugger(ECHO).break_at(None), "an address is an int from 0"),
        (lambda: vmlab.Debugger(ECHO).break_when("a" * 10**6), "at most 500 characters"),
        (lambda: vmlab.Debugger(ECHO).remove(1), "there are none"),
        (lambda: vmlab.Debugger(ECHO).watch("start", 0), "from 1 to 4096"),
        (lambda: vmlab.Debugger(ECHO).who_wrote("start", "x"), "from 1 to 4096"),
        (lambda: vmlab.Debugger(ECHO).stack(10**9), "a number of values"),
        (lambda: vmlab.Debugger(ECHO).listing(None), "a number of lines"),
        (lambda: vmlab.Debugger(ECHO).place("start"), "an int"),
        (lambda: vmlab.debug(ECHO, memory=1 << 20), "memory: the recording is made already"),
        (lambda: vmlab.debug(ECHO, "native"), "under: the recording is made already"),
        (lambda: vmlab.console(ECHO, "native"), "under: belongs to the system"),
        (lambda: Session(ECHO).press(None), "a key is named by a str"),
        (lambda: Session(ECHO, screen="cga").press(5), "a key is named by a str"),
        (lambda: Session(ECHO).paste(None), "takes a str"),
        (lambda: Session(ECHO).advance_until_waiting("x"), "a number of steps"),
    ],
)
def test_misuse_is_explained(call, message):
    with pytest.raises(VmlabError, match=message):
        call()


def test_an_option_error_is_a_value_error():
    with pytest.raises(ValueError, match="unknown CPU model"):
        vmlab.run(HELLO, cpu="none")
    assert issubclass(OptionError, VmlabError)


def test_a_refused_command_moves_nothing():
    recording = vmlab.record(HELLO)
    debugger = vmlab.Debugger(recording)
    debugger.goto(100)
    for refused in (lambda: debugger.goto(-1), lambda: debugger.who_wrote("start", 0), lambda: debugger.step(-1)):
        with pytest.raises(VmlabError):
            refused()
    assert recording.position == 100


def test_a_replay_beyond_the_end_is_one_to_the_end():
    recording = vmlab.record(HELLO)
    recording.replay(10**30)
    assert recording.position == recording.length


def test_memory_ends_at_the_last_address():
    rows = vmlab.Debugger(vmlab.record(HELLO)).memory(0xFFFF_FFF8, 64)
    assert [address for address, _ in rows] == [0xFFFF_FFF8]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda image: pickle.loads(pickle.dumps(image))])
def test_an_image_can_be_copied(copied):
    for image in (HELLO, vmlab.boot_sector("start: hlt")):
        again = copied(image)
        assert (again.digest, again.entry, again.symbols) == (image.digest, image.entry, image.symbols)
        with pytest.raises(TypeError):
            again.symbols["start"] = 5
