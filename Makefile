# The verbs of this repository, the same at a desk and in CI. `make demo` and `make test` set everything up first.
# Needs python >= 3.11, make and git; everything else is installed into .venv.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c 'import sys; print("$(name)") if sys.version_info >= (3, 11) else None' 2>/dev/null | grep -v None)))
BIN := .venv/bin
INSTALLED := .venv/.installed
ARGS ?=

.PHONY: help install demo test test-browser newcomer test-postgresql test-spark test-faults test-third-party test-risk-packages lint type docs site pages openapi lock conformance bench-measures bench-ingest bench-incremental bench-server bench-settlement bench-attribution bench-claims bench-risk bench-console bench-scale chaos fuzz tiny-files

help: ## Show the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

install: $(INSTALLED) ## Set up .venv with the gateway and its development tools

# Constraints pin every package (ADR 0020); a newer pip is needed to read dependency groups.
$(INSTALLED): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "no python >= 3.11 found; name one with make PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "creating .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@echo "installing the gateway into .venv (a few minutes on the first run)"
	@$(BIN)/python -m pip install --quiet --constraint requirements.lock --group dev --editable .
	@$(BIN)/python -m fhir_gateway.lake.kernel
	@touch $@

demo: install ## Run the main job on a synthetic population and serve the results (ARGS=--once to stop after the summary)
	@$(BIN)/python -m fhir_gateway.demo $(ARGS)

test: install ## Run the tests (ARGS="tests/unit -k name" for some)
	@$(BIN)/python -m pytest -n 2 $(ARGS)

test-postgresql: install ## Run the tests of the control plane on a throwaway PostgreSQL as well
	@tests/support/with_postgresql.sh $(BIN)/python -m pytest tests/unit/db tests/unit/identity tests/unit/jobs tests/unit/auth tests/unit/contracts/test_settlement_store.py tests/unit/sources/test_pull_log.py tests/api/test_audit_events.py tests/e2e/test_several_processes.py tests/e2e/test_upgrade.py $(ARGS)

# pyspark is half a gigabyte: it is installed where Spark is tested.
test-spark: install ## Run what is computed by Spark, in local-cluster mode with several JVMs (Debian's Java 17, installed where it can be)
	@$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[spark]'
	@tests/support/with_java.sh $(BIN)/python -m pytest tests/spark $(ARGS)

test-browser: install ## Three people's stories at the console, in Chromium (Debian's, installed where it can be); pictures in build/screenshots
	@tests/support/with_chromium.sh $(BIN)/python -m pytest tests/e2e/test_browser.py tests/e2e/test_newcomer.py $(ARGS)

newcomer: install ## A fresh clone, README only, to a settlement in the browser: prints how long it takes
	@tests/support/with_chromium.sh $(BIN)/python -m tests.e2e.newcomer

# Servers and clients that are not ours: sekmet-fhir, smart-fetch and fhirclient (PyPI, in environments of their own),
# oidc-provider and fhir-kit-client (npm).
.third-party/.installed: tests/support/third-party.lock tests/support/clients.lock tests/support/npm/package-lock.json
	@test -x .third-party/bin/python || $(PYTHON) -m venv .third-party
	@.third-party/bin/python -m pip install --quiet --requirement tests/support/third-party.lock
	@test -x .clients/bin/python || $(PYTHON) -m venv .clients
	@.clients/bin/python -m pip install --quiet --requirement tests/support/clients.lock
	@cd tests/support/npm && npm ci --silent --no-fund --no-audit
	@touch $@

test-third-party: install .third-party/.installed ## Servers and clients that are not ours (needs node and npm)
	@$(BIN)/python -m pytest tests/e2e/test_third_party.py tests/e2e/test_third_party_clients.py \
	    tests/e2e/test_object_storage.py tests/e2e/test_lake_on_object_storage.py tests/e2e/test_console_openid.py $(ARGS)

# Risk scores by a package that is not ours; it declares a newer Python than it needs, and depends on nothing.
.risk-package/.installed:
	@test -x .risk-package/bin/python || $(PYTHON) -m venv .risk-package
	@.risk-package/bin/python -m pip install --quiet --no-deps --ignore-requires-python risk-adjustment-model==0.7.1
	@touch $@

test-risk-packages: install .risk-package/.installed ## Compare risk scores of 10,000 random members with two packages that are not ours
	@$(BIN)/python -m tests.support.risk_packages $(ARGS)

