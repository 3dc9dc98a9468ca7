# `make run` installs what it needs into .venv, once, and serves. ARGS are passed on to commands:
# make run ARGS="--topology 1p2d"
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first Python that is new enough; or name one: make run PYTHON=/path/to/python
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock
LOAD_TOOLS := .venv/load-tools
# What an install is made from: it compiles the kernels.
KERNELS := $(wildcard tandem/native/*.h tandem/native/*.cpp)
BUILD := pyproject.toml requirements.lock setup.py $(KERNELS) $(wildcard tandem/native/*.flags)
SAY = @printf '\033[2m%s\033[0m\n'

.PHONY: help
help: ## what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 32

.PHONY: install
install: .venv/installed ## what serving needs, into .venv
	@:

.PHONY: dev
dev: .venv/installed-dev ## what developing needs as well
	@:

.PHONY: run
run: .venv/installed ## serve on http://127.0.0.1:8000
	@$(BIN)/tandem up $(ARGS)

# Where it is set, the processes of the tests would compile the project at each of their starts.
test: export PYTHONDONTWRITEBYTECODE :=

.PHONY: test
test: .venv/installed-dev ## all tests but the slow ones
	$(SAY) "pytest, unit tests, on all cores"
	@$(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal tests/unit $(ARGS)
	$(SAY) "pytest, processes"
	@$(BIN)/python -m pytest -m "not slow and not clients" -n 3 --dist loadfile --no-loadscope-reorder \
		--ignore tests/unit $(ARGS)

.PHONY: test-slow
test-slow: .venv/installed-dev ## the slow tests
	$(SAY) "pytest, many more scenarios of the scheduler"
	@TANDEM_SCENARIOS=1000 $(BIN)/python -m pytest --timeout 1200 -n auto tests/unit/scheduler/test_simulation.py $(ARGS)
	$(SAY) "pytest, slow tests"
	@$(BIN)/python -m pytest -m "slow and not compose" $(ARGS)

.PHONY: chaos
chaos: .venv/installed-dev ## thousands of faults, and docs/reliability.md from them; as root, partitions too
	@$(BIN)/python tests/chaos/run.py $(ARGS)

.PHONY: soak
soak: .venv/installed-dev ## 10,000 requests with random cancels, and what is held afterwards
	@$(BIN)/python tests/chaos/soak.py $(ARGS)

.PHONY: test-compose
test-compose: .venv/installed-dev ## the tests in containers; need an engine, or root and dockerd
	$(SAY) "pytest, containers"
	@$(BIN)/python -m pytest tests/compose -rs -s $(ARGS)

.PHONY: test-clients
test-clients: .venv/installed-clients $(LOAD_TOOLS)/installed ## OpenAI's client, LangChain and load tools against a server
	$(SAY) "pytest, clients"
	@PATH="$(CURDIR)/$(LOAD_TOOLS)/bin:$$PATH" $(BIN)/python -m pytest -m clients -rs tests/clients $(ARGS)

EMULATED := build/emulated.so
HEADERS := $(addprefix tests/unit/native/emulated_,avx512.h amx.h)
FLAGS := $(addprefix tandem/native/,common.flags avx2.flags)
$(EMULATED): $(KERNELS) $(HEADERS) $(FLAGS)
	$(SAY) "compiling the kernels for AVX-512 and AMX, to be emulated: two minutes"
	@mkdir -p build
	@$(CXX) -shared -fPIC $(addprefix @,$(FLAGS)) -O1 -w \
		$(addprefix -include ,$(HEADERS)) '-DTANDEM_BUILD="emulated"' tandem/native/kernels.cpp -o $@

.PHONY: test-emulated
test-emulated: .venv/installed-dev $(EMULATED) ## the kernels for AVX-512 and AMX where there is only AVX2; needs SIMDe (libsimde-dev)
	$(SAY) "pytest, the kernels for AVX-512 and AMX, emulated"
	@TANDEM_EMULATED=$(EMULATED) $(BIN)/python -m pytest -n auto -k "avx512 or amx" tests/unit/native $(ARGS)
	@TANDEM_EMULATED=$(EMULATED) $(BIN)/python -m pytest -n auto -k "amx-bfloat16-none" \
		tests/unit/torch/test_torch_determinism.py $(ARGS)

SANITIZED := build/sanitized
$(SANITIZED)/made: $(KERNELS) $(wildcard tandem/native/*.flags tandem/native/*.py) setup.py
	$(SAY) "compiling the kernels with checks: two minutes"
	@rm -rf $(SANITIZED) && mkdir -p $(SANITIZED) && cp -R tandem $(SANITIZED)
	@CXX="$(CXX) -fsanitize=address,undefined -fno-sanitize-recover=all" $(BIN)/python setup.py -q \
		build_ext --force --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	@touch $@

# From a folder whose tandem has them. What a test asks for in vain is more than there can be.
.PHONY: test-sanitized
test-sanitized: .venv/installed-dev $(SANITIZED)/made ## the kernels under GCC's sanitizers: of addresses, and of what C++ leaves undefined
	$(SAY) "pytest, the kernels, with checks"
	@cd $(SANITIZED) && LD_PRELOAD="$(foreach each,asan stdc++,$$($(CXX) -print-file-name=lib$(each).so))" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 $(CURDIR)/$(BIN)/python -m pytest \
		-n auto --rootdir $(CURDIR) $(CURDIR)/tests/unit/native \
		$(CURDIR)/tests/unit/torch/test_torch_determinism.py $(ARGS)

TRITON := .venv/triton
# The one that torch's builds for GPUs ask for. Its interpreter takes no newer numpy.
TRITON_AND_NUMPY := triton==3.7.1 numpy==2.2.6
$(TRITON)/installed: Makefile | .venv/installed-dev
	$(SAY) "installing Triton into $(TRITON) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(TRITON) $(TRITON_AND_NUMPY) && touch $@

.PHONY: test-triton
test-triton: .venv/installed-dev $(TRITON)/installed ## the GPU's kernels without a GPU: interpreted, and compiled for three kinds
	$(SAY) "pytest, the GPU's kernels"
	@PYTHONPATH="$(CURDIR)/$(TRITON)" $(BIN)/python -m pytest -n auto -k "triton or gpu or graph" tests/unit/torch $(ARGS)

.PHONY: test-all
test-all: test test-slow ## all tests

.PHONY: lint
lint: .venv/installed-dev ## style, types, layering, stubs
	$(SAY) "ruff check"
	@$(BIN)/ruff check --quiet
	$(SAY) "ruff format --check"
	@$(BIN)/ruff format --quiet --check
	$(SAY) "mypy"
	@$(BIN)/mypy --no-error-summary
	$(SAY) "import-linter"
	@log=$$($(BIN)/lint-imports 2>&1) || { echo "$$log"; exit 1; }
	$(SAY) "stubs match protos/"
	@scripts/protos --check

.PHONY: format
format: .venv/installed-dev ## fix what can be fixed
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

.PHONY: protos
protos: .venv/installed-dev ## tandem/v1 from protos/
	@scripts/protos

# What `make bench` runs; make bench BENCHMARKS="engine start" only these.
BENCHMARKS := pipeline engine same_bits host quality kv_transfer loop watching colocated prefix start \
	interference
.PHONY: bench
bench: .venv/installed-dev ## the benchmarks, one after the other: an hour, and docs/performance.md from them
	@for each in $(BENCHMARKS); do $(BIN)/python benchmarks/$$each.py --keep || exit; done
	@$(BIN)/python benchmarks/report.py

.PHONY: bench-peers
bench-peers: .venv/installed-dev ## Tandem beside the peers that are installed: benchmarks/peers/README.md
	@$(BIN)/python benchmarks/compare.py $(ARGS)
	@$(BIN)/python benchmarks/report.py

.PHONY: bench-goodput
bench-goodput: .venv/installed-dev ## goodput of split and colocated serving on this machine's cores
	@$(BIN)/tandem bench goodput --out docs/figures/goodput-cpu $(ARGS)
	@$(BIN)/python benchmarks/plot_goodput.py docs/figures/goodput-cpu

.PHONY: bench-goodput-mock
bench-goodput-mock: .venv/installed-dev ## the same on eight mock GPUs, every ratio of prefill to decode
	@$(BIN)/tandem bench goodput --device mock:h100x5 --seconds 2 --warm-up 0.75 --alone 4 \
		--out docs/figures/goodput-mock $(ARGS)
	@$(BIN)/python benchmarks/plot_goodput.py docs/figures/goodput-mock

.PHONY: bench-goodput-simulated
bench-goodput-simulated: .venv/installed-dev ## all arms and workloads on eight mock GPUs, in virtual time
	@$(BIN)/tandem bench goodput --simulated --device mock:h100 --seconds 1 --requests 300 --warm-up 3 \
		--workloads long-prompts,chat,shared-prefix,tenants,conversations \
		--tolerance 1.15 --out docs/figures/goodput-simulated $(ARGS)
	@$(BIN)/python benchmarks/plot_goodput.py docs/figures/goodput-simulated

.PHONY: plots
plots: .venv/installed-dev ## plots and tables anew from docs/figures
	@$(BIN)/python benchmarks/report.py
	@for sweep in docs/figures/goodput-*/; do $(BIN)/python benchmarks/plot_goodput.py $$sweep; done

# An index may carry torch as another build, whose version then has a local part: 2.13.0+cpu.
.PHONY: lock
lock: .venv/installed-dev ## requirements.lock from pyproject.toml; ARGS=--upgrade for newer ones
	$(SAY) "pip-compile"
	@$(BIN)/pip-compile --quiet --extra torch --extra otel --extra dev --extra clients --strip-extras --no-header \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links $(ARGS) \
		--output-file requirements.lock pyproject.toml
	@sed -i.old 's/^\(torch==[0-9.]*\)+.*/\1/' requirements.lock && rm requirements.lock.old

.PHONY: clean
clean: ## remove what can be made anew, but for .venv
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Tandem needs Python 3.11 or newer: make run PYTHON=/path/to/it"; exit 1; }
	$(SAY) "making .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# Stamps, so that nothing is installed twice.
.venv/installed: $(BUILD) | .venv/bin/python
	$(SAY) "installing Tandem and torch into .venv (once; some minutes, most of it torch's download)"
	@$(PIP_INSTALL) -e '.[torch]'
	@touch $@

.venv/installed-dev: $(BUILD) | .venv/bin/python
	$(SAY) "installing Tandem, torch and the development tools into .venv (once)"
	@$(PIP_INSTALL) -e '.[torch,otel,dev]'
	@touch $@ .venv/installed

.venv/installed-clients: .venv/installed-dev
	$(SAY) "installing clients into .venv (once)"
	@$(PIP_INSTALL) -e '.[torch,otel,dev,clients]'
	@touch $@

# The load tools' pins are not ours, so they have an environment of their own; what it lacks it sees
# in .venv, so that torch is not installed twice.
$(LOAD_TOOLS)/installed: tests/clients/load-tools.txt | .venv/installed-dev
	$(SAY) "installing load tools into $(LOAD_TOOLS) (once; some minutes)"
	@$(BIN)/python -m venv --clear $(LOAD_TOOLS)
	@packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$packages" > "$$($(LOAD_TOOLS)/bin/python -c "$$packages")/outer.pth"
	@$(LOAD_TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r tests/clients/load-tools.txt
	@touch $@
