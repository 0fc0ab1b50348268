# The language models of TNN: the published runs, a small real one, and their part of the demo.
#
# A step runs in runs/ROW/ and is recorded. Typed again, a finished step is skipped and an
# interrupted one goes on where it stopped. SMOKE=1 runs the scripts' own small form, on embedded
# text. Perplexities are per byte pair, as published.

TNN-ALM = tnn_v2_decay_99_pre
TNN-BLM = roberta_tnn_v2_decay_99
TNN-WT103 = tnn/data/data-bin/wikitext-103
TNN-WT2 = tnn/data/data-bin/wikitext-2
tnn-run = $(RECORD) run $(1) $(2) $(if $(SMOKE),--smoke,--resume-flag="--restore-file checkpoint_last.pt" --resume-if checkpoints/checkpoint_last.pt) -- env
tnn-step = $(RECORD) run $(1) $(2) $(if $(SMOKE),--smoke) -- env
tnn-finish = $(RECORD) finish $(1) $(2) $(if $(SMOKE),--smoke --into runs/smoke/records)

ifdef SMOKE
tnn-data = data-pydoc
tnn-records = runs/smoke/records
tnn-figures = runs/smoke
TNN-LENGTHS = 64 128 256
tnn-alm-best = DATA_DIR=$(CURDIR)/tnn/data/data-bin/pydoc-small CHECKPOINT=$(CURDIR)/tnn/checkpoints/smoke/$(TNN-ALM)/checkpoint_best.pt
tnn-blm-best = tnn/checkpoints/smoke/$(TNN-BLM)/checkpoint_best.pt
else
tnn-data = data-wt103-bpe
tnn-records = results/records
tnn-figures = results/figures
TNN-LENGTHS = 512 1024 2048 3072 4096 5120 6144 7168 8192 9216 10240 11264 12288 13312 14336
tnn-alm-best = CKPT_DIR=../tnn-alm$(AS-ROW)/checkpoints
tnn-blm-best = runs/tnn-blm$(AS-ROW)/checkpoints/checkpoint_best.pt
endif

.PHONY: data-wt103-bpe data-wt2-bpe data-tnn-smoke
data-wt103-bpe: setup  ## WikiText-103 in GPT-2 byte pairs, for fairseq
	@test -f $(TNN-WT103)/train.idx || { $(PY) -m getdata wt103-raw gpt2-bpe && \
		bash tnn/prepare_lm_data.sh tnn/data/wikitext-103-raw $(TNN-WT103); }
data-wt2-bpe: setup  ## WikiText-2 in GPT-2 byte pairs, for fairseq
	@test -f $(TNN-WT2)/train.idx || { $(PY) -m getdata wt2 gpt2-bpe && \
		DICT=build bash tnn/prepare_lm_data.sh data/wikitext-2 $(TNN-WT2); }
data-tnn-smoke: setup
	@bash -c 'source tnn/environment.sh; smoke_data' > /dev/null

# ---------------------------------------------------------------------------- autoregressive, published
.PHONY: reproduce-tnn-alm reproduce-tnn-extrapolation
reproduce-tnn-alm: setup $(tnn-data)  ## TNN language model, WikiText-103 (23.98 / 24.67)
	$(call tnn-run,tnn-alm,main) $(if $(SMOKE),SMOKE=1,CKPT_DIR=checkpoints) bash tnn/script_alm.sh
	$(call tnn-step,tnn-alm,eval) $(tnn-alm-best) bash tnn/length_extrapolation.sh $(TNN-ALM) $(firstword $(TNN-LENGTHS))
	$(call tnn-finish,tnn-alm,main eval)

reproduce-tnn-extrapolation: reproduce-tnn-alm  ## its perplexity at 512 ... 14336 tokens, and the plot
	for n in $(TNN-LENGTHS); do \
		$(call tnn-step,tnn-extrapolation,length-$$n) $(tnn-alm-best) \
			bash tnn/length_extrapolation.sh $(TNN-ALM) $$n || exit 1; done
	$(call tnn-finish,tnn-extrapolation,$(addprefix length-,$(TNN-LENGTHS)))
	$(PY) tnn/lm/extrapolation.py $(tnn-records)/tnn-extrapolation$(AS-ROW) $(tnn-figures)/tnn-extrapolation$(AS-ROW).png \
		--trained $(firstword $(TNN-LENGTHS))

# ------------------------------------------------------------------------------ bidirectional, and GLUE
.PHONY: reproduce-tnn-blm reproduce-tnn-glue
reproduce-tnn-blm: setup $(tnn-data)  ## bidirectional TNN, WikiText-103 (masked language model)
	$(call tnn-run,tnn-blm,main) $(if $(SMOKE),SMOKE=1,CKPT_DIR=checkpoints) bash tnn/script_blm.sh
	$(call tnn-finish,tnn-blm,main)

