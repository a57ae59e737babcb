# fedtower: two commands to know, `make simulate` and `make test`.
#
#   make simulate   set up .venv and run the default federation (ARGS="--epsilon 4 --clients 3" to change it)
#   make install    the set-up alone
#   make test       formatting, lint, types, import contracts and the tests, as CI does
#   make check      the same without the tests
#   make test-all   `make test` with the slow tests as well
#   make format     rewrite the code in the project's format
#   make constraints  pin what is installed now into constraints.txt
#   make clean      remove .venv, caches and builds (runs/ is kept)

PYTHON ?= python3
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread a worker: more only get into each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: simulate install test check test-all format constraints clean
.DEFAULT_GOAL := simulate

simulate: $(STAMP)
	@$(BIN)/fedtower simulate $(ARGS)

install: $(STAMP)

# One environment for running and for testing: what was tested is what runs. The stamp lives inside .venv, so that
# removing .venv is enough to start afresh. Build tools are pinned too, hence no build isolation.
$(STAMP): constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	  { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or call make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: fedtower needs Python 3.11 or newer, $$($(PYTHON) -V 2>&1) found; call make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' >/dev/null 2>&1 || \
	  { echo "error: this Python cannot create environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "install  $(VENV) from constraints.txt (once; takes a few minutes)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --quiet -r constraints.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

check: $(STAMP)
	@echo "check    format"  && $(BIN)/ruff format --check .
	@echo "check    lint"    && $(BIN)/ruff check .
	@echo "check    types"   && $(BIN)/pyright
	@echo "check    imports" && $(BIN)/lint-imports

test: check
	@echo "check    tests"   && $(PYTEST) -m "not slow"

test-all: check
	@echo "check    all tests" && $(PYTEST)
	@echo "check    guards"    && $(BIN)/python -m tests.privacy.secagg.mutation

format: $(STAMP)
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# Local version tags (torch's "+cpu") are cut off: such a pin is met by the CPU build where there is one and by the
# plain build elsewhere.
constraints: $(STAMP)
	@{ sed -n '/^#/p' constraints.txt; \
	   $(PIP) freeze --exclude-editable --exclude fedtower | sed -E 's/\+[a-z0-9.]+$$//'; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
