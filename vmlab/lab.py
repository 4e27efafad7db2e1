"""Opening the notebooks in JupyterLab: what `vmlab lab` and `make lab` run.

Notebooks of an installed package are copied to `vmlab-notebooks` in the current folder first, so that a student's
changes stay his own and nothing is written into the installation; a file that is there already is left alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from vmlab.doctor import FIRST_NOTEBOOK, notebooks_folder
from vmlab.errors import OptionError

__all__ = ["command", "writable_notebooks"]

COPY = "vmlab-notebooks"


def writable_notebooks() -> Path:
    """Return a folder with the notebooks in which a user may write.

    Raises
    ------
    OptionError
        The notebooks are not installed, or cannot be copied here.
    """
    folder = notebooks_folder()
    if folder is None:
        raise OptionError(
            "the notebooks are missing from this installation: in vmlab's source tree run 'pip install .'"
        )
    if folder.name != "_notebooks":
        return folder  # a source tree
    target = Path.cwd() / COPY
    try:
        target.mkdir(exist_ok=True)
        for source in sorted(path for path in folder.iterdir() if path.suffix in (".ipynb", ".md")):
            if not (target / source.name).exists():
                shutil.copyfile(source, target / source.name)
    except OSError as error:
        raise OptionError(
            f"the notebooks cannot be copied to {target}: {error.strerror}; go to a writable folder"
        ) from None
    return target


def command(options: list[str]) -> list[str]:
    """Return the command that opens JupyterLab on the first notebook.

    Parameters
    ----------
    options : list of str
        Further options for `jupyter lab`.
    """
    line = [sys.executable, "-m", "jupyterlab", str(writable_notebooks() / FIRST_NOTEBOOK)]
    line.append(f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        line.append("--allow-root")
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not shown and sys.platform.startswith("linux"):
        line.append("--no-browser")
    return line + options
