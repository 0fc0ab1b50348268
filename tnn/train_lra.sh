#!/usr/bin/env bash
# One task of the Long Range Arena with the original's 20 positional arguments; those left out at
# the end are the task's own (tnn/lra/recipes.py). Further flags go to lra/main.py.
#
#   bash train_lra.sh TASK ARCH BS N_LAYERS D_MODEL DPB_DIM NORM EXPAND_TNO EXPAND_GLU USE_DECAY \
#                     GAMMA LR WD CARDS WORKERS DROPOUT DPB_TYPE DPB_LAYERS PRENORM WARMUP [--flag ...]
#   TASK  listops imdb aan cifar pathfinder pathfinderx
#   ARCH  tno (texts), tno2d (images), or gtu, gtu2d
#   BS    samples of one GPU; CARDS  GPUs (without any, one process on the CPU)
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
usage 'bash train_lra.sh TASK ARCH [BS N_LAYERS D_MODEL DPB_DIM NORM EXPAND_TNO EXPAND_GLU USE_DECAY GAMMA LR WD CARDS WORKERS DROPOUT DPB_TYPE DPB_LAYERS PRENORM WARMUP] [--flag ...]' $# 2

given=()
for name in task arch batch-size n-layers d-model dpb-dim norm expand-tno expand-glu use-decay \
            gamma lr weight-decay devices workers dropout dpb-type dpb-layers prenorm warmup; do
    case ${1:-} in '' | --*) break ;; esac
    case $name:$1 in
        use-decay:* | prenorm:*)
            case $1 in
                True | true | 1) given+=("--$name") ;;
                False | false | 0) given+=("--no-$name") ;;
                *) stop "${name^^} is True or False, not '$1'" ;;
            esac ;;
        devices:*) given+=(--devices "$(workers "$1")") ;;
        *) given+=("--$name" "$1") ;;
    esac
    shift
done
case ${1:---} in --*) ;; *) stop "more than 20 arguments before the flags, or an empty one: '$1'" ;; esac
exec "$PYTHON" "$HERE/lra/main.py" "${given[@]}" "$@"
