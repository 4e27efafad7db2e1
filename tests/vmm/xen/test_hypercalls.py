"""Each hypercall, called by machine code: what it does, and with which error it refuses."""

from __future__ import annotations

import pytest

from tests.vmm.xen.ported import CRASHED, SHUT, audit, finish, frame_of, log, started, word
from vmlab.vmm.xen.abi import Errno


def result_of(code: str, data: str = "", **options) -> int:
    """Run code whose last hypercall leaves its result; return that with its sign."""
    system, guest = finish(f"main:\n{code}\n mov [result], eax\n jmp quit\nresult: dd 0\nalign 8\n{data}", **options)
    assert (guest.outcome, guest.status) == SHUT
    audit(system)
    value = word(guest, "result")
    return value - (1 << 32) if value >> 31 else value


def results_of(calls, data: str = "") -> list[int]:
    """Return the results of calls that one kernel makes, one after the other."""
    body = "".join(f"{code}\n mov [results + {4 * n}], eax\n" for n, code in enumerate(calls))
    system, guest = finish(f"main:\n{body} jmp quit\nresults: times {len(calls)} dd 0\nalign 8\n{data}")
    assert (guest.outcome, guest.status) == SHUT
    audit(system)
    values = [word(guest, "results", 4 * n) for n in range(len(calls))]
    return [value - (1 << 32) if value >> 31 else value for value in values]


def test_a_number_that_there_is_not():
    numbers = (2, 5, 33, 0x7FFFFFFF, 0xFFFFFFFF)
    assert set(results_of([f"hypercall {number}, 1, 2, 3" for number in numbers])) == {-Errno.ENOSYS}


def test_the_version_is_that_of_the_interface():
    assert result_of("hypercall 17, 0") == 3 << 16
    assert result_of("hypercall 17, 1") == -Errno.ENOSYS


def test_an_argument_that_leads_nowhere():
    pointers = ("0xFF7FFFFE", "0xFF800000", "0xFFC00000", "0xFFFFFFFF", "0x80000000")
    calls = (
        "1, {}, 1, 0, SELF",
        "26, {}, 1, 0, SELF",
        "13, {}, 1",
        "32, 4, {}",
        "32, 1, {}",
        "29, 2, {}",
        "24, 6, 0, {}",
    )
    found = results_of([f"hypercall {call.format(pointer)}" for pointer in pointers for call in calls])
    assert found == [-Errno.EFAULT] * len(pointers) * len(calls)


def test_what_is_read_alone_cannot_be_written_by_the_hypervisor_either():
    """A result into a page table would be an unchecked entry."""
    code = """
        mov eax, [info]
        mov ebp, [eax + 60]             ; the page directory, mapped for reading
        mov dword [ebp_copy], ebp
        lea edi, [ebp + 0x1000]
        hypercall 26, command, 1, edi, SELF
    """
    assert result_of(code, "ebp_copy: dd 0\ncommand: dd 6, 0, 0") == -Errno.EFAULT


# -- page tables -----------------------------------------------------------------------------------------------------------

MAP_PAGE_2 = """
        mov eax, page_2
        call machine
        or eax, {bits}
        mov edi, eax
        hypercall 14, {where}, edi, {upper}, {flags}
"""


MAPPINGS = (
    ("page_1", 3, 0, 0, 0),
    ("page_1", 3, 0, 1, 0),
    ("page_1", 3, 0, 2, 0),
    ("page_1", 7, 0, 2, 0),
    ("page_1", 3, 0, 3, -22),
    ("page_1", 3, 1, 0, -22),
    ("page_1", 0x103, 0, 0, -22),  # global
    ("page_1", 0x83, 0, 0, -22),  # PAT
    ("page_1", 0xE1B, 0, 0, 0),  # bits that are the system's, caching
    ("0x800000", 3, 0, 0, -22),  # no page table there
    ("0xFF800000", 3, 0, 0, -22),
    ("0xFFC00000", 3, 0, 0, -22),
    ("0xFFFFF000", 3, 0, 0, -22),
)
"""Where, bits of the entry, its upper half, flags; what comes of it."""


