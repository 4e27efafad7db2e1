"""The interrupt controllers, rule by rule from the 8259A data sheet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import OptionError, StateError
from vmlab.machine.bus import Bus
from vmlab.machine.devices.pic import Pic
from vmlab.machine.memory import PhysicalMemory

MASTER, MASTER_MASK, SLAVE, SLAVE_MASK = 0x20, 0x21, 0xA0, 0xA1
EOI, SPECIFIC, ROTATE_EOI, ROTATE_SPECIFIC, SET_PRIORITY = 0x20, 0x60, 0xA0, 0xE0, 0xC0
ROTATE_AUTO, ROTATE_AUTO_OFF = 0x80, 0x00
READ_IRR, READ_ISR, POLL, SPECIAL_MASK, NORMAL_MASK = 0x0A, 0x0B, 0x0C, 0x68, 0x48


class Rig:
    """A pair of controllers on a bus, initialized as PC kernels do: vectors 0x20 and 0x28."""

    def __init__(self, icw1=0x11, icw4=0x01, slave_icw4=0x01):
        self.pic = Pic()
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.pic.attach(self.bus)
        self.sequence(MASTER, [icw1, 0x20, 0x04, icw4])
        self.sequence(SLAVE, [icw1, 0x28, 0x02, slave_icw4])

    def sequence(self, port, words):
        self.write(port, words[0])
        for word in words[1:]:
            self.write(port + 1, word)

    def write(self, port, value):
        self.bus.port_write(port, 1, value)

    def read(self, port, command=None):
        if command is not None:
            self.write(port, command)
        return self.bus.port_read(port, 1)

    def high(self, *lines):
        for line in lines:
            self.pic.line(line)(True)

    def low(self, *lines):
        for line in lines:
            self.pic.line(line)(False)

    def pulse(self, *lines):
        for line in lines:
            self.high(line)
            self.low(line)


@pytest.fixture
def rig():
    return Rig()


def test_lines_that_a_pc_has():
    pic = Pic()
    for bad in (2, -1, 16, "0", None, 1.0):
        with pytest.raises(OptionError, match="interrupt line"):
            pic.line(bad)


def test_nothing_is_requested_before_initialization_is_complete():
    pic = Pic()
    pic.set_line(0, True)
    assert not pic.output
    for offset, value in ((0, 0x11), (1, 0x20), (1, 0x04)):
        pic.write(offset, 1, value)
        pic.set_line(1, False)
        pic.set_line(1, True)
        assert not pic.output
    pic.write(1, 1, 0x01)
    assert pic.output


def test_icw2_sets_the_vectors(rig):
    rig.high(1)
    assert rig.pic.output
    assert rig.pic.pending_vector() == 0x21
    assert rig.pic.acknowledge() == 0x21
    assert not rig.pic.output


def test_icw2_ignores_its_low_bits_in_8086_mode():
    rig = Rig()
    rig.sequence(MASTER, [0x11, 0x47, 0x04, 0x01])
    rig.high(3)
    assert rig.pic.acknowledge() == 0x43


def test_single_mode_expects_no_icw3(rig):
    rig.sequence(MASTER, [0x13, 0x40, 0x01])
    rig.write(MASTER_MASK, 0xFE)
    assert rig.read(MASTER_MASK) == 0xFE, "the word after ICW4 is OCW1"


def test_without_icw4_its_functions_are_off():
    rig = Rig(icw4=0x03)
    assert rig.pic.master.auto_eoi
    rig.sequence(MASTER, [0x10, 0x40, 0x04])
    assert not rig.pic.master.auto_eoi
    rig.high(0)
    assert rig.pic.acknowledge() == 0x40
    assert rig.read(MASTER, READ_ISR) == 1


def test_icw1_clears_mask_service_edges_and_rotation(rig):
    rig.write(MASTER_MASK, 0xF0)
    rig.high(1)
    rig.pic.acknowledge()
    rig.high(3)
    rig.write(MASTER, SET_PRIORITY | 2)
    rig.write(MASTER, READ_ISR)
    rig.sequence(MASTER, [0x11, 0x20, 0x04, 0x01])
    assert rig.read(MASTER_MASK) == 0
    assert rig.read(MASTER) == 0, "IRR is read again, and its edges are gone although the lines are high"
    assert rig.read(MASTER, READ_ISR) == 0
    assert rig.pic.master.lowest == 7
    assert not rig.pic.output


def test_a_request_shows_in_irr_then_in_isr(rig):
    rig.high(5)
    assert rig.read(MASTER, READ_IRR) == 0x20
    assert rig.read(MASTER, READ_ISR) == 0
    rig.pic.acknowledge()
    assert rig.read(MASTER, READ_IRR) == 0
    assert rig.read(MASTER, READ_ISR) == 0x20
    rig.write(MASTER, EOI)
    assert rig.read(MASTER) == 0, "the choice of register lasts"


def test_an_edge_requests_once(rig):
    rig.high(4)
    rig.pic.acknowledge()
    rig.write(MASTER, EOI)
    assert not rig.pic.output, "still high, but no new edge"
    rig.low(4)
    rig.high(4)
    assert rig.pic.output


def test_an_edge_whose_line_falls_is_gone(rig):
    rig.pulse(4)
    assert not rig.pic.output
    assert rig.read(MASTER, READ_IRR) == 0


def test_a_level_requests_as_long_as_it_is_high():
    rig = Rig(icw1=0x19)
    rig.high(4)
    assert rig.pic.acknowledge() == 0x24
    assert not rig.pic.output
    rig.write(MASTER, EOI)
    assert rig.pic.output
    rig.low(4)
    assert not rig.pic.output


def test_a_masked_line_waits_in_irr(rig):
    rig.write(MASTER_MASK, 0x10)
    rig.high(4)
    assert not rig.pic.output
    assert rig.read(MASTER, READ_IRR) == 0x10
    rig.write(MASTER_MASK, 0)
    assert rig.pic.output


def test_fixed_priority_serves_the_lowest_number_first(rig):
    rig.high(7, 3, 0, 5)
    served = []
    while rig.pic.output:
        served.append(rig.pic.acknowledge())
        rig.write(MASTER, EOI)
    assert served == [0x20, 0x23, 0x25, 0x27]


def test_a_higher_level_interrupts_a_lower_and_not_reversely(rig):
    rig.high(4)
    rig.pic.acknowledge()
    rig.high(6)
    assert not rig.pic.output
    rig.low(4)
    rig.high(4)
    assert not rig.pic.output, "nor the level itself"
    rig.high(1)
    assert rig.pic.acknowledge() == 0x21
    rig.write(MASTER, EOI)
    assert rig.read(MASTER, READ_ISR) == 0x10, "a non-specific EOI ends the one of highest priority"


def test_specific_eoi(rig):
    rig.high(4)
    rig.pic.acknowledge()
    rig.high(1)
    rig.pic.acknowledge()
    rig.write(MASTER, SPECIFIC | 4)
    assert rig.read(MASTER, READ_ISR) == 0x02


def test_eoi_with_nothing_in_service_does_nothing(rig):
    rig.write(MASTER, EOI)
    rig.write(MASTER, ROTATE_EOI)
    rig.write(MASTER, 0x40)  # OCW2 without operation
    assert rig.pic.master.isr == 0
    assert rig.pic.master.lowest == 7


def test_rotation_on_non_specific_eoi_makes_the_served_level_lowest(rig):
    rig.high(4)
    rig.pic.acknowledge()
    rig.write(MASTER, ROTATE_EOI)
    rig.low(4)
    rig.high(4, 3, 5)
    served = []
    while rig.pic.output:
        served.append(rig.pic.acknowledge())
        rig.write(MASTER, EOI)
    assert served == [0x25, 0x23, 0x24]


def test_rotation_on_specific_eoi_and_set_priority(rig):
    rig.high(2 + 1)
    rig.pic.acknowledge()
    rig.write(MASTER, ROTATE_SPECIFIC | 3)
    assert (rig.pic.master.isr, rig.pic.master.lowest) == (0, 3)
    rig.write(MASTER, SET_PRIORITY | 5)
    rig.high(0, 6)
    assert rig.pic.acknowledge() == 0x26, "with 5 lowest, 6 is highest"


def test_auto_eoi_leaves_nothing_in_service():
    rig = Rig(icw4=0x03)
    rig.high(4, 6)
    assert [rig.pic.acknowledge(), rig.pic.acknowledge()] == [0x24, 0x26]
    assert rig.read(MASTER, READ_ISR) == 0
    assert rig.pic.master.lowest == 7


def test_rotation_in_auto_eoi_mode():
    rig = Rig(icw4=0x03)
    rig.write(MASTER, ROTATE_AUTO)
    rig.high(4)
    rig.pic.acknowledge()
    assert rig.pic.master.lowest == 4
    rig.write(MASTER, ROTATE_AUTO_OFF)
    rig.high(6)
    rig.pic.acknowledge()
    assert rig.pic.master.lowest == 4


def test_special_mask_mode_lets_lower_levels_through(rig):
    rig.high(3)
    rig.pic.acknowledge()
    rig.high(6)
    assert not rig.pic.output
    rig.write(MASTER_MASK, 0x08)
    assert not rig.pic.output, "masking alone does not end the blockade"
    rig.write(MASTER, SPECIAL_MASK)
    assert rig.pic.acknowledge() == 0x26
    rig.write(MASTER, EOI)
    assert rig.read(MASTER, READ_ISR) == 0x08, "a non-specific EOI spares the masked level"
    rig.write(MASTER, NORMAL_MASK)
    rig.write(MASTER, EOI)
    assert rig.read(MASTER, READ_ISR) == 0


def test_ocw3_without_esmm_leaves_the_mask_mode(rig):
    rig.write(MASTER, SPECIAL_MASK)
    rig.write(MASTER, 0x08)
    assert rig.pic.master.special_mask


def test_poll_acknowledges(rig):
    rig.high(5)
    assert rig.read(MASTER, POLL) == 0x85
    assert not rig.pic.output
    assert rig.read(MASTER, READ_ISR) == 0x20
    assert rig.read(MASTER, POLL) == 0, "5 blocks, nothing is pending"


def test_poll_of_the_slave(rig):
    rig.high(9, 12)
    assert rig.read(SLAVE, POLL) == 0x81
    assert rig.read(SLAVE, READ_ISR) == 0x02
    assert not rig.pic.output


def test_a_request_that_has_gone_is_spurious_level_7(rig):
    rig.high(4)
    rig.low(4)
    assert rig.pic.acknowledge() == 0x27
    assert rig.read(MASTER, READ_ISR) == 0, "and is not in service"


def test_a_slaves_request_that_has_gone_is_spurious_level_15(rig):
    rig.high(9)
    # The slave's request goes between the two INTA pulses: the master has latched its cascade line.
    rig.pic.slave.set_line(1, False)
    assert rig.pic.acknowledge() == 0x2F
    assert rig.pic.master.isr == 0x04, "the master must be sent an EOI, the slave not"
    assert rig.pic.slave.isr == 0


def test_the_slaves_lines_come_through_the_masters_line_2(rig):
    rig.high(12)
    assert rig.read(MASTER, READ_IRR) == 0x04
    assert rig.pic.pending_vector() == 0x2C
    assert rig.pic.acknowledge() == 0x2C
    assert rig.read(MASTER, READ_ISR) == 0x04
    assert rig.read(SLAVE, READ_ISR) == 0x10
    rig.high(3)
    assert not rig.pic.output, "line 2 outranks line 3"
    rig.write(SLAVE, EOI)
    rig.write(MASTER, EOI)
    assert rig.pic.acknowledge() == 0x23


def test_the_slave_ranks_between_lines_1_and_3(rig):
    rig.high(15, 3, 1, 8)
    served = []
    while rig.pic.output:
        served.append(rig.pic.acknowledge())
        rig.write(SLAVE, EOI)
        rig.write(MASTER, EOI)
    assert served == [0x21, 0x28, 0x2F, 0x23]


def test_masking_line_2_masks_the_slave(rig):
    rig.write(MASTER_MASK, 0x04)
    rig.high(8)
    assert not rig.pic.output
    rig.write(MASTER_MASK, 0)
    assert rig.pic.output
    rig.write(SLAVE_MASK, 0x01)
    assert not rig.pic.output


def test_a_slave_in_service_locks_itself_out_unless_specially_nested(rig):
    rig.high(12)
    rig.pic.acknowledge()
    rig.high(9)
    assert not rig.pic.output
    nested = Rig(icw4=0x11)
    nested.high(12)
    nested.pic.acknowledge()
    nested.high(9)
    assert nested.pic.acknowledge() == 0x29
    nested.high(14)
    assert not nested.pic.output, "the slave keeps its own priorities"


def test_a_slave_with_auto_eoi_makes_a_new_edge_for_each_request():
    rig = Rig(icw4=0x03, slave_icw4=0x03)
    rig.high(8, 9)
    assert [rig.pic.acknowledge(), rig.pic.output, rig.pic.acknowledge(), rig.pic.output] == [0x28, True, 0x29, False]


def test_output_changes_are_announced_once(rig):
    levels = []
    rig.pic.on_output = levels.append
    rig.high(4, 5)
    rig.low(4)
    rig.low(5)
    rig.low(5)
    assert levels == [True, False]


_actions = st.lists(
    st.one_of(
        st.tuples(st.just("line"), st.sampled_from([n for n in range(16) if n != 2]), st.booleans()),
        st.tuples(st.just("write"), st.integers(0, 3), st.integers(0, 255)),
        st.tuples(st.just("read"), st.integers(0, 3), st.none()),
        st.tuples(st.just("acknowledge"), st.none(), st.none()),
    ),
    max_size=30,
)


def act(pic, actions):
    trace = []
    for kind, place, value in actions:
        if kind == "line":
            pic.set_line(place, value)
        elif kind == "write":
            pic.write(place, 1, value)
        elif kind == "read":
            trace.append(pic.read(place, 1))
        else:
            trace.append(pic.acknowledge())
        trace.append(pic.output)
    return trace


@given(before=_actions, after=_actions)
def test_a_loaded_pair_goes_on_as_the_saved_one(before, after):
    pic = Rig().pic
    act(pic, before)
    other = Pic()
    other.load(pic.save())
    assert other.save() == pic.save()
    assert other.output == pic.output
    assert act(other, after) == act(pic, after)


@given(actions=_actions)
def test_registers_stay_bytes_and_the_prediction_holds(actions):
    pic = Rig().pic
    for action in actions:
        predicted = pic.pending_vector()
        result = act(pic, [action])
        if action[0] == "acknowledge" and predicted is not None:
            assert result[0] == predicted
        assert pic.output == (pic.pending_vector() is not None)
        for chip in (pic.master, pic.slave):
            assert all(0 <= value <= 255 for value in (chip.irr, chip.isr, chip.imr, chip.lines))


def test_damaged_states_are_refused_and_change_nothing(rig):
    good = rig.pic.save()
    for bad in (
        good | {"version": 9},
        good | {"slave": good["slave"] | {"isr": 256}},
        good | {"master": good["master"] | {"auto_eoi": 1}},
        good | {"master": {}},
        {"version": 1},
        None,
    ):
        with pytest.raises(StateError):
            rig.pic.load(bad)
    assert rig.pic.save() == good
