"""Opening the notebooks: the command, and where the notebooks are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vmlab import lab
from vmlab.errors import OptionError


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed copy of the notebooks, and an empty current folder."""
    folder = tmp_path / "site" / "vmlab" / "_notebooks"
    folder.mkdir(parents=True)
    for name in ("00-start-here.ipynb", "01-layers.ipynb", "glossary.md"):
        (folder / name).write_text(f"installed {name}")
    monkeypatch.setattr(lab, "notebooks_folder", lambda: folder)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


def test_installed_notebooks_are_copied_once(installed, tmp_path):
    folder = lab.writable_notebooks()
    assert folder == tmp_path / "work" / "vmlab-notebooks"
    assert sorted(path.name for path in folder.iterdir()) == ["00-start-here.ipynb", "01-layers.ipynb", "glossary.md"]
    (folder / "01-layers.ipynb").write_text("a student's work")
    assert lab.writable_notebooks() == folder
    assert (folder / "01-layers.ipynb").read_text() == "a student's work"


def test_a_file_in_the_way_is_said(installed):
    Path("vmlab-notebooks").touch()
    with pytest.raises(OptionError, match="cannot be copied"):
        lab.writable_notebooks()


def test_missing_notebooks_are_said(monkeypatch):
    monkeypatch.setattr(lab, "notebooks_folder", lambda: None)
    with pytest.raises(OptionError, match="pip install"):
        lab.writable_notebooks()


def test_the_source_trees_own_notebooks_are_opened(monkeypatch, project):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    command = lab.command(["--port=8899"])
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert command[3] == str(project / "notebooks" / "00-start-here.ipynb")
    assert "--LabApp.default_url=/lab/tree/00-start-here.ipynb" in command
    assert command[-1] == "--port=8899"
    if sys.platform.startswith("linux"):
        assert "--no-browser" in command
