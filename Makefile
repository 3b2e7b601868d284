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
PYTHONS ?= 3.11 3.12 3.13 3.14
# Tests that run in parallel, each on its own servers. More than there are cores, because most of them wait.
JOBS ?= 4

.PHONY: demo up compare compare-full test test-unit test-pythons test-all other-servers faults faults-mutants soak fuzz check format lock setup

demo: setup
	.venv/bin/write-batcher demo --workflows $(WORKFLOWS) --database $(DATABASE) $(ARGS)

up: setup
	.venv/bin/write-batcher up $(ARGS)

# Some ten minutes. compare-full takes an hour and more; its three rounds show how much of a difference is chance.
compare: setup
	.venv/bin/write-batcher compare --workflows 150 $(ARGS)

compare-full: setup
	.venv/bin/write-batcher compare --workflows 1000 --requests 30000 --rounds 3 $(ARGS)

test: setup
	$(PYTHON) -m pytest -n $(JOBS) $(ARGS)

test-unit: setup
	$(PYTHON) -m pytest -n 2 --dist loadfile tests/unit $(ARGS)

# The unit tests on every supported Python that this machine has.
test-pythons: $(UV)
	.ci/test-pythons $(UV) $(PYTHONS)

# All tests, also those too slow for every day: all fault tests, and all contenders of the comparison.
test-all: setup
	$(PYTHON) -m pytest -n $(JOBS) -m "" $(ARGS)

# Real processes and connections killed, frozen and cut: half an hour. `make test` runs the quicker ones.
faults: setup
	$(PYTHON) -m pytest -m "" tests/faults $(ARGS)

# Wrong variants of the product, each of which a named test must find.
faults-mutants: setup
	$(PYTHON) -m tests.faults.mutants $(ARGS)

soak: setup
	$(PYTHON) -m tests.faults.soak --minutes $(MINUTES) $(ARGS)

fuzz: setup
	$(UV) pip install --quiet --python $(PYTHON) $(ATHERIS)
	$(PYTHON) tests/fuzz/entries.py -max_total_time=$(SECONDS) $(ARGS)

# The tests that use Redis, on each kind of server in turn.
other-servers: setup
	for kind in valkey redis6 redis7 tls cluster sentinel; do \
	  echo "--redis=$$kind" && $(PYTHON) -m pytest --redis=$$kind --redis-only tests/integration $(ARGS) || exit 1; \
	done

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy -p write_batcher
	.venv/bin/mypy tests

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# Installing again takes a second, and links files that were added since to the editable package.
setup: .venv/.locked
	@$(UV) pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --reinstall-package write-batcher --editable .

.venv/.locked: requirements.lock $(UV)
	$(UV) venv --quiet --allow-existing --python python3 .venv
	$(UV) pip sync --quiet --compile-bytecode --python $(PYTHON) --require-hashes requirements.lock
	@touch $@

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Exported without the index it came from. uv.lock would name that host, so it is not committed.
lock: $(UV)
	$(UV) export --quiet --all-extras --all-groups --no-emit-project --no-header --output-file requirements.lock
