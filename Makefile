# Everything here works in a fresh clone with Python >= 3.11 and make: .venv is made, and filled, when first needed.
#   PYTHON=...  the interpreter to build .venv with        EPOCHS=...  how long `make demo` trains
#   ARGS=...    further arguments of the demo or of pytest: make test ARGS="-k graph"

EPOCHS ?= 12
ARGS ?=
export TF_CPP_MIN_LOG_LEVEL ?= 2
# Tests start Python several hundred times: each would compile all modules anew, a quarter of a second.
unexport PYTHONDONTWRITEBYTECODE

SHELL := /bin/sh
RUN := .venv/bin/python
# A driver that answers decides: the CUDA build is several times the download. Asked for only when installing.
FRAMEWORK = $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo tensorflow-cpu)
# pip would compile every module on one core. Where nothing else does, modules are compiled when first imported: few are.
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check --use-pep517 --no-compile
# What a package holds for other versions of Python, or as a template, does not compile, and need not.
COMPILE = $(RUN) -m compileall -qq -j 0 "$$($(RUN) -c "import sysconfig; print(sysconfig.get_path('purelib'))")" || true

.PHONY: help venv demo test test-torch coverage lint bench bench-gpu clean
.DEFAULT_GOAL := help

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

venv: .venv/stamp-demo .venv/stamp-test  ## make .venv with everything that the other targets need

demo: .venv/stamp-demo  ## train a classifier of handwritten digits (12 epochs, some 15 seconds)
	@$(RUN) -m experimentator examples/digits.py --epochs $(EPOCHS) $(ARGS)

# Every check runs whatever those before it said, so that one `make test` tells everything; its last line sums up.
# With ARGS, pytest runs once, in one process, as they say.
test: .venv/stamp-test  ## lint, types, import arrows, and all tests; those of steps once more on JAX
	@$(LINT); \
	if [ -n '$(subst ','\'',$(ARGS))' ]; then check "pytest" $(RUN) -m pytest $(ARGS); else \
	    check "pytest" $(RUN) -m pytest $(APART); \
	    check "pytest, Keras on JAX" env KERAS_BACKEND=jax $(RUN) -m pytest $(APART) $(ON_JAX); \
	fi; $(VERDICT)

# Apart from `test`, as being watched makes tests half as slow again.
coverage: .venv/stamp-test  ## the tests of `make test`, and which lines and branches none of them reaches
	@$(RUN) -m pytest $(APART) --cov --cov-report= && \
	env KERAS_BACKEND=jax $(RUN) -m pytest $(APART) $(ON_JAX) --cov --cov-append --cov-report=term

APART = --numprocesses auto --maxprocesses 4 --dist worksteal
# What compiled steps, the shelf and what it keeps do; all other tests run there as well, when asked to.
ON_JAX = experimentator/ops tests/ops/test_losses.py tests/ops/test_stateful.py \
    $(patsubst %,tests/backends/test_%.py,steps gradients options optimizers processors export buckets remat jax profile)

test-torch: .venv/stamp-torch  ## the tests of steps, and of what PyTorch alone has, on PyTorch (installs it: 1 GB)
	@$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ON_TORCH) $(ARGS)

test-torch: export KERAS_BACKEND = torch
test-torch: export OMP_NUM_THREADS = 1
ON_TORCH = experimentator/ops tests/ops/test_losses.py tests/ops/test_stateful.py tests/ops/test_augment.py \
    $(patsubst %,tests/backends/test_%.py,steps gradients options optimizers processors export buckets remat torch profile)

lint: .venv/stamp-test  ## ruff, import-linter, mypy
	@$(LINT); $(VERDICT)

LINT = failed=; check() { name=$$1; shift; echo "$$name"; "$$@" || failed="$$failed, $$name"; }; \
	quietly() { out=$$("$$@" 2>&1) || { echo "$$out"; return 1; }; }; \
	check "ruff check" $(RUN) -m ruff check --quiet .; \
	check "ruff format" quietly $(RUN) -m ruff format --check .; \
	check "import-linter" quietly $(RUN) -c "$(LINT_IMPORTS)"; \
	check "mypy" $(RUN) -m mypy --no-error-summary
