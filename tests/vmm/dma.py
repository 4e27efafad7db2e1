"""A kernel that drives the bus master of the disk by a script: memory to be written, ports, waiting, and looks at how it went."""

from __future__ import annotations

from tests.vmm.harness import kernel

SECTOR = 512
LOG = 0x2E0000
TABLE = 0x2D0000
READ_DMA, WRITE_DMA = 0xC8, 0xCA
BMIDE = 0xC000
END, POKE, OUT8, OUT32, WAIT, LOOK, CALL = range(7)

DRIVER = """
BMIDE   equ 0xC000
main:   mov dword [hooks + 0x2E * 4], done
        mov ah, 0xFB
        call pic_on
        mov al, 0xBF
        out 0xA1, al
        {begin}
        mov dx, 0xCF8
        mov eax, 0x80000904             ; the command register: ports, bus master
        out dx, eax
        mov dx, 0xCFC
        mov ax, 5
        out dx, ax
        mov esi, script
        mov ebp, 0x2E0000
next:   lodsd
        jmp [operations + eax * 4]
poke:   lodsd
        mov edi, eax
        lodsd
        mov [edi], eax
        jmp next
out8:   lodsd
        mov edx, eax
        lodsd
        out dx, al
        jmp next
out32:  lodsd
        mov edx, eax
        lodsd
        out dx, eax
        jmp next
wait_:  lodsd
        mov ecx, eax
        loop $
        jmp next
look:   mov dx, BMIDE + 2
        in al, dx
        mov [ebp], al
        mov dx, 0x3F6
        in al, dx
        mov [ebp + 1], al
        mov dx, 0xCF8
        mov eax, 0x80000904
        out dx, eax
        mov dx, 0xCFE
        in ax, dx
        mov [ebp + 2], ax
        add ebp, 4
        jmp next
call_:  lodsd
        call eax
        mov [ebp], eax
        add ebp, 4
        jmp next
done:   mov dx, 0x1F7                   ; the interrupt: from the drive, the slave, the master
        in al, dx
        mov al, 0x20
        out 0xA0, al
        out 0x20, al
        ret
align 4
operations: dd quit, poke, out8, out32, wait_, look, call_
{more}
align 4
script: {script}
"""


class Script:
    """What the kernel is to do."""

    def __init__(self) -> None:
        self.words: list[object] = []

    def do(self, *words: object) -> Script:
        self.words += words
        return self

    def prds(self, *regions: tuple[object, int], at: int = TABLE, end: bool = True) -> Script:
        """Write descriptors: (address, bytes)."""
        for number, (address, size) in enumerate(regions):
            last = end and number == len(regions) - 1
            self.do(POKE, at + 8 * number, address).do(POKE, at + 8 * number + 4, size & 0xFFFF | last << 31)
        return self

    def transfer(
        self, sector: int, count: int = 1, *, command: int = READ_DMA, table: int = TABLE, wait: int | None = None
    ) -> Script:
        """Give the drive a DMA command, start the engine, wait, and look."""
        direction = 8 if command == READ_DMA else 0
        for port, value in (
            (0x3F6, 0), (0x1F6, 0xE0), (0x1F2, count & 0xFF), (0x1F3, sector), (0x1F4, 0), (0x1F5, 0), (BMIDE, direction), (BMIDE + 2, 6),
        ):  # fmt: skip
            self.do(OUT8, port, value)
        self.do(OUT32, BMIDE + 4, table).do(OUT8, 0x1F7, command).do(OUT8, BMIDE, direction | 1)
        return self.do(WAIT, (count or 256) * 130 + 200 if wait is None else wait).do(LOOK)

    def read(self, sector: int, *regions: tuple[object, int]) -> Script:
        """Read a sector into regions."""
        return self.prds(*regions).transfer(sector)

    def reset(self) -> Script:
        """Reset the drive, which may wait for ever, and the engine's errors, and the function's."""
        self.do(OUT8, 0x3F6, 4).do(OUT8, 0x3F6, 0).do(OUT8, BMIDE, 0).do(OUT8, BMIDE + 2, 6)
        return self.do(OUT32, 0xCF8, 0x80000904).do(OUT32, 0xCFC, 0xFFFF0005).do(WAIT, 150)

    def kernel(self, *, begin: str = "nop", more: str = "", name: str = "dma"):
        """Return the image of the kernel."""
        words = [*self.words, END]
        lines = ["dd " + ", ".join(str(word) for word in words[n : n + 16]) for n in range(0, len(words), 16)]
        return kernel(DRIVER.format(begin=begin, more=more, script="\n        ".join(lines)), name)


def looks(guest, count: int) -> list[tuple[int, int, int]]:
    """Return what the kernel has found: status of the engine, of the drive, of the PCI function."""
    memory = guest.memory
    return [
        (memory.read(at, 1), memory.read(at + 1, 1), memory.read(at + 2, 2)) for at in range(LOG, LOG + 4 * count, 4)
    ]


def results(guest, count: int) -> list[int]:
    """Return the words of the log."""
    return [guest.memory.read(at, 4) for at in range(LOG, LOG + 4 * count, 4)]
