# `make run` and `make test` do all set-up themselves. Needs Python 3.11 or newer and, once, the network.
PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
CORES ?= all
GPUS ?= $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
SNAKEMAKE = snakemake --cores $(CORES) --resources gpu=$(if $(filter 0,$(GPUS)),$(shell getconf _NPROCESSORS_ONLN),$(GPUS))

.PHONY: help setup run smoke verify record test test-all lint types ui status lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --editable .
	touch $@

setup: $(VENV)/.installed ## install everything into .venv

run: setup ## the whole pipeline on the embedded default; does nothing when all is done
	$(SNAKEMAKE)

smoke: setup ## the whole pipeline, tiny, in about a minute
	$(SNAKEMAKE) --configfile presets/smoke.yaml

verify: setup ## look at every job again; recompute what does not match its record
	$(SNAKEMAKE) --forceall

record: verify ## version the current artifacts with DVC
	dvc commit --force

test: setup ## the test suite
	pytest -n 2 --dist loadgroup

test-all: setup ## the test suite with what takes long
	pytest -n 2 --dist loadgroup -m "not gpu"

lint: setup ## formatting and lint
	ruff check . && ruff format --check .

types: setup ## static types (fetches the type checker at its first run)
	pyright

ui: setup ## compare runs in the browser
	mlflow ui --backend-store-uri sqlite:///$(CURDIR)/mlflow.db --workers 1

status: setup ## what each job left and what is out of date
	@datafree status

lock: ## pin the versions of a fresh installation in requirements.lock
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/pip install --quiet torch==2.13.0 torchvision==0.28.0 && .lock-venv/bin/pip install --quiet ".[workflow,dev]"
	.lock-venv/bin/pip freeze --exclude datafree | sed 's/+cpu//' > requirements.lock
	rm -rf .lock-venv

clean: ## remove all results (not the environment)
	rm -rf artifacts results logs .datafree .snakemake mlflow.db* mlartifacts
