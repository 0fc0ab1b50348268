"""Small texts, tagged sentences and runs for the tests."""

import hashlib
import random
from pathlib import Path

import pytest
import torch

from harness import files
from sparse_seq.language_modeling import finetune
from sparse_seq.sequence_labeling import main as tagger

SIZES = ["--emsize", "12", "--nhid", "16", "--nlayers", "2", "--batch_size", "6", "--bptt", "9",
         "--log-interval", "4", "--no-cuda"]
SPARSE = ["--sparse_mode", "sparse_all", "--sparse_fract", "0.7", "--emblocks", "3",
          "--emdensity", "0.6"]
TAGGER = ["--emsize", "8", "--emb_blocks", "4", "--emb_density", "0.5", "--nhid", "5",
          "--batch_size", "4", "--dropouti", "0.2", "--wdrop", "0.2", "--lr", "0.01"]


def write_texts(folder: Path, train: int = 500) -> Path:
    """A text of a repeating phrase with some noise, `train` words long."""
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"w{i}" for i in range(25)]
    for split, count in (("train", train), ("valid", 90), ("test", 60)):
        text = [rng.choice(words) if rng.random() < 0.3 else words[i % 7] for i in range(count)]
        lines = [" ".join(text[i:i + 10]) for i in range(0, count, 10)]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_sentences(folder: Path, train: int = 40) -> Path:
    """Sentences whose tags follow from the tokens."""
    rng = random.Random(2)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("valid", 9), ("test", 8)):
        lines = []
        for _ in range(count):
            ids = [rng.choice((rng.randrange(5), rng.randrange(30)))
                   for _ in range(rng.randrange(1, 9))]
            lines.append("".join(f"t{i}\tT{i % 3}\n" for i in ids) + "\n")
        (folder / f"{split}.conll").write_text("".join(lines))
    return folder


def run(script, folder: Path, *flags: str):
    """Runs a script of the language models in this process, in the folder `folder`/run."""
    data = [] if script is finetune else ["--data", str(folder / "texts")]
    return script.main([*SIZES, *data, "--save", str(folder / "run"), "--log-dir",
                        str(folder / "logs"), *flags])


def run_tagger(folder: Path, *flags: str):
    return tagger.main([*TAGGER, "--data", str(folder / "tagged"), "--save", str(folder / "run"),
                        "--log-dir", str(folder / "logs"), *flags])


def ends(capsys, code: int, script, folder: Path, *flags: str) -> str:
    """What such a run says on stderr before it ends with this exit code: one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_tagger(folder, *flags) if script is tagger else run(script, folder, *flags)
    said = capsys.readouterr().err
    assert end.value.code == code, said
    assert said.count("\n") == (1 if code in (1, 2) else 0), said
    return said


def fingerprint(content) -> str:
    """SHA-256 of tensors and plain values, nested at will."""
    digest = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous()
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            for key, item in value.items():
                digest.update(f"{key!r}:".encode())
                add(item)
        elif isinstance(value, (list, tuple)):
            digest.update(f"{len(value)}".encode())
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(content)
    return digest.hexdigest()


def assert_same(a: Path, b: Path, name: str) -> None:
    """Two training states or models, bit for bit: all but where and how fast they were made."""
    one, two = (files.read(folder / "run" / name) for folder in (a, b))
    for part in ("model", "optimizer", "progress", "processes", "order", "best", "inputs"):
        if part in one:
            drop = {"seconds"}  # of the wall clock
            x, y = ({k: v for k, v in c[part].items() if k not in drop}
                    if isinstance(c[part], dict) else c[part] for c in (one, two))
            assert fingerprint(x) == fingerprint(y), part
    assert all(torch.isfinite(v).all() for v in one["model"].values())
