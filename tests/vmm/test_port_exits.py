"""IN and OUT from what an exit tells of them: the same instruction as is in memory, and nothing put together where there is more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.vmm.harness import differences, finish, kernel, seen
from vmlab.isa.x86.decoder import decode
from vmlab.vmm.port_exits import port_instruction

IOPL_3, VM = 0x3000, 1 << 17
FORMS = [  # bits, code, bytes, port, IN
    (32, "ec", 1, None, True), (32, "ed", 4, None, True), (32, "66ed", 2, None, True), (32, "ee", 1, None, False),
    (32, "ef", 4, None, False), (32, "66ef", 2, None, False), (32, "e4f0", 1, 0xF0, True), (32, "e5f0", 4, 0xF0, True),
    (32, "66e5f0", 2, 0xF0, True), (32, "e6f0", 1, 0xF0, False), (32, "e7f0", 4, 0xF0, False), (16, "ed", 2, None, True),
    (16, "66ed", 4, None, True), (16, "ee", 1, None, False), (16, "66e7f0", 4, 0xF0, False), (64, "ed", 4, None, True),
    (64, "66ef", 2, None, False), (64, "ec", 1, None, True),
]  # fmt: skip


def told(bits, width, port, length, *, is_in, flags=0, ring=0, **more):
    vcpu = SimpleNamespace(fetch_bits=bits, flags=flags, ring=ring, non_root=False, spy=None, **more)
    return port_instruction(vcpu, width, port, length, is_in=is_in)


@pytest.mark.parametrize(("bits", "code", "width", "port", "is_in"), FORMS)
def test_it_is_the_instruction_in_memory(bits, code, width, port, is_in):
    raw = bytes.fromhex(code)
    _, instruction, length = told(bits, width, port, len(raw), is_in=is_in)
    assert (instruction, length) == (decode(raw, bits), len(raw))
    assert told(bits, width, port, len(raw) + 1, is_in=is_in) is None, "a needless prefix is read from memory"


@pytest.mark.parametrize(
    ("ring", "flags", "whole"), [(0, 0, True), (3, 0, False), (3, IOPL_3, True), (3, IOPL_3 | VM, False), (1, 0, False)]
)
def test_where_the_permission_map_counts_it_is_read_from_memory(ring, flags, whole):
    assert (told(32, 1, None, 1, is_in=True, ring=ring, flags=flags) is not None) == whole


PORTS = """
main:   mov edx, 0x3FF                  ; the serial line's scratch register, by each form; the rest of the ports is open bus
        mov ecx, 5
.next:  lea eax, [ecx + 0x80]
        out dx, al
        xor eax, eax
        db 0x66, 0xEC                   ; a needless prefix
        add [FREE], eax
        db 0x3E, 0xEE                   ; another
        in al, dx
        add [FREE + 4], eax
        in ax, dx
        add [FREE + 8], eax
        in eax, 0x21
        add [FREE + 12], eax
        in al, 0x21
        out 0x21, al
        out 0x80, eax
        mov dword [.patch], 0x90909090
        call .sub
        dec ecx
        jnz .next
        call quit
.sub:   nop
.patch: in al, dx
        nop
        nop
        nop
        ret
"""


@pytest.mark.parametrize("under", ["vt-x", "amd-v"])
def test_every_form_is_as_on_the_bare_machine(under):
    image = kernel(PORTS)
    native, virtual = (finish(image, each) for each in ("native", under))
    assert not differences(seen(native.guests[0]), seen(virtual.guests[0]))
    assert native.guests[0].outcome == "exit"
    assert virtual.guests[0].emulated["in"] >= 25


def test_a_trace_changes_nothing():
    image = kernel(PORTS)
    plain, traced = (finish(image, "vt-x", detail=detail) for detail in ("none", "events"))
    assert not differences(seen(plain.guests[0]), seen(traced.guests[0]))
    assert plain.save() == traced.save()
