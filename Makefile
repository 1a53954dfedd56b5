# make demo   a complete mail server on 127.0.0.1 (DEMO_ARGS="--base-port 7000")        make test   the tests
# make check  all that CI does: format, lint, types, layers, tests        make long   the long runs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n 2

.PHONY: demo test check static format long clean

demo: $(VENV)/.demo
	$(BIN)/pochta demo $(DEMO_ARGS)

test: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS)

check: static test

static: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_structure.py tests/test_conformance.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

long: $(VENV)/.dev
	.ci/long

clean:
	rm -rf $(VENV) pochta-demo

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pochta needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[gssapi]' \
	    || echo 'Kerberos is left out: it needs a C compiler and Debian'"'"'s libkrb5-dev'
	touch $@
