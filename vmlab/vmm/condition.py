"""Conditions on a guest's registers and memory, written as one reads them.

    ebx == 5                      registers, their parts (`bl`), flags (`zf`), `cpl`, control registers
    [counter] > 3                 four bytes at an address; `byte[...]`, `word[...]`, `dword[...]`, `qword[...]`
    eip == main and [esp+4] == 0  the image's symbols, numbers, Python's operators

The text is read as a Python expression, of which only names, numbers and operators are taken: nothing in it is run.
"""

from __future__ import annotations

import ast
import operator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.vmm.viewpoint import READERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmlab.vmm.viewpoint import Viewpoint

__all__ = ["Condition", "evaluate"]

SIZES = {"byte": 1, "word": 2, "dword": 4, "qword": 8}
BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.BitXor: operator.xor,
    ast.LShift: lambda a, b: a << (b & 63), ast.RShift: lambda a, b: a >> (b & 63),
    ast.FloorDiv: lambda a, b: a // b if b else 0, ast.Mod: lambda a, b: a % b if b else 0,
}  # fmt: skip
UNARY: dict[type[ast.unaryop], Callable[[int], int]] = {
    ast.USub: operator.neg, ast.Invert: operator.invert, ast.Not: operator.not_, ast.UAdd: operator.pos,
}  # fmt: skip
COMPARE: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
MASK = (1 << 64) - 1
LONGEST = 500


class Condition:
    r"""A condition.

    Parameters
    ----------
    text : str
        As above.
    symbols : mapping of str to int
        Names of addresses.

    Raises
    ------
    OptionError
        It cannot be read.

    Examples
    --------
    >>> import vmlab
    >>> from vmlab.vmm.viewpoint import Viewpoint
    >>> recording = vmlab.record(vmlab.assemble("start: mov ebx, 5\n hlt"))
    >>> recording.seek(1)
    >>> Condition("ebx == 5 and eip > start", {"start": 0x100000}).holds(Viewpoint(recording.system))
    True
    """

    def __init__(self, text: Any, symbols: Mapping[str, int]) -> None:  # noqa: ANN401 - checked
        self.text = text
        self._symbols = symbols
        if not isinstance(text, str) or not text.strip():
            raise OptionError(f"a condition is a text as 'ebx == 5' or '[counter] > 3', not {text!r}")
        if len(text) > LONGEST:
            raise OptionError(f"a condition has at most {LONGEST} characters, not {len(text):,}: {text[:40]!r}…")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise OptionError(
                f"the condition {text!r} cannot be read: write 'ebx == 5', '[counter] > 3', 'zf and byte[esi] != 0'"
            ) from None
        self._value = self._read(tree)

    def value(self, at: Viewpoint) -> int:
        """Return what the expression is worth now."""
        return int(self._value(at))

    def holds(self, at: Viewpoint) -> bool:
        """Whether it is so now."""
        return bool(self._value(at))

    def _read(self, node: ast.expr) -> Callable[[Viewpoint], int]:
        """Return the function that an expression stands for."""
        reader = self._READERS.get(type(node))
        if reader is None:
            raise self._refusal(node)
        value: Callable[[Viewpoint], int] = reader(self, node)
        return value

    def _refusal(self, node: ast.expr) -> OptionError:
        part = ast.unparse(node)
        return OptionError(
            f"{part!r} has no meaning in the condition {self.text!r}: use registers, symbols, numbers, "
            "[address], byte[address], and the operators of Python"
        )

    def _constant(self, node: Any) -> Callable[[Viewpoint], int]:  # noqa: ANN401 - a node of the kind that the table says
        if type(node.value) is not int:
            raise self._refusal(node)
        number = node.value
        return lambda _: number

    def _name(self, node: Any) -> Callable[[Viewpoint], int]:  # noqa: ANN401
        name = ast.unparse(node)  # an attribute too: `start.loop` is a local label
        if name.lower() in READERS and name not in self._symbols:
            return READERS[name.lower()]
        if name not in self._symbols:
            raise OptionError(
                f"the condition {self.text!r} names {name!r}: that is no register and no symbol of the image"
            )
        number = self._symbols[name]
        return lambda _: number

    def _memory(self, node: Any) -> Callable[[Viewpoint], int]:  # noqa: ANN401
        if isinstance(node, ast.List):
            size, parts = 4, node.elts
        else:
            size = SIZES.get(ast.unparse(node.value).lower(), 0)
            parts = [node.slice]
        if not size or len(parts) != 1:
            raise self._refusal(node)
        address = self._read(parts[0])
        return lambda at: int.from_bytes(at.read(address(at) & MASK, size), "little")

    def _binary(self, node: Any) -> Callable[[Viewpoint], int]:  # noqa: ANN401
        act = BINARY.get(type(node.op))
        if act is None:
            raise self._refusal(node)
        left, right = self._read(node.left), self._read(node.right)
        return lambda at: act(left(at), right(at))

    def _unary(self, node: Any) -> Callable[[Viewpoint], int]:  # noqa: ANN401
        act, operand = UNARY[type(node.op)], self._read(node.operand)
        return lambda at: act(operand(at))

    def _both(self, node: Any) -> Callable[[Viewpoint], int]:  # noqa: ANN401
        parts = [self._read(value) for value in node.values]
        every = isinstance(node.op, ast.And)
        return lambda at: (all if every else any)(part(at) for part in parts)

    def _compare(self, node: Any) -> Callable[[Viewpoint], int]:  # noqa: ANN401
        acts = [COMPARE.get(type(op)) for op in node.ops]
        values = [self._read(part) for part in (node.left, *node.comparators)]
        pairs = []
        for act, (left, right) in zip(acts, pairwise(values), strict=True):
            if act is None:
                raise self._refusal(node)
            pairs.append((act, left, right))
        return lambda at: all(act(left(at), right(at)) for act, left, right in pairs)

    _READERS: dict[type[ast.expr], Any] = {  # noqa: RUF012 - never changed
        ast.Constant: _constant, ast.Name: _name, ast.Attribute: _name, ast.List: _memory, ast.Subscript: _memory,
        ast.BinOp: _binary, ast.UnaryOp: _unary, ast.BoolOp: _both, ast.Compare: _compare,
    }  # fmt: skip


def evaluate(text: str | int, at: Viewpoint, symbols: Mapping[str, int]) -> int:
    """Return an address, given as a number or as an expression of registers and symbols.

    Raises
    ------
    OptionError
        It is neither.
    """
    if type(text) is int and 0 <= text <= MASK:
        return text
    if not isinstance(text, str):
        raise OptionError(f"an address is an int from 0 to {MASK:#x}, or a text as 'main' or 'esp + 8', not {text!r}")
    return Condition(text, symbols).value(at) & MASK
