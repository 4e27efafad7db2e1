"""vmlab: a virtual-machine laboratory in a notebook.

A whole computer in Python (an x86 processor with rings, segmentation, paging and interrupts, and a PC's devices),
hypervisors that run real guest code on it, and pictures of everything that happens.

>>> import vmlab
>>> run = vmlab.run(vmlab.guests.load("hello"), under="trap-and-emulate")
>>> print(run.console, end="")
Hello from a real x86 guest.

Everything here is imported when it is first used, so that `import vmlab` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmlab import guests, labs, views
    from vmlab.errors import AssemblyError, ImageError, OptionError, StateError, VmlabError
    from vmlab.guests.arm64 import arm64
    from vmlab.isa.x86 import classify, disassemble
    from vmlab.jvm.run import java
    from vmlab.kinds.matrix import matrix as compare_kinds
    from vmlab.kinds.presets import PRESETS, preset
    from vmlab.labs.nanobenchmarks import nanobenchmarks
    from vmlab.machine import when
    from vmlab.machine.cpu_model import CPU_MODELS
    from vmlab.machine.image import Image, load
    from vmlab.machine.program import assemble, boot_sector
    from vmlab.machine.recording import Recording
    from vmlab.terms.glossary import glossary
    from vmlab.views.layers import layers
    from vmlab.views.memory_map import memory_map
    from vmlab.views.page_tables import page_tables
    from vmlab.views.page_walk import walk
    from vmlab.views.timeline import timeline
    from vmlab.views.translations import translations
    from vmlab.vmm.compare import compare
    from vmlab.vmm.containers import containers
    from vmlab.vmm.debugger import Debugger
    from vmlab.vmm.requirements import requirements
    from vmlab.vmm.run import Run, record, run
    from vmlab.vmm.sensitive import sensitive
    from vmlab.vmm.snapshot import Snapshot, load_state, save
    from vmlab.vmm.techniques import TECHNIQUES
    from vmlab.vmm.thin_vm import ThinVm
    from vmlab.vmm.vmcs_view import vmcs
    from vmlab.vmm.walk_lab import WalkLab
    from vmlab.widgets import console, debug, show, show_layers, show_vmcs, show_walk

__version__ = "0.1.0"

__all__ = [
    "CPU_MODELS", "PRESETS", "TECHNIQUES", "AssemblyError", "Debugger", "Image", "ImageError", "OptionError",
    "Recording", "Run", "Snapshot", "StateError", "ThinVm", "VmlabError", "WalkLab", "arm64", "assemble", "boot_sector",
    "classify", "compare", "compare_kinds", "console", "containers", "debug", "disassemble", "glossary", "guests",
    "java", "labs", "layers", "load", "load_state", "memory_map", "nanobenchmarks", "page_tables", "preset", "record",
    "requirements", "run", "save", "sensitive", "show", "show_layers", "show_vmcs", "show_walk", "timeline", "translations", "views",
    "vmcs", "walk", "when",
]  # fmt: skip

_PLACES = {
    "CPU_MODELS": "vmlab.machine.cpu_model",
    "TECHNIQUES": "vmlab.vmm.techniques",
    "AssemblyError": "vmlab.errors",
    "Debugger": "vmlab.vmm.debugger",
    "Image": "vmlab.machine.image",
    "ImageError": "vmlab.errors",
    "OptionError": "vmlab.errors",
    "PRESETS": "vmlab.kinds.presets",
    "Recording": "vmlab.machine.recording",
    "Run": "vmlab.vmm.run",
    "Snapshot": "vmlab.vmm.snapshot",
    "StateError": "vmlab.errors",
    "VmlabError": "vmlab.errors",
    "ThinVm": "vmlab.vmm.thin_vm",
    "WalkLab": "vmlab.vmm.walk_lab",
    "arm64": "vmlab.guests.arm64",
    "assemble": "vmlab.machine.program",
    "boot_sector": "vmlab.machine.program",
    "classify": "vmlab.isa.x86",
    "compare": "vmlab.vmm.compare",
    "compare_kinds": "vmlab.kinds.matrix:matrix",
    "console": "vmlab.widgets",
    "containers": "vmlab.vmm.containers",
    "debug": "vmlab.widgets",
    "disassemble": "vmlab.isa.x86",
    "glossary": "vmlab.terms.glossary",
    "java": "vmlab.jvm.run",
    "layers": "vmlab.views.layers",
    "load": "vmlab.machine.image",
    "load_state": "vmlab.vmm.snapshot",
    "memory_map": "vmlab.views.memory_map",
    "nanobenchmarks": "vmlab.labs.nanobenchmarks",
    "page_tables": "vmlab.views.page_tables",
    "preset": "vmlab.kinds.presets",
    "record": "vmlab.vmm.run",
    "requirements": "vmlab.vmm.requirements",
    "run": "vmlab.vmm.run",
    "save": "vmlab.vmm.snapshot",
    "sensitive": "vmlab.vmm.sensitive",
    "show": "vmlab.widgets",
    "show_layers": "vmlab.widgets",
    "show_vmcs": "vmlab.widgets",
    "show_walk": "vmlab.widgets",
    "timeline": "vmlab.views.timeline",
    "translations": "vmlab.views.translations",
    "vmcs": "vmlab.vmm.vmcs_view",
    "walk": "vmlab.views.page_walk",
}
_MODULES = {"guests": "vmlab.guests", "labs": "vmlab.labs", "views": "vmlab.views", "when": "vmlab.machine.when"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _PLACES:
        raise AttributeError(f"module 'vmlab' has no attribute {name!r}")
    place, _, other = _PLACES[name].partition(":")
    value = getattr(importlib.import_module(place), other or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
