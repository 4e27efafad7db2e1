# make lab       open the notebooks in JupyterLab           make test        run every test, the notebooks too
# make check     style, types, layers                       make test-long   run the tests that take minutes
# make bench     print the figures                          make screenshots take the pictures of the README
# make notebooks run the notebooks, store their outputs     make clean       remove what these made
#
# Each makes the virtual environment that it needs. `make PYTHON=/path/to/python3 lab` chooses the interpreter.

VENV := .venv
PY   := $(VENV)/bin/python
export PYTHON

# What is installed in .venv, each made anew when pyproject.toml changes.
LAB   := $(VENV)/.vmlab-lab
TEST  := $(VENV)/.vmlab-test
CHECK := $(VENV)/.vmlab-check

PIP := $(PY) -m pip --disable-pip-version-check

# JupyterLab's settings: no question about news on the first screen.
SETTINGS = @mkdir -p $(VENV)/share/jupyter/lab/settings && cp binder/overrides.json $(VENV)/share/jupyter/lab/settings/

.DEFAULT_GOAL := help
.PHONY: help lab test test-long check bench screenshots notebooks pins requirements clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

lab: $(LAB)
	$(PY) -m vmlab.cli lab $(OPTIONS)

# A test file stays in one process: what its tests share is made once.
test: requirements $(TEST)
	$(PY) -m pytest -n auto --dist loadscope $(OPTIONS)

test-long: requirements $(TEST)
	$(PY) -m pytest tests -m long --hypothesis-profile=long $(OPTIONS)

check: $(CHECK)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

bench: requirements $(TEST)
	$(PY) -m bench $(OPTIONS)

screenshots: requirements $(TEST)
	$(PY) -m tools.screenshots $(OPTIONS)

notebooks: $(TEST)
	$(PY) -m tools.run_notebooks $(OPTIONS)

pins: $(LAB)
	$(PY) -m tools.pin_binder $(OPTIONS)

requirements:
	@tools/requirements.sh test

# A folder that holds no working interpreter (its Python was removed, or making it failed half-way) is made anew.
$(PY):
	@python=$$(tools/find_python.sh) && tools/requirements.sh venv "$$python" && "$$python" -m venv --clear $(VENV)
	@$(PIP) install --quiet --upgrade "pip>=25.1"

$(LAB): pyproject.toml | $(PY)
	$(PIP) install --quiet --editable .
	$(SETTINGS)
	@touch $@

$(TEST): pyproject.toml | $(PY)
	@$(PIP) install --quiet --upgrade "pip>=25.1"
	$(PIP) install --quiet --editable . --group test
	$(SETTINGS)
	@touch $@ $(LAB)

# The type checker looks at tools/ too, which drive the browser by a package of the tests.
$(CHECK): pyproject.toml $(TEST) | $(PY)
	@$(PIP) install --quiet --upgrade "pip>=25.1"
	$(PIP) install --quiet --group check
	@touch $@

clean:
	rm -rf $(VENV) artefacts build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find vmlab tests tools notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
