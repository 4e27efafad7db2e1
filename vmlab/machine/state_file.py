"""Saved state as a file: plain data in, plain data out, and nothing else.

Not Python's pickle: reading a file runs no code, whoever wrote it. What is read is what was written, or an error: a
checksum covers every byte, the parts name their own lengths, and the whole is written beside the file and then put in its
place, so that there is never half of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

from vmlab.errors import StateError

__all__ = ["MAGIC", "is_state_file", "read_state_file", "write_state_file"]

# A file:
#   0   8  magic, which a transfer as text would break
#   8   4  version of this format, little-endian
#  12   8  bytes of the body before compression, little-endian
#  20  32  SHA-256 of everything else
#  52   …  body, compressed by zlib
MAGIC = b"\x89vmlab\r\n"
VERSION = 1
HEAD = struct.Struct("<8sIQ")
DIGEST_BYTES = 32
LARGEST = 4 << 30
"""Bytes of the largest body."""
DEEPEST = 40
"""Lists and dicts inside each other, at most."""
LEVEL = 3

# The body is one value. A value is a tag and what follows it; lengths are little-endian numbers of 4 bytes:
#   N T F  None, True, False
#   I      int: length, then that many bytes, little-endian, signed
#   S B    str as UTF-8, bytes: length, then the bytes
#   L D    list, dict: count, then the values; of a dict a key and a value by turns
LENGTH = struct.Struct("<I")


def _encode(value: object, out: list[bytes]) -> None:
    if value is None or value is True or value is False:
        out.append(b"N" if value is None else b"T" if value else b"F")
    elif type(value) is int:
        raw = value.to_bytes((value.bit_length() >> 3) + 1, "little", signed=True)
        out += (b"I", LENGTH.pack(len(raw)), raw)
    elif type(value) is str:
        raw = value.encode("utf-8", "surrogatepass")
        out += (b"S", LENGTH.pack(len(raw)), raw)
    elif type(value) is bytes:
        out += (b"B", LENGTH.pack(len(value)), value)
    elif type(value) is list:
        out += (b"L", LENGTH.pack(len(value)))
        for each in value:
            _encode(each, out)
    elif type(value) is dict:
        out += (b"D", LENGTH.pack(len(value)))
        for key, each in value.items():
            _encode(key, out)
            _encode(each, out)
    else:
        raise TypeError(f"a saved state holds plain data alone, not {type(value).__name__}")


class _Reader:
    """Decodes one body. ValueError for anything that `_encode` does not write."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, count: int) -> bytes:
        end = self.place + count
        if end > len(self.data):
            raise ValueError("a part is longer than the whole")
        found = self.data[self.place : end]
        self.place = end
        return found

    def length(self) -> int:
        found: int = LENGTH.unpack(self.take(LENGTH.size))[0]
        return found

    def value(self, depth: int = 0) -> Any:  # noqa: ANN401 - plain data
        if depth > DEEPEST:
            raise ValueError("too many lists inside each other")
        tag = self.take(1)
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        length = self.length()
        if tag == b"I":
            return int.from_bytes(self.take(length), "little", signed=True)
        if tag == b"B":
            return self.take(length)
        if tag == b"S":
            return self.take(length).decode("utf-8", "surrogatepass")
        if tag == b"L":
            return [self.value(depth + 1) for _ in range(length)]
        if tag == b"D":
            result = {}
            for _ in range(length):
                if self.data[self.place : self.place + 1] not in (b"I", b"S", b"B"):
                    raise ValueError("a key is a number or a word")
                key = self.value(depth + 1)
                result[key] = self.value(depth + 1)
            return result
        raise ValueError(f"unknown tag {tag!r}")


_CONSTANTS = {b"N": None, b"T": True, b"F": False}


def write_state_file(path: str | os.PathLike[str], state: object) -> None:
    """Write plain data as a file, whole or not at all.

    Raises
    ------
    StateError
        The file cannot be written.
    """
    parts: list[bytes] = []
    _encode(state, parts)
    body = b"".join(parts)
    head = HEAD.pack(MAGIC, VERSION, len(body))
    packed = zlib.compress(body, LEVEL)
    digest = hashlib.sha256(head + packed).digest()
    refusal = _refusal(Path(path))
    if refusal:
        raise StateError(f"{path}: cannot be written: {refusal}")
    target = Path(path).resolve()  # a link stays one
    fresh = target.with_name(f"{target.name}.{os.getpid()}.vmlab-new")
    try:
        with fresh.open("wb") as file:
            file.write(head + digest + packed)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StateError(f"{path}: cannot be written: {reason}") from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            fresh.unlink(missing_ok=True)


def _refusal(file: Path) -> str:
    """Say why a path is no place for a state: a folder, or a device, which must not be replaced; "" if it may be one."""
    try:
        if not file.resolve().name or file.is_dir():
            return "a folder; give the name of a file"
        return "not a regular file; give the name of another" if file.exists() and not file.is_file() else ""
    except (OSError, RuntimeError, ValueError) as error:  # the second for links that lead in a circle
        return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def is_state_file(path: str | os.PathLike[str]) -> bool:
    """Say whether a file begins as a saved state does."""
    try:
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def read_state_file(path: str | os.PathLike[str]) -> Any:  # noqa: ANN401 - plain data
    """Read what `write_state_file` wrote.

    Raises
    ------
    StateError
        The file is missing, unreadable, foreign, damaged, truncated, or of a newer version.
    """
    file = Path(path)
    refusal = _refusal(file)
    if refusal:
        raise StateError(f"{path}: cannot be read: {refusal}")
    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StateError(f"{path}: cannot be read: {reason}") from None
    start = HEAD.size + DIGEST_BYTES
    if data[: len(MAGIC)] != MAGIC:
        raise StateError(f"{path}: not a state that vmlab saved: it does not begin as one")
    if len(data) < start:
        raise StateError(f"{path}: truncated: {len(data)} bytes are not even its head")
    _, version, size = HEAD.unpack(data[: HEAD.size])
    if version != VERSION:
        raise StateError(f"{path}: format {version}; this vmlab reads format {VERSION}: use the vmlab that saved it")
    packed = data[start:]
    if hashlib.sha256(data[: HEAD.size] + packed).digest() != data[HEAD.size : start]:
        raise StateError(f"{path}: damaged or truncated: its checksum is wrong; save it anew")
    try:
        return _decode(packed, size)
    except (ValueError, zlib.error, RecursionError, MemoryError) as error:
        raise StateError(f"{path}: not a state that vmlab saved: {error}") from None


def _decode(packed: bytes, size: int) -> Any:  # noqa: ANN401 - plain data
    """Return the value of a compressed body; ValueError or zlib.error where it is none."""
    if size > LARGEST:
        raise ValueError(f"{size} bytes are too many")
    inflater = zlib.decompressobj()
    body = inflater.decompress(packed, size + 1)
    if len(body) != size or not inflater.eof or inflater.unused_data:
        raise ValueError("its length is wrong")
    reader = _Reader(body)
    state = reader.value()
    if reader.place != size:
        raise ValueError("something follows its end")
    return state
