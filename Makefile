# Thin names for the commands of everyday work; `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := hub,pretrained,export,sweep,log

.PHONY: help demo quick test check site lock clean

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*##/ {printf "%-10s%s\n", $$1, $$2}' Makefile

demo: .venv/installed  ## install, then train and evaluate on the bundled digits
	$(BIN)/resight demo

quick: .venv/dev  ## install, then run the fast tests
	$(BIN)/python -m pytest -n auto -m "not slow"

test: .venv/dev  ## install, then run all tests
	$(BIN)/python -m pytest -n auto

check: .venv/dev  ## format, lint and types, as they must be
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

site: .venv/dev  ## the documentation as a site with search, in dist/site
	$(BIN)/pip install -q --group docs
	$(BIN)/sphinx-build -q -W --keep-going docs dist/site

lock:  ## resolve requirements-dev.lock anew, with uv
	uv --no-config pip compile pyproject.toml --all-extras --group dev \
		-c constraints.txt --universal \
		--generate-hashes --python-version 3.11 --no-annotate --upgrade \
		--custom-compile-command "make lock" --output-file requirements-dev.lock

clean:  ## remove the environment and everything cached
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("resight needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q 'pip>=25.1'  # the first that knows dependency groups
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/dev: .venv/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[$(EXTRAS)]' --group dev
	touch $@
