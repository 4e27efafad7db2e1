"""Compiled code in memory: when methods are compiled, how they are called, and what the runtime does for them.

Each method has a stub in memory, which asks the runtime to call it. Compiled code calls by an address in the method's cell, or
in the method table of an object's class: that of the stub, until the method has been compiled.

A method is compiled when it has been called, or its loops have gone round, so many times; in the latter case it goes on in the
midst of its loop. A compiled frame becomes one of the interpreter where the code has not what it needs, as a class that has not
been initialised: then its method is compiled anew later.

Read more: Hölzle, Chambers and Ungar, "Debugging Optimized Code with Dynamic Deoptimization", PLDI 1992; Fink and Qian,
"Design, Implementation and Evaluation of Adaptive Recompilation with On-Stack Replacement", CGO 2003.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import ImageError, StateError
from vmlab.isa.x86.faults import DE, PF
from vmlab.jvm import compiler_objects  # noqa: F401 - enters its rules
from vmlab.jvm.compiled_method import BOUNDS, CALL, OVERFLOW, RETURN, SERVICE, CompiledMethod, Site
from vmlab.jvm.compiler import compile_method
from vmlab.jvm.compiler_rules import Refusal
from vmlab.jvm.frames import Frame, Segment
from vmlab.jvm.heap import signed
from vmlab.jvm.operations import operations_of
from vmlab.jvm.process import CODE, CODE_END, STACK, STACK_TOP
from vmlab.jvm.throwing import Raise, bounds, find_handler, null_pointer
from vmlab.jvm.verifier import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmlab.jvm.classes import Method
    from vmlab.jvm.process import CompiledTrap, Process
    from vmlab.jvm.runtime import Runtime

__all__ = ["CompiledCode", "CompiledFrame"]

STUB_BYTES, STUBS_END = 12, CODE + 0x1_0000
MOST_LEFT = 8
"""Times that a method's code is thrown away before it stays with the interpreter."""
LOOPS = 10
"""Rounds of a loop that count as one call."""
ROOM = 0x1000
SMALLEST = 0x80000000


class CompiledFrame(NamedTuple):
    """A frame of compiled code: its EBP, where its method is, and how many words of its operand stack are there."""

    code: CompiledMethod
    instruction: int
    depth: int
    ebp: int

    @property
    def method(self) -> Method:
        """The method."""
        return self.code.method


