"""What is wrong with an environment, and how to mend it.

A lab that shows no picture has mostly one of a few causes: JupyterLab runs in another Python than the one which holds
vmlab, a package is missing or old, a widget's browser half is not where JupyterLab looks for it. `diagnose` looks for
each and says what to run. Nothing is imported that might itself be broken: versions are read from the packages' metadata.

Read more: https://docs.jupyter.org/en/latest/use/jupyter-directories.html
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["Check", "diagnose", "notebooks_folder"]

OLDEST_PYTHON = (3, 11)

LAB_EXTENSIONS = {"anywidget": "anywidget", "ipywidgets": "@jupyter-widgets/jupyterlab-manager"}
"""Where the browser half of a package lies, below a `labextensions` folder."""

FIRST_NOTEBOOK = "00-start-here.ipynb"

_PACKAGE = Path(__file__).parent
_PIP = f"{sys.executable} -m pip install"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What was looked at.
    ok : bool
        Whether it is as it should be.
    found : str
        What is there: a version, a path, what is missing.
    advice : str
        What to do about it; empty if `ok`.
    """

    name: str
    ok: bool
    found: str
    advice: str = ""


def diagnose() -> list[Check]:
    """Look at the environment and return every finding, the good ones too, in the order in which to mend them.

    Examples
    --------
    >>> [check.name for check in diagnose()][0]
    'Python'
    """
    return [_python(), *_packages(), *_lab_extensions(), _kernel(), _command(), _notebooks()]


def notebooks_folder() -> Path | None:
    """Return the folder that holds the notebooks: the installed copy, or the one of a source tree; None if neither."""
    for folder in (_PACKAGE / "_notebooks", _PACKAGE.parent / "notebooks"):
        if (folder / FIRST_NOTEBOOK).is_file():
            return folder
    return None


def _python() -> Check:
    found = f"{sys.version.split()[0]} ({sys.executable})"
    oldest = ".".join(map(str, OLDEST_PYTHON))
    ok = sys.version_info >= OLDEST_PYTHON
    return Check(
        "Python", ok, found, "" if ok else f"vmlab needs Python {oldest} or newer: make an environment with one"
    )


def _packages() -> Iterator[Check]:
    """Check vmlab itself and each package that its metadata asks for."""
    try:
        yield Check("vmlab", ok=True, found=metadata.version("vmlab"))
    except metadata.PackageNotFoundError:
        advice = f"in vmlab's source tree: {_PIP} ."
        yield Check("vmlab", ok=False, found="not installed, though it can be imported", advice=advice)
        return
    for requirement in metadata.requires("vmlab") or ():
        match = re.match(r"(?P<name>[\w.-]+)\s*(?:>=\s*(?P<oldest>[\d.]+))?", requirement)
        if match is not None and "extra ==" not in requirement:
            yield _package(match["name"], match["oldest"] or "0")


def _package(name: str, oldest: str) -> Check:
    advice = f'{_PIP} --upgrade "{name}>={oldest}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, ok=False, found="not installed", advice=advice)
    ok = _numbers(version) >= _numbers(oldest)
    found = version if ok else f"{version}, older than {oldest}"
    return Check(name, ok, found, "" if ok else advice)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version: (4, 6, 1) for '4.6.1rc2'."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match is not None else ()


def _data_folders() -> list[Path]:
    """Return the folders where Jupyter looks for data, in its order."""
    try:
        from jupyter_core.paths import jupyter_path  # noqa: PLC0415  # may be missing: that is what we are here to find
    except ImportError:
        return [Path(sys.prefix) / "share" / "jupyter"]
    return [Path(folder) for folder in jupyter_path()]


def _lab_extensions() -> Iterator[Check]:
    """Check that JupyterLab finds the browser half of each widget package."""
    folders = _data_folders()
    for package, extension in LAB_EXTENSIONS.items():
        name = f"{package} in JupyterLab"
        places = [folder / "labextensions" / extension for folder in folders]
        place = next((place for place in places if (place / "package.json").is_file()), None)
        if place is not None:
            yield Check(name, ok=True, found=str(place))
        else:
            # jupyterlab_widgets carries the browser half of ipywidgets.
            carrier = "jupyterlab_widgets" if package == "ipywidgets" else package
            advice = f"{_PIP} --force-reinstall --no-deps {carrier}, then reload JupyterLab in the browser"
            yield Check(name, ok=False, found=f"no {extension} in any labextensions folder", advice=advice)


def _kernel() -> Check:
    """Check that the kernel which notebooks ask for (`python3`) is this Python."""
    name = "notebook kernel"
    files = [folder / "kernels" / "python3" / "kernel.json" for folder in _data_folders()]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return Check(name, ok=False, found="no kernel named python3", advice=f"{_PIP} --force-reinstall ipykernel")
    try:
        program = str(json.loads(file.read_text(encoding="utf-8"))["argv"][0])
    except (ValueError, LookupError, OSError):
        return Check(name, ok=False, found=f"{file} is damaged", advice=f"{_PIP} --force-reinstall ipykernel")
    # A bare `python` stands for the Python that runs JupyterLab.
    ok = not os.path.isabs(program) or _is_ours(program)  # noqa: PTH117  # a name, not yet a path
    advice = f"{sys.executable} -m ipykernel install --sys-prefix makes notebooks run in this Python"
    return Check(name, ok, program if not ok else str(file), "" if ok else advice)


def _command() -> Check:
    """Check that the command `jupyter-lab`, if there is one, is this environment's."""
    name = "jupyter-lab command"
    command = shutil.which("jupyter-lab")
    if command is None:
        return Check(name, ok=True, found="not on the PATH (`vmlab lab` does not need it)")
    ok = _is_ours(command)
    advice = f"it starts another environment's JupyterLab: use `vmlab lab`, or {sys.executable} -m jupyterlab"
    return Check(name, ok, command, "" if ok else advice)


def _is_ours(program: str) -> bool:
    """Tell whether `program` belongs to this environment: an environment's Python is often a link to another's."""
    try:
        return Path(program).parent.samefile(Path(sys.executable).parent)
    except OSError:
        return False


def _notebooks() -> Check:
    folder = notebooks_folder()
    if folder is not None:
        return Check("notebooks", ok=True, found=str(folder))
    advice = f"in vmlab's source tree: {_PIP} --force-reinstall --no-deps ."
    return Check("notebooks", ok=False, found=f"no {FIRST_NOTEBOOK} beside the package", advice=advice)
