"""TNN on images: training and evaluation in the manner of DeiT (section 4.3).

    bash tnn/script_im.sh                     ImageNet-1k as published: 300 epochs, 16 x 128 images
    python tnn/im/main.py --eval --resume checkpoint_best.pth --data-path imagenet

On a small machine (half a minute on one CPU core, accuracy over 90 %):
    ./getdata.sh digits
    make demo-tnn-im
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tnn.im.args import arch_options, mixing, parse_args

if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from harness import machine
from harness.endings import BadInput, bad_input
from harness.graphs import Graphed, wanted
from harness.inputs import load_in_turn, refuse_together
from harness.keeper import Keeper
from tnn.im.data import Item, load_sets, loaders
from tnn.im.mixup import Mixup
from tnn.im.model import build as build_model
from tnn.im.run import (
    FREE_ON_RESUME,
    SCRIPT,
    EpochLog,
    Run,
    earlier_files,
    finetune,
    load_for_evaluation,
    upgrade,
)
from tnn.im.utils import (
    Smoothed,
    hits_in_top,
    make_optimizer,
    make_schedule,
    reported,
    soft_cross_entropy,
)
from tnn.inputs import DamagedPicture, batches


def build(args: argparse.Namespace, keeper: Keeper) -> Run:
    """Data, network, optimiser and schedule, the weights fresh or --finetune's. Raises BadInput."""
    fabric = keeper.fabric
    # Each process draws its own mixup and dropout; all take the first one's weights.
    machine.seed_everything(args.seed + fabric.global_rank)
    sets = load_in_turn(fabric, lambda: load_sets(args),
                        f"--data-set {args.data_set} --data-path {args.data_path}")
    with refused(f"--input-size {args.input_size}, --aa {args.aa}"):
        train, val = loaders(args, sets.train, sets.val, fabric.global_rank, fabric.world_size)
    model = network(args, sets.classes)
    try_one_picture(args, model, train.dataset, val.dataset)
    if args.finetune:
        finetune(model, args.finetune, keeper.say)
    if args.precision == "64":
        model.double()
    net = fabric.setup_module(torch.compile(model) if args.compile else model)
    ema = ModelEmaV3(model, args.model_ema) if args.model_ema else None
    images_per_update = args.batch_size * fabric.world_size * args.accumulate
    with bad_input():
        optimizer = make_optimizer(model, args.opt, args.lr * images_per_update / 512,
                                   args.weight_decay, args.opt_eps, args.opt_betas, args.momentum)
    mixup = Mixup(args.mixup, args.cutmix, args.cutmix_minmax, args.mixup_prob,
                  args.mixup_switch_prob, args.mixup_mode, args.smoothing,
                  sets.classes) if mixing(args) else None
    updates = len(train.sampler) // args.batch_size // args.accumulate
    if not updates and not args.eval:
        raise BadInput(f"an epoch has {len(train.sampler)} images for this process, fewer than "
                       f"--batch-size {args.batch_size} x --accumulate {args.accumulate}")
    run = Run(args, keeper, train, val, sets.inputs, model, net, ema,
              fabric.setup_optimizers(optimizer), make_schedule(optimizer, args), mixup, updates)
    run.progress.epoch = args.start_epoch
    run.gradients = Graphed(partial(gradients, run), model, wanted(args, fabric, keeper.say),
                            trains=True)
    return run


def network(args: argparse.Namespace, classes: int):
    """Raises BadInput for sizes that do not fit."""
    try:
        return build_model(args.model, num_classes=classes, stochastic_depth=args.stochastic_depth,
                           **arch_options(args))
    except (TypeError, ValueError) as error:
        reason = str(error).replace("TnnVit.__init__() got an ", "")
        raise BadInput(f"--model, --arch-options: {reason}") from error


@contextmanager
def refused(flags: str) -> Iterator[None]:
    """What torchvision, timm or the model raise for values of these flags becomes BadInput."""
    try:
        yield
    except (AssertionError, ArithmeticError, LookupError, RuntimeError, TypeError,
            ValueError) as error:
        raise BadInput(f"{flags}: {' '.join(str(error).split())[:300]}") from error


@torch.no_grad()
def try_one_picture(args: argparse.Namespace, model: torch.nn.Module, train: Dataset,
                    val: Dataset) -> None:
    """The first picture of each set through its transform and the model, so that sizes that do not
    go together show before the first epoch, and not at its end. Raises BadInput."""
    model.eval()
    for pictures, item in ((train, Item(0, 0, 0)), (val, 0)):
        with suppress(DamagedPicture):  # found, with its name, when it is the picture's turn
            with refused(f"--input-size {args.input_size}, --aa {args.aa}"):
                image, _ = pictures[item]
            with refused(f"--input-size {args.input_size} does not fit --model, --arch-options"):
                model(image[None])
    model.train()


