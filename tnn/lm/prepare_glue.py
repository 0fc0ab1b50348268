"""A GLUE task in fairseq's binary form, for script_glue.sh.

    ./getdata.sh glue gpt2-bpe
    python tnn/lm/prepare_glue.py SST-2          # tnn/data/glue/SST-2.zip -> tnn/data/glue-bin

Reads train.tsv and dev.tsv of a zip, or of a folder GLUE/TASK; writes OUT/TASK-bin/{input0,input1,
label}, which fairseq's sentence_prediction reads: what its preprocess_GLUE_tasks.sh does, which
only runs inside a checkout of fairseq. Rows without the right number of columns, or with the label
"-" (the annotators did not agree), are left out and counted; any other label that is none of the
task's is refused. Without encoder.json in the --bpe folder sentences stay whole words.
"""

import argparse
import logging
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness import flags
from harness.endings import BadInput, bad_input, clear_up_on_signals, orderly_exit
from harness.home import home
from tnn.lm.prepare_text import new_folder

TNN = home(str(Path(__file__).parent))
# inputs and label
COLUMNS = {
    "CoLA": (("sentence",), "label"), "SST-2": (("sentence",), "label"),
    "MRPC": (("#1 String", "#2 String"), "Quality"),
    "STS-B": (("sentence1", "sentence2"), "score"),
    "QQP": (("question1", "question2"), "is_duplicate"),
    "MNLI": (("sentence1", "sentence2"), "gold_label"),
    "QNLI": (("question", "sentence"), "label"), "RTE": (("sentence1", "sentence2"), "label"),
}
HEADLESS = {"CoLA": ([3], 1, 4)}  # by number, out of so many: with labels it has no header
ARCHIVES = {"QQP": "QQP-clean.zip", "QNLI": "QNLIv2.zip"}
# A label of the others is 0 or 1; STS-B's is a number from 0 to 5.
LABELS = {
    "MNLI": {"contradiction", "entailment", "neutral"}, "QNLI": {"entailment", "not_entailment"},
    "RTE": {"entailment", "not_entailment"},
}
NO_GOLD = "-"  # of SNLI's and MNLI's form: no majority among the annotators


def splits(task: str, test: bool = False) -> dict[str, list[str]]:
    """fairseq's names of the splits -> GLUE's; with `test`, the test set's alone."""
    def names(split):
        return [f"{split}_matched", f"{split}_mismatched"] if task == "MNLI" else [split]
    return {"test": names("test")} if test else {"train": ["train"], "valid": names("dev")}


# --------------------------------------------------------------------------------- GLUE's files
@dataclass
class Table:
    """The lines of a split, without their ends, and what to call it."""

    name: str
    lines: list[str]


def read(glue: Path, task: str, split: str) -> Table:
    """A split out of the folder or the zip. Raises BadInput if it is not there or damaged."""
    file = glue / task / f"{split}.tsv"
    archive = glue / ARCHIVES.get(task, f"{task}.zip")
    try:
        if file.is_file():
            return table(str(file), file.read_bytes())
        if archive.is_file():
            with zipfile.ZipFile(archive) as z:
                for name in z.namelist():
                    if name.endswith(f"/{split}.tsv") and "original" not in name:
                        return table(f"{archive}, {name}", z.read(name))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: encrypted
        raise BadInput(f"{archive} is damaged ({error}): ./getdata.sh glue") from error
    raise BadInput(f"neither {file} nor {archive} with it: ./getdata.sh glue (MRPC by hand)")


