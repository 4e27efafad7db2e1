"""The stage in a browser: what moves, what is marked, what fits, what has a name."""

from __future__ import annotations

import pytest

from tests.widgets.looking import traps

pytestmark = pytest.mark.browser


def token(view):
    return view.page.evaluate("document.querySelector('.vm-token').getAttribute('transform')")


def test_a_token_travels_down_in_a_trap(open_stage, recording):
    view = open_stage(recording, step=traps(recording)[3] - 1)
    view.press("ArrowRight")
    places = set()
    for _ in range(8):
        places.add(token(view))
        view.page.wait_for_timeout(40)
    assert len(places) > 3
    moving = view.page.locator(".vm-moving")
    assert moving.get_attribute("data-edge").endswith(">vmm")
    assert "vm-lit" in view.page.locator("[data-node=vmm]").get_attribute("class")


def test_reduced_motion_shows_the_token_without_moving_it(open_stage, recording):
    view = open_stage(recording, step=traps(recording)[3] - 1, reduced_motion="reduce")
    view.press("ArrowRight")
    places = set()
    for _ in range(6):
        places.add(token(view))
        view.page.wait_for_timeout(40)
    assert len(places) == 1
    assert view.page.locator(".vm-moving").count() == 1


def test_changed_registers_are_marked(open_stage, recording):
    event = next(event for event in recording.events if event.kind == "emulate" and event.text == "sti")
    view = open_stage(recording, step=event.step)
    changed = view.page.locator("#host .vm-changed")
    names = set(changed.evaluate_all("cells => cells.map(cell => cell.dataset.testid)"))
    assert {"vcpu-IF", "vcpu-EIP", "vcpu-EFLAGS"} <= names
    assert view.find("vcpu-IF").inner_text() == "1 on"


def test_the_current_line_is_marked_with_its_class(open_stage, recording):
    view = open_stage(recording, step=traps(recording)[1])
    line = view.page.locator("#host .vm-now")
    assert line.count() == 1
    assert line.locator(".vm-mark").inner_text() in {"P", "S", ""}
    event = next(event for event in recording.events if event.step == view.step)
    assert int(line.get_attribute("data-address"), 16) == event.address


def test_the_current_line_is_in_sight(open_stage, recording):
    view = open_stage(recording, step=traps(recording)[100])
    for _ in range(12):
        view.press("n")
        panel = view.find("code").bounding_box()
        line = view.page.locator("#host .vm-now").bounding_box()
        assert panel["y"] <= line["y"]
        assert line["y"] + line["height"] <= panel["y"] + panel["height"]


@pytest.mark.parametrize(("width", "dark"), [(900, False), (1000, True), (1150, False)])
def test_the_stage_fits_its_place(open_stage, recording, pair, width, dark, artefacts):
    view = open_stage(pair if dark else recording, width=width, dark=dark, step=2390)
    box = view.find("stage").bounding_box()
    assert box["width"] == width
    assert box["height"] <= 560
    for name in ("graph", "code", "console", "timeline", "scrub", "caption", "counter"):
        inner = view.find(name).bounding_box()
        assert inner["x"] >= box["x"]
        assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 0.5, name
        assert inner["y"] + inner["height"] <= box["y"] + box["height"] + 0.5, name
    view.page.screenshot(path=artefacts / f"stage-{width}-{'dark' if dark else 'light'}.png")


def test_controls_have_names_and_the_root_takes_the_focus(open_stage, recording):
    view = open_stage(recording)
    for name in ("first", "previous", "back", "play", "step", "next", "last", "scrub", "speed"):
        assert view.find(name).get_attribute("aria-label")
    root = view.find("stage")
    assert root.get_attribute("tabindex") == "0"
    assert "arrow keys" in root.get_attribute("aria-label")
    view.page.keyboard.press("Tab")
    outline = root.evaluate("root => getComputedStyle(root).outlineStyle")
    assert outline == "solid"
    assert root.get_attribute("data-lm-suppress-shortcuts") == "true"  # Lab's own keys do not interfere


def test_nothing_is_fetched(open_stage, recording):
    view = open_stage(recording, late=True)
    asked = []
    view.page.on("request", lambda request: asked.append(request.url))
    view.load()
    view.press("n", "n", "ArrowRight")
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == []


def test_without_a_kernel_or_its_state_the_stage_says_so(open_stage, recording):
    view = open_stage(recording, late=True)
    view.page.evaluate("window.load()")
    view.page.evaluate(
        """() => window.module.default.render({
            model: { get: () => "IPY_MODEL_lost", widget_manager: { get_model: async () => { throw new Error("lost"); } } },
            el: document.getElementById("other"),
        })"""
    )
    assert view.find("stage", "other").inner_text() == "This stage has lost its kernel: run the cell again."
