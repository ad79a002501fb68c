# Everything runs in .venv, made from python3.11 and the pins in constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help install databases demo test test-long lint format ui cluster-up cluster-down clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python 3.11, or make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(VENV)/.installed ## make .venv with pinned versions

databases: install ## two real databases, AMCSD and CoRE MOF (50 MB), as packages without what they depend on
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps larixite core-mof

demo: install ## crystals to shards to networks to a report, about 5 minutes on 2 cores
	$(BIN)/phaseray demo --out $(DEMO)

test: install ## the whole test suite
	$(BIN)/python -m pytest

test-long: install ## the tests of faults and of searches that take minutes each, about ten in all
	PHASERAY_LONG=1 $(BIN)/python -m pytest -m long

lint: install ## ruff, mypy, and the walls between the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install ## put the code in its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: install ## MLflow over the demo's runs, on http://127.0.0.1:5000
	$(BIN)/mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///$(abspath $(DEMO))/mlflow.db

cluster-up: install ## a Ray head, a worker and an MLflow server on loopback, with tokens; says how to submit
	@cluster/local/cluster.sh up

cluster-down: ## stop them, and nothing else
	@cluster/local/cluster.sh down

clean: ## remove .venv, caches and runs
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
