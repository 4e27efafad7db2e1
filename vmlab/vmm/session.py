"""A session at a guest's terminal: what is on the screen, what is typed, and the recording of both.

The session holds an open recording. `advance` records on, `press`, `type` and `paste` send keys at the cursor, `seek`
goes back to any instant; whoever types in the past begins another history there. The terminal is a function of what the
guest has sent up to the cursor.

A guest that waits for a key may halt for ever, sleep from one timer tick to the next, ask the serial port again and
again, or run an idle loop. `state` tells, by what can be seen from outside: the guest's time, its ports, its screen.

Simplified: arrows and function keys do not exist on the keyboard of the CGA screen, only characters do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.machine.clock import NOMINAL_HZ
from vmlab.machine.recordable import check_guest
from vmlab.machine.recording import Recording, check_count
from vmlab.machine.terminal import Terminal
from vmlab.machine.terminal_keys import encode_key, encode_paste

if TYPE_CHECKING:
    from vmlab.vmm.guest import Guest

__all__ = ["SCREENS", "Session"]

SCREENS = ("serial", "cga")
"""What a session shows: the serial port's terminal, or the CGA screen with its keyboard."""

CHARACTERS = {"Enter": "\n", "Backspace": "\b", "Tab": "\t", "Escape": "\x1b"}
LOOK = 10_000
"""Steps after which a guest is looked at again."""
SILENT = 2_000_000
"""Steps without a sign of life after which a guest may well wait for a key in an idle loop."""
ASLEEP = NOMINAL_HZ // 2
"""Units of the clock in which a guest has slept without a sign of life, after which the same is assumed."""
STATUS_PORTS = (0x3FD, 0x64)
"""Line status of the serial port, status of the keyboard controller: what a program reads that waits for a key."""
POLLS = 4
"""Looks in a row with nothing but such reads after which the same is assumed."""


