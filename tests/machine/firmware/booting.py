"""Boot sectors for experiments: run one to its HLT, and look at what the BIOS left in registers, memory and screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import vmlab
from vmlab.machine.disk import Disk
from vmlab.machine.image import from_disk
from vmlab.vmm.techniques import build

if TYPE_CHECKING:
    from vmlab.vmm.guest import Guest
    from vmlab.vmm.system import System

LIMIT = 2_000_000
STOP = "\n cli\n hlt\n"
NAMES = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")


class After:
    """What a boot sector has left behind."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.guest: Guest = system.guests[0]
        self.screen = [line.rstrip() for line in self.guest.screen.split("\n")]

    def __getattr__(self, name: str) -> int:
        registers = self.guest.vcpu.registers
        if name in NAMES:
            return registers[NAMES.index(name)]
        if f"e{name}" in NAMES:
            return registers[NAMES.index(f"e{name}")] & 0xFFFF
        if name in ("al", "cl", "dl", "bl"):
            return registers["acdb".index(name[0])] & 0xFF
        if name in ("ah", "ch", "dh", "bh"):
            return registers["acdb".index(name[0])] >> 8 & 0xFF
        raise AttributeError(name)

    @property
    def carry(self) -> bool:
        return bool(self.guest.vcpu.flags & 1)

    @property
    def zero(self) -> bool:
        return bool(self.guest.vcpu.flags & 0x40)

    def memory(self, address: int, length: int) -> bytes:
        return self.guest.memory.read_bytes(address, length)

    def word(self, address: int, size: int = 2) -> int:
        return int.from_bytes(self.memory(address, size), "little")


def boot(source: str, *, disk: bytes = b"", outcome: str = "halt", **options: Any) -> After:
    """Boot a sector of this source, which `disk` follows on the disk, to its end."""
    image = vmlab.boot_sector(source + STOP)
    if disk:
        image = from_disk(Disk(image.segments[0].data + disk, name="test"))
    system = build(image, options.pop("under", "native"), max_instructions=LIMIT, **options)
    system.run()
    after = After(system)
    assert after.guest.outcome == outcome, (after.guest.outcome, after.screen[:3], hex(after.guest.vcpu.ip))
    return after


def sectors(count: int, start: int = 1) -> bytes:
    """Return sectors that say their own number."""
    return b"".join(number.to_bytes(4, "little") * 128 for number in range(start, start + count))
