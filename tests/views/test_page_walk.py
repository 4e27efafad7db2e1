"""Page walks to look at: taken from real tables, decoded as the manuals say, and nothing changes by looking."""

from __future__ import annotations

import itertools

import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.isa.x86.faults import Fault
from vmlab.machine.page_format_names import FORMATS, HOST_FORMATS
from vmlab.machine.walk_faults import HostFault, WalkFault
from vmlab.views.entry_bits import FAMILIES, decode_entry
from vmlab.views.fault_words import RULES
from vmlab.views.theme import MODES
from vmlab.views.walk_scene import walk_script
from vmlab.vmm.walk_lab import GUEST_AT, GUEST_FORMATS, WalkLab, sizes_of

MEMORY = 2 << 20
USER_PAGE = 0x400000  # where minios maps its process


@pytest.fixture(scope="module")
def running():
    """A recording that stands in the middle of minios, under trap-and-emulate."""
    recording = vmlab.record(vmlab.guests.load("minios"), under="trap-and-emulate", memory=MEMORY)
    recording.seek(recording.length - 500)
    return recording


def everything(system):
    return system.save(), bytes(system.machine.memory.data)


@pytest.mark.parametrize("access", ["read", "write", "fetch"])
@pytest.mark.parametrize("under", ["native", "trap-and-emulate"])
def test_a_look_changes_nothing(under, access):
    recording = vmlab.record(vmlab.guests.load("minios"), under=under, memory=MEMORY)
    recording.seek(recording.length // 2)
    system = recording.system
    before = everything(system)
    for address, user in itertools.product(
        (0, 0x100000, USER_PAGE, USER_PAGE + 0x5000, 0xFFFFFFFC), (True, False, None)
    ):
        vmlab.walk(recording, address, access=access, user=user)
    assert everything(system) == before


def test_a_native_walk_is_the_processor_s_own(native):
    native.seek(native.length - 200)
    cpu = native.system.machine.cpu
    for page in (0x100000, USER_PAGE):
        seen = vmlab.walk(native, page + 0x34, user=False)
        own = cpu.page_walk(page + 0x34, write=False, user=False, mark=False)
        assert seen.physical == own.frame | 0x34
        assert [(step.slot, step.address, step.entry) for step in seen.steps] == [step[1:4] for step in own.steps]
        assert seen.references == own.references == 2
        assert seen.sight.byte == cpu.memory.read(own.frame | 0x34, 1)
        assert seen.fault is None
        assert "Allowed" in seen.describe()


def test_the_fault_is_the_guest_s_own():
    run = vmlab.run(vmlab.guests.load("minios"), memory=MEMORY)
    kernel = vmlab.walk(run, 0x100000, access="write", user=True)
    assert kernel.fault.code == 7  # present, a write, by a user (SDM vol. 3, 4.7)
    assert kernel.physical is None
    nothing = vmlab.walk(run, 0x70000000, user=False)
    assert nothing.fault.code == 0
    assert nothing.references == 1
    assert "P=0" in nothing.describe()


def test_under_shadow_paging_both_walks_are_seen(running):
    system = running.system
    cpu = system.machine.cpu
    seen = vmlab.walk(running, system.guests[0].vcpu.ip if system.in_vmm else cpu.linear_ip, access="fetch")
    assert seen.kind == "shadow"
    assert seen.steps
    assert seen.shadow_steps
    assert {step.dimension for step in seen.shadow_steps} == {"shadow"}
    memory = system.guests[0].memory
    guest_physical = seen.sight.guest.physical
    assert seen.physical == memory.host_address(guest_physical) == seen.sight.shadow.physical
    assert "Both agree" in seen.verdict
    for step in seen.shadow_steps:  # the entries lie in the host's memory
        assert system.machine.memory.read(step.address, 4) == step.entry
    for step in seen.steps:  # the guest's in its own
        assert memory.read(step.address, 4) == step.entry


def test_a_hidden_page_fault_is_told_from_a_true_one(running):
    system = running.system
    hidden = true = 0
    for page, user in itertools.product(range(0, 0x800000, 0x2000), (True, False)):
        seen = vmlab.walk(running, page, user=user)
        guest_ok = seen.fault is None
        shadow_ok = seen.shadow_fault is None
        hidden += "hidden page fault" in seen.verdict
        true += "true page fault" in seen.verdict
        is_ram = seen.physical is not None
        assert ("hidden page fault" in seen.verdict) == (guest_ok and not shadow_ok and is_ram)
        assert ("No RAM" in seen.verdict) == (guest_ok and not shadow_ok and not is_ram)
        assert ("true page fault" in seen.verdict) == (not guest_ok and not shadow_ok)
    assert hidden
    assert true
    assert system.memory_virtualization == "shadow"


def test_a_stale_shadow_is_said_to_be_one():
    """The guest's entry is changed behind everyone's back, as a device's DMA could: the shadow still leads to the old page."""
    run = vmlab.run(vmlab.guests.load("minios"), under="trap-and-emulate", memory=MEMORY)
    system = run.system
    shadow = system.worlds[0].shadow
    vcpu = system.guests[0].vcpu
    address = vcpu.ip & -0x1000
    before = vmlab.walk(run, address, access="read", user=False)
    assert "Both agree" in before.verdict
    step = before.steps[-1]
    shadow.traces.unwatch(step.address >> 12)
    host = system.guests[0].memory.host_address(step.address)
    data = system.machine.memory.data
    data[host : host + 4] = (0x5000 | step.entry & 0xFFF).to_bytes(4, "little")
    after = vmlab.walk(run, address, access="read", user=False)
    assert "out of step" in after.verdict
    assert f"{before.physical:#x}" in after.verdict


def test_the_tlb_is_looked_at(native):
    native.seek(native.length - 200)
    cpu = native.system.machine.cpu
    hit = vmlab.walk(native, cpu.linear_ip, access="fetch")
    assert hit.sight.tlb_state == "hit"
    assert hit.sight.tlb == cpu.tlb.find(cpu.linear_ip >> 12)
    assert vmlab.walk(native, 0x70000000).sight.tlb_state == "miss"
    refused = vmlab.walk(native, 0x100000, access="write", user=True)
    assert refused.sight.tlb_state in {"rights", "miss"}


def test_of_two_guests_only_one_has_the_processor(pair):
    pair.seek(pair.length // 3)
    current = pair.system.current
    other = vmlab.walk(pair, 0x100000, guest=1 - current, user=False)
    assert other.sight.tlb_state == "other"
    both = [vmlab.walk(pair, 0x100000, guest=n, user=False).physical for n in (0, 1)]
    assert both[0] != both[1]


def test_without_paging_no_table_is_read():
    run = vmlab.run(vmlab.guests.load("hello"), memory=MEMORY)
    seen = vmlab.walk(run, 0x100000)
    assert (seen.references, seen.physical, seen.steps) == (0, 0x100000, ())
    assert "paging is off" in seen.verdict
    assert walk_script(seen)["scenes"][-1]["ok"] is True


# -- the laboratory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guest", [*GUEST_FORMATS, None])
@pytest.mark.parametrize("host", [*HOST_FORMATS, None])
def test_every_pair_of_formats_can_be_walked(guest, host):
    """References are (n+1)(m+1)-1, where n and m are the tables of both walks; each has a scene of its own (FACTS.md)."""
    if guest is None and host is None:
        with pytest.raises(OptionError, match="nothing to walk"):
            WalkLab(guest, host)
        return
    for guest_page in sizes_of(guest) if guest else ["4 KiB"]:
        host_page = sizes_of(host)[-1] if host else "4 KiB"
        lab = WalkLab(guest, host, guest_page=guest_page, host_page=host_page)
        seen = vmlab.walk(lab, lab.address)
        assert seen.fault is None, seen
        n = _tables(guest, lab.guest_page)
        m = _tables(host, lab.host_page)
        assert seen.references == (n + 1) * (m + 1) - 1
        script = walk_script(seen)
        steps = [scene for scene in script["scenes"] if scene["kind"] == "step"]
        assert sum(scene["served"] == "memory" for scene in steps) == seen.references
        assert steps[-1]["references"] == seen.references
        cells = [tuple(scene["cell"][1:]) for scene in steps]
        assert len(set(cells)) == len(cells)
        assert set(cells) <= {tuple(cell) for cell in script["grids"][0]["cells"]}
        assert tuple(script["scenes"][-1]["cell"][1:]) in {tuple(cell) for cell in script["grids"][0]["cells"]}
        assert lab.memory.read(seen.physical, 1) == seen.sight.byte
        for before, step in itertools.pairwise(seen.steps if guest and host else ()):
            if before.dimension == "host" and step.dimension == "guest":  # each row leads to the entry behind it
                assert step.address == GUEST_AT + before.walked
        if guest and host:
            assert seen.physical == GUEST_AT + seen.steps[-1].walked
            assert seen.steps[-1].row == len(
                FORMATS[guest].levels
            )  # the page is below the last table, whatever its size


def _tables(name, page):
    if name is None:
        return 0
    levels = FORMATS[name].levels
    return sum(not level.in_registers and 1 << level.shift >= page for level in levels)


def test_the_textbook_s_numbers():
    for page, references in (("4 KiB", 24), ("2 MiB", 19)):
        lab = WalkLab("4-level", "ept", host_page=page)
        assert vmlab.walk(lab, lab.address).references == references


def test_a_look_at_a_laboratory_changes_nothing_and_an_access_does():
    lab = WalkLab("4-level", "ept", caches=True)
    before = {page: bytes(data) for page, data in lab.memory.pages.items()}
    first = vmlab.walk(lab, lab.address, access="write")
    assert vmlab.walk(lab, lab.address, access="write").describe() == first.describe()
    assert {page: bytes(data) for page, data in lab.memory.pages.items()} == before
    assert lab.caches.nested_tlb.misses == lab.tlb.misses == 0
    assert lab.access(lab.address, "write").references == first.references
    again = vmlab.walk(lab, lab.address, access="write")
    assert again.sight.tlb_state == "hit"
    assert lab.access(lab.address, "write") is None
    assert "A=1 D=1" in again.steps[-5].said  # the guest's leaf is marked now
    neighbour = vmlab.walk(lab, lab.address + 0x1000)
    assert neighbour.references < first.references
    assert neighbour.cached
    served = {step.served for step in neighbour.steps}
    assert served == {"memory", "cache", "nested TLB"}
    whole = [
        step for step in neighbour.steps if step.served == "nested TLB"
    ]  # the table that both pages use, and its row
    assert [step.row for step in whole] == [3] * 4
    assert {step.dimension for step in whole} == {"host"}
    lab.forget()
    assert vmlab.walk(lab, lab.address).references == first.references


def test_an_entry_is_broken_and_mended():
    lab = WalkLab("4-level", "ept")
    leaf = lab.path(lab.address)[-1]
    lab.change(leaf, leaf.entry & ~1)
    assert vmlab.walk(lab, lab.address).fault.code == 4  # not present, by a user
    lab.change(leaf, leaf.entry | 1 << 51)
    assert vmlab.walk(lab, lab.address).fault.code == 0xD  # a reserved bit
    lab.change(leaf, leaf.entry)
    assert vmlab.walk(lab, lab.address).fault is None
    table = lab.path(lab.guest.tables[2], host=True)[-1]
    lab.change(table, 0, host=True)
    seen = vmlab.walk(lab, lab.address, access="write")
    assert seen.fault.owner == "host"
    assert seen.fault.code == 1 << 7 | 1  # the table is read, whatever the access (SDM vol. 3, table 28-7)
    assert [step.number for step in seen.steps] == list(range(1, 15))
    script = walk_script(seen)
    assert script["scenes"][-1]["cell"] == [0, 2, 3]
    assert script["scenes"][-1]["ok"] is False


@pytest.mark.parametrize(
    ("guest", "host", "name"),
    [
        ("aarch64-stage1", "aarch64-stage2", "data abort to EL2"),
        ("sv39", "sv39x4", "load guest-page fault"),
        ("4-level", "npt", "nested page fault, #VMEXIT 400h"),
        (None, "vt-d", "DMA fault"),
    ],
)
def test_faults_of_other_architectures_have_their_names(guest, host, name):
    lab = WalkLab(guest, host)
    physical = vmlab.walk(lab, lab.address).steps[-1].walked
    lab.host.unmap(physical)
    seen = vmlab.walk(lab, lab.address)
    assert seen.fault.name == name
    assert f"{physical:#x}" in seen.fault.text


def test_every_fault_and_every_format_has_its_words():
    faults = {Fault, *WalkFault.__subclasses__(), *HostFault.__subclasses__()} - {HostFault}
    assert set(RULES) == faults
    assert {format_.fault for format_ in FORMATS.values()} <= set(FAMILIES)


def test_what_is_said_of_each_field():
    """SDM vol. 3, table 4-19 and 29-6; Arm ARM, D8.3; RISC-V privileged architecture, 4.3.1: worked by hand."""

    def said(name, level, entry):
        format_ = FORMATS[name]
        return " ".join(f"{bit.name}={bit.value}" for bit in decode_entry(format_, format_.levels[level], entry))

    assert said("4-level", 3, 1 << 63 | 0x5167) == "P=1 R/W=1 U/S=1 PWT=0 PCD=0 A=1 D=1 G=1 XD=1"
    assert said("4-level", 2, 0x2000E3) == "P=1 R/W=1 U/S=0 PWT=0 PCD=0 A=1 D=1 PS=1 G=0 XD=0"
    assert said("ia32", 0, 0x5023) == "P=1 R/W=1 U/S=0 PWT=0 PCD=0 A=1"
    assert said("pae", 0, 0x5001) == "P=1"
    assert said("ept", 3, 0x5000 | 6 << 3 | 5) == "R=1 W=0 X=1 type=6 A=0 D=0"
    assert said("4-level", 3, 0xFFFE) == "P=0"
    assert said("sv39", 2, 0xDF) == "V=1 R=1 W=1 X=1 U=1 G=0 A=1 D=1"
    assert said("aarch64-stage1", 4, 1 << 54 | 0x7C3) == "valid=1 type=1 AP[1]=1 AP[2]=1 AF=1 nG=0 PXN=0 UXN=1"


# -- its other faces ------------------------------------------------------------------------------------------------------


def test_text_rows_and_graph_say_the_same():
    lab = WalkLab("4-level", "ept", host_page="2 MiB")
    seen = vmlab.walk(lab, lab.address)
    rows = seen.rows()
    assert len(rows) == len(seen.steps) == 19
    text = seen.describe()
    for row in rows:
        assert row["at"] in text
    graph = seen.to_graph()
    used = [number for _, _, data in graph.edges(data=True) for number in data["steps"]]
    assert sorted(used) == list(range(1, 20))
    assert {data["kind"] for _, data in graph.nodes(data=True)} == {"register", "table", "page"}
    for table in lab.guest.tables:
        assert graph.has_node(f"guest table {table:#x}")
    assert graph.graph["references"] == 19


@pytest.mark.parametrize("mode", MODES)
def test_the_figure_replays_each_scene(mode, running):
    lab = WalkLab("4-level", "ept", host_page="2 MiB")
    for seen in (vmlab.walk(lab, lab.address), vmlab.walk(running, USER_PAGE)):
        figure = seen.figure(mode)
        scenes = walk_script(seen)["scenes"]
        assert len(figure.frames) == len(scenes)
        last = figure.frames[-1].data
        assert list(last[0].text) == list(figure.data[0].text)
        assert str(scenes[-1]["references"]) in last[1].text[0]
        assert figure.layout.template.layout.paper_bgcolor == MODES[mode].page
        shown = [text for text in figure.frames[len(scenes) // 2].data[0].text if text.isdigit()]
        assert len(shown) <= len(scenes) // 2
    with pytest.raises(OptionError, match="no colours 'sepia'"):
        seen.figure("sepia")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"address": "0x1000"}, "an address is an int"),
        ({"address": True}, "an address is an int"),
        ({"address": -1}, "no address of 32 bits"),
        ({"address": 1 << 32}, "no address of 32 bits"),
        ({"address": 0, "access": "jump"}, "one of read, write, fetch"),
        ({"address": 0, "user": 3}, "user is True, False or None"),
        ({"address": 0, "guest": 1}, "there is no guest 1"),
        ({"address": 0, "guest": "0"}, "there is no guest '0'"),
    ],
)
def test_what_is_wrong_is_said(running, given, message):
    with pytest.raises(OptionError, match=message):
        vmlab.walk(running, **given)


