# What a fresh clone needs: Python 3.11 or newer, pip and make.
#
#     make demo                      the whole walk on a real dataset, offline once set up
#     make test                      every check and every test
#     make demo PYTHON=python3.12    with another Python
#     make test LOCK=constraints.lock    with the very files that `make lock` found

.POSIX:
.PHONY: help demo test check lock audit installed sbom clean

PYTHON = python3
VENV = .venv
AUDIT_VENV = .venv-audit
LOCK =
BIN = $(VENV)/bin
# A set-up with a lock has a stamp of its own: .set-up-locked, a copy of the lock.
SET_UP = $(VENV)/.set-up$(LOCK:%=-locked)
PIP_INSTALL = $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check \
	-c constraints.txt

help:
	@echo "make demo    set up, then fit, score and compare on a real dataset (demo-results/)"
	@echo "make test    set up, then all checks and the whole test suite"
	@echo "make check   set up, then lint, format, types and import contracts"
	@echo "make lock    write constraints.lock: the versions, with the hashes of your index's files"
	@echo "make installed  compare what is installed with the pins and with its own checksums"
	@echo "make audit   ask a database of vulnerabilities about the versions (needs the network)"
	@echo "make sbom    write a bill of materials (dist/anomgan.cdx.json)"
	@echo "make clean   remove everything that these targets made, $(VENV) included"
	@echo "PYTHON=...   the Python (3.11 or newer) that $(VENV) is made with"

demo: $(SET_UP)
	@$(BIN)/anomgan demo --output demo-results
	@echo "The results are in demo-results/: the model, the two tables and the scores."

test: check
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(SET_UP)
	@test -z "$(LOCK)" || cmp -s "$(LOCK)" $(SET_UP) || { \
		echo "$(VENV) was set up with another lock than $(LOCK): run make clean first" >&2; \
		exit 1; }
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The stamp comes last, so that an interrupted set-up starts again. What pip finds installed, it
# checks no hash of: with a lock, the environment is made anew.
$(SET_UP): pyproject.toml constraints.txt $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV); the first time takes some minutes ..."
	@rm -f $(VENV)/.set-up $(VENV)/.set-up-locked
	@if test -n "$(LOCK)"; then \
		$(PYTHON) -m venv --clear $(VENV) && \
		$(PIP_INSTALL) --require-hashes -r "$(LOCK)" && \
		$(PIP_INSTALL) --no-deps --no-build-isolation -e . && \
		cp "$(LOCK)" $(SET_UP); \
	else \
		{ $(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV); } && \
		$(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)" && $(PIP_INSTALL) -e '.[dev]' && \
		touch $(SET_UP); \
	fi

lock: $(SET_UP)
	@$(BIN)/python tools/lock.py -o constraints.lock

installed: $(SET_UP)
	@$(BIN)/python tools/installed.py

sbom: $(SET_UP)
	@$(BIN)/python tools/sbom.py -o dist/anomgan.cdx.json

audit:
	@$(AUDIT_VENV)/bin/python -c 'import pip_audit' 2>/dev/null || { \
		$(PYTHON) -m venv --clear $(AUDIT_VENV) && \
		$(AUDIT_VENV)/bin/python -m pip install --quiet --no-input pip-audit; } || { \
		echo "nothing was checked: pip-audit could not be installed; is there a network?" >&2; \
		exit 2; }
	@$(AUDIT_VENV)/bin/python tools/audit.py

clean:
	rm -rf $(VENV) $(AUDIT_VENV) build dist demo-results tests/parity/node/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf anomgan.egg-info cli/anomgan_cli.egg-info
	find anomgan cli datasets tests -name __pycache__ -type d -exec rm -rf {} +
