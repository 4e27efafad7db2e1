"""Popek and Goldberg's requirements, checked by running: they hold where they should, and each check can fail."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vmlab
from tests.vmm.harness import kernel
from tests.vmm.hostile import SYSTEM_BYTES, noise
from tests.vmm.test_faithful import WAYS
from tests.vmm.test_hostile import MALICE
from vmlab.errors import OptionError
from vmlab.machine.image import flat
from vmlab.vmm.nested_paging import NestedPaging
from vmlab.vmm.requirements import check_safety, requirements
from vmlab.vmm.shadow_pages import ShadowPages

MEMORY = 4 << 20
EVERY = [("trap-and-emulate", "shadow"), *WAYS]
EACH = pytest.mark.parametrize("way", EVERY, ids="/".join)
VIRTUALIZATION = (
    "vmcall", "vmlaunch", "vmresume", "vmxoff", "vmxon [FREE]", "vmclear [FREE]", "vmptrld [FREE]", "vmptrst [FREE]", "vmread eax, ecx",
    "vmwrite ecx, eax", "invept eax, [FREE]", "invvpid eax, [FREE]", "vmrun", "vmmcall", "vmload", "vmsave", "stgi", "clgi", "skinit", "invlpga",
)  # fmt: skip
MSRS = (0x3A, 0x480, 0x48B, 0xC0000080, 0xC0010114, 0xC0010117, 0x1B, 0x174, 0x277, 0x10, 0x12345678)

ATTACKS = {
    "instructions of VT-x and AMD-V": "main: mov dword [FREE], 1\n"
    "mov eax, 0x2030\n try mov cr4, eax\n"
    + "\n".join(
        f"mov ecx, {msr}\n try rdmsr\n mov ecx, {msr}\n mov eax, 0x1005\n mov edx, 0\n try wrmsr" for msr in MSRS
    )
    + "\n"
    + "\n".join(f"mov eax, FREE\n mov ecx, 0x681E\n try {text}" for text in VIRTUALIZATION)
    + "\ncall quit",
    "a storm of exits": """
main:   mov ebx, 300
.next:  cpuid
        rdtsc
        mov eax, cr0
        mov cr0, eax
        mov eax, cr3
        mov cr3, eax
        in al, 0x80
        invlpg [ebx]
        mov eax, 1
        cpuid
        dec ebx
        jnz .next
        call quit
""",
    "every port": """
main:   mov edx, 0x100
.next:  cmp dx, 0xF4
        je .skip
        mov eax, edx
        imul eax, eax, 0x9E3779B1
        out dx, eax
        in eax, dx
        out dx, al
        in al, dx
        in ax, dx
.skip:  add edx, 0x0B
        cmp edx, 0x10000
        jb .next
        jmp main
""",
    "every device in memory": """
main:   mov edi, 0xFE000000
.next:  mov [edi], edi
        add eax, [edi]
        add byte [edi + 1], 7
        add edi, 0x1FFFC
        jnc .next
        mov edi, 0xFEC00000
.apics: mov [edi], edi
        add edi, 0x10
        cmp edi, 0xFEC00400
        jb .apics
        mov edi, 0xA0000
.low:   xor [edi], edi
        add edi, 0xFFC
        cmp edi, 0x100000
        jb .low
        jmp main
""",
    "a table that maps itself and all of memory": """
main:   mov dword [hooks + 14 * 4], on
        call paging_on
        mov dword [DIRECTORY + 4092], DIRECTORY + 7
        xor ecx, ecx
.next:  mov eax, ecx
        shl eax, 22
        or eax, 0x87
        mov ebx, 0x10
        mov cr4, ebx
        mov dword [DIRECTORY + 8], eax
        mov eax, cr3
        mov cr3, eax
        mov [0x800000], ecx
        mov [0xA12340], ecx
        mov [0xBFFFFC], ecx
        inc ecx
        and ecx, 1023
        jmp .next
on:     mov ecx, [ebx + F_EIP]
        add dword [ebx + F_EIP], 2
        ret
""",
    "a triple fault": "main: lidt [nothing]\n mov esp, 0\n ud2\nnothing: dw 0\n dd 0",
}
LIMIT = 4_000


@pytest.fixture(autouse=True, scope="module")
def short_slices():
    """Let the two guests take turns often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vmlab.vmm.hypervisor.QUANTUM", 500)
        yield


def safe(image, way):
    """Return what was found, and assert that the guest has reached nothing."""
    under, memory = way
    found = check_safety(image, under, {"memory_virtualization": memory, "memory": MEMORY, "max_instructions": LIMIT})
    assert found.holds, found
    return found