TNN-TASKS = $(if $(SMOKE),SST-2,CoLA SST-2 MRPC STS-B QQP MNLI QNLI RTE)
reproduce-tnn-glue: reproduce-tnn-blm  ## GLUE, fine-tuned from it
	for task in $(TNN-TASKS); do \
		$(if $(SMOKE),true,test -f tnn/data/glue-bin/$$task-bin/input0/train.idx || $(PY) tnn/lm/prepare_glue.py $$task) && \
		$(call tnn-step,tnn-glue,$$task) $(if $(SMOKE),SMOKE=1,CKPT_DIR=checkpoints/$$task) \
			bash tnn/script_glue.sh $$task $(CURDIR)/tnn/data/glue-bin/$$task-bin \
			$(CURDIR)/$(tnn-blm-best) || exit 1; done
	$(call tnn-finish,tnn-glue,$(TNN-TASKS))

# ---------------------------------------------------------- a small one, recorded in results/records
TNN-SMALL-LENGTHS = 128 256 512 1024 2048
tnn-small = $(RECORD) run tnn-alm-small $(1) --like tnn-alm --shrunk "WikiText-2 and the byte pairs in it; 3 layers of width 128, 256 tokens, 400 updates of 2048 tokens"
.PHONY: reproduce-tnn-alm-small
reproduce-tnn-alm-small: setup data-wt2-bpe  ## small TNN on WikiText-2, extrapolation, generation (20 min)
	$(call tnn-small,main) --resume-flag="--restore-file checkpoint_last.pt" \
		--resume-if checkpoints/checkpoint_last.pt -- env CKPT_DIR=checkpoints UPDATE_FREQ=1 \
		bash tnn/train_alm.sh 1 $(TNN-ALM) $(CURDIR)/$(TNN-WT2) --decoder-embed-dim 128 \
		--decoder-layers 3 --tokens-per-sample 256 --lr 0.005 --warmup-updates 50 --max-update 400 \
		--save-interval-updates 50 --keep-interval-updates 1 --no-epoch-checkpoints \
		--max-valid-steps 20 --num-workers 0
	for n in $(TNN-SMALL-LENGTHS); do \
		$(call tnn-small,length-$$n) -- env CKPT_DIR=checkpoints DATA_DIR=$(CURDIR)/$(TNN-WT2) \
			bash tnn/length_extrapolation.sh $(TNN-ALM) $$n --num-workers 0 || exit 1; done
	$(call tnn-small,generate) --artifact generated.txt -- tnn/lm/generate.py \
		checkpoints/checkpoint_best.pt --data $(CURDIR)/$(TNN-WT2) --bpe data/gpt2-bpe \
		--prompt " The history of" --tokens 200 --temperature 0.8 --outf generated.txt
	$(RECORD) finish tnn-alm-small main $(addprefix length-,$(TNN-SMALL-LENGTHS)) generate
	$(PY) tnn/lm/extrapolation.py results/records/tnn-alm-small \
		results/figures/tnn-alm-small-length.png --trained 256

# ------------------------------------------------------------------------------------------------ demo
TNN-DEMO = $(call DEMO,tnn-alm,"2 layers of width 64 in place of 7 of 512; 60 updates in place of 50000")
.PHONY: demo-tnn-alm
demo-tnn-alm: data-tnn-smoke  ## the demo's TNN language model alone
	@rm -rf runs/demo/words-tnn
	$(TNN-DEMO) words-tnn main -- env CKPT_DIR=checkpoints UPDATE_FREQ=1 \
		bash tnn/train_alm.sh 1 $(TNN-ALM) $(CURDIR)/tnn/data/data-bin/pydoc-small --decoder-embed-dim 64 \
		--decoder-layers 2 --rpe-layers 1 --tokens-per-sample 64 --max-update 60 --lr 0.005 \
		--warmup-updates 10 --save-interval-updates 20 --keep-interval-updates 1 \
		--no-epoch-checkpoints --num-workers 0
	for n in 64 512; do \
		$(TNN-DEMO) words-tnn length-$$n -- env CKPT_DIR=checkpoints \
			DATA_DIR=$(CURDIR)/tnn/data/data-bin/pydoc-small \
			bash tnn/length_extrapolation.sh $(TNN-ALM) $$n --num-workers 0 || exit 1; done
	$(TNN-DEMO) words-tnn generate --artifact generated.txt -- tnn/lm/generate.py \
		checkpoints/checkpoint_best.pt --data $(CURDIR)/tnn/data/data-bin/pydoc-small \
		--prompt "return the" --tokens 100 --outf generated.txt
