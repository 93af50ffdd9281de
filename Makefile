# Everything sets itself up: `make chat` and `make test` work from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= smollm2-135m
SOURCES := pyproject.toml $(wildcard CMakeLists.txt) $(wildcard herd/native/csrc/*)

.PHONY: chat test test-all lint bench docs clean

chat: $(VENV)/.chat
	@$(BIN)/herd chat $(MODEL)

test: $(VENV)/.dev lint
	$(BIN)/pytest -n 2

test-all: $(VENV)/.dev lint
	$(BIN)/pytest -n 2 -m "not gpu"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/torch_speed.py
	$(BIN)/python benchmarks/tokenizers.py

docs: $(VENV)/.dev
	$(BIN)/python docs/check.py

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV) >&2

# The two installs differ: talking needs the package alone, testing everything it is compared with.
$(VENV)/.chat: $(VENV)/bin/python $(SOURCES)
	@echo "Installing herd (once) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch]' >&2
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python $(SOURCES)
	@echo "Installing herd and what its tests need (once) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' >&2
	@touch $(VENV)/.chat $@

clean:
	rm -rf $(VENV) build
