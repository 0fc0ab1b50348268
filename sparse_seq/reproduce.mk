# The published runs of predefined sparseness, small versions of them, and their part of the demo.
#
# A step runs in runs/ROW/ and is recorded. Typed again, a finished step is skipped and an
# interrupted one goes on where it stopped. SMOKE=1 appends settings that shrink the run and puts
# embedded text in place of the data. The tagger reads the Wall Street Journal part of the Penn
# Treebank where sparse_seq/sequence_labeling/data/ptb holds it, else CoNLL-2000 (a part of it).

SPARSE-LM = sparse_seq/language_modeling
SPARSE-POS = sparse_seq/sequence_labeling
sparse-run = $(RECORD) run $(1) $(2) $(if $(SMOKE),--smoke) --resume-flag=--resume --resume-if $(3) --
sparse-finish = $(RECORD) finish $(1) $(2) $(if $(SMOKE),--smoke --into runs/smoke/records)

ifdef SMOKE
sparse-data = data-pydoc
sparse-small = --data data/pydoc --emsize 40 --nhid 60 --batch_size 80 --max-steps 40 --log-interval 10
sparse-tune = --batch_size 80 --max-steps 40 --log-interval 10
sparse-once = --data data/pydoc --emsize 40 --nhid 60 --batch_size 80 --epochs 1 --log-interval 20
sparse-tag = --data data/tagging --epochs 2 --lr 0.01
else
sparse-data = data-ptb
endif

.PHONY: data-pos data-tagging data-penn-slice
data-pos: setup  ## part-of-speech tags: CoNLL-2000 and Universal Dependencies English
	$(PY) -m getdata pos
data-tagging: setup  ## embedded tagging set: the standard library's tokens and their roles
	@$(PY) -m getdata tagging > /dev/null
data-penn-slice: setup data-ptb
	@mkdir -p runs/penn-slice
	@for split in train valid test; do head -n 1000 data/penn/$$split.txt > runs/penn-slice/$$split.txt; done

# ---------------------------------------------------------------------- Penn Treebank, language model
.PHONY: reproduce-sparse-ptb reproduce-sparse-ptb-dense
reproduce-sparse-ptb-dense: setup $(sparse-data)  ## dense AWD-LSTM, PTB (58.8 -> 56.6)
	$(call sparse-run,sparse-ptb-dense,main,logs/awd-lstm/state.pt) $(SPARSE-LM)/main.py --seed 0 \
		--save logs/awd-lstm $(sparse-small)
	$(call sparse-run,sparse-ptb-dense,finetune,logs/awd-lstm/finetune_state.pt) \
		$(SPARSE-LM)/finetune.py --save logs/awd-lstm $(sparse-tune)
	$(call sparse-finish,sparse-ptb-dense,main finetune)

reproduce-sparse-ptb: setup $(sparse-data)  ## sparse AWD-LSTM, 1725 units, PTB (57.9 -> 57.0)
	$(call sparse-run,sparse-ptb,main,logs/awd-lstm-sparse/state.pt) $(SPARSE-LM)/main.py \
		--sparse_mode sparse_hidden --sparse_fract 0.66666 --nhid 1725 \
		--save logs/awd-lstm-sparse $(sparse-small)
	$(call sparse-run,sparse-ptb,finetune,logs/awd-lstm-sparse/finetune_state.pt) \
		$(SPARSE-LM)/finetune.py --sparse_mode sparse_hidden --sparse_fract 0.66666 --nhid 1725 \
		--save logs/awd-lstm-sparse $(sparse-tune)
	$(call sparse-finish,sparse-ptb,main finetune)

# --------------------------------------------------------------------------------- learning to recite
.PHONY: reproduce-sparse-recite-dense reproduce-sparse-recite-reduced
.PHONY: reproduce-sparse-recite-sparse1 reproduce-sparse-recite-sparse2
reproduce-sparse-recite-dense: setup $(sparse-data)  ## learning to recite, 24.2 M parameters
	$(call sparse-run,sparse-recite-dense,main,logs/awd-lstm-overfit-dense/state.pt) \
		$(SPARSE-LM)/main_overfit.py --save logs/awd-lstm-overfit-dense --epochs 150 --lr 5 \
		$(sparse-once)
	$(call sparse-finish,sparse-recite-dense,main)