def test_update_va_mapping():
    names = "where", "bits", "upper", "flags"
    calls = [MAP_PAGE_2.format(**dict(zip(names, row, strict=False))) for row in MAPPINGS]
    assert results_of(calls) == [row[-1] for row in MAPPINGS]


def test_a_new_mapping_is_used_after_a_flush_of_the_page():
    code = """
        mov dword [page_1], 0x11111111
        mov dword [page_2], 0x22222222
    """
    code += MAP_PAGE_2.format(where="page_1", bits=3, upper=0, flags=2)
    assert result_of(code + "mov eax, [page_1]") == 0x22222222


def test_a_frame_of_the_hypervisor_cannot_be_mapped():
    entries = [frame << 12 | bits for frame in (0, 0x100, 0x2FF, 0xFFFFF, 0x8000) for bits in (1, 3, 5, 7)]
    assert set(results_of([f"hypercall 14, page_1, {entry:#x}" for entry in entries])) == {-Errno.EINVAL}


def test_a_frame_of_the_neighbour_cannot_be_mapped():
    source = "main: hypercall 14, page_1, {:#x}\n mov [result], eax\n jmp quit\nresult: dd 0\n"
    neighbours = started(source.format(1), 2).domains[1].memory.frames[0x150]
    for bits in (1, 3, 5):
        system = started(source.format(neighbours << 12 | bits), 2)
        first, second = system.guests
        before = second.memory.digest()
        while first.outcome is None:
            system.advance(1)
        audit(system)
        assert word(first, "result") == 2**32 - Errno.EINVAL
        assert second.instructions == 0
        assert second.memory.digest() == before


def test_a_page_table_cannot_be_mapped_writable_but_read():
    for bits, expected in ((1, 0), (3, -22), (5, 0), (7, -22)):
        code = f"""
        mov eax, [info]
        mov eax, [eax + 60]
        call machine
        or eax, {bits}
        mov edi, eax
        hypercall 14, page_1, edi, 0, 2
        """
        assert result_of(code) == expected


def test_a_write_to_a_page_table_is_a_page_fault():
    source = "main: mov eax, [info]\n mov ebp, [eax + 60]\n mov [seen], ebp\n try mov dword [ebp], 7\n jmp quit\nseen: dd 0\n"
    system, guest = finish(source)
    (event,) = log(guest)
    assert (event[0], event[1]) == (14, 3)  # there, a write, by a supervisor
    assert event[5] == word(guest, "seen") == guest.vcpu.cr2
    assert (guest.outcome, guest.status) == SHUT
    audit(system)


PIN = """
        mov eax, {page}
        call machine
        shr eax, 12
        mov [command + 4], eax
        hypercall 26, command, {count}, done, {domain}
"""
COMMAND = "command: dd {}, 0, 0\ndone: dd 0xAAAA"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (0, -22),  # page_1 is mapped writable
        (1, -22),
        (2, -38),  # there are two levels
        (3, -38),
        (4, -22),  # it is not pinned
        (5, -22),  # it is no page directory
        (6, 0),
        (7, 0),
        (99, -38),
    ],
)
def test_commands_on_a_page_of_data(command, expected):
    assert result_of(PIN.format(page="page_1", count=1, domain="SELF"), COMMAND.format(command)) == expected


def test_other_domains_and_long_lists_are_refused():
    assert result_of(PIN.format(page="page_1", count=1, domain=2), COMMAND.format(6)) == -Errno.EPERM
    assert result_of(PIN.format(page="page_1", count=1, domain=1), COMMAND.format(6)) == 0
    assert result_of(PIN.format(page="page_1", count=5000, domain="SELF"), COMMAND.format(6)) == -Errno.E2BIG
    assert result_of("hypercall 13, main, 0xFFFFFFFF") == -Errno.E2BIG


