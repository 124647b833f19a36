# make demo: environment, build, the main job.  make test: environment, build, tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Plain `torch` brings gigabytes of CUDA packages, which a machine without a GPU has no use for:
# there a release is pinned that has a small CPU build on the usual indices.
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | head -1)
TORCH ?= $(if $(HAS_GPU),torch>=2.11$(comma)<2.15,torch==2.13.0)
comma := ,
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc -type f)

.PHONY: demo test lint static bench bench-gpu learning-gpu env clean

env: $(VENV)/.ready

$(VENV)/.ready: $(SOURCES)
	@echo "== environment in $(VENV): $(TORCH), then zopro with its native kernels =="
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)" numpy
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/zopro doctor
	touch $@

demo: env
	@echo "== the main job: a small translation model improved by forward passes alone =="
	$(BIN)/python examples/translation/demo.py

test: env
	@echo "== tests =="
	$(BIN)/python -m pytest

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

static: env
	@echo "== registers, spills and instructions an element of the GPU kernels (no GPU needed) =="
	$(BIN)/python tools/static_report.py

# Each under ten minutes; budgets of the steps: benchmarks/bench_all.py. Then benchmarks/tables.py.
bench: env
	$(BIN)/python benchmarks/bench_all.py cpu

bench-gpu: env
	$(BIN)/python benchmarks/bench_all.py cuda

# SmolLM2-135M-Instruct on the three tasks: a supervised start, tuning (learning_large.py), the
# comparison; then the whole method with its defaults, scored before and after. A call begins no
# further run after LEARNING_SECONDS of a plan, so that it fits a limit; the next goes on: runs and
# steps that are made are kept.
LEARNING_SECONDS ?= 100000
SMOL := runs/smollm2

learning-gpu: env
	$(BIN)/python -m pip install --quiet --editable ".[dev,bench]"
	test -f $(SMOL)/config.json || $(BIN)/python benchmarks/smollm2.py $(SMOL)
	for task in translation summarisation dialogue; do \
	  test -f $(SMOL)-$$task/model.safetensors || \
	    $(BIN)/zopro sft --task $$task --model $(SMOL) --merge --max_steps 200 --save_steps 25 \
	      --per_device_train_batch_size 32 --output_dir $(SMOL)-$$task || exit 1; \
	  for plan in "tune --large --seconds 30" "compare --seconds 60 --seeds 3"; do \
	    $(BIN)/python benchmarks/learning.py $$plan --task $$task --model $(SMOL)-$$task \
	      --device cuda --name gpu_$$task --workers 1 --stop_after $(LEARNING_SECONDS) || exit 1; \
	  done; \
	done
	test -f benchmarks/results/defaults_gpu.json || $(BIN)/python benchmarks/defaults.py \
	  --starts translation=$(SMOL)-translation --folder runs/defaults-gpu \
	  --json benchmarks/results/defaults_gpu.json

clean:
	rm -rf $(VENV) build *.egg-info zopro_kernels/*.so
