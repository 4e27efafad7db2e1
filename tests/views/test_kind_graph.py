"""The layered graph of running systems, and its picture."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from vmlab.errors import OptionError
from vmlab.kinds.presets import PRESETS, preset
from vmlab.views.kind_graph import kind_graph, kind_rows
from vmlab.views.kind_layout import place_parts
from vmlab.views.kind_svg import kind_svg

SVG = "{http://www.w3.org/2000/svg}"
EACH = [
    "native machine",
    "plain VM",
    "nested virtualization",
    "IBM LPAR",
    "Microsoft Hyper-V",
    "Red Hat KVM",
    "VMware Workstation",
    "BSD Jails",
]


def system(name):
    running = preset(name)
    running.advance(62_000 if name == "BSD Jails" else 40_000)
    return running


@pytest.fixture(scope="module")
def graphs():
    return {name: kind_graph(system(name)) for name in EACH}


def test_nodes_and_edges_are_the_parts(graphs):
    graph = graphs["Red Hat KVM"]
    assert graph.graph["name"] == "Red Hat KVM"
    assert graph.edges["vmm", "host/kernel"]["relation"] == "runs on"
    assert graph.edges["guest0/kernel", "vmm"]["relation"] in ("runs on", "traps to")
    assert graph.edges["hardware/disk", "host/kernel"]["relation"] == "assigned to"
    assert [node for node, data in graph.nodes(data=True) if data["in_control"]] == [graph.graph["control"]]
    assert {row["node"] for row in kind_rows(graph)} == set(graph)


def test_killing_removes_the_node():
    running = system("VMware ESX")
    before = set(kind_graph(running))
    running.kill("guest1/user")
    assert before - set(kind_graph(running)) == {"guest1/kernel", "guest1/user"} & before


@pytest.mark.parametrize("name", EACH)
def test_boxes_do_not_overlap_and_carry_what_is_above(name, graphs):
    graph = graphs[name]
    boxes, layers, width, height = place_parts(graph)
    places = {box.name: box for box in boxes}
    assert set(places) == set(graph)
    for one in boxes:
        assert one.x >= 0
        assert one.x + one.w <= width
        assert one.y + one.h <= height
        for other in boxes:
            if one is not other and one.y == other.y:
                assert one.x + one.w <= other.x + 0.01 or other.x + other.w <= one.x + 0.01
    for source, target, edge in graph.edges(data=True):
        if (
            edge["relation"] == "runs on"
            and not target.startswith("hardware")
            and graph.nodes[source]["layer"] != "firmware"
        ):
            upper, lower = places[source], places[target]
            assert upper.y < lower.y
            assert lower.x - 0.01 <= upper.x
            assert upper.x + upper.w <= lower.x + lower.w + 0.01
    assert set(layers) == {data["layer"] for _, data in graph.nodes(data=True)}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_picture_names_every_part(mode, graphs):
    for graph in graphs.values():
        root = ET.fromstring(kind_svg(graph, mode))
        parts = {each.get("data-part") for each in root.iter(f"{SVG}g")} - {None}
        assert parts == set(graph)
        heavy = [each for each in root.iter(f"{SVG}rect") if each.get("stroke-width") == "3"]
        assert len(heavy) == 1


def test_what_is_refused(graphs):
    with pytest.raises(OptionError, match="no running system"):
        kind_graph("VMware ESX")
    with pytest.raises(OptionError, match="no colours 'sepia'"):
        kind_svg(graphs["plain VM"], "sepia")
    assert len(PRESETS) >= len(EACH)