class Session:
    r"""Someone at the terminal of one guest.

    Parameters
    ----------
    recording : Recording
        An open recording; its end is where the session goes on.
    guest : int
        Index of the guest.
    screen : {"serial", "cga"}
        What is looked at, and what is typed at.
    columns, rows : int
        Size of the serial terminal.

    Attributes
    ----------
    terminal : Terminal
        The serial terminal as it is at the cursor.

    Raises
    ------
    OptionError
        An option is not possible.

    Examples
    --------
    >>> import vmlab
    >>> image = vmlab.assemble('''
    ... start:  mov dx, 0x3fd
    ... .wait:  in al, dx
    ...         test al, 1
    ...         jz .wait
    ...         mov dx, 0x3f8
    ...         in al, dx
    ...         out dx, al
    ...         jmp start
    ... ''')
    >>> session = Session(vmlab.record(image, steps=0))
    >>> session.type("hello")
    >>> session.advance(1_000)
    1000
    >>> print(session.terminal.text)
    hello
    """

    def __init__(
        self, recording: Recording, *, guest: int = 0, screen: str = "serial", columns: int = 80, rows: int = 24
    ) -> None:
        if not isinstance(recording, Recording):
            raise OptionError(f"a session needs a Recording, from vmlab.record(...), not {type(recording).__name__}")
        guests = recording.system.guests
        check_guest(guest, len(guests))
        if screen not in SCREENS:
            raise OptionError(f"there is no screen {screen!r}: choose one of {', '.join(SCREENS)}")
        self.recording = recording
        self.index = guest
        self.screen = screen
        self.terminal = Terminal(columns, rows)
        self._quiet = self._slept = self._polls = 0
        recording.seek(recording.length)
        self.refresh()

    @property
    def guest(self) -> Guest:
        """The guest, as it is at the cursor."""
        guest: Guest = self.recording.system.guests[self.index]
        return guest

    # -- looking -----------------------------------------------------------------------------------------------------

    def refresh(self) -> bytes:
        """Show on the terminal what the guest has sent up to the cursor; return what the terminal answers."""
        self._place = self.recording.position
        return self.terminal.show(bytes(self.guest.platform.uart.output))

    @property
    def seconds(self) -> float:
        """The guest's time at the cursor, as its devices count it, in nominal seconds."""
        guest = self.guest
        guest.platform.now(guest.vcpu.retired)
        return guest.platform.clock.now / NOMINAL_HZ

    @property
    def asleep(self) -> float:
        """Seconds of it that the guest has slept."""
        return self.guest.platform.idle / NOMINAL_HZ

    @property
    def moved(self) -> bool:
        """True where someone else has moved the recording's cursor since the session was last at work."""
        return self.recording.position != self._place

    def resume(self) -> None:
        """Go to the recording's end, if someone else has moved its cursor."""
        if self.moved:
            self.seek(self.recording.length)

    @property
    def past(self) -> bool:
        """True where the cursor is not at the recording's end."""
        return self.recording.position < self.recording.length

    @property
    def polling(self) -> bool:
        """Whether the guest asks again and again for a key, and does nothing else."""
        return self._polls >= POLLS

    @property
    def silent(self) -> bool:
        """Whether the guest has run for long in its kernel without a sign of life: it idles, or it computes."""
        return self._quiet >= SILENT

    @property
    def state(self) -> str:
        """What the guest does at the recording's end: `running`, `silent`, `waiting` (for a key alone), or how it ended."""
        if not self.recording.ended:
            return "waiting" if self.polling or self._slept >= ASLEEP else "silent" if self.silent else "running"
        outcome = self.guest.outcome or "running"
        return "waiting" if outcome == "halt" and self.guest.vcpu.interruptible else outcome

    def describe(self) -> str:
        """Say in words what the session shows."""
        recording = self.recording
        where = f"step {recording.position:,} of {recording.length:,}, {self.state}"
        if self.screen == "serial":
            return f"{self.guest.name}: {where}\n{self.terminal.describe()}"
        return f"{self.guest.name}: {where}\nscreen of 80 × 25\n{self.guest.screen.rstrip()}"

    # -- going -------------------------------------------------------------------------------------------------------

    def advance(self, steps: int) -> int:
        """Go on: through what is recorded, and beyond its end by recording more.

        Parameters
        ----------
        steps : int
            How far, at most.

        Returns
        -------
        int
            How far it went; less where the guest has ended, or waits for a key with nothing else due.
        """
        recording = self.recording
        if self.past:
            start = recording.position
            done = recording.step(steps) - start
            self.refresh()
            return done
        platform = self.guest.platform
        signs, idle, polls = self._signs(), platform.idle, self._status_reads()
        done = recording.extend(steps)
        answer = self.refresh()
        if self._signs() != signs or self.guest.mode == "user":
            self._alive()
        else:
            self._quiet += done
            self._slept += platform.idle - idle
            self._polls = self._polls + 1 if (self._status_reads() - polls) * 20 > done > 0 else 0
        if answer and self.screen == "serial" and not recording.ended:
            self._send(answer)
        return done

    def advance_until_waiting(self, steps: int) -> int:
        """Go on for at most so many steps, and stop earlier where the guest has ended or waits for a key."""
        check_count(steps)
        self.resume()
        total = 0
        while total < steps and self.state == "running":
            done = self.advance(min(LOOK, steps - total))
            total += done
            if not done:
                break
        return total

    def _alive(self) -> None:
        """Note a sign of life."""
        self._quiet = self._slept = self._polls = 0

    def _status_reads(self) -> int:
        """Return how often the guest has asked whether there is a character for it."""
        accesses = self.guest.platform.bus.port_accesses
        return sum(accesses[port] for port in STATUS_PORTS)

    def _signs(self) -> tuple[int, int]:
        """Return what changes when a guest does something that can be seen."""
        platform = self.guest.platform
        return len(platform.uart.output), hash(bytes(platform.cga.data)) if self.screen == "cga" else 0

    def seek(self, step: int) -> None:
        """Go to an instant of the recording: OptionError where it has no such step."""
        self.recording.seek(step)
        self.refresh()

    def reset(self) -> None:
        """Switch the machine off and on: a new recording from the first one's start."""
        self.recording.seek(0)
        self.recording = Recording(self.recording.system, max_steps=0)
        self._alive()
        self.refresh()

    # -- typing ------------------------------------------------------------------------------------------------------

    def type(self, text: str) -> None:
        """Type a text at the cursor; newline is Enter. What was recorded behind the cursor is dropped.

        Raises
        ------
        OptionError
            The guest has ended, or there is no such key.
        """
        if not isinstance(text, str):
            raise OptionError(f"type() takes a str, not {type(text).__name__}")
        self._send(text.replace("\n", "\r") if self.screen == "serial" else text)

    def press(self, key: str, *, ctrl: bool = False, alt: bool = False, shift: bool = False) -> None:
        """Press a key, named as in `vmlab.machine.terminal_keys`.

        Raises
        ------
        OptionError
            The guest has ended, or there is no such key.
        """
        if self.screen == "serial":
            self._send(encode_key(key, ctrl=ctrl, alt=alt, shift=shift, application=self.terminal.application_keys))
            return
        if not isinstance(key, str):
            raise OptionError(f"a key is named by a str, as 'a' or 'Enter', not by {key!r}")
        character = CHARACTERS.get(key, key)
        if len(character) == 1:
            self._send(encode_key(character, ctrl=ctrl).decode() if ctrl else character)

    def paste(self, text: str) -> None:
        """Paste a text, as a terminal does."""
        if not isinstance(text, str):
            raise OptionError(f"paste() takes a str, not {type(text).__name__}")
        if self.screen == "serial":
            self._send(encode_paste(text, bracketed=self.terminal.bracketed_paste))
        else:
            self._send(text.replace("\r\n", "\n"))

    def _send(self, data: str | bytes) -> None:
        self.resume()
        self.recording.send(data, guest=self.index, device="serial" if self.screen == "serial" else "keyboard")
        self._alive()
