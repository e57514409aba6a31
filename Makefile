# make demo: install, and train the classifier on 5,000 real digits.   make test: install, and run the tests.
# make check: lint and types.   make docs: build the documentation into build/docs, in strict mode.
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo test check docs clean

demo: $(VENV)/.demo
	$(VENV)/bin/jaxai train configs/mnist_cnn.py --workdir runs/demo

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest -n 2

check: $(VENV)/.dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: $(VENV)/.docs
	$(VENV)/bin/python -m sphinx -W --keep-going -q docs build/docs

clean:
	rm -rf $(VENV) runs build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip

# One file marks that an extra is installed as pyproject.toml asks for it now.
$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --editable '.[$*]'
	touch $@
