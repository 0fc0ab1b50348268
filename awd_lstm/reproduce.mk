# The published runs of the LSTM/QRNN toolkit, and its part of the demo.
#
# A step runs in runs/ROW/, where data/ is the repository's, and is recorded. Typed again, a
# finished step is skipped and an interrupted one continues where it stopped. SMOKE=1 appends settings
# that shrink the run and puts embedded text in place of the data.

awd-run = $(RECORD) run $(1) $(2) $(if $(SMOKE),--smoke) --resume-flag=--resume --resume-if $(3) --
awd-finish = $(RECORD) finish $(1) $(2) $(if $(SMOKE),--smoke --into runs/smoke/records)

ifdef SMOKE
awd-data = data-pydoc
awd-small = --data data/$(1) --emsize 32 --nhid 64 --batch_size 80 --max-steps 60 --log-interval 20
awd-tune = --data data/pydoc --batch_size 80 --max-steps 60 --log-interval 20
awd-point = --data data/pydoc --window 100
else
awd-data = $(1)
endif

.PHONY: demo-awd-lstm
demo-awd-lstm: setup data-pydoc  ## the demo's LSTM and QRNN alone
	@rm -rf runs/demo/words-lstm runs/demo/words-qrnn
	$(call awd-demo,words-lstm,LSTM,--emsize 32 --nhid 96 --nlayers 2 --seed 141,awd-ptb)
	$(call awd-demo,words-qrnn,QRNN,--emsize 32 --nhid 96 --nlayers 3 --wdrop 0.1 --seed 9001,awd-ptb-qrnn)

# $(call DEMO,the row this is a small version of,what is smaller)
DEMO = $(RECORD) run --workdir-root runs/demo --like $(1) --shrunk $(2)
awd-demo-run = $(call DEMO,$(4),"layers of 96 in place of 1150 or 1550; an epoch and one of fine-tuning")
define awd-demo
$(awd-demo-run) $(1) main -- awd_lstm/main.py --model $(2) $(3) --data data/pydoc --batch_size 40 \
	--dropouti 0.2 --dropouth 0.1 --epochs 1 --nonmono 2 --log-interval 10 --save model.pt
$(awd-demo-run) $(1) finetune -- awd_lstm/finetune.py --model $(2) $(3) --data data/pydoc --batch_size 40 \
	--dropouti 0.2 --dropouth 0.1 --epochs 1 --log-interval 10 --save model.pt
$(awd-demo-run) $(1) pointer -- awd_lstm/pointer.py --model $(2) --data data/pydoc --save model.pt \
	--lambdasm 0.1 --theta 1.0 --window 500 --bptt 5000
$(awd-demo-run) $(1) generate --artifact generated.txt -- awd_lstm/generate.py --model $(2) \
	--data data/pydoc --checkpoint model.pt --words 120 --prompt "return the" --top-k 100
endef

# ------------------------------------------------------------------------- Penn Treebank, words
.PHONY: reproduce-awd-ptb
reproduce-awd-ptb: setup $(call awd-data,data-ptb)  ## AWD-LSTM, PTB (58.8 -> 56.5 -> 52.5)
	$(call awd-run,awd-ptb,main,PTB.pt.state) awd_lstm/main.py --batch_size 20 --data data/penn \
		--dropouti 0.4 --dropouth 0.25 --seed 141 --epoch 500 --save PTB.pt \
		$(call awd-small,pydoc)
	$(call awd-run,awd-ptb,finetune,PTB.pt.finetune.state) awd_lstm/finetune.py --batch_size 20 \
		--data data/penn --dropouti 0.4 --dropouth 0.25 --seed 141 --epoch 500 --save PTB.pt \
		$(awd-tune)
	$(call awd-run,awd-ptb,pointer,none) awd_lstm/pointer.py --data data/penn --save PTB.pt \
		--lambdasm 0.1 --theta 1.0 --window 500 --bptt 5000 $(awd-point)
	$(call awd-finish,awd-ptb,main finetune pointer)

.PHONY: reproduce-awd-ptb-qrnn
reproduce-awd-ptb-qrnn: setup $(call awd-data,data-ptb)  ## AWD-QRNN, PTB (58.3 -> 56.7 -> 52.6)
	$(call awd-run,awd-ptb-qrnn,main,PTB.pt.state) awd_lstm/main.py --model QRNN --batch_size 20 \
		--clip 0.2 --wdrop 0.1 --nhid 1550 --nlayers 4 --emsize 400 --dropouth 0.3 --seed 9001 \
		--dropouti 0.4 --epochs 550 --save PTB.pt $(call awd-small,pydoc)
	$(call awd-run,awd-ptb-qrnn,finetune,PTB.pt.finetune.state) awd_lstm/finetune.py --model QRNN \
		--batch_size 20 --clip 0.2 --wdrop 0.1 --nhid 1550 --nlayers 4 --emsize 400 \
		--dropouth 0.3 --seed 404 --dropouti 0.4 --epochs 300 --save PTB.pt $(awd-tune)
	$(call awd-run,awd-ptb-qrnn,pointer,none) awd_lstm/pointer.py --model QRNN --lambdasm 0.1 \
		--theta 1.0 --window 500 --bptt 5000 --save PTB.pt $(awd-point)
	$(call awd-finish,awd-ptb-qrnn,main finetune pointer)

