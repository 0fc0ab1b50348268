"""TNN on the Long Range Arena (Qin et al. 2023, section 5; data of Tay et al. 2021).

    python tnn/lra/main.py --task listops            (published test accuracies: listops 61.04,
    python tnn/lra/main.py --task imdb                imdb 87.90, aan 90.97, cifar 88.24,
    python tnn/lra/main.py --task pathfinder          pathfinder 93.00, pathfinderx 96.10)

On a small machine (about a minute and a half on one CPU core):
    ./getdata.sh listops
    python tnn/lra/main.py --task listops --d-model 64 --n-layers 2 --batch-size 16 \\
        --l-max 600 --train-limit 2000 --eval-limit 200 --epochs 1 --warmup 20 --lr 2e-3

--settings script (default) are the hyperparameters of the published runs, --settings yaml those of
the experiment files; both are in settings.py, and each value has a flag.
"""

import argparse
import os
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
import torch.nn.functional as F
from tqdm import tqdm

from tnn import runs
from tnn.lra.data import add_data_flags, load_task
from tnn.lra.norms import NORMS
from tnn.lra.run import Run, check_writable, total_of
from tnn.lra.settings import ARCHS, TASKS, published_arch, settings_of
from tnn.lra.utils import (
    END_LINE,
    EPOCH_LINE,
    cosine_factor,
    evaluation_batches,
    loader,
    training_batches,
)

HERE = Path(__file__).resolve().parent
OnOff = argparse.BooleanOptionalAction
MOST_LAYERS = 10_000


# ------------------------------------------------------------------------------------ settings
def add_model_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("network (no value: the task's, see --settings)")
    g.add_argument("--n-layers", type=int, metavar="N", help="pairs of token and channel mixers")
    g.add_argument("--d-model", type=int, metavar="N", help="width")
    g.add_argument("--expand-tno", type=float, metavar="X", help="token mixer's width / d_model")
    g.add_argument("--expand-glu", type=float, metavar="X", help="channel mixer's width / d_model")
    g.add_argument("--n-heads", type=int, default=1, metavar="N", help="heads of an encoder")
    g.add_argument("--use-decay", action=OnOff, help="damp the coefficient of lag k by gamma^k")
    g.add_argument("--gamma", type=float, help="that gamma")
    g.add_argument("--dpb-dim", type=int, metavar="N", help="width of the position encoder")
    g.add_argument("--dpb-type", type=int, metavar="N",
                   help="8: encoder of --dpb-layers stages; any other number: the published one")
    g.add_argument("--dpb-layers", type=int, metavar="N", help="has an effect with --dpb-type 8")
    g.add_argument("--tno-max-l", "--max-l", type=int, metavar="N",
                   help="lags that a token mixer in one dimension sees: +-(N-1); 0: all (tno 1024, "
                        "gtu 512)")
    g.add_argument("--norm", choices=tuple(NORMS), help="norm of the blocks")
    g.add_argument("--prenorm", action=OnOff, help="norm before the layer, not after the sum")
    g.add_argument("--dropout", type=float, help="in and after each layer")
    g.add_argument("--position-dropout", type=float, default=0.1,
                   help="after the position encoding, in every task as in the original")
    g.add_argument("--mask-padding", action=OnOff, default=False,
                   help="keep padded positions out of the mixing and of the norms' statistics; as "
                        "published they take part, and results depend on how far a batch is padded")


def add_training_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("training (no value: the task's, see --settings)")
    g.add_argument("--batch-size", type=int, metavar="N",
                   help="samples of one process and one backward pass (None: the task's batch "
                        "/ processes / --accumulate)")
    g.add_argument("--accumulate", type=int, default=1, metavar="N",
                   help="batches in an update; batch norm sees one batch at a time")
    g.add_argument("--epochs", type=int, help="passes over the training set")
    g.add_argument("--lr", type=float, help="learning rate after the warm-up")
    g.add_argument("--weight-decay", type=float, help="of all weights")
    g.add_argument("--warmup", type=int, metavar="N", help="updates until then; the first has lr 0")
    g.add_argument("--total-steps", type=int, metavar="N", help="update at which the cosine is 0")
    g.add_argument("--lr-after-end", choices=("cycle", "zero"), default="cycle",
                   help="beyond --total-steps the cosine rises again, as published, or stays 0")
    g.add_argument("--eval-drop-last", action="store_true",
                   help="leave the last incomplete batch unscored, as published")
    g.add_argument("--seed", type=int, default=2222, help="seed of every random stream")
    g.add_argument("--workers", type=int, default=4, metavar="N",
                   help="processes that read data, at most one per core")


