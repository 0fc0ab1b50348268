"""Small runs of the Long Range Arena script on tiny ListOps files in the working directory."""

import csv
import os
import random
import re
import subprocess
import sys
from pathlib import Path

from tnn.lra.main import main

ROOT = Path(__file__).resolve().parents[3]
MAIN = ROOT / "tnn/lra/main.py"
SMALL = ["--task=listops", "--d-model=8", "--n-layers=1", "--dpb-dim=4", "--batch-size=4",
         "--epochs=2", "--warmup=2", "--lr=0.01", "--workers=0", "--seed=1", "--data=."]


def write_sums(folder: Path, train: int = 22) -> None:
    """listops/ with sums modulo ten, of 3 to 20 digits: 22 / 5 / 5 of them."""
    rng = random.Random(0)
    (folder / "listops").mkdir()
    for split, count in (("train", train), ("val", 5), ("test", 5)):
        with open(folder / f"listops/basic_{split}.tsv", "w", newline="") as file:
            rows = csv.writer(file, delimiter="\t")
            rows.writerow(["Source", "Target"])
            for _ in range(count):
                digits = " ".join(str(rng.randrange(10)) for _ in range(rng.randrange(3, 21)))
                text = f"( [SM {digits} ] )"
                rows.writerow([text, sum(map(int, re.findall(r"\d", text))) % 10])


def flags(*more, name="a") -> list[str]:
    return [*SMALL, "--save", f"{name}.pt", "--log-dir", "logs", *map(str, more)]


def run(*more, name="a") -> int:
    """The script in this process -> its exit code."""
    try:
        main(flags(*more, name=name))
    except SystemExit as stop:
        return stop.code
    return 0


def launch(*more, name="a", **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(MAIN), *flags(*more, name=name)], text=True,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            **options)
