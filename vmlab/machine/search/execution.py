"""Searching for the execution of an instruction: a mark on the decoded instruction, which no translated code contains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.search.base import Search
from vmlab.machine.translator import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.isa.x86.instruction import Instruction
    from vmlab.machine.processor import Processor
    from vmlab.machine.recording import Recording
    from vmlab.machine.translator.cache import Translated
    from vmlab.machine.when import Executes

__all__ = ["ExecutionSearch"]


class ExecutionSearch(Search):
    """An instruction is about to be executed."""

    lag = 1

    def __init__(self, recording: Recording, condition: Executes, guest: int) -> None:
        super().__init__(recording, condition, guest)
        self.address = self.address_of(condition.address)
        machine = self.system.machine
        self.processors = [*machine.cpus, *(vcpu for each in self.system.guests for vcpu in each.vcpus)]
        self._marked = False
        self._engine = machine.engine

    def begin(self) -> None:
        machine = self.system.machine
        machine.memory.forget_code()
        if self._engine is not None:
            machine.engine = _Marking(self.address)
        for cpu in self.processors:
            cpu.spy = self._spy

    def end(self) -> None:
        machine = self.system.machine
        for cpu in self.processors:
            cpu.spy = None
        machine.engine = self._engine
        machine.memory.forget_code()

    def _spy(
        self, linear: int, instruction: Instruction, handler: Callable[[Any, Any], None]
    ) -> Callable[[Any, Any], None]:
        """Mark the handler of an instruction at that offset of any page: a page may be seen at several addresses."""
        own = linear in self.system.machine.cpu.uncounted.code
        if (linear ^ self.address) % PAGE_SIZE and not own:
            return handler
        length, machine = instruction.length, self.system.machine

        def marked(cpu: Processor, instruction: Instruction) -> None:
            linear = cpu.linear_ip - length & cpu.address_mask
            here = (linear if cpu is not machine.cpu else self.system.original(linear)) == self.address
            executes = cpu is machine.cpu or cpu is getattr(self.system, "interpreted", None)
            if here and executes and self.system.current == self.index:
                self._marked = True
            handler(cpu, instruction)

        return marked

    def touched(self) -> bool:
        found, self._marked = self._marked, False
        return found

    def decide(self, before: None, after: None) -> tuple[None, None] | None:
        return (None, None) if self.touched() else None


class _Marking(Engine):
    """An engine that translates nothing with an instruction at the same offset of its page."""

    def __init__(self, address: int) -> None:
        super().__init__()
        self.offset = address % PAGE_SIZE

    def translate(self, cpu: Processor, ip: int, *more: Any) -> Translated | None:  # noqa: ANN401 - the engine's own
        if ip in cpu.uncounted.code:
            return None
        region = super().translate(cpu, ip, *more)
        if region is not None and any(start <= self.offset < start + len(raw) for start, raw in region.ranges):
            return None
        return region
