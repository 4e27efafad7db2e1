"""`import vmlab`: quick, and everything is there when it is asked for."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

import vmlab
from vmlab.errors import VmlabError


def modules_after(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after some code."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    return set(done.stdout.split())


def test_import_loads_nothing():
    loaded = modules_after("import vmlab")
    assert not loaded & {"plotly", "ipywidgets", "anywidget", "networkx", "numpy", "IPython", "hashlib", "dataclasses"}
    assert {name for name in loaded if name.startswith("vmlab")} == {"vmlab"}


def test_running_a_guest_needs_no_picture():
    loaded = modules_after(
        "import vmlab\nr = vmlab.run(vmlab.guests.load('hello'), 'trap-and-emulate')\nassert r.outcome == 'exit'"
    )
    assert not loaded & {"plotly", "ipywidgets", "anywidget", "networkx", "numpy", "IPython"}


@pytest.mark.parametrize("missing", ["plotly", "ipywidgets", "anywidget", "numpy"])
def test_everything_below_views_works_without(missing):
    modules_after(
        f"import sys\nsys.modules[{missing!r}] = None\nimport vmlab\nimage = vmlab.guests.load('hello')\n"
        "assert vmlab.compare(image).faithful\nassert vmlab.record(image).length\nvmlab.classify()\nvmlab.disassemble(b'\\x90', 0)"
    )


@pytest.mark.parametrize("name", vmlab.__all__)
def test_every_name_is_there(name):
    value = getattr(vmlab, name)
    assert value is getattr(vmlab, name)
    if not isinstance(value, type(vmlab)) and name.islower():
        assert value.__doc__


def test_names_are_told():
    assert set(dir(vmlab)) == {*vmlab.__all__, "__version__"}
    assert len(set(vmlab.__all__)) == len(vmlab.__all__)


@pytest.mark.parametrize("name", ["runn", "numpy", "_run", "errors_", "RUN"])
def test_unknown_attributes(name):
    with pytest.raises(AttributeError, match=f"module 'vmlab' has no attribute '{name}'"):
        getattr(vmlab, name)
    with pytest.raises(ImportError):
        exec(f"from vmlab import {name}")


def test_star_import_brings_all_names():
    space = {}
    exec("from vmlab import *", space)
    assert set(vmlab.__all__) <= set(space)


def test_errors_have_one_base():
    for name in ("AssemblyError", "ImageError", "OptionError", "StateError"):
        assert issubclass(getattr(vmlab, name), VmlabError)


def test_the_version_is_the_projects(project):
    tomllib = importlib.import_module("tomllib")
    assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"] == vmlab.__version__


def test_what_a_notebook_writes(tmp_path):
    image = vmlab.assemble("start: mov al, 'x'\n mov dx, 0x3F8\n out dx, al\n mov al, 1\n out 0xF4, al")
    run = vmlab.run(image, under="trap-and-emulate")
    assert (run.console, run.outcome, run.status, run.instructions) == ("x", "exit", 3, 5)
    assert run.cycles == sum(run.cycles_by_cause.values())
    assert run.exits["I/O instruction"] == 2
    assert "2  I/O instruction" in repr(run)
    comparison = vmlab.compare(image, under=["native", "trap-and-emulate"])
    assert comparison.faithful
    assert "cannot tell the difference" in repr(comparison)
    recording = vmlab.record(image, under="trap-and-emulate")
    assert recording.next("trap").kind == "trap"
    path = tmp_path / "image.bin"
    path.write_bytes(image.segments[0].data)
    assert vmlab.run(vmlab.load(path)).console == "x"


def test_a_guest_that_misses_a_feature_is_told_which_processor_has_it():
    wants_long_mode = vmlab.assemble("start: mov ecx, 0xC0000080\nrdmsr\nhlt\n")
    run = vmlab.run(wants_long_mode)
    assert run.outcome == "triple-fault"
    assert run.advice == ["the guest asked for IA32_EFER, which the CPU model pentium-4 has not: try cpu='core-2'"]
    assert "hint: the guest asked for IA32_EFER" in run.describe()
    assert vmlab.run(wants_long_mode, cpu="core-2").advice == []
    assert vmlab.run(vmlab.guests.load("hello")).advice == []
