# Each target works alone in a fresh clone: the first one makes the virtual environment.
#   make run [CONFIG=configs/nav2d.yaml] [ARGS="seed=2 iterations=10"]
#   make PYTHON=python3.12 test
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/cheetah_vel.yaml
ARGS ?=
FUZZ_SECONDS ?= 600
ENDURANCE_SECONDS ?= 3600

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GPU_STAMP := $(VENV)/.installed-gpu
SOURCES := $(wildcard metarl/kernels/*.[ch])

.PHONY: run test slow gpu faults ranks fuzz endurance data lint bench install clean
.DEFAULT_GOAL := run

run: $(STAMP)
	$(BIN)/python -m metarl.train $(CONFIG) $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(ARGS)

gpu: $(GPU_STAMP)
	$(BIN)/python -m pytest -m gpu $(ARGS)

faults: $(STAMP)
	$(BIN)/python -m pytest -m faults $(ARGS)

ranks: $(STAMP)
	$(BIN)/python -m pytest -m ranks $(ARGS)

data: $(STAMP)
	$(BIN)/python -m pytest -m data $(ARGS)

fuzz: $(STAMP)
	@for target in config checkpoint record; do \
		$(BIN)/python tests/faults/fuzz.py $$target --seconds $(FUZZ_SECONDS) $(ARGS) || exit 1; \
	done

endurance: $(STAMP)
	$(BIN)/python tests/faults/endurance.py --seconds $(ENDURANCE_SECONDS) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	@for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do \
		echo "$$script" && $(BIN)/python "$$script" $(ARGS) || exit 1; \
	done

install: $(STAMP)

# A virtual environment without pip is what a failed creation leaves behind.
$(STAMP): setup.cfg setup.py pyproject.toml constraints.txt $(SOURCES)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
			echo "metarl needs Python 3.11, 3.12 or 3.13, but '$(PYTHON)' is not one;" \
				"name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(GPU_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,gpu]'
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
