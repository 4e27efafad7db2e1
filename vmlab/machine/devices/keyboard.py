"""The keyboard of a PC and its controller, an 8042.

The controller passes the keyboard's bytes to the processor one at a time through its output buffer, translated from scan
code set 2 to set 1, raising IRQ 1; bytes written to port 0x60 go to the keyboard, which answers each. Commands to the
controller itself go to port 0x64. It has odd jobs besides: the A20 gate and the processor's reset line.

Bus ranges: port 0x60 (data, offset 0), port 0x64 (status and command, offset 1).

    status:         [ PARITY 7 | TIMEOUT 6 | AUX 5 | UNLOCKED 4 | COMMAND 3 | SYSTEM 2 | INPUT 1 | OUTPUT 0 ]
    configuration:  [ 0 | TRANSLATE 6 | AUX_OFF 5 | KEYBOARD_OFF 4 | 0 | SYSTEM 2 | AUX_IRQ 1 | KEYBOARD_IRQ 0 ]

What is to be typed later is typed at human speed: a character at a time, each a while after the one before has been read.

Simplified: bytes take no time on the wire, and typed text waits as long as it must. There is no mouse: what is sent to
it times out; its port can be tested and its output buffer written. No typematic repeat, no scan code set 3. Firmware
has enabled keyboard, IRQ 1 and translation, and left A20 on.

Read more: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller"; Intel UPI-41AH/42AH
data sheet, order number 210393.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vmlab.errors import OptionError
from vmlab.machine.clock import NOMINAL_HZ
from vmlab.machine.devices.keyboard_codes import BREAK, KEYS, TRANSLATION, press, release, strokes
from vmlab.machine.state import BYTE, COUNT, Items, check_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.bus import Bus
    from vmlab.machine.clock import Clock

__all__ = ["PACE", "Keyboard"]

PACE = NOMINAL_HZ // 100
"""Virtual time from the moment at which a typed character has been read to the next."""

DATA, COMMAND = 0, 1
OUTPUT_FULL, SYSTEM, LAST_COMMAND, UNLOCKED, AUX_DATA, TIMEOUT = 0x01, 0x04, 0x08, 0x10, 0x20, 0x40
KEYBOARD_IRQ, AUX_IRQ, KEYBOARD_OFF, AUX_OFF, TRANSLATE = 0x01, 0x02, 0x10, 0x20, 0x40
CONFIGURATION = TRANSLATE | AUX_OFF | SYSTEM | KEYBOARD_IRQ  # as firmware leaves it
RESET_LINE, A20_LINE = 0x01, 0x02  # of the output port; reset is active when low
OUTPUT_PORT = 0xCC | RESET_LINE | A20_LINE

# Commands that take their argument from a following write to port 0x60
WRITE_OUTPUT_PORT, WRITE_KEYBOARD_BUFFER, WRITE_AUX_BUFFER, WRITE_AUX = 0xD1, 0xD2, 0xD3, 0xD4
# The keyboard's answers
ACKNOWLEDGE, RESEND, TEST_PASSED, ECHO = 0xFA, 0xFE, 0xAA, 0xEE

_FIELDS: dict[str, Any] = {
    "ram": Items(BYTE, 32), "output_port": BYTE, "data": BYTE, "full": bool, "aux": bool, "timeout": bool,
    "command": BYTE, "last_command": bool, "broken": bool, "keyboard_command": BYTE, "scanning": bool,
    "scan_code_set": range(1, 3), "last_sent": BYTE,
}  # fmt: skip


class Keyboard:
    """The keyboard controller with a keyboard.

    Parameters
    ----------
    line : callable
        Drives IRQ 1.
    mouse_line : callable, optional
        Drives IRQ 12.
    clock : Clock, optional
        Virtual time, for `type_at`; the keyboard registers itself there.

    Attributes
    ----------
    on_reset : callable or None
        Called without arguments when the processor's reset line is pulsed.
    on_a20 : callable or None
        Called with the new level when the A20 gate changes.
    """

    __slots__ = (
        "_clock", "_due", "_from_keyboard", "_later", "_line", "_mouse_line", "_replies", "name", "on_a20", "on_reset",
        *_FIELDS,
    )  # fmt: skip

    def __init__(
        self,
        line: Callable[[bool], None],
        mouse_line: Callable[[bool], None] | None = None,
        name: str = "keyboard",
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self._line, self._mouse_line = line, mouse_line
        self.on_reset: Callable[[], object] | None = None
        self.on_a20: Callable[[bool], object] | None = None
        self.ram = [CONFIGURATION] + [0] * 31  # the controller's; byte 0 is the configuration
        self.output_port = OUTPUT_PORT
        self.data = self.command = self.keyboard_command = self.last_sent = 0
        self.full = self.aux = self.timeout = self.last_command = self.broken = False
        self.scanning = True
        self.scan_code_set = 2
        self._replies: list[int] = []  # of the controller; bit 8: for the mouse's interrupt
        self._from_keyboard = bytearray()  # set 2, on the wire
        self._later: list[tuple[int, bytes]] = []  # clock time at the earliest, codes
        self._due: int | None = None  # clock time of the first of these, once the wire is free
        self._clock = clock
        if clock is not None:
            clock.add(self)

    def attach(self, bus: Bus) -> None:
        """Claim a PC's standard ports."""
        bus.add_ports(self, 0x60, 1)
        bus.add_ports(self, 0x64, 1, offset=COMMAND)

    # -- typing ------------------------------------------------------------------------------------------------------

    def type_text(self, text: str) -> None:
        """Type a text on a US keyboard; newline is Enter, a control character Ctrl with its letter.

        Raises
        ------
        OptionError
            A character is not on the keyboard; nothing has been typed then.
        """
        self._scan(b"".join(_strokes(text)))

    def type_at(self, time: int, text: str) -> None:
        """Type a text from a clock time on, behind all that is to be typed already, a character each `PACE` at most.

        Raises
        ------
        OptionError
            A character is not on the keyboard, or the keyboard knows no time.
        """
        if self._clock is None:
            raise OptionError("this keyboard has no clock: type_text() types at once")
        self._later += [(time, codes) for codes in _strokes(text)]
        self._plan()

    def _plan(self) -> None:
        """Set the time of the next character, if there is one and the one before has been read."""
        if self._clock is None or self._due is not None or not self._later or self.full or self._from_keyboard:
            return
        self._due = max(self._later[0][0], self._clock.now + PACE)
        self._clock.refresh()

    def next_event(self) -> int | None:
        """Clock time of the next character."""
        return self._due

    def advance(self, now: int) -> None:
        """Type the character whose time has come."""
        if self._due is not None and self._due <= now:
            self._due = None
            self._scan(self._later.pop(0)[1])
            self._plan()  # where the keyboard has been told to be silent nobody will read it

    def press(self, key: str, *, down: bool = True) -> None:
        """Press a key of `keyboard_codes.KEYS` (or with `down=False` release it).

        Raises
        ------
        OptionError
            There is no such key.
        """
        if key not in KEYS:
            raise OptionError(
                f"no key {key!r}: choose one of {', '.join(sorted(name for name in KEYS if len(name) > 1))}"
            )
        self._scan(press(KEYS[key]) if down else release(KEYS[key]))

    def _scan(self, codes: bytes) -> None:
        """Send set 2 codes from the keyboard, in the set that the guest has chosen."""
        if not self.scanning:
            return
        if self.scan_code_set == 1:
            codes = bytes(self._translate_all(codes))
        self._from_keyboard += codes
        self._fill()

    @staticmethod
    def _translate_all(codes: bytes) -> list[int]:
        result, broken = [], 0
        for code in codes:
            if code == BREAK:
                broken = 0x80
            else:
                result.append(TRANSLATION[code] | broken)
                broken = 0
        return result

    # -- the output buffer -------------------------------------------------------------------------------------------

    @property
    def configuration(self) -> int:
        """The configuration ("command") byte."""
        return self.ram[0]

    def _fill(self) -> None:
        """Move the next byte into the output buffer if it is empty, and drive the interrupt lines."""
        if not self.full and self._replies:
            reply = self._replies.pop(0)
            self.data, self.aux, self.full = reply & 0xFF, bool(reply & 0x100), True
        while not self.full and self._from_keyboard and not self.configuration & KEYBOARD_OFF:
            code = self._from_keyboard.pop(0)
            if self.configuration & TRANSLATE:
                if code == BREAK:
                    self.broken = True
                    continue
                code = TRANSLATION[code] | (0x80 if self.broken else 0)
                self.broken = False
            self.data, self.aux, self.full = code, False, True
        self._line(self.full and not self.aux and bool(self.configuration & KEYBOARD_IRQ))
        if self._mouse_line is not None:
            self._mouse_line(self.full and self.aux and bool(self.configuration & AUX_IRQ))

    def _reply(self, value: int) -> None:
        self._replies.append(value)

    # -- ports -------------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read the output buffer or the status."""
        if offset == COMMAND:
            status = UNLOCKED | self.configuration & SYSTEM
            status |= OUTPUT_FULL if self.full else 0
            status |= AUX_DATA if self.full and self.aux else 0
            status |= LAST_COMMAND if self.last_command else 0
            return status | (TIMEOUT if self.timeout else 0)
        if self.full:
            self.full = False
            (self._mouse_line if self.aux and self._mouse_line else self._line)(False)  # the next byte is a new edge
            data = self.data
            self._fill()
            self._plan()
            return data
        return self.data

    def write(self, offset: int, size: int, value: int) -> None:
        """Write data or a command."""
        value &= 0xFF
        self.last_command = offset == COMMAND
        self.timeout = False
        if offset == COMMAND:
            self.command = 0
            self._command(value)
        elif self.command:
            command, self.command = self.command, 0
            self._argument(command, value)
        else:
            self.ram[0] &= ~KEYBOARD_OFF  # the controller drives the keyboard's clock to send to it
            self._to_keyboard(value)
        self._fill()

    # -- the controller's commands -----------------------------------------------------------------------------------

    def _command(self, value: int) -> None:
        if value in range(0x20, 0x40):
            self._reply(self.ram[value & 0x1F])
        elif value in range(0x60, 0x80) or value in range(WRITE_OUTPUT_PORT, WRITE_AUX + 1):
            self.command = value
        elif value >= 0xF0:
            if not value & RESET_LINE and self.on_reset is not None:
                self.on_reset()  # bits 3:0 that are 0 are pulsed
        elif value in self._REPLIES:
            self._reply(self._REPLIES[value])
            if value == 0xAA:
                self.ram[0] |= SYSTEM
        elif value == 0xD0:
            self._reply(self.output_port)
        elif value in self._SWITCHES:
            cleared, added = self._SWITCHES[value]
            self.ram[0] = self.ram[0] & ~cleared | added
        elif value in (0xDD, 0xDF):  # of some AT clones: A20 off and on
            self._set_output_port(self.output_port & ~A20_LINE | (A20_LINE if value == 0xDF else 0))

    def _argument(self, command: int, value: int) -> None:
        if command < 0x80:
            self.ram[command & 0x1F] = value
        elif command == WRITE_OUTPUT_PORT:
            self._set_output_port(value)
        elif command == WRITE_KEYBOARD_BUFFER:
            self._reply(value)
        elif command == WRITE_AUX_BUFFER:
            self._reply(value | 0x100)
        else:
            self.timeout = True  # no mouse answers
            self._reply(RESEND | 0x100)

    def _set_output_port(self, value: int) -> None:
        changed = self.output_port ^ value
        self.output_port = value
        if changed & A20_LINE and self.on_a20 is not None:
            self.on_a20(bool(value & A20_LINE))
        if not value & RESET_LINE and self.on_reset is not None:
            self.on_reset()

    # -- the keyboard's commands -------------------------------------------------------------------------------------

    def _to_keyboard(self, value: int) -> None:
        command, self.keyboard_command = self.keyboard_command, 0
        if command and value < 0xED:  # an argument, unless a new command comes instead
            self._keyboard_argument(command, value)
        elif value == RESEND:
            self._send(self.last_sent)
        elif value == ECHO:
            self._send(ECHO)
        elif value in (0xED, 0xF0, 0xF3):  # LEDs, scan code set, typematic rate
            self.keyboard_command = value
            self._send(ACKNOWLEDGE)
        elif value in self._ANSWERS:
            if value in (0xF5, 0xF6, 0xFF):
                self._from_keyboard.clear()  # what was typed and not taken
                self.scan_code_set = 2
            self.scanning = value != 0xF5
            self._send(*self._ANSWERS[value])
        else:
            self._send(RESEND)

    def _keyboard_argument(self, command: int, value: int) -> None:
        if command != 0xF0:
            self._send(ACKNOWLEDGE)
        elif value == 0:
            self._send(ACKNOWLEDGE, self.scan_code_set)
        elif value in (1, 2):
            self.scan_code_set = value
            self._send(ACKNOWLEDGE)
        else:
            self._send(RESEND)

    def _send(self, *values: int) -> None:
        """Answer before anything that was typed."""
        self.last_sent = values[-1]
        self._from_keyboard[:0] = bytes(values)

    _REPLIES: ClassVar = {0xA9: 0x00, 0xAA: 0x55, 0xAB: 0x00, 0xC0: 0x80}
    """Test of the mouse's port, self-test, test of the keyboard's port, input port."""
    _SWITCHES: ClassVar = {
        0xA7: (0, AUX_OFF), 0xA8: (AUX_OFF, 0), 0xAD: (0, KEYBOARD_OFF), 0xAE: (KEYBOARD_OFF, 0),
    }  # fmt: skip
    _ANSWERS: ClassVar = {
        0xF2: (ACKNOWLEDGE, 0xAB, 0x83),  # identify: an MF2 keyboard
        0xF4: (ACKNOWLEDGE,), 0xF5: (ACKNOWLEDGE,), 0xF6: (ACKNOWLEDGE,),
        0xFF: (ACKNOWLEDGE, TEST_PASSED),
    }  # fmt: skip

    # -- state -------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save controller and keyboard, with what was typed."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        later = [[time, list(codes)] for time, codes in self._later]
        queues = {
            "replies": list(self._replies),
            "from_keyboard": bytes(self._from_keyboard),
            "later": later,
            "due": self._due,
        }
        return {"version": 1} | fields | {"ram": list(self.ram)} | queues

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state; StateError if it is damaged."""
        queues = {
            "replies": Items(range(0x200)),
            "from_keyboard": bytes,
            "later": Items(Items((COUNT, Items(BYTE)), 2)),
        }
        check_state(state, self.name, _FIELDS | queues | {"due": (COUNT, type(None))})
        for each in state["later"]:
            check_state(
                {"version": 1, "time": each[0], "codes": each[1]}, self.name, {"time": COUNT, "codes": Items(BYTE)}
            )
        for name in _FIELDS:
            setattr(self, name, state[name])
        self.ram = list(state["ram"])
        self._replies = list(state["replies"])
        self._from_keyboard[:] = state["from_keyboard"]
        self._later = [(time, bytes(codes)) for time, codes in state["later"]]
        self._due = state["due"]
        if self._clock is not None:
            self._clock.refresh()


def _strokes(text: str) -> list[bytes]:
    """Return what the keyboard sends for each character of a text."""
    if not isinstance(text, str):
        raise OptionError(f"a keyboard types a str, not {type(text).__name__}")
    typed = []
    for character in text:
        codes = strokes(character)
        if codes is None:
            raise OptionError(f"no key of a US keyboard types {character!r}: use ASCII, or feed the serial port")
        typed.append(codes)
    return typed
