#!/usr/bin/env bash
# Trains an image model for 300 epochs in float32; a run that was interrupted continues.
#
#   bash train_im.sh GPUS BATCH ARCH RUN LR DATASET DECAY WARMUP CLIP [flags of im/main.py]
#   DATA        the data set's folder  (tnn/im/data/NAME, see below)
#   CKPT_DIR    checkpoints  (tnn/checkpoints/im/RUN)
#   KEEP_BATCH  1: with fewer GPUs than asked for, accumulate gradients to GPUS x BATCH images
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
usage 'bash train_im.sh GPUS BATCH ARCH RUN LR DATASET DECAY WARMUP CLIP [flags]' $# 9
WANTED=$1 BATCH=$2 ARCH=$3 RUN=$4 LR=$5 DATASET=$6 DECAY=$7 WARMUP=$8 CLIP=$9
shift 9
case $WANTED in *[!0-9]* | '' | 0) stop "GPUS is a positive number, not '$WANTED'" ;; esac

case $DATASET in
    IMNET)
        folder=imagenet need=train
        advice="put ImageNet's train and val there, or set DATA; to try: SMOKE=1 bash tnn/script_im.sh"
        ;;
    CIFAR) folder=cifar100 need=cifar-100-python advice="put CIFAR-100 there, or set DATA" ;;
    CIFAR10) folder=cifar10 need='*batch*' advice="./getdata.sh cifar10, or set DATA" ;;
    INAT) folder=inat2018 need=train2018.json advice="put iNaturalist 2018 there, or set DATA" ;;
    INAT19) folder=inat2019 need=train2019.json advice="put iNaturalist 2019 there, or set DATA" ;;
    DIGITS) folder=digits need=digits.npz advice="./getdata.sh digits" ;;
    *) stop "DATASET is IMNET, CIFAR, CIFAR10, INAT, INAT19 or DIGITS, not '$DATASET'" ;;
esac
DATA=${DATA:-$HERE/im/data/$folder}
[ "$DATASET" = DIGITS ] && [ ! -d "$DATA" ] && DATA=$ROOT/data/digits
compgen -G "$DATA/$need" > /dev/null || compgen -G "$DATA/*/$need" > /dev/null ||
    [ -f "$DATA/meta/train.txt" ] || stop "no data in $DATA: $advice"

here=$(gpus_here)
GPUS=$((here == 0 ? 1 : here < WANTED ? here : WANTED))
accumulate=()
if [ "$GPUS" -lt "$WANTED" ]; then
    if [ "$here" = 0 ]; then found='no GPU here: one process on the CPU'
    else found="$here GPUs here instead of $WANTED"; fi
    if [ "${KEEP_BATCH:-0}" = 1 ]; then
        [ $((WANTED % GPUS)) = 0 ] || stop "$found, which cannot share $WANTED batches evenly"
        accumulate=(--accumulate $((WANTED / GPUS)))
        echo "tnn: $found; $((WANTED / GPUS)) batches an update" >&2
    else
        echo "tnn: $found, so $((GPUS * BATCH)) images an update, not $((WANTED * BATCH))" \
            "(KEEP_BATCH=1 keeps them)" >&2
    fi
fi

export NCCL_LL_THRESHOLD=0 MASTER_PORT=${MASTER_PORT:-$((RANDOM + 2000))}
launch=("$PYTHON")
[ "$GPUS" = 1 ] || launch=("$PYTHON" -m torch.distributed.run --nproc-per-node "$GPUS"
                           --master-port "$MASTER_PORT")
CKPT_DIR=${CKPT_DIR:-$HERE/checkpoints/im/$RUN}
exec "${launch[@]}" "$HERE/im/main.py" --data-set "$DATASET" --data-path "$DATA" \
    --batch-size "$BATCH" --dist-eval --output_dir "$CKPT_DIR" --resume --model "$ARCH" \
    --epochs 300 --fp32-resume --lr "$LR" --weight-decay "$DECAY" --warmup-epochs "$WARMUP" \
    --clip-grad "$CLIP" --broadcast_buffers "${accumulate[@]}" "$@"
