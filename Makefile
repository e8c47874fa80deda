# make demo   virtual environment, install, DP-FedEmb on the built-in synthetic faces
# make test   virtual environment, install, tests
# make check  ruff and mypy
# make test-fast   those of rounds, losses, accounting, evaluation and options, in under 3 minutes
# make test-faults   every fault at every change on the disk (CONTRIBUTING.md says how long)
# make test-docs   the commands of the pages, shortened
VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
WORKDIR ?= runs/demo
CPU_DEVICES ?= 2

FAST := $(wildcard tests/test_*.py) tests/configs tests/evaluation tests/federated tests/figures \
    tests/losses $(patsubst %,tests/privacy/test_%.py, accounting attacker budget claims ledger \
    planning planted_faults statement)

.PHONY: demo test test-fast check test-faults test-docs clean

$(VENV)/installed: requirements.lock setup.py
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(VENV)/installed
	$(RUN) -m experiments.train --config=configs/dp_fedemb.py:synthetic --workdir=$(WORKDIR) \
	    --cpu_devices=$(CPU_DEVICES)

test: $(VENV)/installed
	$(RUN) -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/installed
	$(RUN) -m pytest -n 2 --dist worksteal $(FAST)

test-faults: $(VENV)/installed
	$(RUN) -m tests.faults

test-docs: $(VENV)/installed
	$(RUN) -m tests.docs

check: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
