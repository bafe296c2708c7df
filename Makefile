# Everything a newcomer needs is one of these; `make help` lists them.
# The set-up (system packages, virtual environment, Kafka's jars) happens by itself.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run stop logs demo key clean up down backup restore roll test test-long test-containers check fmt protos breaking lock bench loadtest capacity

PYTHON := .venv/bin/python
BOOTSTRAP := harness/bootstrap.sh
# Needs no virtual environment, because a host with Docker has none.
CONTAINERS := python3 -m harness.containers
# What pytest is given, as in: make test ARGS="tests/queue_service -x"
ARGS ?=
# If the environment sets it, every program compiles all its modules at each start, and the tests are
# translated anew for each run: half a minute of processor time.
unexport PYTHONDONTWRITEBYTECODE
# All tests run two at a time, because most of them wait; tests/conftest.py says which run together.
WORKERS := $(if $(ARGS),,--numprocesses=2 --no-loadscope-reorder)

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Install what is missing and serve on 127.0.0.1:8080 (SEED=full|small|none; Ctrl-C stops)
	@$(BOOTSTRAP) run
	@exec $(PYTHON) -m harness.cli run

stop: ## Stop what `make run` started
	@if compgen -G '.venv/.frontrow-*' >/dev/null; then exec $(PYTHON) -m harness.cli stop; else echo "Frontrow is not running."; fi

logs: ## Follow the logs of all servers and programs
	@if ! compgen -G '.local/log/*.log' >/dev/null; then echo "No logs yet: start with make run."; exit 2; fi
	@exec tail -n 20 -F .local/log/*.log

demo: ## Buy a ticket of the running system (EVENT=club|theatre|arena: import and open it first)
	@$(BOOTSTRAP) demo
	@exec $(PYTHON) -m harness.cli demo $(EVENT)

key: ## Create an API key for the admin API of `make run` (NAME=you ROLE=viewer|operator|admin)
	@exec $(PYTHON) -m harness.cli keys create --name "$(NAME)" --role "$(or $(ROLE),operator)"

clean: ## Delete data, logs and secrets of `make run` (not while it runs)
	@if compgen -G '.venv/.frontrow-*' >/dev/null; then exec $(PYTHON) -m harness.cli clean; else rm -rf .local/data .local/log .local/secrets.json; fi

up: ## Serve from capped containers on 127.0.0.1:8080 (CAP=2c4g|6c8g SCALE=2 SEED=full PORT=8080)
	@exec $(CONTAINERS) up

down: ## Stop and remove the containers of `make up` (DATA=delete: also their data)
	@exec $(CONTAINERS) down

roll: ## Replace the programs of `make up` one by one by those of this checkout
	@exec $(CONTAINERS) roll

backup: ## Dump the databases of `make up` into FILE, a gzipped SQL file
	@exec $(CONTAINERS) backup "$(FILE)"

restore: ## Restore the databases of `make up` from FILE
	@exec $(CONTAINERS) restore "$(FILE)"

test: ## Run all tests; they start servers of their own (ARGS="tests/gateway -x" narrows them)
	@$(BOOTSTRAP) test
	@exec $(PYTHON) -m pytest $(WORKERS) $(ARGS)

test-long: ## Run the tests that need real time or large numbers; at most 45 minutes
	@$(BOOTSTRAP) test
	@exec $(PYTHON) -m pytest -m long $(ARGS)

test-containers: ## Run the tests of `make up` on stacks of their own; skipped without a Docker engine
	@$(BOOTSTRAP) check
	@exec $(PYTHON) -m pytest tests/containers --override-ini addopts= -rs $(ARGS)

check: ## Check lint, format, types, the protos, and that the stubs fit them
	@$(BOOTSTRAP) check
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy .
	.venv/bin/buf lint protos
	@before=$$(find protos -name '*_pb2*.py*' -not -path '*/__pycache__/*' | sort | xargs sha256sum); \
	protos/generate.sh && \
	after=$$(find protos -name '*_pb2*.py*' -not -path '*/__pycache__/*' | sort | xargs sha256sum) && \
	if [ "$$before" != "$$after" ]; then \
		echo "The stubs did not match the protos and were generated again: commit them."; \
		diff <(echo "$$before") <(echo "$$after"); exit 1; \
	fi; \
	echo "The stubs match the protos."

fmt: ## Format the code and fix what the linter can
	@$(BOOTSTRAP) check
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

protos: ## Generate the stubs beside the .proto files
	@$(BOOTSTRAP) check
	protos/generate.sh

breaking: ## Report changes since commit BASE that break the wire format of the protos (BASE=<commit>)
	@$(BOOTSTRAP) check
	@exec protos/breaking.sh "$(BASE)"

lock: ## Write the lock files from pyproject.toml and the generated client's requirements.in
	@$(BOOTSTRAP) check
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	$(PYTHON) -m uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --quiet -o requirements.lock
	$(PYTHON) -m uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --quiet -o requirements-dev.lock
	$(PYTHON) -m uv pip compile tests/e2e/openapi_client/requirements.in --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --quiet -o tests/e2e/openapi_client/requirements.lock

bench: ## Measure the hot paths saturated with wrk, at a low rate (LOAD=light), or a long line (LOAD=room)
	@case "$(LOAD)" in ""|light|room) ;; *) echo "frontrow: LOAD must be light, room or empty, not $(LOAD)." >&2; exit 2;; esac
	@$(BOOTSTRAP) bench
	@exec $(PYTHON) -m benchmarks.$(or $(LOAD),bench) $(ARGS)

loadtest: ## Load the gateway with k6 and report (SCRIPT=journey PROFILE=x10; else all, baseline)
	@$(BOOTSTRAP) test
	@exec $(PYTHON) -m loadtests.cli loadtest

capacity: ## Find how many users each route stands, and what the bottleneck is (SCRIPT=seats)
	@$(BOOTSTRAP) test
	@exec $(PYTHON) -m loadtests.cli capacity
