# Everything runs from a checkout without root and without containers. PYTHONSAFEPATH keeps the folder `operator/` away from
# the standard library's module of that name.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PYTHONSAFEPATH := 1
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
UV := $(VENV)/bin/uv
WORKERS ?= 2
LOCK := $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet

.PHONY: help env binaries demo demo-down test test-fast check format lock generate clean

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env:  ## create or update .venv from the hash-locked requirements
	@$(PYTHON) scripts/bootstrap.py

binaries:  ## create .venv and, side by side, find or build the control plane and Prometheus
	@$(PYTHON) scripts/bootstrap.py --binaries

demo:  ## from nothing to a depth map: local cluster, operator, DepthService, picture, load, scaling
	@$(PYTHON) scripts/bootstrap.py --binaries --report demo/.bootstrap.json
	@$(RUN) -m demo up --bootstrap-report demo/.bootstrap.json

demo-down:  ## stop everything that the demo started
	@if [ -x $(RUN) ]; then $(RUN) -m demo down; else echo "nothing to stop: there is no environment"; fi

test: binaries  ## the whole suite, two test files at a time (WORKERS=2): many wait for clusters
	@$(RUN) -m pytest --numprocesses $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-fast: env  ## unit and contract tests only
	@$(RUN) -m pytest tests/unit tests/contract $(PYTEST_ARGS)

check: env  ## ruff, formatter, mypy --strict, import-linter, generated files
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(RUN) charts/sync_crds.py --check
	@$(RUN) charts/document_values.py --check

format: env  ## fix what the linters can fix
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

generate: env  ## write generated files anew: the chart's copy of the CRD and its table of values
	@$(RUN) charts/sync_crds.py
	@$(RUN) charts/document_values.py

lock: env  ## resolve the locks anew from pyproject.toml
	@$(LOCK) pyproject.toml --extra operator -o requirements/operator.lock
	@$(LOCK) pyproject.toml --extra server -o requirements/server.lock
	@$(LOCK) --constraint requirements/dev.lock requirements/build.in -o requirements/build.lock
	@$(LOCK) pyproject.toml --extra operator --extra server --group dev -o requirements/dev.lock

clean:  ## remove the environment and caches of this checkout (not the binaries in the user's cache)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/results
