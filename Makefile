# One door for people. Every target bootstraps its own environment from python3.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench families proto lock container clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## Build .venv with everything that installs here

# Torch is for exporting modules, the tests' oracle and the benchmarks; a machine
# without it loses those, and exports and serves checkpoints all the same.
$(VENV)/.ready: pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
		"kanserve needs Python 3.11 to 3.13, found %d.%d; choose one with make PYTHON=python3.13" % v)'
	@echo "== creating $(VENV) with $$($(PYTHON) --version) =="
	@$(PYTHON) -m venv --clear $(VENV) || { echo "python3 has no venv module: install python3-venv" >&2; exit 1; }
	@echo "== installing locked dependencies (about a minute) =="
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--only-binary :all: -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@if [ "$(TORCH)" = 0 ]; then echo "== leaving out torch: TORCH=0 =="; else \
		echo "== installing torch, for exporting modules (TORCH=0 leaves it out) =="; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[torch,layers]' \
		|| echo "torch does not install here; the tests that compare with it are skipped"; fi
	@touch $@

demo: setup ## Export real checkpoints, serve them, ask, stop
	@$(BIN)/python examples/demo.py

test: setup ## Run the whole test suite
	@$(BIN)/python -m pytest -q

check: setup ## Format, lint, strict types, generated code
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/python -m kanserve.pb --check

format: setup ## Format the code
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

bench: setup ## Compare our graph with torch's own export
	@$(BIN)/python benchmarks/graph_vs_torch_export.py

families: setup ## Measure every family against its library, and write the README's table
	@$(BIN)/python benchmarks/families.py

.PHONY: new-family
new-family: setup ## Write a family to begin with: make new-family NAME=mykan
	@$(BIN)/python tests/new_family "$(NAME)"

# protoc's package needs a newer protobuf than tritonclient allows, hence its own environment.
proto: setup ## Regenerate service/kanserve/pb from proto/
	@test -d $(PROTO_VENV) || $(PYTHON) -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools
	@PYTHONPATH=service:. $(PROTO_VENV)/bin/python -m kanserve.pb

lock: setup ## Renew requirements/*.txt from pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@compile="$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url --upgrade"; \
	$$compile pyproject.toml --extra dev -o requirements/dev.txt; \
	$$compile pyproject.toml --extra serve -o requirements/server.txt; \
	echo 'hatchling>=1.26' | $$compile - -o requirements/build.txt

container: setup ## Build the server image and prove it with podman
	@bash service/deploy/container-test.sh

clean: ## Remove environments and caches
	rm -rf $(VENV) $(PROTO_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
