# Anabranch: one word for each thing that a developer or an operator wants done.
#
# `make run` and `make test` do everything on a fresh Debian 12: system packages (as root),
# a venv in .venv, the C core.  Stamps in build/stamps tell what is done, so that a second
# start does nothing but start.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CONF ?= conf
RUN_DIR ?= /run/anabranch
FUZZ_SECONDS ?= 10
REPEAT ?= 1
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
CORE := fastpath/_core.abi3.so
HEADERS := $(shell find fastpath -name '*.h')
C_FILES := $(shell find fastpath/src -name '*.c')
BPF_FILES := $(wildcard fastpath/bpf/*.bpf.c)
CLIENT_FILES := $(wildcard rsock/c/*.c)
CLIENT_HEADERS := $(wildcard rsock/c/*.h)
TEST_C_FILES := $(wildcard tests/*/*.c)
CLIENT_INPUTS := $(CLIENT_FILES) $(CLIENT_HEADERS) rsock/c/build.py rsock/c/header.py rsock/c/librsock.map
CORE_INPUTS := $(HEADERS) $(C_FILES) $(CLIENT_INPUTS) $(BPF_FILES) fastpath/bpf/build.py fastpath/build.py rsock/wire.py setup.py

WARNINGS := -std=gnu11 -O2 -Wall -Wextra -Wconversion -Wshadow -Wvla -Wmissing-prototypes -Wno-unused-parameter -Werror
# Programs for the kernel; see fastpath/bpf/build.py.
BPF_FLAGS = $(filter-out -Wmissing-prototypes,$(WARNINGS)) -Wno-unused-variable -target bpf -mcpu=v3 -ffreestanding \
	-Ifastpath/include -Ifastpath/src -Ifastpath/bpf
INCLUDES := -Ifastpath/include -Ifastpath/src -Ibuild/include
CLIENT_INCLUDES := -Irsock/c -Ibuild/include
TEST_FLAGS := -Irsock/c -Itests/wire -DANABRANCH_CRASHPOINTS
# ASan of gcc 12 and clang 14 cannot live with today's address randomisation.
FIXED_ADDRESSES := $(shell setarch -R true 2>/dev/null && echo setarch -R)
SANITIZERS := address,undefined
ASAN_ENV = ANABRANCH_SANITIZE=$(SANITIZERS) ASAN_OPTIONS=detect_leaks=0:log_path=$(CURDIR)/build/asan/report \
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:log_path=$(CURDIR)/build/asan/report \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)"
TSAN_ENV = ANABRANCH_SANITIZE=thread TSAN_OPTIONS=log_path=$(CURDIR)/build/tsan/report \
	LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)"
TSAN_TESTS := tests/unit/test_workers.py
# The order of tests is another one each time; CI's can be had again.
PYTEST := PYTHONSAFEPATH=1 $(BIN)/pytest -q $(if $(CI),--randomly-seed=1)
# Most of a test's time is waiting: more of them than cores run side by side.  What measures times runs alone.
WORKERS ?= 3
BESIDE := -n $(WORKERS) --dist loadfile -m 'not quiet'
SAY := @printf '\033[1m==>\033[0m %s\n'

.PHONY: help run build test laws chaos-rsock test-cpython test-programs lint format unit netns asan tsan fuzz packetdrill bench clean

help: ## this list
	@echo 'Anabranch: virtual routers outside the kernel.  Words for make:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'
	@echo 'Settings: CONF=DIR RUN_DIR=DIR (run), FUZZ_SECONDS=N (fuzz), PACKETDRILL=DIR REPEAT=N (packetdrill), PYTHON=python3.11'

run: build ## start the router with CONF=conf (the demo, as shipped); Ctrl-C ends it
	@exec env PYTHONSAFEPATH=1 $(BIN)/anabranch run --conf $(CONF) --run-dir $(RUN_DIR)

build: $(STAMPS)/runtime ## venv, packages and the C core
	@$(MAKE) -s $(CORE)

test: build $(STAMPS)/development lint ## all but the benches; as root also the tests in namespaces
	@$(MAKE) asan ASAN_TESTS=tests/unit FUZZ_SECONDS=5
	@$(MAKE) -j 2 fuzz FUZZ_SECONDS=$(if $(CI),3,$(FUZZ_SECONDS))
	$(SAY) 'unit, property and namespace tests (what is skipped is listed at the end)'
	@$(PYTEST) --durations=5 $(BESIDE) tests --ignore=tests/bench --ignore=tests/programs
	$(SAY) 'tests that measure times, one after the other'
	@$(PYTEST) --durations=5 -m quiet tests --ignore=tests/bench --ignore=tests/programs

unit: build $(STAMPS)/development ## unit and property tests, simulator, scale: no root, some minutes
	@$(PYTEST) $(BESIDE) tests/unit tests/property tests/sim tests/sim_network tests/scale tests/test_floors.py tests/test_docs.py

netns: build $(STAMPS)/development ## tests in network namespaces: root
	@$(PYTEST) $(BESIDE) tests/netns
	@$(PYTEST) -m quiet tests/netns

