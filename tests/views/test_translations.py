"""The view of translations shows what is in the simulated memory."""

from __future__ import annotations

import capstone
import pytest

import vmlab

CAPSTONE = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)


@pytest.fixture(scope="module")
def run():
    return vmlab.run(vmlab.guests.load("minios"), under="binary-translation", memory=4 << 20)


def test_it_is_what_the_processor_executes(run):
    found = vmlab.translations(run)
    cpu = run.system.machine.cpu
    assert found.counters["translations"] >= len(found.units) > 20
    for unit in found.units:
        for _, became in unit.parts:
            for line in became:
                raw = bytes(run.system.switcher.host.read_bytes(line.address, 15))
                assert line.text.split()[0].rstrip("d") in next(CAPSTONE.disasm(raw, line.address)).mnemonic.replace(
                    "pushfd", "pushf"
                )
                assert line.counts == (line.address not in cpu.uncounted.places)


def test_units_lead_to_units(run):
    found = vmlab.translations(run)
    graph = found.to_graph()
    assert {unit.ip for unit in found.units} == {node for node, data in graph.nodes(data=True) if data["translated"]}
    chained = [edge for *edge, data in graph.edges(data=True) if data["chained"]]
    assert len(chained) > 10
    assert [row["place"] for row in found.rows()] == [unit.place or hex(unit.ip) for unit in found.units]


def test_a_unit_side_by_side():
    run = vmlab.run(vmlab.guests.load("popf"), under="binary-translation")
    found = vmlab.translations(run)
    first, second, *_ = str(found["start"]).split("\n")[1:]
    assert first.split("|")[0].split() == ["00100000", "mov", "esp,", "0x90000"]
    assert "cli" in second
    assert "mov dword [gs:" in second
    assert found[0x100000] is found["start"] or found[0x100000] == found["start"]
    assert f"{len(found.units)} translation units" in found.describe() == str(found)
    assert found.expansion > 2


def test_it_grows_with_the_run():
    recording = vmlab.record(vmlab.guests.load("popf"), under="binary-translation")
    sizes = []
    for step in range(0, recording.length, recording.length // 6):
        recording.seek(step)
        sizes.append(len(vmlab.translations(recording).units))
    assert sizes == sorted(sizes)
    assert sizes[0] == 0 < sizes[-1]


def test_misuse_is_said(run):
    with pytest.raises(vmlab.OptionError, match="not under trap-and-emulate"):
        vmlab.translations(vmlab.run(vmlab.guests.load("hello"), under="trap-and-emulate"))
    with pytest.raises(vmlab.OptionError, match="no guest 3"):
        vmlab.translations(run, 3)
    with pytest.raises(vmlab.OptionError, match="no translation of 'nowhere'"):
        vmlab.translations(run)["nowhere"]
    with pytest.raises(vmlab.OptionError, match="no translation of 0x5"):
        vmlab.translations(run)[5]
