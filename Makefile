# Everything is done in .venv; `make help` lists the targets.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.hashcli-ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# One thread a process: the workers share the cores, and sums come out the same everywhere.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
COVERAGE := --cov --cov-report=term
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check bench quality docs build clean

help: ## list the targets
	@grep -E '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.*## /  make \1\t/' | expand -t 18

setup: $(READY) ## make .venv with hashcli and everything its development needs

$(READY): pyproject.toml constraints.txt $(wildcard setup.py hashcli/*.c hashcli/*.h)
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here; name one: make setup PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: hashcli needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>&1)"; \
	  echo "hint: name a later one: make setup PYTHON=python3.12"; exit 1; }
	@echo "== Python environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== PyTorch (the largest download)"
	$(PIP) torch torchvision
	@echo "== hashcli, its dependencies and its development tools"
	$(PIP) setuptools
	@# no build isolation: an isolated build would take build tools of unpinned versions
	$(PIP) --no-build-isolation -e '.[dev]'
	@if grep -qs 'hashcli\._scan' setup.py && command -v "$${CC:-cc}" >/dev/null; then \
	  $(BIN)/python -c 'import hashcli._scan' || { \
	    echo "error: there is a C compiler, and yet hashcli._scan was not built"; \
	    echo "hint: see why: $(BIN)/python setup.py build_ext --inplace"; exit 1; }; fi
	@touch $@

demo: setup ## show what hashcli does, on real images, in a few minutes
	@./benchmarks/demo.sh

test: check ## check the code, run the tests, measure coverage
	@echo "== tests"
	$(PYTEST) $(COVERAGE)

test-all: check ## the same with the slow tests
	@echo "== all tests"
	$(PYTEST) $(COVERAGE) -m ""

check: setup ## style, types, import layers
	@echo "== style"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "== types"
	$(BIN)/mypy
	@echo "== layers"
	$(BIN)/lint-imports

bench: setup ## measure speed and memory; results go to benchmarks/results and the README
	$(PIP) --no-build-isolation -e '.[bench]'
	@for name in search opening startup memory indexing training; do \
	  echo "== $$name"; $(BIN)/python "benchmarks/$$name.py" || exit 1; done

quality: setup ## measure how good codes are, what is missing; DATA=DIR adds the tasks whose data lies there
	$(BIN)/python benchmarks/quality.py $(if $(DATA),--data "$(DATA)") --group main
	$(BIN)/python benchmarks/quality.py --table

docs: setup ## write help texts, settings and exit codes into docs/
	$(BIN)/python docs/generate.py

.PHONY: flips kills badimages soak fuzz checksums
flips kills badimages soak fuzz checksums: setup ## attack hashcli for minutes; results go to benchmarks/results/trust
	$(BIN)/python -m campaigns.$@

build: setup ## make the wheel in dist/
	@echo "== wheel"
	@rm -rf build # or it would put files into the wheel that are no longer in the tree
	$(BIN)/python -m build --wheel --no-isolation

.PHONY: try-wheel
try-wheel: build ## install the wheel into a clean environment and run the README's commands with it
	.ci/try-wheel

clean: ## remove what the other targets made, .venv excepted
	rm -rf build dist demo .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
