"""The local APIC, rule by rule from the SDM's chapter on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmlab.errors import OptionError, StateError
from vmlab.machine.bus import Bus
from vmlab.machine.clock import Clock
from vmlab.machine.devices.apic_bus import ApicBus, Delivery, Message
from vmlab.machine.devices.apic_timer import BUS_TICKS_PER_INSTRUCTION as RATE
from vmlab.machine.devices.local_apic import LocalApic
from vmlab.machine.devices.pic import Pic
from vmlab.machine.memory import PhysicalMemory

BASE = 0xFEE00000
ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
TIMER, THERMAL, PERFORMANCE, LINT0, LINT1, ERROR = range(0x320, 0x380, 0x10)
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
MASKED, PERIODIC, LEVEL, REMOTE_IRR = 1 << 16, 1 << 17, 1 << 15, 1 << 14
BY_1 = 0xB


class Rig:
    """Processors' local APICs on a bus, software-enabled; `signals` are INIT, STARTUP, NMI and SMI as they came."""

    def __init__(self, count=1, enable=True):
        self.clock = Clock()
        self.bus = Bus(PhysicalMemory(1 << 16))
        self.messages = ApicBus()
        self.messages.attach(self.bus)
        self.signals, self.ended = [], []
        self.pic = Pic()
        self.apics = [
            LocalApic(self.clock, self.messages, n, bootstrap=n == 0, external=self.pic) for n in range(count)
        ]
        self.messages.on_end.append(self.ended.append)
        for n, apic in enumerate(self.apics):
            apic.on_init = lambda n=n: self.signals.append((n, "init"))
            apic.on_nmi = lambda n=n: self.signals.append((n, "nmi"))
            apic.on_smi = lambda n=n: self.signals.append((n, "smi"))
            apic.on_startup = lambda vector, n=n: self.signals.append((n, vector))
            if enable:
                self.write(SVR, 0x1FF, n)

    @property
    def apic(self):
        return self.apics[0]

    def read(self, register, processor=0, size=4):
        self.messages.current = processor
        return self.bus.read(BASE + register, size)

    def write(self, register, value, processor=0):
        self.messages.current = processor
        self.bus.write(BASE + register, 4, value)

    def run(self, now):
        while self.clock.deadline is not None and self.clock.deadline <= now:
            assert self.clock.deadline > self.clock.now
            self.clock.now = self.clock.deadline
            self.clock.service()
        self.clock.now = now

    def pending(self):
        return [apic.pending_vector() for apic in self.apics]

    def use_pic(self):
        for port, value in (
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0xA0, 0x11),
            (0xA1, 0x28),
            (0xA1, 2),
            (0xA1, 1),
        ):
            self.pic.write(port & 1 | (2 if port & 0x80 else 0), 1, value)
        self.pic.on_output = self.apic.set_lint0


@pytest.fixture
def rig():
    return Rig()


# -- registers after reset ---------------------------------------------------------------------------------------------


def test_registers_after_power_up():
    rig = Rig(2, enable=False)
    for processor in (0, 1):
        values = {register: rig.read(register, processor) for register in range(0, 0x400, 0x10) if register != ESR}
        expected = {ID: processor << 24, VERSION: 0x50014, DFR: 0xFFFFFFFF, SVR: 0xFF} | dict.fromkeys(
            range(TIMER, ERROR + 0x10, 0x10), MASKED
        )
        assert {register: value for register, value in values.items() if value or register == ID} == expected
    assert rig.apics[0].base == 0xFEE00900
    assert rig.apics[1].base == 0xFEE00800


def test_each_processor_sees_its_own_registers_at_the_same_address():
    rig = Rig(3)
    rig.write(TPR, 0x50, 2)
    assert [rig.read(TPR, n) for n in range(3)] == [0, 0, 0x50]
    assert [rig.read(ID, n) >> 24 for n in range(3)] == [0, 1, 2]


def test_parts_are_read_but_not_written(rig):
    rig.write(LDR, 0xAB000000)
    assert rig.read(LDR + 3, size=1) == 0xAB
    assert rig.read(LDR + 2, size=2) == 0xAB00
    assert rig.read(LDR + 4) == 0
    rig.bus.write(BASE + LDR + 3, 1, 0)
    rig.bus.write(BASE + LDR + 4, 4, 0)
    assert rig.read(LDR) == 0xAB000000


