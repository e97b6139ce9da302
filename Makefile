# Every target runs in .venv, which is made from pyproject.toml with the versions of constraints.txt.
# PYTHON is the interpreter. MNIST_ROOT is the directory of the real MNIST, and RUNS that of the runs.
PYTHON ?= python3
BIN := .venv/bin
MNIST_ROOT ?= data
RUNS ?= runs
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope
EMBEDDED := --data.source mnist_5k --trainer.default_root_dir $(RUNS) --trainer.check_val_every_n_epoch 25
# With few images, half of the channels and an average of the generator's weights give better samples in the same time.
DCGAN := --model.generator.width 32 --model.generator_optimizer.lr 5e-4 \
	--model.discriminator.width 32 --model.discriminator_optimizer.lr 5e-4 \
	--model.ema gen_lightning.gan.EMA --model.ema.half_life 5000 --model.ema.ramp 0.05
last_run = $$(ls -d $(RUNS)/$(1)/*/ | tail -n 1)

.DEFAULT_GOAL := help
.PHONY: help train check test campaign lint format types docs wheel release-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		(echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: .venv/installed  ## train a VAE and a DCGAN on 5,000 embedded images of MNIST, in about 4 minutes
	$(BIN)/python train.py fit --config configs/vae/vae.yaml $(EMBEDDED) --trainer.max_epochs 170
	$(BIN)/python train.py fit --config configs/gan/dcgan.yaml $(EMBEDDED) $(DCGAN) --trainer.max_epochs 87
	@echo; cat $(call last_run,vae)summary.txt; echo; cat $(call last_run,dcgan)summary.txt
	@echo; echo "Continue with all of MNIST, which the first run downloads to data/:"
	@echo "  $(BIN)/python train.py fit --config configs/vae/vae.yaml"
	@echo "  $(BIN)/python train.py fit --config configs/gan/dcgan.yaml"

check: .venv/installed  ## run the quick tests, in less than 90 seconds on 2 cores
	$(PYTEST) -m 'not slow and not gpu'

test: .venv/installed  ## run all tests; MNIST_ROOT=DIRECTORY adds the tests of the real MNIST
	MNIST_ROOT=$(MNIST_ROOT) $(PYTEST)

campaign: .venv/installed  ## run the whole campaign of faults, for hours; `make test` runs a short part of it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults --campaign

lint: .venv/installed  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed  ## repair style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/installed  ## check types
	$(BIN)/mypy

wheel:  ## build the wheel in dist/
	rm -rf build dist
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

release-check: wheel  ## install the wheel in a new environment and train one batch of packaged recipes
	PYTHON=$(PYTHON) .ci/check_wheel dist/*.whl

docs: .venv/installed  ## build the site into site/, with warnings as errors
	$(BIN)/mkdocs build --strict --quiet

clean:  ## remove the environment, builds and caches; runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info build dist site
