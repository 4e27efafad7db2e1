"""Several guests on one host: each as if it were alone, and none waits for ever."""

from __future__ import annotations

import pytest

from tests.vmm.harness import differences, finish, kernel, seen
from tests.vmm.hostile import neighbour
from vmlab import guests as own
from vmlab.errors import OptionError
from vmlab.vmm.host_memory import MOST_VCPUS
from vmlab.vmm.run import run
from vmlab.vmm.techniques import build

COUNTER = "main: mov ecx, {count}\n.l: inc dword [FREE]\n add eax, [FREE]\n loop .l\n call print_number\n call quit"
SLEEPER = """
main:   mov dword [hooks + 0x20 * 4], acknowledge
        mov ah, 0xFE
        call pic_on
        mov ecx, 500
        call timer_on
.sleep: sti
        hlt
        cmp dword [events], 12
        jb .sleep
        cli
        call quit
"""


@pytest.fixture
def images():
    return [kernel(COUNTER.format(count=9_000), "counter"), kernel(SLEEPER, "sleeper"), neighbour()]


@pytest.fixture
def alone(images):
    systems = [finish(image, "trap-and-emulate") for image in images]
    return [(seen(system.guests[0]), system.guests[0].exits) for system in systems]


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0), (0, 1, 2), (2, 1, 0), (1, 1, 2)])
def test_each_as_if_it_were_alone(order, images, alone):
    system = finish([images[n] for n in order], "trap-and-emulate")
    for guest, n in zip(system.guests, order, strict=True):
        assert differences(alone[n][0], seen(guest)) == []
        assert guest.exits == alone[n][1]
    assert system.counters["world switches"] >= len(order) - 1


def test_slices_and_world_switches_are_counted(monkeypatch):
    monkeypatch.setattr("vmlab.vmm.hypervisor.QUANTUM", 1_000)
    image = kernel("main: jmp $")
    events = []
    system = build([image, image], "trap-and-emulate", memory=8 << 20, max_instructions=10_000, detail="events")
    system.trace.observers.append(events.append)
    system.run()
    switches = [event for event in events if event.kind == "switch"]
    assert [event.guest for event in switches] == [1, 0] * 9 + [1]
    assert [(event.previous, event.guest) for event in switches[:2]] == [(0, 1), (1, 0)]
    assert system.counters["world switches"] == len(switches) == 19
    assert system.cycles_by_cause()["world switches"] == 19 * system.machine.cpu.model.costs.vmm_world_switch
    assert [guest.outcome for guest in system.guests] == ["limit", "limit"]
    assert [guest.instructions for guest in system.guests] == [10_000, 10_000]


def test_a_guest_that_halts_for_ever_does_not_stop_the_others(images):
    system = finish(
        [kernel("main: cli\n hlt"), images[0], kernel("main: ud2\n hlt")], "trap-and-emulate", max_instructions=60_000
    )
    assert [guest.outcome for guest in system.guests] == ["halt", "exit", "limit"]
    assert system.guests[1].console.splitlines()[-1] == "00000000"


def test_the_same_image_three_times():
    image = own.load("minios")
    result = run([image] * 3, "trap-and-emulate")
    texts = {guest.console for guest in result.guests}
    assert len(texts) == 1
    assert run(image).console in texts
    assert [guest.name for guest in result.guests] == ["minios 0", "minios 1", "minios 2"]


def test_input_goes_to_each():
    echo = kernel(
        "main: mov dx, 0x3FD\n.w: in al, dx\n test al, 1\n jz .w\n mov dx, 0x3F8\n in al, dx\n out dx, al\n cmp al, '!'\n je quit\n mov dx, 0x3FD\n jmp .w"
    )
    result = run([echo, echo], "trap-and-emulate", input="hi!", memory=8 << 20)
    assert [guest.console[:3] for guest in result.guests] == ["hi!", "hi!"]


def test_as_many_guests_as_fit():
    image = kernel("main: call paging_on\n mov eax, [0x700000]\n call quit")
    result = run([image] * 20, "trap-and-emulate", memory=8 << 20)
    assert {guest.outcome for guest in result.guests} == {"exit"}
    with pytest.raises(OptionError, match=f"at most {MOST_VCPUS}"):
        build([image] * (MOST_VCPUS + 1), "trap-and-emulate", memory=1 << 20)
    with pytest.raises(OptionError, match="natively one system"):
        build([image, image])
