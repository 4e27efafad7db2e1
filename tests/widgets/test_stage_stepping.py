"""The stage in a browser: each step shows the machine at that step."""

from __future__ import annotations

import pytest

from tests.widgets.looking import assert_shows, traps

pytestmark = pytest.mark.browser


def test_the_first_scene_is_shown_and_ready_is_said(open_stage, recording):
    view = open_stage(recording)
    assert view.step == 0
    assert_shows(view, recording, 0)
    assert {"type": "ready"} in view.messages
    assert view.stage.views_ready == 1


def test_arrow_keys_step_forward_and_back(open_stage, recording):
    view = open_stage(recording)
    captions = [view.caption]
    for step in range(1, 6):
        view.press("ArrowRight")
        assert view.step == step
        assert_shows(view, recording, step)
        captions.append(view.caption)
    assert len(set(captions)) > 4
    for step in range(4, -1, -1):
        view.press("ArrowLeft")
        assert view.step == step
        assert view.caption == captions[step]


def test_n_and_p_go_from_trap_to_trap(open_stage, recording):
    view = open_stage(recording)
    first = traps(recording)[:4]
    for step in first:
        view.press("n")
        assert view.step == step
        assert "raises" in view.caption or "interrupts" in view.caption
    for step in reversed(first[:-1]):
        view.press("p")
        assert view.step == step
    view.press("p")
    view.page.wait_for_function("document.querySelector('[data-testid=caption]').textContent === 'No trap before.'")


def test_keys_on_the_slider_step_too(open_stage, recording):
    view = open_stage(recording, step=10)
    view.find("scrub").focus()
    view.page.keyboard.press("ArrowRight")
    assert view.step == 11


def test_a_click_on_the_timeline_goes_there(open_stage, recording):
    view = open_stage(recording)
    box = view.find("timeline").bounding_box()
    view.page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + 5)
    chosen = view.step
    assert chosen > 20
    assert_shows(view, recording, chosen)
    cursor = view.find("timeline").locator(".vm-cursor").bounding_box()
    assert cursor["x"] <= box["x"] + box["width"] * 0.6 <= cursor["x"] + cursor["width"]


def test_two_views_share_one_cursor(open_stage, recording):
    view = open_stage(recording)
    view.show("other")
    view.press("ArrowRight", "ArrowRight", "ArrowRight")
    view.wait_step(3, "other")
    assert view.find("caption", "other").inner_text() == view.caption
    view.page.evaluate("window.cleanup()")  # the second view goes
    view.press("ArrowRight")
    assert view.step == 4
    assert view.find("stage", "other").get_attribute("data-step") == "3"


def test_a_guest_can_be_held_in_view(open_stage, pair):
    event = next(event for event in pair.events if event.kind == "switch")
    view = open_stage(pair, step=event.step)
    for guest, believed in enumerate(pair.system.guests):
        view.find("guest").select_option(str(guest))
        pair.seek(event.step)
        assert int(view.find("vcpu-ESP").inner_text(), 16) == believed.vcpu.registers[4]
        assert view.page.locator("#host .vm-code h4").inner_text() == f"Code of {view.stage.writer.names[guest]}"


def test_the_cursor_is_told_to_the_kernel(open_stage, recording):
    view = open_stage(recording)
    view.press("ArrowRight", "ArrowRight")
    view.page.wait_for_function("window.saved === 2")
    assert view.stage.step == 2
    assert recording.position == 2
