"""The project's own files agree with each other, and what is built from them is complete."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vmlab

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
METADATA = PYPROJECT["project"]
REQUIREMENTS = [Requirement(text) for text in METADATA["dependencies"]]


def run(*command, **options):
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, **options)


# -- one version -------------------------------------------------------------------------------------------------------


def test_one_version_everywhere():
    version = METADATA["version"]
    assert vmlab.__version__ == version
    assert importlib.metadata.version("vmlab") == version, "make lab installs it anew"
    assert f"\nversion: {version}\n" in (PROJECT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (PROJECT / "CHANGELOG.md").read_text()


# -- binder ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pins():
    lines = (PROJECT / "binder" / "requirements.txt").read_text().splitlines()
    pinned = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pinned), "one exact version a line, no path, no option"
    return {canonicalize_name(name): version for name, version in pinned}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_a_pin_satisfies_the_bounds(pins, requirement):
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_pins_are_closed(pins):
    # What a pinned package needs is pinned too, else Binder would take whatever is newest. Their needs are read from the
    # packages installed here, so far as they are of the pinned versions.
    binder = {"python_version": "3.11", "python_full_version": "3.11.9", "extra": ""}
    installed = {canonicalize_name(found.name): found for found in importlib.metadata.distributions()}
    needed = {
        canonicalize_name(requirement.name)
        for name, version in pins.items()
        if name in installed and installed[name].version == version
        for requirement in map(Requirement, installed[name].requires or ())
        if requirement.marker is None or requirement.marker.evaluate(binder)
    }
    assert {"ipykernel", "jupyter-server", "traitlets"} <= needed
    assert needed <= set(pins)


def test_binder_runs_a_python_that_vmlab_supports():
    runtime = (PROJECT / "binder" / "runtime.txt").read_text().strip()
    assert re.fullmatch(r"python-3\.1[1-3]", runtime)


def test_binder_installs_vmlab_over_the_pins():
    script = PROJECT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    assert "pip install --no-cache-dir --no-deps ." in script.read_text()
    json.loads((PROJECT / "binder" / "overrides.json").read_text())


# -- scripts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script", [".ci/run", "binder/postBuild", "tools/find_python.sh", "tools/requirements.sh"], ids=str
)
def test_scripts_are_executable_and_parse(script):
    assert os.access(PROJECT / script, os.X_OK)
    result = run("bash", "-n", script)
    assert result.returncode == 0, result.stderr


def test_make_says_what_it_can():
    make = (PROJECT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", make, re.MULTILINE)[1].split())
    told = set(re.findall(r"make ([a-z-]+)", run("make").stdout))
    assert {"lab", "test", "check", "bench", "clean"} <= told <= targets
    for target in sorted(targets):
        result = run("make", "--dry-run", target)
        assert result.returncode == 0, result.stderr


def test_find_python_passes_over_what_does_not_serve(tmp_path):
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 0\n")  # as an interpreter that is too old: it prints no path
    old.chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    environment = {"PYTHON": str(old), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    result = run("tools/find_python.sh", env=environment)
    assert Path(result.stdout.strip()).exists()


def test_find_python_says_what_is_missing(tmp_path):
    (tmp_path / "head").symlink_to(shutil.which("head"))
    result = run("/bin/sh", "tools/find_python.sh", env={"PATH": str(tmp_path)})
    assert result.returncode == 1
    assert "vmlab needs Python 3.11 or newer" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def bare_machine(tmp_path):
    """A PATH with a few tools of the shell on it, no compiler, no assembler, no browser."""
    for tool in ("bash", "env", "mktemp", "rm", "uname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))

    def command(name, text):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)

    command("id", "echo 1000")
    return tmp_path, command


def test_requirements_tell_what_to_run(bare_machine):
    folder, command = bare_machine
    command("apt-get", "exit 99")  # it must not be called
    result = run("tools/requirements.sh", "test", env={"PATH": str(folder)})
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "sudo apt-get install -y nasm chromium" in result.stderr


def test_requirements_are_named_where_there_is_no_apt(bare_machine):
    folder, _ = bare_machine
    result = run("tools/requirements.sh", "test", env={"PATH": str(folder)})
    assert result.returncode == 1
    assert "nasm chromium" in result.stderr


def test_requirements_are_installed_as_root(bare_machine):
    folder, command = bare_machine
    command("id", "echo 0")
    command("apt-get", f'echo "$@" >> {folder}/called')
    result = run("tools/requirements.sh", "test", env={"PATH": str(folder)})
    update, install = (folder / "called").read_text().splitlines()
    assert "update" in update
    assert "install" in install
    assert "nasm" in install
    # The stand-in installed nothing: that is found out, and not tried for ever.
    assert result.returncode == 1
    assert "does not work here" in result.stderr


# -- what is built -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    result = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_every_file_of_the_package(wheel):
    tracked = run("git", "ls-files", "vmlab").stdout.split() or [
        path.relative_to(PROJECT).as_posix() for path in (PROJECT / "vmlab").rglob("*.*") if path.suffix != ".pyc"
    ]
    assert [name for name in tracked if not (wheel / name).is_file()] == []
    assert (wheel / "vmlab" / "py.typed").is_file()


def test_wheel_holds_the_notebooks(wheel):
    notebooks = {path.name for path in (PROJECT / "notebooks").glob("*.ipynb")}
    assert "00-start-here.ipynb" in notebooks
    assert {path.name for path in (wheel / "vmlab" / "_notebooks").glob("*.ipynb")} == notebooks


def test_wheel_serves_without_the_source_tree(wheel, tmp_path):
    program = (
        "import vmlab; from vmlab.doctor import notebooks_folder; print(vmlab.__file__); print(notebooks_folder())"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(wheel)!r}); {program}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split() == [str(wheel / "vmlab" / "__init__.py"), str(wheel / "vmlab" / "_notebooks")]