VERDICT = if [ -n "$$failed" ]; then echo "failed: $${failed\#, }"; exit 1; else echo "all checks passed"; fi

# Not .venv/bin/lint-imports: a script's first line cannot hold a path with spaces.
LINT_IMPORTS = import sys; from importlinter.cli import lint_imports_command; sys.argv[1:] = ['--no-logo']; lint_imports_command()

bench: .venv/stamp-bench  ## install the rivals (1 GB), run every benchmark beside them (25 minutes), into benchmarks/results
	@printf '%s\n' benchmarks/[!_]*.py | \
	    xargs -I {} -P $(if $(findstring --quick,$(ARGS)),2,1) sh -c 'echo {}; $(RUN) {} $(ARGS) || exit 255'

# No network and no .venv: what is installed is measured, and what is missing is shown as such.
bench-gpu:  ## on a GPU machine as it is: trainings beside rivals, and what was reached of what was asked, as one page
	@if [ -x $(RUN) ]; then set -- $(RUN); else set -- python3; fi; "$$1" benchmarks/_gpu_report.py $(ARGS)

clean:  ## remove .venv, caches and build folders (trained runs stay)
	@rm -rf .venv build dist *.egg-info .coverage .coverage.* htmlcov .hypothesis
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/stamp-torch: .venv/stamp-test
	@echo "Installing PyTorch into .venv (about 1 GB)"
	@$(INSTALL) -e ".[torch]"
	@$(COMPILE)
	@touch $@

.venv/stamp-bench: .venv/stamp-test
	@echo "Installing the rivals that benchmarks measure into .venv (about 1 GB)"
	@$(INSTALL) -e ".[bench]"
	@$(COMPILE)
	@touch $@

# A stamp is written last, so an interrupted install is simply done again; setup.cfg being newer does it again too.
.venv/stamp-demo: .venv/stamp-python setup.cfg setup.py
	@framework=$(FRAMEWORK); case $$framework in cuda) size="4 GB, 5 to 20" ;; *) size="400 MB, 1 to 5" ;; esac; \
	echo "Installing experimentator and its $$framework extra into .venv (about $$size minutes the first time)"; \
	$(INSTALL) -e ".[examples,$$framework]"
	@touch $@

.venv/stamp-test: .venv/stamp-demo
	@echo "Installing the test tools into .venv (about 100 MB, a minute)"
	@$(INSTALL) -e ".[test]"
	@$(COMPILE)
	@# What defines its format is 2 MB; its dependencies, which serve the page, are 600. In a folder of its own, as pip
	@# would call their lack an error whenever it installs anything beside it.
	@$(INSTALL) --no-deps --upgrade --target .venv/model-explorer ai-edge-model-explorer==0.1.34
	@touch $@

# TensorFlow has wheels for these versions of Python. Candidates are run, not just found: a name on PATH may be a stub.
# A .venv that is already there and works is used as it is; one that was cut short while being made is made again.
.venv/stamp-python:
	@usable='import sys, venv, ensurepip; assert (3, 11) <= sys.version_info[:2] <= (3, 14)'; \
	if [ -z "$(PYTHON)" ] && $(RUN) -c "$$usable; import pip" >/dev/null 2>&1; then touch $@; exit; fi; \
	if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- python3 python3.14 python3.13 python3.12 python3.11 python; fi; \
	for python in "$$@"; do \
	    if "$$python" -c "$$usable" >/dev/null 2>&1; then \
	        echo "Making .venv with $$("$$python" --version)"; \
	        "$$python" -m venv --clear .venv && touch $@; exit; \
	    fi; \
	done; \
	echo "make: needs Python 3.11, 3.12, 3.13 or 3.14 with its venv and ensurepip modules (Debian: python3-venv); tried: $$*." \
	    "Name one with: make PYTHON=/path/to/python" >&2; exit 1
