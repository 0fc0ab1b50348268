# The published runs of TrellisNet, and its part of the demo. See awd_lstm/reproduce.mk for how a
# step is run, recorded and resumed; SMOKE=1 appends settings that shrink it.

trellis-run = $(RECORD) run $(1) main $(if $(SMOKE),--smoke) --resume-flag=--resume \
	--resume-if $(2).pt.state --
trellis-finish = $(RECORD) finish $(1) main $(if $(SMOKE),--smoke --into runs/smoke/records)

ifdef SMOKE
trellis-data = data-pydoc
trellis-images = data-digits
trellis-small = --emsize 32 --nout 32 --nhid 48 --nlevels 8 --horizon 8 --aux_freq 4 \
	--max-steps 40 --log-interval 10
trellis-digits = --data data/digits --nhid 24 --nlevels 6 --dilation 1 1 2 4 8 16 --epochs 3 \
	--log-interval 10
else
trellis-data = $(1)
trellis-images = $(1)
endif

.PHONY: demo-trellisnet
demo-trellisnet: setup data-pydoc data-digits  ## the demo's TrellisNet alone
	@rm -rf runs/demo/words-trellisnet runs/demo/digits-trellisnet
	$(trellis-demo) words-trellisnet main -- trellisnet/word_PTB/word_ptb.py --data data/pydoc --emsize 32 \
		--nout 32 --nhid 64 --nlevels 6 --horizon 6 --seq_len 70 --batch_size 32 --aux_freq 8 \
		--dropout 0.2 --dropouti 0.2 --wdrop 0.2 --dropouth 0.1 --epochs 1 --log-interval 10
	$(trellis-demo) words-trellisnet generate --artifact generated.txt -- trellisnet/generate.py \
		--load Trellis_wordPTB.pt --data data/pydoc --words 100 --prompt "return the" --top-k 100 \
		--outf generated.txt
	$(call DEMO,trellis-smnist,"digits of 8 x 8 pixels in place of 28 x 28; 40 channels and 7 levels") \
		digits-trellisnet main -- trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py \
		--data data/digits --no-permute --nhid 40 --nlevels 7 --dilation 1 1 2 4 8 16 32 \
		--lr 1e-2 --dropout 0 --dropouti 0.1 --epochs 12 --log-interval 10
	$(call DEMO,trellis-smnist,"digits of 8 x 8 pixels in place of 28 x 28; 40 channels and 7 levels") \
		digits-trellisnet predict --artifact predictions.txt -- \
		trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py --data data/digits --no-permute --eval \
		--load Trellis_seqMNIST_CIFAR.pt --predictions predictions.txt

trellis-demo = $(call DEMO,trellis-ptb,"64 channels and 6 levels in place of 1000 and 58; 1 epoch")

.PHONY: reproduce-trellis-ptb
reproduce-trellis-ptb: setup $(call trellis-data,data-ptb)  ## TrellisNet, PTB (57.0)
	$(call trellis-run,trellis-ptb,Trellis_wordPTB) trellisnet/word_PTB/word_ptb.py \
		$(if $(SMOKE),--data data/pydoc --seq_len 24 $(trellis-small))
	$(call trellis-finish,trellis-ptb)

.PHONY: reproduce-trellis-ptb-mos
reproduce-trellis-ptb-mos: setup $(call trellis-data,data-ptb)  ## with a mixture of softmaxes (54.19)
	$(call trellis-run,trellis-ptb-mos,Trellis_wordPTB) trellisnet/word_PTB/word_ptb.py \
		--n_experts 15 $(if $(SMOKE),--data data/pydoc --seq_len 24 --n_experts 3 $(trellis-small))
	$(call trellis-finish,trellis-ptb-mos)

.PHONY: reproduce-trellis-wt103
reproduce-trellis-wt103: setup $(call trellis-data,data-wt103)  ## TrellisNet, WikiText-103 (29.19)
	$(call trellis-run,trellis-wt103,Trellis_wordWT103) trellisnet/word_WT103/word_wt103.py \
		$(if $(SMOKE),--data data/pydoc --splits 1000 4000 $(trellis-small))
	$(call trellis-finish,trellis-wt103)

.PHONY: reproduce-trellis-ptbc
reproduce-trellis-ptbc: setup $(call trellis-data,data-ptb)  ## TrellisNet, PTB characters (1.16 bpc)
	$(call trellis-run,trellis-ptbc,Trellis_charPTB) trellisnet/char_PTB/char_ptb.py \
		$(if $(SMOKE),--data data --dataset pydoc $(trellis-small))
	$(call trellis-finish,trellis-ptbc)

.PHONY: reproduce-trellis-smnist
reproduce-trellis-smnist: setup $(call trellis-images,data-mnist)  ## sequential MNIST (99.20 %)
	$(call trellis-run,trellis-smnist,Trellis_seqMNIST_CIFAR) \
		trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py --no-permute $(trellis-digits)
	$(call trellis-finish,trellis-smnist)

.PHONY: reproduce-trellis-pmnist
reproduce-trellis-pmnist: setup $(call trellis-images,data-mnist)  ## permuted MNIST (98.13 %)
	$(call trellis-run,trellis-pmnist,Trellis_seqMNIST_CIFAR) \
		trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py $(trellis-digits)
	$(call trellis-finish,trellis-pmnist)

.PHONY: reproduce-trellis-scifar
reproduce-trellis-scifar: setup $(call trellis-images,data-cifar10)  ## sequential CIFAR-10 (73.42 %)
	$(call trellis-run,trellis-scifar,Trellis_seqMNIST_CIFAR) \
		trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py --cifar --no-permute $(trellis-digits)
	$(call trellis-finish,trellis-scifar)

# The released weights, which the row's default flags fit: what the row ends with, without training.
trellis-pretrained = $(RECORD) run $(1)-pretrained eval --like $(1) \
	--shrunk "pretrained, evaluated here" --
trellis-evaluated = $(RECORD) finish $(1)-pretrained eval

.PHONY: pretrained-trellis-ptb
pretrained-trellis-ptb: setup data-ptb data-trellis-weights  ## the released TrellisNet on PTB, evaluated here
	$(call trellis-pretrained,trellis-ptb) trellisnet/word_PTB/word_ptb.py \
		--load_weight data/trellis-weights/trellisnet_ptb.pkl --eval
	$(call trellis-evaluated,trellis-ptb)

.PHONY: pretrained-trellis-ptbc
pretrained-trellis-ptbc: setup data-ptb data-trellis-weights  ## the same, PTB characters
	$(call trellis-pretrained,trellis-ptbc) trellisnet/char_PTB/char_ptb.py \
		--load_weight data/trellis-weights/trellisnet_ptbc.pkl --eval
	$(call trellis-evaluated,trellis-ptbc)
