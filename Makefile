# The same few commands for people and for CI. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Stamps inside the virtual environment: a lock that changed installs again, nothing else does.
RUN := $(VENV)/.payflow-run
DEV := $(VENV)/.payflow-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo test cover prove bench lint format migrate clean lock

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(RUN) ## start everything in one process, with embedded servers where no URL is set
	$(BIN)/payflow dev $(ARGS)

demo: $(RUN) ## play payments, refunds, failovers and a wallet from start to end and show them
	$(BIN)/payflow demo $(ARGS)

# Four processes, each with a database, queues and keys of its own; a file stays whole in one of them.
# In the order of the folders, so that the slow ones (cli, faults) are not left for the end.
WHOLE = -n 4 --dist loadfile --no-loadscope-reorder
test: lint ## check style and types, then run all tests against real servers
	$(BIN)/python -m tests.services.ensure -- \
		$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),$(WHOLE))

# By itself, because counting takes as long again as testing.
cover: $(DEV) ## run all tests and see which lines and branches they reach: at least 90 %
	$(BIN)/python -m tests.services.ensure -- \
		$(BIN)/python -m pytest $(WHOLE) --cov --cov-branch --cov-report=term --cov-fail-under=90

prove: $(DEV) ## tell thousands of stories of money, check the books after each step, and try settlement files
	PAYFLOW_PROVE=1 $(BIN)/python -m tests.services.ensure -- \
		$(BIN)/python -m pytest tests/ledger/test_books_machine.py tests/reconciliation/test_properties.py $(ARGS)

bench: $(DEV) ## measure the hot paths
	$(BIN)/python -m bench $(ARGS)

lint: $(DEV) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src worker

format: $(DEV) ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

migrate: $(RUN) ## bring the database at DATABASE_URL to the newest schema
	$(BIN)/payflow migrate $(ARGS)

clean: ## remove caches and the embedded servers' data
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m payflow.infra.embedded; fi
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov .coverage .coverage.*
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --extra embedded --group build $(ARGS)
lock: $(DEV) ## write the locks from pyproject.toml (ARGS=--upgrade for the newest of everything)
	PATH="$$PATH:$(CURDIR)/$(BIN)" $(COMPILE) pyproject.toml -o deploy/requirements.lock
	PATH="$$PATH:$(CURDIR)/$(BIN)" $(COMPILE) --group dev pyproject.toml -o deploy/requirements-dev.lock

# The build backend comes from the lock too, so the project itself is installed without asking any registry.
define install
	@echo "Installing $(1) into $(VENV)"
	@if command -v uv >/dev/null; then \
		uv pip install --quiet --python $(BIN)/python --require-hashes -r $(1) && \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
		{ $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; } && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
endef

$(RUN): deploy/requirements.lock pyproject.toml | $(BIN)/python
	$(call install,deploy/requirements.lock)
	@touch $@

# Holds all that running needs, in the same versions.
$(DEV): deploy/requirements-dev.lock pyproject.toml | $(BIN)/python
	$(call install,deploy/requirements-dev.lock)
	@touch $@ $(RUN)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "PayFlow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
			"Name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
