# One command from a fresh machine to a trained model (make train) or a tested tree (make test).
# VENV=DIR uses another environment, JOBS=N another number of test processes.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
EXTRAS ?= dev
SEED ?= 0
# One more than there are cores: some tests wait for processes that they have started.
JOBS ?= $(shell expr $$(nproc) + 1)
QUICK_JOBS ?= $(shell nproc)
# A file is one process's, and files start in the order of tests/conftest.py: the longest first.
DIST := --dist loadfile --no-loadscope-reorder
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

.PHONY: train test test-quick test-kernels test-oldest soak corpus coverage lint format docs env optional digits fashion-mnist clean

train: env digits ## data, the three stages, the table
	$(BIN)/fastsemi train --config configs/demo/digits.yaml --seed $(SEED) --data.labels.seed $(SEED) \
	  --output runs/digits-$(SEED)

test: env optional ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(DIST)

# Every room below the commands and tools; not the files that start whole runs, nor what is slow in the interpreter.
QUICK := $(addprefix tests/,common kernels loaders models parallel probing run stages training)
LONG := tests/kernels/test_triton_augment.py tests/kernels/test_triton_compiled.py tests/kernels/test_triton_mix.py \
  tests/kernels/test_kernels_dispatch.py tests/loaders/test_device_copy.py tests/models/test_export.py \
  tests/loaders/test_engine_failures.py tests/stages/test_kernel_choice.py \
  tests/models/test_activation_checkpointing.py tests/probing/test_probe_in_a_run.py tests/run/test_presets.py \
  tests/loaders/test_odd_pictures.py tests/run/test_held_out.py tests/run/test_lora.py tests/parallel/test_stop.py \
  tests/parallel/test_budget.py tests/parallel/test_failures.py tests/parallel/test_shards.py \
  tests/run/test_semi_options.py tests/training/test_not_finite.py tests/run/test_plan_file.py \
  tests/stages/test_compile.py \
  tests/run/test_run.py tests/run/test_interrupted_runs.py tests/run/test_runs_again.py \
  tests/run/test_images_of_runs.py tests/stages/test_host_waits.py tests/stages/test_rules_in_training.py \
  tests/parallel/test_commands.py tests/parallel/test_elastic.py tests/parallel/test_rules_shared.py \
  tests/parallel/test_slurm.py tests/parallel/test_world_sizes.py
test-quick: env ## a part of it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(QUICK_JOBS) $(DIST) -m 'not slow' \
	  $(addprefix --ignore=,$(LONG)) $(QUICK)

test-kernels: env ## kernels, the rehearsal of a GPU's steps, the GPU suite in its tiny form
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(DIST) tests/kernels $(wildcard tests/rehearsal) \
	  tests/benchmarks/test_gpu.py

# Triton 3.6, which comes with PyTorch 2.11, interprets kernels with NumPy before 2.4 only.
OLDEST ?= build/oldest
test-oldest: ## them with the oldest PyTorch and Triton, in an environment of its own: some 3 GB to fetch
	HOLD="torch torchvision numpy==2.3.5" TARGET=test-kernels bash scripts/oldest_dependencies.sh $(OLDEST)

soak: env optional ## runs that are killed twenty times with each engine, then long ones that are left alone
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/kills.py --kills 20
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/leaks.py

corpus: env optional ## every engine on the images that Pillow is tested with, which pip fetches once
	$(BIN)/python tests/loaders/pillow_images.py

coverage: env optional ## the lines that the whole suite runs, also in forks and subprocesses
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(DIST) --cov --cov-report=term

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: env ## the site, in build/site; a link that leads nowhere fails
	test -x $(BIN)/mkdocs || $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

env: $(VENV)/.installed

# DALI, FFCV, pyarrow and ONNX where they can be installed, for the tests of what uses them.
optional: $(VENV)/.optional
$(VENV)/.optional: pyproject.toml scripts/optional_packages.sh | env
	bash scripts/optional_packages.sh $(BIN)/pip
	touch $@

# Reinstalled when the requirements or the C++ sources change.
$(VENV)/.installed: pyproject.toml constraints.txt setup.py scripts/system_packages.sh $(shell find kernels/csrc -type f)
	bash scripts/system_packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

digits: env data/digits
data/digits:
	$(BIN)/fastsemi data digits $@

fashion-mnist: env data/fashion-mnist
data/fashion-mnist:
	$(BIN)/fastsemi data fashion-mnist $@

clean:
	rm -rf runs data build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# The tables and plots of the docs, measured here: about ten minutes on two idle cores.
BENCH_LOADERS ?= --count 128 --rounds 5 --scaling 1
BENCH_STEPS ?= --batch 3 --no-compile
BENCH_END ?= --batch 1 --steps 1
BENCH_INDEX ?= --files 50000
BENCH_OUT ?= benchmarks/results/$(shell $(BIN)/python -m benchmarks.harness.environment)

.PHONY: bench bench-compare gpu gpu-quick
bench: env
	$(BIN)/python -m benchmarks.loaders $(BENCH_LOADERS) --json $(BENCH_OUT)/loaders.json --plots $(BENCH_OUT)
	$(BIN)/python -m benchmarks.kernels --json $(BENCH_OUT)/kernels.json --plots $(BENCH_OUT)
	$(BIN)/python -m benchmarks.ops.augmentation --json $(BENCH_OUT)/augment.json
	$(BIN)/python -m benchmarks.steps $(BENCH_STEPS) --json $(BENCH_OUT)/steps.json --plots $(BENCH_OUT)
	$(BIN)/python -m benchmarks.step.end_to_end $(BENCH_END) --json $(BENCH_OUT)/end_to_end.json --plots $(BENCH_OUT)
	$(BIN)/python -m benchmarks.step.profile_overhead --json $(BENCH_OUT)/profile_overhead.json
	$(BIN)/python -m benchmarks.step.adapt --batch 2 --json $(BENCH_OUT)/adapt.json
	$(BIN)/python -m benchmarks.loading.index $(BENCH_INDEX) --json $(BENCH_OUT)/index.json
	$(BIN)/python -m benchmarks.loading.start --json $(BENCH_OUT)/start.json
	$(BIN)/python -m benchmarks.harness.compare --record $(BENCH_OUT)
	$(BIN)/python -m benchmarks.harness.tables

bench-compare: ## what became slower between the newest two results of this machine, or OLD=... NEW=...
	$(BIN)/python -m benchmarks.harness.compare $(OLD) $(NEW)

# On a machine with a GPU, with that machine's own Python: nothing is installed. PYTHON=... chooses it.
gpu: ## planned for 24 minutes; not measured yet
	$(PYTHON) -m benchmarks.gpu.suite

gpu-quick: ## planned for three
	$(PYTHON) -m benchmarks.gpu.suite --quick
