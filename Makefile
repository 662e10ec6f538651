# Each environment is built once and stays as long as setup.cfg does.
PYTHON ?= python3
VENV := .venv
OLDEST_VENV := .venv-oldest
BIN := $(VENV)/bin
# Two processes share the test files; each imports TensorFlow once.
PYTEST := -m pytest --numprocesses 2 --dist loadfile

.PHONY: help demo test test-fast test-oldest lint docs clean

help:
	@echo "make demo         train GANomaly on scikit-learn's digits and show what it finds (about a minute)"
	@echo "make test         run all tests"
	@echo "make test-fast    run the tests that need no training (a minute and a half)"
	@echo "make test-oldest  run all tests with the oldest versions of all dependencies"
	@echo "make lint         check style, types and the Dockerfile"
	@echo "make docs         write docs/hyperparameters.md anew"
	@echo "make clean        remove the environments"

demo: $(VENV)/.installed
	$(BIN)/anomaly-box --experiment GANomaly --dataset Digits --hps-path hps/demo.json

test: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST)

test-fast: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST) -m "not slow"

test-oldest: $(OLDEST_VENV)/.installed-dev
	$(OLDEST_VENV)/bin/python $(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

docs: $(VENV)/.installed
	$(BIN)/python docs/hyperparameters.py

clean:
	rm -rf $(VENV) $(OLDEST_VENV)

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	  f"Python 3.11 or newer is needed, $(PYTHON) is {v.major}.{v.minor}; try make PYTHON=python3.13")'
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(OLDEST_VENV)/.installed-dev: setup.cfg pyproject.toml constraints/oldest.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12), (3, 13)) else \
	  f"the oldest versions run with Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}")'
	@$(OLDEST_VENV)/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints/oldest.txt --editable '.[dev]'
	@touch $@
