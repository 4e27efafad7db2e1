"""Unicorn as the processor to compare with: one instruction, or one whole repeated string instruction, at a time.

What it does not do: limits and types of segments, delivery of exceptions (it reports the vector), error codes.
"""

from __future__ import annotations

from typing import Any

import unicorn
from unicorn import x86_const as x86

from tests.isa.arena import (
    CODE,
    FS_BASE,
    GDT,
    GDT_BYTES,
    GS_BASE,
    JUMP_TO_SELF,
    LOW_SIZE,
    MEMORY_SIZE,
    MODES,
    MODES_64,
    TASK,
    TASK_LIMIT,
    TSS,
    Mode,
    Result,
    Trial,
)
from vmlab.isa.x86.registers import NAMES_64

GENERAL = [getattr(x86, f"UC_X86_REG_{name}") for name in ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")]
SEGMENTS = [getattr(x86, f"UC_X86_REG_{name}") for name in ("ES", "CS", "SS", "DS", "FS", "GS")]
GENERAL_64 = [getattr(x86, f"UC_X86_REG_{name.upper()}") for name in NAMES_64]
EIP, RIP, EFLAGS = x86.UC_X86_REG_EIP, x86.UC_X86_REG_RIP, x86.UC_X86_REG_EFLAGS
UNMAPPED = {unicorn.UC_ERR_READ_UNMAPPED, unicorn.UC_ERR_WRITE_UNMAPPED}
UNDEFINED = 6
LOAD_DATA_SEGMENTS = bytes.fromhex("8ec0 8ed8 8ee0 8ee8 8ed1")  # mov es, eax and so on; mov ss, ecx


class OutsideMemoryError(Exception):
    """The trial touched an address without memory: it compares nothing."""


class Oracle:
    """A Unicorn with the arena's memory, descriptors and modes, those of long mode where `long`."""

    def __init__(self, *, long: bool = False) -> None:
        self.long = long
        self.uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64 if long else unicorn.UC_MODE_32)
        self.uc.mem_map(0, MEMORY_SIZE)
        self.uc.mem_write(CODE, JUMP_TO_SELF * ((MEMORY_SIZE - CODE) // 2))
        self.uc.mem_write(GDT, GDT_BYTES)
        self.uc.reg_write(x86.UC_X86_REG_GDTR, (0, GDT, len(GDT_BYTES) - 1, 0))
        self.uc.reg_write(x86.UC_X86_REG_IDTR, (0, 0, 0, 0))
        self.uc.reg_write(
            x86.UC_X86_REG_TR, (TASK, TSS, TASK_LIMIT, 0x8900)
        )  # it keeps the type as before the busy bit
        self.vectors: list[int] = []
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self.uc.hook_add(unicorn.UC_HOOK_INSN, self._port_read, None, 1, 0, x86.UC_X86_INS_IN)
        self.uc.hook_add(unicorn.UC_HOOK_INSN, self._port_write, None, 1, 0, x86.UC_X86_INS_OUT)
        self.port_writes: list[tuple[int, int, int]] = []
        clean = self.uc.context_save()
        self._contexts = {}
        for mode in MODES_64 if long else MODES:
            self.uc.context_restore(clean)
            self._enter(mode)
            self._contexts[mode.name] = self.uc.context_save()

    def _enter(self, mode: Mode) -> None:
        """Get into a mode by far return, as software does."""
        ring = mode.code & 3
        frame = [CODE, mode.code] + ([0x3000, mode.stack] if ring else [])
        self.uc.mem_write(0x2000, b"".join(value.to_bytes(8 if self.long else 4, "little") for value in frame))
        self.uc.mem_write(CODE, (b"\x48\xcb" if self.long else b"\xcb") + JUMP_TO_SELF)
        for register in SEGMENTS:
            if register != x86.UC_X86_REG_CS:
                self.uc.reg_write(register, 0x10)
        self.uc.reg_write(x86.UC_X86_REG_CS, 0xA0 if self.long else 0x08)
        self.uc.reg_write(x86.UC_X86_REG_ESP, 0x2000)
        self.uc.emu_start(CODE, 0xFFFF_FFFF, count=1)
        self.uc.mem_write(CODE, JUMP_TO_SELF * 2)
        self.uc.ctl_flush_tb()
        if self.long:  # there a selector that is only written brings no descriptor with it
            self.uc.reg_write(x86.UC_X86_REG_RAX, mode.data)
            self.uc.reg_write(x86.UC_X86_REG_RCX, mode.stack)
            self.uc.mem_write(CODE, LOAD_DATA_SEGMENTS)
            self.uc.emu_start(CODE, CODE + len(LOAD_DATA_SEGMENTS))
            self.uc.mem_write(CODE, JUMP_TO_SELF * (len(LOAD_DATA_SEGMENTS) // 2 + 1))
            self.uc.ctl_flush_tb()
        for register, selector in zip(SEGMENTS, mode.selectors, strict=True):
            if register != x86.UC_X86_REG_CS and self.uc.reg_read(register) != selector:
                self.uc.reg_write(register, selector)
        assert tuple(map(self.uc.reg_read, SEGMENTS)) == mode.selectors
        if self.long:
            self.uc.reg_write(x86.UC_X86_REG_FS_BASE, FS_BASE)
            self.uc.reg_write(x86.UC_X86_REG_GS_BASE, GS_BASE)

    def _interrupt(self, uc: Any, vector: int, _data: object) -> None:
        self.vectors.append(vector)
        uc.emu_stop()

    def _port_read(self, _uc: Any, _port: int, size: int, _data: object) -> int:
        return (1 << 8 * size) - 1  # nobody answers

    def _port_write(self, _uc: Any, port: int, size: int, value: int, _data: object) -> None:
        self.port_writes.append((port, size, value & (1 << 8 * size) - 1))

    def run(self, trial: Trial, *, whole: bool) -> Result:
        """Try an instruction; `whole`: on to the next instruction, else a single one, wherever it leads."""
        uc = self.uc
        uc.context_restore(self._contexts[trial.mode.name])
        uc.mem_write(trial.address, trial.code + JUMP_TO_SELF)
        for address, data in trial.pokes:
            uc.mem_write(address, data)
        general, pointer = (GENERAL_64, RIP) if trial.mode.bits == 64 else (GENERAL, EIP)
        uc.reg_write_batch([*zip(general, trial.registers, strict=True), (EFLAGS, trial.flags)])
        self.vectors.clear()
        self.port_writes.clear()
        end = trial.address + len(trial.code)
        try:
            if whole:
                uc.emu_start(trial.address, end)
            else:
                uc.emu_start(trial.address, 0xFFFF_FFFF, count=1)
        except unicorn.UcError as error:
            if error.errno == unicorn.UC_ERR_INSN_INVALID:
                self.vectors.append(UNDEFINED)
            elif error.errno in UNMAPPED:
                raise OutsideMemoryError from None
            elif error.errno != unicorn.UC_ERR_FETCH_UNMAPPED:
                raise
        *registers, ip, flags = uc.reg_read_batch([*general, pointer, EFLAGS])
        selectors = tuple(uc.reg_read(register) for register in SEGMENTS)
        return Result(tuple(registers), ip, flags, selectors, self.vectors[0] if self.vectors else None)

    def low_memory(self) -> bytes:
        """Return the low memory."""
        return bytes(self.uc.mem_read(0, LOW_SIZE))

    def set_low_memory(self, data: bytes) -> None:
        """Set the low memory."""
        self.uc.mem_write(0, data)

    def forget_code(self) -> None:
        """Drop all translated code, before slots are used again."""
        self.uc.ctl_flush_tb()
