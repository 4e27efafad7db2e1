"""Captions: one sentence, from events and registers alone."""

from __future__ import annotations

import pytest

from vmlab.machine.trace import (
    Dma,
    Emulate,
    End,
    Exit,
    FirmwareCall,
    HardwareExit,
    Inject,
    NestedFill,
    PortAccess,
    Resume,
    ShadowFill,
    ShadowRoot,
    ShadowSync,
    ShadowUnsync,
    ShadowWrite,
    Signal,
    Switch,
    Trap,
)
from vmlab.views.assistance import ASSISTANCE
from vmlab.views.captions import Moment, caption, changes, main_event, port_access, upper

STAMP = (7, 70, 0)
REGISTERS = {"EIP": 0x100012, "EFLAGS": 0x202, "EAX": 0x148, "EDX": 0x3F8}


VT_X, AMD_V = ASSISTANCE["vt-x"], ASSISTANCE["amd-v"]


def moment(**changed):
    facts = {
        "virtual": True, "assisted": None, "started": True, "in_vmm": False, "resumed": False, "guest": "a", "mode": "kernel", "text": "cli",
        "address": 0x100012, "ip": 0x100013, "ring": 0, "before": REGISTERS, "after": REGISTERS, "names": ["a"],
        "where": {0x100013: "main+0x3", 0x100200: "handler"}.get, "device": {0x3F8: "uart"}.get,
    }  # fmt: skip
    return Moment(**{**facts, **changed})


