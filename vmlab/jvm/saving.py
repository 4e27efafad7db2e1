"""Saving a Java virtual machine between two instructions, and going on from there.

Objects, static fields, records and compiled code are in the simulated memory, which is saved as a whole. Of the rest the classes
are loaded again, in the same order, which gives them the same places; frames, counters and what the runtime knows of compiled code
are plain data.

Simplified: the class files themselves are not saved, but compared; what a saved stack holds is believed, though references are
looked at by the check of the heap.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.jvm.classes import FAILED
from vmlab.jvm.collector import Collection, check_heap
from vmlab.jvm.compiled_method import CompiledMethod, Site
from vmlab.jvm.frames import Frame, Segment
from vmlab.jvm.operations import operations_of
from vmlab.jvm.verifier import verify
from vmlab.machine.state import COUNT, LONG, Entries, Items, check_state

if TYPE_CHECKING:
    from vmlab.jvm.classes import Method
    from vmlab.jvm.compiled_code import CompiledCode
    from vmlab.jvm.runtime import Runtime

__all__ = ["load_runtime", "save_runtime"]

NONE = type(None)
RUNTIME = {
    "classes": Items(Items((str, int, NONE), 3)),
    "methods": Items(Items(COUNT, 2)),
    "frames": Items(dict),
    "status": (range(256), NONE),
    "output": bytes,
    "errors": bytes,
    "bytecodes": COUNT,
    "calls": Entries(str, COUNT),
    "collections": Items(Items(COUNT, 4)),
    "charged": Entries(str, COUNT),
    "strings": Entries(str, LONG),
    "class_objects": Entries(str, LONG),
    "last_resort": LONG,
    "heap": dict,
    "compiled": dict,
}
CODE = {
    "made": Items(dict),
    "used": Entries(COUNT, COUNT),
    "refused": Entries(COUNT, str),
    "left": COUNT,
    "left_by": Entries(COUNT, COUNT),
    "next": LONG,
}
MADE = {
    "method": COUNT, "start": LONG, "code": bytes, "places": Entries(COUNT, LONG),
    "sites": Entries(LONG, Items((COUNT, str), 4)),
}  # fmt: skip
FRAME = {"method": COUNT, "locals": Items(int), "stack": Items(int), "next": COUNT, "again": bool}
SEGMENT: dict[str, Any] = dict.fromkeys(("base", "ip", "stack", "frame", "result"), LONG) | {
    "kind": str,
    "running": bool,
}


def save_runtime(vm: Runtime) -> dict[str, Any]:
    """Save what is not in memory as plain data."""
    return {
        "version": 1,
        "classes": [[each.name, each.state, vm.loader.digest(each.name)] for each in vm.loader.classes.values()],
        "methods": [[each.calls, each.loops] for each in vm.loader.methods],
        "frames": [_save_frame(each) for each in vm.frames],
        "status": vm.status,
        "output": bytes(vm.output),
        "errors": bytes(vm.errors),
        "bytecodes": vm.bytecodes,
        "calls": dict(vm.calls),
        "collections": [list(each) for each in vm.collections],
        "charged": dict(vm.charged),
        "strings": dict(vm.strings),
        "class_objects": dict(vm.class_objects),
        "last_resort": vm.last_resort,
        "heap": vm.heap.save(),
        "compiled": _save_code(vm.compiled),
    }


def _save_frame(frame: Frame | Segment) -> dict[str, Any]:
    if isinstance(frame, Segment):
        return {"version": 1, **{name: getattr(frame, name) for name in SEGMENT}}
    return {
        "version": 1, "method": frame.method.number, "locals": list(frame.locals), "stack": list(frame.stack), "next": frame.next,
        "again": frame.again,
    }  # fmt: skip


def _save_code(code: CompiledCode) -> dict[str, Any]:
    sites: dict[CompiledMethod, dict[int, list[Any]]] = {each: {} for each in code.made}
    for address, (owner, *rest) in code.sites.items():
        sites[owner][address] = rest
    made = [
        {
            "version": 1, "method": each.method.number, "start": each.start, "code": each.code, "places": dict(each.places),
            "sites": sites[each],
        }
        for each in code.made
    ]  # fmt: skip
    return {"version": 1, "made": made, **code.save_counts()}


def load_runtime(vm: Runtime, state: dict[str, Any], process: dict[str, Any]) -> None:
    """Load what `save_runtime` gave into a runtime that has loaded no class; and the process's state.

    Raises
    ------
    StateError
        It is damaged, or of another program. The runtime is of no use then.
    """
    check_state(state, "Java runtime", RUNTIME)
    for name, initialised, digest in state["classes"]:
        found = vm.loader.load(str(name))
        if vm.loader.digest(found.name) != digest or initialised not in range(FAILED + 1):
            raise StateError(
                f"Java runtime: the saved state is of another class {name}: load it with the same class files"
            )
        found.state = initialised
    reserved = vm.process.reserved
    vm.process.load(process)
    if len(state["methods"]) != len(vm.loader.methods) or vm.process.reserved != reserved:
        raise StateError("Java runtime: the saved state is of other classes: load it with the same class files")
    for method, (calls, loops) in zip(vm.loader.methods, state["methods"], strict=True):
        method.calls, method.loops = calls, loops
    for name in ("status", "bytecodes", "last_resort"):
        setattr(vm, name, state[name])
    vm.output, vm.errors = bytearray(state["output"]), bytearray(state["errors"])
    vm.calls, vm.charged = Counter(state["calls"]), Counter(state["charged"])
    vm.strings, vm.class_objects = dict(state["strings"]), dict(state["class_objects"])
    vm.collections = [Collection(*each) for each in state["collections"]]
    vm.heap.load(state["heap"])
    _load_code(vm, check_state(state["compiled"], "compiled code", CODE))
    vm.frames = [_load_frame(vm, each) for each in state["frames"]]
    frames = vm.frames
    if frames and isinstance(frames[-1], Segment):
        vm.frames = frames[:-1]  # it is in the midst of its code, where nobody knows which of its words are references
    check_heap(vm.heap, vm.loader, list(vm.roots()))
    vm.frames = frames


def _method(vm: Runtime, number: int) -> Method:
    if number >= len(vm.loader.methods) or vm.loader.methods[number].code is None:
        raise StateError(f"Java runtime: the saved state names method {number}, which has no code: it is damaged")
    return vm.loader.methods[number]


def _load_code(vm: Runtime, state: dict[str, Any]) -> None:
    for each in state["made"]:
        check_state(each, "compiled method", MADE)
        method = _method(vm, each["method"])
        verified = verify(method, vm.loader)
        compiled = CompiledMethod(method, verified, each["start"], each["code"], dict(each["places"]))
        vm.compiled.made.append(compiled)
        for address, (instruction, depth, kind, cell) in each["sites"].items():
            if instruction not in range(len(verified.code)):
                raise StateError(f"compiled method: a saved site names instruction {instruction!r}: it is damaged")
            vm.compiled.sites[address] = Site(compiled, instruction, depth, kind, cell)
    vm.compiled.load_counts(state)


def _load_frame(vm: Runtime, state: dict[str, Any]) -> Frame | Segment:
    if "method" not in state:
        check_state(state, "segment", SEGMENT)
        segment = Segment()
        for name in SEGMENT:
            setattr(segment, name, state[name])
        return segment
    check_state(state, "frame", FRAME)
    method = _method(vm, state["method"])
    verified = verify(method, vm.loader)
    frame = Frame(method, operations_of(method, verified), list(state["locals"]))
    frame.stack, frame.next, frame.again = list(state["stack"]), state["next"], state["again"]
    assert method.code is not None
    fits = len(frame.locals) == method.code.max_locals and len(frame.stack) <= method.code.max_stack
    if not fits or not frame.next < len(verified.code) or verified.locals[frame.next] < 0:
        raise StateError(f"frame: the saved frame of {method.title} does not fit the method: it is damaged")
    return frame
