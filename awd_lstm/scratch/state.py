"""Files of a run: the best model, the training state, the table of epochs (awd_lstm.checkpoint
writes them in one piece and reads them without running code)."""

import csv
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from awd_lstm import checkpoint
from awd_lstm.environment import BadInput, bad_input
from awd_lstm.scratch.model import AWD_LSTM
from awd_lstm.scratch.training import Progress, Run
from awd_lstm.scratch.utils import config_of_state, from_published
from awd_lstm.state import plain, state_file
from common.splitcross import SplitCrossEntropyLoss

MODEL_FORMAT = "awd_lstm scratch model 1"


# ---------------------------------------------------------------------------------- the best model
def save_best(run: Run, message: str) -> None:
    """Writes the model file with the weights as they are now."""
    criterion = run.criterion
    checkpoint.write(run.args.save, {
        "format": MODEL_FORMAT, "config": run.model.config, "model": run.model.state_dict(),
        "splits": criterion and criterion.splits, "criterion": criterion and criterion.state_dict(),
        "args": plain(run.args), "vocabulary": run.corpus.dictionary.digest(),
        "script": run.script, "epoch": run.progress.epoch, "valid_loss": run.progress.val_loss})
    run.say(message)


def weights_of(content: dict) -> dict:
    """The state_dict in a model file, a training state, or a bare one of the published code."""
    if "format" in content:
        return content["model"]
    return from_published(content) if "layer0.weight_raw" in content else content


def load_model(flag: str, path: str, words: int, vocabulary: str, **rates
               ) -> tuple[AWD_LSTM, SplitCrossEntropyLoss | None]:
    """The trained model in a file and its loss. A bare state_dict has no dropouts: `rates`."""
    with bad_input(f"{flag}: "):
        content = checkpoint.read(path)
    known = content.get("vocabulary", vocabulary)
    try:
        weights = weights_of(content)
        config = content.get("config") or config_of_state(weights) | rates
        model = AWD_LSTM(**config)
        model.load_state_dict(weights)
        splits = content.get("splits", checkpoint.default_splits(words))
        criterion = None
        if splits is not None:
            criterion = SplitCrossEntropyLoss(config["embedding_size"], splits)
            criterion.load_state_dict(content.get("criterion") or criterion.state_dict())
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{flag} {path} is no model of awd_lstm/scratch ({reason})") from None
    if config["ntokens"] != words or known != vocabulary:
        raise BadInput(f"{flag} {path} knows other words than --data: give the text that it was "
                       "trained on")
    return model, criterion


def start_from(run: Run, content: dict) -> None:
    """Weights of a file, everything else fresh."""
    if content.get("vocabulary", run.corpus.dictionary.digest()) != run.corpus.dictionary.digest():
        raise BadInput(f"--resume: the model's vocabulary is not that of {run.args.data}")
    try:
        run.model.load_state_dict(weights_of(content))
    except (KeyError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"--resume: these weights do not fit the flags given: {reason}") from None
    run.say("Starting from the weights given, with a fresh optimizer and epoch count")


# ------------------------------------------------------------------------------ the training state
def save_state(run: Run) -> None:
    """Everything that the next update depends on, beside --save."""
    kind, keys, *rest = run.rng.get_state()
    on_gpu = run.fabric.device.type == "cuda"
    checkpoint.write(state_file(run.args.save, run.script), {
        "format": checkpoint.STATE_FORMAT, "script": run.script, "args": plain(run.args),
        "config": run.model.config, "model": run.model.state_dict(),
        "splits": run.criterion and run.criterion.splits,
        "criterion": run.criterion and run.criterion.state_dict(),
        "corpus": run.corpus.key, "vocabulary": run.corpus.dictionary.digest(),
        "triggered": run.schedule.triggered, "losses": run.schedule.losses,
        "optimizer": run.schedule.optimizer.state_dict(),
        "progress": asdict(run.progress), "hidden": run.hidden,
        "torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if on_gpu else None,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "save": str(Path(run.args.save).absolute()),
        "metrics": str(run.metrics.path.parent.absolute()), "metrics_size": run.metrics.size},
        keep_previous=True)


def restore(run: Run, content: dict) -> None:
    """Puts a run where the training state says."""
    if content["corpus"] != run.corpus.key:
        raise BadInput(f"--resume: the texts in {run.args.data} are not those trained on so far")
    run.model.load_state_dict(content["model"])
    if run.criterion is not None:
        run.criterion.load_state_dict(content["criterion"])
    if content["triggered"]:
        run.schedule.start_averaging()
    run.schedule.losses = content["losses"]
    run.schedule.optimizer.load_state_dict(content["optimizer"])
    run.progress = Progress(**content["progress"])
    if content["hidden"] is not None:
        run.hidden = tuple([s.to(run.fabric.device) for s in part] for part in content["hidden"])
    kind, keys, *rest = content["numpy"]
    run.rng.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(content["torch"])
    if content["cuda"] is not None and run.fabric.device.type == "cuda":
        torch.cuda.set_rng_state(content["cuda"])


def write_table(run: Run) -> None:
    """The published code's CSV, rewritten after every epoch: one line per epoch."""
    history = run.progress.history
    if not history:
        return
    path = Path(run.args.save).with_suffix(".csv")
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, list(history[0]))
        table.writeheader()
        table.writerows(history)
    temporary.replace(path)
