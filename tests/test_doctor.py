"""The doctor finds what is wrong, one sickness a test, and says what to run."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from vmlab import doctor
from vmlab.doctor import diagnose, notebooks_folder


def finding(name):
    return next(check for check in diagnose() if check.name == name)


@pytest.fixture
def jupyter_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_data_folders", lambda: [tmp_path])
    return tmp_path


def test_this_environment_is_healthy():
    assert [check for check in diagnose() if not check.ok] == []


def test_every_sickness_has_an_advice_and_health_has_none(jupyter_folder):
    assert all(bool(check.advice) != check.ok for check in diagnose())


def test_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert "3.11" in finding("Python").advice


def test_every_dependency_is_looked_at():
    names = {check.name for check in diagnose()}
    assert names >= {"anywidget", "ipywidgets", "jupyterlab", "networkx", "plotly"}


def test_missing_package(monkeypatch):
    genuine = importlib.metadata.version

    def version(name):
        if name == "plotly":
            raise importlib.metadata.PackageNotFoundError(name)
        return genuine(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    check = finding("plotly")
    assert not check.ok
    assert check.found == "not installed"
    assert f"{sys.executable} -m pip install" in check.advice


def test_old_package(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["plotly>=99.5"])
    check = finding("plotly")
    assert not check.ok
    assert check.found.endswith("older than 99.5")
    assert '"plotly>=99.5"' in check.advice


def test_not_installed(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert not finding("vmlab").ok


def test_widget_without_its_browser_half(jupyter_folder):
    assert not finding("anywidget in JupyterLab").ok
    assert "jupyterlab_widgets" in finding("ipywidgets in JupyterLab").advice


@pytest.mark.parametrize(("program", "ok"), [("python", True), (sys.executable, True), ("/usr/bin/env", False)])
def test_kernel_of_another_python(jupyter_folder, program, ok):
    file = jupyter_folder / "kernels" / "python3" / "kernel.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"argv": [program, "-m", "ipykernel_launcher"]}))
    assert finding("notebook kernel").ok is ok


@pytest.mark.parametrize("text", ["", "{}", '{"argv": []}'])
def test_damaged_kernel(jupyter_folder, text):
    file = jupyter_folder / "kernels" / "python3" / "kernel.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert "damaged" in finding("notebook kernel").found


def test_no_kernel(jupyter_folder):
    assert not finding("notebook kernel").ok


def test_jupyter_command_of_another_environment(tmp_path, monkeypatch):
    command = tmp_path / "jupyter-lab"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "vmlab lab" in finding("jupyter-lab command").advice


def test_notebooks_are_found_in_the_source_tree_and_in_an_installation(tmp_path, monkeypatch):
    assert notebooks_folder() == Path(doctor.__file__).parents[1] / "notebooks"
    monkeypatch.setattr(doctor, "_PACKAGE", tmp_path / "vmlab")
    assert notebooks_folder() is None
    assert not finding("notebooks").ok
    for folder in (tmp_path / "notebooks", tmp_path / "vmlab" / "_notebooks"):  # the latter goes before
        folder.mkdir(parents=True)
        (folder / "00-start-here.ipynb").touch()
        assert notebooks_folder() == folder
