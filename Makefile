# fleetflame on one machine. `make up` is for users, `make test` and the rest for those who build it.
#
# Nothing has to be installed by hand: every target depends on `setup`, which does nothing when all is in place.

SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
# The distribution's Python, since BCC's module comes as a distribution package for that one.
SYSTEM_PYTHON := /usr/bin/python3
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-warn-script-location
RUNTIME_STAMP := $(VENV)/.runtime
DEV_STAMP := $(VENV)/.dev
UP_ARGS ?=
TEST_ARGS ?=

.PHONY: help setup setup-dev up test lint format types proto bench lock clean

help:  ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(RUNTIME_STAMP)  ## install what fleetflame needs to run: distribution packages, .venv, pinned Python packages

setup-dev: $(DEV_STAMP)  ## as setup, and what tests and benchmarks need

up: setup  ## start bus, aggregator and agent on this machine; options in UP_ARGS
	@exec $(VENV)/bin/fleetflame up $(UP_ARGS)

test: setup-dev  ## all tests; pytest options in TEST_ARGS
	$(PYTHON) -m pytest $(TEST_ARGS)

lint: setup-dev  ## ruff: rules and format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: setup-dev  ## let ruff rewrite what it can
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types: setup-dev  ## mypy --strict
	$(PYTHON) -m mypy

proto: setup-dev  ## regenerate the protobuf code after a change of a .proto file
	$(PYTHON) -m grpc_tools.protoc -Iproto/fleetflame --python_out=proto/fleetflame --pyi_out=proto/fleetflame proto/fleetflame/wire.proto
	$(PYTHON) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. aggregator/render/pprof.proto

bench: setup-dev  ## every benchmark, beside its peer; writes bench/RESULTS.md
	$(PYTHON) -m bench

lock: setup-dev  ## pin new versions into requirements/ from the ranges in pyproject.toml
	deploy/lock.sh

clean:  ## remove the virtual environment and caches; data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(PYTHON):
	deploy/apt.sh deploy/packages-runtime.txt
	$(SYSTEM_PYTHON) -m venv --system-site-packages $(VENV)

$(RUNTIME_STAMP): pyproject.toml requirements/aggregator.txt deploy/packages-runtime.txt | $(PYTHON)
	deploy/apt.sh deploy/packages-runtime.txt
	$(PIP) --require-hashes -r requirements/build.txt -r requirements/aggregator.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_STAMP): requirements/dev.txt deploy/packages-test.txt $(RUNTIME_STAMP)
	deploy/apt.sh deploy/packages-test.txt
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@
