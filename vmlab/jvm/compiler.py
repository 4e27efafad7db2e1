"""The compiler from bytecode to x86: a method at a time, in one pass, without optimization across instructions.

Local variables lie in the frame all the time. The operand stack is known while a method is compiled: what is pushed is first
only noted, as a constant, a local variable or a register, and becomes code when it is used; so `iload_1, iload_2, iadd, istore_1`
becomes `mov ebx, [x]; add ebx, [y]; mov [x], ebx`. Before a branch, a call or whatever asks for the runtime, what is noted is
pushed onto the processor's stack, where arguments are passed. The runtime thus finds the whole frame in memory at each place
where it may get control: to collect garbage, to throw, to go on in the interpreter.

It leaves out what a check can leave to the processor: the page of address 0 is not there, so that a null reference faults by
itself, as does a division by zero.

Read more: Aycock, "A brief history of just-in-time", ACM Computing Surveys 35, 2003.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.isa.x86.assembler import assemble
from vmlab.jvm.bytecode import BRANCHES
from vmlab.jvm.compiled_method import OVERFLOW, SERVICE, CompiledMethod, Layout, Site
from vmlab.jvm.compiler_rules import RULES, Refusal
from vmlab.jvm.process import STACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.classes import Method
    from vmlab.jvm.runtime import Runtime
    from vmlab.jvm.verifier import Verified

__all__ = ["Compiler", "Item", "Refusal", "compile_method"]

REGISTERS = ("ebx", "esi", "edi", "edx", "ecx", "eax")
"""In the order in which they are taken; the last three are needed by some instructions."""
ENDS = frozenset({"goto", "tableswitch", "lookupswitch", "ireturn", "areturn", "return", "athrow"})
LONGEST = 2000
"""Bytecodes of a method that is compiled."""
ROOM = 0x1000
"""Bytes of the stack that are kept free below the last frame."""

Item = tuple[str, int | str]
"""What is on the operand stack: `("constant", 5)`, `("local", 1)`, `("register", "ebx")`, or `("pushed", 0)` on the processor's."""
PUSHED: Item = ("pushed", 0)


