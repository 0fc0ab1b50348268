"""TNN on images: training and evaluation in the manner of DeiT (section 4.3).

    bash tnn/script_im.sh                     ImageNet-1k as published: 300 epochs, 16 x 128 images
    python tnn/im/main.py --eval --resume checkpoint_best.pth --data-path imagenet

On a small machine (half a minute on one CPU core, accuracy over 90 %):
    ./getdata.sh digits
    make demo-tnn-im
"""

import argparse
import json
import sys
import time
from datetime import timedelta
from itertools import islice
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy

from tnn import files, runs
from tnn.im import checkpoint
from tnn.im.args import mixing, parse_args
from tnn.im.data import load_sets, loaders
from tnn.im.mixup import Mixup
from tnn.im.model import build
from tnn.im.utils import (
    Smoothed,
    correct_in_top,
    make_optimizer,
    make_schedule,
    reported,
    soft_cross_entropy,
)
from tnn.runs import BadInput, Interrupted, bad_input, orderly_exit


class Run:
    """What is trained, and how far it is: `progress` holds plain values, all that are counted."""

    def __init__(self, args: argparse.Namespace, fabric):
        self.args, self.fabric = args, fabric
        train, val, classes = load_sets(args)
        self.train, self.val = loaders(args, train, val, fabric.global_rank, fabric.world_size)
        self.val_images, self.classes = len(val), classes
        with bad_input("--model, --arch-options: "):
            self.model = build_model(args, classes)
        if args.finetune:
            checkpoint.finetune(self.model, args.finetune)
        self.net = runs.set_up(fabric, self.model, args)
        self.ema = ModelEmaV3(self.model, args.model_ema) if args.model_ema else None
        self.images_per_update = args.batch_size * fabric.world_size * args.accumulate
        with bad_input():
            raw = make_optimizer(self.model, args.opt, args.lr * self.images_per_update / 512,
                                 args.weight_decay, args.opt_eps, args.opt_betas, args.momentum)
        self.schedule = make_schedule(raw, args)
        self.optimizer = fabric.setup_optimizers(raw)
        self.updates = len(self.train.sampler) // args.batch_size // args.accumulate  # an epoch
        if not self.updates and not args.eval:
            raise BadInput(f"an epoch has {len(self.train.sampler)} images for this process, fewer "
                           f"than --batch-size {args.batch_size} x --accumulate {args.accumulate}")
        self.mixup = Mixup(args.mixup, args.cutmix, args.cutmix_minmax, args.mixup_prob,
                           args.mixup_switch_prob, args.mixup_mode, args.smoothing,
                           classes) if mixing(args) else None
        self.progress = {"epoch": args.start_epoch, "update": 0, "updates": 0,
                         "max_accuracy": 0.0, "loss": None}
        self.metrics, self.metrics_size = None, 0
        self.signals = runs.StopSignals(fabric)

    @property
    def parameters(self) -> int:
        """Those trained; the frozen decay is not counted."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def say(self, text: str) -> None:
        """One process speaks for all."""
        if self.fabric.is_global_zero:
            print(text, flush=True)

    def out_of_updates(self) -> bool:
        return bool(self.args.max_steps) and self.progress["updates"] >= self.args.max_steps

    def save(self, *names: str) -> None:
        """Writes the state below these names in --output_dir; all processes call it."""
        if not self.args.output_dir:
            return
        state = checkpoint.state_of(self)
        if self.fabric.is_global_zero:
            for name in names:
                files.write(Path(self.args.output_dir) / name, state,
                            keep_previous=name == "checkpoint_last.pth")
        self.fabric.barrier()

    def open_logs(self) -> None:
        """log.txt keeps the epochs before the one that comes."""
        if not self.fabric.is_global_zero:
            return
        name = Path(self.args.output_dir).name or self.args.model
        self.metrics = runs.Metrics(Path(self.args.log_dir) / name, self.progress["updates"],
                                    self.metrics_size)
        if self.args.output_dir:
            log = Path(self.args.output_dir) / "log.txt"
            lines = log.read_text().splitlines() if log.is_file() else []
            log.write_text("".join(f"{line}\n" for line in lines
                                   if json.loads(line)["epoch"] < self.progress["epoch"]))

    def log_epoch(self, **stats) -> None:
        """The original's line of log.txt, and the curves."""
        if not self.fabric.is_global_zero:
            return
        epoch = self.progress["epoch"]
        self.metrics.log(self.progress["updates"], epoch, **stats)
        if self.args.output_dir:
            with (Path(self.args.output_dir) / "log.txt").open("a") as log:
                log.write(json.dumps(stats | {"epoch": epoch, "n_parameters": self.parameters})
                          + "\n")