def table(name: str, content: bytes) -> Table:
    """A line ends with a line feed, or with a carriage return before it; a carriage return alone
    is part of a sentence."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}, byte {error.start}: not UTF-8 ({error.reason})") from error
    return Table(name, [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")])


@dataclass
class Rows:
    """The rows of a split that are kept."""

    inputs: list[list[str]]  # for each input the texts
    labels: list[str]
    numbers: list[int]       # of the lines
    dropped: int


def rows(split: Table, task: str) -> Rows:
    """The rows of a split with labels. Raises BadInput for other columns than the task's, for a
    label that is none of its labels, and if no row is left."""
    cells, first = [line.split("\t") for line in split.lines], 1
    if task in HEADLESS:
        inputs, label, width = HEADLESS[task]
    else:
        names, label_name = COLUMNS[task]
        *inputs, label = places(split, (*names, label_name))
        first, width = 2, len(cells[0])
    kept = [(number, row) for number, row in enumerate(cells[first - 1:], first)
            if len(row) == width and row[label] != NO_GOLD]
    if not kept:
        raise BadInput(f"{split.name}: no row with {width} columns and a label")
    labels = [checked(row[label], task, f"{split.name}, line {number}") for number, row in kept]
    return Rows([[row[i] for _, row in kept] for i in inputs], labels, [n for n, _ in kept],
                len(cells) - first + 1 - len(kept))


def places(split: Table, names: tuple[str, ...]) -> list[int]:
    """Where the columns are. Raises BadInput if one is missing."""
    header = split.lines[0].split("\t")
    for name in names:
        if name not in header:
            raise BadInput(f"{split.name}: no column {name!r} among {header}")
    return [header.index(name) for name in names]


def checked(label: str, task: str, where: str) -> str:
    """The label, STS-B's scaled to [0, 1]. Raises BadInput for another than the task's."""
    if task != "STS-B":
        known = LABELS.get(task, {"0", "1"})
        if label not in known:
            raise BadInput(f"{where}: the label {label!r} is none of {', '.join(sorted(known))}")
        return label
    try:
        score = float(label)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 5:
        raise BadInput(f"{where}: the score {label!r} is no number from 0 to 5")
    return f"{score / 5:.6g}"


def refuse_unseen(dev: Rows, trained: set[str], split: Table) -> None:
    """Raises BadInput if a label occurs that training does not have: fairseq would die of it at
    the first validation."""
    for label, number in zip(dev.labels, dev.numbers, strict=True):
        if label not in trained:
            raise BadInput(f"{split.name}, line {number}: no row of the training data has the "
                           f"label {label!r}")


# ------------------------------------------------------------------------------- fairseq's files
def encoder(bpe: Path) -> Callable[[str], str]:
    """Sentence -> tokens, by GPT-2's byte pairs where their files are."""
    if not (bpe / "encoder.json").is_file():
        print(f"prepare_glue: no encoder.json in {bpe} (./getdata.sh gpt2-bpe): whole words",
              file=sys.stderr)
        return lambda text: " ".join(text.split())
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    with bad_input(f"--bpe {bpe}: "):
        pairs = get_encoder(str(bpe / "encoder.json"), str(bpe / "vocab.bpe"))
    return lambda text: " ".join(map(str, pairs.encode(text)))


def binarise(texts: dict[str, list[str]], dictionary: Path | None, out: Path) -> None:
    """What fairseq-preprocess makes of each split's lines. dictionary: of the model; None: one of
    the words of the training split. Imports fairseq, which takes seconds."""
    from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer
    from fairseq.data import Dictionary
    from fairseq.tasks import LegacyFairseqTask

    out.mkdir()
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        for split, lines in texts.items():
            (Path(folder) / split).write_text("\n".join(lines) + "\n", encoding="utf-8")
        words = (Dictionary.load(str(dictionary)) if dictionary
                 else LegacyFairseqTask.build_dictionary([f"{folder}/train"]))
        words.save(str(out / "dict.txt"))
        for split in texts:
            FileBinarizer.multiprocess_dataset(
                f"{folder}/{split}", "mmap", VocabularyDatasetBinarizer(words), str(out / split),
                vocab_size=len(words), num_workers=1)


def read_all(task: str, glue: Path) -> dict[str, Rows]:
    """The splits with labels, by fairseq's names. Raises BadInput."""
    found: dict[str, Rows] = {}
    for split, names in splits(task).items():
        for i, name in enumerate(names):
            source = read(glue, task, name)
            kept = found[f"{split}{i or ''}"] = rows(source, task)
            if task != "STS-B":
                refuse_unseen(kept, set(found["train"].labels), source)
            print(f"{task} {name}: {len(kept.labels)} rows, {kept.dropped} left out")
    return found


def write(task: str, found: dict[str, Rows], bpe: Path, dictionary: Path, out: Path) -> None:
    """Puts the result into the folder `out`."""
    logging.disable(logging.INFO)  # fairseq's remarks on other tasks' packages
    encode = encoder(bpe)
    for k in range(len(COLUMNS[task][0])):
        binarise({split: list(map(encode, kept.inputs[k])) for split, kept in found.items()},
                 dictionary, out / f"input{k}")
    if task != "STS-B":
        binarise({split: kept.labels for split, kept in found.items()}, None, out / "label")
        return
    (out / "label").mkdir()
    for split, kept in found.items():  # numbers, read as they are
        (out / f"label/{split}.label").write_text("\n".join(kept.labels) + "\n")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.parser("A GLUE task in fairseq's binary form, for script_glue.sh")
    p.add_argument("task", choices=COLUMNS)
    p.add_argument("--glue", type=Path, default=TNN / "data/glue", help="zips or folders of tasks")
    p.add_argument("--bpe", type=Path, default=TNN / "data/gpt2-bpe",
                   help="encoder.json, vocab.bpe, dict.txt")
    p.add_argument("--dict", type=Path, help="dictionary of the model (None: BPE/dict.txt)")
    p.add_argument("--out", type=Path, default=TNN / "data/glue-bin", help="TASK-bin goes here")
    return flags.parse(p, argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    clear_up_on_signals()
    with orderly_exit("prepare_glue.py"):
        out, dictionary = args.out / f"{args.task}-bin", args.dict or args.bpe / "dict.txt"
        if not dictionary.is_file():
            raise BadInput(f"no dictionary {dictionary}: the one that the model was trained with")
        found = read_all(args.task, args.glue)
        with new_folder(out) as part:
            write(args.task, found, args.bpe, dictionary, part)
        print(f"prepared: {out}")


if __name__ == "__main__":
    main()
