"""The static picture of a scene, and its text."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from vmlab.views import SceneWriter, describe_scene, scene_svg

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(params=["native", "trapped", "pair"])
def shown(request):
    recording = request.getfixturevalue(request.param)
    writer = SceneWriter(recording)
    return writer.scene(recording.length // 3), writer.script()


def texts(svg):
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_picture_is_well_formed_and_self_contained(shown):
    svg = scene_svg(*shown)
    ET.fromstring(svg)
    assert not re.search(r"href|url\(|<script|<style|<image", svg)
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]


def test_picture_shows_nodes_registers_and_caption(shown):
    scene, script = shown
    words = texts(scene_svg(scene, script))
    for name in script["registers"]:
        assert name in words
    assert f"{scene['cpu'][0]:08x}" in words
    assert " ".join(scene["caption"].split())[:40] in " ".join(words)
    for node in script["shape"]["nodes"]:
        assert any(word.startswith(node["label"]) for word in words)


def test_active_nodes_have_a_thicker_line(shown):
    scene, script = shown
    svg = scene_svg(scene, script)
    assert svg.count('stroke-width="2.75"') == len(set(scene["lit"]))


def test_text_says_the_same(shown):
    scene, script = shown
    text = describe_scene(scene, script)
    assert scene["caption"] in text
    assert f"EIP {scene['cpu'][0]:08x}" in text
    assert text.count("\n>") == 1
