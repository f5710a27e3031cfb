# Each target prepares its virtual environment by itself: .venv, and one of its own beside it for an interpreter of another
# version than that of python3 (`make test PYTHON=python3.13`) and for other pins (CONSTRAINTS=constraints-oldest.txt).
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv$(addprefix -,$(filter-out $(call version,python3),$(call version,$(PYTHON))))$(CONSTRAINTS:constraints%.txt=%)
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
NEED_SERVERS := $(wildcard tests/conformance/test_redis*.py tests/conformance/test_postgres*.py) \
	tests/notify_redis tests/notify_pg tests/faults tests/compositions tests/cli/test_cli_servers.py \
	tests/inbox/test_servers.py \
	tests/web/test_proxies.py tests/dispatch/test_stores_postgres.py tests/dispatch/test_stores_redis.py \
	tests/dispatch/test_store_processes.py tests/dispatch/test_store_errors.py \
	tests/dispatch/test_store_locks.py tests/dispatch/test_worker_faults.py tests/dispatch/test_worker_kills.py \
	tests/dispatch/test_worker_outages.py tests/dispatch/test_celery_docs.py tests/conformance/test_outages.py \
	tests/dispatch/test_races.py tests/dispatch/test_every_wait.py tests/dispatch/test_worker_blackouts.py \
	tests/dispatch/test_app_schemathesis.py tests/dispatch/test_app_reports.py tests/dispatch/test_redis_log.py \
	tests/dispatch/test_store_bounds.py tests/dispatch/test_store_rights.py tests/dispatch/test_smtp_faults.py \
	tests/dispatch/test_store_deadlocks.py tests/dispatch/test_store_plans.py tests/dispatch/test_removed_channels.py \
	tests/dispatch/test_forgetting.py tests/dispatch/test_submit_killed.py \
	tests/dispatch/test_plans_come_true_postgres.py tests/dispatch/test_cancelled_when_read.py
QUICK ?= not redis.md and not postgres.md and not transactions.md and not documented_part
TAKE_LONG := tests/properties tests/notify/test_demo.py tests/notify/test_telemetry.py tests/notify/test_extras.py \
	tests/cli tests/test_packaging.py tests/test_zipapp.py \
	tests/conformance/test_outsiders.py tests/conformance/test_suites_fail.py tests/conformance/test_shipping.py \
	tests/web tests/sync tests/notify/test_web_frameworks.py tests/notify_sqlite/test_faults.py \
	tests/notify_sqlite/test_locks.py tests/notify_sqlite/test_missing_index.py tests/inbox/test_behaviour.py tests/dispatch/browser \
	tests/dispatch/test_channel_email.py tests/dispatch/test_channel_suite.py tests/dispatch/test_app_garbage.py \
	tests/dispatch/test_nothing_is_shown.py tests/dispatch/test_schedule_processes.py \
	tests/dispatch/test_smtp_faults.py tests/dispatch/test_provider_faults.py
