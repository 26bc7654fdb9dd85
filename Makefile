# Every target works from a fresh clone: it creates .venv first, from the locked and hashed packages.
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/uv/bin/uv
STAMP := $(VENV)/.synced
T ?= tests

.DEFAULT_GOAL := help
.PHONY: help venv up test lint fix protos protos-check bench bench-config bench-decisions bench-flow bench-policy bench-fairness bench-neighbours bench-audit chaos attack fresh-clone clean

help: ## show this list
	@b= r=; if [ -t 1 ]; then b=$$(printf '\033[1m') r=$$(printf '\033[0m'); fi; \
	awk -F':.*## ' -v b="$$b" -v r="$$r" '/^[a-z-]+:.*## / {printf "  %s%-15s%s %s\n", b, $$1, r, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## create .venv with every locked dependency

$(UV):
	@echo "tenantry: creating $(VENV)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "tenantry needs Python 3.11 or 3.12, found %d.%d; set PYTHON=python3.11" % v)'
	@$(PYTHON) -m venv $(VENV)/uv
	@$(VENV)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): pyproject.toml uv.lock | $(UV)
	@test -x $(BIN)/python || $(UV) venv --quiet --allow-existing --python "$$($(VENV)/uv/bin/python -c 'import sys; print(sys._base_executable)')" $(VENV)
	@$(UV) sync --locked --all-extras --compile-bytecode
	@$(BIN)/python -m compileall -q services gen
	@touch $(STAMP)

up: venv ## run the whole mesh here, three demo tenants included
	@$(BIN)/tenantry up

test: venv ## run every test, two at a time (T=path for a part)
	@$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder $(T)

lint: venv protos-check ## ruff, mypy --strict, import contracts, protos drift
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: venv ## format and apply safe lint fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

protos: venv ## regenerate the committed stubs
	@$(BIN)/python scripts/gen_protos.py

protos-check: venv ## fail if the committed stubs differ from the protos
	@$(BIN)/python scripts/gen_protos.py --check

bench: venv ## measure the router against a bare relay
	@$(BIN)/python scripts/bench_router.py

bench-config: venv ## measure the control plane with 10,000 tenants
	@$(BIN)/python scripts/bench_config.py

bench-decisions: venv ## measure what a scheduling decision costs
	@$(BIN)/python scripts/bench_decisions.py

bench-flow: venv ## measure a router with a far flow controller against one alone
	@$(BIN)/python scripts/bench_router.py --far

bench-policy: venv ## measure what policy costs, against identity and relay alone
	@$(BIN)/python scripts/bench_router.py --policy

bench-fairness: venv ## measure how fairly a pool is shared, and write fairness.html
	@$(BIN)/python scripts/bench_fairness.py

bench-neighbours: venv ## measure what tenants feel of one another through real routers
	@$(BIN)/python scripts/bench_neighbours.py --html neighbours.html

bench-audit: venv ## measure durable audit entries a second, and their acks
	@$(BIN)/python scripts/bench_audit.py

chaos: venv ## the long versions of the fault tests
	@$(BIN)/pytest tests/chaos --run-chaos --run-limit 14400

attack: venv ## floods of one key, and of strangers, with what another tenant feels
	@$(BIN)/pytest tests/chaos/test_attack_chaos.py --run-chaos --run-limit 3600

fresh-clone: ## `make up` twice in a clone with empty caches, against its bars (slow)
	@$(PYTHON) scripts/fresh_clone.py

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