def test_read_only_registers_and_reserved_bits(rig):
    for register in (VERSION, PPR, ISR, TMR, IRR, CURRENT):
        before = rig.read(register)
        rig.write(register, 0xFFFFFFFF)
        assert rig.read(register) == before
    written = {
        LDR: 0xFF000000, DFR: 0xFFFFFFFF, TPR: 0xFF, SVR: 0x3FF, ICR_HIGH: 0xFF000000, TIMER: 0x300FF, THERMAL: 0x107FF,
        PERFORMANCE: 0x107FF, LINT0: 0x1A7FF, LINT1: 0x1A7FF, ERROR: 0x100FF, DIVIDE: 0xB, INITIAL: 0xFFFFFFFF,
    }  # fmt: skip
    for register, value in written.items():
        rig.write(register, 0xFFFFFFFF)
        assert rig.read(register) == value


def test_two_local_apics_need_two_identifiers():
    rig = Rig()
    with pytest.raises(OptionError, match="identifier 0"):
        LocalApic(rig.clock, rig.messages, 0)
    for bad in (-1, 255, "1", None):
        with pytest.raises(OptionError, match="0 to 254"):
            LocalApic(rig.clock, rig.messages, bad)


# -- priority ----------------------------------------------------------------------------------------------------------


def test_a_fixed_interrupt_goes_through_irr_and_isr(rig):
    levels = []
    rig.apic.on_output = levels.append
    assert rig.apic.deliver(Delivery.FIXED, 0x45)
    assert rig.read(IRR + 0x20) == 1 << 5
    assert levels == [True]
    assert rig.apic.pending_vector() == 0x45
    assert rig.apic.acknowledge() == 0x45
    assert rig.read(IRR + 0x20) == 0
    assert rig.read(ISR + 0x20) == 1 << 5
    assert levels == [True, False]
    rig.write(EOI, 0)
    assert rig.read(ISR + 0x20) == 0
    assert rig.ended == []


def test_a_higher_class_preempts_an_equal_one_waits(rig):
    rig.apic.deliver(Delivery.FIXED, 0x51)
    rig.apic.acknowledge()
    assert rig.read(PPR) == 0x50
    rig.apic.deliver(Delivery.FIXED, 0x5F)
    assert not rig.apic.output
    rig.apic.deliver(Delivery.FIXED, 0x60)
    assert rig.apic.acknowledge() == 0x60
    assert rig.read(PPR) == 0x60
    rig.write(EOI, 0)
    assert not rig.apic.output
    rig.write(EOI, 0)
    assert rig.apic.acknowledge() == 0x5F


def test_task_priority_holds_back_its_class_and_those_below(rig):
    rig.apic.deliver(Delivery.FIXED, 0x4F)
    rig.write(TPR, 0x40)
    assert not rig.apic.output
    rig.write(TPR, 0x3F)
    assert rig.apic.output
    rig.apic.set_tpr(0x47)
    assert rig.read(PPR) == 0x47
    assert not rig.apic.output
    rig.apic.set_tpr(0)
    rig.apic.acknowledge()
    rig.write(TPR, 0x42)
    assert rig.read(PPR) == 0x42, "of equal classes TPR, with its subclass"
    rig.write(TPR, 0x32)
    assert rig.read(PPR) == 0x40


def test_an_acknowledgement_without_a_request_is_spurious(rig):
    rig.apic.deliver(Delivery.FIXED, 0x30)
    rig.write(TPR, 0xF0)
    assert rig.apic.acknowledge() == 0xFF
    assert rig.read(ISR + 0x70) == 0, "the spurious vector is not in service"
    assert rig.read(IRR + 0x10) == 1 << 16


def test_an_interrupt_is_merged_with_one_that_waits_and_kept_beside_one_in_service(rig):
    for _ in range(2):
        assert rig.apic.deliver(Delivery.FIXED, 0x33)
    rig.apic.acknowledge()
    assert not rig.apic.output
    rig.apic.deliver(Delivery.FIXED, 0x33)
    rig.write(EOI, 0)
    assert rig.apic.acknowledge() == 0x33


