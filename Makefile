# What a person does with a clone. Everything happens in .venv and .demo.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
MODEL := .demo/smollm2
# Tests marked `real` use this checkpoint instead of $(MODEL), when it is set.
LEDGER_TEST_MODEL ?=
# .venv is not compiled when it is made, which takes a minute and a half: what is used is, once.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install model demo test test-long lint hub bench bench-compare clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## .venv with the `ledger` command and the tools for development

# Rebuilt only when what should be in it changes.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[dev]'
	touch $@

model: install ## SmolLM2-135M-Instruct as a checkpoint in .demo/smollm2 (269 MB)
	$(BIN)/python -m cli.demo_model $(MODEL)

demo: model ## put 120 facts into a real model, look, apply, roll back, verify
	$(BIN)/python -m cli.demo

lint: install ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Many tests wait, for a disk, a server or a browser: one more at a time than there are cores.
WORKERS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? cores + 1 : 4)))

test: lint $(if $(LEDGER_TEST_MODEL),,model) ## lint and all tests, the real model included
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

MINUTES ?= 20

test-long: install ## try for MINUTES (20) to make the ledger lose something, and count the attempts
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.long --minutes $(MINUTES)

hub: install ## a Hub on this machine, to try push and pull with; it forgets all when it ends
	$(BIN)/python -m tests.hub

bench: model ## measure speed and size, printed as a table
	$(BIN)/python -m tests.benchmarks

REFERENCE ?=
WISE_REFERENCE ?=
DATA ?= ledger/facts/world.json
THETA ?=
MERGEKIT ?=

# Every one that was named is measured, also if an earlier one broke a promise.
bench-compare: model ## beside other programs: REFERENCE=, WISE_REFERENCE= checkouts, THETA=, MERGEKIT= venvs
	@test -n "$(REFERENCE)$(WISE_REFERENCE)$(THETA)$(MERGEKIT)" || \
	  { echo "name what is on this machine, for one REFERENCE=path: tests/benchmarks/README.md"; exit 2; }
	status=0; \
	$(if $(REFERENCE)$(WISE_REFERENCE),$(BIN)/python -m tests.benchmarks.compare --data $(DATA) \
	  $(if $(REFERENCE),--reference $(REFERENCE)) \
	  $(if $(WISE_REFERENCE),--wise-reference $(WISE_REFERENCE)) || status=1;) \
	$(if $(THETA),$(BIN)/python -m tests.benchmarks.compare_theta --theta $(THETA) || status=1;) \
	$(if $(MERGEKIT),$(BIN)/python -m tests.benchmarks.compare_mergekit --mergekit $(MERGEKIT) || status=1;) \
	exit $$status

clean: ## remove caches and build products; .venv and the model stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find cli ledger migrations patches tests -name __pycache__ -type d -prune -exec rm -rf {} +
