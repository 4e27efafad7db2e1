"""One plain English sentence about what a step did, from its trace events and the registers before and after.

Each kind of event has a function in a table; the step's main event speaks, in the order of `WEIGHT`. What the
sentence says was traced by the machine or stands in its registers: nothing is inferred beyond them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from vmlab.isa.x86.registers import (
    CONTROL_NAMES,
    DEBUG_NAMES,
    EFER_LMA,
    FLAG_BITS,
    NAMES_8_LEGACY,
    NAMES_16,
    NAMES_32,
    SEGMENT_NAMES,
)
from vmlab.views.assistance import ASSISTANCE
from vmlab.views.instant import shown_name
from vmlab.views.memory_captions import MEMORY_SENTENCES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vmlab.machine.trace import (
        ControlWrite,
        Emulate,
        End,
        Event,
        Exit,
        FirmwareCall,
        HardwareExit,
        Hop,
        Hypercall,
        Inject,
        Input,
        PortAccess,
        Resume,
        Signal,
        Switch,
        Trap,
    )
    from vmlab.views.assistance import Assistance

__all__ = ["Moment", "caption", "changes", "main_event", "port_access", "upper"]

WEIGHT = (
    "end", "vm-exit", "trap", "signal", "switch", "hop", "inject", "shadow", "nested", "emulate", "hypercall", "resume", "exit",
    "traced", "unsync", "sync", "root", "firmware", "port", "control", "input", "dma", "instruction",
)  # fmt: skip
"""Kinds of events, the most telling first."""

ASIDES = ("traced", "unsync", "sync", "dma")
"""Kinds of events that have a sentence of their own behind that of the main event."""

PAGE_FAULT = 14
REGISTER = re.compile(
    r"\b(" + "|".join((*NAMES_32, *NAMES_16, *NAMES_8_LEGACY, *SEGMENT_NAMES, *CONTROL_NAMES, *DEBUG_NAMES)) + r")\b"
)
PORT = re.compile(r"^(in|out) (?P<first>\w+), (?P<second>\w+)$")
SELECTORS = frozenset({"CS", "SS", "DS", "ES", "FS", "GS", "LDTR", "TR"})
WIDTHS = {"al": 0xFF, "ax": 0xFFFF, "eax": 0xFFFFFFFF}
IDLE = {"cli": "IF stays 0", "sti": "IF stays 1", "hlt": "the guest waits for an interrupt"}
DEVICES = {
    "pic": "interrupt controller",
    "pit": "timer",
    "uart": "serial port",
    "cga": "display",
    "debug-exit": "exit port",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """What a sentence may speak of.

    Attributes
    ----------
    virtual, translated : bool
        True under a monitor; where what ran was its translation of the instruction.
    assisted : Assistance or None
        How that is called, where the guest runs in its own rings with hardware assistance.
    started : bool
        False at the start of the run, where no step has been made yet.
    in_vmm, resumed : bool
        True where the monitor had the CPU before the step; and where it gave it to a guest in it.
    guest : str
        Name of the guest that ran.
    mode : str
        Its virtual mode before the step.
    text : str
        The instruction that was next before the step.
    address, ip : int
        Its linear address; the address that is next after the step.
    ring : int
        Physical ring after the step.
    before, after : mapping
        The guest's registers by name, before and after.
    names : sequence of str
        Names of all guests.
    where : callable
        Names an address of the guest by a label near it.
    device : callable
        Names the guest's device at a port.
    """

    virtual: bool
    assisted: Assistance | None
    started: bool
    in_vmm: bool
    resumed: bool
    guest: str
    mode: str
    text: str
    address: int
    ip: int
    ring: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    names: Sequence[str]
    where: Callable[[int], str]
    device: Callable[[int], str]
    translated: bool = False


def main_event(events: Sequence[Event]) -> Event | None:
    """Return the event that tells most about a step, None if there is none."""
    ranked = [event for event in events if event.kind in WEIGHT]
    return min(ranked, key=lambda event: WEIGHT.index(event.kind), default=None)


def caption(moment: Moment, events: Sequence[Event]) -> str:
    """Say what a step did."""
    main = main_event(events)
    event = main if main and main.kind not in ("dma", "instruction") else None  # what a device does, it does beside it
    said = [SENTENCES[event.kind](moment, event, events) if event else _plain(moment)]
    others = [each for each in events if each.kind in ASIDES and each is not event]
    return " ".join(said + [SENTENCES[each.kind](moment, each, events) for each in others])


def changes(before: Mapping[str, int], after: Mapping[str, int], skip: Sequence[str] = ("EIP",)) -> str:
    """Say which registers changed, flags by name, at most four.

    >>> changes({"EAX": 1, "EFLAGS": 0x202}, {"EAX": 5, "EFLAGS": 2})
    'EAX 00000001 → 00000005, IF 1 → 0'
    """
    found = []
    long = bool(after.get("EFER", 0) & EFER_LMA)
    for name, old in before.items():
        new = after.get(name, old)
        if new == old or name in skip:
            continue
        if name == "EFLAGS":
            changed = [(flag, bit) for flag, bit in FLAG_BITS.items() if (old ^ new) & bit]
            found += [f"{flag} {int(bool(old & bit))} → {int(bool(new & bit))}" for flag, bit in changed]
        else:
            digits = 4 if name in SELECTORS else 8
            found.append(f"{shown_name(name, long=long)} {old:0{digits}x} → {new:0{digits}x}")
    return ", ".join(found[:4]) + (" …" if len(found) > 4 else "")


def upper(text: str) -> str:
    """Write mnemonic and registers in capitals, as manuals do in running text.

    >>> upper("mov cr3, eax")
    'MOV CR3, EAX'
    """
    words = text.split(" ", 1)
    if len(words) == 1:
        return words[0].upper()
    return f"{words[0].upper()} {REGISTER.sub(lambda found: found[0].upper(), words[1])}"


def port_access(text: str, registers: Mapping[str, int]) -> tuple[bool, int, int] | None:
    """Return what an IN or OUT accesses: whether it writes, the port, the accumulator; None for anything else.

    >>> port_access("out dx, al", {"EDX": 0x3F8, "EAX": 0x148})
    (True, 1016, 72)
    """
    found = PORT.match(text)
    if found is None:
        return None
    write = found[1] == "out"
    port, accumulator = (found["first"], found["second"]) if write else (found["second"], found["first"])
    number = registers.get("EDX", 0) & 0xFFFF if port == "dx" else int(port, 0)
    return write, number, registers.get("EAX", 0) & WIDTHS.get(accumulator, 0xFFFFFFFF)


def _at(moment: Moment, address: int) -> str:
    place = moment.where(address)
    return f"{address:#x} ({place})" if place else f"{address:#x}"


def _who(moment: Moment) -> str:
    return f"Guest {moment.guest}" if len(moment.names) > 1 else "The guest"


def _plain(moment: Moment) -> str:
    """Say what a step without a special event did: mostly, one instruction ran."""
    if not moment.started:
        who = "The VMM is about to start the guest" if moment.virtual else f"{_who(moment)} is about to start"
        return f"{who} at {_at(moment, moment.ip)}."
    if moment.in_vmm:
        return "The VMM works in ring 0: the guest stands still."
    text = upper(moment.text) if moment.text else "An instruction"
    if not moment.virtual and moment.mode == "user" and moment.ring == 0:
        return f"{text} calls the kernel: the hardware enters its handler at {_at(moment, moment.ip)} in ring 0."
    if not moment.virtual and moment.mode == "kernel" and moment.ring == 3:
        return f"{text} returns to user mode, at {_at(moment, moment.ip)} in ring 3."
    if moment.virtual and moment.ring == 1 and moment.mode == "user":
        return f"{text} calls the guest's kernel directly: the hardware enters its handler at {_at(moment, moment.ip)} in ring 1, and the VMM does not notice."
    if moment.virtual and moment.ring == 3 and moment.text == "iret":
        return f"{text} returns to user mode directly, at {_at(moment, moment.ip)} in ring 3: the VMM does not notice."
    changed = _port_words(moment, moment.text, "") or changes(moment.before, moment.after)
    tail = f": {changed}." if changed else "."
    if moment.assisted:
        return f"{text} runs directly on the CPU in ring {moment.ring} of {moment.assisted.operation}{tail}"
    if moment.virtual:
        return f"{text} runs {'in translation' if moment.translated else 'directly'} on the CPU in ring {moment.ring} (virtual {moment.mode} mode){tail}"
    return f"{text} runs on the CPU in ring {moment.ring}{tail}"


def _port_words(moment: Moment, text: str, virtual: str) -> str:
    access = port_access(text, moment.before)
    if access is None:
        return ""
    write, port, value = access
    if not write:
        value = port_access(text, {**moment.before, "EAX": moment.after["EAX"]})[2]  # type: ignore[index]
    name = moment.device(port)
    letter = f" ({chr(value)!r})" if name == "uart" and 0x20 <= value < 0x7F else ""
    device = f"the {virtual}{DEVICES.get(name, name)}" if name else "no device"
    way = f"{value:#x}{letter} goes to" if write else f"{value:#x}{letter} comes from"
    return f"{way} {device} at port {port:#x}"


def _trap(moment: Moment, event: Trap, events: Sequence[Event]) -> str:
    if moment.assisted:
        context = f"ring {event.from_ring}, {moment.assisted.short}"
        target = f"the hardware enters the guest kernel's own handler at {_at(moment, moment.ip)}, and the VMM does not notice"
    elif moment.virtual:
        context = f"virtual {moment.mode} mode, physical ring {event.from_ring}"
        target = "the hardware delivers it to the VMM"
    else:
        context = f"ring {event.from_ring}"
        target = f"the hardware enters the kernel's handler at {_at(moment, moment.ip)}"
    if event.name.startswith("vector"):
        text = upper(moment.text) if moment.text else "A software interrupt"
        return f"{text} at {moment.address:#x} ({context}) is a software interrupt: {target}."
    if not event.name.startswith("#"):
        name = event.name[:1].upper() + event.name[1:]
        return f"{name} interrupts the guest at {event.address:#x} ({context}): {target}."
    text = upper(moment.text) if moment.address == event.address and moment.text else "The instruction"
    name = event.name if event.error_code is None else f"{event.name}({_error(event)})"
    return f"{text} at {event.address:#x} ({context}) raises {name}: {target}."


def _error(event: Trap) -> str:
    code = event.error_code or 0
    if event.vector != PAGE_FAULT:
        return f"{code:#x}" if code else "0"
    words = [
        "protection" if code & 1 else "not present",
        "write" if code & 2 else "read",
        "user" if code & 4 else "supervisor",
    ]
    return ", ".join(words) + ("" if event.cr2 is None else f" at {event.cr2:#x}")


def _vm_exit(moment: Moment, event: HardwareExit, events: Sequence[Event]) -> str:
    reason = event.reason.replace("_", " ")
    text = f"at {upper(moment.text)}, " if moment.text and moment.address == event.address else ""
    words = moment.assisted or ASSISTANCE["vt-x"]
    detail = f", {words.detail} {event.qualification:#x}" if event.qualification else ""
    return (
        f"{words.leaving} {text}{_at(moment, event.address)}: {reason}{detail}. The hardware saves the guest's state in the "
        f"{words.structure} and loads the VMM's."
    )


def _exit(moment: Moment, event: Exit, events: Sequence[Event]) -> str:
    detail = f" ({event.detail})" if event.detail else ""
    reads = f"reads the exit reason in the {moment.assisted.structure}" if moment.assisted else ""
    return f"The VMM {reads or 'finds why the guest lost the CPU'}: {event.reason}{detail}."


def _emulate(moment: Moment, event: Emulate, events: Sequence[Event]) -> str:
    port = _port_words(moment, event.text, "virtual ")
    changed = port or changes(moment.before, moment.after) or IDLE.get(event.text, "")
    return (
        f"The VMM emulates {upper(event.text)} on the VCPU{': ' + changed if changed else ', and no register changes'}."
    )


def _hypercall(moment: Moment, event: Hypercall, events: Sequence[Event]) -> str:
    calls = [each for each in events if each.kind == "hypercall"]
    if len(calls) > 1:  # the multicall itself is told of last
        names = ", ".join(each.name for each in calls[:-1])  # type: ignore[attr-defined]  # of this kind
        return f"{_who(moment)} makes {len(calls) - 1} hypercalls at once, in one crossing: {names}."
    answer = f"answers {event.result}" if event.result >= 0 else f"refuses it with error {-event.result}"
    return f"{_who(moment)} calls the VMM: {event.name}({event.arguments}). The VMM {answer}."


def _inject(moment: Moment, event: Inject, events: Sequence[Event]) -> str:
    again = " and resumes it" if moment.resumed else ""
    if moment.assisted:
        again = " and resumes the guest" if moment.resumed else ""
        return f"The VMM injects {event.name}{again}: the {moment.assisted.entering} delivers it."
    return f"The VMM injects {event.name} into the VCPU{again}: the guest continues in its handler at {_at(moment, moment.ip)}."


def _resume(moment: Moment, event: Resume, events: Sequence[Event]) -> str:
    if moment.assisted:
        return (
            f"{moment.assisted.entering}: the VMM resumes the guest at {_at(moment, moment.ip)}, in ring {moment.ring} of "
            f"{moment.assisted.operation}."
        )
    return f"The VMM resumes the guest with IRET at {_at(moment, moment.ip)}: virtual {event.mode} mode in physical ring {moment.ring}."


def _switch(moment: Moment, event: Switch, events: Sequence[Event]) -> str:
    old, new = moment.names[event.previous], moment.names[event.guest]
    again = f", and resumes it at {_at(moment, moment.ip)}" if moment.resumed else ""
    return f"World switch: the VMM keeps the VCPU of {old} and loads that of {new}{again}."


def _port(moment: Moment, event: PortAccess, events: Sequence[Event]) -> str:
    way = f"goes to port {event.port:#x}" if event.write else f"comes from port {event.port:#x}"
    return f"{upper(moment.text)}: {event.value:#x} {way} ({event.device or 'no device'})."


def _signal(moment: Moment, event: Signal, events: Sequence[Event]) -> str:
    if event.name == "INIT":
        return "INIT resets the processor."
    return f"STARTUP lets the processor begin in real mode at {event.address:#x}."


def _firmware(moment: Moment, event: FirmwareCall, events: Sequence[Event]) -> str:
    return f"The BIOS does INT {event.vector:02X}h, AH={event.ax >> 8:02X}h, for the guest: {upper(moment.text)} calls its host software."


def _hop(moment: Moment, event: Hop, events: Sequence[Event]) -> str:
    return f"From {event.origin} to {event.target}: {event.what}."


def _control(moment: Moment, event: ControlWrite, events: Sequence[Event]) -> str:
    return f"{upper(moment.text)} changes {event.register.upper()} from {event.old:#x} to {event.new:#x}."


def _input(moment: Moment, event: Input, events: Sequence[Event]) -> str:
    text = event.data.decode("utf-8", "replace")
    where = "keyboard" if event.device == "keyboard" else "serial port"
    return f"Someone types {text!r} at the {where} of {moment.names[event.guest]}."


def _end(moment: Moment, event: End, events: Sequence[Event]) -> str:
    status = "" if event.status is None else f", status {event.status}"
    return f"Guest {moment.names[event.guest]} ends: {event.outcome}{status}."


SENTENCES: Mapping[str, Callable[..., str]] = MappingProxyType(
    {
        "vm-exit": _vm_exit,
        "trap": _trap,
        "exit": _exit,
        "emulate": _emulate,
        "hypercall": _hypercall,
        "inject": _inject,
        **MEMORY_SENTENCES,
        "resume": _resume,
        "switch": _switch,
        "signal": _signal,
        "firmware": _firmware,
        "port": _port,
        "hop": _hop,
        "control": _control,
        "input": _input,
        "end": _end,
    }
)