lint: install ## Check style, format, the direction of imports, and what is deployed (image, compose, Kubernetes, alerts)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/hadolint docker/Dockerfile
	@$(BIN)/python -m tests.support.deployment
	@$(BIN)/mkdocs build --strict --quiet

type: install ## Check types
	@$(BIN)/mypy

docs: install ## Check that documentation and generated files agree with the code
	@$(BIN)/python -m pytest tests/unit/test_docs.py tests/api/test_server_documents.py $(ARGS)

site: install ## Build the documentation as a site in site/; a link that leads nowhere is an error
	@$(BIN)/mkdocs build --strict --quiet

pages: install ## Write the generated parts of docs/ anew
	@$(BIN)/python -m tests.support.pages

openapi: install ## Write openapi/openapi.json and openapi/contract.schema.json anew
	@$(BIN)/python -m fhir_gateway.server.openapi
	@$(BIN)/python -m fhir_gateway.contracts.schema

lock: install ## Write requirements.lock anew from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --group dev --extra spark --universal --python-version 3.11 --upgrade --quiet \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock
	@$(BIN)/uv pip compile --group third-party --universal --python-version 3.11 --upgrade --quiet \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file tests/support/third-party.lock
	@$(BIN)/uv pip compile --group clients --universal --python-version 3.11 --upgrade --quiet \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file tests/support/clients.lock

conformance: install ## Check a running gateway by every line of the public test kits, as a table (ARGS="D F17" for some)
	@$(BIN)/python -m tests.conformance $(ARGS)

bench-measures: install ## Measure evaluation of six measures and of Synthea next to peers (ARGS=CMS122 for some)
	@$(BIN)/python -m bench.measures $(or $(ARGS),CMS122 CMS165 CMS130 CMS125 CMS2FHIR CMS108)
	@$(if $(ARGS),,$(BIN)/python -m bench.synthea)

bench-attribution: install ## Measure attribution of 100,000 and 1,000,000 members next to a query by hand (ARGS=100000)
	@$(BIN)/python -m bench.attribution $(ARGS)

bench-risk: install ## Measure risk scores and all metrics of utilization (ARGS=1000000)
	@$(BIN)/python -m bench.risk_scores $(ARGS)
	@$(BIN)/python -m bench.utilization $(ARGS)

bench-console: install ## Measure server time of every page of the console at 100,000 members (ARGS="--folder FOLDER" keeps them)
	@$(BIN)/python -m bench.console $(ARGS)

bench-claims: install ## Measure claim edits: claims per second of one core with tables of realistic size (ARGS=100000)
	@$(BIN)/python -m bench.claim_edits $(ARGS)

bench-ingest: install ## Measure ingest: resources per second and peak memory
	@$(BIN)/python -m bench.ingest $(ARGS)

bench-server: install ## Measure reads, searches and evaluations over HTTP with SQLite and PostgreSQL, and exports
	@$(BIN)/python -m bench.server $(ARGS)
	@tests/support/with_postgresql.sh bash -c '$(BIN)/python -m bench.server --database "$$FHIR_GATEWAY_TEST_POSTGRESQL" $(ARGS)'
	@$(if $(ARGS),,$(BIN)/python -m bench.export)

bench-settlement: install ## Measure settlement at 100,000 and 1,000,000 members next to a query by hand (ARGS=20000)
	@$(BIN)/python -m bench.settlement $(ARGS)

bench-scale: install ## Measure from nothing to a settlement at 10,000, 100,000 and 1,000,000 members (ARGS="10000 --keep FOLDER")
	@$(BIN)/python -m bench.scale $(ARGS)

bench-incremental: install ## Measure what a 1 % change costs when it is pulled incrementally
	@$(BIN)/python -m bench.incremental $(ARGS)

fuzz: install ## Send many made-up requests to every route of the OpenAPI document (FUZZ_EXAMPLES=100)
	@FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),100) $(BIN)/python -m pytest -n 2 tests/api/test_openapi_contract.py $(ARGS)

tiny-files: install ## Pull an export of 20,000 files of one line (ARGS="--files 1000")
	@$(BIN)/python -m tests.support.tiny_files $(ARGS)

test-faults: install ## Strike databases, disks, processes and clocks, and compare what comes of the work (a fixed set)
	@tests/support/with_faults.sh $(BIN)/python -m pytest -n 2 tests/chaos $(ARGS)

chaos: install ## The same for as long as you like, and pulls as well: a table of faults (ARGS="--rounds 100 --seed 7")
	@tests/support/with_faults.sh $(BIN)/python -m tests.support.faults $(ARGS)