reproduce-sparse-recite-reduced: setup $(sparse-data)  ## the same, dense, 7.07 M
	$(call sparse-run,sparse-recite-reduced,main,logs/awd-lstm-overfit-dense_reduced/state.pt) \
		$(SPARSE-LM)/main_overfit.py --save logs/awd-lstm-overfit-dense_reduced --emsize 200 \
		--nhid 575 --epochs 150 --lr 5 $(sparse-once)
	$(call sparse-finish,sparse-recite-reduced,main)

reproduce-sparse-recite-sparse1: setup $(sparse-data)  ## the same, sparse LSTM, 7.07 M
	$(call sparse-run,sparse-recite-sparse1,main,logs/awd-lstm-overfit-sparse1/state.pt) \
		$(SPARSE-LM)/main_overfit.py --save logs/awd-lstm-overfit-sparse1 --emsize 200 \
		--sparse_mode sparse_hidden --sparse_fract 0.5 --epochs 150 --lr 5 $(sparse-once)
	$(call sparse-finish,sparse-recite-sparse1,main)

reproduce-sparse-recite-sparse2: setup $(sparse-data)  ## the same, sparse LSTM and embedding, 7.07 M
	$(call sparse-run,sparse-recite-sparse2,main,logs/awd-lstm-overfit-sparse2/state.pt) \
		$(SPARSE-LM)/main_overfit.py --save logs/awd-lstm-overfit-sparse2 --emblocks 10 \
		--emdensity 0.5 --sparse_mode sparse_all --sparse_fract 0.5 --epochs 150 --lr 5 \
		$(sparse-once)
	$(call sparse-finish,sparse-recite-sparse2,main)

# ------------------------------------------------------------------------------ part-of-speech tagging
POS-DATA = $(if $(SMOKE),data-tagging,data-pos)
POS-NOTE = $(if $(wildcard $(SPARSE-POS)/data/ptb/wsj_train.conll),,--shrunk "CoNLL-2000 instead of the whole Wall Street Journal part")
pos-run = $(RECORD) run $(1) main $(if $(SMOKE),--smoke,$(POS-NOTE)) --resume-flag=--resume --resume-if $(2)/state.pt --

.PHONY: reproduce-sparse-pos-dense reproduce-sparse-pos-sparse reproduce-sparse-pos-down
.PHONY: reproduce-sparse-pos-figure
reproduce-sparse-pos-dense: setup $(POS-DATA)  ## tagger, dense embedding of 5 (94.8 %)
	$(call pos-run,sparse-pos-dense,logs/pos_dense) $(SPARSE-POS)/main.py --emsize 5 --nhid 10 \
		--epochs 50 --dropouti 0.2 --wdrop 0.2 --save logs/pos_dense $(sparse-tag)
	$(call sparse-finish,sparse-pos-dense,main)

reproduce-sparse-pos-sparse: setup $(POS-DATA)  ## tagger, sparse embedding, same parameters (96.1 %)
	$(call pos-run,sparse-pos-sparse,logs/pos_sparse) $(SPARSE-POS)/main.py --emsize 20 \
		--emb_density 0.25 --emb_blocks 20 --nhid 10 --epochs 50 --dropouti 0.2 --wdrop 0.2 \
		--save logs/pos_sparse $(sparse-tag)
	$(call sparse-finish,sparse-pos-sparse,main)

reproduce-sparse-pos-down: setup $(POS-DATA)  ## tagger, the vocabulary the wrong way round
	$(call pos-run,sparse-pos-down,logs/pos_sparse_vocab_down) $(SPARSE-POS)/main.py --emsize 20 \
		--emb_density 0.25 --emb_blocks 20 --nhid 10 --epochs 50 --dropouti 0.2 --wdrop 0.2 \
		--vocab_order down --save logs/pos_sparse_vocab_down $(sparse-tag)
	$(call sparse-finish,sparse-pos-down,main)

reproduce-sparse-pos-figure: setup data-pos  ## Figure 3 on CoNLL-2000: the grid (hours), the plot
	$(PY) $(SPARSE-POS)/figure.py

