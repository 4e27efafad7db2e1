"""A guest that does what it is told: one access, one invalidation or one change of a control register for each command.

A test writes a command into the guest's memory, as a debugger would, and lets the system run until the guest has done it.
The guest's own memory (the first 4 MiB, one to one) is in each of its three address spaces. Beyond lie four regions of
4 MiB, of which three pages are used each; what is there, the test decides.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.vmm.harness import kernel
from vmlab.vmm.page_walk import shadow_of
from vmlab.vmm.techniques import build

MEMORY = 8 << 20
LOG = 0x200000
ROOTS = (0x210000, 0x300000, 0x301000)  # the first is the prelude's
TABLES = (0x302000, 0x303000, 0x304000)
DATA = (0x305000, 0x306000, 0x307000)
LARGE = (0x000000, 0x400000)  # what large pages map
POOL = (*ROOTS, *TABLES, *DATA)
KNOWN = (*POOL, 0, 0x1000, 0x2000, 0x400000, 0x401000, 0x402000)
LOW_TABLE = 0x211000
REGIONS = (1, 2, 3, 5)
PAGES = (0, 1, 2)
LINEAR = tuple(region << 22 | page << 12 for region in REGIONS for page in PAGES)
RETURN = 0x800
"""Where each page of the pool holds a RET: as an entry it is one that nobody uses."""

COMMANDS = (
    "none", "read", "write", "call", "user_read", "user_write", "user_call", "invlpg", "root", "global", "protect",
    "write_byte",
)  # fmt: skip

SOURCE = f"""
main:   call paging_on
        mov esi, {ROOTS[0]}
        mov edi, {ROOTS[1]}
        mov ecx, 0x800
        xor eax, eax
        rep stosd
        mov dword [{ROOTS[0]} + 4], 0
        mov dword [{ROOTS[1]}], {LOW_TABLE} + 7
        mov dword [{ROOTS[2]}], {LOW_TABLE} + 7
        mov eax, 0x10                   ; PSE
        mov cr4, eax
        mov dword [hooks + 0x80 * 4], back
wait:   mov eax, [command]
        test eax, eax
        jz wait
        mov edi, [where]
        mov ebx, [value]
        mov dword [resume], done
        jmp [.jumps + eax * 4]
align 4
.jumps: dd {", ".join(f"do_{name}" for name in COMMANDS)}
do_none:
done:   mov dword [resume], 0
        mov esp, STACK
        mov dword [command], 0
        jmp wait
do_read: mov eax, [edi]
        mov [value], eax
        jmp done
do_write: mov [edi], ebx
        jmp done
do_write_byte: mov [edi], bl
        jmp done
do_call: call edi
        jmp done
do_invlpg: invlpg [edi]
        jmp done
do_root: mov cr3, edi
        jmp done
do_global: mov eax, cr4
        xor eax, 0x80
        mov cr4, eax
        jmp done
do_protect: mov eax, cr0
        xor eax, 0x10000
        mov cr0, eax
        jmp done
do_user_read: mov dword [resume], user_done
        to_user .in
.in:    mov eax, [edi]
        mov [value], eax
user_done: int 0x80
do_user_write: mov dword [resume], user_done
        to_user .in
.in:    mov [edi], ebx
        jmp user_done
do_user_call: mov dword [resume], user_done
        to_user .in
.in:    call edi
        jmp user_done
back:   jmp done
align 4096
command: dd 0
where:  dd 0
value:  dd 0
"""


class Outcome(NamedTuple):
    """What a command did: the value read, and the page fault that there was, as error code and address."""

    value: int
    fault: tuple[int, int] | None


class Commanded:
    """One system that runs the guest."""

    def __init__(self, under: str, **options) -> None:
        self.image = kernel(SOURCE)
        self.system = build(self.image, under, memory=MEMORY, engine="interpreter", **options)
        shadow = shadow_of(self.system, 0)
        if shadow:
            self._forbid_direct_writes(shadow.traces)
        self.guest = self.system.guests[0]
        self.memory = self.guest.memory
        self.place = self.image.symbols["command"]
        for _ in range(20):
            self.system.advance(1000)
        for frame in KNOWN:
            self.memory.write(frame + RETURN, 1, 0xC3)
            if frame not in (*ROOTS, *TABLES):  # each word differs from all others
                for offset in range(0, 0x20, 4):
                    self.memory.write(frame + offset, 4, frame << 8 | offset)
        self._start = self.system.machine.memory.save(), self.system.save()

    def _forbid_direct_writes(self, traces) -> None:
        """Fail where the guest itself writes to a table that is in step: it must be write-protected then."""
        follow, self.advancing = traces._written, False

        def written(host: int, offset: int, size: int) -> None:
            assert self.system.in_vmm or not self.advancing, f"the guest wrote to frame {host:#x} that is in step"
            follow(host, offset, size)

        traces._written = written

    def start_again(self) -> None:
        """Go back to the first command."""
        memory, state = self._start
        self.system.machine.memory.load(memory)
        self.system.load(state)

    def do(self, name: str, where: int = 0, value: int = 0) -> Outcome:
        """Let the guest do one thing."""
        memory = self.memory
        events = memory.read(self.image.symbols["events"], 4)
        memory.write(self.place + 8, 4, value)
        memory.write(self.place + 4, 4, where)
        memory.write(self.place, 4, COMMANDS.index(name))
        for _ in range(200):
            self.advancing = True
            self.system.advance(25)
            self.advancing = False
            if not memory.read(self.place, 4):
                break
        else:
            raise AssertionError(f"{name} of {where:#x} does not end: {self.guest.outcome}")
        fault = None
        end = memory.read(self.image.symbols["log_end"], 4)
        for n in range(memory.read(self.image.symbols["events"], 4) - events):
            place = LOG + (end - LOG - 24 * (n + 1) & 0xFFFF)
            if memory.read(place, 4) == 14:
                fault = memory.read(place + 4, 4), memory.read(place + 20, 4)
        return Outcome(memory.read(self.place + 8, 4), fault)

    def frames(self) -> dict[int, bytes]:
        """Return the contents of the pool, but for the kernel's own entries, and of what large pages map."""
        places = [*POOL, *(base + page * 0x1000 for base in LARGE for page in PAGES)]
        return {place: self.memory.read_bytes(place + (4 if place in ROOTS else 0), 0x20) for place in places}

    def target(self, linear: int) -> int | None:
        """Return where the guest's tables lead now."""
        return self.guest.vcpu.look_up(linear)