class CompiledCode:
    """All compiled methods.

    Parameters
    ----------
    process : Process
        Has memory for code.
    enabled : bool
        False where all is left to the interpreter.
    threshold : int
        Calls after which a method is compiled.

    Attributes
    ----------
    methods : dict of int to CompiledMethod
        What is in use, by the number of the method.
    made : list of CompiledMethod
        All that was ever compiled, in that order.
    refused : dict of Method to str
        What is not compiled, and why.
    left : int
        Frames that went on in the interpreter.
    """

    def __init__(self, process: Process, *, enabled: bool, threshold: int) -> None:
        self.process, self.memory = process, process.memory
        self.enabled, self.threshold = enabled, threshold
        self.vm: Runtime
        self.methods: dict[int, CompiledMethod] = {}
        self.made: list[CompiledMethod] = []
        self.refused: dict[Method, str] = {}
        self.sites: dict[int, Site] = {}
        self.left = 0
        self._left_by: dict[int, int] = {}
        self._next = STUBS_END
        self._return = CODE
        self.memory.write_bytes(CODE, bytes((0xCD, RETURN)))  # int RETURN

    def attach(self, vm: Runtime) -> None:
        """Take note of whose code it is."""
        self.vm = vm

    def _place(self, code: bytes) -> int:
        """Write code behind all other; return its address."""
        address = self._next
        if address + len(code) > CODE_END:
            raise Refusal("there is no more memory for code")
        self.memory.write_bytes(address, code)
        self._next += len(code) + -len(code) % 4
        return address

    def stub(self, method: Method) -> int:
        """Make the stub of a method: `mov eax, number`, `int CALL`, `ret words`."""
        number, words = method.number.to_bytes(4, "little"), (4 * method.words).to_bytes(2, "little")
        address = CODE + STUB_BYTES * (1 + method.number)
        if address + STUB_BYTES > STUBS_END:
            raise ImageError(f"{method.title}: the program's classes have too many methods")
        self.memory.write_bytes(address, b"\xb8" + number + bytes((0xCD, CALL, 0xC2)) + words)
        return address

    def save_counts(self) -> dict[str, Any]:
        """Save what is neither in memory nor of one method."""
        numbers = {each: n for n, each in enumerate(self.made)}
        return {
            "used": {number: numbers[each] for number, each in self.methods.items()},
            "refused": {method.number: why for method, why in self.refused.items()},
            "left": self.left,
            "left_by": dict(self._left_by),
            "next": self._next,
        }

    def load_counts(self, state: dict[str, Any]) -> None:
        """Load what `save_counts` gave, once the methods are there; StateError where it names others."""
        known = self.vm.loader.methods
        if any(each >= len(known) for each in state["refused"]) or any(
            n >= len(self.made) or self.made[n].method.number != each for each, n in state["used"].items()
        ):
            raise StateError("compiled code: the saved state names methods that are not there: it is damaged")
        self.methods = {number: self.made[n] for number, n in state["used"].items()}
        self.refused = {known[number]: why for number, why in state["refused"].items()}
        self.left, self._left_by, self._next = state["left"], dict(state["left_by"]), state["next"]

    # -- compiling ---------------------------------------------------------------------------------------------------------

    def ready(self, method: Method) -> CompiledMethod | None:
        """Count a call; return a method's code, which is made if it has been called often enough."""
        found = self.methods.get(method.number)
        if found is not None or not self.enabled or method.is_native or method.is_abstract:
            return found
        method.calls += 1
        if method.calls + method.loops // LOOPS < self.threshold or method in self.refused:
            return None
        return self._compile(method)

    def _compile(self, method: Method) -> CompiledMethod | None:
        if method.name == "<clinit>":
            self.refused[method] = "it runs once"
            return None
        try:
            verified = verify(method, self.vm.loader)
            compiled, sites = compile_method(method, verified, self.vm, lambda: self._next)
            self._place(compiled.code)
        except Refusal as refusal:
            self.refused[method] = str(refusal)
            return None
        except ImageError as error:  # of something that this program may never come to
            self.refused[method] = str(error)
            return None
        self.vm.charge("compilation", len(verified.code) * self.vm.costs.managed_compile)
        self.methods[method.number] = compiled
        self.made.append(compiled)
        self.sites |= sites
        self.vm.loader.set_code(method, compiled.start)
        return compiled

    def _discard(self, method: Method) -> None:
        """Throw a method's code away: it is compiled anew when it has been called often again."""
        if self.methods.pop(method.number, None) is None:
            return
        self.vm.loader.set_code(method, self.stub(method))
        method.calls = method.loops = 0
        self._left_by[method.number] = times = self._left_by.get(method.number, 0) + 1
        if times == MOST_LEFT:
            self.refused[method] = "it had to be left too often"

    # -- from the interpreter into compiled code ---------------------------------------------------------------------------

    def call(self, method: Method, words: list[int]) -> bool:
        """Call a method by its compiled code; False where it has none."""
        found = self.ready(method)
        if found is None:
            return False
        segment = self._segment(method, words)
        segment.ip = found.start
        self._push(segment)
        return True

    def _segment(self, method: Method, words: list[int]) -> Segment:
        """Begin a run of compiled frames with a method's parameters and the address that leads back."""
        below = next((each.stack for each in reversed(self.vm.frames) if isinstance(each, Segment)), STACK_TOP)
        if below - 4 * len(words) < STACK + ROOM:
            raise Raise("java/lang/StackOverflowError")
        segment = Segment(below)
        segment.kind = method.result
        for word in (*words, self._return):
            segment.stack -= 4
            self.memory.write(segment.stack, 4, word)
        return segment

    def _push(self, segment: Segment) -> None:
        self.vm.frames.append(segment)
        self.vm.switched = True

    def loop(self, frame: Frame) -> None:
        """Let a method that has gone round often go on in compiled code, at the next instruction."""
        method = frame.method
        if not self.enabled or method.calls + method.loops // LOOPS < self.threshold or method in self.refused:
            return
        found = self.methods.get(method.number) or self._compile(method)
        if found is None:
            return
        layout, count = found.layout, method.words
        segment = self._segment(method, frame.locals[:count])
        ebp = segment.stack - 4
        bottom = ebp + layout.top(len(frame.stack))
        if bottom < STACK + ROOM:
            return
        self.memory.write(ebp, 4, 0)
        for index in range(count, len(frame.locals)):
            self.memory.write(ebp + layout.local(index), 4, frame.locals[index])
        for slot, word in enumerate(frame.stack):
            self.memory.write(ebp + layout.stack(slot), 4, word)
        segment.frame, segment.stack, segment.ip = ebp, bottom, found.places[frame.next]
        self.vm.frames.pop()
        self._push(segment)

    # -- while it runs -------------------------------------------------------------------------------------------------------

    def run(self, segment: Segment, budget: int) -> None:
        """Let compiled code run until it ends, another frame is the innermost, or the budget is used up."""
        self.vm.switched = False
        while not self.vm.switched and budget > 0:
            before = self.process.compiled_instructions
            if segment.running:
                trap = self.process.go_on(budget)
            else:
                trap = self.process.enter(segment.ip, segment.stack, segment.frame, segment.result, budget)
            budget -= self.process.compiled_instructions - before
            segment.running = trap is None
            if trap is not None:
                segment.ip, segment.stack, segment.frame = trap.ip, trap.stack, trap.frame
                segment.result = trap.registers[0]
                _HANDLERS[trap.vector](self, segment, trap)

    def _called(self, segment: Segment, trap: CompiledTrap) -> None:
        """A stub asks for a method to be called; above its parameters lies the address that leads back."""
        method = self.vm.loader.methods[trap.registers[0]]
        found = self.ready(method)
        if found is not None:
            segment.ip = found.start
            return
        top = trap.stack + 4 * method.words
        self.vm.call(method, [signed(self.memory.read(top - 4 * n, 4)) for n in range(method.words)])

    def _returned(self, segment: Segment, trap: CompiledTrap) -> None:
        """The first method of the segment has returned."""
        self.vm.frames.pop()
        if self.vm.frames:
            self.vm.frames[-1].give(() if segment.kind == "V" else (signed(trap.registers[0]),))
        self.vm.switched = True

    def _divided(self, segment: Segment, trap: CompiledTrap) -> None:
        """IDIV has faulted: by zero, or since the quotient of the smallest int and -1 is too large: Java takes what 32 bits hold."""
        if not trap.registers[1]:
            raise Raise("java/lang/ArithmeticException", "/ by zero")
        segment.ip += IDIV_BYTES
        self.process.set_registers(eax=SMALLEST, edx=0)
        segment.result = SMALLEST

    def _missed(self, segment: Segment, trap: CompiledTrap) -> None:
        """The page of the null reference is not there."""
        assert trap.address < ROOM, f"compiled code has reached for {trap.address:#x} at {trap.ip:#x}"
        raise null_pointer()

    def _outside(self, segment: Segment, trap: CompiledTrap) -> None:
        array, index = trap.registers[:2]
        raise bounds(signed(index), self.vm.heap.length(array))

    def _overflowed(self, segment: Segment, trap: CompiledTrap) -> None:
        raise Raise("java/lang/StackOverflowError")

    def _served(self, segment: Segment, trap: CompiledTrap) -> None:
        """Do what the site asks for."""
        self.vm.charge("runtime services", self.vm.costs.managed_call)
        site = self.sites[trap.ip]
        if site.kind == "interface":
            self._find_interface(site, trap)
            return
        frame = self._frame(CompiledFrame(site.code, site.instruction, site.depth, trap.frame))
        if site.kind == "leave":
            self._leave(segment, frame, trap)
            return
        function, operand = frame.operations[site.instruction]
        frame.next = site.instruction + 1
        function(self.vm, frame, operand)
        if site.kind == "cast" and site.cell:
            self.memory.write(site.cell, 4, self.vm.heap.record(frame.stack[-1]))
        self._write_back(segment, site, frame)

    def _find_interface(self, site: Site, trap: CompiledTrap) -> None:
        code = site.code.verified.code[site.instruction]
        assert site.code.method.owner.file is not None
        method = self.vm.loader.method(site.code.method.owner.file.pool.method(code.operand))
        record = trap.registers[0]
        selected = self.vm.loader.by_record[record].selected(method.key)
        self.memory.write(site.cell, 4, record)
        self.memory.write(site.cell + 4, 4, selected.cell)

    def _frame(self, at: CompiledFrame) -> Frame:
        """Return a frame of the interpreter with the words of a compiled one."""
        method, layout = at.method, at.code.layout
        assert method.code is not None
        places = [layout.local(index) for index in range(method.code.max_locals)]
        words = [signed(self.memory.read(at.ebp + place, 4)) for place in places]
        frame = Frame(method, operations_of(method, at.code.verified), words)
        frame.stack = [signed(self.memory.read(at.ebp + layout.stack(slot), 4)) for slot in range(at.depth)]
        frame.next = at.instruction
        return frame

    def _write_back(self, segment: Segment, site: Site, frame: Frame) -> None:
        """Give a compiled frame the operand stack that an instruction of the interpreter has left."""
        layout = site.code.layout
        for slot, word in enumerate(frame.stack):
            self.memory.write(segment.frame + layout.stack(slot), 4, word)
        segment.stack = segment.frame + layout.top(len(frame.stack))

    def _leave(self, segment: Segment, frame: Frame, trap: CompiledTrap) -> None:
        """Go on in the interpreter, from the present instruction on: the compiled frame is given up."""
        segment.ip, segment.frame = self.memory.read(trap.frame + 4, 4), self.memory.read(trap.frame, 4)
        segment.stack = trap.frame + 8 + 4 * frame.method.words
        self.left += 1
        self._discard(frame.method)
        self.vm.frames.append(frame)
        self.vm.switched = True

    # -- looking at its frames -----------------------------------------------------------------------------------------------

    def walk(self, segment: Segment) -> Iterator[CompiledFrame]:
        """Yield the frames of a segment, the innermost first."""
        ip, ebp = segment.ip, segment.frame
        if ip not in self.sites and ip != self._return:  # in a stub, or before a method has a frame
            ip = self.memory.read(segment.stack, 4)
        while ip != self._return:
            site = self.sites[ip]
            yield CompiledFrame(site.code, site.instruction, site.depth, ebp)
            ip, ebp = self.memory.read(ebp + 4, 4), self.memory.read(ebp, 4)

    def roots(self, segment: Segment) -> Iterator[int]:
        """Yield the references in the frames of a segment, and what it is about to take from a method that it has called."""
        for frame in self.walk(segment):
            layout, verified = frame.code.layout, frame.code.verified
            assert frame.method.code is not None
            local, stack = verified.locals[frame.instruction], verified.stack[frame.instruction]
            for index in range(frame.method.code.max_locals):
                if local >> index & 1:
                    yield self.memory.read(frame.ebp + layout.local(index), 4)
            for slot in range(frame.depth):
                if stack >> slot & 1:
                    yield self.memory.read(frame.ebp + layout.stack(slot), 4)

    def catch(self, segment: Segment, reference: int) -> bool:
        """Let an exception go on where a frame of a segment catches it; False where none does."""
        for frame in self.walk(segment):
            target = find_handler(self.vm, frame.method, frame.instruction, reference)
            if target is not None:
                segment.frame = frame.ebp
                segment.stack = frame.ebp + frame.code.layout.top(1)
                self.memory.write(segment.stack, 4, reference)
                segment.ip = frame.code.places[target]
                self.vm.switched = True
                return True
            self.vm.charge("exceptions", self.vm.costs.managed_unwind)
        return False


IDIV_BYTES = 2
_HANDLERS: dict[int, Callable[[CompiledCode, Segment, CompiledTrap], None]] = {
    DE: CompiledCode._divided,  # noqa: SLF001 - its own
    PF: CompiledCode._missed,  # noqa: SLF001
    CALL: CompiledCode._called,  # noqa: SLF001
    RETURN: CompiledCode._returned,  # noqa: SLF001
    BOUNDS: CompiledCode._outside,  # noqa: SLF001
    OVERFLOW: CompiledCode._overflowed,  # noqa: SLF001
    SERVICE: CompiledCode._served,  # noqa: SLF001
}
