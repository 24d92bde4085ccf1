# `make` lists the commands. Everything a machine needs is installed by these targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The Lambda runtime's own minor version where the machine has it, else the newest Python >= 3.11.
PYTHON ?= $(shell bash scripts/find-python.sh)
VENV := .venv
BIN := $(VENV)/bin
SAM_VENV := .venv-sam
PEERS_VENV := .venv-peers
CLIENT_VENVS := .venv-clients .venv-pinecone-9 .venv-langchain-pinecone
PORT ?= 8000
WORKERS ?= 1
DATA_DIR ?= .vecmeter
NAME ?= get_index_stats

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: setup
setup: $(VENV)/.ready ## create the environment from the pinned locks

$(VENV)/.ready: requirements/dev.txt pyproject.toml sdk/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Vecmeter needs Python 3.11 or newer on PATH"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable . --editable sdk
	@touch $@

.PHONY: sam-setup
sam-setup: $(SAM_VENV)/.ready # the SAM CLI, in an environment of its own

# Tools and clients that want other versions than ours, each in an environment of its own.
.venv-%/.ready: requirements/%.txt
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/$*.txt
	@touch $@

.PHONY: clients-setup
clients-setup: $(CLIENT_VENVS:=/.ready) ## install the clients that tests/clients runs, each in an environment of its own

.PHONY: lock
lock: setup ## pin requirements/*.in again (locks name no index host)
	for name in layer local dev sam peers clients pinecone-9 langchain-pinecone; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url \
	    --no-emit-find-links requirements/$$name.in -o requirements/$$name.txt || exit 1; done

.PHONY: run
run: setup ## start the local stack with the demo on PORT (8000) with WORKERS (1); Ctrl-C stops it
	@$(BIN)/vecmeter-local up --port $(PORT) --workers $(WORKERS) --data-dir $(DATA_DIR)

.PHONY: serve
serve: setup ## the local stack without the demo
	@$(BIN)/vecmeter-local up --port $(PORT) --workers $(WORKERS) --data-dir $(DATA_DIR) --no-demo

.PHONY: task
task: setup ## run a maintenance task in the running local stack: make task NAME=vacuum_analyze
	@$(BIN)/vecmeter-local task $(NAME) --data-dir $(DATA_DIR)

.PHONY: check
check: setup ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Processes of pytest; each has a PostgreSQL and an emulator of its own.
TEST_PROCESSES ?= 2
.PHONY: test
test: setup sam-setup clients-setup check validate ## the whole suite, on real PostgreSQL and AWS emulators, the deployment included
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --cov --cov-report=term --cov-fail-under=90

.PHONY: openapi
openapi: setup ## write docs/openapi.json from the routes
	$(BIN)/python scripts/generate_docs.py

.PHONY: bench
bench: setup ## the benchmarks behind docs/performance.md
	$(BIN)/python -m benchmarks.search_request
	$(BIN)/python -m benchmarks.imports

CLIENTS ?= 500
SECONDS_OF_LOAD ?= 60
.PHONY: load
load: setup ## CLIENTS (500) on the local server with two workers for SECONDS_OF_LOAD (60): docs/performance.md
	$(BIN)/python -m benchmarks.load --clients $(CLIENTS) --seconds $(SECONDS_OF_LOAD) --workers 2

.PHONY: bench-peers
bench-peers: $(PEERS_VENV)/.ready ## install the vector stores that bench-search compares with

VECTORS ?= 100000
.PHONY: bench-search
bench-search: setup bench-peers ## recall and speed beside other vector stores, of VECTORS (100000): about 40 minutes
	$(BIN)/python -m benchmarks.recall_speed --dataset fashion
	$(BIN)/python -m benchmarks.recall_speed --dataset docstrings --vectors $(VECTORS)
	$(BIN)/python -m benchmarks.filtered_search --what filters --vectors $(VECTORS)
	$(BIN)/python -m benchmarks.filtered_search --what namespaces --vectors $$(($(VECTORS) * 2))
	$(BIN)/python -m benchmarks.index_memory --vectors $$(($(VECTORS) / 4))

# The SAM CLI wants a region even where it talks to nobody.
SAM := SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=$(or $(AWS_DEFAULT_REGION),$(AWS_REGION),us-east-1) $(SAM_VENV)/bin/sam

.PHONY: build
build: setup sam-setup ## build the artifacts that `sam deploy` deploys, without Docker
	$(SAM) build --parallel

.PHONY: validate
validate: sam-setup ## lint template.yaml and the nested stacks
	$(SAM) validate --lint
	$(SAM_VENV)/bin/cfn-lint template.yaml infra/*.yaml

.PHONY: e2e
e2e: setup sam-setup ## deploy the template into the local AWS emulator and drive it (about 2 minutes)
	$(BIN)/pytest -m e2e tests/e2e

FUNCTION ?= SearchFunction
EVENT ?= tests/events/health.json
ENV_VARS ?=
.PHONY: invoke
invoke: setup sam-setup ## run a built function on an event: make invoke FUNCTION=SearchFunction EVENT=tests/events/health.json
ifeq ($(ENV_VARS),)
	@$(BIN)/python -m vecmeter_local.runtime_interface $(FUNCTION) $(EVENT) $(DATA_DIR)
else
	$(SAM) local invoke $(FUNCTION) --event $(EVENT) --env-vars $(ENV_VARS)
endif
