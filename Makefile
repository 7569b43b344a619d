# `make help` says what there is. Everything lives in .venv and below the engines' folder.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

# uv where it is there, plain pip where it is not: the same packages either way.
ifdef UV
MAKE_VENV = $(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
INSTALL = VIRTUAL_ENV=$(abspath $(VENV)) $(UV) pip install --quiet
else
MAKE_VENV = test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -ts '|'

$(VENV)/.run: pyproject.toml orchestrator/__init__.py
	@echo "setting up $(VENV) (what it takes to run)"
	@$(MAKE_VENV)
	@$(INSTALL) -e '.[embedded,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "setting up $(VENV) (what it takes to develop)"
	@$(INSTALL) -e '.[embedded,dev]'
	@touch $@ $(VENV)/.run

.PHONY: demo
demo: $(VENV)/.run ## Run three instances, swap one under the others' feet, kill one, stop: all in seconds
	@$(BIN)/python docs/demo.py

.PHONY: engines
engines: $(VENV)/.dev ## Build llama-server and Ollama once, into a folder that later runs reuse
	@$(BIN)/python tests/engines.py

# Two at a time, for a test waits more than it computes; more would wait for one another. What is
# named by ARGS runs alone.
AT_ONCE := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: test
test: engines ## Run the whole suite, on real engines
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest $(if $(ARGS),$(ARGS),$(AT_ONCE))
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --skip-covered --skip-empty --fail-under=85 | tail -n 40
	@$(BIN)/python tests/engines.py --report
	@$(BIN)/python -m tests.machine_has

.PHONY: lint
lint: $(VENV)/.dev ## Formatting, lint, types, import contracts, file sizes
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/python tests/sizes.py

.PHONY: format
format: $(VENV)/.dev ## Format the code, and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: bench
bench: engines ## Our figures against the shell floor, in one run; a missed budget is said, and no failure
	-@$(BIN)/python benchmarks/lifecycle.py
	-@$(BIN)/python benchmarks/discovery.py
	-@$(BIN)/python benchmarks/validate.py
	-@$(BIN)/python benchmarks/metrics.py
	-@$(BIN)/python benchmarks/dashboard.py
	-@$(BIN)/python benchmarks/ollama.py
	-@$(BIN)/python benchmarks/verify.py
	-@$(BIN)/python benchmarks/gateway.py
	-@$(BIN)/python benchmarks/memory.py
	-@$(BIN)/python benchmarks/soak.py

.PHONY: chaos
chaos: engines ## Random faults on real engines, the world checked after each; again with SEED=7 FAULTS=1000
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS))

.PHONY: clean
clean: ## Remove what was made here (not the engines)
	@rm -rf $(VENV) .demo .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage* dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