def build_model(args: argparse.Namespace, classes: int):
    """Raises ValueError for unknown names and sizes that do not fit."""
    try:
        return build(args.model, num_classes=classes, stochastic_depth=args.stochastic_depth,
                     **args.arch_options)
    except TypeError as error:
        raise ValueError(str(error).replace("TnnVit.__init__() got an ", "")) from None


# ------------------------------------------------------------------------------------ training
def train_epoch(run: Run) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, p = run.args, run.progress
    loss = Smoothed(p["loss"])
    # As in the original, fine-tuning leaves the model in evaluation mode.
    run.net.train(not args.finetune)
    run.train.sampler.set_epoch(p["epoch"], p["update"] * args.accumulate * args.batch_size)
    batches = iter(run.train)
    groups = (list(islice(batches, args.accumulate)) for _ in range(p["update"], run.updates))
    for group in reported(groups, f"Epoch: [{p['epoch']}]", run.updates, p["update"], run.say,
                          lambda: f"lr: {run.lr:.6f}  loss: {loss}"):
        loss.add(one_update(run, group))
        p.update(update=p["update"] + 1, updates=p["updates"] + 1, loss=loss.state())
        if p["updates"] % args.save_interval == 0 or run.out_of_updates():
            run.save("checkpoint_last.pth")
        run.signals.check()
        if run.out_of_updates():
            return


def one_update(run: Run, group: list) -> float:
    """Forward and backward on each batch of the group, clipping, step; returns the loss. Raises
    FloatingPointError before the step if the loss or a gradient is not finite."""
    args, total = run.args, 0.0
    run.optimizer.zero_grad()
    for i, batch in enumerate(group):
        images, target = run.fabric.to_device(batch)
        if run.mixup:
            images, target = run.mixup(images, target)
        with run.fabric.no_backward_sync(run.net, enabled=i < len(group) - 1):
            loss = loss_of(args, run.net(images), target) / len(group)
            run.fabric.backward(loss)
        total += loss.item()
    runs.check_finite(run.fabric, run.model, total, run.progress["epoch"], run.progress["updates"])
    if args.clip_grad is not None:
        run.fabric.clip_gradients(run.net, run.optimizer, max_norm=args.clip_grad,
                                  error_if_nonfinite=False)
    run.optimizer.step()
    if run.ema:
        run.ema.update(run.model)
    return total


def loss_of(args, logits, target):
    """Cross entropy with soft targets where images are mixed, else with smoothed labels."""
    if mixing(args):
        return soft_cross_entropy(logits, target)
    return cross_entropy(logits.float(), target, label_smoothing=args.smoothing)


# ---------------------------------------------------------------------------------- evaluation
@torch.no_grad()
def evaluate(run: Run, model: torch.nn.Module) -> dict[str, float]:
    """Mean loss over batches, and accuracy in percent over images; in float32."""
    model.eval()
    loss, acc1, acc5 = Smoothed(), Smoothed(), Smoothed()
    for images, labels in reported(run.val, "Test:", len(run.val), 0, run.say,
                                   lambda: f"loss: {loss}  acc1: {acc1}  acc5: {acc5}"):
        if run.fabric.world_size == 1:  # processes may have different numbers of batches
            run.signals.check()
        images, labels = run.fabric.to_device((images, labels))
        logits = model(images.to(next(model.parameters()).dtype)).float()
        loss.add(cross_entropy(logits, labels).item())
        for series, value in zip((acc1, acc5), correct_in_top(logits, labels), strict=True):
            series.add(value, len(labels))
    sums = torch.tensor([v for s in (loss, acc1, acc5) for v in (s.total, s.count)],
                        dtype=torch.float32 if run.fabric.device.type == "mps" else torch.float64)
    if run.fabric.world_size > 1:
        sums = run.fabric.all_reduce(sums.to(run.fabric.device), reduce_op="sum").cpu()
    values = (sums[0::2] / sums[1::2].clamp(min=1)).tolist()
    run.say(f"* Acc@1 {values[1]:.3f} Acc@5 {values[2]:.3f} loss {values[0]:.3f}")
    return dict(zip(("test_loss", "test_acc1", "test_acc5"), values, strict=True))


def report(run: Run, stats: dict[str, float]) -> None:
    run.say(f"Accuracy of the network on the {run.val_images} test images: "
            f"{stats['test_acc1']:.1f}%")


