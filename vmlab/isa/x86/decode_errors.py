"""Bytes that are no instruction: what the decoder raises for them, and what the processor makes of it.

Where to read more: Intel SDM vol. 2, 2.3.11 (length); vol. 3, chapter 6 (#UD, #GP).
"""

from __future__ import annotations

__all__ = ["MAXIMUM_LENGTH", "DecodeError", "InvalidOpcode", "TooLong", "Truncated"]

MAXIMUM_LENGTH = 15
"""Bytes an instruction may have, prefixes included (SDM vol. 2, 2.3.11)."""


class DecodeError(Exception):
    """Bytes that are no instruction; the processor, not the user, did something wrong."""


class InvalidOpcode(DecodeError):  # noqa: N818 - named after the exception
    """The encoding is undefined: the processor raises #UD."""


class Truncated(DecodeError):  # noqa: N818 - says what the bytes are
    """More bytes are needed than were given."""


class TooLong(DecodeError):  # noqa: N818 - says what the bytes are
    """The instruction exceeds 15 bytes: the processor raises #GP(0)."""
