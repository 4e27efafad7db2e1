"""The layer graph drawn by plotly."""

from __future__ import annotations

import itertools

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.views import layers, layers_figure
from vmlab.views.figure import positions
from vmlab.views.theme import MODES

MEMORY = 2 << 20


@pytest.fixture(scope="module", params=[0, 1, 2, 4], ids=["native", "one", "two", "four"])
def graph(request):
    image = vmlab.guests.load("hello")
    if not request.param:
        return layers(vmlab.run(image, memory=MEMORY))
    return layers(vmlab.run([image] * request.param, under="trap-and-emulate", memory=MEMORY))


def test_each_node_stands_in_exactly_one_box(graph):
    nodes = [node for place in positions(graph) for node in place.nodes]
    assert sorted(nodes) == sorted(graph)


def test_boxes_do_not_overlap(graph):
    rows = {}
    for place in positions(graph):
        rows.setdefault(place.y, []).append((place.x - place.half_width, place.x + place.half_width))
    for spans in rows.values():
        spans.sort()
        assert all(left[1] < right[0] for left, right in itertools.pairwise(spans))


def test_upper_layers_stand_above_lower_ones(graph):
    heights = {node: place.y for place in positions(graph) for node in place.nodes}
    order = ["processes", "kernel", "vmm", "hardware"]
    for one, data in graph.nodes(data=True):
        for other, below in graph.nodes(data=True):
            if order.index(data["layer"]) < order.index(below["layer"]):
                assert heights[one] > heights[other]


@pytest.mark.parametrize("mode", MODES)
def test_figure_has_a_box_and_a_text_for_each_place(graph, mode):
    figure = layers_figure(graph, mode)
    places = positions(graph)
    assert len(figure.layout.shapes) == len(places)
    assert len(figure.layout.annotations) == len(places)
    assert figure.layout.template.layout.paper_bgcolor == MODES[mode].page
    assert not figure.frames


def test_hover_text_holds_state_and_counters(graph):
    hover = "\n".join(layers_figure(graph).data[-1].hovertext)
    for _, data in graph.nodes(data=True):
        assert data["label"] in hover
        for key, value in data["counters"].items():
            assert f"{key}: {value:,}" in hover


def test_relations_are_told_in_the_legend(graph):
    names = {trace.name for trace in layers_figure(graph).data}
    assert "runs on" in names
    assert ("traps to" in names) == ("vmm" in graph)


def test_unknown_mode_is_refused(graph):
    with pytest.raises(OptionError, match="no colours 'sepia': choose one of light, dark"):
        layers_figure(graph, "sepia")
