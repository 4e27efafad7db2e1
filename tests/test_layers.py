"""Arrows point one way, and what lies below the views runs anywhere, without a display and the same each time."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "vmlab"

LAYERS = ("isa", "machine", "vmm", "fleet", "kinds", "guests", "jvm", "labs", "terms")
"""The layers that import with the standard library alone."""

ABSENT = ("ipywidgets", "anywidget", "plotly", "numpy", "networkx", "IPython", "traitlets", "jupyterlab")
"""What a grading server or a browser's Python may lack."""

# A run is the same each time: no wall clock, no randomness but a seeded generator's.
UNREPEATABLE = {"time", "datetime", "secrets", "uuid", "threading", "multiprocessing", "asyncio"}

LINES = 400
"""Past this, a file holds two concepts."""


EVERYTHING = sorted(PACKAGE.rglob("*.py"))
BELOW_VIEWS = [path for path in EVERYTHING if path.relative_to(PACKAGE).parts[0] in LAYERS]


def trees(paths):
    return {label(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def label(path):
    return path.relative_to(PROJECT).as_posix()


def module_name(path):
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree):
    """Yield the modules that a file imports when it is run or when one of its functions is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def run(*command):
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_contracts_are_kept():
    result = run(Path(sys.executable).with_name("lint-imports"), "--no-cache")
    assert result.returncode == 0, result.stdout


def test_everything_below_the_views_imports_without_third_parties():
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"  # None there: its import fails
        f"for name in {[module_name(path) for path in BELOW_VIEWS]!r}:\n"
        "    importlib.import_module(name)\n"
    )
    result = run(sys.executable, "-W", "error", "-c", program)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_vmlab_itself_imports_nothing_heavy():
    program = f"import sys, vmlab; print(*sorted({{*{ABSENT!r}, 'nbformat', 'unicorn'}} & set(sys.modules)))"
    result = run(sys.executable, "-c", program)
    assert (result.returncode, result.stdout.split()) == (0, []), result.stderr


def test_below_the_views_stands_the_standard_library_alone():
    # networkx too where a graph is the answer, imported when it is asked for: the test above runs without it.
    allowed = {*sys.stdlib_module_names, "vmlab", "networkx"} - UNREPEATABLE
    used = {
        (name, module)
        for name, tree in trees(BELOW_VIEWS).items()
        for module in imported_modules(tree)
        if module.partition(".")[0] not in allowed
    }
    assert used == set()


def test_below_the_views_chance_comes_from_a_seeded_generator():
    # random.Random(seed) is a generator of one's own; random.random() is everyone's.
    used = {
        (name, node.attr)
        for name, tree in trees(BELOW_VIEWS).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
    }
    assert {function for _, function in used} <= {"Random"}, used


def test_below_the_views_nothing_is_printed():
    called = {
        (name, node.func.id)
        for name, tree in trees(BELOW_VIEWS).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert {(name, function) for name, function in called if function in {"print", "input", "display"}} == set()


def test_a_file_holds_one_concept():
    lengths = {label(path): path.read_text(encoding="utf-8").count("\n") for path in EVERYTHING}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_a_file_says_what_it_models():
    assert [name for name, tree in trees(EVERYTHING).items() if ast.get_docstring(tree) is None] == []
