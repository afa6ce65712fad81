# make demo   see the whole way in a few minutes        make test   lint and all tests
# make model DATA=folder-of-CTs   prepare, train for hours, ship the weights with the bundle
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
OUTPUT ?=

.PHONY: install demo model test lint soak bench bench-gpu docs docs-check

install: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,codecs]'
	touch $@

demo: install
	$(BIN)/python -m ctpa_vqgan demo --output '$(or $(OUTPUT),runs/demo)' $(if $(DATA),--data '$(DATA)')

# prepare ends with 3 where it refused some volumes: the rest is usable
MODEL = $(or $(OUTPUT),runs/model)
model: install
	$(if $(DATA),,$(error make model needs DATA=folder-of-CTs))
	commit=$$(git describe --always --dirty=+ --exclude='*' 2>/dev/null); \
	$(BIN)/python -m ctpa_vqgan prepare '$(DATA)' --output '$(MODEL)/data' || [ $$? -eq 3 ] || exit 1; \
	$(BIN)/python -m ctpa_vqgan train --data '$(MODEL)/data' --output '$(MODEL)' --overlay configs/public_ct.yaml || exit 1; \
	$(BIN)/python benchmarks/shipped_model.py '$(MODEL)' --data '$(MODEL)/data' --trained-at "$$commit" \
		--trained-on "$$($(BIN)/python -c 'import ctpa_vqgan.bundle as b, ctpa_vqgan.provenance as p; \
			print(p.hardware(b.default_device()))')"

# files of tests side by side, one core each, the dear ones of tests/benchmarks first; a fixture is made once, as a file
# stays in one process
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# the site of README and docs, in site/
docs: .venv/.documentation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'look at site/index.html'

.venv/.documentation: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

# the commands of README and docs that make test leaves out (tests/docs/commands.yaml says why), one after another
docs-check: install .venv/.documentation
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/docs/slow_commands.py -vv -r fs --durations=0 --durations-min=1

# long campaigns, less than an hour: faults put into trainings (writes docs/reliability.md), exact tiles over random
# networks and a million codes, memory over long volumes
soak: install
	commit=$$(git describe --always --dirty=+ --exclude='*' 2>/dev/null); \
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability.py --commit "$$commit" --json docs/results/reliability.json
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/exact_tiling.py random --codes 1e6
	$(BIN)/python benchmarks/stream_memory.py

# side by side with rivals, minutes on an idle machine; writes docs/results/*-cpu.json and docs/performance.md
# bench-gpu takes the Python at hand where there is no .venv: its PyTorch has to know the GPU
RUN = PYTHONPATH=. $(or $(wildcard $(BIN)/python),$(PYTHON))
bench: DEVICE := cpu
bench: RUN = PYTHONPATH=. $(BIN)/python
bench: install
bench-gpu: DEVICE := cuda
bench bench-gpu:
	commit=$$(git describe --always --dirty=+ --exclude='*' 2>/dev/null); \
	for name in quantizer training_step reconstruction startup; do \
		$(RUN) benchmarks/$$name.py --device $(DEVICE) --commit "$$commit" \
			--json docs/results/$$name-$(DEVICE).json || exit 1; \
	done; \
	[ $(DEVICE) = cuda ] || $(RUN) benchmarks/patch_memory.py --commit "$$commit" \
		--json docs/results/patch_memory.json || exit 1
	$(RUN) benchmarks/tables.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
