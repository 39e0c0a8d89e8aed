# `make` lists the targets. VENV=/path uses a virtual environment of yours, which `make install` alone changes.

PYTHON3 ?= $(shell command -v python3.11 || command -v python3)
ifeq ($(origin VENV), undefined)
VENV := .venv
INSTALLED := $(VENV)/.installed
endif
PYTHON := $(VENV)/bin/python
export PATH := $(abspath $(VENV))/bin:$(PATH)

TABLES := tomato pandemic glucose traffic

.DEFAULT_GOAL := help
.PHONY: help install test test-slurm lint demo demo-rlhf demo-rer demo-morlaif demo-interpret smoke bench clean $(addprefix reproduce-,$(TABLES))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv if there is none, and install rhtool with the extras rl, lm, rer, traffic, interpret, grids, slurm, dev and track in it

# Debian's python3 may come without ensurepip: then its own pip installs the venv's.
$(PYTHON):
	$(PYTHON3) -m venv $(VENV) || { $(PYTHON3) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON3) -m pip --python $(PYTHON) install pip; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(PYTHON)
	$(PYTHON) -m pip install -c constraints.txt torch==2.13.0
	DS_BUILD_OPS=0 $(PYTHON) -m pip install -c constraints.txt -e '.[rl,lm,rer,traffic,interpret,grids,slurm,dev,track]'
	@touch $@

test: $(INSTALLED) ## the tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 3 --dist worksteal

test-slurm: $(INSTALLED) ## the tests that need a SLURM, on one of a single node that is brought up for them (Debian, root)
	bash scripts/slurm/one_node.sh install
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m slurm

lint: $(INSTALLED) ## the style of the source
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

demo: $(INSTALLED) ## a policy that hacks its reward, and one that is kept from it, in a few minutes
	bash scripts/demo.sh

demo-rlhf: $(INSTALLED) ## the same of a language model: RLHF on a small generated language, in under twenty minutes
	bash scripts/demo_rlhf.sh

demo-rer: $(INSTALLED) ## rewards of features that one can read: one that is hacked, and one that is not; about five minutes
	bash scripts/demo_rer.sh

demo-morlaif: $(INSTALLED) ## principles, their models, their weights, and policies under seven ways to combine them; about eight minutes
	bash scripts/demo_morlaif.sh

demo-interpret: $(INSTALLED) ## what hacked rewards pay for that the true ones do not, in reports of one page each; about five minutes
	bash scripts/demo_interpret.sh

smoke: $(INSTALLED) ## one tiny run of each kind
	$(PYTHON) -m rhtool task=doctor
	$(PYTHON) -m rhtool task=orpo env=tomato divergence=sqrt_chi2 scale=smoke -m coeff=0,0.1

bench: $(INSTALLED) ## every speed that the documentation states
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; OMP_NUM_THREADS=1 $(PYTHON) $$file; done

reproduce-tomato: ## the paper's table (docs/reproductions.md): hours; stop it at any time, repeated it goes on. JOBS=2 processes
reproduce-pandemic: ## likewise
reproduce-glucose: ## likewise
reproduce-traffic: ## likewise
$(addprefix reproduce-,$(TABLES)): reproduce-%: $(INSTALLED)
	bash scripts/reproduce/correlated_proxies.sh $* $(or $(JOBS),2)

clean: ## remove what building and testing left; outputs/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find rhtool tests -name __pycache__ -type d -exec rm -rf {} +
