# Everything here runs in the virtual environment that `make setup` builds; VENV= picks another.
# JOBS= says how many processes run the tests side by side.
# The command lines of the reproduce-* targets are the originals', letter for letter.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
RECORD := $(PY) -m report
# A row with a change: make reproduce-awd-ptb AS=wider ARGS="--nhid 1500" (report/change.py).
# To make itself AS is the assembler: only one that was given counts.
export REPORT_AS := $(if $(filter-out default undefined,$(origin AS)),$(AS))
export REPORT_ARGS := $(ARGS)
AS-ROW := $(if $(REPORT_AS),-$(REPORT_AS))
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full test-trust lint bench gpu-check report

help:  ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## /{printf "  %-26s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  SMOKE=1 make reproduce-ROW  the same pipeline, shrunk to about a minute, on embedded text'
	@echo '  make reproduce-ROW AS=NAME ARGS="FLAGS"    the same with further flags, as ROW-NAME'

# ------------------------------------------------------------------------------ environment
setup: $(READY)  ## build the virtual environment (about 3 minutes)

$(READY): pyproject.toml constraints.txt
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make setup PYTHON=python3.11"; exit 2; }
	@$(PY) -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || \
		echo "no fairseq for this Python: TNN's language models need 3.11 or 3.12, all else runs"
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

# ------------------------------------------------------------------------------------- tests
# Two systems at a time, a thread each: networks this small gain nothing from a second thread. Where
# make can (4.0 and later), it prints what a system says once that is done.
DEMOS := demo-awd-lstm demo-tnn-alm demo-trellisnet demo-sparse-seq demo-awd-scratch demo-tnn-im demo-tnn-lra
demo: setup  ## every system trains, evaluates and reports, in minutes, on embedded text
	@OMP_NUM_THREADS=1 $(MAKE) -j 2 $(if $(filter output-sync,$(.FEATURES)),-Otarget) $(DEMOS)
	@$(PY) -m report --html runs/demo/index.html --from runs/demo

test: setup data-pydoc data-digits  ## the test suite (golden numbers, unit, end to end)
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m 'not slow'

test-full: setup data-pydoc data-digits  ## the same and the slow ones (real data, full-size models)
	$(PY) -m pytest

test-trust: setup data-pydoc data-digits  ## kill, damage, split, feed hostile files to every training script (an hour or two)
	TRUST_REPORT=results/trust.md OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal \
		tests/trust --timeout 3600

lint: setup  ## style, obvious mistakes, types of the public signatures, who may import whom
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

bench: setup  ## speed against the plain form, side by side: all that is quoted (results/benchmarks)
	$(PY) benchmarks/awd_lstm_kernels.py
	$(PY) benchmarks/awd_lstm_step.py
	$(PY) benchmarks/awd_lstm_corpus.py --train
	$(PY) benchmarks/awd_lstm_scratch.py --threads 1
	$(PY) benchmarks/trellisnet_step.py
	$(PY) benchmarks/trellisnet_step.py --fir
	$(PY) benchmarks/trellisnet_step.py --checkpoint 8
	$(PY) benchmarks/trellisnet_images.py
	$(PY) benchmarks/sparse_seq.py
	$(PY) benchmarks/precision_speed.py --threads 1 2
	$(PY) benchmarks/tnn_operator.py
	$(PY) benchmarks/tnn_operator.py --cut --lengths 2300 2600 3000 4096 8192 16384
	$(PY) benchmarks/tnn_block.py
	$(PY) benchmarks/tnn_lm.py
	$(PY) benchmarks/tnn_generate.py
	$(PY) benchmarks/tnn_im.py
	$(PY) benchmarks/tnn_im.py --lengths 14 32 64 128
	$(PY) benchmarks/tnn_lra.py
	$(PY) benchmarks/tnn_lra.py --settings yaml

gpu-check: setup  ## what only a GPU can tell, in eight minutes: results/gpu/*.json (exit 2 without one)
	$(PY) benchmarks/gpu_check.py

report: setup  ## results/README.md from the recorded runs
	$(PY) -m report

# -------------------------------------------------------------------------------------- data
.PHONY: data-digits data-mnist data-cifar10 data-pydoc data-ptb data-ptbc data-wt2 data-wt103 data-enwik8 data-trellis-weights data-all
data-pydoc: setup  ## embedded text (words, characters): docstrings of the standard library
	@$(PY) -m getdata pydoc pydoc-char > /dev/null

data-digits: setup  ## embedded images: scikit-learn's handwritten digits
	@$(PY) -m getdata digits > /dev/null

data-mnist: setup  ## MNIST
	$(PY) -m getdata mnist
data-cifar10: setup  ## CIFAR-10
	$(PY) -m getdata cifar10
data-ptb: setup  ## Penn Treebank, words
	$(PY) -m getdata ptb
data-ptbc: setup  ## Penn Treebank, characters
	$(PY) -m getdata ptbc
data-wt2: setup  ## WikiText-2
	$(PY) -m getdata wt2
data-wt103: setup  ## WikiText-103
	$(PY) -m getdata wt103
data-enwik8: setup  ## enwik8 (Hutter Prize)
	$(PY) -m getdata enwik8
data-trellis-weights: setup  ## the weights that TrellisNet's authors released
	$(PY) -m getdata trellis-weights
data-all: setup  ## all five texts of the LSTM/QRNN toolkit
	$(PY) -m getdata

include awd_lstm/reproduce.mk
include awd_lstm/scratch/reproduce.mk
include trellisnet/reproduce.mk
include sparse_seq/reproduce.mk
include tnn/reproduce.mk
include tnn/im/reproduce.mk
include tnn/lra/reproduce.mk
