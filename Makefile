# Every target works as the first command on a machine with Python 3.11, pip and git: `.venv` is made when it is missing
# or older than pyproject.toml / constraints.txt. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
STAMP  := $(VENV)/.installed
DOCS   := $(VENV)/.installed-docs

.PHONY: demo test test-slow test-all lint types docs bench wheel clean
.DELETE_ON_ERROR:

demo: $(STAMP)  ## sample, evaluate and design real molecules; writes runs/demo/
	$(BIN)/sciflow demo

test: $(STAMP)  ## the fast tests (< 5 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(STAMP)  ## the rest: kill -9 and resume, several processes, long statistics (about 2 minutes)
	$(BIN)/python -m pytest -m slow

test-all: $(STAMP)  ## all tests
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

docs: $(DOCS)  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP)  ## prints both sides of every comparison
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

wheel: $(STAMP)  ## dist/sciflow-*.whl
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist . > /dev/null

clean:
	rm -rf $(VENV) dist site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first, under the constraint: the wheel that fits the machine (CPU or CUDA) is chosen once and kept by what follows.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; say which one to use: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.11"; exit 1; }
	@echo "Installing into $(VENV) (a few minutes, once) ..."
	@$(PYTHON) -m venv $(VENV) 2> /dev/null || { : 'Debian without python3-venv'; \
	  $(PYTHON) -m venv --without-pip --clear $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e '.[dev,fcd,motifs,rna,chgnet,lmdb,crystal-metrics,md,e3nn]'
	@touch $@

$(DOCS): $(STAMP)
	@$(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@
