"""Training states of release 0.1, which these scripts wrote before harness/ kept their runs."""

from pathlib import Path

from harness import files
from harness.keeper import STATE_FORMAT, Keeper

STATE_FORMAT_1 = "trellisnet training state 1"
# A flag that only this script has tells whose a state is: they did not say.
SCRIPTS = {"alpha": "trellisnet/word_PTB/word_ptb.py",
           "splits": "trellisnet/word_WT103/word_wt103.py",
           "dataset": "trellisnet/char_PTB/char_ptb.py",
           "cifar": "trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py"}


def upgrade(content: dict) -> dict:
    """A state of release 0.1 as Keeper.save writes it now; anything else as it is."""
    if content.get("format") != STATE_FORMAT_1:
        return content
    progress, args = content["progress"], content["args"]
    best = progress.get("best_file", args["save"])  # the classifier's was always --save
    exists = progress["best"] is not None if "best" in progress else progress["epoch"] > 1
    return content | {
        "format": STATE_FORMAT,
        "script": next(script for flag, script in SCRIPTS.items() if flag in args),
        "save": content.get("save", str(Path(args["save"]).absolute())),
        "best": (".asgd" if Path(best).stem.endswith("_asgd") else "") if exists else None,
        "progress": progress | {"row": progress.get("i", 0)},
        "inputs": None,  # not noted then; the vocabulary and the pixels' order are compared
        "processes": [{"random": {"torch": part["torch"], "cuda": part["cuda"]},
                       "own": part["extra"]} for part in content["parts"]],
        "metrics": progress["metrics"], "log_size": None}


def adopt_best(keeper: Keeper) -> None:
    """Gives the best averaged model of such a run, x_asgd.pt, its name of now as well: x.pt.asgd.
    The old file stays."""
    new, save = keeper.best(".asgd"), keeper.places.best
    old = save.with_stem(f"{save.stem}_asgd")
    if keeper.found and keeper.found["best"] == ".asgd" and keeper.writes \
            and keeper.fabric.is_global_zero and old.is_file() and not new.exists():
        files.replace(new, lambda file: file.write(old.read_bytes()))
    keeper.fabric.barrier()