# ------------------------------------------------------------------------------------ training
def train_epoch(run: Run) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, p = run.args, run.progress
    loss = Smoothed(p.loss)
    # As in the original, fine-tuning leaves the model in evaluation mode.
    run.net.train(not args.finetune)
    run.train.sampler.set_epoch(p.epoch, p.update * args.accumulate * args.batch_size)
    reading = batches(run.train)
    groups = (next_group(run, reading) for _ in range(p.update, run.updates))

    def count(*parts: float) -> None:
        loss.add(sum(parts))
        p.loss = loss.state()

    def fields() -> str:
        run.keeper.settle()
        return f"lr: {run.lr:.6f}  loss: {loss}"

    for group in reported(groups, f"Epoch: [{p.epoch}]", run.updates, p.update, run.keeper.say,
                          fields):
        run.keeper.later(count, *one_update(run, group), over="own")
        p.update, p.step = p.update + 1, p.step + 1
        run.keeper.after_update()
        if run.keeper.out_of_steps():
            return


def next_group(run: Run, reading) -> list:
    """The --accumulate batches of one update."""
    group, damaged = [], None
    try:
        group = list(islice(reading, run.args.accumulate))
    except DamagedPicture as error:
        damaged = error
    refuse_together(run.keeper, damaged)
    return group


def one_update(run: Run, group: list) -> list[torch.Tensor]:
    """Forward and backward on each batch of the group, clipping, step; returns the parts of the
    loss. Raises FloatingPointError before the step if the loss or a gradient is not finite."""
    args, losses = run.args, []
    run.optimizer.zero_grad()
    for i, batch in enumerate(group, 1):
        images, target = run.fabric.to_device(batch)
        if run.mixup:
            images, target = run.mixup(images, target)
        losses += run.gradients(len(group), i == len(group), images, target)
    run.keeper.clip_gradients(run.model, sum(losses), args.clip_grad or 0, run.optimizer)
    run.keeper.step(run.optimizer)
    if run.ema:
        run.ema.update(run.model)
    return losses


def gradients(run: Run, parts: int, last: bool, images: torch.Tensor, target: torch.Tensor
              ) -> tuple[torch.Tensor]:
    """Forward and backward on one of the `parts` batches of an update. Returns its part of the
    loss."""
    with run.fabric.no_backward_sync(run.net, enabled=not last):
        loss = loss_of(run.args, run.net(images), target) / parts
        run.fabric.backward(loss)
    return loss.detach(),


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
    loss, acc1, acc5, damaged = Smoothed(), Smoothed(), Smoothed(), None
    scored = Graphed(partial(score_batch, model), model, run.gradients.on)

    def fields() -> str:
        run.keeper.settle()
        return f"loss: {loss}  acc1: {acc1}  acc5: {acc5}"

    try:
        for images, labels in reported(batches(run.val), "Test:", len(run.val), 0, run.keeper.say,
                                       fields):
            if run.fabric.world_size == 1:  # processes may have different numbers of batches
                run.keeper.stop_if_asked()
            images, labels = run.fabric.to_device((images, labels))
            count = len(labels)
            run.keeper.later(lambda value, one, five, count=count: (
                loss.add(value), acc1.add(100 * one / count, count),
                acc5.add(100 * five / count, count)), *scored(images, labels), over="own")
    except DamagedPicture as error:
        damaged = error
    run.keeper.settle()
    refuse_together(run.keeper, damaged)
    sums = machine.total(run.fabric, *(v for s in (loss, acc1, acc5) for v in (s.total, s.count)))
    values = [total / max(count, 1) for total, count in zip(sums[0::2], sums[1::2], strict=True)]
    run.keeper.say(f"* Acc@1 {values[1]:.3f} Acc@5 {values[2]:.3f} loss {values[0]:.3f}")
    return dict(zip(("test_loss", "test_acc1", "test_acc5"), values, strict=True))


def score_batch(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
                ) -> tuple[torch.Tensor, ...]:
    """The mean loss, and how many labels are the first of the model's guesses and of its five."""
    logits = model(images.to(next(model.parameters()).dtype)).float()
    return cross_entropy(logits, labels), *hits_in_top(logits, labels)


