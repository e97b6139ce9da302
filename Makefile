# Everything runs in .venv, made from pyproject.toml and pinned by constraints.txt. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
MNIST_ROOT ?= data
RUNS ?= runs
DIGITS := --data.source digits --trainer.default_root_dir $(RUNS) --trainer.check_val_every_n_epoch 25
last_run = $$(ls -td $(RUNS)/$(1)/*/ | head -n 1)

.DEFAULT_GOAL := help
.PHONY: help train test lint format types clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		(echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: .venv/installed  ## train a VAE and a DCGAN on the embedded digits, in about 2 minutes
	$(BIN)/python train.py fit --config configs/vae/vae.yaml $(DIGITS) --trainer.max_epochs 300
	$(BIN)/python train.py fit --config configs/gan/dcgan.yaml $(DIGITS) --trainer.max_epochs 125
	@echo; cat $(call last_run,vae)summary.txt; echo; cat $(call last_run,dcgan)summary.txt
	@echo; echo "Continue on the real MNIST (downloaded to data/ on first use):"
	@echo "  $(BIN)/python train.py fit --config configs/vae/vae.yaml"
	@echo "  $(BIN)/python train.py fit --config configs/gan/dcgan.yaml"

test: .venv/installed  ## run the tests; those of the real MNIST where MNIST_ROOT holds it
	MNIST_ROOT=$(MNIST_ROOT) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope \
	  || MNIST_ROOT=$(MNIST_ROOT) $(BIN)/python -m pytest --last-failed  # W&B's service may be late on a loaded machine

lint: .venv/installed  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed  ## repair style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/installed  ## check types
	$(BIN)/mypy

clean:  ## remove the environment and caches; runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info build
