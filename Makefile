# Targets install the package first if they need it. Needs Python 3.11 or newer and, for the installation, the network.
# Programs of .venv are called by path and paths are relative, so that the project may lie in any folder, whatever its name.
VENV := .venv
quoted = '$(subst ','\'',$(1))'
# PYTHON: the first of these that is at least 3.11 and has venv and ensurepip. requirements.lock was tested with 3.11 to 3.13.
# For the Python of an activated .venv, the one that it was made from: that of an interrupted set-up cannot create another environment.
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do "$$candidate" -c "import ensurepip, os, sys, venv; \
	made_here = os.path.realpath(os.path.dirname(sys.executable)) == os.path.realpath('$(VENV)/bin'); \
	sys.exit(1) if sys.version_info < (3, 11) else print(os.path.realpath(sys.executable) if made_here else sys.executable)" 2>/dev/null && break; done)
# DVC and the tests start Snakemake by name. Bytecode is kept even where the environment says otherwise: a run starts dozens of processes, each
# of which would compile the package anew, for a second.
IN_VENV := PYTHONDONTWRITEBYTECODE= PATH="$$PWD/$(VENV)/bin:$$PATH" $(VENV)/bin/python
CORES ?= all
GPUS ?= $(shell $(VENV)/bin/python -c "from datafree import gpus; print(len(gpus.require('auto')))" 2>/dev/null)
SNAKEMAKE = $(IN_VENV) -m snakemake --cores $(call quoted,$(CORES)) \
	--resources gpu=$(call quoted,$(or $(filter-out 0,$(GPUS)),$(shell getconf _NPROCESSORS_ONLN)))
# Of `make ui`. Not taken from the environment, where conda sets HOST for compilers.
HOST := 127.0.0.1
PORT := 5000

.PHONY: help setup run smoke verify record test test-gpu test-all test-hardware lint types ui status lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16

# Programs of an environment name its folder: if the project has been moved or copied since, it is set up again.
ifneq ($(CURDIR),$(shell cat $(VENV)/.installed 2>/dev/null))
.PHONY: $(VENV)/.installed
endif
$(VENV)/.installed: requirements.lock pyproject.toml
	@test -n $(call quoted,$(PYTHON)) || { echo "make: found no Python 3.11 or newer with the modules venv and ensurepip; install one (Debian: python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 2; }
	@case "$$PWD" in *\$$*) echo "make: setuptools cannot install from a folder with a dollar sign in its path, $$PWD; rename it" >&2; exit 2; esac
	$(call quoted,$(PYTHON)) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	@pwd -P > $@

setup: $(VENV)/.installed ## install the package and its requirements into .venv

run: setup ## run the pipeline with params.yaml; does nothing when all results are up to date
	$(SNAKEMAKE)

smoke: setup ## run the pipeline with tiny settings, in one or two minutes
	$(SNAKEMAKE) --configfile presets/smoke.yaml

verify: setup ## check every job against its record; recompute what does not match
	$(SNAKEMAKE) --forceall

record: verify ## verify, then commit the current artifacts to DVC
	$(IN_VENV) -m dvc commit --force

test: setup ## run the tests
	$(IN_VENV) -m pytest -n 2 --dist worksteal

test-gpu: setup ## run the tests that need a CUDA device
	$(IN_VENV) -m pytest -m gpu

test-all: setup ## run the tests, slow ones included
	$(IN_VENV) -m pytest -n 2 --dist worksteal -m "not gpu"

FIRST_RUN = tests/workflow/test_pipeline.py::test_first_run_computes_everything_once_and_shows_the_table
test-hardware: setup ## run a part of the tests with the precision or instruction set that is not this processor's default
	@if $(IN_VENV) -c "import sys; from datafree.workflow import hardware; sys.exit(hardware.instruction_set() not in hardware.NATIVE_BFLOAT16)"; then \
		echo "with AVX2, in float32" && ONEDNN_MAX_CPU_ISA=AVX2 $(IN_VENV) -m pytest -n 2 --dist worksteal --precision float32 \
			tests/stages tests/nas tests/tasks tests/zoo/test_backbones.py $(FIRST_RUN); \
	else \
		echo "in bfloat16" && $(IN_VENV) -m pytest -n 2 --dist worksteal --precision bfloat16 tests/stages tests/nas/test_stages.py $(FIRST_RUN); \
	fi

lint: setup ## check formatting and lint
	$(VENV)/bin/python -m ruff check . && $(VENV)/bin/python -m ruff format --check .

types: setup ## check static types (the first run downloads the type checker)
	$(IN_VENV) -m pyright

# MLflow refuses requests under names of this machine that it is not told, and has no passwords: open it only to a network whose users may see the results.
ui: setup ## compare runs in the browser (MLflow); from other machines: HOST=0.0.0.0 PORT=5001
	@host=$(call quoted,$(HOST)); port=$(call quoted,$(PORT)); hosts=; origins=; \
	set -- --backend-store-uri sqlite:///mlflow.db --workers 1 --host "$$host" --port "$$port"; \
	case "$$host" in localhost|127.*|::1) ;; *) \
		for name in "$$host" localhost 127.0.0.1 $$(hostname) $$(hostname -f 2>/dev/null) $$(hostname -I 2>/dev/null); do \
			case "$$name" in *:*) name="[$$name]" ;; esac; \
			hosts="$$hosts,$$name:$$port"; origins="$$origins,http://$$name:$$port"; \
		done; \
		set -- "$$@" --allowed-hosts "$${hosts#,}" --cors-allowed-origins "$${origins#,}" ;; \
	esac; \
	exec $(VENV)/bin/python -m mlflow ui "$$@"

status: setup ## show the state of every job, and why it is out of date
	@$(VENV)/bin/python -m datafree status

lock: ## write the versions of a new installation to requirements.lock
	rm -rf .lock-venv && $(call quoted,$(PYTHON)) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet torch==2.13.0 torchvision==0.28.0 && .lock-venv/bin/python -m pip install --quiet ".[workflow,export,demo,dev]"
	.lock-venv/bin/python -m pip freeze --all --exclude pip --exclude datafree | sed 's/+cpu//' > requirements.lock
	rm -rf .lock-venv

clean: ## remove all results; keeps .venv
	@for path in artifacts results logs .datafree .snakemake mlflow.db* mlruns mlartifacts dvc_plots; do \
		if [ -L "$$path" ] && [ -d "$$path" ]; then find -H "$$path" -mindepth 1 -delete; else rm -rf "$$path"; fi; \
	done
