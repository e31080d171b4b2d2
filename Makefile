# Everything a newcomer types. `make` alone lists it.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where an image sets it, each process would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install data run test test-long coverage mutants check format bench bench-gpu clean up down status deploy

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## make .venv and install Ratchet with pinned versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Ratchet needs Python 3.11 or newer; name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (torch and its libraries are about 6 GB; some minutes the first time)"
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@PREFECT_HOME="$(CURDIR)/.prefect" $(BIN)/prefect server database upgrade --yes >/dev/null # takes 15 s, once
	@touch $@

# Fashion-MNIST comes from torchvision's host. Where that does not answer, root on Debian or Ubuntu
# gets it from their archive instead; elsewhere `ratchet train` lists the ways on.
MIRROR := http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz
data: $(STAMP)
	@grep -q '^ *name: FashionMNIST' params.yaml || exit 0; \
	test -d data/downloads/FashionMNIST/raw && exit 0; \
	test -d /usr/share/datasets/fashion-mnist && exit 0; \
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null || exit 0; \
	$(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' $(MIRROR) 2>/dev/null && exit 0; \
	echo "make: $(MIRROR) does not answer; installing Debian's package dataset-fashion-mnist"; \
	apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq dataset-fashion-mnist >/dev/null

run: data  ## train on Fashion-MNIST, from the data to a version in service
	@$(BIN)/ratchet train

# Four workers for two cores: some of them often wait for servers and other processes.
test: $(STAMP)  ## run the tests
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

FOLDERS := cli flows tasks service ratchet $(patsubst %/,%,$(wildcard ratchet/[a-z]*/))
coverage: $(STAMP)  ## branch coverage of each folder by `make test`
	@COVERAGE_FILE="$(CURDIR)/.coverage" $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --cov --cov-report=
	@rm -f .coverage.* # of processes that a test killed
	@for folder in $(FOLDERS); do \
	  printf '%-20s %s %%\n' $$folder "$$($(BIN)/coverage report --format total --include "$$folder/*")"; done

# SEED draws an order, so that SECONDS=600 runs a random slice of ten minutes.
SEED ?= 0
test-long: $(STAMP)  ## run the long tests: kills, soaks, races (a slice of them: SEED=1 SECONDS=600)
	@$(BIN)/python -m pytest -m long --timeout 3600 --seed $(SEED) $(if $(SECONDS),--seconds $(SECONDS))

mutants: $(STAMP)  ## make one mistake at a time in the code: do the tests notice? GROUP=gate SAMPLE=50
	@$(BIN)/python -m tests.mutants $(GROUP) $(FOLDER) --sample $(or $(SAMPLE),50) --seed $(SEED) $(MUTANTS)

check: $(STAMP)  ## style, types and declared dependencies
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/deptry --no-ansi .

format: $(STAMP)  ## put the code into shape
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean:  ## remove what the pipeline made; versions and the DVC cache stay
	@rm -rf data/raw data/prepared data/quarantine.parquet models/*.pt models/*.json reports/* .checkpoints .memo
	@git checkout -q -- reports models data

up: $(STAMP)  ## start a Prefect server on loopback, a worker and the deployments
	@$(BIN)/python -m service.standing up

down: $(STAMP)  ## end them
	@$(BIN)/python -m service.standing down

status: $(STAMP)  ## say what runs
	@$(BIN)/python -m service.standing status

deploy: $(STAMP)  ## register the deployments and automations on a running server
	@$(BIN)/python -m service.standing deploy

bench-gpu: $(STAMP)  ## the training table on a CUDA device
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m benchmarks.training --gpu --write

bench: $(STAMP)  ## what orchestration costs (after `make run`)
	@$(BIN)/python benchmarks/orchestration.py
