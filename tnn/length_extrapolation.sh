#!/usr/bin/env bash
# Perplexity of the best checkpoint at another length than the training's.
#
#   bash length_extrapolation.sh ARCH LENGTH [further flags of fairseq-eval-lm]
#   DATA_DIR  prepared data   (tnn/data/data-bin/wikitext-103)
#   CKPT_DIR  checkpoints     (tnn/checkpoints/lm/ARCH), or CHECKPOINT, one file
#   SUBSET    train | valid | test  (test)
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
usage 'bash length_extrapolation.sh ARCH LENGTH [further flags of fairseq-eval-lm]' $# 2
ARCH=$1 LENGTH=$2
shift 2
need_fairseq
case $LENGTH in
    *[!0-9]* | '' | 0* | ??????????*)
        stop "LENGTH is a positive number of at most 9 digits, not '$LENGTH'" ;;
esac
DATA_DIR=${DATA_DIR:-$HERE/data/data-bin/wikitext-103}
CHECKPOINT=${CHECKPOINT:-${CKPT_DIR:-$HERE/checkpoints/lm/$ARCH}/checkpoint_best.pt}
[ -f "$DATA_DIR/dict.txt" ] || need_data "$DATA_DIR"
[ -f "$CHECKPOINT" ] || stop "no checkpoint $CHECKPOINT: train one with" \
    "bash tnn/train_alm.sh GPUS $ARCH DATA_DIR"

# Without max_target_positions fairseq skips, silently, every block longer than those of training;
# on several GPUs it would print the perplexity of the first one's share.
exec "$PYTHON" -m fairseq_cli.eval_lm --user-dir "$HERE/fairseq_plugin" "$DATA_DIR" \
    --path "$CHECKPOINT" --gen-subset "${SUBSET:-test}" \
    --sample-break-mode none --max-sentences 1 --context-window 0 --distributed-world-size 1 \
    --max-tokens "$LENGTH" --tokens-per-sample "$LENGTH" --max-target-positions "$LENGTH" \
    --model-overrides "{'max_tokens': $LENGTH, 'tokens_per_sample': $LENGTH, 'max_target_positions': $LENGTH}" \
    "$@"
