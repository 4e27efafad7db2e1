"""The walk theatre: its kernel side, and what a browser shows of a walk."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

import vmlab
from tests.widgets.walk_page import WalkPage
from vmlab.errors import OptionError
from vmlab.vmm.walk_lab import WalkLab
from vmlab.widgets import WalkTheatre, show_walk

MEMORY = 2 << 20


@pytest.fixture
def open_walk(browser):
    """Open a page with a walk; a test fails where a script did."""
    contexts, pages = [], []

    def start(theatre, *, width=900, reduced_motion="no-preference", **options):
        context = browser.new_context(viewport={"width": width + 40, "height": 780}, reduced_motion=reduced_motion)
        contexts.append(context)
        pages.append(WalkPage(context.new_page(), theatre, width=width, **options))
        return pages[-1]

    yield start
    for context in contexts:
        context.close()
    assert [error for page in pages for error in page.errors] == []


def send(theatre, **message):
    theatre._on_message(theatre.feed, message, [])
    return theatre.feed.walk


# -- the kernel's side ----------------------------------------------------------------------------------------------------


def test_show_walk_takes_whatever_has_page_tables():
    image = vmlab.guests.load("minios")
    run = vmlab.run(image, memory=MEMORY)
    for of in (None, WalkLab("sv39", None), run, run.system, vmlab.record(image, memory=MEMORY, steps=100)):
        theatre = vmlab.show_walk(of)
        assert isinstance(theatre, WalkTheatre)
        assert theatre.feed.walk["scenes"]
    with pytest.raises(OptionError, match="show_walk takes a Run"):
        show_walk(3)
    with pytest.raises(OptionError, match="there is no guest 4"):
        show_walk(run, guest=4)
    with pytest.raises(OptionError, match="an address is an int"):
        show_walk(run, "main")


def test_controls_ask_for_another_walk():
    theatre = show_walk()
    assert theatre.walk.references == 24
    serial = theatre.feed.walk["serial"]
    walk = send(theatre, type="set", name="host_page", value="2 MiB")
    assert (walk["references"], walk["serial"] != serial) == (19, True)
    assert send(theatre, type="set", name="guest_format", value="none")["kind"] == "host"
    assert send(theatre, type="set", name="guest_format", value="5-level")["references"] == 3 * 6 + 5
    assert send(theatre, type="set", name="host_format", value="none")["references"] == 5
    theatre.ask(address=theatre.question.lab.address + 0x1000, access="write", mode="supervisor")
    assert "a write by the supervisor" in theatre.describe()


def test_what_is_not_possible_is_said_and_changes_nothing():
    theatre = show_walk()
    said = []
    theatre.feed.observe(lambda change: said.append(change.new["text"]), "note")
    before = theatre.feed.walk
    for name, value in (
        ("address", "main"), ("address", "0x1ffffffffffffffff"), ("guest_format", "z80"), ("host_page", "4 MiB"),
        ("guest_format", "ept"), ("nothing", 1), ("access", "jump"),
    ):  # fmt: skip
        assert send(theatre, type="set", name=name, value=value) is before
    assert len(said) == 7
    assert "'main' is no address" in said[0]
    assert theatre.walk.references == 24
    send(theatre, type="set", name="host_format", value="none")
    before = theatre.feed.walk
    assert send(theatre, type="set", name="guest_format", value="none") is before
    assert send(theatre, type="flip", step=0, bit=1) is before  # no entry is shown there


def test_a_bit_is_flipped_in_memory():
    theatre = show_walk()
    scenes = theatre.feed.walk["scenes"]
    step = next(n for n, scene in enumerate(scenes) if scene["cell"] == [0, 2, 4])  # the guest's page directory
    walk = send(theatre, type="flip", step=step, bit=0)
    assert walk["ok"] is False
    assert "page fault, #PF, error code 0x4" in walk["verdict"]
    assert theatre.step == len(walk["scenes"]) - 1
    assert send(theatre, type="act", name="mend")["ok"] is True
    run = vmlab.run(vmlab.guests.load("minios"), memory=MEMORY)
    real = show_walk(run, 0x100000, user=False)
    assert not real.feed.walk["editable"]
    before = real.feed.walk
    assert send(real, type="flip", step=2, bit=0) is before


def test_an_access_fills_the_caches():
    theatre = show_walk(WalkLab(caches=True))
    first = theatre.feed.walk
    assert (first["tlb"], first["references"]) == ("miss", 13)
    assert send(theatre, type="act", name="make")["tlb"] == "hit"
    theatre.ask(address=theatre.question.address + 0x1000)
    assert theatre.feed.walk["references"] == 2
    assert send(theatre, type="set", name="address", value="0x7000")["ok"] is False
    assert send(theatre, type="act", name="map")["ok"] is True


def test_a_recording_is_sought_and_a_guest_chosen(pair):
    theatre = show_walk(pair, 0x400000, user=True)
    assert {control["name"] for control in theatre.feed.walk["controls"]} == {
        "address",
        "access",
        "mode",
        "guest",
        "instant",
    }
    assert send(theatre, type="set", name="instant", value="0")["verdict"].startswith("No RAM is there")
    assert pair.position == 0
    late = send(theatre, type="set", name="instant", value=str(pair.length))
    assert late["grids"][0]["rows"] == ["PD", "PT", "byte"]
    assert pair.position == pair.length
    other = send(theatre, type="set", name="guest", value="1")
    assert other["title"] != late["title"]
    for name, value in (("instant", "-1"), ("instant", str(pair.length + 1)), ("instant", "end"), ("guest", "2")):
        assert send(theatre, type="set", name=name, value=value) is other
    assert "these are 0 to 1" in theatre.feed.note["text"]


def test_without_a_kernel_there_is_a_picture_and_a_text():
    theatre = show_walk()
    data, _ = theatre._repr_mimebundle_()
    root = ET.fromstring(data["image/svg+xml"])
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {str(number) for number in range(1, 25)} <= set(texts)
    assert data["text/plain"] == theatre.describe()


def test_the_cursor_is_checked():
    theatre = show_walk()
    theatre.step = 5
    assert theatre.feed.step == 5
    with pytest.raises(OptionError, match="there is no scene 99"):
        theatre.step = 99


# -- the browser's side ---------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_each_reference_is_stepped_without_the_kernel(open_walk):
    view = open_walk(show_walk())
    scenes = view.stage.feed.walk["scenes"]
    asked = [message for message in view.messages if message["type"] != "save"]
    for step in range(1, len(scenes)):
        view.press("ArrowRight")
        assert view.step == step
        assert view.caption == scenes[step]["caption"]
        counted = scenes[step]["references"]
        assert view.find("counter").inner_text() == f"{counted} reference{'' if counted == 1 else 's'}"
        if scenes[step]["entry"]:
            assert view.find("entry").inner_text() == scenes[step]["entry"]["value"]
    numbers = {place: text for place, text in view.cells().items() if text.isdigit()}
    assert sorted(map(int, numbers.values())) == list(range(1, 25))
    assert numbers[0, 0] == "1"
    assert numbers[0, 4] == "5"
    assert view.cells()[4, 4] == "✓"
    view.press("Home", "n")
    assert view.stage.feed.walk["scenes"][view.step]["entry"]["owner"] == "guest"
    view.press("p")
    assert view.step == 0
    assert [message for message in view.messages if message["type"] != "save"] == asked
    view.press("End")
    view.page.wait_for_timeout(300)
    assert view.stage.step == len(scenes) - 1


@pytest.mark.browser
def test_a_new_address_and_new_formats_arrive(open_walk):
    view = open_walk(show_walk(WalkLab(host_page="2 MiB")))
    serial = view.serial
    view.find("address").fill("0x7000")
    view.find("address").press("Enter")
    view.wait_new(serial)
    view.press("End")
    assert "page fault" in view.caption
    assert view.cells()[0, 4] == "✕"
    serial = view.serial
    view.find("guest_format").focus()
    view.find("guest_format").select_option("ia32")
    view.wait_new(serial)
    assert view.page.evaluate("document.activeElement.dataset.testid") == "guest_format"  # one can go on choosing
    assert max(row for row, _ in view.cells()) == 2
    view.find("address").fill("nowhere")
    view.find("address").press("Enter")
    view.page.wait_for_function(
        "document.querySelector('#host [data-testid=caption]').textContent.includes('no address')"
    )
    assert view.find("walk").get_attribute("aria-busy") == "false"


@pytest.mark.browser
def test_the_bits_that_index_a_level_light_up(open_walk):
    view = open_walk(show_walk())
    lit = view.page.locator("#host .vm-field.vm-lit")
    view.press("ArrowRight")
    assert lit.evaluate_all("all => all.map(each => each.dataset.field)") == ["PML4"]
    assert lit.locator("b").inner_text() == "0"
    view.press("n")
    assert lit.evaluate_all("all => all.map(each => each.dataset.field)") == ["PML4"]
    assert lit.locator("b").inner_text() == str(0x2A2512345678 >> 39)
    assert lit.locator("code").inner_text() == f"{0x2A2512345678 >> 39:09b}"


@pytest.mark.browser
def test_a_click_on_a_bit_breaks_the_entry(open_walk):
    view = open_walk(show_walk())
    view.press("n", "n")
    serial = view.serial
    view.page.locator("#host [data-bit='P']").click()
    view.wait_new(serial)
    assert "#PF" in view.caption
    assert view.cells()[1, 4] == "✕"
    assert not view.stage.walk.steps[-1].entry & 1


@pytest.mark.browser
def test_it_plays_and_stops(open_walk):
    view = open_walk(show_walk(WalkLab("ia32", None)), reduced_motion="reduce")
    view.find("speed").select_option("8")
    view.press(" ")
    assert view.find("walk").get_attribute("data-playing") == "true"
    view.page.wait_for_function("document.querySelector('#host [data-testid=walk]').dataset.playing === 'false'")
    assert view.step == len(view.stage.feed.walk["scenes"]) - 1
    assert view.page.evaluate("getComputedStyle(document.querySelector('.vm-token')).transitionProperty") == "none"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark", "what"), [(900, False, "lab"), (420, True, "lab"), (760, True, "run")])
def test_it_fits_its_place_and_has_names(open_walk, recording, width, dark, what, artefacts):
    recording.seek(recording.length - 400)
    theatre = show_walk(recording, 0x400000, user=True) if what == "run" else show_walk(WalkLab("5-level", "ept-5"))
    view = open_walk(theatre, width=width, dark=dark)
    view.press("End")
    view.page.wait_for_timeout(300)
    box = view.find("walk").bounding_box()
    assert box["width"] <= width
    inside = view.page.locator("#host .vmlab-walk *:not([hidden])").evaluate_all(
        "all => all.filter(each => !each.closest('select, details pre, svg')).map(each => each.getBoundingClientRect().right)"
    )
    assert max(inside) <= box["x"] + box["width"] + 1
    for name in ("first", "back", "play", "step", "last", "scrub", "speed", "address", "access", "mode"):
        assert view.find(name).get_attribute("aria-label")
    assert "arrow keys" in view.find("walk").get_attribute("aria-label")
    assert view.find("text").text_content() == theatre.describe()  # the text twin
    view.page.screenshot(path=artefacts / f"walk-{what}-{width}-{'dark' if dark else 'light'}.png")
