#!/usr/bin/env bash
# Fine-tunes a masked language model on one GLUE task, fairseq's recipe for RoBERTa.
#
#   bash script_glue.sh TASK DATA_DIR CHECKPOINT [further flags of fairseq-train]
#   SMOKE=1 bash script_glue.sh        small, on a set of SST-2's form made of embedded text
#
#   TASK        MNLI QNLI QQP RTE SST-2 MRPC CoLA STS-B
#   DATA_DIR    the task's folder TASK-bin: ./getdata.sh glue gpt2-bpe, python tnn/lm/prepare_glue.py TASK
#   CHECKPOINT  of train_blm.sh
#   CKPT_DIR    what is trained  (tnn/checkpoints/glue/TASK); a run that was interrupted continues,
#               and a second one at the same time is refused
#   LOG_DIR     what is printed, in glue-TASK.log  (tnn/logs)
#   ARCH        (roberta_tnn_v2_decay_99)
#
# Validation prints, and checkpoint_best.pt goes by, what GLUE measures: accuracy; for MRPC and QQP
# also F1, for CoLA Matthews' correlation (mcc), for STS-B Pearson's and Spearman's.
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
if [ "${SMOKE:-0}" = 1 ]; then
    CHECKPOINT=$HERE/checkpoints/smoke/roberta_tnn_v2_decay_99/checkpoint_best.pt
    [ -f "$CHECKPOINT" ] || handing_on bash "$HERE/script_blm.sh"
    CKPT_DIR=$HERE/checkpoints/smoke/glue
    fresh "$CKPT_DIR"
    DATA_DIR=$(smoke_task)
    set -- SST-2 "$DATA_DIR" "$CHECKPOINT" --encoder-embed-dim 64 --encoder-layers 2 \
        --rpe-layers 1 --mask-padding --lr 0.002 --max-update 60 --total-num-update 60 \
        --warmup-updates 6 --no-epoch-checkpoints --num-workers 0 --log-format simple \
        --log-interval 20
fi
usage 'bash script_glue.sh TASK DATA_DIR CHECKPOINT [further flags of fairseq-train]' $# 3
TASK=$1 DATA_DIR=$2 CHECKPOINT=$3
shift 3
ARCH=${ARCH:-roberta_tnn_v2_decay_99}
#               classes lr   batch updates warm-up
case $TASK in
    MNLI)  set -- 3 1e-5 32 123873 7432 "$@" ;;
    QNLI)  set -- 2 1e-5 32 33112 1986 "$@" ;;
    QQP)   set -- 2 1e-5 32 113272 28318 "$@" ;;
    RTE)   set -- 2 2e-5 16 2036 122 "$@" ;;
    SST-2) set -- 2 1e-5 32 20935 1256 "$@" ;;
    MRPC)  set -- 2 1e-5 16 2296 137 "$@" ;;
    CoLA)  set -- 2 1e-5 16 5336 320 "$@" ;;
    STS-B) set -- 1 2e-5 16 3598 214 "$@" ;;
    *) stop "TASK is one of MNLI QNLI QQP RTE SST-2 MRPC CoLA STS-B, not '$TASK'" ;;
esac
CLASSES=$1 LR=$2 BATCH=$3 UPDATES=$4 WARMUP=$5
shift 5
[ -f "$DATA_DIR/input0/dict.txt" ] || stop "no $DATA_DIR/input0/dict.txt: ./getdata.sh glue" \
    "gpt2-bpe && python tnn/lm/prepare_glue.py $TASK"
[ -f "$CHECKPOINT" ] || stop "no checkpoint $CHECKPOINT: train one with bash tnn/script_blm.sh"
# what GLUE measures; of two numbers the mean decides which checkpoint is the best
case $TASK in
    CoLA)     best=mcc report=(--report-mcc) ;;
    MRPC|QQP) best=acc_and_f1 report=(--report-acc-and-f1) ;;
    STS-B)    best=pearson_and_spearman
              report=(--report-pearson-and-spearman --regression-target) ;;
    MNLI)     best=accuracy report=(--valid-subset valid,valid1) ;;  # matched, mismatched
    *)        best=accuracy report=() ;;
esac
known_arch "$ARCH"

# One process: the recipe's batch, and fairseq cannot add these measures up over several.
logged "glue-$TASK" "$PYTHON" -m fairseq_cli.train \
    --user-dir "$HERE/fairseq_plugin" "$DATA_DIR" \
    --finetune-from-model "$CHECKPOINT" --save-dir "${CKPT_DIR:-$HERE/checkpoints/glue/$TASK}" \
    --max-positions 512 --batch-size "$BATCH" --max-tokens 4400 \
    --required-batch-size-multiple 1 \
    --task sentence_prediction --criterion sentence_prediction --num-classes "$CLASSES" \
    --init-token 0 --separator-token 2 \
    --arch "$ARCH" --dropout 0.1 --attention-dropout 0.1 --weight-decay 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --adam-eps 1e-06 --clip-norm 0.0 \
    --lr-scheduler polynomial_decay --lr "$LR" --total-num-update "$UPDATES" \
    --warmup-updates "$WARMUP" --max-epoch 10 --find-unused-parameters \
    --distributed-world-size 1 ${report[@]+"${report[@]}"} \
    --best-checkpoint-metric "$best" --maximize-best-checkpoint-metric "$@"
