"""A board's memory at its physical address, for a builder of page tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.machine.arm64.board import RAM

if TYPE_CHECKING:
    from vmlab.machine.arm64.board import Board


class Physical:
    """Memory of a board."""

    def __init__(self, board: Board) -> None:
        self.memory = board.memory

    def read(self, address: int, size: int) -> int:
        return self.memory.read(address - RAM, size)

    def write(self, address: int, size: int, value: int) -> None:
        self.memory.write(address - RAM, size, value)
