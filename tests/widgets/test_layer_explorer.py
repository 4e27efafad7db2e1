"""The layer explorer: its kernel side, and what a browser shows of running systems."""

from __future__ import annotations

import pytest

import vmlab
from tests.widgets.layers_page import LayersPage
from vmlab.errors import OptionError
from vmlab.widgets import LayerExplorer, show_layers


@pytest.fixture
def open_layers(browser):
    """Open a page with an explorer; a test fails where a script did."""
    contexts, pages = [], []

    def start(explorer, *, width=900, **options):
        context = browser.new_context(viewport={"width": width + 40, "height": 1000})
        contexts.append(context)
        pages.append(LayersPage(context.new_page(), explorer, width=width, **options))
        return pages[-1]

    yield start
    for context in contexts:
        context.close()
    assert [error for page in pages for error in page.errors] == []


def send(explorer, **message):
    explorer._on_message(explorer.feed, message, [])
    return explorer.feed.panes["panes"]


# -- the kernel's side ----------------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_done_to_the_system_that_is_shown():
    explorer = show_layers("VMware ESX")
    first = explorer.feed.panes["panes"][0]
    assert {box["name"] for box in first["boxes"]} == set(vmlab.layers(explorer.systems[0]))
    assert first["control"] == explorer.systems[0].in_control
    cycles = first["cycles"]
    assert send(explorer, type="run", pane=0, steps=500)[0]["cycles"] > cycles
    names = {box["name"] for box in send(explorer, type="kill", pane=0, part="guest1/kernel")[0]["boxes"]}
    assert "guest1/kernel" not in names
    done = send(explorer, type="run", pane=0, steps=10**9)[0]
    assert done["finished"]
    assert list(done["results"]) == ["guest0"]
    journey = send(explorer, type="follow", pane=0, event="page fault")[0]["journey"]
    assert journey["cycles"] == journey["legs"][-1]["total"] == explorer.journeys[0].cycles


def test_a_second_pane_and_back():
    explorer = show_layers()
    assert explorer.feed.panes["panes"][0]["name"] == "plain VM"
    assert [pane["name"] for pane in send(explorer, type="choose", pane=1, name="BSD Jails")] == [
        "plain VM",
        "BSD Jails",
    ]
    assert [pane["name"] for pane in send(explorer, type="close", pane=0)] == ["BSD Jails"]
    assert [pane["name"] for pane in send(explorer, type="close", pane=0)] == ["BSD Jails"]


def test_what_is_wrong_is_said_in_the_pane_and_nothing_changes():
    explorer = show_layers("BSD Jails")
    before = explorer.feed.panes["panes"][0]
    for message in (
        {"type": "choose", "pane": 0, "name": "DOS box"},
        {"type": "follow", "pane": 0, "event": "lunch"},
        {"type": "kill", "pane": 0, "part": "container0"},
        {"type": "kill", "pane": 7, "part": "nobody"},
    ):
        pane = send(explorer, **message)[0]
        assert pane["note"]
        assert {name: pane[name] for name in ("boxes", "cycles", "name")} == {
            name: before[name] for name in ("boxes", "cycles", "name")
        }
    assert send(explorer, type="run", pane=0, steps=1)[0]["note"] == ""


def test_what_is_shown_without_a_kernel():
    explorer = show_layers(vmlab.preset("native machine"))
    data, _ = explorer._repr_mimebundle_()
    assert "<svg" in data["image/svg+xml"]
    assert data["text/plain"] == explorer.describe() == explorer.systems[0].describe()


def test_refused():
    with pytest.raises(OptionError, match="at most 2"):
        show_layers("native machine", "plain VM", "VMware ESX")
    with pytest.raises(OptionError, match="no preset"):
        show_layers("DOS box")
    with pytest.raises(OptionError, match="no pane 5"):
        show_layers("native machine").advance(1, 5)
    assert isinstance(vmlab.show(vmlab.preset("native machine")), LayerExplorer)


# -- in a browser -----------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_parts_are_drawn_and_tell_their_state(open_layers):
    explorer = show_layers("Red Hat KVM")
    view = open_layers(explorer)
    assert view.parts == list(vmlab.layers(explorer.systems[0]))
    assert view.in_control == [explorer.systems[0].in_control]
    view.choose_part("host/kernel")
    text = view.find("detail-0").inner_text()
    assert "Linux kernel" in text
    assert "ring 0, root" in text
    view.choose_part("guest1/kernel")
    view.click("kill-0")
    assert "guest1/kernel" not in view.parts
    view.click("end-0")
    assert "primes 303" in view.find("results-0").inner_text()


@pytest.mark.browser
def test_an_event_is_followed_by_keys(open_layers):
    explorer = show_layers("VMware Workstation")
    view = open_layers(explorer)
    view.click("follow-0-disk-read")
    legs = explorer.journeys[0].legs
    assert f"{explorer.journeys[0].hops} hops" in view.find("sum-0").inner_text()
    view.press("ArrowRight", "ArrowRight")
    assert view.in_control == [legs[2].part]
    assert view.find("say-0").inner_text().startswith("3 of ")
    view.press("End")
    assert view.in_control == [legs[-1].part]
    view.press("Home", "ArrowLeft")
    assert view.in_control == [legs[0].part]
    assert view.page.locator("#host .vm-now").count() == 1


@pytest.mark.browser
def test_two_side_by_side_and_a_choice(open_layers):
    view = open_layers(show_layers("plain VM"), width=1200)
    view.click("compare")
    assert view.page.locator("#host [data-pane]").count() == 2
    view.find("kind-0").select_option("IBM LPAR")
    view.wait()
    assert "firmware" in view.parts
    view.click("close-1")
    assert view.page.locator("#host [data-pane]").count() == 1


@pytest.mark.browser
@pytest.mark.parametrize(("other", "width", "beside"), [("AArch64 emulator", 960, True), ("VMware Workstation", 960, False), ("VMware Workstation", 1900, True)])  # fmt: skip
def test_no_picture_is_cut(open_layers, other, width, beside):
    """Two pictures stand side by side where both have room for that, else one below the other."""
    view = open_layers(show_layers("VMware ESX", other), width=width)
    pictures = view.page.locator("#host .vm-picture")
    assert pictures.evaluate_all("all => all.map(each => each.scrollWidth - each.clientWidth)") == [0, 0]
    left, right = (view.page.locator(f"#host [data-pane='{n}']").bounding_box() for n in (0, 1))
    assert (left["y"] == right["y"]) == beside