@EACH
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_reach_nothing(attack, way):
    found = safe(kernel(ATTACKS[attack], attack), way)
    assert found.turns
    if attack == "a triple fault":
        assert found.outcome == "triple-fault"
    else:
        assert found.outcome in ("limit", "exit"), found


@pytest.mark.parametrize(("n", "malice"), list(enumerate(MALICE)))
def test_malice_reaches_nothing(n, malice):
    safe(kernel(MALICE[malice], malice), EVERY[n % len(EVERY)])


@EACH
@given(data=st.data())
@settings(max_examples=4)
def test_random_bytes_reach_nothing(way, data):
    piece = st.one_of(
        st.binary(min_size=1, max_size=8), st.sampled_from([SYSTEM_BYTES[n : n + 2] for n in range(len(SYSTEM_BYTES))])
    )
    code = b"".join(data.draw(st.lists(piece, min_size=1, max_size=60)))
    safe(flat(code, 0x100000, 0x100000, "noise"), way)


@pytest.mark.long
@EACH
@pytest.mark.parametrize("group", range(20))
def test_more_noise_reaches_nothing(way, group):
    for seed in range(10_000 + 10 * group, 10_010 + 10 * group):
        safe(noise(seed), way)


# -- the verdicts --------------------------------------------------------------------------------------------------------


@EACH
def test_all_hold_for_minios(way):
    found = requirements(
        vmlab.guests.load("minios"), "/".join(way) if way[0] in ("vt-x", "amd-v") else way[0], memory=MEMORY
    )
    assert found.hold
    assert found.performance.share > 0.9
    assert found.fidelity.divergence is None
    text = found.describe()
    assert [
        line.split()[1] for line in text.splitlines() if line.startswith(("fidelity", "performance", "safety"))
    ] == ["holds:"] * 3


def test_fidelity_fails_by_popf():
    found = requirements(vmlab.guests.load("critical_section"), memory=MEMORY)
    assert not found.hold
    assert not found.fidelity.holds
    assert found.fidelity.divergence.text.startswith("popf")
    assert found.safety.holds
    assert "fidelity does not hold" in str(found)


def test_performance_fails_where_most_is_emulated():
    source = "start: mov dx, 0x3F8\n" + "in al, 0x80\n" * 40 + "mov al, 0\n out 0xF4, al"
    found = requirements(vmlab.assemble(source), "vt-x", memory=MEMORY)
    assert found.performance.executed == 41
    assert not found.performance.holds
    assert found.fidelity.holds


def _leaky_shadow(self, page, slot, source, frame, rights, _map=ShadowPages.map):
    _map(self, page, slot, source, frame, rights)
    if frame == 0x300:
        size = page.role.entry_bytes
        place = page.address + slot * size
        self._host.memory.write(place, size, self._host.memory.read(place, size) + (MEMORY >> 12 << 12))


@pytest.mark.parametrize("under", ["trap-and-emulate", "vt-x"])
def test_safety_fails_where_the_shadow_leads_to_the_neighbour(under, monkeypatch):
    monkeypatch.setattr(ShadowPages, "map", _leaky_shadow)
    source = "start: mov dword [0x300000], 5\n mov dword [0x310000], 6\n mov al, 0\n out 0xF4, al"
    options = {"memory_virtualization": "shadow", "memory": MEMORY, "max_instructions": LIMIT}
    found = check_safety(vmlab.assemble(source), under, options)
    assert not found.holds
    assert len(found.written) == 1
    assert found.reachable == found.written
    assert any(line.startswith("memory") for line in found.neighbour)


def test_safety_fails_where_the_nested_tables_lead_to_the_neighbour(monkeypatch):
    fill = NestedPaging.fill

    def leaky(self, gpa, *, write):
        if gpa >> 12 != 0x300:
            return fill(self, gpa, write=write)
        wrong = self._window.host_address(0x300000) + MEMORY
        self.tables.map(0x300000, wrong, 4096, writable=True)
        return wrong, 4096

    monkeypatch.setattr(NestedPaging, "fill", leaky)
    source = "start: mov dword [0x300000], 5\n mov al, 0\n out 0xF4, al"
    options = {"memory_virtualization": "nested", "memory": MEMORY, "max_instructions": LIMIT, "ept_pages": "4 KiB"}
    found = check_safety(vmlab.assemble(source), "vt-x", options)
    assert not found.holds
    assert found.reachable == found.written != ()


@pytest.mark.parametrize(
    ("under", "message"),
    [("native", "there is no monitor"), ("paravirtualization", "guests are ported"), ("vt-y", "unknown technique")],
)
def test_misuse(under, message):
    with pytest.raises(OptionError, match=message):
        requirements(vmlab.guests.load("hello"), under)
