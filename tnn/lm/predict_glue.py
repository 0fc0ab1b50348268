"""A fine-tuned model's answers to GLUE's test set, as GLUE's server takes them.

    bash tnn/script_glue.sh RTE tnn/data/glue-bin/RTE-bin CHECKPOINT
    python tnn/lm/predict_glue.py RTE                       -> tnn/data/glue-submission/RTE.tsv

Reads test.tsv of the zip or folder that prepare_glue.py reads. Every row gets an answer, in the
order of the file: a submission lacks none. Labels are the task's own words, STS-B's scores lie in
[0, 5]; MNLI gives MNLI-m.tsv and MNLI-mm.tsv.
"""

import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness import flags
from tnn.lm.prepare_glue import COLUMNS, LABELS, TNN

if TYPE_CHECKING:
    from fairseq.models import BaseFairseqModel
    from fairseq.tasks import FairseqTask

SUBMISSION = {"test": "", "test_matched": "-m", "test_mismatched": "-mm"}


def parse_args(argv: list[str] | None = None) -> Namespace:
    p = flags.parser("A fine-tuned model's answers to GLUE's test set, for a submission")
    p.add_argument("task", choices=COLUMNS)
    p.add_argument("checkpoint", nargs="?",
                   help="of script_glue.sh (None: tnn/checkpoints/glue/TASK/checkpoint_best.pt)")
    p.add_argument("--data", help="prepared data, for the dictionaries (None: TASK-bin in "
                                  "tnn/data/glue-bin)")
    p.add_argument("--glue", type=Path, default=TNN / "data/glue", help="zips or folders of tasks")
    p.add_argument("--bpe", type=Path, default=TNN / "data/gpt2-bpe",
                   help="encoder.json and vocab.bpe, as for prepare_glue.py")
    p.add_argument("--out", type=Path, default=TNN / "data/glue-submission",
                   help="folder for TASK.tsv")
    p.add_argument("--batch-size", type=int, default=32, help="sentences at once")
    flags.add_machine(p, cuda=False)
    args = flags.parse(p, argv)
    flags.check(p, args)
    args.checkpoint = args.checkpoint or f"{TNN}/checkpoints/glue/{args.task}/checkpoint_best.pt"
    args.data = args.data or f"{TNN}/data/glue-bin/{args.task}-bin"
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from torch import Tensor

from harness import files
from harness.endings import BadInput, bad_input, orderly_exit
from harness.machine import make_fabric_of_tool
from tnn.lm.checkpoint import CLASSIFIER, load
from tnn.lm.prepare_glue import Table, encoder, places, read, splits


class Questions(NamedTuple):
    """A test set."""

    indices: list[str]
    inputs: list[list[str]]  # for each input the texts
    incomplete: int


def questions(split: Table, task: str) -> Questions:
    """All rows; where columns are missing, their texts are empty. A blank line is no row. Raises
    BadInput for another header than the task's."""
    index, *inputs = places(split, ("id" if task == "QQP" else "index", *COLUMNS[task][0]))
    width = len(split.lines[0].split("\t"))
    cells = [line.split("\t") for line in split.lines[1:] if line.strip()]
    short = sum(len(row) < width for row in cells)
    cells = [row + [""] * (width - len(row)) for row in cells]
    return Questions([row[index] for row in cells], [[row[i] for row in cells] for i in inputs],
                     short)


def refuse_other_task(task: "FairseqTask", name: str, checkpoint: str) -> None:
    """Raises BadInput if the model was fine-tuned on labels that are not those of the task."""
    classes = 1 if name == "STS-B" else len(known := LABELS.get(name, {"0", "1"}))
    if (task.cfg.num_classes != classes or task.cfg.regression_target != (name == "STS-B")
            or (name != "STS-B" and not known <= set(task.label_dictionary.symbols))):
        raise BadInput(f"{checkpoint} was fine-tuned on another task than {name}")


def tokens_of(task: "FairseqTask", sentences: tuple[str, ...]) -> Tensor:
    """(T,) int64, as fairseq's sentence_prediction joins the inputs of a row."""
    parts = []
    for k, sentence in enumerate(sentences):
        before = task.cfg.separator_token if k else task.cfg.init_token
        parts += [] if before is None else [torch.tensor([before])]
        parts.append(task.dictionary.encode_line(sentence, add_if_not_exist=False).long())
    return torch.cat(parts)


def batches(rows: list[Tensor], size: int) -> Iterator[list[int]]:
    """Numbers of rows of one length: without --mask-padding, padding would change the answers."""
    by_length = defaultdict(list)
    for i, row in enumerate(rows):
        by_length[len(row)].append(i)
    for _, same in sorted(by_length.items()):
        yield from (same[i:i + size] for i in range(0, len(same), size))


@torch.no_grad()
def answers(model: "BaseFairseqModel", task: "FairseqTask", rows: list[Tensor], size: int,
            device: torch.device) -> list[str]:
    """A label, or a score, for each row of tokens. Raises FloatingPointError."""
    found = [""] * len(rows)
    for batch in batches(rows, size):
        tokens = torch.stack([rows[i] for i in batch]).to(device)
        logits, _ = model(tokens, features_only=True,
                          classification_head_name=task.cfg.classification_head_name)
        if not logits.isfinite().all():
            raise FloatingPointError("the model's answers are not finite")
        for i, row in zip(batch, logits.float().cpu(), strict=True):
            found[i] = answer(row, task)
    return found


def answer(logits: Tensor, task: "FairseqTask") -> str:
    """logits (classes,). Scores were trained as fifths."""
    if task.cfg.regression_target:
        return f"{5 * logits.clamp(0, 1).item():.3f}"
    return task.label_dictionary[task.label_dictionary.nspecial + logits.argmax().item()]


def write(path: Path, indices: list[str], labels: list[str]) -> None:
    """An earlier file keeps another name."""
    with bad_input("--out: "):
        if aside := files.set_aside(path):
            print(f"{path} is of an earlier time: kept as {aside}")
    lines = [f"{i}\t{label}\n" for i, label in zip(indices, labels, strict=True)]
    text = "".join(["index\tprediction\n", *lines])
    files.replace(path, lambda file: file.write(text.encode()))


def run(args: Namespace) -> None:
    tables = {name: read(args.glue, args.task, name)
              for name in splits(args.task, test=True)["test"]}
    sets = {name: questions(found, args.task) for name, found in tables.items()}
    with bad_input("--out: "):
        args.out.mkdir(parents=True, exist_ok=True)
    fabric = make_fabric_of_tool(args)
    model, task = load(args.checkpoint, args.data, CLASSIFIER)
    refuse_other_task(task, args.task, args.checkpoint)
    model, encode = fabric.to_device(model), encoder(args.bpe)
    for name, rows in sets.items():
        tokens = [tokens_of(task, tuple(map(encode, sentences)))
                  for sentences in zip(*rows.inputs, strict=True)]
        with fabric.autocast():
            labels = answers(model, task, tokens, args.batch_size, fabric.device)
        path = args.out / f"{args.task}{SUBMISSION[name]}.tsv"
        write(path, rows.indices, labels)
        print(f"{path}: {len(labels)} rows, {rows.incomplete} of them incomplete")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("predict_glue.py"):
        run(args)


if __name__ == "__main__":
    main()