def report(run: Run, stats: dict[str, float]) -> None:
    """Raises FloatingPointError if the loss is not finite."""
    run.keeper.check_finite(stats["test_loss"], "the test loss")
    run.keeper.say(f"Accuracy of the network on the {len(run.val.dataset)} test images: "
                   f"{stats['test_acc1']:.1f}%")


def train_stats(run: Run) -> dict[str, float]:
    """The epoch's mean loss over all processes, said in the original's words."""
    run.keeper.settle()
    loss = Smoothed(run.progress.loss)
    if run.fabric.world_size > 1:
        loss.total = machine.mean(run.fabric, torch.tensor(loss.total, device=run.fabric.device))
    run.keeper.say(f"Averaged stats: lr: {run.lr:.6f}  loss: {loss}")
    return {"train_lr": run.lr, "train_loss": loss.mean}


# ------------------------------------------------------------------------------------- epochs
def end_of_epoch(run: Run, log: EpochLog | None) -> None:
    """Evaluation, log, the schedule's step, which comes here as in the original; then the files."""
    p, args = run.progress, run.args
    stats = train_stats(run) | evaluate(run, run.model)
    if run.ema:
        run.keeper.say("With averaged weights:")
        stats |= {f"{name}_ema": v for name, v in evaluate(run, run.ema.module).items()}
    report(run, stats)
    better = stats["test_acc1"] > p.max_accuracy
    p.max_accuracy = max(p.max_accuracy, stats["test_acc1"])
    run.keeper.say(f"Max accuracy: {p.max_accuracy:.2f}%")
    run.keeper.log(**stats)
    if log:
        log.write(**stats, epoch=p.epoch, n_parameters=run.parameters)
    run.schedule.step(p.epoch, stats["test_acc1"] if args.sched == "plateau" else None)
    names = ["checkpoint_best.pth"] if better else []
    if p.epoch % 5 == 0:
        names.append(f"checkpoint_{p.epoch}.pth")
    p.epoch, p.update, p.loss = p.epoch + 1, 0, None
    run.keeper.save(Path(args.output_dir) / name for name in names)


def begin(run: Run) -> EpochLog | None:
    """The opening lines, and the epochs' log of the first process."""
    say, keeper = run.keeper.say, run.keeper
    say(f"number of params: {run.parameters}")
    say(f"with the frozen decay: {sum(w.numel() for w in run.model.parameters())}")
    say(f"Start training for {run.args.epochs} epochs")
    if not keeper.writes or not run.fabric.is_global_zero:
        return None
    own = keeper.found is None or keeper.places.is_own(keeper.found)
    return EpochLog(Path(run.args.output_dir), run.progress.epoch, own)


def settle(args: argparse.Namespace) -> str | None:
    """Sets what depends on the machine and on files: --precision, and whether there is anything to
    resume. Returns what --eval evaluates."""
    if args.precision is None:
        half = torch.cuda.is_available() and args.device != "cpu" and not args.fp32_resume
        args.precision = "16-mixed" if half else "32"
    given = args.resume
    if given == "" and args.output_dir:
        given = str(Path(args.output_dir) / "checkpoint_last.pth")
    if args.eval or (given and not Path(given).is_file()):
        args.resume = None
    return given


# --------------------------------------------------------------------------------------- main
def main(argv: list[str] | None = None) -> Run:
    args = parse_args(argv)
    given = settle(args)
    with Keeper(SCRIPT, args, writes=not args.eval, upgrade=upgrade, takes_weights=True,
                safe=(argparse.Namespace,), free=FREE_ON_RESUME,
                ddp={"broadcast_buffers": args.broadcast_buffers}, where="output_dir", folder=True,
                best="checkpoint_best.pth", state="checkpoint_last.pth",
                also=earlier_files(args.output_dir)) as keeper:
        run = build(args, keeper)
        if args.eval:
            load_for_evaluation(run, given)
            report(run, evaluate(run, run.model))
            return run
        if given and args.resume is None:
            keeper.say(f"--resume: no file {given}: starting afresh")
        if keeper.weights is not None:
            run.continue_from(keeper.weights)
        keeper.resume(run)
        log = begin(run)
        start = time.time()
        while run.progress.epoch < args.epochs and not keeper.out_of_steps():
            train_epoch(run)
            if run.progress.update < run.updates:  # --max-steps ended the epoch before its end
                report(run, evaluate(run, run.model))
                break
            end_of_epoch(run, log)
        keeper.say(f"Training time {timedelta(seconds=int(time.time() - start))}")
    return run


if __name__ == "__main__":
    main()