CASES = {
    "VM exit": (
        moment(assisted=VT_X, text="cpuid"),
        [HardwareExit(*STAMP, "CPUID", 0, 0x100012, 0)],
        "VM exit at CPUID, 0x100012: CPUID. The hardware saves the guest's state in the VMCS and loads the VMM's.",
    ),
    "VM entry": (
        moment(assisted=VT_X, in_vmm=True, resumed=True),
        [Resume(*STAMP, "kernel")],
        "VM entry: the VMM resumes the guest at 0x100013 (main+0x3), in ring 0 of VMX non-root operation.",
    ),
    "trap of a guest in its own rings": (
        moment(assisted=VT_X, text="div ecx", ip=0x100200),
        [Trap(*STAMP, 0, "#DE", None, 0x100012, 3, 0)],
        (
            "DIV ECX at 0x100012 (ring 3, VMX non-root) raises #DE: the hardware enters the guest kernel's own handler at "
            "0x100200 (handler), and the VMM does not notice."
        ),
    ),
    "nested fill": (
        moment(assisted=VT_X, in_vmm=True),
        [NestedFill(*STAMP, 0x8000, 0x308000, 0x200000)],
        (
            "The VMM fills the nested page table: guest-physical 0x8000 → host-physical 0x308000, a page of 2,048 KiB. The "
            "guest never learns of it."
        ),
    ),
    "#VMEXIT": (
        moment(assisted=AMD_V, text="in al, dx"),
        [HardwareExit(*STAMP, "IOIO", 0x3F80011, 0x100012, 0)],
        (
            "#VMEXIT at IN AL, DX, 0x100012: IOIO, EXITINFO1 0x3f80011. The hardware saves the guest's state in the VMCB and loads "
            "the VMM's."
        ),
    ),
    "VMRUN": (
        moment(assisted=AMD_V, in_vmm=True, resumed=True),
        [Resume(*STAMP, "kernel")],
        "VMRUN: the VMM resumes the guest at 0x100013 (main+0x3), in ring 0 of SVM guest mode.",
    ),
    "reason of a VM exit": (
        moment(assisted=VT_X, in_vmm=True),
        [Exit(*STAMP, "HLT", "hlt")],
        "The VMM reads the exit reason in the VMCS: HLT (hlt).",
    ),
    "injection by a VM entry": (
        moment(assisted=VT_X, in_vmm=True, resumed=True),
        [Inject(*STAMP, 0x20, "interrupt 0x20")],
        "The VMM injects interrupt 0x20 and resumes the guest: the VM entry delivers it.",
    ),
    "an instruction of a guest in its own rings": (
        moment(assisted=VT_X),
        [],
        "CLI runs directly on the CPU in ring 0 of VMX non-root operation.",
    ),
    "reset of a processor": (moment(), [Signal(*STAMP, "INIT", 0xFFFFFFF0, cpu=1)], "INIT resets the processor."),
    "start of a processor": (
        moment(),
        [Signal(*STAMP, "STARTUP", 0x8000, cpu=1)],
        "STARTUP lets the processor begin in real mode at 0x8000.",
    ),
    "trap": (
        moment(),
        [Trap(*STAMP, 13, "#GP", 0, 0x100012, 3, 0)],
        "CLI at 0x100012 (virtual kernel mode, physical ring 3) raises #GP(0): the hardware delivers it to the VMM.",
    ),
    "page fault": (
        moment(text="mov eax, [ebx]"),
        [Trap(*STAMP, 14, "#PF", 6, 0x100012, 3, 0, 0x8000)],
        (
            "MOV EAX, [EBX] at 0x100012 (virtual kernel mode, physical ring 3) raises #PF(not present, write, user at 0x8000): "
            "the hardware delivers it to the VMM."
        ),
    ),
    "interrupt": (
        moment(mode="user"),
        [Trap(*STAMP, 0xFE, "timer", None, 0x100012, 3, 0)],
        "Timer interrupts the guest at 0x100012 (virtual user mode, physical ring 3): the hardware delivers it to the VMM.",
    ),
    "native trap": (
        moment(virtual=False, text="div ecx", ip=0x100200),
        [Trap(*STAMP, 0, "#DE", None, 0x100012, 3, 0)],
        "DIV ECX at 0x100012 (ring 3) raises #DE: the hardware enters the kernel's handler at 0x100200 (handler).",
    ),
    "emulate": (
        moment(in_vmm=True, after={**REGISTERS, "EFLAGS": 2}),
        [Exit(*STAMP, "CLI or STI", "cli"), Emulate(*STAMP, 0x100012, "cli")],
        "The VMM emulates CLI on the VCPU: IF 1 → 0.",
    ),
    "emulate a port": (
        moment(in_vmm=True),
        [Emulate(*STAMP, 0x100012, "out dx, al")],
        "The VMM emulates OUT DX, AL on the VCPU: 0x48 ('H') goes to the virtual serial port at port 0x3f8.",
    ),
    "resume": (
        moment(in_vmm=True, resumed=True, ring=3),
        [Resume(*STAMP, "kernel")],
        "The VMM resumes the guest with IRET at 0x100013 (main+0x3): virtual kernel mode in physical ring 3.",
    ),
    "inject": (
        moment(in_vmm=True, resumed=True, ip=0x100200),
        [Inject(*STAMP, 32, "interrupt 0x20"), Resume(*STAMP, "kernel")],
        "The VMM injects interrupt 0x20 into the VCPU and resumes it: the guest continues in its handler at 0x100200 (handler).",
    ),
    "shadow": (
        moment(in_vmm=True),
        [ShadowFill(*STAMP, 0x400000, 0x5000, 0x205000, writable=True)],
        (
            "The VMM fills the shadow page table: guest-virtual 0x400000 → guest-physical 0x5000 → host-physical 0x205000, "
            "writable. The guest never learns of it."
        ),
    ),
    "out of step": (
        moment(in_vmm=True),
        [
            Exit(*STAMP, "hidden page fault", "0x211008"),
            ShadowUnsync(*STAMP, 0x211000),
            ShadowFill(*STAMP, 0x211008, 0x211008, 0x411008, writable=True),
        ],
        (
            "The VMM fills the shadow page table: guest-virtual 0x211008 → guest-physical 0x211008 → host-physical 0x411008, "
            "writable. The guest never learns of it. From now on the guest writes to its page table at 0x211000 unseen: the "
            "shadow of it is out of step until the guest flushes its TLB."
        ),
    ),
    "in step": (
        moment(in_vmm=True, after={**REGISTERS, "EFLAGS": 2}),
        [Emulate(*STAMP, 0x100012, "mov cr3, eax"), ShadowSync(*STAMP, 1, 5, 2, 1)],
        (
            "The VMM emulates MOV CR3, EAX on the VCPU: IF 1 → 0. The TLB flush brings the shadow of a page table in step: "
            "5 entries stay, 2 change, 1 go."
        ),
    ),
    "traced write": (
        moment(in_vmm=True, after={**REGISTERS, "EFLAGS": 2}),
        [Emulate(*STAMP, 0x100012, "mov dword ptr [eax], 0"), ShadowWrite(*STAMP, 0x210000, 3, 0, 2)],
        (
            "The VMM emulates MOV dword ptr [EAX], 0 on the VCPU: IF 1 → 0. The write went to entry 3 of the guest's page table "
            "at 0x210000, and its shadow follows: 0 entries change, 2 go."
        ),
    ),
    "shadow root": (
        moment(in_vmm=True),
        [ShadowRoot(*STAMP, 0x210000, 0x12C000, known=True)],
        "The VMM takes the shadow root at host-physical 0x12c000 for CR3 0x210000: it was kept.",
    ),
    "switch": (
        moment(in_vmm=True, names=["a", "b"]),
        [Switch(7, 70, 1, 0)],
        "World switch: the VMM keeps the VCPU of a and loads that of b.",
    ),
    "exit": (
        moment(in_vmm=True),
        [Exit(*STAMP, "external interrupt", "time slice")],
        "The VMM finds why the guest lost the CPU: external interrupt (time slice).",
    ),
    "end": (moment(), [End(*STAMP, "exit", 33)], "Guest a ends: exit, status 33."),
    "port": (
        moment(virtual=False, text="out dx, al"),
        [PortAccess(*STAMP, 0x3F8, 1, 0x48, True, "uart")],
        "OUT DX, AL: 0x48 goes to port 0x3f8 (uart).",
    ),
    "firmware": (
        moment(virtual=False, text="out 0xb2, al"),
        [PortAccess(*STAMP, 0xB2, 1, 0x48, True, "firmware"), FirmwareCall(*STAMP, 0x10, 0x0E48)],
        "The BIOS does INT 10h, AH=0Eh, for the guest: OUT 0xb2, AL calls its host software.",
    ),
    "dma": (
        moment(virtual=False, text="jmp main", ring=0),
        [Dma(*STAMP, 0x5000, 512, 512, True, "ide-dma"), Dma(*STAMP, 0x200000, 512, 0, False, "ide-dma")],
        (
            "JMP main runs on the CPU in ring 0. Meanwhile ide-dma writes 512 bytes of memory at 0x5000 by itself (DMA). "
            "Meanwhile ide-dma reads memory at 0x200000 by itself (DMA): 0 of 512 bytes, since nothing answers there, and it "
            "stops with an error."
        ),
    ),
    "instruction": (
        moment(text="mov eax, 5", ring=3, after={**REGISTERS, "EAX": 5}),
        [],
        "MOV EAX, 5 runs directly on the CPU in ring 3 (virtual kernel mode): EAX 00000148 → 00000005.",
    ),
    "native system call": (
        moment(virtual=False, mode="user", text="int 0x80", ip=0x100200),
        [],
        "INT 0x80 calls the kernel: the hardware enters its handler at 0x100200 (handler) in ring 0.",
    ),
    "native return": (
        moment(virtual=False, text="iret", ring=3),
        [],
        "IRET returns to user mode, at 0x100013 (main+0x3) in ring 3.",
    ),
    "start": (moment(started=False), [], "The VMM is about to start the guest at 0x100013 (main+0x3)."),
}


