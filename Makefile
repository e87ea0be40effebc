# Everything runs in .venv, which is made on first use from the pinned versions in .ci/constraints.txt.
#
#   make test [ARGS="-k minmax"]   the test suite          make lint     linters and type checks, as CI runs them
#   make demo                      train and certify       make format   format Python and C++
#   make docs                      the documentation site, build/site/index.html
#   make venv                      only the environment    make clean    remove what was built, keep .venv's packages
#   make bench [NAME=latest]       all benchmarks, in up to 15 minutes, 5 on a GPU; results in benchmarks/results
#   make bench-quick               the same in two minutes: fewer rounds, no torch.compile

PYTHON ?= python3
ARGS ?=
NAME ?= full

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c .ci/constraints.txt
SAY := $(SHELL) .ci/say
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
BUILD_INPUTS := setup.py pyproject.toml gloro_fast/_version.py $(shell find csrc -type f)

.PHONY: venv test demo bench bench-quick lint format docs clean

venv: $(VENV)/.dev-installed

test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder --durations=15 $(ARGS)

demo: $(VENV)/.demo-installed
	$(BIN)/gloro-fast train --recipe digits --out runs/digits --overwrite
	@echo 'next: $(BIN)/gloro-fast certify runs/digits (or, after "source $(BIN)/activate", gloro-fast certify runs/digits)'

bench: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks --name $(NAME) -- $(ARGS)

bench-quick: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks --name quick --quick -- $(ARGS)

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/.dev-installed
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Strict: a broken link, a public name without a docstring or a docstring that does not fit its signature is an error.
# Not with --quiet: what is not logged is not counted, and nothing is an error.
docs: $(VENV)/.dev-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf build dist *.egg-info gloro_fast/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f $(VENV)/.dev-installed $(VENV)/.demo-installed $(VENV)/.built

# The package is installed editable: Python files need no reinstalling, a change of BUILD_INPUTS does.
$(VENV)/.dev-installed: $(VENV)/.built
	@$(SAY) 'the package and what its tests need (a minute or two)' $(INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/.demo-installed

$(VENV)/.demo-installed: $(VENV)/.built
	@$(SAY) 'the package and scikit-learn for its digits (half a minute)' $(INSTALL) --no-build-isolation -e '.[demo]'
	@touch $@

# Before pip, which would be silent about it: ninja says how far it is, and pip then finds everything compiled.
$(VENV)/.built: $(VENV)/.tools-installed $(BUILD_INPUTS)
	@$(SAY) 'the compiled part (two minutes on two cores, five with CUDA)' $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

# What the build needs must be there before it, torch first: pip's build isolation would download torch again.
$(VENV)/.tools-installed: .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@$(SAY) 'an environment in $(VENV) (seconds)' $(PYTHON) -m venv $(VENV)
	@$(SAY) 'PyTorch, the largest download (one to ten minutes)' $(INSTALL) torch==2.13.0
	@$(SAY) 'what the build needs (seconds)' $(INSTALL) setuptools wheel ninja pybind11
	@touch $@
