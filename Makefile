# Targets install the package first if they need it. Needs Python 3.11 or newer and, for the installation, the network.
# PYTHON: the first of these that is at least 3.11 and has venv and ensurepip. requirements.lock was tested with 3.11 to 3.13.
# Never the Python of .venv: that of an interrupted set-up cannot create another environment.
OUTER_PATH := $(PATH)
PYTHON ?= $(firstword $(foreach candidate,python3.11 python3.12 python3.13 python3.14 python3 python,$(shell \
	PATH="$(OUTER_PATH)" $(candidate) -c "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1 && echo $(candidate))))
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
CORES ?= all
GPUS ?= $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
SNAKEMAKE = snakemake --cores $(CORES) --resources gpu=$(if $(filter 0,$(GPUS)),$(shell getconf _NPROCESSORS_ONLN),$(GPUS))

.PHONY: help setup run smoke verify record test test-all test-hardware lint types ui status lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(if $(PYTHON),,echo "make: found no Python 3.11 or newer with the modules venv and ensurepip; install one (Debian: python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 2)
	PATH="$(OUTER_PATH)" $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --editable .
	touch $@

setup: $(VENV)/.installed ## install the package and its requirements into .venv

run: setup ## run the pipeline with params.yaml; does nothing when all results are up to date
	$(SNAKEMAKE)

smoke: setup ## run the pipeline with tiny settings, in one or two minutes
	$(SNAKEMAKE) --configfile presets/smoke.yaml

verify: setup ## check every job against its record; recompute what does not match
	$(SNAKEMAKE) --forceall

record: verify ## verify, then commit the current artifacts to DVC
	dvc commit --force

test: setup ## run the tests
	pytest -n 2 --dist worksteal

test-all: setup ## run the tests, slow ones included
	pytest -n 2 --dist worksteal -m "not gpu"

FIRST_RUN = tests/workflow/test_pipeline.py::test_first_run_computes_everything_once_and_shows_the_table
test-hardware: setup ## run a part of the tests with the precision or instruction set that is not this processor's default
	@if python -c "import sys; from datafree.workflow import hardware; sys.exit(hardware.instruction_set() not in hardware.NATIVE_BFLOAT16)"; then \
		echo "with AVX2, in float32" && ONEDNN_MAX_CPU_ISA=AVX2 pytest -n 2 --dist worksteal --precision float32 \
			tests/stages tests/nas tests/tasks tests/zoo/test_backbones.py $(FIRST_RUN); \
	else \
		echo "in bfloat16" && pytest -n 2 --dist worksteal --precision bfloat16 tests/stages tests/nas/test_stages.py $(FIRST_RUN); \
	fi

lint: setup ## check formatting and lint
	ruff check . && ruff format --check .

types: setup ## check static types (the first run downloads the type checker)
	pyright

ui: setup ## compare runs in the browser (MLflow)
	mlflow ui --backend-store-uri sqlite:///$(CURDIR)/mlflow.db --workers 1

status: setup ## show the state of every job, and why it is out of date
	@datafree status

lock: ## write the versions of a new installation to requirements.lock
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/pip install --quiet torch==2.13.0 torchvision==0.28.0 && .lock-venv/bin/pip install --quiet ".[workflow,dev]"
	.lock-venv/bin/pip freeze --exclude datafree | sed 's/+cpu//' > requirements.lock
	rm -rf .lock-venv

clean: ## remove all results; keeps .venv
	rm -rf artifacts results logs .datafree .snakemake mlflow.db* mlartifacts
