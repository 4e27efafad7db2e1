"""The monitor trap flag (SDM vol. 3, 25.5.2) and the VMX-preemption timer (25.5.1, 26.7.4)."""

from __future__ import annotations

import pytest

from tests.machine.vmx.arena import CODE, PRIMARY, SECONDARY, Arena
from tests.machine.vmx.test_exits import idt
from vmlab.isa.x86.faults import BP, DB, NMI, UD
from vmlab.isa.x86.registers import EAX, ECX, IF, TF
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.machine import Machine
from vmlab.machine.translator.engine import Engine
from vmlab.machine.turns import TURN
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.reasons import BasicReason as Reason

MTF = PRIMARY | c.MONITOR_TRAP_FLAG
PENDING_MTF = 1 << 31 | 7 << 8
TIMED = c.PIN_DEFAULT | c.PREEMPTION_TIMER
HANDLER = 0x11000
ENGINES = pytest.mark.parametrize("engine", [False, True])


def arena(code: str, model: str = "westmere", *, engine: bool = False) -> Arena:
    found = Arena(code, model)
    if engine:
        found.machine.engine = Engine()
    gate(found, UD)
    return found


def gate(found: Arena, vector: int) -> None:
    """Give the guest a handler for a vector."""
    found.write({getattr(f, name.upper()): value for name, value in idt(found, vector, HANDLER).items()})


def trapped(found: Arena, count: int, **fields: int) -> list[int]:
    """Return the RIPs of so many exits in a row, which must be the flag's."""
    places = []
    for n in range(count):
        before = found.cpu.retired
        reason, qualification = found.run(**(fields if not n else {}))
        assert (reason, qualification) == (Reason.MONITOR_TRAP_FLAG, 0)
        assert found.cpu.retired - before <= 1
        places.append(found.read(f.GUEST_RIP))
    return places


# -- the monitor trap flag -------------------------------------------------------------------------------------------------


@ENGINES
def test_one_instruction_at_a_time(engine):
    found = arena("mov ecx, 2\n again: dec ecx\n jnz again\n call near there\n there: sti\n nop\n cpuid", engine=engine)
    steps = [5, 6, 5, 6, 8, 13, 14, 15]
    assert trapped(found, len(steps), primary_controls=MTF) == [CODE + each for each in steps]
    assert found.run()[0] is Reason.CPUID  # which is an exit of its own
    assert found.read(f.EXIT_INTERRUPTION) == found.read(f.IDT_VECTORING) == 0


def test_each_element_of_a_repeated_string_instruction():
    found = arena("mov ecx, 3\n rep lodsb\n cpuid")
    assert trapped(found, 4, primary_controls=MTF) == [CODE + 5, CODE + 5, CODE + 5, CODE + 7]
    found = arena("rep lodsb\n cpuid")  # no element
    assert trapped(found, 1, primary_controls=MTF) == [CODE + 2]


def test_what_is_delivered_in_place_of_an_instruction():
    found = arena("ud2")
    assert trapped(found, 1, primary_controls=MTF) == [HANDLER]
    assert found.memory.read(found.read(f.GUEST_RSP), 4) == CODE
    found = arena("int3")
    gate(found, BP)
    assert trapped(found, 1, primary_controls=MTF) == [HANDLER]
    assert found.memory.read(found.read(f.GUEST_RSP), 4) == CODE + 1


def test_no_trap_behind_another_exit():
    found = arena("ud2")
    assert found.run(primary_controls=MTF, exception_bitmap=1 << UD)[0] is Reason.EXCEPTION_OR_NMI
    found = arena("ud2")  # its delivery needs a page that is not there
    found.ept.unmap(0)
    assert found.run(primary_controls=MTF)[0] is Reason.EPT_VIOLATION


def test_an_injected_event_is_trapped_after_its_delivery():
    found = arena("nop\n nop")
    for vector, kind in ((0x40, 0), (NMI, 2), (UD, 3), (0x41, 4)):
        gate(found, vector)
        fields = {"entry_interruption": 1 << 31 | kind << 8 | vector, "guest_rflags": IF | 2, "guest_rip": CODE}
        assert trapped(found, 1, primary_controls=MTF, entry_instruction_length=1, **fields) == [HANDLER]
        assert found.memory.read(found.read(f.GUEST_RSP), 4) == CODE + (kind == 4)


def test_an_interrupt_is_trapped_before_its_handler_begins():
    found = arena("nop\n nop")
    gate(found, 0x20)
    found.machine.counter_limit, found.machine.counter_vector = found.cpu.retired + 1, 0x20
    places = trapped(found, 2, primary_controls=MTF, guest_rflags=IF | 2)
    assert places == [CODE + 1, HANDLER]


