"""Snapshots in files: a system in the middle of its life, from which any number of systems go on.

A file holds everything: images, options, the state of processors and devices, memory (a page of zeros not at all, equal
pages once), and what was written to the disks. A disk's own image file stays where it is and is known by its SHA-256.

Read more: VMware and KVM call it a snapshot, too, and a suspended machine when there is only one.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmlab.errors import ImageError, OptionError, StateError
from vmlab.machine.disk import SECTOR, Disk
from vmlab.machine.image import Image, Module, Segment
from vmlab.machine.multiboot import MultibootHeader
from vmlab.machine.recording import Recording
from vmlab.machine.state import COUNT, QUAD, Entries, Items, check_state
from vmlab.machine.state_file import read_state_file, write_state_file
from vmlab.machine.tlb_geometry import TlbArray, TlbGeometry
from vmlab.machine.trace import Trace
from vmlab.vmm.system import NO_LIMIT, System
from vmlab.vmm.techniques import build, find_engine, read_input, read_keys

if TYPE_CHECKING:
    import os

    from vmlab.vmm.run import Run

__all__ = ["Snapshot", "go_on", "load_state", "save"]

CHANGEABLE = ("input", "keys", "max_instructions", "engine", "detail")
NONE = type(None)
FIELDS = {
    "technique": str, "options": dict, "images": Items(dict), "disks": Items((dict, NONE)), "system": dict,
    "pages": Entries(COUNT, COUNT), "contents": Items(bytes),
}  # fmt: skip
OPTIONS = {
    "memory": COUNT, "cpu": str, "cpus": COUNT, "engine": str, "input": bytes, "keys": Items(Items((COUNT, str), 2)),
    "max_instructions": (COUNT, NONE), "shadow_policy": str, "memory_virtualization": str, "host_cpu": str,
    "ept_pages": str, "tlb": dict, "walk_caches": (dict, NONE),
}  # fmt: skip
IMAGE = {
    "name": str, "entry": QUAD, "segments": Items(Items((QUAD, bytes), 3)), "symbols": Entries(str, QUAD), "bits": COUNT,
    "multiboot": (Entries(str, QUAD), NONE), "modules": Items(Items((bytes, str), 2)), "disk": (dict, NONE), "digest": str,
}  # fmt: skip
DISK = {"name": str, "path": (str, NONE), "sectors": COUNT, "digest": str, "data": (bytes, NONE)}


class Snapshot:
    """A saved system.

    Parameters
    ----------
    state : dict
        What a file holds.
    name : str
        For messages.
    folder : Path, optional
        Where images of disks are looked for by name that are not at their path.

    Raises
    ------
    StateError
        The state is none, or an image of a disk is missing or another.

    Attributes
    ----------
    technique : str
        How it runs.
    console : str
        What its first guest had sent to the serial port.
    """

    def __init__(self, state: dict[str, Any], name: str = "snapshot", folder: Path | None = None) -> None:
        self.name = name
        self._folder = folder
        try:
            self._state = check_state(state, "snapshot", FIELDS)
            self._options: dict[str, Any] = check_state(state["options"], "options", OPTIONS, version=3)
            self._images = [self._image(each) for each in state["images"]]
            self._disks = [each and self._disk(each) for each in state["disks"]]
            self._ready: System | None = self._build()
        except (OptionError, ImageError, StateError) as error:
            raise StateError(f"{name}: {error}") from None
        self.technique: str = state["technique"]
        self.console = self._ready.guests[0].console

    @property
    def guests(self) -> list[str]:
        """Names of the guests."""
        return [image.name for image in self._images]

    def resume(self) -> System:
        """Return a system that goes on from here: each time another, of its own."""
        system, self._ready = self._ready or self._build(), None
        return system

    def describe(self) -> str:
        """Return what it is as text."""
        size = self._options["memory"] >> 20
        pages, contents = len(self._state["pages"]), len(self._state["contents"])
        return (
            f"{', '.join(self.guests)} under {self.technique}, {size} MiB each, {self._options['cpus']} processor(s) "
            f"{self._options['cpu']}: {pages:,} pages that are not zero, {contents:,} different ones"
        )

    def __repr__(self) -> str:
        return f"<Snapshot of {self.describe()}>"

    # -- from a state ----------------------------------------------------------------------------------------------------

    def _image(self, saved: dict[str, Any]) -> Image:
        check_state(saved, "image", IMAGE)
        try:
            image = Image(
                saved["name"],
                saved["entry"],
                tuple(Segment(*each) for each in saved["segments"]),
                saved["symbols"],
                saved["multiboot"] and MultibootHeader(**saved["multiboot"]),
                tuple(Module(*each) for each in saved["modules"]),
                saved["bits"],
                saved["disk"] and self._disk(saved["disk"]),
            )
            digest = image.digest
        except (TypeError, AttributeError) as error:
            raise StateError(f"saved image: {error}") from None
        if digest != saved["digest"]:
            raise StateError(f"the saved image {image.name!r} is not the one that ran: its SHA-256 differs")
        return image

    def _disk(self, saved: dict[str, Any]) -> Disk:
        check_state(saved, "disk", DISK)
        name, path = saved["name"], saved["path"]
        if saved["data"] is not None:
            return Disk(saved["data"], name=name)
        if path is None:
            raise StateError(f"the disk {name} has neither a file nor contents")
        places = [Path(path), *([self._folder / Path(path).name] if self._folder else [])]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise StateError(f"its disk image {path} is missing: put it there, or beside the saved state")
        disk = Disk(found, name=name, pad=True)
        if disk.sectors != saved["sectors"] or disk.digest != saved["digest"]:
            raise StateError(
                f"{found} is not the disk image with which it ran: that had {saved['sectors'] * SECTOR} bytes and the "
                f"SHA-256 {saved['digest'][:16]}…, this has {disk.sectors * SECTOR} and {disk.digest[:16]}…"
            )
        return disk

    def _build(self) -> System:
        options = dict(self._options)
        options.pop("version")
        options["keys"] = [tuple(each) for each in options["keys"]]
        options["tlb"] = _load_tlb(options["tlb"])
        system = build(self._images, self._state["technique"], disks=self._disks, **options)
        contents = self._state["contents"]
        if any(number >= len(contents) for number in self._state["pages"].values()):
            raise StateError("a page of memory has no contents")
        memory = system.machine.memory
        pages = {page: contents[number] for page, number in self._state["pages"].items()}
        memory.load({"version": 1, "size": memory.size, "pages": pages})
        system.load(self._state["system"])
        return system


# -- to a state ----------------------------------------------------------------------------------------------------------


def _save_disk(disk: Disk) -> dict[str, Any]:
    """Return a disk as plain data: by its file, or with its contents where the file is gone or another by now."""
    path = None if disk.path is None else str(disk.path.absolute())
    data = None if disk.unchanged() else disk.base
    return {"version": 1, "name": disk.name, "path": path, "sectors": disk.sectors, "digest": disk.digest, "data": data}


def _save_tlb(tlb: TlbGeometry) -> dict[str, Any]:
    arrays = [{"sets": each.sets, "ways": each.ways, "spans": list(each.spans)} for each in tlb.arrays]
    return {"version": 1, "arrays": arrays, "replacement": tlb.replacement, "counts_hits": tlb.counts_hits}


def _load_tlb(saved: dict[str, Any]) -> TlbGeometry:
    arrays = Items(dict)
    check_state(saved, "TLB geometry", {"arrays": arrays, "replacement": str, "counts_hits": bool})
    for each in saved["arrays"]:
        check_state({"version": 1} | each, "TLB array", {"sets": COUNT, "ways": COUNT, "spans": Items(QUAD)})
    found = tuple(TlbArray(each["sets"], each["ways"], tuple(each["spans"])) for each in saved["arrays"])
    return TlbGeometry(found, saved["replacement"], saved["counts_hits"])


def _save_image(image: Image) -> dict[str, Any]:
    return {
        "version": 1,
        "name": image.name,
        "entry": image.entry,
        "segments": [[each.address, each.data, each.memory_size] for each in image.segments],
        "symbols": dict(image.symbols),
        "multiboot": image.multiboot and asdict(image.multiboot),
        "modules": [[each.data, each.string] for each in image.modules],
        "bits": image.bits,
        "disk": image.disk and _save_disk(image.disk),
        "digest": image.digest,
    }


def capture(system: System) -> dict[str, Any]:
    """Return everything of a system as plain data."""
    guest = system.guests[0]
    numbers: dict[bytes, int] = {}
    pages = {
        page: numbers.setdefault(contents, len(numbers)) for page, contents in system.machine.memory.contents().items()
    }
    model = system.machine.cpu.model
    caches = model.walk_caches
    options = {
        "version": 3,
        "memory": guest.memory.size,
        "cpu": guest.vcpu.model.name,
        "host_cpu": system.machine.cpu.model.name,
        "memory_virtualization": system.memory_virtualization,
        "ept_pages": system.largest_page,
        "cpus": len(guest.vcpus),
        "engine": "auto" if system.machine.engine else "interpreter",
        "input": system.input,
        "keys": [list(each) for each in system.keys],
        "shadow_policy": system.shadow_policy,
        "tlb": _save_tlb(model.tlb),
        "walk_caches": caches and {"guest": [*caches.guest], "host": [*caches.host], "nested_tlb": caches.nested_tlb},
        "max_instructions": None if system.limit >= NO_LIMIT else system.limit,
    }
    return {
        "version": 1,
        "technique": system.technique,
        "options": options,
        "images": [_save_image(each.image) for each in system.guests],
        "disks": [each and _save_disk(each) for each in system.disks],
        "system": system.save(),
        "pages": pages,
        "contents": list(numbers),
    }


def save(what: Run | Recording | System, path: str | os.PathLike[str]) -> None:
    """Save a system as a file, from which `load_state` and then `run` or `record` go on.

    Parameters
    ----------
    what : Run, Recording or System
        Of a run its end is saved, of a recording the instant at the cursor.
    path : path
        The file; one that is there is replaced, and never half.

    Raises
    ------
    OptionError
        It is nothing that can be saved.
    StateError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile, vmlab
    >>> booted = vmlab.run(vmlab.guests.load("minios"), until="paging is on")
    >>> folder = tempfile.TemporaryDirectory()
    >>> vmlab.save(booted, f"{folder.name}/booted.vmlab")
    >>> again = vmlab.run(vmlab.load_state(f"{folder.name}/booted.vmlab"))
    >>> booted.outcome, again.outcome, again.console.splitlines()[-1]
    ('until', 'exit', '15 ticks, 49 system calls, 1 fault: shutdown')
    >>> folder.cleanup()
    """
    system = what if isinstance(what, System) else getattr(what, "system", None)
    if not isinstance(system, System):
        raise OptionError(f"save takes a Run, a Recording or a System, not {type(what).__name__}")
    if isinstance(what, Recording):
        what.settle()
    write_state_file(_path(path), capture(system))


def load_state(path: str | os.PathLike[str]) -> Snapshot:
    """Load a saved system, to be handed to `run` or `record` as often as one likes.

    Parameters
    ----------
    path : path
        What `save` wrote.

    Raises
    ------
    StateError
        The file is missing, foreign, damaged, or of a newer version; or the image file of a disk is missing or has
        changed.
    """
    file = _path(path)
    return Snapshot(read_state_file(file), file.name, file.absolute().parent)


def _path(path: object) -> Path:
    try:
        return Path(path)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        raise OptionError(f"a path is a str or a Path, not {path!r}") from None


def go_on(snapshot: Snapshot, under: str | None, options: dict[str, Any]) -> System:
    """Return a system that goes on from a snapshot, with other options where it can have them.

    Raises
    ------
    OptionError
        It cannot have them, or they are not possible.
    """
    for name in options:
        if name not in CHANGEABLE:
            raise OptionError(f"a saved system keeps its {name}: what can be changed is {', '.join(CHANGEABLE)}")
    if under is not None and under != snapshot.technique:
        raise OptionError(f"the system was saved under {snapshot.technique!r}: it cannot go on under {under!r}")
    engine = find_engine(options["engine"]) if "engine" in options else None
    keys = read_keys(options.get("keys", ""))
    data = read_input(options.get("input", b""))
    trace = Trace(options.get("detail", "none"))
    system = snapshot.resume()
    system.trace.detail = trace.detail
    if "engine" in options:
        system.machine.engine = engine
    system.allow(options.get("max_instructions"))
    for index, guest in enumerate(system.guests):
        if data:
            system.send(data, index)
        for time, text in keys:
            guest.platform.keyboard.type_at(guest.platform.clock.now + time, text)
    return system