def test_what_has_no_page_tables_is_refused():
    with pytest.raises(OptionError, match="walk takes a Run"):
        vmlab.walk("minios", 0)
    with pytest.raises(OptionError, match="no address of 64 bits"):
        vmlab.walk(WalkLab(), 1 << 64)
    for wrong in ({"guest": "ept"}, {"host": "4-level"}, {"guest": "z80"}):
        with pytest.raises(OptionError, match="format is one of"):
            WalkLab(**wrong)
    with pytest.raises(OptionError, match="4-level has pages of 4 KiB, 2 MiB, 1 GiB, not '4 MiB'"):
        WalkLab(guest_page="4 MiB")


def test_an_address_that_is_not_canonical_is_a_fault():
    lab = WalkLab("4-level", None)
    seen = vmlab.walk(lab, 1 << 47)
    assert seen.steps == ()
    assert "canonical" in seen.verdict
    assert walk_script(seen)["scenes"][-1]["cell"] is None


@pytest.mark.parametrize("under", ["native", "vt-x"])
def test_a_running_system_foretells_what_its_walk_caches_save(under):
    """The references that a look counts are those that the processor then makes."""
    recording = vmlab.record(vmlab.guests.load("minios"), under, walk_caches=True)
    saved = 0
    for step in range(recording.length // 3, recording.length, recording.length // 40):
        recording.seek(step)
        system, cpu = recording.system, recording.system.machine.cpu
        if system.in_vmm or not cpu.cr0 & 1 << 31:
            continue
        for address in (0x100000, 0x108000, 0x110000, USER_PAGE, USER_PAGE + 0x1000):
            walk = vmlab.walk(recording, address, user=False)
            if walk.fault or walk.sight.tlb_state != "miss":
                continue
            before = cpu.walk_references
            cpu.translate(address, write=False, user=False)
            assert cpu.walk_references - before == walk.references
            saved += walk.cached
    assert saved > 20
