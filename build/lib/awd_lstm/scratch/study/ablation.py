"""What explains the published 91.0? One setting changed at a time, on a slice of the Penn Treebank.

    make reproduce-awd-scratch-ablation      (or: python awd_lstm/scratch/study/ablation.py causes)
    make reproduce-awd-scratch-parity        (or: python awd_lstm/scratch/study/ablation.py parity)
    python awd_lstm/scratch/study/ablation.py curves

`causes`: the paper's recipe with one thing spoiled, the published code with one thing mended, and
averaging, fine-tuning and the cache on top of the paper's recipe; 40 minutes on one CPU core.
`parity`: this directory against awd_lstm/main.py (nn.LSTM), same settings, three seeds; 10 minutes.
`curves`: only draws, the published code's 500 epochs and every recorded run of awd-scratch-ptb.

Every run is recorded by `python -m report run`, in runs/awd-scratch-<experiment>/; typed again,
finished runs are skipped and an interrupted one continues. Table, plot and numbers:
results/awd-scratch-*/. --smoke does a few updates of each run, below runs/smoke.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

from awd_lstm.scratch.study import ablation_report
from report.step_files import make_workdir

MAIN = "awd_lstm/scratch/main.py"
LINES = {"train": 3000, "valid": 1000, "test": 1000}  # of the Penn Treebank's files
SIZE = "--data text --emsize 100 --nhid 200 --bptt 35 --no-cuda"
SCRATCH_SIZE = f"{SIZE} --eval_batch_size 10 --train_rows 200 --epochs 10"

# name                  flags beside SCRATCH_SIZE, and what the run shows
CAUSES = (
    ("paper",           "", "the paper's recipe"),
    ("paper-seed2",     "--seed 2", "the same, seed 2: how much is chance"),
    ("paper-seed3",     "--seed 3", "the same, seed 3"),
    ("lr0.4",           "--lr 0.4", "learning rate 0.4, not 30"),
    ("untied",          "--no-tied", "decoder not tied"),
    ("tied-normal",     "--normal-init", "tied, word vectors from N(0, 1)"),
    ("published",       "--as-published --nhid 200 --eval_batch_size 10",
                        "the published code, all its causes together"),
    ("published-lr30",  "--as-published --nhid 200 --eval_batch_size 10 --lr 30",
                        "the published code, learning rate 30"),
    ("sorted",          "--sort-chunks", "longest chunks first"),
    ("ar-norm",         "--norm-regularisers", "AR, TAR: L2 norms, not mean squares"),
    ("ar-detached",     "--detach-regularisers", "AR, TAR: no gradient (that is, none at all)"),
    ("output-dropout",  "--dropout 0.25 --shared-masks", "output dropout 0.25, shared masks"),
    ("mask-per-step",   "--mask-per-step", "a weight mask per time step"),
    ("published-tied",  "--as-published --nhid 200 --eval_batch_size 10 --tied",
                        "the published code, tied (its experiment 4)"),
)
MORE = (  # these continue from the model of `paper`
    ("averaged",        "--finetune --epochs 3", "paper, then 3 epochs of averaged SGD"),
    ("not-averaged",    "--finetune --epochs 3 --no-average",
                        "paper, then 3 epochs of ASGD whose average is not used"),
    ("pointer",         "--pointer", "paper, with the continuous cache"),
)
SEEDS = (1, 2, 3)
# At the paper's rate of 30 the first two epochs jump about (one run went from 484 to 527).
PARITY_SIZE = (f"{SIZE} --lr 10 --epochs 2 --batch_size 20 --dropouti 0.4 --dropouth 0.25 "
               "--log-dir logs")
PARITY = (("toolkit", "awd_lstm/main.py", "--exact-loss"),
          ("twin", "awd_lstm/scratch/study/twin.py", "--train_rows 200"),
          ("scratch", MAIN, "--train_rows 200"))


def write_text(folder: Path) -> None:
    """The first lines of each text; words that the training part lacks become <unk>."""
    if (folder / "test.txt").exists():
        return
    source = ROOT / "data" / "penn"
    if not (source / "train.txt").exists():
        sys.exit("ablation.py: no data/penn; ./getdata.sh ptb fetches it")
    folder.mkdir(parents=True, exist_ok=True)
    known = None
    for split, count in LINES.items():
        with (source / f"{split}.txt").open(encoding="utf-8") as file:
            first = [line.split() for _, line in zip(range(count), file, strict=False)]
        known = known or {word for line in first for word in line}
        text = [" ".join(w if w in known else "<unk>" for w in line) for line in first]
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")


class Experiment:
    """Runs commands as recorded steps of one row."""

    def __init__(self, name: str, smoke: bool):
        self.row, self.smoke = f"awd-scratch-{name}", smoke
        self.folder = ROOT / "runs" / ("smoke" if smoke else "") / self.row
        make_workdir(self.folder)
        write_text(self.folder / "text")

    def run(self, step: str, script: str, flags: str, state: str) -> None:
        """One recorded run; ends the program with its exit code if it fails."""
        words = [script, *flags.split(), *(["--max-steps", "4"] if self.smoke else [])]
        record = [sys.executable, "-m", "report", "run", self.row, step,
                  *(["--smoke"] if self.smoke else []), "--resume-flag=--resume",
                  "--resume-if", state, "--shrunk", "a slice of PTB, small layers, few epochs"]
        code = subprocess.run([*record, "--", *words], cwd=ROOT, check=False).returncode
        if code:
            sys.exit(code)


def causes(experiment: Experiment) -> None:
    """The paper's recipe, what continues from its model, then all others."""
    for name, flags, _ in (CAUSES[0], *MORE, *CAUSES[1:]):
        state = "finetune.state" if "--finetune" in flags else "state"
        model = experiment.folder / f"{name}.pt"
        if name in [more for more, _, _ in MORE] and not model.exists():
            shutil.copy2(experiment.folder / "paper.pt", model)
        experiment.run(name, MAIN, f"{SCRATCH_SIZE} --save {name}.pt --log-dir logs {flags}",
                       f"{name}.pt.{state}")


def parity(experiment: Experiment) -> None:
    """Per seed the toolkit and its twin; then the same seeds left to themselves."""
    for kind, script, more in PARITY:
        for seed in SEEDS:
            name = f"{kind}-{seed}"
            flags = f"{PARITY_SIZE} --seed {seed} --save {name}.pt {more}"
            experiment.run(name, script, flags, "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("causes", "parity", "curves"))
    parser.add_argument("--smoke", action="store_true", help="a few updates of each run")
    parser.add_argument("--report", action="store_true",
                   help="run nothing, write the table of the runs that are done")
    args = parser.parse_args()
    if args.experiment == "curves":
        out = ROOT / "results" / "awd-scratch-curves"
        ablation_report.curves(out / "published.csv", ROOT / "results/records/awd-scratch-ptb",
                               out / "curves.png")
        return
    experiment = Experiment(args.experiment, args.smoke)
    out = experiment.folder if args.smoke else ROOT / "results" / experiment.row
    if args.experiment == "causes":
        if not args.report:
            causes(experiment)
        ablation_report.causes(experiment.folder, out, CAUSES, MORE)
    else:
        if not args.report:
            parity(experiment)
        ablation_report.parity(experiment.folder, out, SEEDS)


if __name__ == "__main__":
    main()