def test_the_end_of_a_level_triggered_interrupt_is_broadcast(rig):
    rig.apic.deliver(Delivery.FIXED, 0x61, level=True)
    assert rig.read(TMR + 0x30) == 2
    rig.apic.acknowledge()
    rig.write(EOI, 0)
    assert rig.ended == [0x61]
    rig.apic.deliver(Delivery.FIXED, 0x61)
    assert rig.read(TMR + 0x30) == 0


def test_an_eoi_without_an_interrupt_in_service_does_nothing(rig):
    rig.write(EOI, 0)
    assert rig.ended == []


def test_software_disable_masks_the_lvt_and_refuses_fixed_interrupts(rig):
    rig.write(TIMER, 0x40)
    rig.apic.deliver(Delivery.FIXED, 0x50)
    rig.write(SVR, 0xFF)
    assert rig.read(TIMER) == MASKED | 0x40
    rig.write(TIMER, 0x41)
    assert rig.read(TIMER) == MASKED | 0x41
    assert not rig.apic.deliver(Delivery.FIXED, 0x60)
    assert rig.apic.acknowledge() == 0x50, "what was pending is held"
    assert rig.apic.deliver(Delivery.NMI, 0)
    assert rig.signals == [(0, "nmi")]


def test_illegal_vectors_and_registers_are_errors(rig):
    rig.write(ERROR, 0x77)
    assert not rig.apic.deliver(Delivery.FIXED, 15)
    assert rig.apic.acknowledge() == 0x77
    rig.write(EOI, 0)
    assert rig.read(ESR) == 0, "shown after a write"
    rig.write(ICR, 0x40000 | 3)
    rig.read(0x3F0)
    rig.write(0x60, 1)
    rig.write(ESR, 0)
    assert rig.read(ESR) == 0xE0
    rig.write(ESR, 0)
    assert rig.read(ESR) == 0


def test_an_illegal_error_vector_ends(rig):
    rig.write(ERROR, 3)
    rig.apic.deliver(Delivery.FIXED, 1)
    rig.write(ESR, 0)
    assert rig.read(ESR) == 0x40


# -- INIT, STARTUP, NMI, and interprocessor interrupts -------------------------------------------------------------------


def test_init_resets_all_but_the_identifier(rig):
    rig.write(ID, 0x05000000)
    rig.write(TPR, 0x20)
    rig.write(INITIAL, 1000)
    rig.apic.deliver(Delivery.FIXED, 0x99)
    assert rig.apic.deliver(Delivery.INIT, 0)
    assert rig.signals == [(0, "init")]
    assert rig.read(ID) == 0x05000000
    assert (rig.read(TPR), rig.read(SVR), rig.read(INITIAL), rig.read(IRR + 0x40)) == (0, 0xFF, 0, 0)
    assert not rig.apic.output


def test_init_and_startup_start_a_processor():
    rig = Rig(2)
    rig.write(ICR_HIGH, 1 << 24)
    rig.write(ICR, 0x0000C500)
    rig.write(ICR, 0x00008500)  # de-assert: nobody acts on it
    rig.write(ICR, 0x00000607)
    assert rig.signals == [(1, "init"), (1, 7)]
    assert rig.read(ICR) & 0x1000 == 0, "delivery status is idle"


@pytest.mark.parametrize(
    ("shorthand", "expected"),
    [(0, [None, 0x40, None]), (1, [0x40, None, None]), (2, [0x40, 0x40, 0x40]), (3, [None, 0x40, 0x40])],
)
def test_shorthands(shorthand, expected):
    rig = Rig(3)
    rig.write(ICR_HIGH, 1 << 24)
    rig.write(ICR, shorthand << 18 | 0x4040)
    assert rig.pending() == expected


@pytest.mark.parametrize("shorthand", [1, 2])
@pytest.mark.parametrize("mode", [1, 2, 4, 5, 6])
def test_the_sender_can_send_itself_only_fixed_interrupts_by_shorthand(shorthand, mode):
    rig = Rig(2)
    rig.write(ICR, shorthand << 18 | mode << 8 | 0x40)
    assert rig.signals == []
    assert rig.pending() == [None, None]


