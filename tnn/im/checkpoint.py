"""Checkpoints: the original's entries (model, optimizer, lr_scheduler, epoch, scaler, args) and,
in ours, all that the next update depends on besides.

The original's own files load too: they hold an argparse.Namespace, the one class besides tensors
and plain values that is let in.
"""

from argparse import Namespace
from pathlib import Path

import torch
from torch import nn

from tnn import files, runs
from tnn.runs import BadInput, bad_input

FORMAT = "tnn image training 1"
# Flags in which a resumed run may differ from its beginning.
FREE_ON_RESUME = {"epochs", "resume", "max_steps", "save_interval", "log_dir", "device", "devices",
                  "data_path", "compile", "output_dir", "deterministic", "num_workers", "pin_mem",
                  "eval", "dist_eval", "test", "start_epoch", "use_mcloader", "world_size",
                  "dist_url", "broadcast_buffers", "finetune", "drop", "drop_path", "resplit",
                  "batch_size", "accumulate"}


def state_of(run) -> dict:
    """A collective operation: every process must call it."""
    scaler = runs.scaler_of(run.fabric)
    return {"format": FORMAT, "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(), "lr_scheduler": schedule_state(run),
            "epoch": run.progress["epoch"] - 1, "scaler": scaler.state_dict() if scaler else {},
            "args": vars(run.args).copy(), "progress": run.progress,
            "ema": run.ema.module.state_dict() if run.ema else None,
            "metrics_size": run.metrics.size if run.metrics else 0,
            "images_per_update": run.images_per_update,
            "random": runs.parts_of_all(run.fabric, runs.random_states(run.fabric))}


def schedule_state(run) -> dict:
    """Only --sched plateau has a past; the others' rate follows from the epoch."""
    return run.schedule.lr_scheduler.state_dict() if run.args.sched == "plateau" else {}


def find(args: Namespace) -> Path | None:
    """The file that --resume means, if there is one."""
    if not args.resume:
        return None
    path = Path(args.resume)
    if args.resume == "auto":
        if not args.output_dir:
            raise BadInput("--resume without a path needs --output_dir")
        path = Path(args.output_dir) / "checkpoint_last.pth"
    return path if path.is_file() else None


def read(path: Path, going_on: bool = True) -> dict:
    """A checkpoint of ours or the original's; with `going_on`, if it is damaged, the one before it.
    Raises BadInput."""
    with bad_input("--resume: "):
        content = (files.read_or_previous if going_on else files.read)(path, safe=(Namespace,))
    if "model" not in content:
        raise BadInput(f"--resume {path} is no checkpoint of this script: it has no entry 'model'")
    return content


def load_weights(model: nn.Module, weights: dict, flag: str) -> None:
    """Raises BadInput if they are of another model."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise BadInput(f"{flag} does not fit --model: {reason}") from None


def restore(run, content: dict, path: Path) -> None:
    """Continues where the file stands; a file of the original's at the beginning of the next epoch.
    Raises BadInput."""
    if content.get("format") == FORMAT:
        same_settings(vars(run.args), content["args"], path)
        if content["images_per_update"] != run.images_per_update:
            raise BadInput(f"--resume {path}: that run had {content['images_per_update']} images "
                           f"an update, not {run.images_per_update}: set --accumulate")
    load_weights(run.model, content["model"], f"--resume {path}")
    if not {"optimizer", "epoch"} <= set(content):
        return  # weights alone
    run.optimizer.load_state_dict(content["optimizer"])
    scaler = runs.scaler_of(run.fabric)
    if scaler and content.get("scaler"):
        scaler.load_state_dict(content["scaler"])
    if content.get("format") == FORMAT:
        restore_ours(run, content)
    else:
        run.progress["epoch"] = content["epoch"] + 1
    if run.args.sched != "plateau" and run.progress["epoch"] > 0:
        run.schedule.step(run.progress["epoch"] - 1)


def restore_ours(run, content: dict) -> None:
    """What the original's files have not."""
    run.progress = content["progress"]
    if run.args.sched == "plateau":
        run.schedule.lr_scheduler.load_state_dict(content["lr_scheduler"])
    run.metrics_size = content["metrics_size"]
    if run.ema and content["ema"]:
        run.ema.module.load_state_dict(content["ema"])
    states = content["random"]
    if len(states) == run.fabric.world_size:  # else mixup draws anew
        runs.set_random_states(states[run.fabric.global_rank], run.fabric)


def same_settings(now: dict, then: dict, path: Path) -> None:
    """Raises BadInput naming the flags in which a resumed run differs from its beginning."""
    differ = [f"--{name} {now.get(name)} (was {then.get(name)})" for name in sorted(now | then)
              if name not in FREE_ON_RESUME and now.get(name) != then.get(name)]
    if differ:
        raise BadInput(f"--resume {path} continues a run with other settings: {', '.join(differ)}")


def finetune(model: nn.Module, source: str) -> None:
    """Weights from a file or URL; what does not fit the head is left out, and what is missing
    stays as it is (strict=False, as in the original). Raises BadInput."""
    if source.startswith("https"):
        content = torch.hub.load_state_dict_from_url(source, map_location="cpu", check_hash=True,
                                                     weights_only=True)
    else:
        with bad_input("--finetune: "):
            content = files.read(source, safe=(Namespace,))
    weights = content.get("model", content)
    own = model.state_dict()
    for name in ("head.1.weight", "head.1.bias"):
        if name in weights and weights[name].shape != own[name].shape:
            print(f"Removing key {name} from pretrained checkpoint")
            del weights[name]
    if not set(weights) & set(own):
        raise BadInput(f"--finetune {source} has none of the weights of --model")
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise BadInput(f"--finetune {source}: {' '.join(str(error).split())[:400]}") from None
