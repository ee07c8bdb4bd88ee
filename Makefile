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
PART ?= step
# sequences that come again: on random tokens that never do, no loss could tell one training from another
R3 := model=llama3b data=synthetic data.training_sequences=16 data.seq_len=4096 data.micro_batch_size=4 \
	trainer.global_batch_size=4 precision=bf16 trainer.accelerator=gpu
# ours in fp8 by each recipe, beside it in bf16 and both of PyTorch's own
FP8 := --variant compiled --variant compiled_fp8 --variant litespark --variant "litespark_fp8:precision=fp8" \
	--variant "litespark_fp8_tensorwise:precision=fp8 precision.fp8.recipe=tensorwise"
# whole sequences, as the Hugging Face baselines take them
WHOLE := data.document_mask=false
BENCH := $(PYTHON) -m litespark.cli bench
# of bench-gpus: the devices of this machine, and how they are used
GPUS ?= $(shell nvidia-smi --list-gpus 2>/dev/null | wc -l)
STRATEGIES ?= ddp fsdp tp
# a step of two micro-batches on up to eight
SCALE := experiment=llama3b_litespark data=synthetic budget.tokens=null budget.steps=60 callbacks.checkpoint_every=null \
	callbacks.sample_prompt=null trainer.validate_every=null trainer.global_batch_size=64
# of bench and bench-gpu: anything writes the records into results/, which is committed, and nothing into logs/bench
PUBLISH ?=
PUBLISHED := $(if $(PUBLISH),--publish)

.DEFAULT_GOAL := help
.PHONY: help setup train lint test test-slow test-gpu lifecycle bench bench-gpu bench-gpus notebooks clean
.PHONY: bench-gpu-ops bench-gpu-loop bench-gpu-step bench-gpu-fp8 bench-gpu-parity bench-gpu-ablation bench-gpu-profile

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(VENV)/.ready: pyproject.toml
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test,lint]'
	touch $@

setup: $(READY)  ## make .venv and install the project into it

train: $(READY)  ## train a small Llama; ARGS="key=value ..." sets keys
	$(PYTHON) train.py $(ARGS)

lint: $(READY)  ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: $(READY)  ## all tests that need no GPU and are not slow
	$(PYTHON) -m pytest -n $(WORKERS) -m "not slow and not gpu" $(ARGS)

test-slow: $(READY)  ## the slow tests
	$(PYTHON) -m pytest -m "slow and not gpu" $(ARGS)

test-gpu: $(READY)  ## the tests that need a CUDA device, and those of the ops on it
	$(PYTHON) -m pytest -m gpu $(ARGS)

lifecycle: $(READY)  ## pre-train, SFT, DPO, reward model, GRPO, and one page; PUBLISH=1 writes it into results/
	$(BENCH) lifecycle $(PUBLISHED) $(ARGS)

# sizes at which two CPU cores take minutes
SMALL := model=tiny data=synthetic data.training_sequences=16 data.seq_len=128 data.micro_batch_size=4 data.document_mask=false \
	trainer.global_batch_size=4 precision=fp32 trainer.accelerator=cpu

bench: $(READY)  ## small benchmarks on a CPU; PUBLISH=1 writes them into results/
	$(BENCH) step $(SMALL) --rounds 2 --steps 10 $(PUBLISHED) $(ARGS)
	$(BENCH) ablation $(SMALL) --baseline "ops=reference recompute=full" \
		--target "ops=reference ops.attention=sdpa ops.linear_cross_entropy=chunked recompute=none" \
		--rounds 2 --steps 10 $(PUBLISHED) $(ARGS)

bench-gpu: $(READY)  ## on a GPU, PART=step ablation profile fp8 parity ops or loop
	$(MAKE) --no-print-directory bench-gpu-$(PART)

# each continues what an earlier start left unfinished
bench-gpu-ops:
	$(BENCH) ops $(R3) $(PUBLISHED) $(ARGS)

# what our step, and then the Trainer around it, cost over a bare loop
bench-gpu-loop:
	$(BENCH) step $(R3) $(WHOLE) --variant bare --variant litespark --variant train.py --rounds 4 --minutes 8.5 \
		$(PUBLISHED) $(ARGS)

bench-gpu-step:
	$(BENCH) step $(R3) $(WHOLE) --rounds 4 --minutes 8.5 $(PUBLISHED) $(ARGS)

bench-gpu-fp8:
	$(BENCH) step $(R3) $(WHOLE) $(FP8) --rounds 4 --minutes 8.5 $(PUBLISHED) $(ARGS)

# one GPU has few minutes for text: 160 million parameters on the sources of the packages that are installed there
bench-gpu-parity:
	$(BENCH) parity model=llama160m data=installed_packages data.max_bytes=120_000_000 data.seq_len=1024 \
		data.micro_batch_size=32 trainer.global_batch_size=64 budget.tokens=20_000_000 trainer.validate_every=50 \
		optim.lr=6e-4 trainer.accelerator=gpu --minutes 8.5 $(PUBLISHED) $(ARGS)

bench-gpu-ablation:
	$(BENCH) ablation $(R3) $(WHOLE) --switch norm=ops.rms_norm,ops.add_rms_norm --switch swiglu=ops.swiglu,ops.swiglu_linear \
		--rounds 4 --minutes 8.5 $(PUBLISHED) $(ARGS)

bench-gpu-profile:
	$(BENCH) profile $(R3) $(WHOLE) --variant litespark $(PUBLISHED) $(ARGS)
	$(BENCH) profile $(R3) $(WHOLE) --variant "litespark_fp8:precision=fp8" $(PUBLISHED) $(ARGS)
	$(BENCH) profile $(R3) $(WHOLE) --variant compiled $(PUBLISHED) $(ARGS)

bench-gpus: $(READY)  ## on all GPUs of a machine, steps under each of STRATEGIES, and one table; GPUS=2 on that many
	$(foreach strategy,$(STRATEGIES),$(PYTHON) -m torch.distributed.run --nproc-per-node=$(GPUS) train.py $(SCALE) \
		strategy=$(strategy) name=scale-$(strategy) $(ARGS) &&) \
	$(PYTHON) -m litespark.cli report $(foreach strategy,$(STRATEGIES),logs/runs/scale-$(strategy))

notebooks: $(READY)  ## write notebooks/*.ipynb from their paired sources
	$(PYTHON) -m jupytext --to ipynb notebooks/*.py

clean:  ## remove .venv, prepared data, logs and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis notebooks/*.ipynb
	find data logs -mindepth 1 ! -name README.md -delete
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
