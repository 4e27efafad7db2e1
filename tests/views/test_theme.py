"""The theme: legible by WCAG AA in both modes, and never colour alone."""

from __future__ import annotations

import pytest

from vmlab.views.theme import EVENTS, MODES, RELATIONS, ROLES, css_variables, mix, template


def luminance(colour):
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_wcag_says():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_text_reaches_aa_on_page_panel_and_tints(mode):
    grounds = [mode.page, mode.panel, *(mode.tint(role) for role in ROLES)]
    for ground in grounds:
        assert contrast(mode.text, ground) >= 7
    for quiet in (mode.page, mode.panel):
        assert contrast(mode.muted, quiet) >= 4.5


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("role", ROLES)
def test_roles_reach_aa(mode, role):
    assert contrast(mode.ink[role], mode.page) >= 4.5
    assert contrast(mode.ink[role], mode.panel) >= 4.5
    assert contrast(mode.line[role], mode.page) >= 3


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_terminals_colours_reach_aa(mode):
    assert len(mode.ansi) == 16
    for colour in mode.ansi:
        assert contrast(colour, mode.panel) >= 4.5


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_words_on_their_own_tint_reach_aa(mode):
    for role in ("user", "kernel", "vmm", "emulate", "trap"):
        assert contrast(mode.ink[role], mode.tint(role)) >= 4.5


def test_every_event_has_its_own_glyph():
    glyphs = [mark.glyph for mark in EVENTS.values()]
    assert len(set(glyphs)) == len(glyphs)
    assert {mark.role for mark in EVENTS.values()} <= set(ROLES)


def test_relations_differ_without_colour_or_by_place():
    assert len({dash for _, dash in RELATIONS.values()}) >= 3


def test_css_defines_each_role_for_both_modes():
    css = css_variables()
    for role in ROLES:
        assert css.count(f"--vm-{role}:") == 3  # light; dark by JupyterLab; dark by the browser
        assert css.count(f"--vm-{role}-ink:") == 3


def test_mix_and_template():
    assert mix("#ff0000", "#0000ff", 0) == "#0000ff"
    assert template("dark")["layout"]["paper_bgcolor"] == MODES["dark"].page
