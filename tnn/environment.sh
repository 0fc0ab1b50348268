# What the scripts of this folder share; sourced, not run.
set -euo pipefail

HERE=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname -- "$HERE")
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=$(command -v python3)
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
# fairseq and its dependencies warn of their own old calls, dozens of lines at every start.
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}

# stop MESSAGE ...: one line, exit code 2
stop() {
    echo "tnn: $*" >&2
    exit 2
}

# usage LINE GIVEN LEAST: the command line, unless at least LEAST arguments were given
usage() {
    [ "$2" -ge "$3" ] || stop "usage: $1"
}

gpus_here() {
    "$PYTHON" -c 'import torch; print(torch.cuda.device_count())'
}

# workers WANTED: how many processes train; without a GPU one, on the CPU
workers() {
    case $1 in *[!0-9]* | '' | 0) stop "GPUS is a positive number, not '$1'" ;; esac
    local here
    here=$(gpus_here)
    if [ "$here" -eq 0 ]; then
        [ "$1" -eq 1 ] || echo "tnn: no GPU here: one process on the CPU" >&2
        echo 1
    elif [ "$1" -gt "$here" ]; then
        stop "GPUS=$1, but this machine has $here"
    else
        echo "$1"
    fi
}

# batch_size USUAL: BATCH_SIZE, where it is given
batch_size() {
    case ${BATCH_SIZE:=$1} in
        *[!0-9]* | '' | 0*) stop "BATCH_SIZE is a positive number, not '$BATCH_SIZE'" ;;
    esac
    echo "$BATCH_SIZE"
}

# update_freq SEQUENCES PER_WORKER WORKERS: gradient accumulation that keeps the paper's batch
update_freq() {
    if [ -n "${UPDATE_FREQ:-}" ]; then
        echo "$UPDATE_FREQ"
    elif [ $(($1 % ($2 * $3))) -ne 0 ]; then
        stop "$1 sequences an update cannot be shared by $3 workers with $2 each: set UPDATE_FREQ"
    else
        echo $(($1 / ($2 * $3)))
    fi
}

# logged NAME COMMAND ...: ends the script by COMMAND in its place, so that a signal sent to the
# script reaches Python and the exit code is Python's; what it prints also goes to LOG_DIR/NAME.log
logged() {
    local log=${LOG_DIR:=$HERE/logs}/$1.log
    shift
    mkdir -p "$LOG_DIR"
    exec "$@" > >(copy_to "$log") 2> >(copy_to "$log" >&2)
}

# copy_to LOG: standard input to the terminal and to LOG. It ignores signals: it ends when Python
# has written its last line. If nobody reads the terminal any more, LOG still gets every line.
copy_to() {
    trap '' INT TERM HUP PIPE
    exec tee -a "$1"
}

# handing_on COMMAND ...: the same for a command that the script goes on after. A signal to the
# script ends COMMAND, and the script with its exit code.
handing_on() {
    "$@" &
    local child=$! code=0 signalled=
    trap 'signalled=1; kill -TERM "$child" 2> /dev/null || true' INT TERM HUP
    wait "$child" || code=$?
    while [ -n "$signalled" ]; do  # the signal has ended the wait, not yet the command
        signalled='' code=0
        wait "$child" || code=$?
    done
    trap - INT TERM HUP
    return "$code"
}

# fresh FOLDER: removes what an earlier smoke run left in a folder of ours
fresh() {
    "$PYTHON" -c '
import shutil, sys
from pathlib import Path
from filelock import FileLock, Timeout

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
try:
    with FileLock(folder / ".lock", timeout=0):  # that of a run
        for path in folder.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
except Timeout:
    sys.exit(1)' "$1" || stop "$1: another smoke run is writing there; wait for its end"
}

# need_data FOLDER: binarised data, or how to make it
need_data() {
    [ -f "$1/dict.txt" ] && [ -f "$1/train.idx" ] || stop "no prepared data in $1; to make it:" \
        "./getdata.sh wt103-raw gpt2-bpe && bash tnn/prepare_lm_data.sh" \
        "tnn/data/wikitext-103-raw $1"
}

# need_fairseq: or one line that says how to get it
need_fairseq() {
    "$PYTHON" -m harness.extras fairseq || exit 2
}

# known_arch NAME: needs fairseq too; the original has many more architectures, which no script or paper uses
known_arch() {
    "$PYTHON" -m tnn.lm.architectures "$1"
}

# smoke_data: embedded text, prepared within seconds; prints the folder
smoke_data() {
    local text=$HERE/data/smoke-text out=$HERE/data/data-bin/pydoc-small
    if [ ! -f "$out/dict.txt" ]; then
        [ -f "$HERE/data/pydoc/train.txt" ] || "$PYTHON" -P -m getdata pydoc >&2
        mkdir -p "$text"
        head -n 1500 "$HERE/data/pydoc/train.txt" > "$text/train.txt"
        head -n 150 "$HERE/data/pydoc/valid.txt" > "$text/valid.txt"
        head -n 150 "$HERE/data/pydoc/test.txt" > "$text/test.txt"
        # whole words, whether or not the byte pairs are there
        BPE_DIR=none WORKERS=1 bash "$HERE/prepare_lm_data.sh" "$text" "$out" >&2
    fi
    echo "$out"
}

# smoke_task: a set of SST-2's form made of the same text, the label telling whether a line
# has the word "the"; prints the folder
smoke_task() {
    local text=$HERE/data/smoke-text out=$HERE/data/data-bin/pydoc-task
    local dictionary
    dictionary=$(smoke_data)/dict.txt
    if [ ! -f "$out/SST-2-bin/input0/train.idx" ]; then
        mkdir -p "$text/SST-2"
        for split in train dev; do
            local source=$text/${split/dev/valid}.txt
            # lines of 4 to 60 words
            awk 'BEGIN { print "sentence\tlabel" }
                 NF >= 4 && NF <= 60 { l = 0; for (i = 1; i <= NF; i++) if ($i == "the") l = 1
                                       sub(/^ +/, ""); sub(/ +$/, ""); print $0 "\t" l }' \
                "$source" > "$text/SST-2/$split.tsv"
        done
        "$PYTHON" "$HERE/lm/prepare_glue.py" SST-2 --glue "$text" --bpe none \
            --dict "$dictionary" --out "$out" >&2
    fi
    echo "$out/SST-2-bin"
}
