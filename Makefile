# Every target makes the environment it needs; a fresh machine needs python3 (3.10 or newer, with
# venv) and make. To choose another interpreter: make PYTHON=python3.12 test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.complete
TRITON := --disable-pip-version-check --quiet --no-deps -r requirements-triton.lock
MINUTE := $(if $(shell command -v timeout),timeout 60)

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow test-gpu gpu-kit gpu-day fuzz check format clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

env: $(READY) ## make .venv from requirements.lock; again only when a lock changes

$(READY): requirements.lock requirements-triton.lock
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit( \
		"Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0] \
		+ "; choose one: make PYTHON=python3.12 env")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.lock
	@$(BIN)/python -c 'import triton' 2>/dev/null || { \
		$(MINUTE) $(BIN)/python -m pip download $(TRITON) --timeout 10 --retries 1 -d $(VENV)/triton \
		&& $(BIN)/python -m pip install $(TRITON) --no-index --find-links $(VENV)/triton; \
		} || echo 'no Triton could be fetched: the tests that interpret its kernels are skipped'
	@rm -rf $(VENV)/triton
	@touch $@

demo: $(READY) ## refine the embedded generator on a CPU and report before and after
	$(BIN)/python refine.py demo

test: $(READY) ## the tests: CPU, no network, warnings are errors
	$(BIN)/python -m pytest -n auto --dist worksteal

# pytest ends with 5 where no test carries the mark: nothing to do is no failure here.
test-slow: $(READY) ## the tests that take longer
	$(BIN)/python -m pytest -m 'slow and not gpu' || [ $$? -eq 5 ]

test-gpu: $(READY) ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu || [ $$? -eq 5 ]

# On a machine with a GPU and without a network: its own Python, no environment.
CIFAR ?=
KIT := build/gpu-kit
OUT ?= build/gpu-day
gpu-kit: $(READY) ## what gpu-day takes along, where there is a network: make gpu-kit CIFAR=cifar10.tar.xz
	$(BIN)/python -m benchmarks.gpu_kit $(KIT) $(if $(CIFAR),--data $(CIFAR))

gpu-day: ## the first day on a GPU in three parts of nine minutes; make PART=2 gpu-day does one
	@failed=0; for part in $(or $(PART),1 2 3); do \
		$(PYTHON) -m benchmarks.gpu $$part --out $(OUT) --kit $(KIT) || failed=1; \
	done; exit $$failed

SEED ?= 0
fuzz: $(READY) ## files changed at random through every door; make SEED=1 fuzz sees others
	$(BIN)/python -m benchmarks.doors --seed $(SEED)

check: $(READY) ## format, lint, types, and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest --quiet tests/test_imports.py

format: $(READY) ## write the format that check asks for
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and what tools left behind
	rm -rf $(VENV) .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
