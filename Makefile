# Everything works in ./.venv and sets it up by itself: `make demo` on a fresh machine, `make PYTHON=python3.12 test` for another Python.
# A stamp file says what has been installed, so that a second run starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt
LEAN := $(VENV)/.installed-lean
FULL := $(VENV)/.installed-full
GPU_BIN := .venv-gpu/bin
GPU_PYTHON ?= $(GPU_BIN)/python
GPU := .venv-gpu/.installed
KERNELS := fgr_edge/runtime/kernels/libkernels.so
PICTURES := fgr_edge/runtime/pictures/libpictures.so
SETTINGS := pyproject.toml constraints.txt
OUT := out

.PHONY: demo test test-slow test-gpu check lint types floors format clean
.DEFAULT_GOAL := demo

## demo: export models/nano to int8 and recognise six drawn birds; installs neither torch nor transformers
demo: $(LEAN) $(PICTURES)
	$(BIN)/fgr-edge export models/nano -o $(OUT)/nano-int8 --target cpu --precision int8 --labels models/nano/labels_aviary.txt --force
	$(BIN)/python examples/demo.py $(OUT)/nano-int8 $(OUT)/birds --count 6
	$(BIN)/fgr-edge recognize $(OUT)/nano-int8 $(OUT)/birds

## test: what must pass before every commit
test: $(FULL) $(PICTURES)
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

## test-slow: minutes and gigabytes
test-slow: $(FULL) $(PICTURES)
	$(BIN)/python -m pytest -q -m "slow and not gpu"

## test-gpu: all of tests/gpu, on a machine with an NVIDIA GPU, in an environment of its own: .venv has onnxruntime's CPU
## package, which onnxruntime-gpu replaces. `make GPU_PYTHON=python3 test-gpu` takes what is installed already (a Jetson's).
test-gpu: $(if $(filter $(GPU_BIN)/python,$(GPU_PYTHON)),$(GPU))
	$(GPU_PYTHON) -m pytest -q -rs tests/gpu

## check: lint and format, types, import floors (`make -k check` goes on after the first that fails)
check: lint types floors

lint: $(FULL)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m benchmarks.results_table --check

types: $(FULL)
	$(BIN)/mypy

floors: $(FULL)
	$(BIN)/lint-imports

format: $(FULL)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(OUT) $(KERNELS) $(PICTURES) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find fgr_edge tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The C of our own, again after a change. Without a C compiler: one line of warning at each start, and nothing needs it.
$(PICTURES): hatch_build.py $(wildcard $(dir $(KERNELS))*.[ch] $(dir $(PICTURES))*.[ch]) | $(BIN)/python
	$(BIN)/python hatch_build.py

$(LEAN): $(SETTINGS) | $(BIN)/python
	$(INSTALL) --editable ".[cpu,export]"
	@touch $@

# torch first and alone: asked for by another package, pip would take the newest build, which may be several GB larger.
$(FULL): $(SETTINGS) | $(BIN)/python
	$(PIP) install torch==2.13.0
	$(INSTALL) --editable ".[dev]"
	@touch $@ $(LEAN)

# torch comes with the CUDA of its default build here: transformers on the GPU is what engines are compared with.
$(GPU): $(SETTINGS)
	$(PYTHON) -m venv .venv-gpu
	$(GPU_BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cuda,export,test,tensorrt-rtx]" matplotlib
	@touch $@