def add_run_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("files")
    g.add_argument("--data", default=os.environ.get("DATA_PATH", str(HERE / "data")), metavar="DIR",
                   help="root of the tasks' folders ($DATA_PATH)")
    g.add_argument("--save", metavar="FILE", help="best model (None: TASK-ARCH.pt in the working "
                   "directory); the training state goes beside it as *.state.pt")
    g.add_argument("--resume", nargs="?", const="", metavar="PATH",
                   help="continue the run of --save exactly where it stopped, or that of PATH")
    g.add_argument("--load", default="", metavar="FILE",
                   help="start from these weights: a model file, or a checkpoint of the original")
    g.add_argument("--eval", action="store_true", help="evaluate, print, stop (with --load)")
    g.add_argument("--log-interval", type=int, default=10, metavar="N",
                   help="report every N updates")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="TNN on the Long Range Arena",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--task", required=True, choices=TASKS, help="what to run")
    p.add_argument("--arch", choices=ARCHS, help="token mixer (None: tno for texts, tno2d for "
                   "images; gtu and gtu2d are the same under newer names)")
    p.add_argument("--settings", choices=("script", "yaml"), default="script",
                   help="hyperparameters of the published runs, or of the experiment files")
    for add in (add_model_flags, add_training_flags, add_data_flags, add_run_flags):
        add(p)
    runs.add_flags(p, HERE / "logs/TASK-ARCH")
    args = p.parse_args(argv)
    for name, value in settings_of(args.task, args.settings, args.arch).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    args.log_dir = args.log_dir.replace("TASK-ARCH", f"{args.task}-{args.arch}")
    if args.save is None:
        args.save = f"{args.task}-{args.arch}.pt"
    check(p, args)
    return args