def test_nmi_and_smi_to_the_others():
    rig = Rig(3)
    rig.write(ICR, 0xC0400, 1)
    rig.write(ICR, 0xC0200, 1)
    assert rig.signals == [(0, "nmi"), (2, "nmi"), (0, "smi"), (2, "smi")]


def test_physical_destinations():
    rig = Rig(3)
    rig.write(ID, 0x42000000, 2)
    assert rig.messages.send(Message(Delivery.FIXED, 0x30, 0x42))
    assert rig.messages.send(Message(Delivery.FIXED, 0x31, 0xFF))
    assert not rig.messages.send(Message(Delivery.FIXED, 0x32, 9))
    assert [apic.irr.bit_count() for apic in rig.apics] == [1, 1, 2]


def test_logical_flat_destinations():
    rig = Rig(3)
    for n in range(3):
        rig.write(LDR, 1 << 24 + n, n)
    rig.write(ICR_HIGH, 0x05 << 24)
    rig.write(ICR, 0x4840)
    assert rig.pending() == [0x40, None, 0x40]
    assert not rig.messages.send(Message(Delivery.FIXED, 0x50, 0x08, logical=True))


def test_logical_cluster_destinations():
    rig = Rig(3)
    for n, name in enumerate((0x11, 0x12, 0x21)):
        rig.write(DFR, 0, n)
        rig.write(LDR, name << 24, n)
    rig.messages.send(Message(Delivery.FIXED, 0x40, 0x13, logical=True))
    assert rig.pending() == [0x40, 0x40, None]
    rig.messages.send(Message(Delivery.FIXED, 0x50, 0xF1, logical=True))
    assert rig.pending() == [0x50, 0x40, 0x50]


def test_lowest_priority_takes_the_least_busy():
    rig = Rig(3)
    rig.write(TPR, 0x30, 0)
    rig.write(TPR, 0x20, 1)
    rig.write(TPR, 0x20, 2)
    assert rig.messages.send(Message(Delivery.LOWEST_PRIORITY, 0x80, 0xFF))
    assert rig.pending() == [None, 0x80, None]
    rig.write(SVR, 0xFF, 1)
    rig.messages.send(Message(Delivery.LOWEST_PRIORITY, 0x90, 0xFF))
    assert rig.pending() == [None, 0x80, 0x90]


def test_reserved_modes_reach_nobody(rig):
    assert not rig.apic.deliver(3, 0x40)
    rig.write(ICR, 0x4340)
    rig.write(ICR, 0x4740)
    assert rig.pending() == [None]


# -- pins --------------------------------------------------------------------------------------------------------------


def test_virtual_wire_lets_the_pic_through(rig):
    rig.use_pic()
    rig.apic.virtual_wire()
    rig.pic.set_line(4, True)
    assert rig.apic.output
    assert rig.apic.pending_vector() == 0x24
    assert rig.apic.acknowledge() == 0x24
    assert not rig.apic.output
    assert rig.apic.isr == 0, "the PIC keeps account of it"


def test_extint_is_not_subject_to_priority_and_goes_first(rig):
    rig.use_pic()
    rig.write(LINT0, 0x700)
    rig.write(TPR, 0xFF)
    rig.apic.deliver(Delivery.FIXED, 0xE0)
    rig.pic.set_line(1, True)
    assert rig.apic.acknowledge() == 0x21
    assert not rig.apic.output


def test_a_masked_lint0_keeps_the_pic_out(rig):
    rig.use_pic()
    rig.pic.set_line(1, True)
    assert not rig.apic.output
    rig.write(LINT0, 0x700)
    assert rig.apic.output
    rig.write(LINT0, MASKED | 0x700)
    assert not rig.apic.output


def test_a_globally_disabled_apic_is_not_there(rig):
    rig.use_pic()
    rig.write(TPR, 0x10)
    rig.apic.set_base(0)
    assert rig.read(TPR) == 0xFFFFFFFF
    rig.write(SVR, 0x1FF)
    rig.pic.set_line(3, True)
    assert rig.apic.acknowledge() == 0x23, "LINT0 is the INTR pin"
    rig.apic.set_lint1(True)
    assert rig.signals == [(0, "nmi")], "LINT1 is the NMI pin"
    assert not rig.messages.send(Message(Delivery.FIXED, 0x40, 0xFF))
    rig.apic.set_base(0xFEE00900)
    assert (rig.read(TPR), rig.read(SVR)) == (0, 0xFF)


