# Commands for people. Every target bootstraps its own environment from python3.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
MUTATE_VENV := .venv-mutate
AUDIT_VENV := .venv-audit
NOTEBOOK_VENV := $(VENV)-notebook
DOCS_VENV := .venv-docs
ZIG_VENV := .venv-zig
STACK_VENV := .venv-stack
PIP := python -m pip install --quiet --disable-pip-version-check
# One more than cores: tests wait for servers a fifth of their time. Each file's tests stay on one worker: its servers
# and exports are made once.
WORKERS ?= $(shell expr $$(nproc) + 1)
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# More arguments for pytest, and a module and the tier of its tests for `make mutate`.
ARGS ?=
MODULE ?=
TIER ?= all

# Images of continuous integration often set it. Then each process of a test compiles all modules again: 0.3 to 2 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo notebook test test-full wild-test coverage mutate check format bench bench-servers reliability families proto reference docs docs-serve lock container stack-test data-test clients-test kernel release clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# Torch: a CPU build, or none. requirements/torch_build.py says how that is decided.
# The custom operator needs a C++ compiler: g++, clang++, or ziglang, which the installation downloads. KERNEL=0 leaves it out.
setup: $(VENV)/.ready $(if $(filter 0,$(KERNEL)),,$(VENV)/.kernel) ## Build .venv with what is cheap here; TORCH=1 with torch in any case, TORCH=0 without
	@$(BIN)/python requirements/torch_build.py $(TORCH)

