"""The systems by name: each builds itself, ready to run the common workload.

Kinds are those of the textbook, section 18.5. A preset's name is that of the product whose organization it has; what is particular
to that product, and what of it is not here, is in `vmlab.kinds.particulars`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING

from vmlab.errors import OptionError
from vmlab.guests import load, workload_disk
from vmlab.kinds.arm_running import ArmRunning
from vmlab.kinds.contained import ContainedRunning, ContainingSystem
from vmlab.kinds.control_domain import ControlDomain
from vmlab.kinds.hosted import Hosted, OwnWorld
from vmlab.kinds.java_running import AT_ONCE, USUAL, JavaRunning
from vmlab.kinds.monolithic import Monolithic
from vmlab.kinds.particulars import PARTICULARS, Particulars
from vmlab.kinds.particulars_containment import CONTAINMENT as CONTAINED
from vmlab.kinds.particulars_containment import ContainmentParticulars
from vmlab.kinds.partitioned import Partitioned
from vmlab.kinds.x86_running import X86Running
from vmlab.machine.cpu_model import CPU_MODELS
from vmlab.machine.trace import Trace
from vmlab.machine.translator import Engine
from vmlab.vmm.native import Native
from vmlab.vmm.paravirtualization import Paravirtualization

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmlab.kinds.running import Running
    from vmlab.machine.image import Image
    from vmlab.vmm.system import System

__all__ = ["PRESETS", "Preset", "find_preset", "preset", "preset_of"]

MEMORY = 8 << 20
LIMIT = 50_000_000
MOST_GUESTS = 4
LAST_SCENE = 3
NESTED = "nested_host"
GUEST_CPU, HOST_CPU = "pentium-4", "westmere"


@dataclass(frozen=True, slots=True)
class Preset:
    """A kind of system, by a name.

    Attributes
    ----------
    name : str
        The product's, or what it is.
    kind : str
        As in the textbook: `"type 0"`, `"type 1"`, and so on.
    make : callable
        Given the preset and the options, returns the running system.
    words : mapping
        What its parts are called: `"vmm"`, `"host"`, `"guest"`, `"control"`, `"process"`.
    first_guest : int
        Index of the first guest that runs the workload: 1 where there is a control domain.
    """

    name: str
    kind: str
    make: Callable[..., Running]
    words: Mapping[str, str] = field(default_factory=dict)
    first_guest: int = 0

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its options."""
        return tuple(signature(self.make).parameters)[1:]

    @property
    def alone(self) -> dict[str, int]:
        """Options with which one guest runs, and nothing beside it."""
        return {name: least for name, least in {"guests": 1, "processes": 0}.items() if name in self.options}

    @property
    def particulars(self) -> Particulars | ContainmentParticulars | None:
        """What is documented of the product; None for what is none."""
        return PARTICULARS.get(self.name) or CONTAINED.get(self.name)

    def build(self, **options: int) -> Running:
        """Build the system."""
        return self.make(self, **options)

    def describe(self) -> str:
        """Say what it is, with what is documented of it."""
        lines = [f"{self.name}: {self.kind}"]
        known = self.particulars
        if known:
            lines += [f"- {fact}" for fact in known.facts]
            lines += [f"runs here: {known.runs}", f"not here: {known.not_here}", f"source: {known.source}"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.describe()


def _system(kind: type[System], images: list[Image]) -> System:
    """Build a system on the x86 computer, with a disk of the workload's for each guest."""
    cpu = HOST_CPU if kind is Partitioned or NESTED in [image.name for image in images] else GUEST_CPU
    system = kind(
        images,
        memory_size=MEMORY,
        model=CPU_MODELS[cpu],
        trace=Trace("none"),
        max_instructions=LIMIT,
        input=b"",
        keys=[],
        disks=[workload_disk()],
        host_model=CPU_MODELS[HOST_CPU if kind.assisted else cpu],
    )
    for machine in system.computers:
        machine.engine = Engine()
    return system


def _count(number: object, what: str, least: int) -> int:
    if type(number) is not int or not least <= number <= MOST_GUESTS:
        raise OptionError(f"{what} are {least} to {MOST_GUESTS}, not {number!r}")
    return number


def _native(preset: Preset) -> Running:
    return X86Running(preset, lambda _=1: _system(Native, [workload()]))


def workload() -> Image:
    """Return the guest that every kind runs."""
    return load("workload")


def _type_1(kind: type[System]) -> Callable[..., Running]:
    def make(preset: Preset, guests: int = 2) -> Running:
        count = _count(guests, "guests", 1)
        return X86Running(preset, lambda n=count: _system(kind, [workload()] * n))

    return make


def _nested(preset: Preset, guests: int = 2) -> Running:
    count = _count(guests, "guests that are hypervisors", 1)
    return X86Running(preset, lambda n=count: _system(Monolithic, [hypervisor()] * n))


def hypervisor() -> Image:
    """Return the guest that is itself a hypervisor, with the workload's kernel for its own guest."""
    return load(NESTED)


def _partitioned(preset: Preset, guests: int = 2, nested: int = 0) -> Running:
    count = _count(guests, "guests beside the control domain", 1)
    if type(nested) is not int or nested not in (0, 1):
        raise OptionError(f"nested is 1 where the last partition's kernel is a hypervisor, or 0, not {nested!r}")

    def build(n: int = count) -> System:
        last = nested if n == count else 0
        return _system(Partitioned, [control(), *[workload()] * (n - last), *[hypervisor()] * last])

    return X86Running(preset, build)


def _controlled(kind: type[System]) -> Callable[..., Running]:
    def make(preset: Preset, guests: int = 2) -> Running:
        count = _count(guests, "guests beside the control domain", 1)
        return X86Running(preset, lambda n=count: _system(kind, [control(), *[workload()] * n]))

    return make


def control() -> Image:
    """Return the kernel of a control domain."""
    return load("control")


def _hosted(kind: type[Hosted]) -> Callable[..., Running]:
    def make(preset: Preset, guests: int = 2, processes: int = 1) -> Running:
        count, others = _count(guests, "guests", 1), _count(processes, "processes of the host's", 0)

        def build(n: int = count) -> System:
            system = _system(kind, [workload()] * n)
            assert isinstance(system, Hosted), "a host's operating system is there"
            for _ in range(others if n == count else 0):
                system.start_process("workload", program())
            return system

        return X86Running(preset, build)

    return make


def program() -> bytes:
    """Return the workload's program alone, as another kernel loads it."""
    image = workload()
    start, end = (image.symbols[name] for name in ("program", "program_end"))
    segment = next(each for each in image.segments if each.address <= start < each.address + len(each.data))
    return segment.data[start - segment.address : end - segment.address]


def _managed(threshold: int) -> Callable[..., Running]:
    return lambda preset: JavaRunning(preset, threshold)


def _contained(preset: Preset, scene: int = 0) -> Running:
    if type(scene) is not int or not 0 <= scene <= LAST_SCENE:
        raise OptionError(f"scenes are 0 to {LAST_SCENE}, not {scene!r}")
    return ContainedRunning(preset, lambda _=1: _system(ContainingSystem, [load("containers", SCENE=scene)]))


def _ported(preset: Preset, guests: int = 2) -> Running:
    count = _count(guests, "guests", 1)
    return X86Running(preset, lambda n=count: _system(Paravirtualization, [ported()] * n))


def ported() -> Image:
    """Return the workload's kernel, ported to the paravirtualizing hypervisor."""
    return load("workload_pv")


PROGRAMMING = "programming-environment virtualization"
CONTAINMENT = "application containment"
VM = {"guest": "VM", "process": "process"}
PRESETS: dict[str, Preset] = {
    each.name: each
    for each in (
        Preset("native machine", "none", _native, {"guest": "system"}),
        Preset("plain VM", "type 1", _type_1(Monolithic), {**VM, "vmm": "VMM"}),
        Preset("nested virtualization", "type 1 in a guest of type 1", _nested, {"vmm": "L0 hypervisor", "guest": "L1 hypervisor"}),
        Preset("IBM LPAR", "type 0", _partitioned, {"vmm": "PR/SM firmware", "guest": "partition", "control": "I/O partition (VIOS)"}, 1),
        Preset("Oracle LDOM", "type 0", _partitioned, {"vmm": "hypervisor firmware", "guest": "guest domain", "control": "control domain"}, 1),
        Preset("VMware ESX", "type 1", _type_1(Monolithic), {**VM, "vmm": "VMkernel"}),
        Preset("Joyent SmartOS", "type 1", _hosted(Hosted), {"guest": "VM", "vmm": "KVM, in the illumos kernel", "host": "illumos kernel", "process": "QEMU, in a zone,"}),
        Preset("Citrix XenServer", "type 1", _controlled(ControlDomain), {"vmm": "Xen", "guest": "domain U", "control": "domain 0"}, 1),
        Preset("Microsoft Hyper-V", "type 1 in a general-purpose OS", _controlled(ControlDomain), {"vmm": "Hyper-V hypervisor", "guest": "child partition", "control": "root partition"}, 1),
        Preset("Red Hat KVM", "type 1 in a general-purpose OS", _hosted(Hosted), {"guest": "VM", "vmm": "KVM module", "host": "Linux kernel", "process": "QEMU"}),
        Preset("VMware Workstation", "type 2", _hosted(OwnWorld), {"guest": "VM", "vmm": "VMM", "host": "host OS kernel with VMDriver", "process": "VMApp"}),
        Preset("VMware Fusion", "type 2", _hosted(OwnWorld), {"guest": "VM", "vmm": "VMM", "host": "macOS kernel with a driver", "process": "vmware-vmx"}),
        Preset("Parallels Desktop", "type 2", _hosted(OwnWorld), {"guest": "VM", "vmm": "VMM", "host": "macOS kernel with a driver", "process": "prl_vm_app"}),
        Preset("Oracle VirtualBox", "type 2", _hosted(Hosted), {"guest": "VM", "vmm": "VMMR0, in the host's kernel", "host": "host OS kernel with vboxdrv", "process": "VirtualBoxVM"}),
        Preset("Xen", "paravirtualization", _ported, {"guest": "domain U", "vmm": "Xen"}),
        Preset("Oracle Java", PROGRAMMING, _managed(USUAL), {"guest": "Java program", "vmm": "Java virtual machine (HotSpot)", "host": "host OS kernel"}),
        Preset("Microsoft .NET", PROGRAMMING, _managed(AT_ONCE), {"guest": "managed program", "vmm": "Common Language Runtime", "host": "host OS kernel"}),
        Preset("AArch64 emulator", "emulator", ArmRunning, {"vmm": "emulator", "guest": "AArch64 system"}),
        Preset("Oracle Solaris Zones", CONTAINMENT, _contained, {"guest": "Solaris kernel", "global": "global zone", "container": "zone"}),
        Preset("BSD Jails", CONTAINMENT, _contained, {"guest": "FreeBSD kernel", "global": "host", "container": "jail"}),
        Preset("IBM AIX WPAR", CONTAINMENT, _contained, {"guest": "AIX kernel", "global": "global environment", "container": "WPAR"}),
    )
}  # fmt: skip
"""By name, in the order of the textbook."""


def preset(name: object, **options: int) -> Running:
    """Build a system by its name, ready to run.

    Parameters
    ----------
    name : str
        A key of `PRESETS`, in any case.
    **options : int
        `guests`, 1 to 4; `processes` of the host's own, where there is a host's operating system; `nested`, 1 where the last
        partition's kernel is itself a hypervisor.

    Raises
    ------
    OptionError
        No such preset, or it has no such option.

    Examples
    --------
    >>> kvm = preset("Red Hat KVM", guests=1, processes=0).run()
    >>> kvm.results
    {'guest0': 'primes 303 disk e3ad8000 pages 36'}
    """
    chosen = find_preset(name)
    for option in options:
        if option not in chosen.options:
            words = f"only {', '.join(chosen.options)}" if chosen.options else "none"
            raise OptionError(f"preset {chosen.name!r} has no option {option!r}: {words}")
    return chosen.build(**options)


def preset_of(name: object, images: list[Image]) -> Running:
    """Build a system of type 1 by its name, with guests of one's own instead of the workload.

    Parameters
    ----------
    name : str
        `"plain VM"` or `"VMware ESX"`.
    images : list of Image
        What the guests boot; each has a disk of the workload's.

    Raises
    ------
    OptionError
        A preset whose guests cannot be chosen.
    """
    chosen = find_preset(name)
    if chosen.name not in ("plain VM", "VMware ESX"):
        raise OptionError(
            f"the guests of {chosen.name!r} cannot be chosen: take 'plain VM', or vmlab.run(..., under='vt-x')"
        )
    own = [*images]
    return X86Running(chosen, lambda count=MOST_GUESTS: _system(Monolithic, own[:count]))


def find_preset(name: object) -> Preset:
    """Return a preset by its name, in any case; OptionError for none."""
    by_lower = {each.lower(): each for each in PRESETS}
    if isinstance(name, str) and name.lower() in by_lower:
        return PRESETS[by_lower[name.lower()]]
    close = difflib.get_close_matches(str(name).lower(), by_lower, 1, 0.5)
    hint = f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
    raise OptionError(f"there is no preset {name!r}{hint}: choose one of {', '.join(PRESETS)}")