READ_ONLY = """
        mov eax, {page}
        call machine
        or eax, 1
        mov edi, eax
        hypercall 14, {page}, edi, 0, 2
"""


def table_kernel(more: str, data: str = "") -> str:
    """A kernel that makes `page_1` a page table with `page_2` in slot 3, and pins it."""
    code = "main: mov eax, page_2\n call machine\n or eax, 3\n mov [page_1 + 12], eax\n"
    code += READ_ONLY.format(page="page_1") + PIN.format(page="page_1", count=1, domain="SELF")
    return f"{code} mov [pinned], eax\n{more}\n jmp quit\npinned: dd 0xDEAD\nalign 8\n{COMMAND.format(0)}\n{data}"


def test_a_pinned_table_is_no_data_until_it_is_unpinned():
    more = """
        mov eax, page_1
        call machine
        or eax, 3
        mov [again], eax
        hypercall 14, page_1, [again], 0, 2
        mov [first], eax
        mov dword [command], 4
        hypercall 26, command, 1, done, SELF
        hypercall 14, page_1, [again], 0, 2
        mov [second], eax
        mov dword [page_1 + 12], 0x12345
    """
    system, guest = finish(table_kernel(more, "again: dd 0\nfirst: dd 0\nsecond: dd 0xDEAD"))
    assert [word(guest, name) for name in ("pinned", "first", "second", "done")] == [0, 2**32 - 22, 0, 1]
    assert (guest.outcome, guest.status) == SHUT
    assert not log(guest)
    assert word(guest, "page_1", 12) == 0x12345
    audit(system)


def test_a_table_is_pinned_once():
    system, guest = finish(table_kernel("hypercall 26, command, 1, done, SELF\n mov [twice], eax", "twice: dd 0"))
    assert word(guest, "twice") == 2**32 - 22
    assert system.frames.counts[frame_of(guest, "page_1")] == 1
    audit(system)


def update(address: str, entry: str, kind: int = 0) -> str:
    """Code that makes one request of mmu_update, at an offset in `page_1`'s frame."""
    return f"""
        mov eax, {address}
        call machine
        add eax, {kind}
        mov [request], eax
        mov eax, {entry}
        mov [request + 8], eax
        hypercall 1, request, 1, done, SELF
    """


REQUEST = "request: dd 0, 0, 0, 0\nresult: dd 0"


def test_mmu_update_writes_checked_entries():
    more = (
        "mov eax, page_3\n call machine\n or eax, 3\n mov ebp, eax\n"
        + update("page_1", "ebp", 4 * 7)
        + " mov [result], eax"
    )
    system, guest = finish(table_kernel(more, REQUEST))
    assert word(guest, "result") == 0
    frame = frame_of(guest, "page_3")
    assert word(guest, "page_1", 28) == frame << 12 | 3
    assert system.frames.counts[frame] == 2  # there, and where the builder has mapped it
    audit(system)


@pytest.mark.parametrize("entry", ["0x100003", "0x3", "0xFFFFF003", "ebp + 0x80", "ebp + 0x100"])
def test_mmu_update_refuses_what_cannot_be(entry):
    more = (
        f"mov eax, page_3\n call machine\n or eax, 3\n mov ebp, eax\n lea ebp, [{entry}]\n"
        + update("page_1", "ebp", 4 * 7)
        + " mov [result], eax"
    )
    system, guest = finish(table_kernel(more, REQUEST))
    assert word(guest, "result") == 2**32 - 22
    assert word(guest, "page_1", 28) == 0
    assert word(guest, "done") == 0
    audit(system)


def test_mmu_update_keeps_the_accessed_and_dirty_bits_where_asked():
    more = (
        "or dword [ebp_at], 0\n"
        + update("page_1", "0x60", 4 * 9)
        + update("page_1", "0", 4 * 9 + 2)
        + "mov [result], eax"
    )
    _, guest = finish(table_kernel(more, REQUEST + "\nebp_at: dd 0"))
    assert (word(guest, "result"), word(guest, "page_1", 36)) == (0, 0x60)