.PHONY: reproduce-awd-ptb-first
reproduce-awd-ptb-first: setup data-ptb  ## its first epoch alone: how a healthy run begins (a quarter of an hour on 2 cores)
	$(RECORD) run awd-ptb-first main --shrunk "the first of 500 epochs, full size" \
		--resume-flag=--resume --resume-if PTB.pt.state -- awd_lstm/main.py --batch_size 20 \
		--data data/penn --dropouti 0.4 --dropouth 0.25 --seed 141 --epochs 1 --save PTB.pt
	$(RECORD) finish awd-ptb-first main

# ------------------------------------------------------------------------------------ WikiText-2
.PHONY: reproduce-awd-wt2
reproduce-awd-wt2: setup $(call awd-data,data-wt2)  ## AWD-LSTM, WikiText-2 (65.6 -> 64.7 -> 50.6)
	$(call awd-run,awd-wt2,main,WT2.pt.state) awd_lstm/main.py --epochs 750 \
		--data data/wikitext-2 --save WT2.pt --dropouth 0.2 --seed 1882 $(call awd-small,pydoc)
	$(call awd-run,awd-wt2,finetune,WT2.pt.finetune.state) awd_lstm/finetune.py --epochs 750 \
		--data data/wikitext-2 --save WT2.pt --dropouth 0.2 --seed 1882 $(awd-tune)
	$(call awd-run,awd-wt2,pointer,none) awd_lstm/pointer.py --save WT2.pt --lambdasm 0.1279 \
		--theta 0.662 --window 3785 --bptt 2000 --data data/wikitext-2 $(awd-point)
	$(call awd-finish,awd-wt2,main finetune pointer)

.PHONY: reproduce-awd-wt2-qrnn
reproduce-awd-wt2-qrnn: setup $(call awd-data,data-wt2)  ## AWD-QRNN, WikiText-2 (66.8 -> 65.9 -> 52.1)
	$(call awd-run,awd-wt2-qrnn,main,WT2.pt.state) awd_lstm/main.py --epochs 500 \
		--data data/wikitext-2 --clip 0.25 --dropouti 0.4 --dropouth 0.2 --nhid 1550 --nlayers 4 \
		--seed 4002 --model QRNN --wdrop 0.1 --batch_size 40 --save WT2.pt $(call awd-small,pydoc)
	$(call awd-run,awd-wt2-qrnn,finetune,WT2.pt.finetune.state) awd_lstm/finetune.py --epochs 500 \
		--data data/wikitext-2 --clip 0.25 --dropouti 0.4 --dropouth 0.2 --nhid 1550 --nlayers 4 \
		--seed 4002 --model QRNN --wdrop 0.1 --batch_size 40 --save WT2.pt $(awd-tune)
	$(call awd-run,awd-wt2-qrnn,pointer,none) awd_lstm/pointer.py --save WT2.pt --model QRNN \
		--lambdasm 0.1279 --theta 0.662 --window 3785 --bptt 2000 --data data/wikitext-2 $(awd-point)
	$(call awd-finish,awd-wt2-qrnn,main finetune pointer)

# ----------------------------------------------------------------------- characters, WikiText-103
.PHONY: reproduce-awd-ptbc
reproduce-awd-ptbc: setup $(call awd-data,data-ptbc)  ## AWD-LSTM, PTB characters (1.175 bpc)
	$(call awd-run,awd-ptbc,main,PTBC.pt.state) awd_lstm/main.py --epochs 500 --nlayers 3 \
		--emsize 200 --nhid 1000 --alpha 0 --beta 0 --dropoute 0 --dropouth 0.25 --dropouti 0.1 \
		--dropout 0.1 --wdrop 0.5 --wdecay 1.2e-6 --bptt 150 --batch_size 128 --optimizer adam \
		--lr 2e-3 --data data/pennchar --save PTBC.pt --when 300 400 $(call awd-small,pydoc-char)
	$(call awd-finish,awd-ptbc,main)

.PHONY: reproduce-awd-enwik8
reproduce-awd-enwik8: setup $(call awd-data,data-enwik8)  ## AWD-LSTM, enwik8 (1.232 bpc)
	$(call awd-run,awd-enwik8,main,ENWIK8.pt.state) awd_lstm/main.py --epochs 50 --nlayers 3 \
		--emsize 400 --nhid 1840 --alpha 0 --beta 0 --dropoute 0 --dropouth 0.1 --dropouti 0.1 \
		--dropout 0.4 --wdrop 0.2 --wdecay 1.2e-6 --bptt 200 --batch_size 128 --optimizer adam \
		--lr 1e-3 --data data/enwik8 --save ENWIK8.pt --when 25 35 $(call awd-small,pydoc-char)
	$(call awd-finish,awd-enwik8,main)

.PHONY: reproduce-awd-wt103
reproduce-awd-wt103: setup $(call awd-data,data-wt103)  ## AWD-QRNN, WikiText-103 (33.0)
	$(call awd-run,awd-wt103,main,WT103.12hr.QRNN.pt.state) awd_lstm/main.py --epochs 14 \
		--nlayers 4 --emsize 400 --nhid 2500 --alpha 0 --beta 0 --dropoute 0 --dropouth 0.1 \
		--dropouti 0.1 --dropout 0.1 --wdrop 0 --wdecay 0 --bptt 140 --batch_size 60 \
		--optimizer adam --lr 1e-3 --data data/wikitext-103 --save WT103.12hr.QRNN.pt --when 12 \
		--model QRNN $(call awd-small,pydoc)
	$(call awd-finish,awd-wt103,main)
