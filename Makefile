# Everything a newcomer types. `make demo` and `make test` need Python 3.11 to 3.13, pip and make, nothing else.
PYTHON ?= python3
UV_VERSION := 0.13.9
# Every group but plan and tpu, whose compiler takes 684 MB: docs/adr/0002-dependencies.md.
GROUPS := train data gcp dask export codec flows dev
LOCK_FLAGS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet
VENV := .venv
# Of the server of demo-flows.
PORT ?= 4200
UV := .uv/bin/uv
BIN := $(VENV)/bin
# A tool that this Makefile starts must find the python and the vdm of this environment first:
# Beam's worker pools start a bare `python`.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Without kept bytecode every start of the command compiles its packages anew, which takes seconds.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup setup-plan setup-onnx setup-bench docs lock demo demo-flows demo-flows-stop deploy test test-slow check format bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  -/'

setup: $(VENV)/.stamp  ## .venv exactly as requirements.lock says

$(UV):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11 to 3.13 is needed, $(PYTHON) is %d.%d: call make PYTHON=/path/to/python3.11" % v)'
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv==$(UV_VERSION)

$(VENV)/.stamp: requirements.lock pyproject.toml | $(UV)
	@echo "Installing the packages of requirements.lock into $(VENV): about 4 GB on disk, some minutes the first time."
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

setup-plan: setup  ## adds the TPU compiler, 684 MB, for `vdm plan`
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-tpu.lock

setup-onnx: setup  ## adds what `vdm export --onnx` needs, 185 MB
	$(UV) pip install --quiet --python $(BIN)/python --constraints requirements.lock --no-build-isolation --editable '.[onnx]'

setup-bench: setup  ## adds PyTorch for the benches `*_yardstick`, some GB
	$(UV) pip install --quiet --python $(BIN)/python --constraints requirements.lock --no-build-isolation --editable '.[bench]'

docs: setup  ## docs/api: the pages of vdm_lib, made of its docstrings
	$(BIN)/pdoc --docformat google --output-directory docs/api vdm_lib

lock: | $(UV)  ## resolve requirements.lock anew, keeping what still fits (UPGRADE=--upgrade takes the newest)
	$(UV) pip compile pyproject.toml $(GROUPS:%=--extra %) $(LOCK_FLAGS) $(UPGRADE) --output-file requirements.lock
	$(UV) pip compile pyproject.toml --extra tpu --constraints requirements.lock $(LOCK_FLAGS) \
	  --output-file requirements-tpu.lock

demo: setup  ## data -> train -> eval -> sample -> export on real 8x8 digits, at most five minutes
	$(BIN)/python -m pipelines.demo

demo-flows: setup  ## the same through Prefect, with a server and a worker on this machine (PORT=4200)
	$(BIN)/python -m flows.demo start --port $(PORT)

demo-flows-stop: setup  ## ends that server and worker; demo-flows/ stays
	$(BIN)/python -m flows.demo stop

deploy: setup  ## work pool, deployments and automations to the server in use (NOTIFY=slack-webhook/NAME)
	$(BIN)/python -m flows.deploy $(if $(NOTIFY),--notify $(NOTIFY))

test: setup  ## the default test suite
	$(BIN)/python -m pytest

test-slow: setup  ## the tests that need minutes, servers or much memory (MINUTES=15 begins none later)
	$(BIN)/python -m pytest -m slow $(if $(MINUTES),--minutes $(MINUTES) --turn $$(date +%j) --no-loadscope-reorder) \
	  || test $$? -eq 5  # 5: there is none

check: setup  ## lint, format, types, import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup  ## mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## timings and sizes, as ratios in one run: benchmarks/README.md (ONLY="train evaluate" takes some)
	$(BIN)/python -m benchmarks $(ONLY)

clean:  ## remove what the targets above made
	rm -rf $(VENV) .uv demo demo-flows
