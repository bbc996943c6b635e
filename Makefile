# Every target works on a machine with Python 3.11 or newer (with venv), make and a package index.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# As new as the last finished installation; older than a lock or pyproject.toml, the environment is brought up to date.
READY := $(VENV)/.turnlog-ready
# More for one run: make test ARGS="-k shard -x", make bench ARGS="--help"
ARGS ?=
# Most tests wait most of the time, so four keep two cores busy. One process at a time has a file, so that what a file starts serves its tests only once.
PROCESSES ?= 4

# Bytecode is kept, whatever the caller's environment says: the tests start hundreds of processes, which would compile
# our modules and the tests' again and again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test pictures clients check format bench bench-smoke soak faults seeds http-faults export-faults rebuild-faults game-day fuzz fuzz-runners model lock audit release-check upgrade-check clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with the locked packages (PYTHON=... picks the interpreter)

$(READY): pyproject.toml requirements-dev.lock scripts/make-venv.sh
	@PYTHON='$(PYTHON)' scripts/make-venv.sh
	@touch $@

demo: $(READY) ## Recorded conversations and a real model through Kafka, workers killed, nothing missing
	@$(BIN)/turnlog demo $(ARGS)

test: $(READY) ## Run every test, a real broker included
	@$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

pictures: $(READY) ## Take the README's pictures of the console anew (needs a Chromium)
	@PICTURES=docs/images $(BIN)/python -m pytest tests/integration/test_console.py -k pictures

clients: $(READY) ## Try every Kafka client that we know (needs go), and write docs/clients.md
	@$(BIN)/python -m tests.clients $(ARGS)

check: $(READY) ## Lint, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Bring the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-smoke: $(READY) ## Every case of the benchmark once, small
	BENCH_SMOKE=all $(BIN)/python -m pytest tests/integration/test_bench_smoke.py

soak: $(READY) ## Half an hour of steady work: do memory, files, tasks and lag stay? (ARGS="--minutes 30 --rate 240")
	@$(BIN)/python -m benchmarks.soak $(ARGS)

bench: $(READY) ## Measure throughput and latency on this machine
	@$(BIN)/python -m benchmarks $(ARGS)

faults: $(READY) ## Run the long fault scenarios: kills, pauses, broker restarts
	@$(BIN)/python -m tests.faults $(ARGS)

seeds: $(READY) ## Go on with a million simulated seeds (ARGS="--minutes 60"), and write the figure into the docs
	@$(BIN)/python -m tests.faults.seeds $(ARGS)
	@$(BIN)/python scripts/long_run_table.py

http-faults: $(READY) ## Kill gateways and workers under 200 streams of events, 50 times
	@$(BIN)/python -m tests.http_kills $(ARGS)

export-faults: $(READY) ## Kill exports to files and into a lake, 50 times each
	@$(BIN)/python -m tests.export_kills $(ARGS)

rebuild-faults: $(READY) ## Kill the materializer and rebuilds, 50 times each, then verify
	@$(BIN)/python -m tests.rebuild_kills $(ARGS)

game-day: $(READY) ## Ten incidents with a real Prometheus: each alert fires, its page is done, it goes (ARGS="lag ...")
	@$(BIN)/python -m tests.game_day $(ARGS)

model: $(READY) ## Search the ownership protocol for what must not be, in larger cases than the tests do
	@$(BIN)/python -m tests.model $(ARGS)

fuzz: $(READY) ## Long random runs: any bytes as requests, 100,000 of them
	@$(BIN)/python -m tests.fuzz $(ARGS)

fuzz-runners: $(READY) ## Fuzz what runners yield: 100,000 outputs beside innocent turns
	@$(BIN)/python -m tests.simulation.odd $(ARGS)

lock: ## Re-make both lock files from pyproject.toml (ARGS=--upgrade takes newer versions)
	scripts/lock.sh $(ARGS)

audit: $(READY) ## Ask for known vulnerabilities of requirements.lock, and write its SBOM into dist/
	@scripts/audit.sh $(ARGS)

release-check: $(READY) ## Build sdist and wheel, and try them
	@scripts/release-check.sh

upgrade-check: $(READY) ## Restart workers one by one under load, from the last release to this build and back (ARGS="--old COMMIT")
	@$(BIN)/python -m tests.upgrade_check $(ARGS)

clean: ## Remove the environment and all caches (not turnlog-data)
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
