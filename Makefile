# make say    a first hello.wav from a clone: creates .venv and installs when needed
# make test   what CI runs: lint, types, tests
# make lint   format check, lint and types only
# make clean  remove what these made

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TEXT ?= Hello! This is the first sentence of your voice agent.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: say test lint clean

say: $(VENV)/installed
	$(BIN)/cf-agents say "$(TEXT)" --output hello.wav

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) hello.wav .pytest_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "cf_agents needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

# Dependency groups need pip 25.1, newer than the one some Pythons put into a new environment.
$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install "pip>=25.1"
	$(PIP) install --constraint constraints.txt --group dev --group integrations
	$(PIP) install --constraint constraints.txt --group mlx-test || echo "MLX does not install here: its tests are skipped."
	@touch $@
