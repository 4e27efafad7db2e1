"""Models and CPUID: what is announced is there, what is there is announced (Intel SDM vol. 2, CPUID)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.machine.computer import Computer
from tests.machine.test_msrs import refused
from vmlab.errors import OptionError
from vmlab.isa.x86.registers import CR4_PCE
from vmlab.machine.cpu_features import FEATURES
from vmlab.machine.cpu_model import CPU_MODELS, CpuModel, find_cpu_model
from vmlab.machine.cpuid import AMD, Place, cpuid

MODELS = pytest.mark.parametrize("model", CPU_MODELS.values(), ids=CPU_MODELS)
FPU, MMX, FXSR, SSE, SSE2 = 1 << 0, 1 << 23, 1 << 24, 1 << 25, 1 << 26
MONITOR, SSE3, X2APIC, XSAVE, AVX = 1 << 3, 1 << 0, 1 << 21, 1 << 26, 1 << 28


@MODELS
def test_every_feature_is_announced_and_nothing_else(model: CpuModel) -> None:
    for feature in FEATURES.values():
        if feature.leaf < 0:
            continue  # told by a capability MSR: see tests/machine/vmx
        found = cpuid(model, feature.leaf, 0)[feature.output] & feature.bit
        known = feature.leaf <= (model.last_extended_leaf if feature.leaf >> 31 else model.last_leaf)
        assert bool(found) == (feature.name in model.features) or not known, feature.name
        assert known or feature.name not in model.features, feature.name
    _, _, ecx, edx = cpuid(model, 1, 0)
    assert not edx & (FPU | MMX | FXSR | SSE | SSE2)
    assert not ecx & (MONITOR | SSE3 | X2APIC | XSAVE | AVX)


@MODELS
def test_cr4_takes_the_bits_of_the_features(model: CpuModel) -> None:
    bits = {feature.cr4 for feature in FEATURES.values() if feature.cr4 and feature.name in model.features} | {CR4_PCE}
    for n in range(64):
        bit = 1 << n
        cpu = Computer(model).cpu
        assert refused(cpu.set_cr4, bit) == (bit not in bits or bit == FEATURES["pcid"].cr4)  # that needs long mode
        assert cpu.cr4 in (0, bit)


@MODELS
def test_brand_string(model: CpuModel) -> None:
    text = b"".join(word.to_bytes(4, "little") for leaf in range(3) for word in cpuid(model, 0x8000_0002 + leaf, 0))
    assert text.rstrip(b"\0").decode() == model.brand_string
    assert len(text.rstrip(b"\0")) < 48


@MODELS
def test_leaves_beyond_the_last_are_those_of_the_last_or_on_amds_zeros(model: CpuModel) -> None:
    last, *vendor = cpuid(model, 0, 0)
    assert b"".join(vendor[n].to_bytes(4, "little") for n in (0, 2, 1)).decode() == model.vendor
    assert last == model.last_leaf
    extended = cpuid(model, 0x8000_0000, 0)[0]
    for leaf in (last + 1, 0x4000_0000, 0x7FFF_FFFF, extended + 1, 0xFFFF_FFFF):
        for subleaf in (0, 1):
            beyond = (0, 0, 0, 0) if model.vendor == AMD else cpuid(model, last, subleaf)
            assert cpuid(model, leaf, subleaf) == beyond


def test_amds_leaves() -> None:
    """The formats of AMD APM vol. 3, appendix E, filled by hand for the caches and features of the models."""
    opteron, barcelona, bulldozer = (CPU_MODELS[name] for name in ("opteron", "barcelona", "bulldozer"))
    assert cpuid(opteron, 0, 0) == (1, 0x6874_7541, 0x444D_4163, 0x6974_6E65)
    assert cpuid(opteron, 0x8000_0000, 0) == (0x8000_0018, 0x6874_7541, 0x444D_4163, 0x6974_6E65)
    assert cpuid(opteron, 1, 0)[0] == cpuid(opteron, 0x8000_0001, 0)[0] == 0x40F12
    assert cpuid(opteron, 0x8000_0001, 0)[2] & 5 == 5  # LahfSahf, SVM
    repeated = (2, 3, 4, 5, 6, 8, 9, 12, 13, 15, 16, 17)  # DE to PSE36, but for SYSENTER, whose bit is that of SYSCALL
    assert cpuid(opteron, 0x8000_0001, 0)[3] == sum(1 << n for n in (*repeated, 11, 20, 27, 29))  # NX, RDTSCP, LM
    assert cpuid(opteron, 0x8000_0005, 0)[2:] == (0x4002_0140, 0x4002_0140)
    assert cpuid(opteron, 0x8000_0006, 0)[2] == 0x0400_8140
    assert cpuid(opteron, 0x8000_000A, 0) == (1, 64, 0, 0)
    assert cpuid(barcelona, 0x8000_0006, 0)[2] == 0x0200_8140
    assert cpuid(barcelona, 0x8000_000A, 0) == (1, 64, 0, 1)
    assert cpuid(bulldozer, 0x8000_0005, 0)[2:] == (0x1004_0140, 0x4002_0140)
    assert cpuid(bulldozer, 0x8000_000A, 0) == (1, 0x1_0000, 0, 0xC9)
    assert cpuid(CPU_MODELS["westmere"], 0x8000_0005, 0) == (0, 0, 0, 0)


def test_address_sizes() -> None:
    sizes = {name: cpuid(model, 0x8000_0008, 0)[0] for name, model in CPU_MODELS.items() if model.has("lm")}
    assert sizes == {
        "core-2": 0x3024,
        "prescott": 0x3024,
        "westmere": 0x3028,
        "broadwell": 0x3027,
        "broadwell-ep": 0x302E,
        "ice-lake": 0x3027,
        "opteron": 0x3028,
        "barcelona": 0x3030,
        "bulldozer": 0x3030,
    }


def test_caches_of_core_2() -> None:
    """Kind, level, ways, sets: 32 KiB for data, 32 KiB for instructions, 4 MiB for both, then no more."""
    found = [cpuid(CPU_MODELS["core-2"], 4, n) for n in range(5)]
    sizes = [((ebx >> 22) + 1) * ((ebx & 0xFFF) + 1) * (ecx + 1) >> 10 for _, ebx, ecx, _ in found[:3]]
    assert [(eax & 31, eax >> 5 & 7) for eax, *_ in found] == [(1, 1), (2, 1), (3, 2), (0, 0), (0, 0)]
    assert sizes == [32, 32, 4096]
    assert cpuid(CPU_MODELS["core-2"], 0x8000_0006, 0)[2] == 4096 << 16 | 8 << 12 | 64


def test_place_among_several_processors() -> None:
    model = CPU_MODELS["westmere"]
    place = Place(apic_id=5, processors=6)
    _, ebx, _, edx = cpuid(model, 1, 0, place)
    assert (ebx >> 24, ebx >> 16 & 0xFF, edx >> 28 & 1) == (5, 6, 1)
    assert cpuid(model, 4, 0, place)[0] >> 26 == 7  # core numbers fit into three bits
    assert cpuid(model, 4, 0, place)[0] >> 14 & 0xFFF == 0
    assert cpuid(model, 4, 3, place)[0] >> 14 & 0xFFF == 7
    assert [cpuid(model, 0xB, n, place) for n in range(3)] == [
        (0, 1, 0x100, 5),
        (3, 6, 0x201, 5),
        (0, 0, 2, 5),
    ]
    alone = cpuid(model, 1, 0, Place())
    assert (alone[1], alone[3] >> 28 & 1) == (0, 0)


def test_the_processor_answers_with_its_place() -> None:
    cpu = Computer(CPU_MODELS["westmere"]).cpu
    assert cpu.cpuid(1, 0) == cpuid(cpu.model, 1, 0, Place(0, 1))


def test_a_model_can_be_varied() -> None:
    model = replace(CPU_MODELS["pentium-4"], features=frozenset({"tsc"}))
    assert (model.cr4_mask, model.efer_mask) == (4 | CR4_PCE, 0)
    assert cpuid(model, 1, 0)[3] == 1 << 4


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(OptionError, match="choose one of pentium-4, umip, core-2"):
        find_cpu_model("z80")
