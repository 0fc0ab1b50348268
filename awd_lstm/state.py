"""The training state: everything that the next update depends on, as tensors and plain values.

Each process contributes its own part (its columns' hidden states, its random streams); the rest is
the same in all of them. Reading is checkpoint.read: no code of the file is run.
"""

import random
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from awd_lstm import checkpoint
from awd_lstm.args import FREE_ON_RESUME
from awd_lstm.environment import BadInput, bad_input
from awd_lstm.qrnn import QRNNLayer
from common.asgd import ASGD

if TYPE_CHECKING:
    from awd_lstm.training import Run


def plain(args: Namespace) -> dict:
    """The arguments as plain values."""
    return {name: value for name, value in vars(args).items()
            if isinstance(value, (str, int, float, bool, list, type(None)))}


def make_optimizer(kind: str, run: "Run") -> torch.optim.Optimizer:
    """kind: sgd, adam, or asgd (as NT-ASGD switches to: the initial lr, averaging from now on)."""
    lr, weight_decay = run.args.lr, run.args.wdecay
    if kind == "asgd":
        return ASGD(run.params, lr=lr, t0=0, weight_decay=weight_decay)
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind]
    fused = run.fabric.device.type in ("cpu", "cuda")  # one pass over the weights, same numbers
    return optimizer(run.params, lr=lr, weight_decay=weight_decay, fused=fused)


def save_state(run: "Run") -> None:
    """Writes the training state beside --save (process 0, with a part from every process)."""
    mine = {"hidden": run.hidden,
            "prev_x": [layer.prevX for layer in run.model.rnns if isinstance(layer, QRNNLayer)],
            "python": random.getstate(), "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if run.fabric.device.type == "cuda" else None}
    parts = [mine]
    if run.fabric.world_size > 1:
        parts = [None] * run.fabric.world_size
        dist.all_gather_object(parts, _to_cpu(mine))
    if not run.fabric.is_global_zero:
        return
    kind, keys, *rest = run.seq_len_rng.get_state()
    checkpoint.write(state_file(run.args.save, run.script), {
        "format": checkpoint.STATE_FORMAT, "script": run.script, "args": plain(run.args),
        "config": checkpoint.config_of(run.model), "model": run.model.state_dict(),
        "criterion": run.criterion.state_dict(), "splits": run.criterion.splits,
        "corpus": run.corpus.key, "vocabulary": run.corpus.dictionary.digest(),
        "optimizer": {"kind": _kind(run.optimizer), "state": run.optimizer.state_dict()},
        "progress": asdict(run.progress), "processes": parts,
        "seq_len_rng": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "save": str(Path(run.args.save).absolute()),
        "metrics": str(run.metrics.path.parent.absolute()), "metrics_size": run.metrics.size,
    }, keep_previous=True)


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return "asgd" if isinstance(optimizer, ASGD) else type(optimizer).__name__.lower()


def _to_cpu(value):
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {k: _to_cpu(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_cpu(v) for v in value)
    return value


def _to(value, device: torch.device):
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(_to(v, device) for v in value)
    return value


def read_for_resume(args: Namespace, script: str) -> dict | None:
    """What --resume names: a training state, a model file or an original's state_dict; None without
    --resume. Fills in args.save from a training state if it was not given. Raises BadInput."""
    if args.resume is None:
        return None
    if not args.resume and not args.save:
        raise BadInput("--resume needs --save (or a PATH) to know which run to continue")
    path = Path(args.resume) if args.resume else _own_state(args.save, script)
    with bad_input("--resume: "):
        content = checkpoint.read_or_previous(path)
    if content.get("format") == checkpoint.STATE_FORMAT:
        args.save = args.save or content["args"]["save"]
        _refuse_other_settings(path, content, args, script)
    return content


def set_state_aside(save: str, script: str) -> list[tuple[Path, Path]]:
    """Gives an earlier run's state, and the one before it, other names: (old, new) of each."""
    state = state_file(save, script)
    return [(old, aside) for old in (state, checkpoint.previous(state))
            if (aside := checkpoint.set_aside(old, "old")) is not None]


def _own_state(save: str, script: str) -> Path:
    path = state_file(save, script)
    if not path.is_file():
        raise BadInput(f"--resume: there is no training state {path}; start without --resume")
    return path


def state_file(save: str, script: str) -> Path:
    """main.py: PTB.pt -> PTB.state.pt; finetune.py: PTB.pt -> PTB.finetune.state.pt."""
    return Path(save).with_suffix(".state.pt" if script == "main" else f".{script}.state.pt")


def _refuse_other_settings(path: Path, content: dict, args: Namespace, script: str) -> None:
    if content["script"] != script:
        raise BadInput(f"--resume: {path} is a state of {content['script']}.py, not of {script}.py")
    now = plain(args)
    different = [f"--{name} {old} there, {now[name]} here" for name, old in content["args"].items()
                 if name in now and name not in FREE_ON_RESUME and now[name] != old]
    if different:
        raise BadInput(f"--resume: {path} was made with other settings ({'; '.join(different)}); "
                       "give the same ones, or start anew from its weights with --resume MODEL.pt")


def restore(run: "Run", content: dict) -> None:
    """Puts a run where the training state says. Raises BadInput if it belongs to other texts or
    another number of processes."""
    if content["corpus"] != run.corpus.key:
        raise BadInput(f"--resume: the texts in {run.args.data} are not those trained on so far")
    if len(content["processes"]) != run.fabric.world_size:
        raise BadInput(f"--resume: the training state is of {len(content['processes'])} processes, "
                       f"not {run.fabric.world_size}")
    device = run.fabric.device
    run.model.load_state_dict(content["model"])
    run.criterion.load_state_dict(content["criterion"])
    run.optimizer = make_optimizer(content["optimizer"]["kind"], run)
    run.optimizer.load_state_dict(content["optimizer"]["state"])
    run.progress = type(run.progress)(**content["progress"])
    kind, keys, *rest = content["seq_len_rng"]
    run.seq_len_rng.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    mine = content["processes"][run.fabric.global_rank]
    run.hidden = _to(mine["hidden"], device)
    layers = [layer for layer in run.model.rnns if isinstance(layer, QRNNLayer)]
    for layer, frame in zip(layers, mine["prev_x"], strict=True):
        layer.prevX = _to(frame, device)
    version, numbers, gauss = mine["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(mine["torch"])
    if device.type == "cuda" and mine["cuda"] is not None:
        torch.cuda.set_rng_state(mine["cuda"])
