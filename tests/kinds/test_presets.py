"""Every preset runs the workload to the same result, its guests see what they see natively, and its parts are those that there are."""

from __future__ import annotations

import pytest

from tests.vmm.harness import differences, seen
from vmlab import guests
from vmlab.errors import OptionError
from vmlab.kinds.hosted import Hosted
from vmlab.kinds.part import LAYERS
from vmlab.kinds.presets import PRESETS, preset
from vmlab.kinds.x86_running import X86Running
from vmlab.vmm.run import run

NAMED = [
    "IBM LPAR", "Oracle LDOM", "VMware ESX", "Joyent SmartOS", "Citrix XenServer", "Microsoft Hyper-V", "Red Hat KVM",
    "VMware Workstation", "VMware Fusion", "Parallels Desktop", "Oracle VirtualBox", "Xen", "Oracle Java", "Microsoft .NET",
    "AArch64 emulator", "Oracle Solaris Zones", "BSD Jails", "IBM AIX WPAR",
]  # fmt: skip
"""Systems that the textbook names, 18.5."""
HOSTED = [
    "Joyent SmartOS",
    "Red Hat KVM",
    "Oracle VirtualBox",
    "VMware Workstation",
    "VMware Fusion",
    "Parallels Desktop",
]
PARTITIONED = ["IBM LPAR", "Oracle LDOM"]
ALONE = ["native machine", "Oracle Java", "Microsoft .NET", "AArch64 emulator"]
EACH = ["plain VM", "IBM LPAR", "Citrix XenServer", "Red Hat KVM", "VMware Workstation"]
"""One of each organization."""


def natively(cpu="pentium-4"):
    return run(guests.load("workload"), disks=[guests.workload_disk()], memory=8 << 20, cpu=cpu)


@pytest.fixture(scope="module")
def native():
    return natively()


def test_all_systems_that_the_textbook_names_are_there():
    assert set(NAMED) <= set(PRESETS)
    for name in NAMED:
        known = PRESETS[name].particulars
        assert all((known.facts, known.source, known.runs, known.not_here))
        assert 1960 < known.since < 2026
        assert known.source in PRESETS[name].describe()


@pytest.mark.parametrize("name", PRESETS)
def test_the_result_is_the_same(name, native):
    running = preset(name).run()
    line = native.console.splitlines()[-1]
    assert line.startswith("primes 303 disk ")
    count = 1 if name in ALONE else 2 + (name in HOSTED)
    assert list(running.results.values()) == [line] * count


@pytest.mark.parametrize("name", EACH)
def test_guests_see_what_they_see_natively(name, native):
    running = preset(name).run()
    if name in PARTITIONED:
        native = natively("westmere")
    first = running.preset.first_guest
    for guest in running.system.guests[first:]:
        assert differences(seen(native.guests[0]), seen(guest)) == []


@pytest.mark.parametrize("name", PRESETS)
def test_parts_hang_together(name):
    running = preset(name)
    running.advance(70_000 if running.preset.kind == "application containment" else 40_000)
    parts = {part.name: part for part in running.parts()}
    for part in parts.values():
        assert part.layer in LAYERS
        assert set(part.runs_on) <= set(parts)
        assert set(part.traps_to) <= set(parts)
        assert part.assigned_to is None or part.assigned_to in parts
        assert part.layer in ("hardware", "firmware") or part.runs_on
    assert running.in_control in parts
    order = [LAYERS.index(part.layer) for part in parts.values()]
    assert order == sorted(order)
    assert running.in_control in running.describe()


@pytest.mark.parametrize("name", EACH)
def test_killing_a_guest_removes_its_parts_and_the_others_go_on(name, native):
    running = preset(name)
    running.advance(30_000)
    first = running.preset.first_guest
    running.kill(f"guest{first}/kernel")
    names = {part.name for part in running.parts()}
    assert not any(f"guest{first}/" in each or each == f"host/vm{first}" for each in names)
    assert f"guest{first + 1}/kernel" in names
    running.run()
    assert running.results[f"guest{first + 1}"] == native.console.splitlines()[-1]
    assert f"guest{first}" not in running.results


@pytest.mark.parametrize("name", ["Citrix XenServer", "IBM LPAR"])
def test_without_the_control_domain_the_others_wait_for_ever(name):
    running = preset(name)
    running.advance(30_000)
    running.kill("guest0/kernel")
    running.run()
    assert running.results == {}
    assert [guest.outcome for guest in running.system.guests[1:]] == ["halt", "halt"]
    assert running.find("hardware/disk").assigned_to is None


