# `make train` and `make test` do all the set-up themselves. With PYTHON=python3 nothing is installed and that
# interpreter is used (for a machine that brings its own PyTorch).
VENV := .venv
PYTHON ?= $(VENV)/bin/python
ifeq ($(PYTHON),$(VENV)/bin/python)
READY := $(VENV)/.ready
else
READY :=
# absolute, since some tests and notebooks work in folders of their own
export PYTHONPATH := $(CURDIR)/src:$(PYTHONPATH)
endif
# arguments for the program: make train ARGS="optim.lr=1e-3"
ARGS ?=
WORKERS ?= 2
# of bench-gpu
PART ?= loop
BENCH_ops := model=llama3b data=synthetic data.sequence_length=4096 data.micro_batch_size=4 precision=bf16

.DEFAULT_GOAL := help
.PHONY: help setup train lint test test-slow test-gpu bench bench-gpu notebooks clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(VENV)/.ready: pyproject.toml
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test,lint]'
	touch $@

setup: $(READY)  ## make .venv and install the project into it

train: $(READY)  ## train a small Llama on this machine's Python sources; ARGS="key=value ..." overrides
	$(PYTHON) train.py $(ARGS)

lint: $(READY)  ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: $(READY)  ## all tests that need no GPU and no patience
	$(PYTHON) -m pytest -n $(WORKERS) -m "not slow and not gpu" $(ARGS)

test-slow: $(READY)  ## the slow tests
	$(PYTHON) -m pytest -m "slow and not gpu" $(ARGS)

test-gpu: $(READY)  ## the tests that need a CUDA device, and those of ops natively on it
	$(PYTHON) -m pytest -m gpu $(ARGS)

bench: $(READY)  ## the trainer against a bare PyTorch loop, on this machine
	$(PYTHON) -m litespark.cli bench loop $(ARGS)

bench-gpu: $(READY)  ## on a GPU, PART=loop: the same; PART=ops: each op and backend at the sizes of the 3 B model
	$(PYTHON) -m litespark.cli bench $(PART) $(BENCH_$(PART)) trainer.accelerator=cuda $(ARGS)

notebooks: $(READY)  ## write notebooks/*.ipynb from their paired sources
	$(PYTHON) -m jupytext --to ipynb notebooks/*.py

clean:  ## remove .venv, prepared data, logs and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis notebooks/*.ipynb
	find data logs -mindepth 1 ! -name README.md -delete
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
