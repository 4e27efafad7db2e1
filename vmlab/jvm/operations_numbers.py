"""Instructions of the interpreter that work on local variables, the operand stack and numbers.

An int is a signed Python number; results are brought back into 32 or 64 bits by `_int` and `_long`. A long takes two words: its
value, and one that nobody looks at.

Read more: JVMS 2.11.3, 6.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmlab.jvm.throwing import Raise

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.frames import Frame
    from vmlab.jvm.runtime import Runtime

__all__ = ["OPERATIONS", "divide", "remainder"]

SIGN, MASK = 0x80000000, 0xFFFFFFFF
SIGN_64, MASK_64 = 1 << 63, (1 << 64) - 1

OPERATIONS: dict[str, Callable[[Any, Frame, Any], None]] = {}


def _operation(*names: str) -> Callable[[Callable[[Any, Frame, Any], None]], Callable[[Any, Frame, Any], None]]:
    def enter(function: Callable[[Any, Frame, Any], None]) -> Callable[[Any, Frame, Any], None]:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return enter


def _int(value: int) -> int:
    return (value + SIGN & MASK) - SIGN


def _long(value: int) -> int:
    return (value + SIGN_64 & MASK_64) - SIGN_64


def divide(left: int, right: int) -> int:
    """Return a quotient, rounded towards zero.

    >>> divide(-7, 2)
    -3
    """
    if not right:
        raise Raise("java/lang/ArithmeticException", "/ by zero")
    found = abs(left) // abs(right)
    return found if (left < 0) == (right < 0) else -found


def remainder(left: int, right: int) -> int:
    """Return a remainder, which has the sign of the dividend.

    >>> remainder(-7, 2)
    -1
    """
    return left - divide(left, right) * right


# -- constants, local variables, the operand stack ---------------------------------------------------------------------------


@_operation("nop")
def _nop(vm: Runtime, frame: Frame, operand: None) -> None:
    pass


@_operation("iconst")
def push(vm: Runtime, frame: Frame, value: int) -> None:
    """Push an int or a reference that is known."""
    frame.stack.append(value)


@_operation("lconst")
def push_long(vm: Runtime, frame: Frame, value: int) -> None:
    """Push a long that is known."""
    frame.stack += (value, 0)


@_operation("aconst_null")
def _null(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack.append(0)


@_operation("iload", "aload")
def _load(vm: Runtime, frame: Frame, index: int) -> None:
    frame.stack.append(frame.locals[index])


@_operation("lload")
def _load_long(vm: Runtime, frame: Frame, index: int) -> None:
    frame.stack += (frame.locals[index], 0)


@_operation("istore", "astore")
def _store(vm: Runtime, frame: Frame, index: int) -> None:
    frame.locals[index] = frame.stack.pop()


@_operation("lstore")
def _store_long(vm: Runtime, frame: Frame, index: int) -> None:
    frame.stack.pop()
    frame.locals[index] = frame.stack.pop()


@_operation("iinc")
def _increment(vm: Runtime, frame: Frame, operand: tuple[int, int]) -> None:
    index, amount = operand
    value = frame.locals[index] + amount
    frame.locals[index] = value if -SIGN <= value < SIGN else _int(value)


@_operation("pop")
def _pop(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack.pop()


@_operation("pop2")
def _pop2(vm: Runtime, frame: Frame, operand: None) -> None:
    del frame.stack[-2:]


@_operation("dup")
def _dup(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack.append(frame.stack[-1])


@_operation("dup_x1")
def _dup_x1(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack.insert(-2, frame.stack[-1])


@_operation("dup_x2")
def _dup_x2(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack.insert(-3, frame.stack[-1])


@_operation("dup2")
def _dup2(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack += frame.stack[-2:]


@_operation("dup2_x1")
def _dup2_x1(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack[-3:-3] = frame.stack[-2:]


@_operation("dup2_x2")
def _dup2_x2(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack[-4:-4] = frame.stack[-2:]


@_operation("swap")
def _swap(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack[-2:] = frame.stack[-1], frame.stack[-2]


# -- ints --------------------------------------------------------------------------------------------------------------------


def _binary(name: str, compute: Callable[[int, int], int]) -> None:
    def operation(vm: Runtime, frame: Frame, operand: None) -> None:
        right = frame.stack.pop()
        value = compute(frame.stack[-1], right)
        frame.stack[-1] = value if -SIGN <= value < SIGN else (value + SIGN & MASK) - SIGN

    def operation_long(vm: Runtime, frame: Frame, operand: None) -> None:
        stack = frame.stack
        stack.pop()
        right = stack.pop()
        stack[-2] = _long(compute(stack[-2], right))

    OPERATIONS["i" + name], OPERATIONS["l" + name] = operation, operation_long


for _name, _compute in {
    "add": lambda left, right: left + right,
    "sub": lambda left, right: left - right,
    "mul": lambda left, right: left * right,
    "div": divide,
    "rem": remainder,
    "and": lambda left, right: left & right,
    "or": lambda left, right: left | right,
    "xor": lambda left, right: left ^ right,
}.items():
    _binary(_name, _compute)


@_operation("iadd")
def _add(vm: Runtime, frame: Frame, operand: None) -> None:
    stack = frame.stack
    right = stack.pop()
    value = stack[-1] + right
    stack[-1] = value if -SIGN <= value < SIGN else _int(value)


@_operation("ineg")
def _negate(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack[-1] = _int(-frame.stack[-1])


@_operation("ishl")
def _shift_left(vm: Runtime, frame: Frame, operand: None) -> None:
    count = frame.stack.pop() & 31
    frame.stack[-1] = _int(frame.stack[-1] << count)


@_operation("ishr")
def _shift_right(vm: Runtime, frame: Frame, operand: None) -> None:
    count = frame.stack.pop() & 31
    frame.stack[-1] >>= count


@_operation("iushr")
def _shift_unsigned(vm: Runtime, frame: Frame, operand: None) -> None:
    count = frame.stack.pop() & 31
    frame.stack[-1] = _int((frame.stack[-1] & MASK) >> count)


@_operation("i2b")
def _to_byte(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack[-1] = (frame.stack[-1] + 0x80 & 0xFF) - 0x80


@_operation("i2c")
def _to_char(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack[-1] &= 0xFFFF


@_operation("i2s")
def _to_short(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack[-1] = (frame.stack[-1] + 0x8000 & 0xFFFF) - 0x8000


# -- longs -------------------------------------------------------------------------------------------------------------------


@_operation("i2l")
def _to_long(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack.append(0)


@_operation("l2i")
def _to_int(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack.pop()
    frame.stack[-1] = _int(frame.stack[-1])


@_operation("lneg")
def _negate_long(vm: Runtime, frame: Frame, operand: None) -> None:
    frame.stack[-2] = _long(-frame.stack[-2])


@_operation("lshl")
def _shift_left_long(vm: Runtime, frame: Frame, operand: None) -> None:
    count = frame.stack.pop() & 63
    frame.stack[-2] = _long(frame.stack[-2] << count)


@_operation("lshr")
def _shift_right_long(vm: Runtime, frame: Frame, operand: None) -> None:
    count = frame.stack.pop() & 63
    frame.stack[-2] >>= count


@_operation("lushr")
def _shift_unsigned_long(vm: Runtime, frame: Frame, operand: None) -> None:
    count = frame.stack.pop() & 63
    frame.stack[-2] = _long((frame.stack[-2] & MASK_64) >> count)


@_operation("lcmp")
def _compare_long(vm: Runtime, frame: Frame, operand: None) -> None:
    stack = frame.stack
    left, right = stack[-4], stack[-2]
    stack[-4:] = [(left > right) - (left < right)]
