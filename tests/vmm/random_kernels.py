"""Random small kernels without instructions that are sensitive and unprivileged: what they see must not depend on rings.

A kernel is a list of blocks, each a few instructions. What may fault stands behind `try`; page tables are flushed as
soon as they have been changed (how long a stale translation lives is not architecture).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tests.vmm.harness import PAE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REGISTERS = ("eax", "ecx", "edx", "ebx", "esi", "edi", "ebp")
ALU = ("add", "sub", "xor", "and", "or", "adc", "sbb", "cmp", "test")
SHIFTS = ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr")
FRAMES = (0x400, 0x401, 0x4FF, 0x7FF, 0x280, 0x2FF, 0xB8, 0x900, 0xFFC00)
APIC = (0xFEE000B0, 0xFEE00080, 0xFEE000F0, 0xFEE00320, 0xFEE00380, 0xFEE00390, 0xFEC00000, 0xFEC00010)
PORTS = (
    0x20, 0x21, 0xA1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x80, 0x3F8, 0x3F9, 0x3FA, 0x3FB, 0x3FC, 0x3FD, 0x3FE, 0x3FF, 0x500,
    0x60, 0x64, 0x70, 0x71, 0x1F0, 0x1F2, 0x1F6, 0x1F7, 0x3F6, 0x92, 0xCF8, 0xCFC,
)  # fmt: skip

FRAME = """
main:   mov dword [hooks + 0x20 * 4], acknowledge
        mov dword [hooks + 0x24 * 4], serial
        mov dword [hooks + 1 * 4], stepped
        mov dword [hooks + 0x81 * 4], back
        mov byte [idt + 0x81 * 8 + 5], 0xEE
        mov word [tss + 0x66], 0x68
        mov ah, 0xEE
        call pic_on
        cld
{body}
        cli
        mov eax, cr0
        and eax, 0x7FFFFFFF
        mov cr0, eax
        mov eax, KERNEL_DATA
        mov ds, eax
        mov esp, STACK
        call quit
paging: mov eax, cr0                    ; rewriting tables in use would be at the mercy of stale translations
        test eax, eax
        jns paging_on
        ret
serial: mov dx, 0x3F8
        in al, dx
        inc dword [FREE + 0x7F0]
        jmp acknowledge
stepped: inc dword [steps]
        mov eax, [steps]
        cmp eax, [most_steps]
        jb .on
        and dword [ebx + F_FLAGS], 0xFFFFFEFF
.on:    ret
back:   mov esp, STACK - 0x200
        jmp [continue]
