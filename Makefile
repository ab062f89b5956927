PYTHON ?= python3
# One virtual environment for each version of Python.
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))

.PHONY: bench bench-peers chaos demo test

demo: $(VENV)/runtime.stamp
	@$(VENV)/bin/python -m config.demo

test: $(VENV)/tests.stamp
	@$(VENV)/bin/python -m tests.run

# make bench ARGS="--case drain.noop --db postgresql --runs 5"
bench: $(VENV)/tests.stamp
	@$(VENV)/bin/python -m benchmarks $(ARGS)

# make bench-peers ARGS="--peer pgqueuer --case drain.noop pickup --markdown"
bench-peers: $(VENV)/tests.stamp
	@$(VENV)/bin/python -m benchmarks.peers $(ARGS)

# make chaos ARGS="--scenario kill-child half-open --db postgresql --seed 1 2 3"
chaos: $(VENV)/tests.stamp
	@$(VENV)/bin/python -m benchmarks.chaos $(ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime.stamp: requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/tests.stamp: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
