# The verbs of this repository; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench bench-peers soak constraints clean

# A Python 3.11+ to build .venv with (found by itself where not given), test processes (which mostly wait for others, so
# that there is one more than cores), repetitions in `make soak`.
PYTHON ?=
JOBS ?= 3
SOAK ?= 3
# What `make soak` repeats; the rest it does once.
KILLS := tests/faults/test_crash_points.py tests/faults/test_first_contact.py tests/faults/test_resume.py
BIN := .venv/bin
READY := .venv/.ready
# Test and benchmark processes share the cores, so none of them starts threads of its own.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with pinned dependencies (quick when nothing changed)
	@echo "Ready: .venv/bin/foedus"

$(READY): pyproject.toml constraints.txt scripts/setup
	@PYTHON="$(PYTHON)" scripts/setup
	@touch $@

demo: $(READY) ## a federation of five processes on this machine, in under a minute
	@$(BIN)/foedus demo

test: $(READY) ## the whole suite
	@scripts/debian-packages
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

check: $(READY) ## style, types, floors and budgets
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy --strict src
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/architecture

format: $(READY) ## write the code as `make check` wants it
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(READY) ## the speed suite, into benchmarks/RESULTS.md: ratios within one run, beside the peers that are there
	$(ONE_THREAD) $(BIN)/python -m benchmarks --write

bench-peers: $(READY) ## install the peers under .bench/, and measure what they can be set beside
	$(BIN)/python -m benchmarks.peers || echo "Going on with those that are installed."
	$(ONE_THREAD) $(BIN)/python -m benchmarks j1 j2 j3 flute averaging --write

soak: $(READY) ## a run for each crash point, at a later occurrence too, over and over (SOAK=3), and the laws with many examples
	@scripts/debian-packages
	for i in $$(seq $(SOAK)); do $(ONE_THREAD) $(BIN)/python -m pytest -x -q -m "" --timeout=1800 $(KILLS) || exit 1; done
	$(ONE_THREAD) HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -x -q -s -m "" --timeout=7200 tests/cluster tests/faults $(KILLS:%=--ignore=%)
	$(ONE_THREAD) HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -x -q -m "" --timeout=3600 tests/unit
	$(ONE_THREAD) $(BIN)/python -m pytest -x -q -s -m soak --timeout=3600 tests/system tests/parity
	$(ONE_THREAD) FOEDUS_TEST_DATABASE=postgresql $(BIN)/python -m pytest -q tests/unit/coordinator tests/unit/store

constraints: $(READY) ## write constraints.txt from what .venv holds
	@scripts/constraints

clean: ## remove .venv, the peers' environments, caches and builds
	rm -rf .venv .venv-s3 .bench build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
