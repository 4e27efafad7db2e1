"""A format is data: 5-level paging, all formats by name, and one that is declared here (Intel SDM vol. 3, 4.5; Sv48)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.machine.nested import Plain
from vmlab.isa.x86.faults import GP, PF, Fault
from vmlab.machine.page_format_names import FORMATS, HOST_FORMATS
from vmlab.machine.page_formats import canonical_tops
from vmlab.machine.page_formats_riscv import sv39
from vmlab.machine.walk_faults import RiscvPageFault


def test_five_levels() -> None:
    plain = Plain("5-level")
    linear = 0x00AB_CDEF_0123_4567
    plain.tables.map(linear & -0x1000, 0xBEEF_0000)
    found = plain.walk(linear, is_write=True)
    assert (found.frame, found.references, found.page_size) == (0xBEEF_0000, 5, 0x1000)
    assert [step.slot for step in found.steps] == [linear >> shift & 0x1FF for shift in (48, 39, 30, 21, 12)]
    top = plain.entry(0)
    plain.change(top.place, top.entry | 0x80)  # PS of a PML5E is reserved
    with pytest.raises(Fault) as caught:
        plain.walk(linear, is_write=True)
    assert (caught.value.vector, caught.value.error_code) == (PF, 0xB)


@pytest.mark.parametrize(("name", "width"), [("4-level", 48), ("5-level", 57)])
def test_canonical_addresses(name: str, width: int) -> None:
    """What is not sign-extended from its highest bit is #GP, before any table is read (SDM vol. 3, 4.5.3)."""
    plain = Plain(name)
    for address in (1 << width - 1, 1 << 63, (1 << 64) - (1 << width - 1) - 1):
        with pytest.raises(Fault) as caught:
            plain.walk(address)
        assert (caught.value.vector, caught.value.error_code) == (GP, 0)
    for address in ((1 << width - 1) - 1, (1 << 64) - (1 << width - 1)):
        with pytest.raises(Fault) as caught:
            plain.walk(address)
        assert (caught.value.vector, caught.value.error_code) == (PF, 0)


def test_names() -> None:
    """Each format is there once, and those of hosts refuse by a fault of their own."""
    assert len({format_.name for format_ in FORMATS.values()}) == len(FORMATS)
    references = {"ia32": 2, "ia32-pse": 2, "pae": 2, "5-level": 5, "ept-5": 5, "npt-5": 5, "vt-d-5": 5, "vt-d-3": 3}
    references |= {"sv39": 3, "sv39x4": 3, "aarch64-stage2": 3}  # 40 bits of address
    for name, format_ in FORMATS.items():
        assert format_.references == references.get(name, 4)
        assert (format_.fault.__qualname__.split(".")[0] in ("page_fault", "Stage1Abort", "RiscvPageFault")) == (
            name not in HOST_FORMATS
        )


def test_a_format_that_is_only_declared() -> None:
    """Sv48 is Sv39 with one more level: nothing but data says so."""
    three = sv39()
    four = replace(
        three,
        name="Sv48",
        levels=(replace(three.levels[0], name="level 3", shift=39, maps=None), *three.levels),
        tops=canonical_tops(48),
        top_shift=47,
    )
    plain = Plain(four)
    plain.tables.map(0x7FFF_1234_5000, 0x5000)
    found = plain.walk(0x7FFF_1234_5678, is_user=True)
    assert (found.frame, found.references) == (0x5000, 4)
    with pytest.raises(RiscvPageFault):
        plain.walk(0x8000_0000_0000)
