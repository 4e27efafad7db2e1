"""Take the README's pictures: notebooks in a real JupyterLab, light and dark.

    python -m tools.screenshots              every picture into docs/images/
    python -m tools.screenshots stage lab    those alone

Each notebook is opened, run from the top, and moved to a telling moment by the keys that a student would press.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.lab_page import DARK, LIGHT, LabPage, chromium, open_page
from tools.lab_server import serve

__all__ = ["SHOTS", "Shot", "main", "take"]

PROJECT = Path(__file__).parents[1]
IMAGES = PROJECT / "docs" / "images"

STAGE = ".vmlab-stage"
FIGURE = ".js-plotly-plot"

THEMES = {"light": LIGHT, "dark": DARK}


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture.

    Attributes
    ----------
    name : str
        Its file is NAME-light.png or NAME-dark.png.
    notebook : str
        Which notebook to run.
    target : str
        CSS selector of what must be there before the picture is taken.
    keys : tuple of str
        Pressed one by one with the focus in the target.
    window : bool
        The whole window, with the target in sight; else the target alone.
    """

    name: str
    notebook: str
    target: str
    keys: tuple[str, ...] = ()
    window: bool = False


SHOTS = (
    Shot("lab", "00-start-here.ipynb", STAGE, keys=("n", "n"), window=True),
    Shot("layers", "01-layers.ipynb", FIGURE),
    Shot("console", "03-your-own-kernel.ipynb", ".vmlab-console"),
    Shot("debugger", "03-your-own-kernel.ipynb", ".vmlab-debugger"),
    Shot("stage", "02-trap-and-emulate.ipynb", STAGE, keys=("n", "n", "n")),
    Shot("walk", "07-page-tables.ipynb", ".vmlab-walk", keys=("n", "n", "n", "ArrowRight", "ArrowRight")),
)


def take(page: LabPage, shot: Shot, path: Path) -> None:
    """Bring `page`, whose notebook has run, to the moment of `shot`, and write the picture to `path`."""
    target = page.page.locator(shot.target).first
    target.wait_for(state="visible")
    target.scroll_into_view_if_needed()
    for key in shot.keys:
        target.press(key)
    page.page.wait_for_timeout(1500)  # transitions come to rest
    page.screenshot(path, None if shot.window else shot.target)


def main(arguments: list[str] | None = None) -> int:
    """Take the pictures that `arguments` name, or all; return the number of notebooks that failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots", description="Take the README's pictures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(shot.name for shot in SHOTS)}")
    parser.add_argument("--into", type=Path, default=IMAGES, help="folder for the pictures (default: docs/images)")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - {shot.name for shot in SHOTS}
    if unknown:
        parser.error(f"no picture is named {', '.join(sorted(unknown))}")
    wanted = [shot for shot in SHOTS if not options.names or shot.name in options.names]
    failed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(PROJECT / "notebooks", Path(folder) / "home") as server,
        chromium() as browser,
    ):
        for shot, theme in itertools.product(wanted, THEMES):
            with open_page(browser, server, scale=2) as page:
                page.open_notebook(shot.notebook, theme=THEMES[theme])
                page.run_all()
                for error in page.cell_errors():
                    failed += 1
                    print(f"{shot.notebook}: {error}", file=sys.stderr)
                path = options.into / f"{shot.name}-{theme}.png"
                take(page, shot, path)
                page.shut_down()
                print(path)
    return failed


if __name__ == "__main__":
    sys.exit(main())
