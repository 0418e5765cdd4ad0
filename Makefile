# `make demo` and `make test` set themselves up in .venv and can be repeated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHARED := $(wildcard ../shared)

# Real data and tokenizers beside the checkout are used where they are there; without them those tests skip, and say so.
ifneq ($(SHARED),)
export LITESTAGE_DATA ?= $(abspath $(SHARED)/data)
export LITESTAGE_TOKENIZERS ?= $(abspath $(SHARED)/tokenizers)
endif

.PHONY: report-menagerie demo test gate lint clean install

install: $(STAMP)

# torch comes first and alone: constraints.txt pins the build, a looser requirement could fetch gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/litestage demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Everything beside full depth on the embedded task; about a quarter of an hour on two quiet cores.
report-menagerie: $(STAMP)
	$(BIN)/litestage compare --config menagerie

# A small comparison held to the committed baseline; after a change that is meant:
# litestage gate runs/gate/results.json --update
gate: $(STAMP)
	rm -rf runs/gate
	$(BIN)/litestage compare --config gate
	$(BIN)/litestage gate runs/gate/results.json --baseline reports/baseline.json

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
