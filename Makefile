# make help lists the targets. STACK=openmmlab takes OpenMMLab's packages instead of onedl's.
STACK ?= onedl
# The first that is there: OpenMMLab's stack is tested where it lives, on Python 3.8.
PYTHON38 := $(firstword $(shell python3.8 -c 'import sys; print(sys.executable)' 2>/dev/null) $(lastword $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.8.*/bin/python)) python3)
ifeq ($(STACK),openmmlab)
PYTHON ?= $(PYTHON38)
else
PYTHON ?= python3
endif
export PYTHON
# The set-up leaves most of the bytecode to the first import, which must keep it.
export PYTHONDONTWRITEBYTECODE :=

ifeq ($(STACK),openmmlab)
VENV := .venv-openmmlab
MMDET := mmdet
else
VENV := .venv
MMDET := onedl-mmdetection
endif

PY := $(VENV)/bin/python
# Tests run beside one another, each process in one thread.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 8 --dist worksteal
MIM := $(PY) -m mim
DEMO := work_dirs/demo
CHESS := studies/configs/retinanet_lite0_fpn_fl-sl1_chess.py
GHM := retinanet_r18_fpn_ghmc-ghmr_demo
.SHELLFLAGS := -eu -c
.PHONY: help env demo figures compatibility docs docs-serve doctor test test-plain test-functional test-slow triton gpu-check lint release-check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

env:  ## build the virtual environment, if it is not there
	@requirements/setup.sh $(STACK) $(VENV)

demo: env  ## compare GHM with focal loss, as it is and clipped, on photographs: a page of results
	PYTHONPATH=. $(PY) -m ghm_mmdet compare $(CHESS) --seeds 1 --jobs 3 --gpus 0 --work-dir $(DEMO) --cfg-options train_cfg.val_interval=100

figures: env  ## train RetinaNet with GHM on generated images, and draw the paper's figures from it
	$(PY) -m studies.demo_data --out $(DEMO)/data
	$(MIM) train $(MMDET) configs/demo/$(GHM).py --gpus 0 --work-dir $(DEMO)/$(GHM)
	$(PY) -m ghm_mmdet figures $(DEMO)/$(GHM)/gradient_density.npz --rows 3 --out $(DEMO)/figures

compatibility: $(VENV)/.tests-ready  ## harmonize every config of MMDetection and MMRotate, and write docs/compatibility.md
	$(PY) -m studies.compatibility run --json work_dirs/compatibility-$(STACK).json
	$(if $(filter onedl,$(STACK)),$(PY) -m studies.compatibility run --mmrotate --json work_dirs/compatibility-mmrotate.json)
	$(PY) -m studies.compatibility report work_dirs/compatibility-*.json --out docs/compatibility.md

docs: .venv-docs/.ready  ## build the documentation site in site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

docs-serve: .venv-docs/.ready  ## serve the documentation site on http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs serve

.venv-docs/.ready: requirements/docs.txt requirements/test.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

$(VENV)/.tests-ready: requirements/build.txt requirements/test.txt requirements/dev.txt requirements/mmrotate.txt | env
	$(PY) -m pip install -q --disable-pip-version-check -r requirements/build.txt -r requirements/test.txt $(if $(filter onedl,$(STACK)),-r requirements/dev.txt)
	$(if $(filter onedl,$(STACK)),$(PY) -m pip install -q --disable-pip-version-check --no-deps -r requirements/mmrotate.txt)
	@touch $@

doctor: env  ## say what is installed, and what is missing
	$(PY) -m ghm_mmdet doctor

test: $(VENV)/.tests-ready  ## run the tests
	$(PYTEST)

test-plain: $(VENV)/.tests-ready  ## run the tests with the plain formula in place of all kernels
	GHM_MMDET_KERNELS=torch $(PYTEST)

test-functional: .venv-functional/.ready $(VENV)/.tests-ready  ## run the tests of the losses with PyTorch alone, the oldest and the newest
	.venv-functional/bin/python -m pytest tests ghm_mmdet/functional ghm_mmdet/losses
	GHM_TESTS_WITHOUT_OPENMMLAB=1 $(PYTEST) tests ghm_mmdet/functional ghm_mmdet/losses

.venv-functional/.ready: requirements/functional.txt requirements/test.txt
	$(PYTHON38) -m venv .venv-functional
	.venv-functional/bin/python -m pip install -q --disable-pip-version-check -r requirements/functional.txt -r requirements/test.txt
	@touch $@

test-slow: $(VENV)/.tests-ready  ## run the tests that take minutes
	$(PYTEST) -m slow

triton: .triton/triton  ## install the Triton of PyTorch's CUDA wheels beside the tests' own

.triton/triton: requirements/triton.txt | env
	$(PY) -m pip install -q --upgrade --target .triton --no-deps -r $<
	@touch $@

gpu-check: $(VENV)/.tests-ready  ## on a GPU: run the CUDA tests and the benchmark, and write a table to send
	$(PY) -m benchmarks.gpu_check --out work_dirs/gpu-check.md

lint: $(VENV)/.tests-ready  ## ruff: style and imports; mypy: types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check --exclude "*.md" .
	$(PY) -m mypy

release-check: $(VENV)/.tests-ready  ## build and check what a release publishes, in dist/
	rm -rf dist build
	$(PY) -m pip install -q --disable-pip-version-check -r requirements/release.txt
	$(PY) -m build >dist.log 2>&1 || { cat dist.log; exit 1; }
	rm dist.log
	$(PY) -m twine check --strict dist/*
	$(PYTEST) tests/test_release.py tests/test_package.py

clean:  ## remove the environments, the site, and what the demo wrote
	rm -rf .venv .venv-openmmlab .venv-functional .venv-docs .triton site dist build work_dirs/demo
