#!/usr/bin/env bash
# The paper's autoregressive language model (published: 23.98 / 24.67 perplexity).
#
#   ./getdata.sh wt103-raw gpt2-bpe
#   bash tnn/prepare_lm_data.sh tnn/data/wikitext-103-raw tnn/data/data-bin/wikitext-103
#   bash tnn/script_alm.sh
#   SMOKE=1 bash tnn/script_alm.sh     the whole path, small, on embedded text: about a minute
#
#   DATA_DIR  prepared data  (tnn/data/data-bin/wikitext-103)
#   GPUS      (all there are; without any, one process on the CPU)
#   ARCH      (tnn_v2_decay_99_pre)
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
ARCH=${ARCH:-tnn_v2_decay_99_pre}
if [ "${SMOKE:-0}" = 1 ]; then
    known_arch "$ARCH"
    DATA_DIR=$(smoke_data)
    export DATA_DIR CKPT_DIR=$HERE/checkpoints/smoke/$ARCH UPDATE_FREQ=1
    fresh "$CKPT_DIR"
    handing_on bash "$HERE/train_alm.sh" 1 "$ARCH" "$DATA_DIR" --decoder-embed-dim 64 --decoder-layers 2 \
        --rpe-layers 1 --tokens-per-sample 64 --max-update 40 --warmup-updates 10 --lr 0.005 \
        --save-interval-updates 0 --no-epoch-checkpoints --num-workers 0 --log-format simple
    for length in 64 256; do
        handing_on bash "$HERE/length_extrapolation.sh" "$ARCH" $length --num-workers 0 --log-format none
    done
    exit
fi
DATA_DIR=${DATA_DIR:-$HERE/data/data-bin/wikitext-103}
need_data "$DATA_DIR"
here=$(gpus_here)
exec bash "$HERE/train_alm.sh" "${GPUS:-$((here > 0 ? here : 1))}" "$ARCH" "$DATA_DIR" "$@"
