# Everything starts from a bare machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo lab test lint types check bench faults notebooks lock clean

demo: $(READY)  ## the main job on two real experiments, in demo/
	$(BIN)/expnb demo demo

lab: $(READY)  ## JupyterLab in the demo workspace
	@test -d demo || $(BIN)/expnb demo demo
	cd demo && ../$(BIN)/jupyter lab

test: $(READY)  ## the whole test suite; a file stays with one worker, and so do the servers that it starts
	$(BIN)/pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test

bench: $(READY)  ## writes bench/results.json, from which every number in the docs comes
	$(BIN)/python -m bench

faults: $(READY)  ## kills, races and dead servers at full length; writes bench/results.json and docs/reliability.md
	$(BIN)/python -m bench faults

notebooks: $(READY)  ## run the worked examples again and save what they show
	EXPNB_STATIC=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

lock:  ## renew the locks: versions and hashes, no host
	$(BIN)/uv pip compile pyproject.toml --extra dev --override requirements/overrides.txt --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade --quiet -o requirements/lock.txt

clean:
	rm -rf $(VENV) demo build dist

$(READY): requirements/uv.txt requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "expnb needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Write: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "this Python cannot make a virtual environment; on Debian install the package python3-venv."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/lock.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(READY)
