"""Instructions of the interpreter that decide what comes next: branches, switches, calls' ends, exceptions.

A branch back is counted: a method whose loops have gone round often enough is compiled, and goes on in compiled code.

Read more: JVMS 2.11.7, 2.11.8, 2.11.9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.jvm.throwing import Thrown, null_pointer

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.frames import Frame
    from vmlab.jvm.runtime import Runtime

__all__ = ["OPERATIONS", "loop"]

OPERATIONS: dict[str, Callable[[Any, Frame, Any], None]] = {}


def loop(vm: Runtime, frame: Frame, operand: tuple[Callable[[Any, Frame, Any], None], int]) -> None:
    """Do a branch that leads back."""
    branch, target = operand
    branch(vm, frame, target)
    if frame.next == target:
        frame.method.loops += 1
        vm.compiled.loop(frame)


def _compare(name: str, decide: Callable[[int, int], bool]) -> None:
    def with_zero(vm: Runtime, frame: Frame, target: int) -> None:
        if decide(frame.stack.pop(), 0):
            frame.next = target

    def with_other(vm: Runtime, frame: Frame, target: int) -> None:
        right = frame.stack.pop()
        if decide(frame.stack.pop(), right):
            frame.next = target

    OPERATIONS["if" + name], OPERATIONS["if_icmp" + name] = with_zero, with_other


for _name, _decide in {
    "eq": lambda left, right: left == right,
    "ne": lambda left, right: left != right,
    "lt": lambda left, right: left < right,
    "ge": lambda left, right: left >= right,
    "gt": lambda left, right: left > right,
    "le": lambda left, right: left <= right,
}.items():
    _compare(_name, _decide)
OPERATIONS["if_acmpeq"], OPERATIONS["if_acmpne"] = OPERATIONS["if_icmpeq"], OPERATIONS["if_icmpne"]
OPERATIONS["ifnull"], OPERATIONS["ifnonnull"] = OPERATIONS["ifeq"], OPERATIONS["ifne"]


def _goto(vm: Runtime, frame: Frame, target: int) -> None:
    frame.next = target


def _switch(vm: Runtime, frame: Frame, operand: tuple[int, dict[int, int]]) -> None:
    default, keys = operand
    frame.next = keys.get(frame.stack.pop(), default)


def _return(vm: Runtime, frame: Frame, operand: None) -> None:
    vm.leave(())


def _return_word(vm: Runtime, frame: Frame, operand: None) -> None:
    vm.leave((NARROW_RESULT.get(frame.method.result, int)(frame.stack.pop()),))


def _return_long(vm: Runtime, frame: Frame, operand: None) -> None:
    vm.leave((frame.stack[-2], 0))


NARROW_RESULT: dict[str, Callable[[int], int]] = {
    "Z": lambda value: value & 1,
    "B": lambda value: (value + 0x80 & 0xFF) - 0x80,
    "C": lambda value: value & 0xFFFF,
    "S": lambda value: (value + 0x8000 & 0xFFFF) - 0x8000,
}
"""What becomes of an int that a method of a smaller type returns."""


def _throw(vm: Runtime, frame: Frame, operand: None) -> None:
    reference = frame.stack.pop()
    if not reference:
        raise null_pointer()
    raise Thrown(reference)


def _monitor(vm: Runtime, frame: Frame, operand: None) -> None:
    if not frame.stack.pop():
        raise null_pointer()


OPERATIONS |= {
    "goto": _goto,
    "tableswitch": _switch,
    "lookupswitch": _switch,
    "return": _return,
    "ireturn": _return_word,
    "areturn": _return_word,
    "lreturn": _return_long,
    "athrow": _throw,
    "monitorenter": _monitor,
    "monitorexit": _monitor,
}