def check(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses nonsense in one sentence that names the flag (exit code 2)."""
    runs.check_flags(p, args)
    for name in ("n_layers", "d_model", "n_heads", "dpb_dim", "batch_size", "accumulate", "epochs",
                 "total_steps", "log_interval"):
        value = getattr(args, name)
        if value is not None and value < 1:
            p.error(f"--{name.replace('_', '-')} must be at least 1")
    for name in ("warmup", "weight_decay", "dpb_layers", "tno_max_l", "workers"):
        if getattr(args, name) < 0:
            p.error(f"--{name.replace('_', '-')} must not be negative")
    for name in ("dropout", "position_dropout"):
        if not 0 <= getattr(args, name) < 1:
            p.error(f"--{name.replace('_', '-')} must be in [0, 1)")
    for name in ("lr", "expand_tno", "expand_glu", "gamma"):
        if getattr(args, name) <= 0:
            p.error(f"--{name.replace('_', '-')} must be positive")
    check_sizes(p, args)
    if args.arch.endswith("2d") and published_arch(args.task) == "tno":
        p.error(f"--arch {args.arch}: {args.task} is text; tno2d and gtu2d are for images")
    if args.eval and not args.load:
        p.error("--eval needs --load FILE")
    args.workers = min(args.workers, os.cpu_count() or 1)


def check_sizes(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Layers that can be built in finite time, widths that are numbers of channels."""
    for name in ("n_layers", "dpb_layers"):
        if getattr(args, name) > MOST_LAYERS:
            p.error(f"--{name.replace('_', '-')} must be at most {MOST_LAYERS}")
    for name in ("expand_tno", "expand_glu"):
        width = args.d_model * getattr(args, name)
        if not 1 <= width < 2**31:
            p.error(f"--d-model {args.d_model} x --{name.replace('_', '-')} {getattr(args, name)} "
                    f"makes a width of {width:.3g}, which cannot be")
    if args.d_model * args.expand_tno < args.n_heads:
        p.error(f"--n-heads {args.n_heads} is more than --d-model x --expand-tno, "
                f"{args.d_model * args.expand_tno:g}")


# ---------------------------------------------------------------------------------- evaluation
@torch.no_grad()
def evaluate(run: Run, data) -> tuple[float, float]:
    """Mean loss and accuracy (percent)."""
    run.model.eval()
    args, fabric = run.args, run.fabric
    batches = evaluation_batches(len(data), args.batch_size, fabric, args.eval_drop_last)
    loss, hits, seen = 0.0, 0, 0
    for x, y, lengths in loader(data, batches, run.task.collate, args.workers, fabric):
        if fabric.world_size == 1:  # the others may have another number of batches
            run.signals.check()
        with fabric.autocast():
            logits = run.model(x, lengths)
        loss += F.cross_entropy(logits.float(), y, reduction="sum").item()
        hits += (logits.argmax(-1) == y).sum().item()
        seen += len(y)
    loss, hits, seen = total_of(fabric, loss, hits, seen)
    if not seen:
        raise runs.BadInput(f"--eval-drop-last leaves nothing of {len(data)} samples in batches of "
                            f"{args.batch_size}")
    return loss / seen, 100 * hits / seen


def evaluate_both(run: Run) -> dict[str, float]:
    """Validation and test set; imdb's validation set is, as published, its test set."""
    same = run.args.task == "imdb" and not run.args.val_split
    test_loss, test = evaluate(run, run.task.test)
    val_loss, val = (test_loss, test) if same else evaluate(run, run.task.val)
    return {"val_loss": val_loss, "val": val, "test_loss": test_loss, "test": test}


# ------------------------------------------------------------------------------------ training
def train_epoch(run: Run) -> bool:
    """Goes on with the current epoch; was it finished? Raises Interrupted, FloatingPointError."""
    args, p, fabric = run.args, run.progress, run.fabric
    batches = training_batches(len(run.task.train), args.batch_size, fabric,
                               args.seed + p["epoch"])
    if not batches:
        raise runs.BadInput(f"{len(run.task.train)} training samples are not one batch of "
                            f"{args.batch_size} on each of {fabric.world_size} processes: give a "
                            "smaller --batch-size")
    run.model.train()
    started = time.time() - p["seconds"]
    found = loader(run.task.train, batches[p["batch"]:], run.task.collate, args.workers, fabric)
    bar = tqdm(found, f"epoch {p['epoch']}", len(batches), initial=p["batch"], leave=False,
               disable=None if fabric.is_global_zero else True)
    for x, y, lengths in bar:
        updating = (p["batch"] + 1) % args.accumulate == 0 or p["batch"] + 1 == len(batches)
        loss = one_batch(run, x, y, lengths, updating)
        p["batch"] += 1
        p["seconds"] = time.time() - started
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if not updating:
            continue
        stopping = run.out_of_steps() and p["batch"] < len(batches)
        if p["step"] % args.save_interval == 0 or stopping:
            run.save_state()
        run.signals.check()
        if stopping:
            return False
    return True


def one_batch(run: Run, x, y, lengths, updating: bool) -> float:
    """Forward, backward and, with `updating`, the update. Raises FloatingPointError before it if
    the loss or a gradient is not finite."""
    args, p = run.args, run.progress
    watched = updating and (p["step"] + 1) % args.log_interval == 0
    run.model.watch = [] if watched else None
    start = time.time()
    with run.fabric.no_backward_sync(run.step_model, enabled=not updating):
        logits = run.step_model(x, lengths)
        loss = F.cross_entropy(logits, y)
        run.fabric.backward(loss / args.accumulate)
    p["loss"] += loss.item() * len(y)
    p["hits"] += (logits.argmax(-1) == y).sum().item()
    p["seen"] += len(y)
    if updating:
        runs.check_finite(run.fabric, run.model, loss.item(), p["epoch"], p["step"])
        lr = args.lr * cosine_factor(p["step"], args.warmup, args.total_steps, args.lr_after_end)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        run.optimizer.step()
        run.optimizer.zero_grad()
        p["step"] += 1
    if watched:
        run.log({"trainer/loss": loss.item(), "trainer/epoch": p["epoch"], "trainer/lr": lr,
                 "timer/step": time.time() - start}
                | {f"norm/{i}": v.item() for i, v in enumerate(run.model.watch)})
    return loss.item()


def end_of_epoch(run: Run, whole: bool) -> None:
    """Evaluates, reports, keeps the best model. Of an epoch that --max-steps cuts short none is
    kept unless there is no other: the state of the run knows nothing of it."""
    p, start = run.progress, time.time()
    loss, hits, seen = total_of(run.fabric, p["loss"], p["hits"], p["seen"])
    scores = evaluate_both(run) | {"train_loss": loss / seen, "train": 100 * hits / seen}
    p["max_test"] = max(p["max_test"], scores["test"])
    p["last"] = scores
    lr = run.optimizer.param_groups[0]["lr"]
    run.say(EPOCH_LINE.format(epoch=p["epoch"], step=p["step"], lr=lr,
                              seconds=p["seconds"] + time.time() - start, **scores))
    run.log({f"{split}/accuracy": scores[split] / 100 for split in ("train", "val", "test")}
            | {f"{split}/loss": scores[f"{split}_loss"] for split in ("train", "val", "test")}
            | {"timer/epoch": p["seconds"], "timer/validation": time.time() - start})
    if p["best"] is None or (whole and scores["val"] > p["best"]["val"]):
        p["best"] = {"epoch": p["epoch"], "val": scores["val"], "test": scores["test"]}
        run.save_model(val_accuracy=scores["val"], test_accuracy=scores["test"])


def train(run: Run) -> None:
    """Epochs until --epochs or --max-steps, then the closing lines."""
    p = run.progress
    while p["epoch"] <= run.args.epochs and not run.out_of_steps():
        finished = train_epoch(run)
        end_of_epoch(run, whole=finished)
        if not finished:
            break
        p.update(epoch=p["epoch"] + 1, batch=0, loss=0.0, hits=0, seen=0, seconds=0.0)
        run.save_state()
    if p["best"] is None:
        raise runs.BadInput("--resume: that run is already past --max-steps, and was never "
                            "evaluated")
    last = p["last"]
    run.log({"final/val/accuracy": last["val"] / 100, "final/test/accuracy": last["test"] / 100})
    run.say(END_LINE.format(**p["best"], last=last["test"], max_test=p["max_test"]))


# ---------------------------------------------------------------------------------------- main
def build(args: argparse.Namespace) -> Run:
    """Data, network and optimiser: fresh, --load's, or where --resume says."""
    fabric = runs.make_fabric(args)
    if args.batch_size is None:
        args.batch_size = max(1, args.batch // fabric.world_size // args.accumulate)
    if not args.eval:
        check_writable(args.save)
        save = Path(args.save)
        runs.claim(save.with_name(f".{save.name}.lock"), f"--save {save}", fabric)
    with runs.bad_input(), fabric.rank_zero_first():
        task = load_task(args.task, Path(args.data), args)
    run = Run(args, fabric, task)
    if args.resume is not None:
        run.restore()
        run.say(f"Resuming at epoch {run.progress['epoch']}, update {run.progress['step']}")
    elif args.load:
        run.load(args.load)
    if args.resume is None and not args.eval:
        run.set_old_files_aside()
    return run


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with runs.orderly_exit("lra/main.py"):
        run = build(args)
        if args.eval:
            scores = evaluate_both(run)
            run.say("val loss {val_loss:.4f} acc {val:.2f} | test loss {test_loss:.4f} acc "
                    "{test:.2f}".format(**scores))
            return
        run.open_log()
        try:
            train(run)
        except runs.Interrupted:
            run.save_state()
            run.say(f"To go on: the same command with --resume ({run.state_path})")
            raise
        finally:
            run.close()


if __name__ == "__main__":
    main()
