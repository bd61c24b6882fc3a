# make demo: set up, then the main job on embedded data. make test: set up, then everything that is checked.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# CI installs known versions; a user's machine, whatever the ranges of pyproject.toml admit.
CONSTRAINTS := $(if $(CI),--constraint .ci/constraints.txt)
CXX_FILES := $(wildcard csrc/*.* csrc/cuda/*.* tests/cuda_emulation/*.[ch]* tests/native_checks/*.cpp)
NATIVE := $(wildcard csrc/*.* csrc/cuda/*.*) setup.py

.PHONY: demo test lint format bench clean

demo: $(VENV)/installed
	$(BIN)/blockenc demo

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CXX_FILES)

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.speed

$(VENV)/installed: pyproject.toml $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info blockenc/*.so
