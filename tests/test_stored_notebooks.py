"""The notebooks as they lie in the repository: what nbval, which runs them, does not look at."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path

import nbformat
import pytest

from tools.run_notebooks import normalise

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_outputs_are_stored_and_stable(notebook):
    assert any(cell.outputs for cell in code_cells(notebook))
    assert normalise(copy.deepcopy(notebook)) == notebook, "make notebooks runs and stores them"


def test_cells_ran_in_order(notebook):
    ran = [cell for cell in code_cells(notebook) if cell.source.strip()]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))


def test_a_notebook_imports_vmlab_alone(notebook):
    trees = [ast.parse(cell.source) for cell in code_cells(notebook) if not cell.source.startswith("%%")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= {"vmlab", *sys.stdlib_module_names}


def test_a_notebook_is_small(notebook):
    size = len(nbformat.writes(notebook))
    assert size < 1_000_000, "a picture in it is too heavy for a page that loads over a lecture hall's network"
