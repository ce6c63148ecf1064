# What one does with a checkout. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV): make cannot work with a path that has spaces)
endif

# The Debian packages that the tests and the benchmarks need; what the demo shows comes from one more, named there.
DEB_PACKAGES := debootstrap default-jre-headless dnsmasq-base e2fsprogs iproute2 knot nginx-light openssh-client procps pssh
DEB_BENCH_PACKAGES := nginx-light openssl

# The pex for the Python of VENV; what it is made of is kept in VENV.
PEX_FILE ?= img2dataset.pex
PEX_THIN_FILE ?= img2dataset-thin.pex
# These recipes take them from the environment, where a path may have spaces.
pex pex-thin bench-cluster clean: export PEX_FILE := $(PEX_FILE)
pex pex-thin bench-cluster clean: export PEX_THIN_FILE := $(PEX_THIN_FILE)
BUILD_PEX = $(BIN)/python deploy/pex/build.py --cache $(VENV)/pex

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PACKAGING := setup.py pyproject.toml img2dataset_dist/about.py

.PHONY: help venv venv-tests debs demo test test-fast lint format bench bench-scaling bench-web bench-video bench-cluster pex pex-thin pex-locks clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(VENV)/.installed ## make .venv with the package in it (PYTHON=python3.12 to choose one)

demo: venv ## turn a list of URLs into a dataset, on real photographs
	@$(BIN)/python examples/demo/run.py </dev/null

test: debs venv-tests ## install what the tests need, then run all of them and the linters
	@export PATH="$(abspath $(BIN)):$$PATH"; failed=""; \
	step() { echo "== $$*"; "$$@" </dev/null || failed="$$failed  $$*"$$'\n'; }; \
	step ruff check; \
	step ruff format --check; \
	step mypy; \
	step pytest; \
	if [ -n "$$failed" ]; then printf 'make test: FAILED\n%s' "$$failed"; exit 1; fi; \
	echo 'make test: passed'

test-fast: venv-tests ## run the quick tests only
	@$(BIN)/pytest -m "not slow and not crash" </dev/null

lint: venv-tests ## check style, formatting and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: venv-tests ## format the code and fix what can be fixed safely
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: venv-tests ## compare with img2dataset on the same photographs; about half an hour (docs/performance.md)
	@$(call deb_install,$(DEB_BENCH_PACKAGES))
	@$(BIN)/python benchmarks/run.py </dev/null
	@$(BIN)/python benchmarks/floor.py </dev/null
	@$(BIN)/python benchmarks/quality.py </dev/null

bench-scaling: venv-tests ## measure how cost grows with sizes of pictures and thread_count; about a quarter of an hour
	@$(call deb_install,$(DEB_BENCH_PACKAGES))
	@$(BIN)/python benchmarks/scaling.py </dev/null

bench-web: venv-tests ## measure slow and failing hosts, fetching alone, and memory; about half an hour (docs/performance.md)
	@$(call deb_install,$(DEB_BENCH_PACKAGES))
	@$(BIN)/python benchmarks/fetch_only.py </dev/null
	@$(BIN)/python benchmarks/open_web.py </dev/null
	@$(BIN)/python benchmarks/memory.py </dev/null

bench-video: venv-tests ## measure clips by byte ranges, and videos against ffmpeg by hand; about half an hour (docs/video.md)
	@$(call deb_install,$(DEB_BENCH_PACKAGES))
	@$(BIN)/python benchmarks/clips.py </dev/null
	@$(BIN)/python benchmarks/video.py </dev/null

bench-cluster: venv-tests ## measure Spark against the local engine, long lists, and the start of the pex; about an hour
	@$(BIN)/python benchmarks/cluster.py </dev/null
	@$(BIN)/python benchmarks/big_lists.py </dev/null
	@$(MAKE) pex pex-thin
	@$(BIN)/python benchmarks/pex_start.py "$$PEX_FILE" "$$PEX_THIN_FILE" </dev/null

pex: $(BIN)/python ## build img2dataset.pex, one file with all that is needed but Python (docs/pex.md)
	@$(BUILD_PEX) --output "$$PEX_FILE"

pex-thin: $(BIN)/python ## build img2dataset-thin.pex, without pyspark, for a cluster that has its own
	@$(BUILD_PEX) --output "$$PEX_THIN_FILE" --thin

pex-locks: $(BIN)/python ## choose anew the versions that the pex holds
	@$(BIN)/python deploy/pex/lock.py --cache $(VENV)/pex </dev/null

clean: ## remove all that these targets made
	rm -rf $(VENV) "$$PEX_FILE" "$$PEX_THIN_FILE" demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

venv-tests: $(VENV)/.installed-tests

$(VENV)/.installed: $(PACKAGING) | $(BIN)/python
	@echo "installing the package into $(VENV)"
	@$(PIP) install -qq --editable .
	@touch $@

$(VENV)/.installed-tests: $(PACKAGING) | $(BIN)/python
	@echo "installing the package and what its tests need into $(VENV)"
	@$(PIP) install -qq --editable '.[tests]'
	@$(PIP) install -qq --upgrade --target $(VENV)/spark-3.5 'pyspark==3.5.*'
	@$(install_torch)
	@touch $@ $(VENV)/.installed

# The loader's example is for PyTorch. Where pip would bring gigabytes for graphics cards, it is left out, and its test too.
TORCH := torch==2.13.0
install_torch = would="$$($(PIP) install --dry-run '$(TORCH)' 2>/dev/null || true)"; \
	case "$$would" in \
	*nvidia*|*triton*) echo "no PyTorch for CPUs here: the test of examples/loader_pytorch.py is left out" ;; \
	*"Would install"*torch-*) $(PIP) install -qq '$(TORCH)' || true ;; \
	esac

# Debian ships Python without venv, or without Python at all: then, and only then, install it.
$(BIN)/python:
	@make_venv() { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }; \
	if ! make_venv >/dev/null 2>&1; then \
		$(call deb_install,$(notdir $(PYTHON)) $(notdir $(PYTHON))-venv); \
		make_venv; \
	fi

debs:
	@$(call deb_install,$(DEB_PACKAGES))

# Install these Debian packages, as root or through sudo; nothing happens when all are there. The tests start what they
# need by themselves, so no service of them is to be started: Debian asks policy-rc.d for that (101: no).
define deb_install
missing=""; \
for package in $(1); do \
	dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q ' installed$$' || missing="$$missing $$package"; \
done; \
if [ -n "$$missing" ]; then \
	command -v apt-get >/dev/null || { echo "please install$$missing (there is no apt-get here to do it)" >&2; exit 1; }; \
	root="env"; [ "$$(id -u)" = 0 ] || root="sudo -n env"; \
	root="$$root DEBIAN_FRONTEND=noninteractive"; \
	echo "installing the Debian packages$$missing"; \
	install="apt-get install -y -qq --no-install-recommends $$missing"; \
	policy=/usr/sbin/policy-rc.d; \
	if ! [ -e $$policy ]; then \
		trap "$$root rm -f $$policy" EXIT; \
		$$root sh -c "printf '#!/bin/sh\nexit 101\n' > $$policy && chmod 755 $$policy"; \
	fi; \
	$$root $$install </dev/null >/dev/null 2>&1 || { \
		$$root apt-get update -qq </dev/null; \
		$$root $$install </dev/null >/dev/null; \
	}; \
fi
endef

include deploy/pssh/cluster.mk
