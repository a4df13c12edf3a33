# Each target sets up what it needs in .venv. PYTHON picks the interpreter, and
# VENV=.venv-3.13 another environment, so that several Pythons can be used in turn.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
WORKDIR ?= runs/enas_rnn_pydoc
# For two cores: a process waits for files and for processes that it starts a sixth of the
# time, in which a third one computes. The tests of a file share what they compile, and so
# stay in one process.
WORKERS ?= 3

.PHONY: search test test-slow lint docs notebooks bench compile-tpu compile-cuda clean

search: $(VENV)/installed
	$(RUN) launch.py --config=configs/enas_rnn_pydoc.py --workdir=$(WORKDIR)

test: $(VENV)/installed
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/installed
	$(RUN) -m pytest -n $(WORKERS) -m slow

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

# The site, in build/docs.
docs: $(VENV)/installed-docs
	JAX_PLATFORMS=cpu $(RUN) -m sphinx --fail-on-warning --keep-going --fresh-env \
	  --builder html docs build/docs

# Those of docs/notebooks, at tiny sizes.
notebooks: $(VENV)/installed
	$(RUN) -m pytest -m "slow or not slow" tests/test_notebooks.py

bench: $(VENV)/installed
	$(RUN) -m benchmarks.run --output=runs/bench.json

# XLA for accelerators that are not at hand, each in an environment of its own.
compile-tpu compile-cuda: compile-%: $(VENV)-%/installed
	$(VENV)-$*/bin/python -m benchmarks.ahead_of_time --platform=$* \
	  --output=runs/compile-$*.json

clean:
	rm -rf $(VENV) $(VENV)-tpu $(VENV)-cuda build/docs

$(VENV)-%/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/pip install --quiet --upgrade pip
	$(VENV)-$*/bin/pip install --quiet --editable '.[$*]'
	@touch $@

# What the site needs beside the tests is small.
$(VENV)/installed-docs: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "wpl_jax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V)." \
	         "Name another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable '.[test,lint]'
	@touch $@
