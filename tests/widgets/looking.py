"""What a test of the stage looks for in a page."""

from __future__ import annotations

from vmlab.isa.x86.registers import IF
from vmlab.views.instant import REGISTERS


def traps(recording):
    return [event.step for event in recording.events if event.kind == "trap"]


def shown_registers(view, column):
    cells = view.page.locator("#host td").evaluate_all(
        "cells => Object.fromEntries(cells.map(cell => [cell.dataset.testid, cell.textContent]))"
    )
    return {name: int(cells[f"{column}-{name}"], 16) for name in REGISTERS}


def assert_shows(view, recording, step):
    """The picture is that of the machine at this step."""
    recording.seek(step)
    system = recording.system
    guest, cpu = system.guests[0], system.machine.cpu
    for column, state in (("vcpu", guest.vcpu), ("cpu", cpu)):
        visible = state.visible()
        assert shown_registers(view, column) == {name: visible[name.lower()] for name in REGISTERS}
    assert view.find("vcpu-IF").inner_text()[0] == str(int(bool(guest.vcpu.flags & IF)))
    assert view.find("vcpu-mode").inner_text() == guest.mode
    assert view.find("cpu-mode").inner_text() == f"ring {cpu.cpl}"
    assert view.find("console").text_content() == guest.console[-2000:] or guest.console.endswith(
        view.find("console").text_content()
    )
