#!/usr/bin/env bash
# Autoregressive language model, 128 sequences of 512 tokens an update, 50,000 updates.
#
#   bash train_alm.sh GPUS ARCH DATA_DIR [further flags of fairseq-train]
#   CKPT_DIR     checkpoints  (tnn/checkpoints/lm/ARCH); a run that was interrupted continues,
#                and a second one at the same time is refused
#   LOG_DIR      what is printed, in ARCH.log  (tnn/logs)
#   BATCH_SIZE   sequences per worker and batch (8); the more a card holds, the fewer batches an
#                update needs: 128 on one large card makes it a single one
#   UPDATE_FREQ  batches per worker and update  (128 / BATCH_SIZE / GPUS)
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
usage 'bash train_alm.sh GPUS ARCH DATA_DIR [further flags of fairseq-train]' $# 3
GPUS=$(workers "$1") ARCH=$2 DATA_DIR=$3
shift 3
known_arch "$ARCH"
need_data "$DATA_DIR"
BATCH_SIZE=$(batch_size 8)
UPDATE_FREQ=$(update_freq 128 "$BATCH_SIZE" "$GPUS")
CKPT_DIR=${CKPT_DIR:-$HERE/checkpoints/lm/$ARCH}

logged "$ARCH" "$PYTHON" -m fairseq_cli.train --user-dir "$HERE/fairseq_plugin" \
    --task language_modeling "$DATA_DIR" \
    --save-dir "$CKPT_DIR" \
    --distributed-world-size "$GPUS" \
    --arch "$ARCH" --share-decoder-input-output-embed \
    --dropout 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --weight-decay 0.2 --clip-norm 1.0 \
    --lr 0.0005 --lr-scheduler inverse_sqrt --warmup-updates 4000 --warmup-init-lr 1e-07 \
    --tokens-per-sample 512 --sample-break-mode none \
    --batch-size "$BATCH_SIZE" --max-tokens "$((512 * BATCH_SIZE))" --update-freq "$UPDATE_FREQ" \
    --ddp-backend legacy_ddp \
    --save-interval-updates 1000 \
    --max-update 50000 --log-interval 10 \
    "$@"