@pytest.mark.parametrize("case", CASES)
def test_sentence(case):
    given, events, sentence = CASES[case]
    assert caption(given, events) == sentence


def test_the_most_telling_event_speaks():
    events = [Exit(*STAMP, "x", ""), Resume(*STAMP, "kernel"), Inject(*STAMP, 3, "#BP")]
    assert main_event(events).kind == "inject"
    assert main_event([]) is None


def test_changes_names_flags_and_is_short():
    assert changes({"EFLAGS": 0x41}, {"EFLAGS": 0}) == "CF 1 → 0, ZF 1 → 0"
    assert changes({"CS": 8}, {"CS": 0x1B}) == "CS 0008 → 001b"
    many = dict.fromkeys("ABCDEF", 0)
    assert changes(many, dict.fromkeys(many, 1)).endswith("…")
    assert changes(many, many) == ""


def test_port_access_reads_registers():
    assert port_access("in al, 0x64", {"EAX": 0x1FF}) == (False, 0x64, 0xFF)
    assert port_access("out dx, ax", {"EAX": 0x12345, "EDX": 0x103F8}) == (True, 0x3F8, 0x2345)
    assert port_access("mov eax, ebx", {}) is None


def test_upper_leaves_symbols_alone():
    assert upper("call print_al") == "CALL print_al"
    assert upper("hlt") == "HLT"
