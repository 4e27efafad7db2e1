"""Write binder/requirements.txt: one exact version of every package that vmlab needs, as pip resolves them today.

    python -m tools.pin_binder

Run it with the Python that binder/runtime.txt names: an older or newer one resolves to other versions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["main"]

PROJECT = Path(__file__).parents[1]
BINDER = PROJECT / "binder"

HEADER = """\
# What vmlab needs, and what that needs, for Binder: written by `make pins` with Python {version}.
# vmlab itself is installed by postBuild, so that this layer of the image is kept while only vmlab changes.
"""


def resolve(requirements: list[str]) -> list[tuple[str, str]]:
    """Return the names and versions that pip would install into an empty environment, in alphabetical order."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run([*command, *requirements], capture_output=True, text=True, check=True).stdout
    packages: list[dict[str, Any]] = json.loads(report)["install"]
    return sorted((package["metadata"]["name"].lower(), package["metadata"]["version"]) for package in packages)


def main() -> int:
    """Write the file; return 1 if this is the wrong Python."""
    wanted = (BINDER / "runtime.txt").read_text().strip().removeprefix("python-")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version != wanted:
        print(f"Binder runs Python {wanted}, this is {version}: make PYTHON=python{wanted} pins", file=sys.stderr)
        return 1
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    pins = resolve(project["dependencies"])
    lines = "".join(f"{name}=={release}\n" for name, release in pins)
    (BINDER / "requirements.txt").write_text(HEADER.format(version=version) + lines)
    print(f"{len(pins)} packages pinned")
    return 0


if __name__ == "__main__":
    sys.exit(main())
