# PyDistDB: the doors to everything. `make demo` and `make test` set themselves up on a fresh Debian.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test lint bench costs tpch sim soak chaos migrate hot ranges slt fuzz crash clean

help:  ## Say what each target does
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(READY)  ## Make the virtual environment and install PyDistDB into it

$(READY): pyproject.toml tools/setup.sh
	@bash tools/setup.sh $(VENV)
	@touch $@

demo: setup  ## Start a three-node cluster here, load sample data, open the SQL shell
	@$(RUN)/proddb demo

test: setup  ## Run the tests
	@bash tools/system_packages.sh
	@$(RUN)/python -m pytest $(ARGS)

lint: setup  ## Check format, style, types and layers
	@$(RUN)/ruff format --check .
	@$(RUN)/ruff check .
	@$(RUN)/mypy
	@$(RUN)/lint-imports

bench: setup  ## Compare with PostgreSQL 15 on this machine and write docs/benchmarks.md (about 15 minutes)
	@bash tools/system_packages.sh
	@$(RUN)/python -m pydistdb_tools.comparison $(ARGS)

costs: setup  ## Say what planning a statement, and 1,000 rows in binary, cost in CPU time (20 seconds)
	@$(RUN)/python -m tests.sql.costs

tpch: setup  ## Compare TPC-H's queries with PostgreSQL 15 here, into docs/benchmarks.md (SCALE=0.1, ARGS="--nodes 3"; 6 minutes)
	@bash tools/system_packages.sh
	@$(RUN)/python -m tests.tpch --compare --scale $(or $(SCALE),0.1) $(ARGS)

SEED ?= 1
SEEDS ?=
sim: setup  ## Replay one simulation of Raft and one of transactions (SEED=7), or many (SEEDS=0..200)
	@$(RUN)/python -m tests.raft.simulate $(if $(SEEDS),--seeds $(SEEDS),--seed $(SEED)) $(ARGS)
	@PYTHONHASHSEED=0 $(RUN)/python -m tests.kv.simulate $(if $(SEEDS),--seeds $(SEEDS),--seed $(SEED))

soak: setup  ## Simulate thousands of seeds, about two hours (FIRST=0, COUNT=3000; ARGS="--rest 1" is kinder to the machine)
	@$(RUN)/python -m tests.raft.simulate --seeds $(or $(FIRST),0)..$$(( $(or $(FIRST),0) + $(or $(COUNT),3000) - 1 ))
	@PYTHONHASHSEED=0 $(RUN)/python -m tests.kv.simulate \
		--seeds $(or $(FIRST),0)..$$(( $(or $(FIRST),0) + $(or $(COUNT),3000) - 1 )) --go-on $(ARGS)

chaos: setup  ## Kill, stop, cut off and slow down real nodes under load (ARGS="--nemesis kill,loss --seconds 30", --help)
	@$(RUN)/python -m tests.chaos.run $(ARGS)

migrate: setup  ## Kill a node in every phase of ALTER TABLE … SHARD BY, index builds and replica moves (about 20 minutes)
	@$(RUN)/python -m tests.chaos.migrations $(ARGS)

hot: setup  ## Heat a tenth of a shard of a million rows, and see it split and spread by itself (about 4 minutes)
	@$(RUN)/python -m tests.chaos.hot_tenth $(ARGS)

ranges: setup  ## Measure what splits cost those at work, and what 10,000 ranges on a node cost (about 8 minutes)
	@$(RUN)/python -m tests.chaos.many_ranges $(ARGS)

SLT ?= sqllogictest/suites $(wildcard ../shared/slt)
slt: setup  ## Run the sqllogictest suites (SLT=files or folders, ARGS=--url ... for a server that runs already)
	@$(RUN)/proddb slt $(SLT) $(ARGS)

POSTGRES ?= postgresql://postgres@127.0.0.1:5432/postgres
COUNT ?= 2000
fuzz: setup  ## Random statements here and on PostgreSQL 15 (POSTGRES=url, SEED=7, COUNT=2000, ARGS=--url ...)
	@$(RUN)/python -m tests.fuzz --postgres $(POSTGRES) --seed $(SEED) --count $(COUNT) $(ARGS)

crash: setup  ## Kill a writing store at random moments and look whether everything is there (ROUNDS=1000, SEED=1)
	@$(RUN)/python -m tests.storage.crash $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
