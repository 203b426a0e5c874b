# `make run` and `make test` each stand alone: both build the environment if need be.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NOTEBOOK ?= notebooks/01_vision_classification.ipynb
ARGS ?=
# Threads that wait asleep: a busy neighbour then costs little (docs/LOG.md).
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: run test test-browser test-colab gallery lab bench lint clean help

# ARGS are passed on: make test ARGS="tests/data -x", make run ARGS="-p epochs=2".

run: $(STAMP) ## train, test and export the first model, headless
	$(BIN)/nbutils run $(NOTEBOOK) $(ARGS)

test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not browser" $(ARGS)

test-browser: $(STAMP) ## run the tests that need a browser; installs one if there is none
	bash scripts/ensure_browser.sh $(VENV)
	OMP_NUM_THREADS=1 NBUTILS_NEEDS_BROWSER=1 $(BIN)/python -m pytest tests/browser $(ARGS)

test-colab: $(STAMP) ## the widgets and notebook 01 with the versions that Colab ships
	bash scripts/check_colab.sh $(VENV)

lab: $(STAMP) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks $(ARGS)

gallery: $(STAMP) ## preflight on every fault and healthy program: rates, costs, misses
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/preflight.py $(ARGS)

bench: $(STAMP) ## measure speed and memory, and compare with the budget
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/summary.py $(ARGS)

lint: $(STAMP) ## check style, types, and that notebooks match their sources
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python scripts/check_notebooks.py

clean: ## remove the environment and everything that was built or cached
	rm -rf $(VENV) .ci-venv .colab-venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find nbutils tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Kept: runs/ and data/ (your results and inputs)."

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements.txt setup.py
	@bash scripts/setup_environment.sh $(VENV)
	@touch $@
