# Needs Python 3.11, make and git; everything else comes from the pinned lock. The report is tested in Debian's
# chromium, driven by its chromium-driver, where these are installed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := .torch

.PHONY: study test browser thorough torch lint bench lock clean

study: $(READY)
	$(BIN)/shrinkage run examples/digits.toml -o runs/digits

# The rooms that run on any backend, also tested on TensorFlow and torch. The others never touch one, or are the
# command line's.
PENALTIES := tests/conformance tests/penalties
TRAINING := tests/training
MODELS := tests/compact tests/recipe tests/test_models.py

TESTS := -m pytest -q -n 3 --dist worksteal
PYTEST := $(BIN)/python $(TESTS)

test: $(READY)
	KERAS_BACKEND=jax $(PYTEST) -m "not thorough" --ignore tests/browser
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not thorough" $(PENALTIES)
	$(BROWSER)

# The report in Chromium. `make test` says so where that is missing; here, as in .ci/run, that is a failure.
BROWSER := KERAS_BACKEND=jax $(BIN)/python -m pytest -q tests/browser

browser: $(READY)
	SHRINKAGE_REQUIRE_BROWSER=1 $(BROWSER)

# More cases of the same, and models and training on TensorFlow, which take some minutes.
thorough: $(READY)
	KERAS_BACKEND=jax $(PYTEST) -m thorough
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not thorough" $(TRAINING)
	KERAS_BACKEND=tensorflow $(PYTEST) $(MODELS)
	KERAS_BACKEND=tensorflow $(PYTEST) -m thorough tests/training/test_proximal.py

# Two threads of torch in each of three processes would be in each other's way.
torch: $(TORCH)/.ready
	OMP_NUM_THREADS=1 KERAS_BACKEND=torch $(TORCH)/bin/python $(TESTS) -m "not thorough" $(PENALTIES) $(TRAINING) \
	  $(MODELS) tests/test_backends.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

bench: $(READY)
	$(BIN)/python benchmarks/penalty_step.py
	$(BIN)/python benchmarks/storing.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/report.py

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# An environment of its own that holds torch and what torch alone needs, and sees .venv for the rest.
$(TORCH)/.ready: $(READY)
	$(BIN)/python -m venv --clear --without-pip $(TORCH)
	echo "import site; site.addsitedir('$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")')" \
	  > "$$($(TORCH)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/venv.pth"
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	touch $@

lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --no-header --no-annotate --generate-hashes --no-emit-index-url --extra dev --python-version 3.11 pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) $(TORCH) runs
