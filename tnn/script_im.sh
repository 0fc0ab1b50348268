#!/usr/bin/env bash
# The paper's image model on ImageNet-1k: 300 epochs, 16 x 128 images an update.
#
#   bash tnn/script_im.sh                                                  TNN-Tiny, 6.4 M
#   ARCH=tno_vit_e3g1_small_rpe_l1_90_prenorm bash tnn/script_im.sh        TNN-Small, 23.4 M
#   SMOKE=1 bash tnn/script_im.sh      train and evaluate, small, on digits: under a minute
#
#   DATA      folder with train/CLASS/* and val/CLASS/*  (tnn/im/data/imagenet)
#   GPUS BATCH ARCH RUN LR DATASET DECAY WARMUP CLIP     what train_im.sh is called with
#   Further arguments are flags of im/main.py.
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
GPUS=${GPUS:-16}                      # processes; as many as there are, if fewer
BATCH=${BATCH:-128}                   # images per process
ARCH=${ARCH:-tnn_vit_e3g1_tiny_rpe_l1_90_prenorm}
RUN=${RUN:-$ARCH}                     # folder of the checkpoints
LR=${LR:-0.0005}                      # for 512 images an update
DATASET=${DATASET:-IMNET}             # IMNET, CIFAR (CIFAR-100), CIFAR10, INAT, INAT19, DIGITS
DECAY=${DECAY:-0.05}
WARMUP=${WARMUP:-10}                  # epochs
CLIP=${CLIP:-5}

if [ "${SMOKE:-0}" = 1 ]; then
    [ -f "$ROOT/data/digits/digits.npz" ] || "$PYTHON" -P -m getdata digits >&2
    export DATA=$ROOT/data/digits CKPT_DIR=$HERE/checkpoints/im/smoke
    fresh "$CKPT_DIR"
    small=(--input-size 32 --arch-options patch_size=8 embed_dim=64 glu_dim=64 depth=3
           --num_workers 0 --log-dir "$CKPT_DIR")
    handing_on bash "$HERE/train_im.sh" 1 64 "$ARCH" smoke 0.016 DIGITS "$DECAY" 1 "$CLIP" "${small[@]}" \
        --epochs 3 "$@"
    exec bash "$HERE/train_im.sh" 1 64 "$ARCH" smoke 0.016 DIGITS "$DECAY" 1 "$CLIP" \
        "${small[@]}" --eval
fi
exec bash "$HERE/train_im.sh" "$GPUS" "$BATCH" "$ARCH" "$RUN" "$LR" "$DATASET" "$DECAY" "$WARMUP" \
    "$CLIP" "$@"
