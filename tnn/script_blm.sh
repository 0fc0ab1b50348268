#!/usr/bin/env bash
# The paper's bidirectional (masked) language model.
#
#   bash tnn/script_blm.sh             data as for script_alm.sh
#   SMOKE=1 bash tnn/script_blm.sh     small, on embedded text: about a minute
#
#   DATA_DIR  prepared data  (tnn/data/data-bin/wikitext-103)
#   GPUS      (all there are; without any, one process on the CPU)
#   ARCH      (roberta_tnn_v2_decay_99)
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
ARCH=${ARCH:-roberta_tnn_v2_decay_99}
if [ "${SMOKE:-0}" = 1 ]; then
    known_arch "$ARCH"
    DATA_DIR=$(smoke_data)
    export CKPT_DIR=$HERE/checkpoints/smoke/$ARCH UPDATE_FREQ=1
    fresh "$CKPT_DIR"
    exec bash "$HERE/train_blm.sh" 1 "$ARCH" "$DATA_DIR" --encoder-embed-dim 64 --encoder-layers 2 \
        --rpe-layers 1 --tokens-per-sample 64 --max-update 40 --warmup-updates 10 --lr 0.005 \
        --total-num-update 40 --mask-padding --skip-invalid-size-inputs-valid-test \
        --save-interval-updates 0 --no-epoch-checkpoints --num-workers 0
fi
DATA_DIR=${DATA_DIR:-$HERE/data/data-bin/wikitext-103}
need_data "$DATA_DIR"
here=$(gpus_here)
exec bash "$HERE/train_blm.sh" "${GPUS:-$((here > 0 ? here : 1))}" "$ARCH" "$DATA_DIR" "$@"
