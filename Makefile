# make demo   virtual environment, install, DP-FedEmb on the built-in synthetic faces
# make test   virtual environment, install, tests
# make check  ruff and mypy
VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
WORKDIR ?= runs/demo
CPU_DEVICES ?= 2

.PHONY: demo test check clean

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

check: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
