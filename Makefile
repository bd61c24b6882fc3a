# make demo: the main job on embedded data. make check: a quick look at everything. make test: everything that is
# checked. make docs: the documentation site. Each sets up what it needs first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The demo has an environment of its own, so that the tests never run in that smaller one.
DEMO := .venv-demo
# Modules are compiled when they are first imported: to compile all of PyTorch takes longer than the demo.
DEMO_INSTALL := $(DEMO)/bin/python -m pip install --no-compile
# Not empty where there is a GPU, or a wish for CUDA.
CUDA = $(or $(filter 1,$(BLOCKENC_CUDA)),$(shell nvidia-smi -L 2>/dev/null | grep '^GPU'))
# The newest CPU build of PyTorch, if the indexes that pip knows have any: a tenth of the size of one with CUDA.
CPU_BUILD = $(DEMO)/bin/python -m pip index versions torch 2>/dev/null | grep -o '[0-9.]*+cpu' | head -n 1
# CI installs known versions; a user's machine, whatever the ranges of pyproject.toml admit.
CONSTRAINTS := $(if $(CI),--constraint .ci/constraints.txt)
# Processes that run tests; make test JOBS=0 runs all in one, as a debugger needs it.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST = $(BIN)/python -m pytest -n $(JOBS)
# The oracle grid at a small size, the frozen vectors, and all that the docs show.
QUICK_TESTS := $(addprefix tests/test_,$(addsuffix .py,\
    oracle_grid vectors vectors_v2 readme docstrings data_docs performance_page site))
CSRC := $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.*)
CXX_FILES := $(CSRC) $(wildcard tests/cuda_emulation/*.[ch]* tests/native_checks/*.cpp tests/native_checks/*/*.h)
NATIVE := $(CSRC) setup.py

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo check test lint docs format bench clean

demo: $(DEMO)/installed
	@echo "== The demo itself, about half a minute"
	$(DEMO)/bin/blockenc demo

$(DEMO)/installed: pyproject.toml $(NATIVE)
	@echo "== 1 of 3: a virtual environment in $(DEMO)"
	$(PYTHON) -m venv $(DEMO)
	@version=$$($(if $(CUDA),,$(CPU_BUILD))); \
	echo "== 2 of 3: PyTorch $${version:-as pip has it (with CUDA: several GB, several minutes)}"; \
	$(DEMO_INSTALL) torch$${version:+==$$version}
	@echo "== 3 of 3: what else the demo needs, and blockenc, whose C++ kernels are compiled (a minute or two)"
	$(if $(CUDA),,BLOCKENC_CUDA=0) $(DEMO_INSTALL) --editable '.[demo]'
	@touch $@

check: lint
	$(PYTEST) --small $(QUICK_TESTS)

test: lint
	$(PYTEST) --durations=25 $(PYTEST_OPTIONS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict
	@echo "build/site/index.html"

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CXX_FILES)

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.speed

$(VENV)/installed: pyproject.toml $(NATIVE)
	@echo "== What the tests need, in $(VENV): 6 GB with a CUDA build of PyTorch, about ten minutes"
	@echo "   (of which the CUDA kernels, if nvcc is here, take a few; BLOCKENC_CUDA=0 leaves them out)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) .venv-lowest* build dist *.egg-info blockenc/*.so