class Compiler:
    """The compilation of one method."""

    def __init__(self, method: Method, verified: Verified, vm: Runtime) -> None:
        assert method.code is not None
        if len(verified.code) > LONGEST:
            raise Refusal("it is too long")
        if "J" in (method.result, *method.parameters):
            raise Refusal("it takes or returns a long")
        self.method, self.verified, self.vm = method, verified, vm
        self.layout = Layout(method.words, method.code.max_locals - method.words)
        self.frame_bytes = 4 * (self.layout.others + method.code.max_stack)
        self.stack: list[Item] = []
        self.lines: list[str] = []
        self.aside: list[str] = []
        self.index = 0
        self._labels = 0
        self._sites: list[tuple[str, int, int, str, int]] = []
        self._starts = self._block_starts()

    def _block_starts(self) -> set[int]:
        found = {0} | {handler.target for handler in self.verified.handlers}
        for index, code in enumerate(self.verified.code):
            if code.opcode.operand in BRANCHES:
                targets = (
                    [code.operand] if code.opcode.operand in "jw" else [code.operand[0], *code.operand[1].values()]
                )
                found |= {*targets, index + 1}
        return found

    # -- text --------------------------------------------------------------------------------------------------------------

    def emit(self, *lines: str) -> None:
        """Write lines of assembly."""
        self.lines += lines

    def label(self) -> str:
        """Return a new label."""
        self._labels += 1
        return f"x{self._labels}"

    def site(self, kind: str, depth: int = 0, cell: int = 0) -> str:
        """Return a label for a place at which the runtime may get control."""
        label = self.label()
        self._sites.append((label, self.index, depth, kind, cell))
        return label

    def fault(self, line: str) -> None:
        """Write an instruction that faults where a reference is null or a divisor zero."""
        self.emit(f"{self.site('fault')}: {line}")

    def service(self, kind: str, depth: int, cell: int = 0) -> list[str]:
        """Return the lines that ask the runtime for something; all of the operand stack has been pushed."""
        return [f"int {SERVICE:#x}", f"{self.site(kind, depth, cell)}:"]

    def place(self, index: int) -> str:
        """Return the operand of a local variable."""
        offset = self.layout.local(index)
        return f"dword [ebp{offset:+d}]"

    # -- the operand stack ---------------------------------------------------------------------------------------------------

    def free(self, *avoid: str) -> str:
        """Return a register that holds nothing; if there is none, the deepest items are pushed."""
        while True:
            used = {name for kind, name in self.stack if kind == "register"} | set(avoid)
            found = next((each for each in REGISTERS if each not in used), None)
            if found:
                return found
            self._push_some(next(n for n, (kind, _) in enumerate(self.stack) if kind == "register") + 1)

    def _push_some(self, count: int) -> None:
        """Push the deepest items."""
        for n in range(count):
            kind, value = self.stack[n]
            if kind != "pushed":
                self.emit(f"push {self.place(int(value)) if kind == 'local' else value}")
                self.stack[n] = PUSHED

    def flush(self) -> None:
        """Push all that is noted."""
        self._push_some(len(self.stack))

    def push(self, item: Item) -> None:
        """Note what is on the operand stack now."""
        self.stack.append(item)

    def push_register(self, register: str) -> None:
        """Note that the top of the operand stack is in a register."""
        self.stack.append(("register", register))

    def drop(self, words: int) -> None:
        """Forget pushed words: somebody has popped them."""
        if words:
            assert all(each == PUSHED for each in self.stack[-words:])
            del self.stack[-words:]

    def pop(self, *avoid: str) -> Item:
        """Take the top; what is pushed comes into a register."""
        item = self.stack.pop()
        if item == PUSHED:
            register = self.free(*avoid)
            self.emit(f"pop {register}")
            return "register", register
        return item

    def load(self, item: Item, *avoid: str) -> str:
        """Bring an item into a register of its own."""
        kind, value = item
        if kind == "register":
            return str(value)
        register = self.free(*avoid)
        self._move(register, item)
        return register

    def _move(self, register: str, item: Item) -> None:
        kind, value = item
        if kind == "local":
            self.emit(f"mov {register}, {self.place(int(value))}")
        elif value == 0:
            self.emit(f"xor {register}, {register}")
        elif value != register:
            self.emit(f"mov {register}, {value}")

    def load_into(self, item: Item, register: str, *avoid: str) -> None:
        """Bring an item into a certain register; whatever is noted to be there goes elsewhere."""
        self.vacate(register, *avoid, *([str(item[1])] if item[0] == "register" else []))
        self._move(register, item)

    def vacate(self, register: str, *avoid: str) -> None:
        """See that nothing is noted to be in a register."""
        for n, item in enumerate(self.stack):
            if item == ("register", register):
                other = self.free(register, *avoid)
                if self.stack[n] == item:  # it may have been pushed, to make room
                    self.emit(f"mov {other}, {register}")
                    self.stack[n] = "register", other

    def text(self, item: Item) -> str:
        """Return an item as a source operand."""
        kind, value = item
        return self.place(int(value)) if kind == "local" else str(value)

    def settle(self, index: int) -> None:
        """Bring a local variable's value that is noted into registers, before the variable changes."""
        for n, item in enumerate(self.stack):
            if item == ("local", index):
                register = self.free()
                if self.stack[n] == item:
                    self._move(register, item)
                    self.stack[n] = "register", register

    # -- the whole -----------------------------------------------------------------------------------------------------------

    def translate(self) -> None:
        """Write assembly for all instructions that are reached."""
        overflow = self.label()
        self.emit(f"cmp esp, {STACK + ROOM + self.frame_bytes}", f"jb {overflow}", "push ebp", "mov ebp, esp")
        if self.layout.others:
            self.emit(f"sub esp, {4 * self.layout.others}")
        self.aside.append(f"{overflow}: int {OVERFLOW:#x}")
        falls = True
        for index, code in enumerate(self.verified.code):
            if self.verified.locals[index] < 0:
                falls = False
                continue
            self.index = index
            if index in self._starts or not falls:
                if falls:
                    self.flush()
                self.stack = [PUSHED] * self.verified.depths[index]
            self.emit(f"b{index}:")
            rule = RULES.get(code.name)
            if rule is None:
                raise Refusal(f"it has {code.mnemonic}")
            rule(self, code)
            falls = code.name not in ENDS

    def assemble(self, start: int) -> tuple[CompiledMethod, dict[int, Site]]:
        """Assemble what has been written for an address."""
        program = assemble("\n".join([*self.lines, *self.aside]), start)
        symbols = program.symbols
        places = {index: symbols[f"b{index}"] for index in range(len(self.verified.code)) if f"b{index}" in symbols}
        compiled = CompiledMethod(self.method, self.verified, start, program.code, places)
        return compiled, {symbols[label]: Site(compiled, *rest) for label, *rest in self._sites}  # type: ignore[arg-type]  # as noted by site()


def compile_method(
    method: Method, verified: Verified, vm: Runtime, start: Callable[[], int]
) -> tuple[CompiledMethod, dict[int, Site]]:
    """Compile a method; return its code and the sites in it.

    Parameters
    ----------
    method, verified : Method, Verified
        What is compiled.
    vm : Runtime
        Knows classes, fields and strings. It may have to load some.
    start : callable
        Returns the address for the code, when it is needed.

    Raises
    ------
    Refusal
        It has what is not compiled: numbers of 64 bits, or too much of everything.
    """
    compiler = Compiler(method, verified, vm)
    compiler.translate()
    return compiler.assemble(start())
