"""The VMCS inspector: its kernel side, and what a browser shows of a control block."""

from __future__ import annotations

import pytest

import vmlab
from tests.widgets.vmcs_page import VmcsPage
from vmlab.errors import OptionError
from vmlab.widgets import VmcsInspector, show_vmcs
from vmlab.widgets.vmcs_inspector import read_value

MEMORY = 2 << 20


@pytest.fixture(scope="module")
def assisted():
    return vmlab.record(vmlab.guests.load("minios"), "vt-x", memory=MEMORY, steps=6000)


@pytest.fixture
def inspector(assisted):
    """The inspector at the eighth exit of a recording."""
    events = [event for event in assisted.events if event.kind == "vm-exit"]
    assisted.seek(events[7].step)
    return show_vmcs(assisted)


@pytest.fixture(scope="module")
def by_amd():
    return vmlab.record(vmlab.guests.load("minios"), "amd-v", memory=MEMORY, steps=6000)


@pytest.fixture
def amd(by_amd):
    """The inspector at an exit under amd-v."""
    events = [event for event in by_amd.events if event.kind == "vm-exit"]
    by_amd.seek(events[20].step)
    return show_vmcs(by_amd)


@pytest.fixture
def open_vmcs(browser):
    """Open a page with an inspector; a test fails where a script did."""
    contexts, pages = [], []

    def start(inspector, *, width=900, **options):
        context = browser.new_context(viewport={"width": width + 40, "height": 900})
        contexts.append(context)
        pages.append(VmcsPage(context.new_page(), inspector, width=width, **options))
        return pages[-1]

    yield start
    for context in contexts:
        context.close()
    assert [error for page in pages for error in page.errors] == []


def send(inspector, **message):
    inspector._on_message(inspector.feed, message, [])
    return inspector.feed.verdict


# -- the kernel's side ----------------------------------------------------------------------------------------------------


def test_edits_are_tried_on_a_copy(inspector, assisted):
    before = assisted.system.save()
    verdict = send(inspector, type="try", edits={"GUEST_RFLAGS": "0x200", "VPID": "1"})
    assert not verdict["ok"]
    assert verdict["edits"] == {"GUEST_RFLAGS": "0x0000000000000200"}  # the VPID is 1
    assert verdict["said"]["GUEST_RFLAGS"] == "IF"
    assert verdict["rules"] == [["26.3.1.4", "the reserved bit 1 of RFLAGS is 1"]]
    assert "33" in verdict["outcome"]
    assert send(inspector, type="try", edits={})["ok"]
    assert assisted.system.save() == before
    assert inspector.try_entry(cr3_target_count=5).error == 7
    assert inspector.feed.verdict["edits"] == {"CR3_TARGET_COUNT": "0x00000005"}


def test_what_a_field_cannot_hold_is_said_beside_it(inspector):
    verdict = send(inspector, type="try", edits={"GUEST_CS": "0x12345", "GUEST_RIP": "main", "HOST_CS": "0"})
    assert set(verdict["wrong"]) == {"GUEST_CS", "GUEST_RIP"}
    assert "an int of 16 bits" in verdict["wrong"]["GUEST_CS"]
    assert "'main' is no number" in verdict["wrong"]["GUEST_RIP"]
    assert verdict["edits"] == {"HOST_CS": "0x0000"}
    assert "error 13" in send(inspector, type="try", edits={"EXIT_REASON": "1"})["wrong"]["EXIT_REASON"]
    assert "no field" in send(inspector, type="try", edits={"NOTHING": "1"})["wrong"]["NOTHING"]
    assert [read_value(text) for text in ("0x10", " 10H ", "1_000", 7)] == [16, 16, 1000, 7]


def test_exits_are_gone_through(inspector, assisted):
    events = [event for event in assisted.events if event.kind == "vm-exit"]
    serial = inspector.feed.block["serial"]
    send(inspector, type="exit", forwards=True)
    assert assisted.position == events[8].step
    assert inspector.feed.block["serial"] != serial
    assert inspector.block["exit_qualification"].value == events[8].qualification
    send(inspector, type="exit", forwards=False)
    assert assisted.position == events[7].step
    assisted.seek(events[0].step)
    assert "no earlier exit" in send(inspector, type="exit", forwards=False)["note"]
    assert assisted.position == events[0].step
    assisted.seek(events[-1].step)
    assert not inspector.next_exit()
    assert inspector.previous_exit()
    assert assisted.position == events[-2].step
    run = show_vmcs(vmlab.run(vmlab.guests.load("hello"), "vt-x"))
    assert not run.feed.block["exits"]
    with pytest.raises(OptionError, match=r"vmlab\.record"):
        run.next_exit()
    assert isinstance(run, VmcsInspector)
    with pytest.raises(OptionError, match="no hardware assistance"):
        show_vmcs(vmlab.run(vmlab.guests.load("hello"), "trap-and-emulate"))


def test_a_vmcb_is_shown_and_tried_in_the_same_way(amd):
    assert amd.feed.block["title"] == "VMCB of minios under amd-v"
    assert amd.feed.block["summary"][1] == "Last exit: IOIO (0x7b): OUT of 8 bits, port 0x40"
    verdict = send(amd, type="try", edits={"ASID": "0", "RIP": "0x10", "CPL": "0x100"})
    assert (verdict["ok"], verdict["manual"]) == (False, "AMD APM vol. 2")
    assert verdict["rules"] == [["15.5.1", "the ASID is not 0, and one that the processor has"]]
    assert verdict["edits"] == {"ASID": "0x00000000", "RIP": "0x0000000000000010"}
    assert "an int of 8 bits" in verdict["wrong"]["CPL"]
    assert amd.next_exit()
    assert amd.previous_exit()
    assert "<code>EXITCODE</code>" in amd._repr_mimebundle_()[0]["text/html"]


