VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.l0rnn-installed
PYTHON ?= python3
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help venv demo web test lint bench docs package clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## make .venv with pinned versions (again only when pyproject.toml or constraints.txt change)

# torch goes first and by its exact pin: whatever comes after finds it there and pulls no other build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "l0rnn needs Python 3.10 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1);" \
			"name another with: make venv PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install '$(TORCH)' -c constraints.txt
	$(BIN)/python -m pip install -e '.[dev]' -c constraints.txt
	touch $@

demo: venv  ## prune a small language model on the Penn Treebank and compare it with the dense one
	$(BIN)/python -m recipes.penn_treebank.demo

web: venv  ## build a page that runs small and dense networks in the browser, in out/web; needs Node and npm
	test -d out/demo/gated/shrunk || $(BIN)/python -m recipes.penn_treebank.demo
	$(BIN)/python -m recipes.web --out out/web --demo out/demo

test: venv  ## run the tests and the examples in the docstrings
	$(BIN)/python -m pytest

lint: venv  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: venv  ## measure the latency of dense and shrunken layers, and hold it against its limits
	$(BIN)/python -m l0rnn.bench

docs: venv  ## build the site into out/site, each of its pages and links checked (Python 3.11 or newer)
	$(BIN)/sphinx-build -q -W --keep-going -c docs . out/site
	@echo "the site is in out/site/index.html"

package: venv  ## build wheel and source archive into dist, install the wheel elsewhere and run the examples there
	.ci/package

clean:  ## remove caches and build outputs; keeps .venv
	rm -rf build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