def test_an_extint_message_is_answered_by_the_pic(rig):
    rig.use_pic()
    rig.pic.set_line(5, True)
    assert not rig.apic.output
    rig.apic.deliver(Delivery.EXTINT, 0)
    assert rig.apic.acknowledge() == 0x25
    assert not rig.apic.output


def test_an_edge_at_lint1_is_an_nmi_once(rig):
    rig.write(LINT1, 0x400)
    for level in (True, True, False, True):
        rig.apic.set_lint1(level)
    assert rig.signals == [(0, "nmi")] * 2


def test_fixed_edge_and_level_at_lint0(rig):
    rig.write(LINT0, 0x35)
    rig.apic.set_lint0(True)
    assert rig.apic.acknowledge() == 0x35
    rig.write(EOI, 0)
    assert not rig.apic.output, "one edge, one interrupt"
    rig.write(LINT0, LEVEL | 0x36)
    assert rig.read(LINT0) == LEVEL | REMOTE_IRR | 0x36
    assert rig.apic.acknowledge() == 0x36
    assert not rig.apic.output
    rig.write(EOI, 0)
    assert rig.apic.acknowledge() == 0x36, "still asserted"
    rig.apic.set_lint0(False)
    rig.write(EOI, 0)
    assert not rig.apic.output
    assert rig.read(LINT0) == LEVEL | 0x36


# -- timer -------------------------------------------------------------------------------------------------------------


def test_one_shot(rig):
    rig.write(DIVIDE, BY_1)
    rig.write(TIMER, 0x40)
    rig.write(INITIAL, 100 * RATE)
    rig.run(60)
    assert rig.read(CURRENT) == 40 * RATE
    assert not rig.apic.output
    rig.run(99)
    assert not rig.apic.output
    rig.run(100)
    assert rig.apic.acknowledge() == 0x40
    rig.write(EOI, 0)
    assert rig.read(CURRENT) == 0
    rig.run(1000)
    assert not rig.apic.output
    assert rig.clock.deadline is None


def test_periodic(rig):
    rig.write(DIVIDE, BY_1)
    rig.write(TIMER, PERIODIC | 0x40)
    rig.write(INITIAL, 10 * RATE)
    times = []
    while len(times) < 4:
        rig.run(rig.clock.now + 1)
        if rig.apic.output:
            times.append(rig.clock.now)
            rig.apic.acknowledge()
            rig.write(EOI, 0)
    assert times == [10, 20, 30, 40]
    rig.write(INITIAL, 0)
    assert rig.clock.deadline is None