chaos-rsock: build $(STAMPS)/development ## kill app, forwarder, control and broker ROUNDS times each: root
	@RSOCK_ROUNDS=$(or $(ROUNDS),1000) $(PYTEST) -s tests/netns/test_rsock_failures.py

laws: build $(STAMPS)/development ## the counter laws over a hundred million random frames, some minutes; root: also those of the offloads
	@LAW_FRAMES=100000000 $(PYTEST) tests/unit/test_laws.py tests/netns/test_offload_program.py -k laws

test-cpython: build $(STAMPS)/development ## CPython's own tests in a router against the kernel, many minutes: root
	@PYTHONSAFEPATH=1 $(BIN)/python tests/cpython/run.py

lint: build $(STAMPS)/development ## style, types, floors, spelling, C warnings of clang (tests: of gcc too)
	$(SAY) 'ruff'
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	$(SAY) 'mypy, pyright'
	@$(BIN)/python fastpath/build.py
	@$(BIN)/mypy
	@$(BIN)/pyright --warnings
	$(SAY) 'floors, spelling'
	@PYTHONPATH=. $(BIN)/lint-imports --no-logo --cache-dir build/importlinter
	@$(BIN)/python tools/check_c_floors.py
	@$(BIN)/codespell
	$(SAY) 'C: warnings'
	@printf '%s\0' $(C_FILES) | xargs -0 -n 4 -P 2 clang $(WARNINGS) $(INCLUDES) -fsyntax-only
	@printf '%s\0' $(CLIENT_FILES) | xargs -0 -n 4 -P 2 clang $(WARNINGS) $(CLIENT_INCLUDES) -fsyntax-only
	@printf '%s\0' $(BPF_FILES) | xargs -0 -n 4 clang $(BPF_FLAGS) -fsyntax-only
	@for compiler in clang gcc; do \
		printf '%s\0' $(TEST_C_FILES) | xargs -0 -n 4 -P 2 $$compiler $(WARNINGS) $(INCLUDES) $(TEST_FLAGS) \
			-fsyntax-only || exit 1; \
	done
	@echo 'lint: clean'

format: $(STAMPS)/development ## let ruff format all Python
	@$(BIN)/ruff format .

asan: build $(STAMPS)/development build/asan/built ## unit and property tests with ASan and UBSan in the core
	$(SAY) 'unit and property tests under ASan and UBSan'
	@rm -f build/asan/report.*
	@$(FIXED_ADDRESSES) env $(ASAN_ENV) $(PYTEST) -o pythonpath="build/asan/lib . tests/netns" \
		$(BESIDE) $(or $(ASAN_TESTS),tests/unit tests/property); status=$$?; \
		if compgen -G 'build/asan/report.*' >/dev/null; then cat build/asan/report.*; exit 1; fi; exit $$status

build/asan/built: $(CORE_INPUTS) $(shell find fastpath rsock vrouter manager -name '*.py') | $(STAMPS)/runtime
	$(SAY) 'C core with ASan and UBSan'
	@mkdir -p build/asan
	@ANABRANCH_SANITIZE=$(SANITIZERS) $(BIN)/python setup.py -q build --force --build-temp build/asan/temp \
		--build-lib build/asan/lib --build-base build/asan/base
	@ln -sfn $(addprefix $(CURDIR)/,conf docs examples) build/asan/lib/
	@ln -sfn $(addprefix $(CURDIR)/fastpath/,include src) build/asan/lib/fastpath/
	@ln -sfn $(CURDIR)/rsock/c/header.py build/asan/lib/rsock/c/
	@touch $@

tsan: build $(STAMPS)/development build/tsan/built ## what runs in several threads, with ThreadSanitizer in the core
	$(SAY) 'threads of a forwarder under ThreadSanitizer'
	@rm -f build/tsan/report.*
	@$(FIXED_ADDRESSES) env $(TSAN_ENV) $(PYTEST) -o pythonpath="build/tsan/lib . tests/netns" $(TSAN_TESTS); status=$$?; \
		if compgen -G 'build/tsan/report.*' >/dev/null; then cat build/tsan/report.*; exit 1; fi; exit $$status

build/tsan/built: $(CORE_INPUTS) $(shell find fastpath rsock vrouter manager -name '*.py') | $(STAMPS)/runtime
	$(SAY) 'C core with ThreadSanitizer'
	@mkdir -p build/tsan
	@ANABRANCH_SANITIZE=thread $(BIN)/python setup.py -q build --force --build-temp build/tsan/temp \
		--build-lib build/tsan/lib --build-base build/tsan/base
	@ln -sfn $(addprefix $(CURDIR)/,conf docs examples) build/tsan/lib/
	@touch $@

