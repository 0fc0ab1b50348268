#!/usr/bin/env bash
# Text to fairseq's binary form, GPT-2 byte pairs; any folder that holds
# wiki.{train,valid,test}.raw, wiki.{train,valid,test}.tokens or {train,valid,test}.txt.
#
#   ./getdata.sh wt103-raw gpt2-bpe
#   bash tnn/prepare_lm_data.sh tnn/data/wikitext-103-raw tnn/data/data-bin/wikitext-103
#
#   bash prepare_lm_data.sh TEXT_DIR [OUT_DIR]      (OUT_DIR: tnn/data/data-bin/ and TEXT_DIR's name)
#   BPE_DIR  encoder.json, vocab.bpe, dict.txt  (tnn/data/gpt2-bpe; without them: whole words)
#   DICT     dictionary file, or `build`: from the training text  (BPE_DIR/dict.txt)
#   WORKERS  processes  (all cores)
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
exec "$PYTHON" "$HERE/lm/prepare_text.py" "$@"
