VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
CONSTRAINED := -c constraints.txt
# A worker per core, each with one thread, since workers with threads of their own would take the cores from one another.
# A file stays with one worker, which then builds its fixtures once.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-recordings test-slow test-reliability lint clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make the virtual environment .venv with everything in it (first time: minutes)

# The stamp is written last: an interrupted setup is taken up again by the next `make`.
$(STAMP): pyproject.toml constraints.txt kgdet_d2/install_detectron2.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'make setup: needs Python 3.10 or newer; name one: make setup PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'make setup: $(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv' >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(CONSTRAINED) torch torchvision setuptools
	$(BIN)/python -m pip install $(CONSTRAINED) -e '.[dev]'
	$(BIN)/python tools/install_detectron2.py --constraint constraints.txt
	@touch $@

# Without pretrained weights the demo starts from random ones, by the config that is meant for them.
# It trains on one thread, and reads photos on another core: the layers are too small for two threads to share.
demo: $(STAMP)  ## make a small data set, train on it for a few minutes on CPU, draw the predictions
	$(BIN)/python datasets/make_synthetic.py --train 3000 --workers 2
	$(BIN)/python datasets/prepare_deepfashion2.py --root $${DETECTRON2_DATASETS:-datasets}/synthfashion
	config=configs/sample/kgdet_plus_tiny.yaml; \
	$(BIN)/kgdet fetch-backbone mobilenetv2_100 || { \
		config=configs/sample/kgdet_plus_tiny_scratch.yaml; \
		echo "make demo: no pretrained weights could be had; the model starts from random ones"; \
	}; \
	OMP_NUM_THREADS=1 $(BIN)/python train_net.py --config-file $$config --num-gpus 0 --overwrite OUTPUT_DIR output/demo && \
	$(BIN)/python tools/draw_predictions.py --config-file $$config --output output/demo/figures --max-images 12 \
		MODEL.WEIGHTS output/demo/model_final.pth MODEL.DEVICE cpu MODEL.KGDET.CLASS_AGNOSTIC_NMS_THRESH_TEST 0.7

test: $(STAMP)  ## run the tests
	$(PYTEST)

test-recordings: $(STAMP)  ## run those that need the full recordings of the release, in ../shared
	$(PYTEST) -m 'recordings and not slow'

test-slow: $(STAMP)  ## run the tests that take long
	$(PYTEST) -m slow

# SHARE=0.05 tries a twentieth; TABLE=docs/RELIABILITY.md puts what came of it into that page.
test-reliability: $(STAMP)  ## try what must do no harm: kills, mutated files, full disks; an hour, or SHARE=0.05
	$(PYTEST) -m reliability tests/reliability --reliability-share $(or $(SHARE),1) $(addprefix --reliability-table ,$(TABLE))

lint: $(STAMP)  ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:  ## remove results and caches; .venv and data sets stay
	rm -rf output build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
