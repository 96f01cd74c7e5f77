# `make demo` and `make test` do all set-up themselves. They need Python >= 3.11 with venv and its headers (Debian:
# python3-venv python3-dev), a C++ compiler, and a package index. Without compiler or headers the slow coder is used.

TORCH := torch==2.13.0
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# PyTorch's own index has the CPU build; `make TORCH_INDEX=` leaves it out. It is used only if it answers.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PROBE := import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=5).close()

MAKEFLAGS += --no-print-directory
BIN := .venv/bin
DONE := .venv/.installed
DOCS := .venv/.docs-installed
# Neither the caller's packages nor its options leak into the environment built here.
unexport PYTHONPATH PYTHONHOME

.PHONY: help demo test lint types check docs clean setup
.DEFAULT_GOAL := test

help: # this list
	@sed -n 's/^\([a-z]*\):[^#]*# \(.*\)/\1\t\2/p' $(MAKEFILE_LIST)

demo: $(DONE) # compress and decompress three images
	@$(BIN)/python -m vqcodec.eval.demo

test: $(DONE) # all tests
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile # a file's tests share their models

lint: $(DONE) # style of the code
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

types: $(DONE) # mypy, strictly
	@$(BIN)/mypy -p vqcodec

check: test lint types # test, lint and types
docs: $(DOCS) # the documents as a site, in build/site; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo build/site/index.html

setup: $(DONE) # the environment, .venv
clean: # remove what was built
	@rm -rf .venv build dist vqcodec.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.links/*' -prune -exec rm -rf {} +

$(DONE): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; name one with PYTHON=..." >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON) and $(TORCH); the first time takes a few minutes" >&2
	@$(PYTHON) -m venv .venv || { echo "make: venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@index=""; \
	if [ -n "$(TORCH_INDEX)" ] && $(BIN)/python -c '$(PROBE)' "$(TORCH_INDEX)" 2>/dev/null; \
	then index="--extra-index-url $(TORCH_INDEX)"; fi; \
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-input $$index \
		-c constraints.txt $(TORCH) -e ".[dev]"
	@touch $@

$(DOCS): $(DONE)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-input -c constraints.txt $(TORCH) -e ".[docs]"
	@touch $@