# Bytecode is kept whatever the environment says: without it, each of hundreds of processes compiles the library again, and
# each worker all tests.
export PYTHONDONTWRITEBYTECODE :=
# If /dev/shm has a gigabyte free, the tests write their files there, and only those of failed tests are kept: on a disk,
# tests that sync files take one and a half to several times as long. If it has eight gigabytes, so do the servers and
# browsers of `make test`: on a disk, a PostgreSQL server takes two to four times as much processor time. Some tests
# of `make test` start programs from their files, so it does this only where programs may be started there.
IN_MEMORY := $(shell test "$$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 1000000 2>/dev/null && echo /dev/shm)
MAY_START := $(shell grep -q '^[^ ]* /dev/shm [^ ]* [^ ]*noexec' /proc/mounts 2>/dev/null || echo $(IN_MEMORY))
ROOMY := $(shell test "$$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 8000000 2>/dev/null && echo $(MAY_START))
KEEP_FAILED := -o tmp_path_retention_policy=failed
.DEFAULT_GOAL := help
.PHONY: help demo serve quick test test-failed covered test-browsers soak servers check docs dist bench clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "notify needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@if [ -e $(VENV) ] && [ ! -e $(VENV)/.ready ] && [ ! -e $(VENV)/.made ]; then \
		echo "$(VENV) was not made by make, which would clear it: rename it, or run make with VENV=.venv-make"; exit 1; \
	fi
	@echo "preparing $(VENV): once, about half a minute"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $(VENV)/.made # so that what an interrupted installation leaves is not taken for the reader's
	@$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.ready
	@echo "adding what the site needs to $(VENV): once, about a quarter of a minute"
	@$(INSTALL) --editable '.[docs]'
	@touch $@

servers: # what the tests of the backends start for themselves
	@missing=""; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v redis-sentinel >/dev/null || missing="$$missing redis-sentinel"; \
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$$missing postgresql"; \
	command -v pgbouncer >/dev/null || missing="$$missing pgbouncer"; \
	command -v nginx >/dev/null || missing="$$missing nginx"; \
	command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
		echo "the tests need these programs, please install them:$$missing"; exit 1; \
	fi

demo: $(VENV)/.ready ## the main job on a sample feed: push, break off, resume, verdict
	@$(BIN)/python docs/demo/demo.py $(DEMO)

serve: $(VENV)/.ready ## two instances in a browser: kill them, cut the wire, watch the verdict; Ctrl-C ends it
	@$(BIN)/notify serve --demo $(SERVE)

quick: $(VENV)/.ready ## the tests that need neither servers nor many processes: memory, SQLite, suites; less than two minutes on two cores
	PYTEST_DEBUG_TEMPROOT=$(IN_MEMORY) $(BIN)/python -m pytest -q -n 5 --dist worksteal $(KEEP_FAILED) \
		-m "not slow" -k "$(QUICK)" $(NEED_SERVERS:%=--ignore=%) $(TAKE_LONG:%=--ignore=%)

test: $(VENV)/.ready servers ## every test on every backend, with branch coverage; about twenty minutes on two cores
	@$(BIN)/coverage erase
	PYTEST_DEBUG_TEMPROOT=$(MAY_START) $(ROOMY:%=TMPDIR=%) $(BIN)/coverage run -m pytest $(KEEP_FAILED) -n 4 --dist loadfile --no-loadscope-reorder $(TESTS)
	@$(MAKE) --no-print-directory covered

test-failed: $(VENV)/.ready ## what failed in `make test`, ten tests at most, once more and one after the other
	@test $$($(BIN)/python -c 'import json; print(len(json.load(open(".pytest_cache/v/cache/lastfailed"))))') -le 10
	$(BIN)/coverage run -m pytest -v --last-failed --last-failed-no-failures none $(TESTS)
	@$(MAKE) --no-print-directory covered

covered:
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --precision=2 --fail-under=99.9

test-browsers: $(VENV)/.ready servers ## the core of the browser client in Firefox and WebKitGTK, too
	@missing=""; \
	command -v firefox-esr >/dev/null || missing="$$missing firefox-esr"; \
	command -v WebKitWebDriver >/dev/null || missing="$$missing webkit2gtk-driver"; \
	command -v Xvfb >/dev/null || missing="$$missing xvfb xauth"; \
	if [ -n "$$missing" ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	BROWSERS="firefox webkit" $(BIN)/python -m pytest -q tests/web/browser/test_engines.py

soak: $(VENV)/.ready servers ## random faults from a seed for a minute: SOAK="--seconds 3600 --seed 7"
	@$(BIN)/python -m tests.faults.soak $(SOAK)

check: $(VENV)/.ready ## ruff, mypy strict, and the links between the pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_site.py tests/test_docs.py -k "link or reachable or navigation or reference"

docs: $(VENV)/.docs ## the documentation's site, in site/; a dead link or a name without a page fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

dist: $(VENV)/.ready ## what is published: wheel and source distribution, in dist/
	@rm -rf dist build
	$(BIN)/python -m build --no-isolation --outdir dist .

bench: $(VENV)/.ready ## speed and memory as ratios measured in one run
	@$(BIN)/python -m tests.benchmarks $(BENCH)

clean: ## remove what the targets above made
	rm -rf .venv .venv-* site .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find notify* tests docs -name __pycache__ -prune -exec rm -rf {} +