steps:  dd 0
most_steps: dd 0
continue: dd 0
"""


class Choices(Protocol):
    """Where the choices come from: a seeded generator, or hypothesis."""

    def choice(self, options: Sequence):
        """Return one of several."""

    def randint(self, low: int, high: int) -> int:
        """Return a number, both ends included."""


class Writer:
    """Writes one kernel."""

    frame = FRAME

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.labels = 0
        self.user = False

    # -- operands --------------------------------------------------------------------------------------------------------

    def label(self) -> str:
        self.labels += 1
        return f".l{self.labels}"

    def register(self) -> str:
        return self.choices.choice(REGISTERS)

    def number(self) -> int:
        return self.choices.choice(
            (0, 1, 2, 7, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x12345678, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
        )

    def address(self) -> int:
        """Return an address: mostly of memory for the test, sometimes of something special, or wild."""
        kind = self.choices.randint(0, 9)
        offset = self.choices.choice((0, 4, 0x7F8, 0xFFD, 0xFFE, 0xFFF, 0xFFC))
        if kind < 3:
            return 0x280000 + self.choices.randint(0, 15) * 0x1000 + offset
        if kind < 7:
            return 0x400000 + self.choices.choice((0, 1, 2, 3, 0x10, 0x11, 0x3FE)) * 0x1000 + offset
        if kind == 7:
            return self.choices.choice((0xB8000, 0xB8F9E, 0xB7FFE, 0xBFFFF, 0x7FFFFE, 0x800000, *APIC))
        return self.choices.choice((0xFFC00000, 0xFFC01FFE, 0xFFFFFFFE, 0xFFBFFFFE, 0xC0000000, 0x10000000))

    # -- blocks ----------------------------------------------------------------------------------------------------------

    def arithmetic(self) -> str:
        choices = self.choices
        kind = choices.randint(0, 3)
        if kind == 0:
            return f"{choices.choice(ALU)} {self.register()}, {self.register()}"
        if kind == 1:
            return f"{choices.choice(ALU)} {self.register()}, {self.number()}"
        if kind == 2:
            return f"{choices.choice(SHIFTS)} {self.register()}, {choices.randint(0, 33)}"
        return choices.choice((f"imul {self.register()}, {self.register()}", "mul ebx", "cdq", "bswap edx", "try div ecx", "try idiv ebx", "lea esi, [eax + ecx * 4 + 5]"))  # fmt: skip

    def memory(self) -> str:
        choices, place, register = self.choices, self.address(), self.register()
        kind = choices.choice(
            (
                f"mov [{place}], {register}", f"mov {register}, [{place}]", f"add [{place}], {register}",
                f"xchg [{place}], {register}", f"inc word [{place}]", f"mov byte [{place}], 0x41",
                f"push dword [{place}]\n pop ecx", f"cmpxchg [{place}], {register}", f"bts dword [{place}], 7",
                f"movzx edx, byte [{place}]", f"sete [{place}]", f"xadd [{place}], eax", f"shld [{place}], eax, 5",
            )
        )  # fmt: skip
        first, _, rest = kind.partition("\n")
        return (
            f"try {first}"
            if not rest
            else f"mov dword [resume], .r{self.labels + 1}\n {kind}\n.r{self.labels + 1}: {self._count()}"
        )

    def _count(self) -> str:
        self.labels += 1
        return "mov dword [resume], 0"

    def string(self) -> str:
        choices = self.choices
        name = choices.choice(("movs", "stos", "lods", "cmps", "scas"))
        repeat = choices.choice(("", "rep", "repne")) if name in ("cmps", "scas") else choices.choice(("", "rep"))
        direction = choices.choice(("cld", "std"))
        return (
            f"mov esi, {self.address()}\n mov edi, {self.address()}\n mov ecx, {choices.randint(0, 40)}\n {direction}\n"
            f" try {repeat} {name}{choices.choice('bwd')}\n cld"
        )

    def stack(self) -> str:
        a, b = self.register(), self.register()
        return self.choices.choice(
            (
                f"push {a}\n pop {b}",
                "pushad\n popad",
                f"push {a}\n push {b}\n add esp, 8",
                "enter 16, 2\n leave",
                f"push word 5\n pop ax\n push {a}\n pop {a}",
            )
        )

    def call(self) -> str:
        over, inside = self.label(), self.label()
        return f"call {inside}\n jmp {over}\n{inside}: {self.arithmetic()}\n ret\n{over}:"

    def loop(self) -> str:
        start = self.label()
        return f"mov ecx, {self.choices.randint(1, 60)}\n{start}: add eax, ecx\n xor edx, eax\n loop {start}"

    def interrupt(self) -> str:
        return self.choices.choice(("try ud2", "int 0x30", "int 0x80", "int3", "try div dword [zero_word]", "stc\n into", "try db 0xF1", "try int 0x0E")).replace("[zero_word]", "[FREE + 0xFF00]")  # fmt: skip

    def flags(self) -> str:
        choices = self.choices
        return choices.choice(("cli", "sti", "sti\n nop", "cli\n sti", "stc", "cmc", "lahf", "sahf"))

    def port(self) -> str:
        choices = self.choices
        port, value = (
            choices.choice(PORTS),
            choices.choice((0, 0x20, 0x34, 0x36, 0x60, 0x00, 0x01, 0x80, 0xEE, 0xFE, 0xFF, 0x0B, 0x41)),
        )
        size = choices.choice(("al", "al", "al", "ax", "eax"))
        return choices.choice(
            (f"mov dx, {port}\n in {size}, dx", f"mov eax, {value}\n mov dx, {port}\n out dx, {size}")
        )

    def string_port(self) -> str:
        return f"mov dx, {self.choices.choice((0x3F8, 0x80, 0x3FD))}\n mov esi, {self.address()}\n mov edi, {self.address()}\n mov ecx, {self.choices.randint(1, 5)}\n try rep {self.choice_of('insb', 'outsb', 'outsd')}"  # fmt: skip

    def choice_of(self, *options: str) -> str:
        return self.choices.choice(options)

    def timer(self) -> str:
        return f"mov ecx, {self.choices.choice((3, 7, 20, 50, 150))}\n call timer_on\n sti"

    def page(self) -> str:
        choices = self.choices
        index = choices.choice((0, 1, 2, 3, 0x10, 0x11, 0x3FE, 0x3FF))
        entry = choices.choice(FRAMES) << 12 | choices.choice((0, 1, 3, 5, 7, 0x47, 0x67, 0x107))
        return f"mov dword [TABLE_1 + {index * 4}], {entry}\n {self.flush(0x400000 + index * 0x1000)}"

    def directory(self) -> str:
        choices = self.choices
        index = choices.choice((1, 2, 0x3FE, 0x3FF))
        entry = choices.choice(
            (
                "TABLE_1 + 7",
                "TABLE_1 + 7",
                "TABLE_1 + 3",
                "TABLE_1 + 5",
                "0x00400087",
                "0x00000087",
                "0x00800083",
                "0x00402087",
                "0x00600087",
                "0",
            )
        )
        return f"mov dword [DIRECTORY + {index * 4}], {entry}\n mov eax, cr3\n mov cr3, eax"

    def flush(self, linear: int) -> str:
        return self.choices.choice(
            (
                f"invlpg [{linear}]",
                "mov eax, cr3\n mov cr3, eax",
                "mov eax, cr4\n xor eax, 0x80\n mov cr4, eax\n xor eax, 0x80\n mov cr4, eax",
                f"invlpg [{linear + 5}]",
            )
        )

    def mode(self) -> str:
        return self.choices.choice(
            (
                "call paging", "call paging", "mov eax, cr0\n and eax, 0x7FFFFFFF\n mov cr0, eax",
                "mov eax, cr0\n xor eax, 0x10000\n mov cr0, eax", "mov eax, cr4\n xor eax, 0x10\n mov cr4, eax",
                "mov eax, cr4\n xor eax, 0x80\n mov cr4, eax", "mov eax, cr0\n xor eax, 8\n mov cr0, eax", "clts",
                "mov eax, cr2\n mov cr2, eax", "mov eax, 5\n lmsw ax", "mov eax, cr0\n xor eax, 0x40000\n mov cr0, eax",
            )
        )  # fmt: skip

    def segment(self) -> str:
        choices = self.choices
        slot = choices.choice((0x30, 0x38, 0x40))
        low, high = (
            self.choice_of("0x0000FFFF", "0x00001234", "0x00000000", "0x28000FFF"),
            self.choice_of(
                "0x00CF9200",
                "0x00CF9300",
                "0x0010F228",
                "0x00409640",
                "0x00CF9A00",
                "0x00CF1200",
                "0x00008228",
                "0x00CFB300",
            ),
        )
        register = self.choice_of("es", "fs", "gs")
        selector = choices.choice((slot, slot, slot, 0, 4, 8, 0x10, 0x18, 0x20, 0x28, 0x7FF8, 0xFFD8)) & ~3
        access = f"try mov ebx, [{register}:{choices.choice((0, 0xFFE, 0x1231, 0x280000))}]"
        return (
            f"mov dword [gdt + {slot}], {low}\n mov dword [gdt + {slot} + 4], {high}\n mov eax, {selector}\n"
            f" try mov {register}, eax\n {access}\n mov eax, KERNEL_DATA\n mov es, eax"
        )

    def local_table(self) -> str:
        limit, access = (
            self.choice_of("0x0FFF", "0xFFFF"),
            self.choice_of("0x00CF9200", "0x00409200", "0x00CF9A00", "0x00CFF200"),
        )
        register = self.choice_of("es", "fs", "gs")
        return (
            f"mov dword [FREE + 0xF000], 0x28000000 + {limit}\n mov dword [FREE + 0xF004], {access}\n"
            " mov dword [gdt + 0x48], 0xF000000F\n mov dword [gdt + 0x4C], 0x00008228\n mov eax, 0x48\n try lldt ax\n"
            f" mov eax, 4\n try mov {register}, eax\n try mov ebx, [{register}:0x800]\n mov eax, KERNEL_DATA\n mov es, eax\n"
            f" mov fs, eax\n mov gs, eax\n xor eax, eax\n lldt ax"
        )

    def self_modifying(self) -> str:
        place = self.label()
        return f"mov dword [{place} + 1], {self.number()}\n{place}: mov ecx, 5\n add eax, ecx"

    def machine(self) -> str:
        return self.choice_of("rdtsc", "xor eax, eax\n cpuid", "mov eax, cr0", "mov eax, cr3", "mov eax, dr6", "mov dr0, eax", "wbinvd", "mov ecx, 16\n rdmsr", "jmp KERNEL_CODE:{0}\n{0}:", "hlt_if", "try rdpmc").replace("{0}", self.label())  # fmt: skip

    def halt(self) -> str:
        return "mov ecx, 20\n call timer_on\n mov al, 0xEE\n out 0x21, al\n mov al, 0x20\n out 0x20, al\n sti\n hlt"

    def step(self) -> str:
        target = self.label()
        return (
            f"mov dword [steps], 0\n mov dword [most_steps], {self.choices.randint(1, 12)}\n push dword {self.choice_of('0x102', '0x302')}\n"
            f" push dword KERNEL_CODE\n push dword {target}\n iret\n{target}:"
        )

    def watch(self) -> str:
        """Set or clear a breakpoint on data."""
        choices, n = self.choices, self.choices.randint(0, 3)
        control = choices.choice((0, 1, 2, 3)) << 2 * n | choices.choice((1, 3)) << 16 + 4 * n
        control |= choices.choice((0, 1, 3)) << 18 + 4 * n
        return f"mov eax, {self.address()}\n mov dr{n}, eax\n mov eax, {control}\n mov dr7, eax\n {self.memory()}"

    def ring_3(self) -> str:
        inside, after = self.label(), self.label()
        kinds = (self.arithmetic, self.memory, self.string, self.stack, self.call, self.loop, self.port, self.user_only)
        body = "\n ".join(self.choices.choice(kinds)() for _ in range(self.choices.randint(1, 5)))
        if "in " in body or "out " in body:
            body = f"mov dword [resume], {inside}x\n {body}\n{inside}x:"
        flags = self.choice_of("0x202", "0x202", "0x3202", "0x302", "0x40202")
        return (
            f"mov dword [continue], {after}\n mov dword [steps], 0\n mov dword [most_steps], 5\n mov dword [user_flags], {flags}\n to_user {inside}\n"
            f"{inside}: {body}\n int 0x81\n jmp {inside}\n{after}: mov eax, KERNEL_DATA\n mov ds, eax\n mov es, eax"
        )

    def user_only(self) -> str:
        selector = self.choices.choice((0, 3, 8, 0x10, 0x13, 0x1B, 0x23, 0x20, 0x28, 0x30, 0x33, 0xFFDB, 0xFF83))
        return self.choice_of("try cli", "try sti", "try hlt", "try mov eax, cr0", "try int 0x30", "int 0x80", "int3", "try ud2", f"mov eax, {selector}\n try mov gs, eax", "try invlpg [0]", "try lidt [FREE]", "push dword 0x23\n pop fs", "try db 0xF1", f"mov eax, 0x23\n mov ss, eax\n {self.memory()}")  # fmt: skip

    def kinds(self) -> tuple[Callable[[], str], ...]:
        """Return what a kernel is made of."""
        return (
            self.arithmetic, self.arithmetic, self.memory, self.memory, self.memory, self.string, self.stack, self.call,
            self.loop, self.interrupt, self.flags, self.port, self.string_port, self.timer, self.page, self.page,
            self.directory, self.mode, self.segment, self.local_table, self.self_modifying, self.machine, self.halt, self.step, self.watch,
            self.ring_3, self.ring_3,
        )  # fmt: skip

    def kernel(self) -> str:
        """Return the source of one kernel."""
        kinds = self.kinds()
        blocks = [self.choices.choice(kinds)() for _ in range(self.choices.randint(1, 30))]
        body = "\n".join(f"        {line}" for block in blocks for line in block.replace("hlt_if", "nop").split("\n"))
        return self.frame.format(body=body)


class PaeWriter(Writer):
    """Writes one kernel with PAE tables."""

    frame = FRAME.replace("jns paging_on", "jns pae_on").replace("{body}", "        call paging\n{body}") + PAE

    def page(self) -> str:
        choices = self.choices
        index = choices.choice((0, 1, 2, 3, 0x10, 0x11, 0x3FE, 0x3FF))
        entry = choices.choice(FRAMES) << 12 | choices.choice((0, 1, 3, 5, 7, 0x47, 0x67, 0x107))
        high = choices.choice((0, 0, 0, 0, 0, 1, 0xF, 0x10, 0x80000000))
        slot = f"TABLES + 0x2000 + {index * 8}"
        return f"mov dword [{slot}], {entry}\n mov dword [{slot} + 4], {high}\n {self.flush(0x400000 + index * 0x1000)}"

    def directory(self) -> str:
        choices = self.choices
        flush = "mov eax, cr3\n try mov cr3, eax"
        if choices.randint(0, 3) == 0:
            entry = self.choice_of("0", "HIGH + 1", "HIGH + 3", "LOW + 1", "LOW + 0x19", "0x700001")
            return f"mov dword [POINTERS + {choices.choice((8, 16, 24))}], {entry}\n {flush}"
        entry = self.choice_of("TABLES + 0x2007", "TABLES + 0x2003", "TABLES + 0x3005", "0x00400087", "0x87", "0x00800083", "0x00402087", "0")  # fmt: skip
        return f"mov dword [LOW + {choices.choice((2, 3, 4)) * 8}], {entry}\n {flush}"


class SensitiveWriter(Writer):
    """Writes one kernel that is full of what is sensitive and does not trap, and of jumps of every kind."""

    def flags(self) -> str:
        choices = self.choices
        flags = choices.choice(("0x2", "0x202", "0x246", "0x602", "0x3202", "0x40202", "0x200002", "0x4202", "0xCD7"))
        return choices.choice(
            (
                super().flags(), "pushfd\n pop eax", "pushfd\n cli\n popfd", "cli\n pushfd\n sti\n popfd", "pushfw\n pop ax",
                f"push dword {flags}\n popfd\n pushfd\n pop edx\n push dword 0x202\n popfd", "cli\n pushfd\n pop eax\n sti\n pushfd\n pop ecx",
                f"push word {flags} & 0xFFFF\n popfw", "sti\n sti", "sti\n cli", "std\n pushfd\n cld\n pop eax",
            )
        )  # fmt: skip

    def sensitive(self) -> str:
        choices, selector = (
            self.choices,
            self.choices.choice((0, 3, 8, 0x10, 0x13, 0x18, 0x20, 0x28, 0x30, 0x33, 0xFFF8)),
        )
        return choices.choice(
            (
                "sgdt [FREE]\n mov eax, [FREE + 2]", "sidt [FREE]\n mov eax, [FREE + 2]", "sldt eax", "str ecx", "smsw eax",
                f"mov ecx, {selector}\n lar eax, ecx", f"mov ecx, {selector}\n lsl eax, ecx", f"mov ecx, {selector}\n verr cx",
                f"mov ecx, {selector}\n verw cx", "mov eax, cs", "mov eax, ss", "push cs\n pop ebx", "push ds\n pop es",
                "push gs\n pop fs", "mov eax, ss\n mov ss, eax\n pushfd\n pop edx", "mov eax, [cs:FREE]",
                "mov eax, KERNEL_DATA\n mov gs, eax\n mov ebx, [gs:FREE]", "mov eax, KERNEL_DATA\n mov fs, eax\n mov [fs:FREE], ebx",
            )
        )  # fmt: skip

    def call(self) -> str:
        over, inside, table = self.label(), self.label(), self.label()
        return self.choices.choice(
            (
                super().call(),
                f"call KERNEL_CODE:{inside}\n jmp {over}\n{inside}: {self.arithmetic()}\n retf\n{over}:",
                f"push dword 1\n push dword 2\n call {inside}\n jmp {over}\n{inside}: {self.arithmetic()}\n ret 8\n{over}:",
                f"mov ecx, {inside}\n call ecx\n jmp {over}\n{inside}: inc ecx\n ret\n{over}:",
                f"mov ecx, {table}\n call [ecx]\n jmp {over}\n{table}: dd {inside}\n{inside}: ret\n{over}:",
                f"push dword {inside}\n jmp [esp]\n{inside}: pop eax",
                f"push dword {inside}\n call [esp]\n jmp {over}\n{inside}: ret\n{over}: pop eax",
                f"xor ecx, ecx\n jecxz {over}\n inc eax\n{over}: mov ecx, {over}x\n jmp ecx\n{over}x:",
                f"push dword {inside}\n ret\n{inside}:",
            )
        )  # fmt: skip

    def memory(self) -> str:
        kept = f"{self.sensitive()}\n add [FREE + 0x20], eax\n xor [FREE + 0x24], edx\n add [FREE + 0x28], ecx"
        return self.choices.choice((super().memory, self.flags, lambda: kept))()
