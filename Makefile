# `make demo` and `make test` build an environment in .venv once and leave it alone as long as setup.cfg stays.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint clean

help:
	@echo "make demo   train GANomaly on scikit-learn's digits and show what it finds (about a minute)"
	@echo "make test   run the tests"
	@echo "make lint   check the style of the code and of the Dockerfile"
	@echo "make clean  remove the environment"

demo: $(VENV)/.installed
	$(BIN)/anomaly-box --experiment GANomaly --dataset Digits --hps-path hps/demo.json

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

clean:
	rm -rf $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 13) else \
	  f"Python 3.10, 3.11 or 3.12 is needed, $(PYTHON) is {v.major}.{v.minor}; try make PYTHON=python3.12")'
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
