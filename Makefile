# make demo | test | soak | check | bench: each prepares .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test soak servers check bench clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "notify needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@echo "preparing $(VENV): once, about half a minute"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

servers: # what the tests of the backends start for themselves
	@missing=""; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v redis-sentinel >/dev/null || missing="$$missing redis-sentinel"; \
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$$missing postgresql"; \
	command -v pgbouncer >/dev/null || missing="$$missing pgbouncer"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
		echo "the tests need these programs, please install them:$$missing"; exit 1; \
	fi

demo: $(VENV)/.ready ## the main job on a sample feed: push, break off, resume, verdict
	@$(BIN)/python docs/demo/demo.py $(DEMO)

test: $(VENV)/.ready servers ## every test on every backend, with branch coverage; about twelve minutes
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=100

soak: $(VENV)/.ready servers ## random faults from a seed for a minute: SOAK="--seconds 3600 --seed 7"
	@$(BIN)/python -m tests.faults.soak $(SOAK)

check: $(VENV)/.ready ## ruff and mypy strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready ## speed and memory as ratios measured in one run
	@$(BIN)/python -m tests.benchmarks $(BENCH)

clean: ## remove what the targets above made
	rm -rf $(VENV) .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