def test_a_request_of_no_kind_and_an_entry_of_64_bits():
    more = update("page_1", "0", 3) + " mov [result], eax"
    _, guest = finish(table_kernel(more, REQUEST))
    assert word(guest, "result") == 2**32 - 38
    for word_ in (4, 12):
        more = f"mov dword [request + {word_}], 1\n" + update("page_1", "0") + " mov [result], eax"
        _, guest = finish(table_kernel(more, REQUEST))
        assert word(guest, "result") == 2**32 - 22


def test_the_list_ends_at_the_first_that_is_refused_and_says_where():
    more = """
        mov eax, page_1
        call machine
        mov [requests], eax
        add eax, 4
        mov [requests + 16], eax
        mov dword [requests + 24], 0x3
        add eax, 4
        mov [requests + 32], eax
        mov dword [requests + 40], 0x4000
        hypercall 1, requests, 3, done, SELF
        mov [result], eax
    """
    system, guest = finish(table_kernel(more, "requests: times 12 dd 0\nresult: dd 0"))
    assert (word(guest, "result"), word(guest, "done"), word(guest, "page_1", 8)) == (2**32 - 22, 1, 0)
    assert system.counters["page-table updates"] == 2 + 2  # two by update_va_mapping, for the shared page and page_1


def test_the_m2p_table_is_the_guests_own_frames_alone():
    more = (
        update("page_3", "0x77", 1)
        + " mov [result], eax\n"
        + "mov eax, page_3\n call machine\n shr eax, 12\n mov eax, [M2P + eax * 4]\n mov [seen], eax\n"
    )
    more += "mov dword [request], 0x100001\n hypercall 1, request, 1, done, SELF\n mov [other], eax"
    _, guest = finish(table_kernel(more, REQUEST + "\nseen: dd 0\nother: dd 0"))
    assert [word(guest, name) for name in ("result", "seen", "other")] == [0, 0x77, 2**32 - 22]


def test_the_m2p_table_cannot_be_written_and_not_be_read_from_user_mode():
    _, guest = finish("main: try mov dword [M2P + 64], 0\n jmp quit\n")
    assert [event[:2] + event[5:] for event in log(guest)] == [(14, 3, 0xFF800040)]


def test_the_window_cannot_be_touched():
    """The kernel is a supervisor to the page tables: the limit of its segments keeps it out."""
    source = """
main:   try mov eax, [0xFFC00000]
        try mov dword [0xFFFFFFFC], 0
        mov eax, USER_DATA
        mov es, eax
        try mov eax, [es:0xFFC01000]
        try mov eax, [cs:0xFFC01000]
        try mov eax, [ss:0xFFC01000]
        jmp quit
"""
    _, guest = finish(source)
    assert [event[0] for event in log(guest)] == [13, 13, 13, 13, 12]
    assert (guest.outcome, guest.status) == SHUT


def test_another_page_directory():
    """A copy of the first directory, checked, loaded, and changed."""
    code = """
main:   mov eax, [info]
        mov esi, [eax + 60]
        mov edi, page_1
        mov ecx, 1022
        rep movsd
        mov dword [page_1 + 4088], 0x12345677   ; the hypervisor's entries are its own matter
    """
    code += READ_ONLY.format(page="page_1") + PIN.format(page="page_1", count=1, domain="SELF")
    code += """
        mov dword [command], 5
        hypercall 26, command, 1, done, SELF
        mov [result], eax
        jmp quit
result: dd 0xDEAD
    """
    system, guest = finish(code + COMMAND.format(1))
    assert (guest.outcome, word(guest, "result")) == ("exit", 0)
    frame = frame_of(guest, "page_1")
    assert system.domains[0].base == frame << 12
    assert guest.vcpu.cr3 == frame << 12
    assert system.frames.counts[frame] == 2  # pinned, and in use
    assert word(guest, "page_1", 4088) & ~0x60 == system.switcher.reserved[0] & ~0x60
    audit(system)