@pytest.mark.parametrize("name", ["Red Hat KVM", "VMware Workstation"])
def test_a_process_of_the_host_can_be_killed_and_a_virtual_machine_by_its_process(name):
    running = preset(name)
    running.advance(30_000)
    running.kill("host/process1")
    running.kill("host/vm1")
    assert "host/process1" not in {part.name for part in running.parts()}
    running.run()
    assert list(running.results) == ["guest0"]


def test_a_world_switch_moves_control():
    running = preset("VMware Workstation", guests=1)
    system = running.system
    seen_in, tables = set(), {}
    while not running.finished:
        running.advance(13)
        seen_in.add(running.in_control)
        if system.in_vmm and not system.in_process:
            tables.setdefault(system.in_host_world, set()).add((system.machine.cpu.cr3, system.machine.cpu.idtr_base))
    assert {"vmm", "host/kernel", "guest0/user", "guest0/kernel", "host/process1"} <= seen_in
    assert {cr3 for cr3, _ in tables[False]} == {system.host.root}
    assert {idt for _, idt in tables[True]} == {system.frames.idt} != {system.host.idt}


def test_type_2_costs_more_than_the_same_in_the_hosts_kernel():
    in_kernel, outside, alone = (preset(name, guests=1) for name in ("Red Hat KVM", "VMware Workstation", "VMware ESX"))
    for each in (in_kernel, outside, alone):
        each.run()
    switches = outside.cycles_by_cause()["world switches between VMM and host"]
    assert switches == outside.system.ways["world switches between VMM and host"] * 3261
    assert "world switches between VMM and host" not in in_kernel.system.ways
    assert alone.cycles < in_kernel.cycles < outside.cycles


@pytest.mark.parametrize("name", ["Red Hat KVM", "VMware Workstation", "Citrix XenServer", "VMware ESX"])
def test_a_saved_system_goes_on_as_it_was(name):
    one, other = preset(name), preset(name)
    one.advance(55_555)
    state, memory = one.system.save(), one.system.machine.memory.save()
    other.system.machine.memory.load(memory)
    other.system.load(state)
    assert (one.in_control, one.cycles_by_cause()) == (other.in_control, other.cycles_by_cause())
    one.run(), other.run()
    assert one.system.save() == other.system.save()
    assert one.consoles == other.consoles


def test_kvm_run_returns_where_user_mode_is_needed():
    system = preset("Red Hat KVM", guests=1, processes=0).system
    found = [system.kvm_run() for _ in range(30)]
    assert {each.reason for each in found} == {"KVM_EXIT_IO"}
    assert {each.device for each in found} <= {"uart", "ata0"}
    first = found[0]
    assert (first.port, first.is_in, first.device) == (0x3FD, True, "uart")  # is the transmitter empty?
    last = first
    while last.reason == "KVM_EXIT_IO":
        last = system.kvm_run()
    assert last.reason == "KVM_EXIT_SYSTEM_EVENT"
    assert system.guests[0].outcome == "exit"
    with pytest.raises(OptionError, match="no guest 3"):
        system.kvm_run(3)


def test_kvm_tells_why_it_returns_to_user_mode():
    system = preset("Red Hat KVM", guests=1, processes=0).run().system
    assert isinstance(system, Hosted)
    assert set(system.user_exits) == {"KVM_EXIT_IO"}
    io = system.guests[0].exits["I/O instruction"]
    assert 0 < system.user_exits["KVM_EXIT_IO"] < io  # the PIC's and the timer's ports are the kernel's


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("KVM", {}, "Red Hat KVM"),
        ("red hat kmv", {}, "did you mean 'Red Hat KVM'"),
        (7, {}, "choose one of"),
        ("VMware ESX", {"guests": 0}, "1 to 4, not 0"),
        ("VMware ESX", {"guests": True}, "1 to 4, not True"),
        ("VMware ESX", {"processes": 1}, "has no option 'processes': only guests"),
        ("native machine", {"guests": 2}, "has no option 'guests': none"),
    ],
)
def test_what_is_not_possible_is_said(name, options, words):
    with pytest.raises(OptionError, match=words):
        preset(name, **options)


def test_names_are_found_in_any_case():
    running = preset("vmware esx", guests=1)
    assert isinstance(running, X86Running)
    assert running.preset.name == "VMware ESX"
    with pytest.raises(OptionError, match="there is no part 'nobody'"):
        running.kill("nobody")
    with pytest.raises(OptionError, match="cannot be ended"):
        running.kill("hardware/cpu")


@pytest.mark.parametrize("name", ["native machine", "Oracle Java", "AArch64 emulator", "IBM LPAR"])
def test_steps_are_a_number(name):
    running = preset(name)
    for steps in (-1, "5", 1.5, None, True):
        with pytest.raises(OptionError, match="steps are a number"):
            running.advance(steps)
    running.advance(0)
    assert not running.finished
