# Everything is installed into .venv from the lock files; nothing else on the machine is touched.
PYTHON ?= python3
WORLD ?= homelab
PORT ?= 8080
BIN := .venv/bin

.PHONY: demo deb test test-host test-bookworm test-trixie test-guests check format bench conformance lock clean

demo: .venv/.runtime
	@$(BIN)/pvemcp demo --world $(WORLD) --port $(PORT)

# Into dist/, for Debian 12 and 13 alike: make deb ARGS="--arch arm64" for the other architecture.
deb: .venv/.runtime
	@$(BIN)/python packaging/deb/build.py $(ARGS)

# On all cores: make test ARGS="-n 0 tests/unit" runs some in one process.
test: .venv/.dev
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# On Debian machines that it boots with systemd-nspawn, and with a VM and a container: needs root,
# and says what else is missing. The three parts are independent: make -j3 -O test-host.
test-host: test-bookworm test-trixie test-guests

test-bookworm test-trixie: test-%: .venv/.dev
	@PVEMCP_TEST_HOST=1 PVEMCP_HOST_SUITES=$* $(BIN)/python -m pytest tests/host $(ARGS)

test-guests: .venv/.dev
	@PVEMCP_TEST_HOST=1 $(BIN)/python -m pytest tests/guests $(ARGS)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.generate --check

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python -m tests.generate

bench: .venv/.dev
	$(BIN)/python -m bench $(ARGS)

conformance: .venv/.dev
	$(BIN)/python -m tests.conformance

COMPILE := pip compile pyproject.toml --universal --generate-hashes --no-annotate --no-header \
    --no-emit-index-url --quiet --upgrade --group build

lock: .venv/.dev
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv $(COMPILE) -o requirements.lock
	$(BIN)/uv $(COMPILE) --group dev -o requirements-dev.lock

clean:
	rm -rf .venv dist .demo .tools .mypy_cache .ruff_cache .pytest_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "pvemcp needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	    echo "python3 cannot make a virtual environment: on Debian, apt install python3-venv"; \
	    rm -rf .venv; exit 1; }

.venv/.runtime: .venv/bin/python requirements.lock pyproject.toml
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: .venv/.runtime requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@touch $@
