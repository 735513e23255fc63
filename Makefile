# make demo        install into .venv, draw twelve prompts never trained on, and talk about a
#                  picture of your own (WORDS="two dogs left of a red car"; MODEL=nano-v0, tiny)
# make test        install with the developers' tools, run the whole suite but its long tests
# make test-long   the long tests
# make speedrun    from nothing to a judged nano, hours (IDEA="what is new"); docs/speedrun.md
# make speedrun-mini  the same with every part made tiny, minutes
# make check       lint, format, types, import rules, wheel and sdist, a drawing from the wheel
# make clean       remove what these made, the environment included

# The first of these that is Python 3.11 or newer; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
JOBS ?= 2
MODEL ?= nano
IDEA ?=
WORDS ?= a red car left of two dogs
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test test-long speedrun speedrun-mini check lint wheel-demo clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py $(MODEL) --words "$(WORDS)"

# One thread a worker: torch's own threads on top of the workers would only wait for each other.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not long"

test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m long

# Goes on where it was stopped; another try begins with another folder: OUTPUT=runs/other.
OUTPUT ?= runs/speedrun
speedrun: $(VENV)/.installed-dev
	$(BIN)/python scripts/speedrun.py --output "$(OUTPUT)" --idea "$(IDEA)"

# From nothing each time, and with what ships alone: no network.
speedrun-mini: $(VENV)/.installed-dev
	rm -rf build/speedrun-mini
	$(BIN)/python scripts/speedrun.py --recipe speedrun/mini --shipped-world --limit 4 \
		--output build/speedrun-mini --idea "none: every part made tiny"

check: lint wheel-demo

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Built and drawn from anew each time: a file that is missing in the wheel must not hide.
wheel-demo: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build
	scripts/check_wheel.sh $(BIN)/python dist

clean:
	rm -rf $(VENV) build dist drawings

# pip is what `python -m venv` makes last: a half-made environment is made again.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "openjanus needs Python 3.11 or newer: install it, or say" \
		"make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed
