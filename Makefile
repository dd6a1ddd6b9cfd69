# Two commands on a fresh machine with Python 3.11 or later: `make demo`, `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# uv when it is there (faster), else pip; both install the tested versions of constraints.txt.
UV     := $(shell command -v uv 2>/dev/null)

# The suite on up to four cores; every process computes in one thread, the tests of a file stay in one process.
TEST   := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test check format lint types bench clean
demo: $(VENV)/installed
	$(BIN)/richrep demo

test: $(VENV)/installed
	$(TEST)

# What CI runs: format, lint, types, tests (the import-direction test among them).
check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST)

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[bench]" || uv pip install -q --python $(BIN)/python -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/probe.py
	$(BIN)/python benchmarks/extract.py
	$(BIN)/python benchmarks/engines.py --quick
	$(BIN)/python benchmarks/open_checkpoint.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/sgd_heads.py
	$(BIN)/python benchmarks/scale.py

$(VENV)/installed: pyproject.toml constraints.txt
ifdef UV
	uv venv -q --clear --python $(PYTHON) $(VENV)
	uv pip install -q --python $(BIN)/python -c constraints.txt -e ".[dev]"
else
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
endif
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
