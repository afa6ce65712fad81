# make demo   see the whole way in a few minutes        make test   lint and all tests
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
OUTPUT ?= runs/demo

.PHONY: install demo test lint soak

install: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: install
	$(BIN)/python -m ctpa_vqgan demo --output '$(OUTPUT)' $(if $(DATA),--data '$(DATA)')

test: lint
	$(BIN)/python -m pytest

# long campaigns: exact tiles over random networks and a million codes, memory over long volumes
soak: install
	$(BIN)/python benchmarks/exact_tiling.py random --codes 1e6
	$(BIN)/python benchmarks/stream_memory.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