@ENGINES
@pytest.mark.parametrize("halted", [0, 1])
def test_a_pending_trap_is_injected(halted, engine):
    """Whatever the control says; the guest stays as inactive as it was (26.6.2)."""
    found = arena("nop\n cpuid", engine=engine)
    assert trapped(found, 1, entry_interruption=PENDING_MTF, guest_activity=halted) == [CODE]
    assert found.read(f.GUEST_ACTIVITY) == halted
    assert not found.read(f.ENTRY_INTERRUPTION) >> 31
    assert found.run(guest_activity=0)[0] is Reason.CPUID


def test_a_halt_is_trapped_halted():
    found = arena("hlt")
    assert trapped(found, 1, primary_controls=MTF) == [CODE + 1]
    assert found.read(f.GUEST_ACTIVITY) == 1


def test_the_trap_comes_before_a_debug_trap():
    found = arena("nop\n nop")
    gate(found, DB)
    assert trapped(found, 1, primary_controls=MTF, guest_rflags=TF | 2) == [CODE + 1]
    assert found.read(f.GUEST_PENDING_DEBUG) == 1 << 14
    assert trapped(found, 1) == [HANDLER]
    assert found.memory.read(found.read(f.GUEST_RSP), 4) == CODE + 1


@pytest.mark.parametrize(("code", "blocking"), [("sti", 1), ("mov ss, bx", 2)])
def test_what_blocks_interrupts_does_not_block_it(code, blocking):
    found = arena(f"mov bx, 0x10\n {code}\n nop")
    found.memory.write(0x31010, 8, 0x00CF93000000FFFF)
    trapped(found, 2, primary_controls=MTF)
    assert found.read(f.GUEST_INTERRUPTIBILITY) == blocking


def test_a_write_to_the_virtual_apic_comes_first():
    found = arena("mov dword [0xFEE000F0], 0x1FF\n nop", "broadwell-ep")
    found.ept.map(0xFEE00000, 0x120000)
    shadow, pages = c.USE_TPR_SHADOW, {"virtual_apic_address": 0x121000, "apic_access_address": 0x120000}
    secondary = SECONDARY | c.VIRTUALIZE_APIC_ACCESSES | c.APIC_REGISTERS
    assert found.run(primary_controls=MTF | shadow, secondary_controls=secondary, **pages) == (Reason.APIC_WRITE, 0xF0)
    assert trapped(found, 1) == [CODE + 11]


# -- the VMX-preemption timer ----------------------------------------------------------------------------------------------

LOOP = "again: inc ecx\n add eax, ecx\n xor edx, eax\n jmp again"


def expected(stamp: int, value: int) -> int:
    """Count changes of the bit, one tick after the other."""
    end = stamp
    while value:
        value -= (end ^ end + 1) >> 5 & 1
        end += 1
    return end - stamp


