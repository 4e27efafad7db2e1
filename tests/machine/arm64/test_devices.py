"""The board's devices: GICv2 (IHI 0048), the generic timer (DDI 0487, D11), PL011 (DDI 0183), the block device, PSCI."""

from __future__ import annotations

import pytest

from vmlab.errors import StateError
from vmlab.machine.arm64.block import SECTOR_TIME
from vmlab.machine.arm64.board import RAM, Board
from vmlab.machine.arm64.gic import SPURIOUS, Gic
from vmlab.machine.arm64.pl011 import Pl011
from vmlab.machine.arm64.state import ArmState
from vmlab.machine.arm64.timer import INSTRUCTIONS_PER_TICK, INTERRUPTS
from vmlab.machine.disk import Disk

CTLR, ENABLE, DISABLE, PEND, UNPEND, ACTIVE, DEACTIVATE, PRIORITY, CONFIG, SGI = (
    0x000, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0xC00, 0xF00,
)  # fmt: skip
PMR, IAR, EOIR, RPR, HPPIR = 4, 0xC, 0x10, 0x14, 0x18


@pytest.fixture
def gic() -> Gic:
    made = Gic()
    made.distributor.write(CTLR, 1)
    made.interface.write(CTLR, 1)
    made.interface.write(PMR, 0xF0)
    return made


@pytest.fixture
def board() -> Board:
    made = Board(1 << 20, ArmState(), Disk(bytes(range(256)) * 8))
    made.gic.distributor.write(CTLR, 1)
    made.gic.interface.write(CTLR, 1)
    made.gic.interface.write(PMR, 0xF0)
    made.gic.distributor.write(ENABLE, 0xFFFF_0000)
    made.gic.distributor.write(ENABLE + 4, 0xFFFF_FFFF)
    return made


def test_a_level_interrupt(gic):
    gic.line(33, True)
    assert not gic.irq
    gic.distributor.write(ENABLE + 4, 1 << 1)
    assert gic.irq
    assert gic.distributor.read(PEND + 4) == 1 << 1
    assert gic.interface.read(HPPIR) == 33
    assert gic.interface.read(IAR) == 33
    assert gic.distributor.read(ACTIVE + 4) == 1 << 1
    assert not gic.irq  # active: not again before its end
    assert gic.interface.read(IAR) == SPURIOUS
    gic.interface.write(EOIR, 33)
    assert gic.irq  # the line is still high
    gic.line(33, False)
    assert not gic.irq
    assert gic.interface.read(IAR) == SPURIOUS


def test_an_edge_is_latched(gic):
    gic.distributor.write(ENABLE + 4, 1 << 2)
    gic.distributor.write(CONFIG + 8, 0b10 << 4)  # 34
    assert gic.distributor.read(CONFIG + 8) == 0b10 << 4
    gic.line(34, True)
    gic.line(34, False)
    assert gic.interface.read(IAR) == 34
    gic.interface.write(EOIR, 34)
    assert gic.interface.read(IAR) == SPURIOUS


def test_priorities_and_preemption(gic):
    gic.distributor.write(ENABLE + 4, 0b110)
    gic.distributor.write(PRIORITY + 32, 0x2040_80)
    assert gic.distributor.read(PRIORITY + 32) == 0x2040_80  # 34: 20, 33: 40
    gic.line(33, True)
    assert gic.interface.read(IAR) == 33
    assert gic.interface.read(RPR) == 0x40
    gic.line(34, True)
    assert gic.irq  # above the running one
    assert gic.interface.read(IAR) == 34
    assert gic.interface.read(RPR) == 0x20
    gic.interface.write(EOIR, 34)
    gic.line(34, False)
    assert gic.interface.read(RPR) == 0x40
    gic.interface.write(EOIR, 33)
    assert gic.interface.read(RPR) == 0xFF
    gic.interface.write(PMR, 0x40)  # only what is above is let through
    assert not gic.irq


def test_software_interrupts(gic):
    gic.distributor.write(SGI, 1 << 16 | 5)
    gic.distributor.write(SGI, 2 << 24 | 3)
    gic.distributor.write(SGI, 1 << 24 | 4)  # to all others: there are none
    assert [gic.interface.read(IAR) for _ in range(1)] == [3]
    gic.interface.write(EOIR, 3)
    assert gic.interface.read(IAR) == 5
    gic.interface.write(EOIR, 5)
    gic.distributor.write(DISABLE, 0xFFFF)  # they cannot be disabled
    assert gic.distributor.read(ENABLE) == 0xFFFF
    gic.distributor.write(PEND + 4, 1)
    assert gic.distributor.read(PEND + 4) == 1
    gic.distributor.write(UNPEND + 4, 1)
    assert gic.distributor.read(PEND + 4) == 0


def test_deactivation_and_type(gic):
    gic.distributor.write(ENABLE + 4, 2)
    gic.line(33, True)
    gic.interface.read(IAR)
    gic.distributor.write(DEACTIVATE + 4, 2)
    assert gic.irq
    assert gic.distributor.read(4) == 1  # 64 interrupts, one processor
    assert gic.distributor.read(0x800) == 0


def test_saving_the_gic(gic):
    gic.distributor.write(ENABLE + 4, 0xFF)
    gic.line(33, True)
    gic.line(35, True)
    gic.interface.read(IAR)
    other = Gic()
    other.load(gic.save())
    assert other.save() == gic.save()
    assert other.irq == gic.irq
    with pytest.raises(StateError, match="enabled"):
        other.load(gic.save() | {"enabled": -1})


