"""A GLUE task in fairseq's binary form, for script_glue.sh.

    ./getdata.sh glue gpt2-bpe
    python tnn/lm/prepare_glue.py SST-2          # tnn/data/glue/SST-2.zip -> tnn/data/glue-bin

Reads train.tsv and dev.tsv of a zip, or of a folder GLUE/TASK; writes OUT/TASK-bin/{input0,input1,
label}, which fairseq's sentence_prediction reads: what its preprocess_GLUE_tasks.sh does, which
only runs inside a checkout of fairseq. Rows without the right number of columns are left out
and counted. Without encoder.json in the --bpe folder sentences stay whole words.
"""

import argparse
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness.endings import bad_input, orderly_exit

TNN = Path(__file__).resolve().parents[1]
# inputs and label, by name or (CoLA has no header) number of the column
COLUMNS = {
    "CoLA": ((3,), 1), "SST-2": (("sentence",), "label"),
    "MRPC": (("#1 String", "#2 String"), "Quality"),
    "STS-B": (("sentence1", "sentence2"), "score"),
    "QQP": (("question1", "question2"), "is_duplicate"),
    "MNLI": (("sentence1", "sentence2"), "gold_label"),
    "QNLI": (("question", "sentence"), "label"), "RTE": (("sentence1", "sentence2"), "label"),
}
ARCHIVES = {"QQP": "QQP-clean.zip", "QNLI": "QNLIv2.zip"}


def splits(task: str) -> dict[str, list[str]]:
    """fairseq's names of the splits -> GLUE's."""
    dev = ["dev_matched", "dev_mismatched"] if task == "MNLI" else ["dev"]
    return {"train": ["train"], "valid": dev}


def read(glue: Path, task: str, split: str) -> list[str]:
    """Lines of a split. Raises ValueError if it is not there."""
    file = glue / task / f"{split}.tsv"
    archive = glue / ARCHIVES.get(task, f"{task}.zip")
    if file.is_file():
        return file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    if archive.is_file():
        with zipfile.ZipFile(archive) as z:
            for name in z.namelist():
                if name.endswith(f"/{split}.tsv") and "original" not in name:
                    return z.read(name).decode("utf-8-sig").rstrip("\n").split("\n")
    raise ValueError(f"neither {file} nor {archive} with it: ./getdata.sh glue (MRPC by hand)")


def columns(lines: list[str], task: str) -> tuple[list[list[str]], list[str], int]:
    """(texts of each input, labels, number of rows left out). Raises ValueError for another
    header than the task's."""
    inputs, label = COLUMNS[task]
    rows = [line.rstrip("\r").split("\t") for line in lines]
    width = len(rows[0])
    if isinstance(label, str):
        header = rows.pop(0)
        missing = [name for name in (*inputs, label) if name not in header]
        if missing:
            raise ValueError(f"{task}: no column {missing[0]!r} among {header}")
        inputs, label = [header.index(name) for name in inputs], header.index(label)
    kept = [row for row in rows if len(row) == width]
    labels = [row[label] for row in kept]
    if task == "STS-B":
        labels = [f"{float(value) / 5:.6g}" for value in labels]
    return [[row[i] for row in kept] for i in inputs], labels, len(rows) - len(kept)


def encoder(bpe: Path):
    """Sentence -> tokens, by GPT-2's byte pairs where their files are."""
    if not (bpe / "encoder.json").is_file():
        print(f"prepare_glue: no encoder.json in {bpe} (./getdata.sh gpt2-bpe): whole words",
              file=sys.stderr)
        return lambda text: " ".join(text.split())
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    pairs = get_encoder(str(bpe / "encoder.json"), str(bpe / "vocab.bpe"))
    return lambda text: " ".join(map(str, pairs.encode(text)))


def binarise(text: Path, part: str, out: Path, valid: list[Path], *flags) -> None:
    """fairseq-preprocess of one of input0, input1, label."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "fairseq_cli.preprocess", "--only-source",
         "--trainpref", str(text / f"train.{part}"), "--validpref", ",".join(map(str, valid)),
         "--destdir", str(out / part), *flags], check=False, capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(f"fairseq-preprocess failed: {done.stderr.strip()[-2000:]}")


def prepare(task: str, glue: Path, bpe: Path, dictionary: Path, out: Path) -> None:
    """Writes the folder `out`, which exists only once it is complete."""
    if not dictionary.is_file():
        raise ValueError(f"no dictionary {dictionary}: the one that the model was trained with")
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    text = part / "text"
    text.mkdir(parents=True)
    encode, valid, count = encoder(bpe), [], len(COLUMNS[task][0])
    for split, names in splits(task).items():
        for i, name in enumerate(names):
            inputs, labels, dropped = columns(read(glue, task, name), task)
            stem = split + (str(i) if i else "")
            for k, sentences in enumerate(inputs):
                lines = "\n".join(map(encode, sentences))
                (text / f"{stem}.input{k}").write_text(f"{lines}\n")
            (text / f"{stem}.label").write_text("\n".join(labels) + "\n")
            valid += [stem] * (split == "valid")
            print(f"{task} {name}: {len(labels)} rows, {dropped} left out")
    for k in range(count):
        binarise(text, f"input{k}", part, [text / f"{stem}.input{k}" for stem in valid],
                 "--srcdict", str(dictionary))
    if task == "STS-B":  # numbers, read as they are
        (part / "label").mkdir()
        for stem in ("train", *valid):
            shutil.copyfile(text / f"{stem}.label", part / "label" / f"{stem}.label")
    else:
        binarise(text, "label", part, [text / f"{stem}.label" for stem in valid])
    shutil.rmtree(text)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    print(f"prepared: {out}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("task", choices=COLUMNS)
    p.add_argument("--glue", type=Path, default=TNN / "data/glue", help="zips or folders of tasks")
    p.add_argument("--bpe", type=Path, default=TNN / "data/gpt2-bpe",
                   help="encoder.json, vocab.bpe, dict.txt")
    p.add_argument("--dict", type=Path, help="dictionary of the model (BPE/dict.txt)")
    p.add_argument("--out", type=Path, default=TNN / "data/glue-bin", help="TASK-bin goes here")
    return p.parse_args(argv)


def main() -> None:
    args = parse_args()
    with orderly_exit("prepare_glue.py"), bad_input():
        prepare(args.task, args.glue, args.bpe, args.dict or args.bpe / "dict.txt",
                args.out / f"{args.task}-bin")


if __name__ == "__main__":
    main()