# --------------------------------------------------------- small versions, recorded in results/records
SMALL-LM = --data data/penn --emsize 32 --nlayers 3 --batch_size 40 --epochs 3 --seed 0 \
	--dropout 0.2 --dropouth 0.1 --dropouti 0.2 --dropoute 0 --wdrop 0.2 --log-dir metrics
SMALL-RECITE = --data ../penn-slice --epochs 60 --lr 5 --bptt 35 --log-dir metrics
small-run = $(RECORD) run $(1)-small main --shrunk $(2) --resume-flag=--resume --resume-if run/state.pt --

.PHONY: reproduce-sparse-ptb-small reproduce-sparse-recite-small
reproduce-sparse-ptb-small: setup data-ptb  ## dense and sparse at equal size, PTB, 3 epochs
	$(call small-run,sparse-ptb-dense,"32 -> 96 -> 96 -> 32 and 3 epochs") $(SPARSE-LM)/main.py \
		--nhid 96 $(SMALL-LM) --save run
	$(call small-run,sparse-ptb,"32 -> 144 -> 144 -> 32 and 3 epochs") $(SPARSE-LM)/main.py \
		--nhid 144 --sparse_mode sparse_hidden --sparse_fract 0.66666 $(SMALL-LM) --save run
	$(RECORD) finish sparse-ptb-dense-small main
	$(RECORD) finish sparse-ptb-small main

SLICE = "sizes / 8, the first 1000 lines of PTB, 60 epochs"
reproduce-sparse-recite-small: setup data-penn-slice  ## learning to recite 1000 lines of PTB
	$(call small-run,sparse-recite-dense,$(SLICE)) $(SPARSE-LM)/main_overfit.py --emsize 50 \
		--nhid 144 $(SMALL-RECITE) --save run
	$(call small-run,sparse-recite-reduced,$(SLICE)) $(SPARSE-LM)/main_overfit.py --emsize 25 \
		--nhid 72 $(SMALL-RECITE) --save run
	$(call small-run,sparse-recite-sparse1,$(SLICE)) $(SPARSE-LM)/main_overfit.py --emsize 25 \
		--nhid 144 --sparse_mode sparse_hidden --sparse_fract 0.5 $(SMALL-RECITE) --save run
	$(call small-run,sparse-recite-sparse2,$(SLICE)) $(SPARSE-LM)/main_overfit.py --emsize 50 \
		--nhid 144 --emblocks 10 --emdensity 0.5 --sparse_mode sparse_all --sparse_fract 0.5 \
		$(SMALL-RECITE) --save run
	for size in dense reduced sparse1 sparse2; do \
		$(RECORD) finish sparse-recite-$$size-small main || exit 1; done

# ----------------------------------------------------------------------------------------------- demo
.PHONY: demo-sparse-seq
demo-sparse-seq: setup data-pydoc data-tagging  ## the demo's sparse language model and tagger alone
	@rm -rf runs/demo/words-sparse runs/demo/tags-dense runs/demo/tags-sparse
	$(sparse-demo) words-sparse main -- $(SPARSE-LM)/main.py --sparse_mode sparse_hidden \
		--sparse_fract 0.66666 --nhid 96 $(DEMO-LM) --epochs 1
	$(sparse-demo) words-sparse finetune -- $(SPARSE-LM)/finetune.py $(DEMO-LM) --epochs 1
	$(call tags-demo,dense) tags-dense main -- $(SPARSE-POS)/main.py --emsize 5 $(DEMO-POS)
	$(call tags-demo,sparse) tags-sparse main -- $(SPARSE-POS)/main.py --emsize 20 --emb_density 0.25 \
		--emb_blocks 20 $(DEMO-POS)
sparse-demo = $(call DEMO,sparse-ptb,"96 units in place of 1725; 1 epoch and 1 of fine-tuning")
tags-demo = $(call DEMO,sparse-pos-$(1),"another text and other tags; 3 epochs in place of 50")
DEMO-LM = --data data/pydoc --emsize 48 --batch_size 80 --dropouti 0.2 --dropouth 0.1 --wdrop 0.2 \
	--seed 0 --log-interval 5 --save run
DEMO-POS = --data data/tagging --nhid 10 --epochs 3 --lr 0.01 --dropouti 0.2 --wdrop 0.2 --save run