def test_without_a_kernel_there_are_tables_and_a_text(inspector):
    data, _ = inspector._repr_mimebundle_()
    assert data["text/plain"] == inspector.describe() == inspector.feed.block["text"]
    assert "<code>GUEST_RIP</code>" in data["text/html"]


# -- the browser's side ---------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_an_edit_shows_the_check_that_refuses_it(open_vmcs, inspector):
    view = open_vmcs(inspector)
    assert view.outcome == "As it is: Accepted: the guest would run"
    view.open_all()
    view.edit("GUEST_RFLAGS", "0")
    assert view.outcome.startswith("With 1 edited field: refused, VM-entry failure due to invalid guest state (33)")
    assert view.find("rules").inner_text() == "26.3.1.4 the reserved bit 1 of RFLAGS is 1"
    assert "Intel SDM vol. 3" in view.find("verdict").inner_text()
    assert view.find("verdict").get_attribute("data-verdict") == "bad"
    assert "✎" in view.row("GUEST_RFLAGS").inner_text()
    view.edit("VPID", "0")
    assert "2 edited fields: refused, VM-instruction error 7" in view.outcome
    view.edit("VPID", "zero")
    assert "'zero' is no number" in view.row("VPID").inner_text()
    assert view.page.locator("#host [data-field=VPID]").get_attribute("aria-invalid") == "true"
    view.find("undo").click()
    view.wait()
    assert view.outcome == "As it is: Accepted: the guest would run"
    rip = inspector.block["guest_rip"]
    assert view.page.locator("#host [data-field=GUEST_RIP]").input_value() == rip.digits(rip.value)
    assert view.page.locator("#host [data-field=EXIT_REASON]").count() == 0  # VMWRITE cannot write it
    inspector.try_entry(host_cs=0)
    view.push()
    assert "error 8" in view.outcome  # what the kernel tries arrives, too
    assert view.page.locator("#host [data-field=HOST_CS]").input_value() == "0x0000"


@pytest.mark.browser
def test_what_has_changed_is_marked_and_searched(open_vmcs, inspector):
    view = open_vmcs(inspector)
    changed = {each.name for each in inspector.block.changed}
    assert changed
    rows = view.page.locator("#host tr.vm-changed").evaluate_all("rows => rows.map(row => [row.dataset.row, row.querySelector('.vm-mark').textContent])")  # fmt: skip
    assert dict(rows) == dict.fromkeys(changed, "● changed")
    view.find("only").check()
    assert set(view.visible()) == changed
    view.find("only").uncheck()
    view.press("/")
    view.page.keyboard.type("enable_ept")
    assert view.visible() == ["SECONDARY_CONTROLS"]
    assert view.find("found").inner_text() == "1 found"
    view.find("search").fill("0x681e")
    assert view.visible() == ["GUEST_RIP"]
    serial = view.find("vmcs").get_attribute("data-serial")
    view.find("search").fill("")
    view.press("n")
    assert view.find("vmcs").get_attribute("data-serial") != serial
    assert f"Last exit: {inspector.block.exit}\n" in view.find("summary").inner_text()
    view.press("p")
    assert {each.name for each in inspector.block.changed} == changed


@pytest.mark.browser
def test_a_vmcb_says_which_rule_vmrun_finds_broken(open_vmcs, amd):
    view = open_vmcs(amd)
    view.open_all()
    view.edit("SVM_INTERCEPTS", "0")
    assert "refused, #VMEXIT at once, exit code VMEXIT_INVALID (-1)" in view.outcome
    assert view.find("rules").inner_text() == "15.5.1 the intercept of VMRUN is set"
    assert "AMD APM vol. 2" in view.find("verdict").inner_text()
    view.press("/")
    view.page.keyboard.type("0x0578")
    assert view.visible() == ["SVM_INTERCEPTS", "RIP"]  # what is edited stays to be seen


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(900, False), (420, True)])
@pytest.mark.parametrize(("kind", "field"), [("inspector", "GUEST_RFLAGS"), ("amd", "EVENTINJ")])
def test_it_fits_its_place_and_has_names(request, open_vmcs, kind, field, width, dark, artefacts):
    inspector = request.getfixturevalue(kind)
    view = open_vmcs(inspector, width=width, dark=dark)
    view.open_all()
    view.edit(field, "0x80000502")
    box = view.find("vmcs").bounding_box()
    assert box["width"] <= width
    inside = view.page.locator("#host .vmlab-vmcs *:not([hidden])").evaluate_all(
        "all => all.filter(each => !each.closest('.vm-scroll, pre, svg, .vm-hidden')).map(each => each.getBoundingClientRect().right)"
    )
    assert max(inside) <= box["x"] + box["width"] + 1
    inputs = view.page.locator("#host input[data-field]").evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")  # fmt: skip
    assert all(inputs)
    assert "n and p" in view.find("vmcs").get_attribute("aria-label")
    assert view.find("text").text_content() == inspector.describe()
    view.row(field).scroll_into_view_if_needed()
    name = f"{inspector.block.kind.lower()}-{width}-{'dark' if dark else 'light'}.png"
    view.find("vmcs").screenshot(path=artefacts / name)
