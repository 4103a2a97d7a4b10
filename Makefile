# Every target creates $(VENV) on first use and reuses it until pyproject.toml or constraints.txt changes.
#   make demo        the circuits of the bundled pair, as a report in $(OUT)
#   make trajectory  the circuits of the bundled pair over its training, as a report in $(TRAJECTORY): minutes
#   make test        every test of seconds       make lint     ruff, import-linter and pyright
#   make bench       what attribution costs, as tables: minutes
#   make truth       every method held to circuits that are known: minutes
#   make notebooks   run the notebooks of examples/ anew: needs Chromium       make docs   the documentation, in site/
#   make check-slow  the tests of minutes: SmolLM2-135M, and a report in headless Chromium

PYTHON ?= python3
VENV ?= .venv
STAMP := $(shell date +%Y%m%d-%H%M%S)
OUT := runs/demo-$(STAMP)
TRAJECTORY := runs/trajectory-$(STAMP)

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two processes of one thread each: the test models are too small for threads to pay.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2
QUICK := not slow and not browser
# The notebooks as they are kept, cell by cell; tests/test_notebooks.py holds them to their scripts.
NOTEBOOKS := $(PYTEST) --nbmake --nbmake-timeout 120 $(wildcard examples/*.ipynb)

.PHONY: demo trajectory test lint docs notebooks bench truth check-slow browser
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/mechshift run --pair tiny --quick --tasks ioi,countdown --components 10 --out $(OUT)
	@echo "The report: $(OUT)/report.html"

trajectory: $(INSTALLED)
	$(BIN)/mechshift trajectory pairs/tiny_trajectory/mdm --control pairs/tiny_trajectory/control --out $(TRAJECTORY)
	@echo "The report: $(TRAJECTORY)/report.html"

test: $(INSTALLED)
ifneq ($(wildcard ../shared/.),)
	$(PYTEST) -m "$(QUICK)"
	$(NOTEBOOKS)
else ifeq ($(CI),true)
	@echo "../shared is absent: CI needs it" >&2; exit 1
else
	@echo "../shared is absent: the tests marked 'shared' are left out"
	$(PYTEST) -m "$(QUICK) and not shared"
	$(NOTEBOOKS)
endif

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/mkdocs build --quiet

docs: $(INSTALLED)
	$(BIN)/mkdocs build --quiet

notebooks: $(INSTALLED) browser
	OMP_NUM_THREADS=1 $(BIN)/python examples/build_notebooks.py

bench: $(INSTALLED)
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/python -m benchmarks.attribution
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/python -m benchmarks.accuracy_per_pass

truth: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/mechshift truth

# One process with all threads: SmolLM2 is large enough for them, and tests/conftest.py fetches it once, into a cache.
check-slow: $(INSTALLED) browser
	$(BIN)/pytest -m "slow or browser" --timeout 3600

# Elsewhere than on Debian, put a `chromium` on the PATH.
browser:
	command -v chromium || { apt-get update && apt-get install -y --no-install-recommends chromium; }

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@
