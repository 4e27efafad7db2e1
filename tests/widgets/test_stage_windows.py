"""The stage in a browser: windows of scenes join, and the kernel answers beyond them."""

from __future__ import annotations

import pytest

import vmlab
from tests.widgets.looking import assert_shows, traps
from vmlab.views.scene import LEAD, SIZE

pytestmark = pytest.mark.browser


def test_next_trap_outside_the_window_is_sought_by_the_kernel(open_stage, recording):
    steps = traps(recording)
    gap = max(range(len(steps) - 1), key=lambda n: steps[n + 1] - steps[n])
    start, target = steps[gap], steps[gap + 1]
    assert target - start > 2 * SIZE, "minios has long stretches without a trap"
    view = open_stage(recording, step=start)
    view.press("n")
    view.wait_step(target)
    assert any(message["type"] == "seek" for message in view.messages)
    assert_shows(view, recording, target)
    view.press("p")
    view.wait_step(start)


def test_after_the_last_trap_none_follows(open_stage, recording):
    view = open_stage(recording, step=traps(recording)[-1])
    view.press("n")
    view.page.wait_for_function("document.querySelector('[data-testid=caption]').textContent === 'No trap follows.'")
    assert view.step == traps(recording)[-1]


def test_home_and_end(open_stage, recording):
    view = open_stage(recording)
    view.press("End")
    view.wait_step(recording.length)
    assert_shows(view, recording, recording.length)
    view.press("ArrowRight")
    assert view.step == recording.length
    view.press("Home")
    view.wait_step(0)


def test_windows_join_without_a_seam(open_stage, recording):
    """The next window is asked for before the edge, so that a step over it needs no wait."""
    view = open_stage(recording, step=LEAD)
    assert view.stage.feed.window["start"] == 0
    assert [message["type"] for message in view.messages] == ["ready"]
    assert view.walk("ArrowRight", SIZE + 3 - LEAD) == list(range(LEAD + 1, SIZE + 4))
    assert_shows(view, recording, SIZE + 3)
    assert sum(message["type"] == "window" for message in view.messages) == 1


def test_going_back_over_a_windows_first_step(open_stage, recording):
    view = open_stage(recording, step=1000)
    assert view.stage.feed.window["start"] == 1000 - LEAD
    assert view.walk("ArrowLeft", LEAD + 20) == list(range(999, 979 - LEAD, -1))
    assert_shows(view, recording, 980 - LEAD)


def test_scrubbing_the_whole_run(open_stage, recording):
    view = open_stage(recording)
    scrub = view.find("scrub")
    assert scrub.get_attribute("max") == str(recording.length)
    for step in (recording.length // 2, 40, recording.length - 10):
        scrub.fill(str(step))
        view.wait_step(step)
        assert_shows(view, recording, step)
    assert scrub.get_attribute("aria-valuetext") == f"step {recording.length - 10} of {recording.length}"


def test_play_crosses_windows_and_pauses(open_stage, recording):
    view = open_stage(recording, step=200)
    view.find("speed").select_option("60")
    view.press(" ")
    assert view.find("stage").get_attribute("data-playing") == "true"
    assert view.find("caption").get_attribute("aria-live") == "off"
    view.page.wait_for_function(
        f"Number(document.querySelector('[data-testid=stage]').dataset.step) > {SIZE + 20}", timeout=30_000
    )
    view.press(" ")
    assert view.find("stage").get_attribute("data-playing") == "false"
    assert view.find("caption").get_attribute("aria-live") == "polite"
    stopped = view.step
    view.page.wait_for_timeout(150)
    assert view.step == stopped
    assert_shows(view, recording, stopped)


def test_play_stops_at_the_end(open_stage, recording):
    view = open_stage(recording, step=recording.length - 3)
    view.find("speed").select_option("60")
    view.find("play").click()
    view.wait_step(recording.length)
    view.page.wait_for_function("document.querySelector('[data-testid=stage]').dataset.playing === 'false'")


def test_what_the_kernel_did_before_a_late_module_was_ready_arrives(open_stage, recording):
    view = open_stage(recording, late=True)
    view.stage.step = 77
    view.push()
    view.page.wait_for_timeout(2100)
    view.load()
    view.wait_step(77)
    assert_shows(view, recording, 77)
    view.stage.step = 3000  # and so does what it does later
    view.push()
    view.wait_step(3000)
    assert_shows(view, recording, 3000)


def test_another_recording_replaces_the_first(open_stage, recording, pair):
    view = open_stage(recording, step=20)
    view.stage.load(pair, step=5)
    view.push()
    view.wait_step(5)
    assert view.page.locator("#host .vm-frame").count() == 2
    assert view.find("counter").inner_text() == f"step 5 of {pair.length:,}".replace(",", "\u202f")


def test_an_address_of_64_bits_is_shown_whole(open_stage):
    """JavaScript's numbers would round it."""
    recording = vmlab.record(vmlab.guests.load("long_mode"), under="native", cpu="core-2")
    view = open_stage(recording, step=900)
    recording.seek(900)
    address = recording.system.guests[0].vcpu.ip
    assert address >> 31 == 0x1_FFFF_FFFF
    assert view.page.text_content('[data-testid="cpu-EIP"]') == f"{address:x}"
    assert view.page.text_content(".vm-now .vm-address") == f"{address:x}"
    assert view.page.text_content('[data-register="EAX"] th') == "RAX"
    assert "RSP ffffffff8006fff0 → ffffffff8006fff8" in view.page.text_content("[data-testid=caption]")
