"""What an ATA drive says of itself: the 256 words of IDENTIFY DEVICE.

Read more: ANSI INCITS 361-2002 (ATA/ATAPI-6), 8.15, table 27.
"""

from __future__ import annotations

__all__ = ["DEFAULT_HEADS", "DEFAULT_SECTORS", "MOST_MULTIPLE", "cylinders", "identify"]

DEFAULT_HEADS, DEFAULT_SECTORS = 16, 63
MOST_CYLINDERS = 16_383  # of the default geometry; larger disks are addressed by LBA
MOST_MULTIPLE = 16
LBA, DMA = 0x0200, 0x0100  # in word 49
LBA28_SECTORS = (1 << 28) - 1


def cylinders(sectors: int, heads: int, track: int) -> int:
    """Cylinders that a disk of so many sectors has in a geometry: 1 to 65535."""
    return max(1, min(sectors // (heads * track), 0xFFFF))


def identify(number: int, sectors: int, heads: int, track: int, multiple: int, dma_mode: int | None = None) -> bytes:
    """Return the 512 bytes of IDENTIFY DEVICE.

    Parameters
    ----------
    number : int
        0 or 1: the drive's place on its channel.
    sectors : int
        The disk's size.
    heads, track : int
        Current geometry: heads, and sectors a track.
    multiple : int
        Sectors a block of READ and WRITE MULTIPLE, 0 if they are off.
    dma_mode : int, optional
        The mode of Multiword DMA that is chosen, of 0 to 2; None where there is no bus master.
    """
    current = cylinders(sectors, heads, track)
    capacity = min(current * heads * track, sectors)
    lba28 = min(sectors, LBA28_SECTORS)
    words = {
        0: 0x0040,  # a fixed drive
        1: min(cylinders(sectors, DEFAULT_HEADS, DEFAULT_SECTORS), MOST_CYLINDERS),
        3: DEFAULT_HEADS,
        6: DEFAULT_SECTORS,
        47: 0x8000 | MOST_MULTIPLE,
        48: 1,  # 32-bit data port (ATA-1)
        49: LBA if dma_mode is None else LBA | DMA,
        50: 0x4000,
        51: 0x0200,  # PIO mode 2
        53: 0x0003,  # words 54-58 and 64-70 are valid
        54: current,
        55: heads,
        56: track,
        57: capacity & 0xFFFF,
        58: capacity >> 16,
        59: 0x0100 | multiple if multiple else 0,
        60: lba28 & 0xFFFF,
        61: lba28 >> 16,
        63: 0
        if dma_mode is None
        else 0x0007 | 0x0100 << dma_mode,  # Multiword DMA: those that are, the one that is chosen
        64: 0x0003,  # PIO modes 3 and 4
        65: 0 if dma_mode is None else 120,  # ns a cycle of Multiword DMA, at least and recommended
        66: 0 if dma_mode is None else 120,
        67: 120,  # ns a cycle
        68: 120,
        80: 0x007E,  # ATA-1 to ATA/ATAPI-6
        82: 0x0060,  # look-ahead, write cache
        83: 0x7400,  # FLUSH CACHE EXT, FLUSH CACHE, LBA48
        84: 0x4000,
        85: 0x0060,
        86: 0x3400,
        87: 0x4000,
        93: 0x4000 | (0x0100 if number else 0x0001),  # which drive it is was found by jumper
        **{100 + place: sectors >> 16 * place & 0xFFFF for place in range(4)},
    }
    data = bytearray(512)
    for word, value in words.items():
        data[2 * word : 2 * word + 2] = value.to_bytes(2, "little")
    for word, length, text in ((10, 10, f"VMLAB{number:015}"), (23, 4, "1.0"), (27, 20, "vmlab disk")):
        padded = text.ljust(2 * length).encode()
        swapped = bytes(padded[place ^ 1] for place in range(2 * length))  # the first character is the high byte
        data[2 * word : 2 * (word + length)] = swapped
    return bytes(data)