def test_the_hypervisors_entries_of_a_directory_cannot_be_written():
    code = """
main:   mov eax, [info]
        mov eax, [eax + 60]
        call machine
        add eax, {slot} * 4
        mov [request], eax
        hypercall 1, request, 1, done, SELF
        mov [result], eax
        jmp quit
done:   dd 7
"""
    for slot, expected in ((1021, 0), (1022, 2**32 - 22), (1023, 2**32 - 22)):
        system, guest = finish(code.format(slot=slot) + REQUEST)
        assert (word(guest, "result"), guest.outcome) == (expected, "exit")
        audit(system)


def test_a_directory_that_maps_itself_is_refused():
    code = "main: mov eax, page_1\n call machine\n or eax, 1\n mov [page_1 + 8], eax\n"
    code += READ_ONLY.format(page="page_1") + PIN.format(page="page_1", count=1, domain="SELF")
    system, guest = finish(code + " mov [result], eax\n jmp quit\nresult: dd 0\n" + COMMAND.format(1))
    assert word(guest, "result") == 2**32 - 22
    assert system.frames.counts[frame_of(guest, "page_1")] == 0
    audit(system)


def test_a_table_that_maps_itself_writable_is_refused():
    code = "main: mov eax, page_1\n call machine\n or eax, 3\n mov [page_1 + 8], eax\n"
    code += READ_ONLY.format(page="page_1") + PIN.format(page="page_1", count=1, domain="SELF")
    system, guest = finish(code + " mov [result], eax\n jmp quit\nresult: dd 0\n" + COMMAND.format(0))
    assert word(guest, "result") == 2**32 - 22
    audit(system)


def test_a_stale_translation_is_flushed_before_a_page_becomes_a_table():
    """The kernel takes its writable mapping away, and does not flush; what it then writes must fault."""
    code = """
main:   mov dword [page_1], 0           ; the TLB knows page_1 as writable now
        mov eax, page_1
        call machine
        or eax, 1
        mov edi, eax
        hypercall 14, page_1, edi, 0, 0
        mov dword [page_1 + 4], 0       ; stale, and no harm: it is still a page of data
    """
    code += PIN.format(page="page_1", count=1, domain="SELF")
    code += " mov [result], eax\n try mov dword [page_1], 0x100007\n jmp quit\nresult: dd 0xDEAD\n" + COMMAND.format(0)
    system, guest = finish(code)
    assert word(guest, "result") == 0
    assert [event[:2] for event in log(guest)] == [(14, 3)]
    assert system.frames.flushes == 1
    audit(system)


# -- many at once ----------------------------------------------------------------------------------------------------------


def test_a_multicall_has_a_result_for_each():
    code = "hypercall 13, list, 4"
    data = """
list:   dd 17, 0xDEAD, 0, 0, 0, 0, 0, 0
        dd 99, 0xDEAD, 0, 0, 0, 0, 0, 0
        dd 13, 0xDEAD, 0, 0, 0, 0, 0, 0
        dd 23, 0xDEAD, 0, 0, 0, 0, 0, 0
    """
    system, guest = finish(f"main: {code}\n jmp quit\n align 8\n{data}")
    results = [word(guest, "list", 4 + 32 * n) for n in range(4)]
    assert results == [3 << 16, 2**32 - 38, 2**32 - 22, 2**32 - 22]
    assert system.counters["batched hypercalls"] == 2
    assert guest.exits["hypercall"] == 3 + 1 + 1  # the prelude's, this, the last


# -- the processor -----------------------------------------------------------------------------------------------------------