@ENGINES
@pytest.mark.parametrize("value", [0, 1, 2, 100])
def test_the_timer_counts_each_32nd_instruction(value, engine):
    found = arena(LOOP, engine=engine)
    for extra in (0, 1, 17, 30, 31):
        found.machine.cpu.retired += extra
        before, stamp = found.cpu.retired, found.cpu.time_stamp()
        assert found.run(9999, pin_based_controls=TIMED, timer_value=value) == (Reason.PREEMPTION_TIMER, 0)
        assert found.cpu.retired - before == expected(stamp, value)
        assert found.read(f.TIMER_VALUE) == value  # it is not to be saved
    if value:
        assert found.cpu.registers[ECX] == -(-(found.cpu.retired - 79) // 4)


@ENGINES
def test_what_is_left_is_saved(engine):
    found = arena(f"mov ecx, 33\n wait: loop wait\n cpuid\n {LOOP}", engine=engine)
    ending = found.read(f.EXIT_CONTROLS) | c.SAVE_PREEMPTION_TIMER
    assert found.run(pin_based_controls=TIMED, exit_controls=ending, timer_value=5)[0] is Reason.CPUID
    assert (found.cpu.time_stamp(), found.read(f.TIMER_VALUE)) == (34, 4)
    rip = found.read(f.GUEST_RIP)
    assert found.run(9999, guest_rip=rip + 2)[0] is Reason.PREEMPTION_TIMER
    assert (found.cpu.time_stamp(), found.read(f.TIMER_VALUE)) == (160, 0)
    assert found.run()[0] is Reason.PREEMPTION_TIMER  # zero: at once
    assert found.cpu.time_stamp() == 160


def test_the_counter_that_the_host_has_set_is_counted_and_not_the_guests():
    found = arena(LOOP)
    found.cpu.write_msr(0x10, (1 << 64) - 20)
    fields = {"primary_controls": PRIMARY | c.USE_TSC_OFFSETTING, "tsc_offset": 13}
    assert found.run(9999, pin_based_controls=TIMED, timer_value=2, **fields)[0] is Reason.PREEMPTION_TIMER
    assert (found.cpu.retired, found.cpu.time_stamp()) == (52, 32)


@pytest.mark.parametrize("interrupts", [0, IF])
def test_it_runs_on_while_the_guest_sleeps(interrupts):
    found = arena("hlt\n cpuid")
    fields = {"timer_value": 1 << 20, "guest_rflags": interrupts | 2}
    assert found.run(pin_based_controls=TIMED, **fields)[0] is Reason.PREEMPTION_TIMER
    assert (found.cpu.ticks, found.cpu.retired) == (1 << 25, 1)
    assert (found.read(f.GUEST_ACTIVITY), found.read(f.GUEST_RIP)) == (1, CODE + 1)


@ENGINES
def test_an_interrupt_that_leads_out_of_a_guest_wakes_it(engine):
    """Whatever IF says: it is the VMM's (25.2), here before the timer comes."""
    found = arena("cli\n hlt", engine=engine)
    for port, value in (
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xFE),
        (0x43, 0x34),
        (0x40, 9),
        (0x40, 0),
    ):
        found.cpu.port_write(port, 1, value)
    pin = TIMED | c.EXTERNAL_INTERRUPT_EXITING
    assert found.run(pin_based_controls=pin, timer_value=1000)[0] is Reason.EXTERNAL_INTERRUPT
    assert found.read(f.GUEST_ACTIVITY) == 1
    assert found.cpu.ticks < 200
    assert found.run(pin_based_controls=pin & ~c.PREEMPTION_TIMER)[0] is Reason.EXTERNAL_INTERRUPT


def test_a_device_that_nobody_hears_does_not_hold_it_up():
    """A timer of the PC's that is masked asks for time again and again."""
    found = arena("hlt")
    found.cpu.port_write(0x43, 1, 0x34)
    for byte in (2, 0):
        found.cpu.port_write(0x40, 1, byte)
    assert found.run(pin_based_controls=TIMED, timer_value=1 << 20)[0] is Reason.PREEMPTION_TIMER
    assert found.cpu.ticks == 1 << 25


