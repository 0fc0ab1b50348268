#!/usr/bin/env bash
# Text to fairseq's binary form, GPT-2 byte pairs; any folder that holds
# wiki.{train,valid,test}.raw, wiki.{train,valid,test}.tokens or {train,valid,test}.txt.
#
#   ./getdata.sh wt103-raw gpt2-bpe
#   bash tnn/prepare_lm_data.sh tnn/data/wikitext-103-raw tnn/data/data-bin/wikitext-103
#
#   bash prepare_lm_data.sh TEXT_DIR OUT_DIR
#   BPE_DIR  encoder.json, vocab.bpe, dict.txt  (tnn/data/gpt2-bpe; without them: whole words)
#   DICT     dictionary file, or `build`: from the training text  (BPE_DIR/dict.txt)
#   WORKERS  processes  (all cores)
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
usage 'bash prepare_lm_data.sh TEXT_DIR OUT_DIR' $# 2
TEXT_DIR=$1 OUT_DIR=$2
BPE_DIR=${BPE_DIR:-$HERE/data/gpt2-bpe}
WORKERS=${WORKERS:-$(nproc)}

text_of() {
    for name in "wiki.$1.raw" "wiki.$1.tokens" "$1.txt"; do
        [ -f "$TEXT_DIR/$name" ] && echo "$TEXT_DIR/$name" && return
    done
    stop "no wiki.$1.raw, wiki.$1.tokens or $1.txt in $TEXT_DIR"
}

encode() {
    "$PYTHON" -m fairseq.examples.roberta.multiprocessing_bpe_encoder \
        --encoder-json "$BPE_DIR/encoder.json" --vocab-bpe "$BPE_DIR/vocab.bpe" \
        --inputs "$1" --outputs "$2" --keep-empty --workers "$WORKERS"
}

for split in train valid test; do text_of $split > /dev/null; done
part=$OUT_DIR.part  # becomes OUT_DIR at the end: what exists is complete
rm -rf "$part"
mkdir -p "$part/text"
dictionary=()
if [ -f "$BPE_DIR/encoder.json" ] && [ -f "$BPE_DIR/vocab.bpe" ]; then
    for split in train valid test; do
        encode "$(text_of $split)" "$part/text/$split"
    done
    DICT=${DICT:-$BPE_DIR/dict.txt}
    [ "$DICT" = build ] || [ -f "$DICT" ] || stop "no dictionary $DICT: ./getdata.sh gpt2-bpe, or" \
        "DICT=build to make one from the training text"
    [ "$DICT" = build ] || dictionary=(--srcdict "$DICT")
else
    echo "tnn: no encoder.json and vocab.bpe in $BPE_DIR (./getdata.sh gpt2-bpe): whole words" >&2
    for split in train valid test; do cp "$(text_of $split)" "$part/text/$split"; done
fi
"$PYTHON" -m fairseq_cli.preprocess --only-source "${dictionary[@]}" \
    --trainpref "$part/text/train" --validpref "$part/text/valid" --testpref "$part/text/test" \
    --destdir "$part" --workers "$WORKERS"
rm -rf "$part/text" "$OUT_DIR"
mv "$part" "$OUT_DIR"
echo "prepared: $OUT_DIR"