# -- timer ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("timer", "level"), [("cntp", "el0"), ("cntv", "el0"), ("cnthp", "el2")])
def test_a_timer(board, timer, level):
    """CVAL, TVAL and CTL are three views of one comparison; ISTATUS tells it even where the interrupt is masked."""
    offset = 1000 if timer == "cntv" else 0
    board.clock.now = 50_000
    board.timer._system["cntvoff_el2"] = 1000
    base = 50_000 // INSTRUCTIONS_PER_TICK - offset
    device = board.timer
    device.write(f"{timer}_tval_{level}", 7)
    assert device.read(f"{timer}_cval_{level}") == base + 7 & (1 << 64) - 1
    device.write(f"{timer}_ctl_{level}", 1)
    assert board.clock.deadline == 50_000 + 7 * INSTRUCTIONS_PER_TICK
    assert device.read(f"{timer}_ctl_{level}") == 1
    board.clock.now = board.clock.deadline
    board.clock.service()
    assert device.read(f"{timer}_ctl_{level}") == 5
    assert device.read(f"{timer}_tval_{level}") == 0
    assert board.gic.lines == 1 << INTERRUPTS[timer]
    device.write(f"{timer}_ctl_{level}", 3)
    assert board.gic.lines == 0
    assert device.read(f"{timer}_ctl_{level}") == 7
    device.write(f"{timer}_tval_{level}", 0xFFFF_FFFF)  # -1
    assert device.read(f"{timer}_cval_{level}") == device.count(timer) - 1


# -- serial line ---------------------------------------------------------------------------------------------------------


def test_the_serial_line():
    levels = []
    uart = Pl011(levels.append)
    assert uart.read(0x18) == 0x90
    uart.write(0x00, ord("a"))
    assert uart.output == b"a"
    uart.write(0x38, 1 << 4)
    uart.send(b"xy")
    assert levels[-1]
    assert uart.read(0x40) == uart.read(0x3C) & 1 << 4 == 1 << 4
    assert (uart.read(0x18), uart.read(0x00), uart.read(0x00), uart.read(0x00)) == (0x80, ord("x"), ord("y"), 0)
    assert not levels[-1]
    assert [uart.read(0xFE0 + 4 * n) for n in range(4)] == [0x11, 0x10, 0x14, 0]
    other = Pl011(levels.append)
    other.load(uart.save())
    assert other.save() == uart.save()


# -- block device --------------------------------------------------------------------------------------------------------


def command(board: Board, number: int, sector: int, count: int, address: int) -> int:
    """Do a command; return the status."""
    for offset, value in (
        (8, sector),
        (0xC, count),
        (0x10, address & 0xFFFF_FFFF),
        (0x14, address >> 32),
        (0x18, number),
    ):
        board.block.write(offset, value)
    if board.block.read(0x1C) == 1:
        assert board.clock.deadline == board.clock.now + SECTOR_TIME * max(count, 1)
        board.clock.now = board.clock.deadline
        board.clock.service()
        assert board.gic.lines >> 48 & 1
    status = board.block.read(0x1C)
    board.block.write(0x20, 0)
    assert not board.gic.lines >> 48 & 1
    return status


def test_the_block_device(board):
    assert board.block.read(0).to_bytes(4, "little") == b"VBLK"
    assert board.block.read(4) == 4
    assert command(board, 1, 1, 2, RAM + 0x100) == 2
    assert board.memory.read_bytes(0x100, 1024) == bytes(range(256)) * 4
    board.memory.write_bytes(0x100, b"new" * 171)
    assert command(board, 2, 3, 1, RAM + 0x100) == 2
    assert board.block.disk.read(3)[:3] == b"new"
    assert board.block.transfers == 3
    for sector, count, address in (
        (4, 1, RAM),
        (0, 0, RAM),
        (3, 2, RAM),
        (0, 1, RAM + (1 << 20) - 511),
        (0, 1, 0),
        (0, 1, 1 << 40),
    ):
        assert command(board, 1, sector, count, address) == 3
    assert command(board, 7, 0, 1, RAM) == 0  # no command
    without = Board(1 << 20, ArmState(), None)
    assert command(without, 1, 0, 1, RAM) == 3
    assert without.block.read(4) == 0


def test_saving_in_the_middle_of_a_command(board):
    board.block.write(0xC, 1)
    board.block.write(0x10, RAM)
    board.block.write(0x18, 1)
    other = Board(1 << 20, ArmState(), Disk(bytes(range(256)) * 8))
    for name, part in other.parts().items():
        part.load(board.parts()[name].save())
    assert other.clock.deadline == board.clock.deadline
    for each in (board, other):
        each.clock.now = each.clock.deadline
        each.clock.service()
    assert other.memory.digest() == board.memory.digest()
    assert other.block.read(0x1C) == 2


# -- the board -----------------------------------------------------------------------------------------------------------


def test_what_lies_where(board):
    assert board.read_device(0x0A00_0000, 4) == int.from_bytes(b"VBLK", "little")
    assert board.read_device(0x0A00_0001, 1) == ord("B")
    assert board.read_device(0x0B00_0000, 4) is None
    assert not board.write_device(0x0B00_0000, 4, 0)
    assert board.write_device(0x0800_0421, 1, 0x55)
    assert board.gic.priorities[0x20:0x24] == b"\0\x55\0\0"


def test_firmware(board):
    assert board.firmware(0x8400_0000) == 0x1_0000
    assert board.firmware(0xC400_0003) == (1 << 64) - 1
    assert not board.outcome
    assert board.firmware(0x8400_0008) == 0
    assert board.outcome == "exit"