@pytest.mark.parametrize("end", [3200, 3520, 3776, 4192])
def test_other_processors_go_on_meanwhile(end):
    found = Arena("hlt")
    machine = Machine(found.machine.memory.size, CPU_MODELS["westmere"], processors=2)
    machine.memory.load(found.memory.save())
    first, second = found.cpu.save(), machine.cpus[1]
    machine.cpu.load(first)
    machine.host_entry, found.machine, found.cpu, found.vmx = (
        found.machine.host_entry,
        machine,
        machine.cpu,
        machine.cpu.vmx,
    )
    second.signals.waiting = second.halted = False
    second.signals._update()
    second.ip = 0x8000
    second.segments[1].set(0, 0, 0xFFFF, 0x9B, big=False)
    second.code_changed()
    machine.memory.write(0x8000, 2, 0xFEEB)  # jmp $
    assert found.enter(pin_based_controls=TIMED, timer_value=end // 32) == 0
    machine.run(20_000)
    assert machine.in_host
    assert Reason(found.read(f.EXIT_REASON)) is Reason.PREEMPTION_TIMER
    turn, own = end // TURN, not end // TURN & 1
    assert machine.cpu.ticks == (end if own else (turn + 1) * TURN)
    assert second.retired > end / 3


# -- what comes first ------------------------------------------------------------------------------------------------------


def test_an_injected_event_and_a_debug_trap_come_before_the_timer():
    found = arena("nop")
    gate(found, 0x40)
    timed = {"pin_based_controls": TIMED, "timer_value": 0}
    assert found.run(entry_interruption=1 << 31 | 0x40, guest_rflags=IF | 2, **timed)[0] is Reason.PREEMPTION_TIMER
    assert found.read(f.GUEST_RIP) == HANDLER
    found = arena("nop")
    gate(found, DB)
    assert found.run(guest_pending_debug=1 << 14, **timed)[0] is Reason.PREEMPTION_TIMER
    assert (found.read(f.GUEST_RIP), found.read(f.GUEST_PENDING_DEBUG)) == (HANDLER, 0)


def test_the_order_of_exits_at_one_boundary():
    """The monitor trap flag, the timer, the NMI window, an NMI (25.2, 25.5.2; table 6-2)."""
    found = arena("nop")
    found.cpu.signals.arrive_nmi()
    pin = TIMED | c.NMI_EXITING | c.VIRTUAL_NMIS
    primary, trap = PRIMARY | c.NMI_WINDOW_EXITING, {"entry_interruption": PENDING_MTF}
    assert found.run(pin_based_controls=pin, primary_controls=primary, **trap)[0] is Reason.MONITOR_TRAP_FLAG
    assert found.run()[0] is Reason.PREEMPTION_TIMER
    assert (
        found.run(pin_based_controls=pin & ~c.PREEMPTION_TIMER, primary_controls=PRIMARY)[0] is Reason.EXCEPTION_OR_NMI
    )


# -- capabilities, checks, saving ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "there"), [("prescott", 0), ("core-2", 0), ("westmere", 1), ("ice-lake", 1)])
def test_who_has_them(model, there):
    """Nehalem brought both: what comes before it refuses the controls (26.2.1.1, 26.2.1.2, 26.2.1.3)."""
    cpu = Arena("cpuid", model, turned_on=False).cpu
    assert cpu.read_msr(c.TRUE_PINBASED) >> 32 + 6 & 1 == there
    assert cpu.read_msr(c.PROCBASED) >> 32 + 27 & 1 == there
    assert cpu.read_msr(c.EXIT_CTLS) >> 32 + 22 & 1 == there
    assert cpu.read_msr(c.VMX_MISC) & 0x1F == 5 * there
    assert not cpu.read_msr(c.TRUE_PROCBASED) >> 27 & 1  # it need not be set


@pytest.mark.parametrize(
    "fields",
    [
        {"exit_controls": c.EXIT_DEFAULT | c.HOST_ADDRESS_SPACE_SIZE | c.SAVE_PREEMPTION_TIMER},  # without the timer
        {"entry_interruption": PENDING_MTF | 1},
        {"entry_interruption": PENDING_MTF | 1 << 11},
        {"entry_interruption": PENDING_MTF ^ 6 << 8},
    ],
)
def test_controls_that_no_entry_takes(fields):
    assert arena("cpuid").enter(**fields) == 7


def test_controls_that_an_older_processor_does_not_take():
    plain = {"secondary_controls": 0, "primary_controls": PRIMARY & ~c.ACTIVATE_SECONDARY}
    for fields in (
        {"primary_controls": plain["primary_controls"] | c.MONITOR_TRAP_FLAG},
        {"pin_based_controls": TIMED},
        {"entry_interruption": PENDING_MTF},
    ):
        assert Arena("cpuid", "core-2").enter(**(plain | fields)) == 7


def test_models_of_one_name_that_differ_in_features():
    """What a hypervisor shows of a model is less than the model: neither capabilities nor good controls are taken for its."""
    assert arena("cpuid").run(primary_controls=MTF)[0] is Reason.CPUID
    model = CPU_MODELS["westmere"].without("monitor-trap-flag")
    assert not c.allowed(model, c.TRUE_PROCBASED)[1] & c.MONITOR_TRAP_FLAG
    found = arena("cpuid")
    found.cpu.model = model
    assert found.enter(primary_controls=MTF) == 7


@pytest.mark.parametrize("steps", [1, 10, 200])
def test_saved_in_the_middle(steps):
    found = arena(LOOP)
    assert found.enter(pin_based_controls=TIMED, timer_value=9, entry_interruption=0) == 0
    found.machine.run(steps)
    other = arena("cpuid")
    other.machine.load(found.machine.save())
    other.memory.load(found.memory.save())
    assert other.machine.save() == found.machine.save()
    for each in (found, other):
        each.machine.run(9999)
        assert (each.read(f.EXIT_REASON), each.cpu.ticks) == (Reason.PREEMPTION_TIMER, 288)


def test_a_trap_that_is_pending_is_saved():
    found = arena("nop\n cpuid")
    assert found.enter(primary_controls=MTF) == 0
    found.machine.run(1)
    other = arena("nop\n cpuid")
    other.machine.load(found.machine.save())
    other.machine.run(1)
    assert other.read(f.EXIT_REASON) == Reason.MONITOR_TRAP_FLAG
    assert other.cpu.registers[EAX] == 0
