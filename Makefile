# make run     the whole recipe on PRESET (default tiny), set up first      make test   all tests
# make distill STUDENT=tiny-student      one student      make down   stop what runs      make lint      make e2e
PRESET ?= tiny
STUDENT ?= tiny-student
PYTHON ?= $(shell command -v python3.11 || command -v python3)
STAMP := .venv/.installed

.PHONY: setup run test test-fast e2e down distill lint

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 is missing: install python3 and python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	.venv/bin/python -m pip install --quiet torch==2.13.0
	.venv/bin/python -m pip install --quiet -e '.[dev]'
	@touch $(STAMP)

run: setup
	.venv/bin/r1 run --preset $(PRESET)

distill: setup
	.venv/bin/r1 distill $(STUDENT)

test: setup
	.venv/bin/python -m pytest -m "not slow and not e2e"
	.venv/bin/python -m pytest -m slow

test-fast: setup
	.venv/bin/python -m pytest -m "not slow and not e2e"

# The whole tiny pipeline on its own port and folder: kill -9, restart, second run, cancel, lost database.
e2e: setup
	.venv/bin/python -m pytest tests/e2e -m e2e -x --durations=0

down:
	@if [ -x .venv/bin/r1 ]; then .venv/bin/r1 down; fi

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy artifacts flows
