# make demo: install what the main job needs, run it on the embedded default, make a gallery of what it
# was evaluated on, say where to look.
# make installed: install what the tests need.
# make test: install what the tests need; lint, type check and tests in parallel.
# make test-all: the tests of minutes too, and exact ties, kills and 8 devices with XLA's own settings.
# make bench: install the peers of the benchmarks, and measure beside them (half an hour on 2 cores).
# make docs: install what the site needs; build it into site/ and check its links.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The checkout goes on Python's path: otherwise Python takes the folder of a clone called lafg_jax for
# the package where a script in the folder above it imports that.
EDITABLE := --config-settings editable_mode=compat -e
NEEDS := setup.py pyproject.toml constraints.txt

.PHONY: demo installed test test-all bench docs clean

demo: $(VENV)/.demo
	$(BIN)/python -m lafg_jax.main --config configs/synthetic.py --workdir runs/demo
	$(BIN)/python -m lafg_jax.finches.files --classes=unseen --out=runs/demo/finches --table=runs/demo/finches/images.csv
	$(BIN)/python -m lafg_jax.search index --model=runs/demo --images=runs/demo/finches/images.csv --gallery=runs/demo/finches.db
	@echo "Open runs/demo/report.html, or see what was found in runs/demo/retrieval.png"
	@echo "Search the finches in a browser: $(BIN)/python -m lafg_jax.demo --gallery=runs/demo/finches.db"

installed: $(VENV)/.test

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal -q -m "not long"

test-all: $(VENV)/.test
	$(BIN)/pytest -n 2 --dist worksteal -q
	LAFG_XLA_DEFAULTS=1 $(BIN)/pytest -n 2 --dist worksteal -q tests/evaluate tests/faults/test_kill.py tests/training/test_step.py tests/training/test_objective.py

# One word a script; a flag goes behind a colon.
BENCHES ?= train_step embed knn knn:--size=sop knn:--size=million single_query startup scaling profile_step memory
# Such as --rounds=1.
BENCH_FLAGS ?=

bench: $(VENV)/.bench
	for name in $(BENCHES); do \
	  script=$${name%%:*}; flags=$${name#$$script}; flags=$${flags#:}; \
	  case $$script in profile_step|memory) ;; *) flags="$$flags $(BENCH_FLAGS)" ;; esac; \
	  echo; echo "== benchmarks/$$script.py $$flags"; $(BIN)/python benchmarks/$$script.py $$flags || exit 1; \
	done
	$(BIN)/python benchmarks/plots.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Look at it with: $(BIN)/python -m http.server --directory site --bind 127.0.0.1"

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit("lafg_jax needs Python 3.11.4 or newer; pass PYTHON=python3.11" if sys.version_info < (3, 11, 4) else 0)'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.python $(NEEDS)
	@echo "Installing into $(VENV): one minute or more, and quiet"
	$(PIP) $(EDITABLE) '.[language,faiss,demo]'
	touch $@

# Tests compare with timm. It asks for torchvision, which has no CPU build to match; they do not.
# Of some 22,000 modules the tests import a few thousand: Python compiles those when it does.
$(VENV)/.test: $(VENV)/.python $(NEEDS)
	$(PIP) --no-compile $(EDITABLE) '.[dev]'
	$(PIP) --no-compile --no-deps timm
	touch $@

$(VENV)/.bench: $(VENV)/.python $(NEEDS)
	$(PIP) $(EDITABLE) '.[bench]'
	$(PIP) --no-deps timm
	touch $@

$(VENV)/.docs: $(VENV)/.python $(NEEDS)
	$(PIP) $(EDITABLE) '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) runs/demo site
