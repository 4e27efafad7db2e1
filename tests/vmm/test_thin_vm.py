"""The virtual machine with nothing around it: memory, registers, VMCS, exits, and what is refused."""

from __future__ import annotations

import pytest

import vmlab
from vmlab.errors import OptionError, VmlabError
from vmlab.vmm.thin_vm import ThinVm


def machine(source: str, **options) -> ThinVm:
    vm = ThinVm(**options)
    vm.map(0x1000)
    vm.write(0x1000, vmlab.assemble(f"bits 16\norg 0x1000\n{source}").segments[0].data)
    vm.registers["eip"] = 0x1000
    return vm


@pytest.mark.parametrize("cpu", ["westmere", "broadwell", "broadwell-ep", "ice-lake"])
def test_exits_of_each_kind(cpu):
    vm = machine(
        "in ax, dx\n out 0xE9, al\n cpuid\n mov [0x2004], al\n mov al, [0x3000]\n hlt\n invd\n rdmsr\n ud2", cpu=cpu
    )
    vm.registers["edx"] = 0x1F0
    found = []
    for _ in range(8):
        found.append(vm.run())
        if found[-1].gpa is None:
            vm.skip()
        else:
            vm.map(found[-1].gpa)
    assert [each.reason for each in found] == [
        "I/O instruction", "I/O instruction", "CPUID", "EPT violation", "EPT violation", "HLT", "other privileged instruction",
        "RDMSR",
    ]  # fmt: skip
    assert [(each.port, each.size, each.is_in) for each in found[:2]] == [(0x1F0, 2, True), (0xE9, 1, False)]
    assert [(each.gpa, each.is_write) for each in found[3:5]] == [(0x2004, True), (0x3000, False)]
    assert vm.run().gpa == 6 * 4  # #UD: the vector table, in a page that is not there
    assert len(vm.describe().splitlines()) == len(vm.exits) == 9


def test_registers_and_memory_go_in_and_out():
    vm = machine("add eax, ebx\n mov [0x2ffe], eax\n cpuid")
    vm.map(0x2FFE, 4)
    vm.registers["eax"], vm.registers["ebx"], vm.registers["esp"] = 0x11111111, 0x22222222, 0x8000
    assert vm.run().reason == "CPUID"
    assert vm.registers["eax"] == 0x33333333
    assert vm.registers["esp"] == 0x8000
    assert vm.read(0x2FFE, 2) + vm.read(0x3000, 2) == b"3333"
    vm.write(0x2FFE, b"abcd")
    assert vm.read(0x3000, 2) == b"cd"
    assert "eip=00001007" in repr(vm.registers)


def test_what_does_not_fit_is_not_written_at_all():
    vm = machine("hlt")
    before = vm.read(0x1FFE, 2)
    with pytest.raises(OptionError, match="nothing is mapped"):
        vm.write(0x1FFE, b"four")
    assert vm.read(0x1FFE, 2) == before
    vm.map(0x2000, 0x2000)
    vm.write(0x1FFE, bytes(range(1, 6)) + bytes(0x1000))
    assert vm.read(0x1FFE, 2) + vm.read(0x2000, 4) == bytes((1, 2, 3, 4, 5, 0))
    vm.write(0x1FFE, b"")


def test_fields_by_name_and_number():
    vm = machine("hlt")
    assert vm.vmread("guest_rip") == vm.vmread(0x681E) == 0x1000
    vm.vmwrite("GUEST_RIP", 0x1000)
    assert vm.run().reason == "HLT"
    assert vm.vmread("EXIT_REASON") == 12


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda vm: vm.map(-1), "below 4 GiB"),
        (lambda vm: vm.map(0, 1 << 31), "no memory left"),
        (lambda vm: vm.write(0x9000, b"x"), "nothing is mapped"),
        (lambda vm: vm.write(0x1000, "x"), "takes bytes"),
        (lambda vm: vm.read(0x1FFF, 2), "within a page"),
        (lambda vm: vm.read(0x1000, "2"), "a number of bytes"),
        (lambda vm: vm.write("0x1000", b"x"), "an address"),
        (lambda vm: vm.write(0x1FFF, b"two"), "nothing is mapped"),
        (lambda vm: vm.registers["rax"], "choose one of eax"),
        (lambda vm: vm.registers.__setitem__("eax", 1 << 32), "int of 32 bits"),
        (lambda vm: vm.vmread("GUEST_COLOUR"), "no field"),
        (lambda vm: vm.vmwrite("EXIT_REASON", 1), "only be read"),
        (lambda vm: vm.vmread(0x4444), "no such field"),
        (lambda vm: vm.vmwrite("GUEST_RIP", -1), "int of 64 bits"),
        (lambda vm: vm.skip(), "run\\(\\) first"),
        (lambda vm: (vm.vmwrite("GUEST_RFLAGS", 0), vm.run()), "entry failure 33"),
        (lambda vm: (vm.vmwrite("PIN_BASED_CONTROLS", 0), vm.run()), "error 7"),
        (lambda vm: (vm.vmwrite("HOST_CR0", 0), vm.run()), "error 8"),
    ],
)
def test_what_is_refused(act, message):
    with pytest.raises(VmlabError, match=message):
        act(machine("hlt"))


def test_an_endless_guest_and_a_processor_without():
    with pytest.raises(VmlabError, match="endless loop"):
        machine("jmp $").run()
    with pytest.raises(OptionError, match="extended page tables"):
        ThinVm("core-2")
    with pytest.raises(OptionError, match="unknown CPU model"):
        ThinVm("cpu")