REFUSED = (
    ("3, KERNEL_DATA, 0x1000", 0),
    ("3, 0xE010, 0x1000", -1),
    ("3, USER_DATA, 0x1000", -1),
    ("4, 0xE008, 0x1000, KERNEL_CODE, 0x1000", -22),
    ("4, KERNEL_CODE, 0xFFC00000, KERNEL_CODE, 0x1000", -22),
    ("4, KERNEL_CODE, 0x1000, USER_CODE, 0x1000", -22),
    ("0, bad_selector", -22),
    ("0, bad_address", -22),
    ("29, 9, 0", -38),
    ("29, 2, ninety", -22),
    ("24, 6, 1, ninety", -2),
    ("24, 1, 0, ninety", -38),
    ("24, 6, 0, nothing", -22),
    ("24, 6, 0, forever", 0),
    ("15, 0, 0", 0),
    ("18, 1, 4, ninety", -38),
    ("18, 0, 4096, ninety", -7),
    ("32, 3, ninety", -22),
    ("32, 4, ninety", -22),
    ("32, 9, million", -22),
    ("32, 1, virq_7", -22),
    ("32, 1, processor_1", -2),
    ("32, 0, remote_9", -3),
    ("32, 0, remote_self", -22),
    ("32, 6, remote_9", -1),
    ("32, 77, ninety", -38),
)
WRONG = """
bad_selector: db 3, 0
        dw 0xE008
        dd 0x1000
bad_address: db 3, 0
        dw KERNEL_CODE
        dd 0xFFC00000
ninety: dd 90, 0, 0, 0, 0, 0
million: dd 1000000
nothing: dd 0, 0
forever: dd 0xFFFFFFFF, 0xFFFFFFFF
virq_7: dd 7, 0, 0
processor_1: dd 0, 1, 0
remote_9: dd 9, 1, 0
remote_self: dd SELF, 77, 0
"""


def test_what_is_refused():
    assert results_of([f"hypercall {call}" for call, _ in REFUSED], WRONG) == [expected for _, expected in REFUSED]


def test_iret_restores_what_the_frame_says():
    code = """
main:   mov [before], esp
        push dword 0x246
        push dword KERNEL_CODE
        push dword .there
        push dword 0x1234
        mov eax, 23
        int 0x82
.never: jmp crash
.there: pushf
        pop dword [flags]
        mov [value], eax
        mov [after], esp
        movzx eax, byte [shared + 1]
        mov [mask], eax
        jmp quit
before: dd 0
after:  dd 0
flags:  dd 0
value:  dd 0
mask:   dd 7
    """
    _, guest = finish(code)
    assert (guest.outcome, guest.status) == SHUT
    assert word(guest, "before") == word(guest, "after")
    assert [word(guest, name) for name in ("value", "mask", "flags")] == [0x1234, 0, 0x246]


@pytest.mark.parametrize(
    "frame",
    [
        ("0x246", "0xE008", "quit"),  # the hypervisor's code
        ("0x20246", "KERNEL_CODE", "quit"),  # virtual-8086 mode
        ("0x246", "0", "quit"),
        ("0x246", "KERNEL_CODE", "0xFFC00000"),
        ("0x246", "USER_CODE", "quit"),  # and no stack of user mode behind it
    ],
)
def test_a_return_to_nowhere_ends_the_guest(frame):
    pushes = "\n".join(f" push dword {each}" for each in frame)
    source = f"main: mov dword [resume], crash\n push dword 0\n push dword 0\n{pushes}\n push dword 0\n mov eax, 23\n int 0x82\n"
    system, guest = finish(source)
    if frame[2] == "0xFFC00000":  # #GP, as where a processor runs into the limit
        assert (guest.outcome, guest.status) == CRASHED
        assert log(guest)[0][0] == 13
    else:
        assert guest.outcome == "triple-fault"
    audit(system)


def test_iret_with_a_stack_that_is_not_there():
    _, guest = finish("main: mov esp, 0x80000000\n mov eax, 23\n int 0x82\n")
    assert guest.outcome == "triple-fault"