@pytest.mark.parametrize(("divide", "divisor"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
def test_divisors(rig, divide, divisor):
    rig.write(DIVIDE, divide)
    rig.write(TIMER, 0x40)
    rig.write(INITIAL, RATE)
    assert rig.clock.deadline == divisor
    rig.run(divisor)
    assert rig.apic.output


def test_a_masked_timer_counts_and_makes_no_interrupt(rig):
    rig.write(DIVIDE, BY_1)
    rig.write(TIMER, MASKED | PERIODIC | 0x40)
    rig.write(INITIAL, 10 * RATE)
    assert rig.clock.deadline is None
    rig.run(25)
    assert rig.read(CURRENT) == 5 * RATE
    rig.write(TIMER, PERIODIC | 0x40)
    assert not rig.apic.output, "what expired under the mask is lost"
    assert rig.clock.deadline == 30


def test_a_new_divisor_takes_effect_from_the_current_count(rig):
    rig.write(DIVIDE, BY_1)
    rig.write(TIMER, 0x40)
    rig.write(INITIAL, 100 * RATE)
    rig.run(50)
    rig.write(DIVIDE, 0)
    assert rig.read(CURRENT) == 50 * RATE
    assert rig.clock.deadline == 150


def test_a_short_period_makes_one_interrupt_a_unit_of_time(rig):
    rig.write(DIVIDE, BY_1)
    rig.write(TIMER, PERIODIC | 0x40)
    rig.write(INITIAL, 1)
    rig.run(5)
    assert rig.clock.deadline is None, "nothing new as long as one is pending"
    rig.apic.acknowledge()
    assert rig.clock.deadline == 6


def test_the_count_does_not_depend_on_when_it_is_looked_at():
    seldom, often = Rig(), Rig()
    for rig in (seldom, often):
        rig.write(DIVIDE, 0)
        rig.write(TIMER, MASKED | PERIODIC)
        rig.write(INITIAL, 77)
    for now in range(1, 500, 3):
        often.run(now)
        often.read(CURRENT)
    seldom.run(now)
    assert seldom.read(CURRENT) == often.read(CURRENT)


# -- saving ------------------------------------------------------------------------------------------------------------

_vectors = st.integers(0, 255)
_actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from([*range(0x20, 0x400, 0x10)]), st.integers(0, 0xFFFFFFFF)),
        st.tuples(st.just("write"), st.sampled_from([SVR]), st.just(0x1FF)),
        st.tuples(st.just("write"), st.sampled_from([TIMER]), st.sampled_from([0x40, PERIODIC | 0x41, MASKED])),
        st.tuples(st.just("write"), st.just(INITIAL), st.integers(0, 300)),
        st.tuples(st.just("read"), st.sampled_from([*range(0, 0x400, 0x10)])),
        st.tuples(st.just("deliver"), st.sampled_from([0, 1, 4, 7]), _vectors, st.booleans()),
        st.tuples(st.just("lint"), st.booleans(), st.booleans()),
        st.tuples(st.just("acknowledge")),
        st.tuples(st.just("run"), st.integers(1, 100)),
    ),
    max_size=30,
)


def act(rig, actions):
    results = []
    apic = rig.apic
    for name, *values in actions:
        if name == "write":
            rig.write(*values)
        elif name == "read":
            results.append(rig.read(*values))
        elif name == "deliver":
            apic.deliver(values[0], values[1], level=values[2])
        elif name == "lint":
            apic.set_lint0(values[0])
            apic.set_lint1(values[1])
        elif name == "acknowledge":
            results.append(apic.acknowledge())
        else:
            rig.run(rig.clock.now + values[0])
        results.append((apic.output, apic.pending_vector()))
    return results


@given(before=_actions, after=_actions)
def test_a_loaded_apic_goes_on_as_the_saved_one(before, after):
    rig, other = Rig(), Rig(enable=False)
    act(rig, before)
    other.clock.load(rig.clock.save())
    other.messages.load(rig.messages.save())
    assert act(other, after) == act(rig, after)
    assert other.messages.save() == rig.messages.save()


@given(actions=_actions)
def test_output_says_that_a_vector_is_pending(actions):
    rig = Rig()
    levels = [False]
    rig.apic.on_output = levels.append
    for action in actions:
        act(rig, [action])
        assert levels[-1] == rig.apic.output
        if not rig.apic.lint0 and not rig.apic.external_request:
            assert rig.apic.output == (rig.apic.pending_vector() is not None)


def test_damaged_states_are_refused_and_change_nothing():
    rig = Rig(2)
    rig.write(TIMER, 0x40, 1)
    rig.write(INITIAL, 500, 1)
    good = rig.messages.save()
    second = good["local_apics"][1]
    for change in (
        {"version": 2}, {"tpr": 256}, {"irr": 1 << 256}, {"base": 0}, {"lvt": [0] * 5}, {"lvt": [1 << 18] * 6}, {"x": 1},
        {"timer": second["timer"] | {"divide": 4}}, {"timer": second["timer"] | {"count": -1}}, {"lint0": 1},
    ):  # fmt: skip
        with pytest.raises(StateError, match=r"APIC|apic"):
            rig.messages.load(good | {"local_apics": [good["local_apics"][0] | {"tpr": 0x30}, second | change]})
        assert rig.messages.save() == good
    for change in ({"current": 2}, {"local_apics": [second]}, {"version": 0}):
        with pytest.raises(StateError, match="local-apics"):
            rig.messages.load(good | change)
    assert rig.messages.save() == good
