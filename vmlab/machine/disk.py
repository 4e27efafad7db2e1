"""Disks: an image of sectors, and what a machine has written over it.

The image file is read once and never written: writes go to an overlay, sector by sector, which a saved state holds
together with the digest of the image it lies over. `commit()` alone writes the overlay into the file.

Simplified: raw images with sectors of 512 bytes.

Read more: "copy-on-write" disk formats, as in F. Bellard, "QEMU, a Fast and Portable Dynamic Translator", USENIX 2005.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmlab.errors import ImageError, OptionError, StateError
from vmlab.machine.state import Entries, check_state

if TYPE_CHECKING:
    import os

__all__ = ["LARGEST_DISK", "SECTOR", "Disk"]

SECTOR = 512
LARGEST_DISK = 1 << 30
"""Bytes of the largest image: it is held in the host's memory."""


class Disk:
    """A disk.

    Parameters
    ----------
    source : path or bytes
        A raw image file, or an image's bytes.
    name : str, optional
        For messages; the file's name if not given.
    pad : bool
        Fill an image whose size is not a multiple of 512 with zeros, instead of refusing it.

    Attributes
    ----------
    sectors : int
        Size in sectors of 512 bytes.
    path : Path or None
        The image file.

    Raises
    ------
    ImageError
        The image is missing, unreadable, empty, too large, or ends within a sector.

    Examples
    --------
    >>> disk = Disk(bytes(1024))
    >>> disk.write(1, b"x" * 512)
    >>> disk.read(1, 1)[:3], disk.written
    (b'xxx', 1)
    """

    __slots__ = ("_base", "_digest", "_overlay", "name", "path", "sectors")

    def __init__(
        self, source: str | os.PathLike[str] | bytes | bytearray, *, name: str | None = None, pad: bool = False
    ) -> None:
        if isinstance(source, (bytes, bytearray)):
            self.path: Path | None = None
            self.name = name or "disk"
            data = bytes(source)
        else:
            try:
                self.path = Path(source)
            except TypeError:
                raise OptionError(f"a disk is made from a path or from bytes, not from {source!r}") from None
            self.name = name or self.path.name
            data = _read_file(self.path)
        if not data:
            raise ImageError(f"{self.name}: empty: a disk has at least one sector of {SECTOR} bytes")
        if len(data) > LARGEST_DISK:
            raise ImageError(f"{self.name}: {len(data)} bytes: the largest disk has {LARGEST_DISK >> 30} GiB")
        if len(data) % SECTOR:
            if not pad:
                raise ImageError(
                    f"{self.name}: {len(data)} bytes are {len(data) // SECTOR} sectors of {SECTOR} and "
                    f"{len(data) % SECTOR} bytes: the image is truncated, or give pad=True to fill it with zeros"
                )
            data += bytes(-len(data) % SECTOR)
        self._base = data
        self._digest: str | None = None
        self._overlay: dict[int, bytes] = {}
        self.sectors = len(data) // SECTOR

    @classmethod
    def of(cls, data: bytes, path: Path) -> Disk:
        """Make the disk of an image file whose bytes have been read already."""
        disk = cls(data, name=path.name)
        disk.path = path
        return disk

    # -- sectors -----------------------------------------------------------------------------------------------------

    def announce(self, sector: int, count: int) -> None:
        """Take note that sectors will be read soon; they need not all be on the disk. Nothing is to be done here."""

    def read(self, sector: int, count: int = 1) -> bytes:
        """Read sectors.

        Raises
        ------
        OptionError
            They are not all on the disk.
        """
        self._check(sector, count)
        overlay = self._overlay
        data = self._base[sector * SECTOR : (sector + count) * SECTOR]
        if not overlay:
            return data
        written = [each for each in range(sector, sector + count) if each in overlay]
        if not written:
            return data
        result = bytearray(data)
        for each in written:
            result[(each - sector) * SECTOR : (each - sector + 1) * SECTOR] = overlay[each]
        return bytes(result)

    def write(self, sector: int, data: bytes) -> None:
        """Write whole sectors, into the overlay.

        Raises
        ------
        OptionError
            They are not all on the disk, or the data end within a sector.
        """
        if not data or len(data) % SECTOR:
            raise OptionError(f"{self.name}: a write is of whole sectors of {SECTOR} bytes, not of {len(data)} bytes")
        self._check(sector, len(data) // SECTOR)
        for place in range(0, len(data), SECTOR):
            self._overlay[sector + place // SECTOR] = bytes(data[place : place + SECTOR])

    def _check(self, sector: int, count: int) -> None:
        if (
            type(sector) is not int
            or type(count) is not int
            or sector < 0
            or count < 1
            or sector + count > self.sectors
        ):
            raise OptionError(
                f"{self.name}: {count!r} sectors at {sector!r}: the disk has sectors 0-{self.sectors - 1}"
            )

    # -- images ------------------------------------------------------------------------------------------------------

    @property
    def written(self) -> int:
        """Sectors in the overlay."""
        return len(self._overlay)

    @property
    def base(self) -> bytes:
        """The image below the overlay."""
        return self._base

    @property
    def digest(self) -> str:
        """SHA-256 of the image below the overlay, in hexadecimal."""
        if self._digest is None:
            self._digest = hashlib.sha256(self._base).hexdigest()
        return self._digest

    def contents_digest(self) -> str:
        """SHA-256 of the disk with what was written to it, in hexadecimal."""
        return hashlib.sha256(self.contents()).hexdigest() if self._overlay else self.digest

    def contents(self) -> bytes:
        """Return the whole disk with what was written to it."""
        return self.read(0, self.sectors)

    def copy(self) -> Disk:
        """Return a disk of its own with the same contents; both share the image."""
        twin = object.__new__(Disk)
        twin.path, twin.name, twin.sectors = self.path, self.name, self.sectors
        twin._base, twin._digest, twin._overlay = self._base, self._digest, dict(self._overlay)
        return twin

    def discard(self) -> None:
        """Forget all that was written."""
        self._overlay.clear()

    def unchanged(self) -> bool:
        """Say whether the image file is there, and as it was when it was read; False where there is none."""
        try:
            return self.path is not None and _digest_of(self.path) == self.digest
        except ImageError:
            return False

    def commit(self) -> None:
        """Write the overlay into the image file, and begin an empty one. States saved before lie over another image.

        Raises
        ------
        ImageError
            The disk has no file, its file has changed since it was read, or it cannot be written.
        """
        if self.path is None:
            raise ImageError(f"{self.name}: made from bytes, it has no file: write its contents() to one")
        data = self.contents()
        if _digest_of(self.path) != self.digest:
            raise ImageError(f"{self.path}: has changed since it was read: commit would undo that")
        target = self.path.resolve()
        fresh = target.with_name(target.name + ".vmlab-new")
        try:
            fresh.write_bytes(data)  # beside it and then in its place: never half of each
            shutil.copymode(target, fresh)
            fresh.replace(target)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise ImageError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self._base, self._digest = data, None
        self._overlay = {}

    def save(self) -> dict[str, Any]:
        """Save what was written, and what it lies over."""
        return {"version": 1, "digest": self.digest, "sectors": self.sectors, "overlay": dict(self._overlay)}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave.

        Raises
        ------
        StateError
            The state is damaged, or was saved with another image.
        """
        fields = {"digest": str, "sectors": int, "overlay": Entries(range(self.sectors), bytes)}
        check_state(state, self.name, fields)
        if state["sectors"] != self.sectors or state["digest"] != self.digest:
            raise StateError(f"{self.name}: the state was saved with another disk image ({state['sectors']} sectors)")
        for sector, data in state["overlay"].items():
            if len(data) != SECTOR:
                raise StateError(f"{self.name}: saved sector {sector} has {len(data)} bytes, not {SECTOR}")
        self._overlay = dict(state["overlay"])


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR)


def _refusal(file: Path) -> str | None:
    """Say why a file can be no disk image, without reading it; None if it may be one."""
    if file.is_dir():
        return "a directory; give the disk image in it"
    if not file.exists():
        return "no such file"
    if not file.is_file():
        return "not a regular file"
    size = file.stat().st_size
    return f"{size} bytes: the largest disk has {LARGEST_DISK >> 30} GiB" if size > LARGEST_DISK else None


def _digest_of(file: Path) -> str:
    return hashlib.sha256(_padded(_read_file(file))).hexdigest()


def _read_file(file: Path) -> bytes:
    try:
        refusal = _refusal(file)
        data = b"" if refusal else file.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{file}: cannot be read: {reason}") from None
    if refusal:
        raise ImageError(f"{file}: {refusal}")
    return data
