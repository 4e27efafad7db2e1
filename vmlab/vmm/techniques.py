"""The techniques by name, and how a system is built from a user's options."""

from __future__ import annotations

import difflib
from dataclasses import replace
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from vmlab.errors import OptionError
from vmlab.machine.cpu_features import VIRTUALIZATION
from vmlab.machine.cpu_model import CPU_MODELS, find_cpu_model
from vmlab.machine.disk import Disk
from vmlab.machine.firmware_tables import MOST_CPUS
from vmlab.machine.image import Image
from vmlab.machine.tlb_geometry import TlbGeometry, read_tlb
from vmlab.machine.trace import Trace
from vmlab.machine.translator import Engine
from vmlab.machine.walk_caches import WalkCacheSizes, read_walk_caches
from vmlab.vmm.amd_v import AmdV
from vmlab.vmm.binary_translation import BinaryTranslation
from vmlab.vmm.hardware_assist import HardwareAssist
from vmlab.vmm.native import Native
from vmlab.vmm.nested_paging import LARGEST_PAGES
from vmlab.vmm.paravirtualization import Paravirtualization
from vmlab.vmm.shadow_paging import POLICIES
from vmlab.vmm.system import DEFAULT_MEMORY, System
from vmlab.vmm.trap_and_emulate import TrapAndEmulate
from vmlab.vmm.vt_x import VtX
from vmlab.vmm.xen.notes import is_ported

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from vmlab.machine.cpu_model import CpuModel
    from vmlab.machine.trace import Detail
    from vmlab.vmm.shadow_paging import ShadowPolicy

__all__ = [
    "ENGINES",
    "TECHNIQUES",
    "build",
    "check_options",
    "find_engine",
    "find_technique",
    "read_input",
    "read_keys",
    "techniques_for",
]

TECHNIQUES: dict[str, type[System]] = {
    system.technique: system for system in (Native, TrapAndEmulate, BinaryTranslation, VtX, AmdV, Paravirtualization)
}
"""Systems by the name of their technique."""

SMALLEST, LARGEST = 1 << 20, 1 << 30

MOST_DISKS = 2
LATEST = 1 << 62
"""Virtual time that no run reaches."""

ENGINES = ("auto", "interpreter", "translator")
"""How instructions are executed: `auto` is the translator wherever it can, and the same, only faster."""