def train_stats(run: Run) -> dict[str, float]:
    """The epoch's mean loss over all processes, said in the original's words."""
    loss = Smoothed(run.progress["loss"])
    if run.fabric.world_size > 1:
        loss.total = float(run.fabric.all_reduce(torch.tensor(loss.total), reduce_op="mean"))
    run.say(f"Averaged stats: lr: {run.lr:.6f}  loss: {loss}")
    return {"train_lr": run.lr, "train_loss": loss.mean}


# ------------------------------------------------------------------------------------- recipe
def train(run: Run) -> None:
    p, args = run.progress, run.args
    run.open_logs()
    run.say(f"number of params: {run.parameters}")
    run.say(f"with the frozen decay: {sum(w.numel() for w in run.model.parameters())}")
    run.say(f"Start training for {args.epochs} epochs")
    start = time.time()
    while p["epoch"] < args.epochs and not run.out_of_updates():
        train_epoch(run)
        if p["update"] < run.updates:              # --max-steps ended the epoch before its end
            report(run, evaluate(run, run.model))
            break
        trained = train_stats(run)
        stats = evaluate(run, run.model)
        if run.ema:
            run.say("With averaged weights:")
            stats |= {f"{name}_ema": v for name, v in evaluate(run, run.ema.module).items()}
        report(run, stats)
        better = stats["test_acc1"] > p["max_accuracy"]
        p["max_accuracy"] = max(p["max_accuracy"], stats["test_acc1"])
        run.say(f"Max accuracy: {p['max_accuracy']:.2f}%")
        run.log_epoch(**trained, **stats)
        close_epoch(run, stats, better)
    run.say(f"Training time {timedelta(seconds=int(time.time() - start))}")


def close_epoch(run: Run, stats: dict[str, float], better: bool) -> None:
    """The schedule's step comes here, as in the original; then all files."""
    p = run.progress
    epoch = p["epoch"]
    run.schedule.step(epoch, stats["test_acc1"] if run.args.sched == "plateau" else None)
    p.update(epoch=epoch + 1, update=0, loss=None)
    names = ["checkpoint_last.pth"]
    if epoch % 5 == 0:
        names.append(f"checkpoint_{epoch}.pth")
    if better:
        names.append("checkpoint_best.pth")
    run.save(*reversed(names))


def prepare(args: argparse.Namespace) -> Run:
    """Machine, data, model, and the state that --resume names. Raises BadInput."""
    if args.precision is None:
        half = torch.cuda.is_available() and args.device != "cpu" and not args.fp32_resume
        args.precision = "16-mixed" if half else "32"
    run = Run(args, runs.make_fabric(args, broadcast_buffers=args.broadcast_buffers))
    if args.output_dir and not args.eval:
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        runs.claim(folder / ".lock", f"--output_dir {folder}", run.fabric)
    path = checkpoint.find(args)
    if path is not None and args.eval:
        weights = checkpoint.read(path, going_on=False)["model"]
        checkpoint.load_weights(run.model, weights, f"--resume {path}")
    elif path is not None:
        checkpoint.restore(run, checkpoint.read(path), path)
        run.say(f"Resuming from {path}: epoch {run.progress['epoch']}, "
                f"update {run.progress['update']}")
    elif args.resume not in ("", "auto"):
        if args.eval:
            raise BadInput(f"--resume: no file {args.resume}")
        run.say(f"--resume: no file {args.resume}: starting afresh")
    if args.output_dir and not args.eval and run.fabric.is_global_zero and path is None:
        set_aside(run, Path(args.output_dir))
    return run


def set_aside(run: Run, folder: Path) -> None:
    """A fresh run overwrites nothing: x.pth becomes x.pth.old."""
    for old in [*folder.glob("checkpoint_*.pth"), *folder.glob("log.txt")]:
        old.replace(old.with_name(f"{old.name}.old"))
        run.say(f"{old} is of an earlier run: kept as {old.name}.old")


def main(argv: list[str] | None = None) -> Run:
    args = parse_args(argv)
    with orderly_exit("main.py"):
        run = prepare(args)
        if args.eval:
            report(run, evaluate(run, run.model))
            return run
        try:
            train(run)
        except Interrupted:
            run.save("checkpoint_last.pth")
            run.say("To go on: the same command with --resume")
            raise
        finally:
            if run.metrics:
                run.metrics.close()
        return run


if __name__ == "__main__":
    main()
