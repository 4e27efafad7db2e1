"""A page fault within a service, in virtual-8086 mode: it is the OUT's, and the call can be made anew."""

from __future__ import annotations

import pytest

import vmlab
from tests.machine.firmware.booting import sectors
from vmlab.isa.x86.faults import PF, Fault
from vmlab.isa.x86.registers import CR0_PE, CR0_PG, CS, IOPL, VM
from vmlab.isa.x86.semantics.segments import set_virtual_8086
from vmlab.machine.disk import Disk
from vmlab.machine.firmware.rom import build_rom
from vmlab.vmm.techniques import build

DIRECTORY, TABLE, MISSING = 0x2_0000, 0x2_1000, 0x9


def test_a_page_that_is_not_there():
    machine = build(vmlab.boot_sector("hlt"), disks=[Disk(sectors(4, 7))]).machine
    cpu, memory = machine.cpu, machine.memory
    memory.write(DIRECTORY, 4, TABLE | 7)
    for page in range(1024):
        memory.write(TABLE + 4 * page, 4, page << 12 | 7)
    memory.write(TABLE + 4 * MISSING, 4, 0)
    cpu.set_cr3(DIRECTORY)
    cpu.flags |= VM | IOPL
    cpu.set_cr0(cpu.cr0 | CR0_PE | CR0_PG)
    for register in cpu.segments:
        set_virtual_8086(register, 0)
    set_virtual_8086(cpu.segments[CS], 0xF000)
    cpu.ip = build_rom().labels["service_13"]
    cpu.registers[:4] = [0x0203, 0x0001, 0x0081, 0x8D00]  # three sectors from 8D00 on: the second crosses into the page
    cpu.registers[4] = 0x7000
    memory.write(0x7004, 2, 0x0201)
    cpu.code_changed()
    before, retired = list(cpu.registers), cpu.retired
    with pytest.raises(Fault) as caught:
        cpu.execute()
    assert (caught.value.vector, cpu.cr2) == (PF, MISSING << 12)
    assert (cpu.ip, cpu.registers, cpu.retired) == (build_rom().labels["service_13"], before, retired)
    memory.write(TABLE + 4 * MISSING, 4, 0x3_0007)  # the pager brings another frame
    cpu.execute()
    assert cpu.registers[0] & 0xFFFF == 0x0003
    assert not memory.read(0x7004, 2) & 1, "CF"
    assert memory.read_bytes(0x8D00, 0x300) + memory.read_bytes(0x3_0000, 0x300) == sectors(3, 7)