def find_technique(name: object) -> type[System]:
    """Return the system class of a technique; OptionError for an unknown name."""
    if not isinstance(name, str) or name not in TECHNIQUES:
        close = difflib.get_close_matches(str(name), TECHNIQUES, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise OptionError(f"unknown technique {name!r}{hint}: choose one of {', '.join(TECHNIQUES)}")
    return TECHNIQUES[name]


def techniques_for(images: Sequence[Image]) -> list[str]:
    """Return the names of the techniques that take such guests: paravirtualization those alone that are ported."""
    ported = all(is_ported(image) for image in images)
    return [name for name, kind in TECHNIQUES.items() if ported or not kind.needs_port]


def find_memory_virtualization(kind: type[System], name: object) -> str:
    """Return how a technique virtualizes memory, by its name or by default; OptionError for what it cannot do."""
    able = kind.memory_virtualizations
    if name is None:
        return able[0]
    if name not in able:
        words = "none at all" if able == ("none",) else f"{' or '.join(map(repr, able))} alone"
        raise OptionError(f"memory_virtualization={name!r} is not possible under {kind.technique}, which has {words}")
    return str(name)


def find_host(kind: type[System], model: CpuModel, name: object, strategy: str) -> CpuModel:
    """Return the model of the host's processor: by its name, or the guest's own, or the first in `CPU_MODELS` that can run such guests."""
    if not issubclass(kind, HardwareAssist):
        if name is not None and name != model.name:
            raise OptionError(
                f"host_cpu= is for vt-x and amd-v: under {kind.technique} the guest's processor is the host's, cpu="
            )
        return model
    if name is not None:
        return find_cpu_model(name)
    needed = {feature for feature, _ in kind.needed[strategy]} | model.without(*VIRTUALIZATION).features
    able = [each for each in (model, *CPU_MODELS.values()) if each.features >= needed]
    if not able:
        raise OptionError(f"no CPU model can be the host of {model.name!r} under {kind.technique}: choose another cpu=")
    return able[0]


def find_engine(name: object) -> Engine | None:
    """Return an engine by its name, None for the interpreter; OptionError for an unknown name."""
    if name not in ENGINES:
        raise OptionError(f"unknown engine {name!r}: choose one of {', '.join(ENGINES)}")
    return None if name == "interpreter" else Engine()


def check_options(options: Mapping[str, object]) -> None:
    """Refuse an option that `build` has not, and name those that it has."""
    allowed = [name for name, each in signature(build).parameters.items() if each.kind is Parameter.KEYWORD_ONLY]
    for name in options:
        if name not in allowed:
            raise OptionError(f"there is no option {name!r}: choose from {', '.join(allowed)}")


def find_policy(name: object) -> ShadowPolicy:
    """Return a policy of shadow paging by its name; OptionError for an unknown one."""
    for each in POLICIES:
        if each == name:
            return each
    raise OptionError(f"unknown shadow policy {name!r}: choose one of {', '.join(POLICIES)}")


def read_input(data: object) -> bytes:
    """Return what is to be sent to the serial port; OptionError where it is no text and no bytes."""
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError as error:
            raise OptionError(f"input: {data!r} is no text to send: {error.reason} at {error.start}") from None
    if not isinstance(data, (bytes, bytearray)):
        raise OptionError(f"input is a text or bytes, not {type(data).__name__}")
    return bytes(data)


def read_keys(keys: object) -> list[tuple[int, str]]:
    """Return what is to be typed at the keyboard, and when; OptionError where it is nothing of the kind."""
    given: list[Any] = (
        [(0, keys)] if isinstance(keys, str) else list(keys) if isinstance(keys, (list, tuple)) else [keys]
    )
    for each in given:
        right = isinstance(each, tuple) and len(each) == 2 and type(each[0]) is int and isinstance(each[1], str)
        if not right or not 0 <= each[0] < LATEST:
            raise OptionError(f"keys are a text, or a list of times and texts, as [(5_000_000, 'ls')], not {keys!r}")
    times = [time for time, _ in given]
    if times != sorted(times):
        raise OptionError(f"keys are typed in the order of their times, and {times} are not ascending")
    return given


def build(  # noqa: PLR0913 - the options of a run
    image: Image | Sequence[Image],
    under: str = "native",
    *,
    memory: int = DEFAULT_MEMORY,
    cpu: str = "pentium-4",
    cpus: int = 1,
    max_instructions: int | None = None,
    input: bytes | str = b"",  # noqa: A002 - the option's name
    keys: str | Sequence[tuple[int, str]] = "",
    disks: Sequence[Disk | str | os.PathLike[str] | None] = (),
    detail: Detail = "none",
    engine: str = "auto",
    memory_virtualization: str | None = None,
    host_cpu: str | None = None,
    ept_pages: str = "2 MiB",
    shadow_policy: str = "cached",
    tlb: TlbGeometry | Mapping[str, object] | None = None,
    walk_caches: WalkCacheSizes | Mapping[str, object] | bool | None = None,
) -> System:
    """Build a system, ready to run.

    Parameters
    ----------
    image : Image or sequence of Image
        What the guests boot, one each.
    under : str
        Technique: a key of `TECHNIQUES`.
    memory : int
        Bytes of memory that each guest gets: a multiple of 4096, from 1 MiB to 1 GiB.
    cpu : str
        CPU model.
    cpus : int
        Processors, 1 to 16; the guest's kernel starts all but the first. Under paravirtualization one.
    max_instructions : int, optional
        Most instructions that a guest may retire.
    input : bytes or str
        Typed at the guest's serial console.
    keys : str or sequence of (int, str)
        Typed at the guest's keyboard (of a US layout) at 100 characters a virtual second at most: a text, or texts with the
        virtual time (in instructions) at which each begins.
    disks : sequence of Disk or path
        At most two, on the first ATA channel; None leaves a place empty. An image that boots from a disk has the first
        place itself. Each guest gets copies, and no image file is written. A paravirtualized guest reads one, by its
        block ring.
    detail : {"none", "events", "instructions"}
        What is traced.
    engine : {"auto", "interpreter", "translator"}
        How instructions are executed; the results are the same.
    memory_virtualization : {"nested", "shadow"}, optional
        How the hypervisor virtualizes memory: `"nested"` (the default of vt-x and amd-v) or `"shadow"` (all that others have).
    host_cpu : str, optional
        CPU model of the host under vt-x and amd-v, which needs VT-x or AMD-V: the guest's own, or the first in `CPU_MODELS` that
        can do what is asked for.
    ept_pages : {"4 KiB", "2 MiB", "1 GiB"}
        The largest page of nested page tables.
    shadow_policy : {"cached", "traced", "flush"}
        How shadow page tables follow the guest's: see `vmlab.vmm.shadow_paging`. The results are the same.
    tlb : mapping or TlbGeometry, optional
        What the physical processor's TLB looks like, where it is to be another than the model's: some of `sets`, `ways`,
        `large_sets`, `large_ways`, `replacement` (`"fifo"`, `"lru"`, `"random"`), `counts_hits`.
    walk_caches : bool, mapping or WalkCacheSizes, optional
        Paging-structure caches and a nested TLB of the physical processor: True for the usual ones, or some of `guest`,
        `host` (as `[32, 4, 2]`), `nested_tlb`.

    Raises
    ------
    OptionError
        An option is not possible.
    ImageError
        The image does not fit into memory.
    """
    kind = find_technique(under)
    images: list[Any] = list(image) if isinstance(image, (list, tuple)) else [image]
    for each in images:
        if not isinstance(each, Image):
            raise OptionError(
                f"a guest boots an Image, as of vmlab.load('file') or vmlab.assemble('source'), not {type(each).__name__}"
                + ("; a saved system goes on alone" if type(each).__name__ == "Snapshot" else "")
            )
    if type(memory) is not int or not SMALLEST <= memory <= LARGEST or memory % 0x1000:
        raise OptionError(
            f"memory of {memory!r} bytes is not possible: give an int, a multiple of 4096 from {SMALLEST} (1 << 20, 1 MiB) to "
            f"{LARGEST} (1 << 30, 1 GiB)"
        )
    if not isinstance(disks, (list, tuple)) or len(disks) > MOST_DISKS:
        raise OptionError(f"disks are a list of at most {MOST_DISKS} images, as ['fs.img'], not {disks!r}")
    if len(disks) == MOST_DISKS and any(each.disk for each in images):
        raise OptionError(
            f"a machine has {MOST_DISKS} disks, and boots from the first: give {MOST_DISKS - 1} more at most"
        )
    if type(cpus) is not int or not 1 <= cpus <= MOST_CPUS:
        raise OptionError(f"a computer has 1 to {MOST_CPUS} processors, not {cpus!r}")
    model = find_cpu_model(cpu)
    strategy = find_memory_virtualization(kind, memory_virtualization)
    if ept_pages not in LARGEST_PAGES:
        raise OptionError(f"there are no nested pages of {ept_pages!r}: choose one of {', '.join(LARGEST_PAGES)}")
    executing = find_engine(engine)
    host = find_host(kind, model, host_cpu, strategy)
    system = kind(
        images,
        memory_size=memory,
        model=model,
        trace=Trace(detail),
        max_instructions=max_instructions,
        input=read_input(input),
        keys=read_keys(keys),
        disks=[each if each is None or isinstance(each, Disk) else Disk(each) for each in disks],
        processors=cpus,
        host_model=replace(host, tlb=read_tlb(tlb, host.tlb), walk_caches=read_walk_caches(walk_caches)),
        memory_virtualization=strategy,
        largest_page=ept_pages,
        shadow_policy=find_policy(shadow_policy),
    )
    if shadow_policy != POLICIES[0] and system.memory_virtualization != "shadow":
        raise OptionError(
            f"a shadow policy is for shadow page tables, and {under} has {system.memory_virtualization}: leave shadow_policy out"
        )
    system.machine.engine = executing
    return system