$(VENV)/.ready: pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 14) else \
		"kanserve needs Python 3.11 to 3.14, found %d.%d; choose one with make PYTHON=python3.13" % v)'
	@echo "== creating $(VENV) with $$($(PYTHON) --version) =="
	@$(PYTHON) -m venv --clear $(VENV) || { echo "python3 has no venv module: install python3-venv" >&2; exit 1; }
	@echo "== installing locked dependencies (about a minute) =="
	@$(BIN)/$(PIP) --require-hashes --no-deps --only-binary :all: -r requirements/dev.txt
	@$(BIN)/$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.kernel: $(VENV)/.ready $(wildcard kernel/*.* kernel/src/* kernel/kanserve_kernel/*.py) requirements/kernel.txt
	@$(BIN)/python kernel/install.py $(ZIG_VENV)
	@touch $@

demo: setup ## Export real checkpoints, serve them, send requests, stop
	@$(BIN)/python examples/demo.py

# Its environment has all of .venv, and beside it what is too large for that.
notebook: setup ## Run examples/*.ipynb, from training with pykan to drift, and shap's plots; where there is torch
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then $(MAKE) --no-print-directory $(NOTEBOOK_VENV)/.ready && \
		$(NOTEBOOK_VENV)/bin/python -m pytest -q $(PARALLEL) --dist load tests/test_notebook.py tests/kanserve/client/test_explanation.py \
		tests/benchmarks/test_published.py --no-skip 'make notebook'; \
	else echo "torch is left out here (TORCH=1 takes it), so that pykan trains nothing: the notebook was not run"; fi

$(NOTEBOOK_VENV)/.ready: $(VENV)/.ready requirements/notebook.txt
	@echo "== creating $(NOTEBOOK_VENV) =="
	@$(BIN)/python -m venv --clear $(NOTEBOOK_VENV)
	@$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" > \
		"$$($(NOTEBOOK_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/beside.pth"
	@$(NOTEBOOK_VENV)/bin/$(PIP) --require-hashes --no-deps -r requirements/notebook.txt
	@touch $@

test: setup ## Run the tests of a change: every unit, reader and checkpoint, a server of each transport (5 minutes)
	@$(BIN)/python -m pytest -q $(PARALLEL) --tier quick $(ARGS)

# Its tests wait more for other programs: with one worker more than cores, the cores work 77% of the time.
test-full: WORKERS := $(shell expr $$(nproc) + 2)
test-full: setup ## Run all tests: those of `make test`, combinations, fuzzing, other programs, documents
	@$(BIN)/python -m pytest -q $(PARALLEL) --tier all $(ARGS)

wild-test: setup ## Export modules in the forms of public KAN code, and compare the graphs with torch; print a table (ARGS="--only UNet")
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then \
		$(BIN)/python tools/oracle/public_modules.py tools/oracle/wild --table tools/oracle/wild.toml $(ARGS); \
	else echo "torch is left out here (TORCH=1 takes it), and no module can be exported" >&2; exit 1; fi

coverage: setup ## Run the suite with branch coverage, processes it starts included; print the table
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest -q $(PARALLEL) $(ARGS); code=$$?; \
		$(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage report && exit $$code

# These tools parse sources and start commands; they need nothing of ours, and have environments of their own.
$(MUTATE_VENV)/bin/cosmic-ray:
	@$(PYTHON) -m venv $(MUTATE_VENV) && $(MUTATE_VENV)/bin/$(PIP) 'cosmic-ray>=8.4,<9'

$(AUDIT_VENV)/bin/pip-audit:
	@$(PYTHON) -m venv $(AUDIT_VENV) && $(AUDIT_VENV)/bin/$(PIP) 'pip-audit>=2.9,<3'

mutate: setup $(MUTATE_VENV)/bin/cosmic-ray ## Change pure modules one spot at a time; the tests should notice (MODULE=... for one)
	@$(BIN)/python tools/mutate.py $(MUTATE_VENV)/bin $(TIER) $(MODULE)

check: setup ## Format, lint, strict types, generated code and pages, words of the style guide
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then $(BIN)/mypy; else \
		echo "torch is not installed: kanexport/torch_export is checked as if torch had no types"; \
		$(BIN)/mypy --disable-error-code=import-not-found --allow-subclassing-any --allow-untyped-decorators \
			--no-warn-return-any; fi
	@$(BIN)/python -m kanserve.pb --check
	@$(BIN)/python -m tools.reference --check
	@$(BIN)/python -m tools.figures --check
	@$(BIN)/python tools/prose.py

format: setup ## Format the code
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

# The run takes hours. It skips reliability tests that have a full result for this commit, so you can interrupt it and
# continue later.
reliability: setup $(MUTATE_VENV)/bin/cosmic-ray $(AUDIT_VENV)/bin/pip-audit ## Run the reliability tests in full and write docs/reliability (ARGS="--rows 13,21")
	@$(BIN)/python -m tools.reliability --resume $(ARGS)

# Runs in the notebook's environment, for pykan and matplotlib. Takes ten minutes and keeps results of this commit.
bench: setup ## Measure the benchmark matrix and write docs/benchmarks (ARGS="--only uniform --quick")
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then $(MAKE) --no-print-directory $(NOTEBOOK_VENV)/.ready && \
		$(NOTEBOOK_VENV)/bin/python -m benchmarks.matrix $(or $(ARGS),--docs); \
	else echo "torch is left out here (TORCH=1 takes it), and there is nothing to compare with" >&2; exit 1; fi

bench-servers: setup ## Measure the transports against no-op baselines and other servers, for docs/benchmarks/serving.md
	@$(BIN)/python benchmarks/servers --docs

families: setup ## Measure every library, and write the table of docs/reference/supported-libraries.md
	@$(BIN)/python benchmarks/families.py

.PHONY: new-family
new-family: setup ## Write a family to begin with: make new-family NAME=mykan
	@$(BIN)/python tools/new_family "$(NAME)"

# protoc's package needs a newer protobuf than tritonclient allows, hence its own environment.
proto: setup ## Regenerate service/kanserve/pb from proto/
	@test -d $(PROTO_VENV) || $(PYTHON) -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/$(PIP) grpcio-tools
	@PYTHONPATH=service:. $(PROTO_VENV)/bin/python -m kanserve.pb

reference: setup ## Write the generated pages of docs/reference from the code
	@$(BIN)/python -m tools.reference

docs: $(DOCS_VENV)/.ready ## Build the documentation site into site/, and check its links
	@$(DOCS_VENV)/bin/python -m tools.figures --check
	@$(DOCS_VENV)/bin/zensical build --clean --strict && $(DOCS_VENV)/bin/python tools/llms_txt.py

docs-serve: $(DOCS_VENV)/.ready ## Show the documentation site at http://127.0.0.1:8000, and rebuild it on changes
	@$(DOCS_VENV)/bin/zensical serve --dev-addr 127.0.0.1:8000

$(DOCS_VENV)/.ready: requirements/docs.txt
	@echo "== creating $(DOCS_VENV) =="
	@$(PYTHON) -m venv --clear $(DOCS_VENV)
	@$(DOCS_VENV)/bin/$(PIP) --require-hashes --no-deps --only-binary :all: -r requirements/docs.txt
	@touch $@

lock: setup ## Renew requirements/*.txt from pyproject.toml
	@$(BIN)/$(PIP) uv
	@compile="$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url --upgrade"; \
	$$compile pyproject.toml --extra dev --no-emit-package kanserve-kernel -o requirements/dev.txt && \
	$$compile pyproject.toml --extra serve --extra certificates --extra otel --no-emit-package kanserve-kernel \
		-o requirements/server.txt && \
	$$compile pyproject.toml requirements/server-cuda.in --extra serve --extra certificates --extra otel \
		--no-emit-package kanserve-kernel --no-emit-package onnxruntime -o requirements/server-cuda.txt && \
	$$compile pyproject.toml requirements/export.in --extra export --no-emit-package kanserve-kernel -o requirements/export.txt && \
	$$compile requirements/docs.in -o requirements/docs.txt && \
	for name in stack model-sources; do $$compile requirements/$$name.in -o requirements/$$name.txt || exit 1; done && \
	for name in engines ray notebook; do \
		$$compile requirements/$$name.in -c requirements/dev.txt -o requirements/$$name.txt || exit 1; done && \
	echo 'hatchling>=1.26' | $$compile - -o requirements/build.txt && \
	echo 'ziglang>=0.17,<0.18' | $$compile - -o requirements/kernel.txt

# `make setup` installs the operator for this machine already.
kernel: setup ## Build wheels of the custom operator for x86-64 and aarch64 into dist/, with ziglang
	@$(BIN)/python kernel/install.py $(ZIG_VENV) dist

# Builds from the commit, tests outside the clone, and sets no tag: it prints the command. tools/release.py says the rest.
release: setup ## Build and test wheel, sdist, kernel wheel and Helm chart; print the tag to set (ARGS=--check: only the checks)
	@$(BIN)/python tools/release.py $(ARGS)

container: setup ## Build the server image and prove it with podman
	@bash service/deploy/container-test.sh

stack-test: setup $(STACK_VENV)/.ready ## Run the tests of image, compose stack, monitoring, KServe, cluster, Ray, chart and sources of models; print a table (ARGS=compose-stack)
	@$(BIN)/python tools/stack_test.py $(ARGS)

data-test: setup $(STACK_VENV)/.ready ## Run the tests of models and tables in stores, and of the engines that score tables; print a table
	@$(BIN)/python tools/stack_test.py stores model-sources engines

# The folder keeps what Maven, npm and Go download or compile. `make test-full` runs these tests too once it exists.
clients-test: setup ## Compile and run the clients in Java, Go and JavaScript of docs/guides/clients/other-languages.md
	@mkdir -p .clients
	@$(BIN)/python tools/stack_test.py clients

$(STACK_VENV)/.ready: requirements/stack.txt
	@echo "== creating $(STACK_VENV) =="
	@$(PYTHON) -m venv --clear $(STACK_VENV)
	@$(STACK_VENV)/bin/$(PIP) --require-hashes --no-deps -r requirements/stack.txt
	@touch $@

clean: ## Remove environments and caches
	rm -rf $(VENV) $(VENV)-3.1[1234] $(PROTO_VENV) $(MUTATE_VENV) $(AUDIT_VENV) $(DOCS_VENV) $(ZIG_VENV) $(STACK_VENV) site $(VENV)*-notebook .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.coverage .coverage.* .mutate .clients
