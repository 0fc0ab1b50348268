# The published image models of TNN, small versions of them, and their part of the demo.
#
# A step runs in runs/ROW/ and is recorded. Typed again, a finished step is skipped and an
# interrupted one goes on where it stopped. ImageNet's train/ and val/ belong in data/imagenet.
# SMOKE=1 makes script_im.sh train and evaluate a small model on digits instead.

im-published = CKPT_DIR=checkpoints DATA=data/imagenet ARCH=$(2) $(RECORD) run $(1) main \
	$(if $(SMOKE),--smoke) --resume-flag=--resume --resume-if checkpoints/checkpoint_last.pth -- \
	bash tnn/script_im.sh --log-dir metrics
im-finish = $(RECORD) finish $(1) main $(if $(SMOKE),--smoke --into runs/smoke/records)

.PHONY: reproduce-tnn-im-tiny reproduce-tnn-im-small
reproduce-tnn-im-tiny: setup $(if $(SMOKE),data-digits)  ## TNN-Tiny, ImageNet-1k, 6.4 M
	$(call im-published,tnn-im-tiny,tnn_vit_e3g1_tiny_rpe_l1_90_prenorm)
	$(call im-finish,tnn-im-tiny)

reproduce-tnn-im-small: setup $(if $(SMOKE),data-digits)  ## TNN-Small, ImageNet-1k, 23.4 M
	$(call im-published,tnn-im-small,tno_vit_e3g1_small_rpe_l1_90_prenorm)
	$(call im-finish,tnn-im-small)

# --------------------------------------------------------- small versions, recorded in results/records
im-small = $(RECORD) run $(1) main --like tnn-im-tiny --shrunk $(2) --resume-flag=--resume \
	--resume-if run/checkpoint_last.pth -- tnn/im/main.py --input-size 32 --num_workers 0 \
	--fp32-resume --clip-grad 5 --no-repeated-aug --mixup 0 --cutmix 0 --output_dir run \
	--log-dir metrics
IM-DIGITS = --data-set DIGITS --data-path data/digits --hflip 0 --aa '' --color-jitter 0 --reprob 0 \
	--arch-options patch_size=8 embed_dim=64 glu_dim=64 depth=3 --batch-size 32 --lr 0.16 \
	--warmup-epochs 1 --warmup-lr 1e-3 --min-lr 1e-4

.PHONY: reproduce-tnn-im-digits-small reproduce-tnn-im-cifar-small
reproduce-tnn-im-digits-small: setup data-digits  ## small model on handwritten digits (2 minutes)
	$(call im-small,tnn-im-digits-small,"3 blocks of width 64 on 1437 digits of 32 x 32 pixels") \
		$(IM-DIGITS) --epochs 40
	$(RECORD) finish tnn-im-digits-small main

reproduce-tnn-im-cifar-small: setup  ## small model on 3,800 images of CIFAR-10 (5 minutes)
	$(PY) -m getdata cifar10-subset
	$(call im-small,tnn-im-cifar-small,"4 blocks of width 96 on 3800 images of CIFAR-10") \
		--data-set CIFAR10 --data-path data/cifar10-subset \
		--arch-options patch_size=4 embed_dim=96 glu_dim=96 depth=4 --batch-size 50 --lr 0.02 \
		--warmup-epochs 2 --warmup-lr 1e-4 --epochs 24
	$(RECORD) finish tnn-im-cifar-small main

# ----------------------------------------------------------------------------------------------- demo
.PHONY: demo-tnn-im
demo-tnn-im: setup data-digits  ## the demo's image model alone
	@rm -rf runs/demo/digits-tnn
	$(call DEMO,tnn-im-tiny,"digits in place of ImageNet; 3 blocks of width 64; 10 epochs") digits-tnn \
		main -- tnn/im/main.py --input-size 32 --num_workers 0 --fp32-resume --clip-grad 5 \
		--no-repeated-aug --mixup 0 --cutmix 0 --output_dir run --log-dir metrics $(IM-DIGITS) \
		--epochs 10
