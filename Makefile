# What a fresh clone needs: Python 3.11 or newer, pip and make.
#
#     make demo                      the whole walk on a real dataset, offline once set up
#     make test                      every check and every test
#     make demo PYTHON=python3.12    with another Python

.POSIX:
.PHONY: help demo test check clean

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
SET_UP = $(VENV)/.set-up
PIP_INSTALL = $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check \
	-c constraints.txt

help:
	@echo "make demo    set up, then fit, score and compare on a real dataset (demo-results/)"
	@echo "make test    set up, then all checks and the whole test suite"
	@echo "make check   set up, then lint, format, types and import contracts"
	@echo "make clean   remove everything that these targets made, $(VENV) included"
	@echo "PYTHON=...   the Python (3.11 or newer) that $(VENV) is made with"

demo: $(SET_UP)
	@$(BIN)/anomgan demo --output demo-results
	@echo "The results are in demo-results/: the model, the two tables and the scores."

test: check
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(SET_UP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The stamp comes last, so that an interrupted set-up starts again.
$(SET_UP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV); the first time takes some minutes ..."
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(SET_UP)

clean:
	rm -rf $(VENV) build dist demo-results tests/parity/node/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf anomgan.egg-info cli/anomgan_cli.egg-info
	find anomgan cli datasets tests -name __pycache__ -type d -exec rm -rf {} +
