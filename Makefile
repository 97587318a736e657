# make quickstart   the whole main job on the toy town, ending with the path of a report
# make check        lint, types and the quick tests, under two minutes
# make test         lint, types and all tests
# make examples     every example on the toy town
# make smoke        every benchmark and claim table for seconds
# Needs Python 3.11 or newer and make; everything else is installed into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart check test examples smoke clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rgs needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[cpu,dev]'
	touch $(STAMP)

quickstart: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/quickstart.sh $(or $(OUT),out/quickstart)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow and not real"

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --durations=15

examples: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/run-all.sh

smoke: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/smoke.sh

clean:
	rm -rf $(VENV) out build dist *.egg-info
