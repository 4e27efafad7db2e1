"""The verifier: follows a method's types through all its paths before it runs for the first time.

What it has accepted can neither underflow its stack, nor take a number for a reference, nor touch a field that an object has
not. The interpreter, the compiler and the garbage collector count on that: the last gets from here which words of a frame are
references at each instruction.

Types are `I` int; `J` and `_` the words of a long; `T` nothing usable; references by descriptor; `N` null; `U3:A` an object
that instruction 3 made and no constructor has seen yet; `UT:A` the same for `this`.

Simplified: by inference over all instructions, without the stack maps of newer compilers (JVMS 4.10.2). Interfaces count as
Object; calls by them look at the object.

Read more: JVMS 4.9, 4.10.2; Leroy, "Java bytecode verification: algorithms and formalizations", 2003.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.errors import ImageError
from vmlab.jvm.bytecode import REFUSED, Bytecode, decode_code
from vmlab.jvm.descriptors import INTEGERS
from vmlab.jvm.verifier_rules import RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmlab.jvm.class_file import ExceptionEntry
    from vmlab.jvm.classes import Method
    from vmlab.jvm.constant_pool import ConstantPool
    from vmlab.jvm.loader import ClassLoader

__all__ = ["Handler", "Verified", "Verifier", "verify"]

ENDS = frozenset({"goto", "tableswitch", "lookupswitch", "ireturn", "lreturn", "areturn", "return", "athrow"})
"""After these the next instruction is reached by a branch alone."""

NO_FLOATS = "this virtual machine has no floating point (float, double): use int or long"

Types = tuple[str, ...]


class Handler(NamedTuple):
    """A row of the exception table, in indices of instructions."""

    start: int
    end: int
    target: int
    catch: str | None


class Verified(NamedTuple):
    """A method's code, ready to run.

    Attributes
    ----------
    code : tuple of Bytecode
        Its instructions.
    handlers : tuple of Handler
        Its exception table.
    locals, stack : tuple of int
        For each instruction a mask of the words that are references before it; -1 where it is never reached.
    depths : tuple of int
        For each instruction the words on the operand stack before it.
    """

    code: tuple[Bytecode, ...]
    handlers: tuple[Handler, ...]
    locals: tuple[int, ...]
    stack: tuple[int, ...]
    depths: tuple[int, ...]


class Verifier:
    """Follows the types of one method. `locals` and `stack` are those at the instruction that is looked at."""

    def __init__(self, method: Method, loader: ClassLoader) -> None:
        assert method.code is not None
        assert method.owner.file is not None
        self.method, self.loader = method, loader
        self.pool: ConstantPool = method.owner.file.pool
        self.max_stack, self.max_locals = method.code.max_stack, method.code.max_locals
        self.code = decode_code(method.code, method.title)
        self.handlers = tuple(self._handler(entry) for entry in method.code.exceptions)
        self.locals: list[str] = []
        self.stack: list[str] = []
        self.index = 0
        self._before: list[tuple[Types, Types] | None] = [None] * len(self.code)
        self._pending: list[int] = []

    def refuse(self, why: str) -> ImageError:
        """Return the error of a method that is damaged, or needs what is not there."""
        at = self.code[self.index]
        return ImageError(f"{self.method.title}, {at.mnemonic} at {at.offset}: {why}")

    def _handler(self, entry: ExceptionEntry) -> Handler:
        offsets = {each.offset: index for index, each in enumerate(self.code)}
        assert self.method.code is not None
        offsets[len(self.method.code.code)] = len(self.code)
        places = [offsets.get(each, -1) for each in (entry.start, entry.end, entry.handler)]
        if min(places) < 0 or not places[0] < places[1] or places[2] == len(self.code):
            raise ImageError(f"{self.method.title}: its exception table names no instructions: the file is damaged")
        if entry.catch and "java/lang/Throwable" not in self.loader.load(entry.catch).supers:
            raise ImageError(f"{self.method.title}: it catches {entry.catch}, no Throwable: the file is damaged")
        return Handler(places[0], places[1], places[2], entry.catch)

    # -- types -----------------------------------------------------------------------------------------------------------

    @staticmethod
    def is_reference(kind: str) -> bool:
        """Say whether a type is that of a reference to an object that is ready, or null."""
        return kind[0] in "L[N"

    def words(self, descriptor: str) -> list[str]:
        """Return the types of the words of a value."""
        if descriptor in INTEGERS:
            return ["I"]
        if descriptor in ("F", "D"):
            raise self.refuse(NO_FLOATS)
        return ["J", "_"] if descriptor == "J" else [] if descriptor == "V" else [descriptor]

    def push(self, descriptor: str) -> None:
        """Put a value onto the stack."""
        self.stack += self.words(descriptor)
        if len(self.stack) > self.max_stack:
            raise self.refuse("the operand stack overflows: the class file is damaged")

    def pop_word(self) -> str:
        """Take a word from the stack."""
        if not self.stack:
            raise self.refuse("the operand stack is empty: the class file is damaged")
        return self.stack.pop()

    def pop(self, descriptor: str) -> str:
        """Take a value of a type from the stack; `A` is any reference. Return what it is."""
        found = "V"
        for word in reversed(self.words("N" if descriptor == "A" else descriptor)):
            found = self.pop_word()
            if descriptor == "A":
                right = self.is_reference(found)
            elif self.is_reference(word):
                right = self.is_reference(found) and self.loader.is_assignable(found, word)
            else:
                right = found == word
            if not right:
                raise self.refuse(
                    f"{_say(found)} is on the stack where {_say(descriptor)} must be: the file is damaged"
                )
        return "J" if descriptor == "J" else found

    def local(self, index: int, words: int = 1) -> list[str]:
        """Return the words of a local variable."""
        if index + words > self.max_locals:
            raise self.refuse(f"there is no local variable {index}: the class file is damaged")
        return self.locals[index : index + words]

    def set_local(self, index: int, words: list[str]) -> None:
        """Store a local variable; a long of which a half is overwritten is lost."""
        self.local(index, len(words))
        if index and self.locals[index] == "_":
            self.locals[index - 1] = "T"
        after = index + len(words)
        if after < self.max_locals and self.locals[after] == "_":
            self.locals[after] = "T"
        self.locals[index:after] = words

    def replace(self, old: str, new: str) -> None:
        """A constructor has seen an object: change its type wherever it is."""
        for each in (self.locals, self.stack):
            each[:] = [new if kind == old else kind for kind in each]

    # -- paths -------------------------------------------------------------------------------------------------------------

    def run(self) -> Verified:
        """Follow all paths until nothing new is found."""
        method = self.method
        types: list[str] = []
        if not method.is_static:
            own = method.owner.descriptor
            types.append(f"UT:{own}" if method.name == "<init>" and method.owner.superclass else own)
        for each in method.parameters:
            types += self.words(each)
        self._merge(0, tuple(types + ["T"] * (self.max_locals - len(types))), ())
        while self._pending:
            self.index = self._pending.pop()
            before = self._before[self.index]
            assert before is not None
            self.locals, self.stack = list(before[0]), list(before[1])
            for handler in self.handlers:
                if handler.start <= self.index < handler.end:
                    self._merge(handler.target, before[0], (f"L{handler.catch or 'java/lang/Throwable'};",))
            self._step(self.code[self.index])
        return self._result()

    def _step(self, code: Bytecode) -> None:
        opcode = code.opcode
        if code.name in REFUSED:
            raise self.refuse(REFUSED[code.name] + " are refused" * code.name.startswith(("jsr", "ret")))
        if set(opcode.pops + opcode.pushes) & set("FD"):
            raise self.refuse(NO_FLOATS)
        rule = RULES.get(code.name)
        if rule is not None:
            rule(self, code)
        else:
            for kind in reversed(opcode.pops):
                self.pop(kind)
            for kind in opcode.pushes:
                self.push(kind)
        for target in self._targets(code):
            self._merge(target, tuple(self.locals), tuple(self.stack))

    def _targets(self, code: Bytecode) -> Sequence[int]:
        found: list[int] = []
        if code.opcode.operand in ("j", "w"):
            found = [code.operand]
        elif code.opcode.operand in ("T", "L"):
            found = [code.operand[0], *code.operand[1].values()]
        if code.name not in ENDS:
            if self.index + 1 == len(self.code):
                raise self.refuse("the code ends without a return: the class file is damaged")
            found.append(self.index + 1)
        return found

    def _merge(self, index: int, local: Types, stack: Types) -> None:
        """Bring the types of one more path to an instruction."""
        if len(stack) > self.max_stack:
            raise self.refuse("the operand stack overflows: the class file is damaged")
        before = self._before[index]
        if before is None:
            merged = local, stack
        else:
            if len(stack) != len(before[1]):
                raise self.refuse("paths meet with operand stacks of different depths: the class file is damaged")
            merged = tuple(map(self._common, before[0], local)), tuple(map(self._common, before[1], stack))
            if "T" in merged[1]:
                raise self.refuse("paths meet with different types on the operand stack: the class file is damaged")
            merged = _whole(merged[0]), merged[1]
        if merged != before:
            self._before[index] = merged
            self._pending.append(index)

    def _common(self, first: str, second: str) -> str:
        if first == second:
            return first
        if self.is_reference(first) and self.is_reference(second):
            return self.loader.common(first, second)
        return "T"

    def _result(self) -> Verified:
        masks: list[tuple[int, int, int]] = []
        for before in self._before:
            if before is None:
                masks.append((-1, -1, 0))
            else:
                local, stack = (sum((kind[0] in "L[NU") << n for n, kind in enumerate(part)) for part in before)
                masks.append((local, stack, len(before[1])))
        columns = tuple(zip(*masks, strict=True))
        return Verified(tuple(self.code), self.handlers, columns[0], columns[1], columns[2])


def _whole(types: Types) -> Types:
    """Return types of local variables without halves of longs."""
    return tuple(
        "T"
        if (kind == "J" and types[n + 1 : n + 2] != ("_",)) or (kind == "_" and (n == 0 or types[n - 1] != "J"))
        else kind
        for n, kind in enumerate(types)
    )


def _say(kind: str) -> str:
    words = {
        "I": "an int",
        "J": "a long",
        "_": "a half of a long",
        "T": "nothing usable",
        "A": "a reference",
        "N": "null",
    }
    return words.get(kind) or (
        "an object without constructor" if kind[0] == "U" else kind.strip("L;").replace("/", ".")
    )


def verify(method: Method, loader: ClassLoader) -> Verified:
    """Verify a method, once.

    Raises
    ------
    ImageError
        Its code is damaged, or uses what this virtual machine has not (floating point, INVOKEDYNAMIC).
    """
    if method.verified is None:
        method.verified = Verifier(method, loader).run()
    return method.verified
