#!/usr/bin/env bash
# Masked language model, 512 sequences of up to 512 tokens an update, 50,000 updates.
#
#   bash train_blm.sh GPUS ARCH DATA_DIR [further flags of fairseq-train]
#   CKPT_DIR     checkpoints  (tnn/checkpoints/roberta/ARCH); a run that was interrupted continues,
#                and a second one at the same time is refused
#   LOG_DIR      what is printed, in ARCH.log  (tnn/logs)
#   BATCH_SIZE   sequences per worker and batch (4); the more a card holds, the fewer batches an
#                update needs: 512 on one large card makes it a single one
#   UPDATE_FREQ  batches per worker and update  (512 / BATCH_SIZE / GPUS)
#
# Recommended for new runs: --mask-padding (tnn/README.md, quirks).
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
usage 'bash train_blm.sh GPUS ARCH DATA_DIR [further flags of fairseq-train]' $# 3
GPUS=$(workers "$1") ARCH=$2 DATA_DIR=$3
shift 3
known_arch "$ARCH"
need_data "$DATA_DIR"
BATCH_SIZE=$(batch_size 4)
UPDATE_FREQ=$(update_freq 512 "$BATCH_SIZE" "$GPUS")
CKPT_DIR=${CKPT_DIR:-$HERE/checkpoints/roberta/$ARCH}

logged "$ARCH" "$PYTHON" -m fairseq_cli.train \
    --user-dir "$HERE/fairseq_plugin" "$DATA_DIR" \
    --save-dir "$CKPT_DIR" \
    --distributed-world-size "$GPUS" \
    --task masked_lm --criterion masked_lm \
    --arch "$ARCH" --sample-break-mode complete --tokens-per-sample 512 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --adam-eps 1e-06 --clip-norm 1.0 \
    --lr-scheduler polynomial_decay --lr 0.0005 --warmup-updates 3000 --total-num-update 50000 \
    --dropout 0.1 --attention-dropout 0.1 --weight-decay 0.2 \
    --batch-size "$BATCH_SIZE" --update-freq "$UPDATE_FREQ" \
    --ddp-backend legacy_ddp --find-unused-parameters \
    --save-interval-updates 1000 \
    --max-update 50000 --log-format simple --log-interval 1 \
    "$@"
