# Every target installs what it needs: python3 and make are enough.
UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
PYTHON := .venv/bin/python
WORKFLOWS ?= 250
DATABASE ?= sqlite
MINUTES ?= 30
SECONDS ?= 60
ATHERIS := atheris==3.0.0
ARGS ?=
# Those of the classifiers in pyproject.toml, and 3.14, which is tried where a machine has it.
PYTHONS ?= 3.11 3.12 3.13 3.14
# Tests that run in parallel, each on its own servers. More than there are cores, because most of them wait.
JOBS ?= 4

.PHONY: help demo up compare compare-full bench test test-unit test-pythons test-all other-servers faults faults-mutants soak fuzz check format lock setup

help: ## what can be made; a plain `make` prints it too
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## many workflows on servers of their own (WORKFLOWS=250 DATABASE=sqlite)
	.venv/bin/write-batcher demo --workflows $(WORKFLOWS) --database $(DATABASE) $(ARGS)

up: setup ## Temporal and Valkey, until Ctrl-C
	.venv/bin/write-batcher up $(ARGS)

compare: setup ## four designs, seven scenarios: some fifteen minutes
	.venv/bin/write-batcher compare --workflows 150 $(ARGS)

compare-full: setup ## more workflows, three rounds, which show how much is chance: an hour and more
	.venv/bin/write-batcher compare --workflows 1000 --requests 30000 --rounds 3 $(ARGS)

bench: OUT := bench/results/$(shell date -u +%Y%m%dT%H%M%SZ)
bench: setup ## how fast all this is beside the least code that could do the same: a quarter of an hour
	.venv/bin/write-batcher bench drain --requests 20000 --out $(OUT) $(ARGS)
	for case in wide receipts codec one-bad duplicates; do \
	  .venv/bin/write-batcher bench drain --case $$case --requests 5000 --rounds 2 --out $(OUT) $(ARGS) || exit 1; \
	done
	.venv/bin/write-batcher bench drain --batch-size 1000 --requests 20000 --rounds 2 --out $(OUT)/batch-1000 $(ARGS)
	.venv/bin/write-batcher bench append --out $(OUT) $(ARGS)
	.venv/bin/write-batcher bench confirm --callers 100 --rounds 2 --out $(OUT) $(ARGS)
	.venv/bin/write-batcher bench partitions --requests 8000 --out $(OUT) $(ARGS)
	.venv/bin/write-batcher bench memory --requests 100000 --out $(OUT) $(ARGS)
	.venv/bin/write-batcher bench recovery --out $(OUT) $(ARGS)
	.venv/bin/write-batcher bench latency --workflows 40 --rounds 2 --database sqlite --out $(OUT) $(ARGS)
	.venv/bin/write-batcher bench end-to-end --workflows 60 --rounds 2 --out $(OUT) $(ARGS)
	.venv/bin/write-batcher bench picture $(OUT) $(addprefix --before ,$(wildcard bench/before.json))

test: setup ## unit and integration tests, the quicker fault tests (one test: ARGS="-k name")
	$(PYTHON) -m pytest -n $(JOBS) $(ARGS)

test-unit: setup ## the unit tests alone
	$(PYTHON) -m pytest -n 2 --dist loadfile tests/unit $(ARGS)

test-pythons: $(UV) ## the unit tests on every supported Python that this machine has
	.ci/test-pythons $(UV) $(PYTHONS)

test-all: setup ## all tests, also those too slow for every day: an hour
	$(PYTHON) -m pytest -n $(JOBS) -m "" $(ARGS)

faults: setup ## real processes and connections killed, frozen and cut: half an hour
	$(PYTHON) -m pytest -m "" tests/faults $(ARGS)

faults-mutants: setup ## wrong variants of the product, each of which a named test must find
	$(PYTHON) -m tests.faults.mutants $(ARGS)

soak: setup ## random faults while workflows run (MINUTES=30)
	$(PYTHON) -m tests.faults.soak --minutes $(MINUTES) $(ARGS)

fuzz: setup ## coverage-guided input for the decoder of stream entries (SECONDS=60)
	$(UV) pip install --quiet --python $(PYTHON) $(ATHERIS)
	$(PYTHON) tests/fuzz/entries.py -max_total_time=$(SECONDS) $(ARGS)

other-servers: setup ## the tests that use Redis, on each kind of server in turn
	for kind in valkey redis6 redis7 tls cluster sentinel; do \
	  echo "--redis=$$kind" && $(PYTHON) -m pytest --redis=$$kind --redis-only tests/integration $(ARGS) || exit 1; \
	done

check: setup ## formatting, linting, types: product and tests
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy -p write_batcher
	.venv/bin/mypy tests

format: setup ## format, and fix what ruff can fix
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# Installing again takes a second, and links files that were added since to the editable package.
setup: .venv/.locked ## install everything into .venv; links new files to the package
	@$(UV) pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --reinstall-package write-batcher --editable .

.venv/.locked: requirements.lock $(UV)
	$(UV) venv --quiet --allow-existing --python python3 .venv
	$(UV) pip sync --quiet --compile-bytecode --python $(PYTHON) --require-hashes requirements.lock
	@touch $@

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Exported without the index it came from. uv.lock would name that host, so it is not committed.
lock: $(UV) ## pin what pyproject.toml asks for, in requirements.lock
	$(UV) export --quiet --all-extras --all-groups --no-emit-project --no-header --output-file requirements.lock
