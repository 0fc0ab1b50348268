# The readable AWD-LSTM: the paper's run, the experiments about the published code, the demo.
#
# awd-scratch-ptb is the seed's `python main.py`, then the fine-tuning and the cache that it lacked.

ifdef SMOKE
awd-scratch-small = --data data/pydoc --emsize 32 --nhid 64 --batch_size 40 --train_rows 200 \
	--max-steps 60 --log-interval 20
awd-scratch-point = --data data/pydoc --window 100
else
awd-scratch-small = --data data/penn
awd-scratch-point = --data data/penn
endif
awd-scratch-main = awd_lstm/scratch/main.py

.PHONY: reproduce-awd-scratch-ptb
reproduce-awd-scratch-ptb: setup $(call awd-data,data-ptb)  ## the readable AWD-LSTM, PTB (61.2 -> 58.8 -> 53.2)
	$(call awd-run,awd-scratch-ptb,main,PTB.pt.state) $(awd-scratch-main) --log-dir logs \
		--save PTB.pt $(awd-scratch-small)
	$(call awd-run,awd-scratch-ptb,finetune,PTB.pt.finetune.state) $(awd-scratch-main) \
		--log-dir logs --finetune --save PTB.pt $(awd-scratch-small)
	$(call awd-run,awd-scratch-ptb,pointer,none) $(awd-scratch-main) --pointer --save PTB.pt \
		$(awd-scratch-point)
	$(call awd-finish,awd-scratch-ptb,main finetune pointer)

.PHONY: reproduce-awd-scratch-published
reproduce-awd-scratch-published: setup $(call awd-data,data-ptb)  ## the published from-scratch code as it was (91.0)
	$(call awd-run,awd-scratch-ptb-as-published,main,PTB.pt.state) $(awd-scratch-main) \
		--as-published --log-dir logs --save PTB.pt $(awd-scratch-small)
	$(call awd-finish,awd-scratch-ptb-as-published,main)

.PHONY: reproduce-awd-scratch-ablation reproduce-awd-scratch-parity
reproduce-awd-scratch-ablation: setup data-ptb  ## what explains 91.0, one cause at a time (45 minutes, CPU)
	$(PY) awd_lstm/scratch/study/ablation.py causes $(if $(SMOKE),--smoke)
reproduce-awd-scratch-parity: setup data-ptb  ## the readable AWD-LSTM beside awd_lstm/main.py (10 minutes, CPU)
	$(PY) awd_lstm/scratch/study/ablation.py parity $(if $(SMOKE),--smoke)

.PHONY: demo-awd-scratch
demo-awd-scratch: setup data-pydoc  ## the demo's readable AWD-LSTM alone
	@rm -rf runs/demo/words-readable
	$(call awd-scratch-demo,main) --epochs 1
	$(call awd-scratch-demo,finetune) --finetune --epochs 1

awd-scratch-demo = $(call DEMO,awd-scratch-ptb,"2 layers of 64 in place of 3 of 1150; an epoch and one of \
fine-tuning") words-readable $(1) -- $(awd-scratch-main) --data data/pydoc \
	--emsize 32 --nhid 64 --nlayers 2 --batch_size 80 --train_rows 100 --log-interval 5 \
	--log-dir logs --save model.pt

environment.yml: pyproject.toml awd_lstm/scratch/study/conda.py  # for conda users
	$(PY) awd_lstm/scratch/study/conda.py