FUZZERS := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
TCP_FUZZERS := $(filter build/fuzz/fuzz_tcp_%,$(FUZZERS))
TCP_FUZZ_PARTS := $(addprefix tests/fuzz/tcp_,world.c peer.c poison.c) tests/sim/check.c tests/sim/publish.c
# What is free in the pools is poisoned.
TCP_FUZZ_WRAPS := $(foreach kind,block segment range,-Wl,--wrap=$(kind)_new,--wrap=$(kind)_free)
FUZZ_OBJECTS := $(patsubst fastpath/src/%.c,build/fuzz/objects/%.o,$(C_FILES))
FUZZ_FLAGS := -std=gnu11 -O1 -g -fno-omit-frame-pointer $(INCLUDES)

# On CI the same inputs each time, as far as time allows: a red run points at a change.  By hand it explores.
fuzz: build $(STAMPS)/development $(FUZZERS) ## each parser of hostile bytes for FUZZ_SECONDS
	@for fuzzer in $(FUZZERS); do \
		name=$$(basename $$fuzzer); \
		printf '\033[1m==>\033[0m %s for %s s\n' $$name $(FUZZ_SECONDS); \
		mkdir -p build/fuzz/found/$$name tests/fuzz/corpus/$$name; \
		$(FIXED_ADDRESSES) $$fuzzer -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -verbosity=0 -entropic=0 $(if $(CI),-seed=1) \
			-artifact_prefix=build/fuzz/$$name- build/fuzz/found/$$name tests/fuzz/corpus/$$name \
			2>build/fuzz/$$name.log || { cat build/fuzz/$$name.log; exit 1; }; \
		sed -n 's/stat::number_of_executed_units: */  executions: /p' build/fuzz/$$name.log; \
	done

# The C client stands apart from the core.
CLIENT_FUZZERS := build/fuzz/fuzz_rsock_client
# link.c is part of the fuzzer itself, which looks into it.
CLIENT_PARSERS := $(filter-out rsock/c/link.c rsock/c/supervisor% rsock/c/preload%,$(CLIENT_FILES))
$(CLIENT_FUZZERS): build/fuzz/%: tests/fuzz/%.c $(CLIENT_FILES) $(CLIENT_HEADERS)
	@mkdir -p $(@D)
	@clang $(FUZZ_FLAGS) -Irsock/c -fsanitize=fuzzer,$(SANITIZERS) $< $(CLIENT_PARSERS) -o $@

build/fuzz/objects/%.o: fastpath/src/%.c $(HEADERS) rsock/wire.py | $(STAMPS)/runtime
	@mkdir -p $(@D)
	@clang $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,$(SANITIZERS) -c $< -o $@

build/fuzz/core.a: $(FUZZ_OBJECTS)
	@rm -f $@
	@ar rcs $@ $^

$(TCP_FUZZERS): FUZZ_PARTS := $(TCP_FUZZ_PARTS) $(TCP_FUZZ_WRAPS)
$(TCP_FUZZERS): $(TCP_FUZZ_PARTS) tests/fuzz/tcp_world.h tests/sim/check.h tests/sim/publish.h

$(filter-out $(CLIENT_FUZZERS),$(FUZZERS)): build/fuzz/%: tests/fuzz/%.c build/fuzz/core.a
	@clang $(FUZZ_FLAGS) -fsanitize=fuzzer,$(SANITIZERS) $< $(FUZZ_PARTS) build/fuzz/core.a -o $@

packetdrill: build ## google's packetdrill scripts against the host stack, in virtual time
	@$(BIN)/python tests/packetdrill/run.py $(if $(PACKETDRILL),'$(PACKETDRILL)',$(error set PACKETDRILL=path)) \
		--repeat $(REPEAT)

test-programs: build $(STAMPS)/development ## curl, nginx, redis, ssh, FRR, BIRD and others, unmodified, in two routers; root
	@bash tools/system_packages.sh programs
	@$(PYTEST) --durations=5 tests/programs

bench: build $(STAMPS)/development | $(STAMPS)/system-bench ## ratios against the kernel, measured in the same run; root
	@$(PYTEST) -s tests/bench

clean: ## remove what was built; .venv stays
	@rm -rf build $(CORE) fastpath/_glance.abi3.so fastpath/_core.c fastpath/_glance.c fastpath/_layout.py fastpath/_core.pyi *.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(STAMPS)/system-%: tools/system_packages.sh
	@mkdir -p $(@D)
	@bash tools/system_packages.sh $*
	@touch $@

$(STAMPS)/runtime: pyproject.toml setup.py | $(STAMPS)/system-run
	$(SAY) 'Python environment in $(VENV)'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -U 'setuptools>=77' wheel 'cffi>=2,<3'
	$(SAY) 'runtime packages and the C core'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e .
	@mkdir -p $(@D) && touch $(CORE) $@

$(CORE): $(CORE_INPUTS) | $(STAMPS)/runtime
	$(SAY) 'C core'
	@$(BIN)/python setup.py -q build_ext --inplace --force --build-temp build/core
	@touch $(CORE)

$(STAMPS)/development: pyproject.toml $(STAMPS)/runtime | $(STAMPS)/system-test
	$(SAY) 'development packages'
	@$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*project["optional-dependencies"]["dev"], sep="\n")' >build/development.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r build/development.txt
	@touch $@
