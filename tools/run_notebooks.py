"""Run the notebooks and store their outputs so that a second run changes no byte.

    python -m tools.run_notebooks                        every notebook
    python -m tools.run_notebooks notebooks/01-layers.ipynb ...

What is stored is what a reader without a kernel can use: text, tables, static pictures. The references to live widgets
go, as do the times of execution and the marks of the machine that ran them. First mentions of terms are linked to the
glossary (`tools/link_terms.py`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from tools.link_terms import link

__all__ = ["main", "normalise"]

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SECONDS_A_CELL = 300

WIDGET = "application/vnd.jupyter.widget-view+json"
"""Names a model by a random number, which exists as long as its kernel."""

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT_CELL_METADATA = {"tags", "jupyter", "slideshow"}


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Take from a notebook all that differs between two runs of the same cells; return the same notebook."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA})
        if cell.cell_type == "code":
            cell.outputs = _merge_streams([_normalise_output(output) for output in cell.outputs])
    return notebook


def _normalise_output(output: NotebookNode) -> NotebookNode:
    if "data" in output:
        output.data.pop(WIDGET, None)
        output.metadata.pop(WIDGET, None)
    if output.output_type == "error":
        # The frames above hold the paths of one machine.
        output.traceback = [f"{output.ename}: {output.evalue}"]
    return output


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where they are cut is a matter of timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and merged and merged[-1].get("name") == output.name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def run(path: Path) -> float:
    """Run one notebook in its folder, store its outputs, and return the seconds that it took."""
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    NotebookClient(
        notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    seconds = time.perf_counter() - started
    nbformat.write(link(normalise(notebook), path.stem), path)
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """Run the notebooks that `arguments` name, or all; return the number of those that failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.run_notebooks", description="Run notebooks in place.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook in notebooks/")
    chosen = parser.parse_args(arguments).notebooks or sorted(NOTEBOOKS.glob("*.ipynb"))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IPYTHONDIR"] = folder  # the user's own start-up files stay out
        for path in chosen:
            try:
                print(f"{path.name}: {run(path.resolve()):.1f} s", flush=True)
            except CellExecutionError as error:
                failed += 1
                print(f"{path.name}: failed, left as it was\n{error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
