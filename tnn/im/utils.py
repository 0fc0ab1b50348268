"""Loss, optimiser and schedule (timm's), the log's lines."""

import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

WINDOW = 20  # iterations that a smoothed value covers
EVERY = 10   # iterations from one line to the next


# ------------------------------------------------------------------------------------ recipe
def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of -sum_c target_c log p_c; both (b, classes)."""
    return nn.functional.cross_entropy(logits.float(), target)


def make_optimizer(model: nn.Module, opt: str, lr: float, weight_decay: float, eps: float,
                   betas, momentum: float) -> torch.optim.Optimizer:
    """Weight decay for all but biases and vectors; frozen parameters are left out. Raises
    ValueError for an unknown optimiser."""
    further = {} if betas is None else {"betas": tuple(betas)}
    if opt.lower() in ("adam", "adamw"):
        further["fused"] = True  # one pass over the weights in place of ten
    try:
        return create_optimizer_v2(model, opt, lr, weight_decay, momentum, eps=eps, **further)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"--opt {opt} cannot be used: {error}") from None


def make_schedule(optimizer: torch.optim.Optimizer, args: Namespace):
    """timm's schedule. As in the original, step(e) comes at the END of epoch e: the first two
    epochs have the first rate, and epoch e the rate of e - 1."""
    noise = args.lr_noise
    if noise is not None and len(noise) == 1:
        noise = noise[0]
    schedule, _ = create_scheduler_v2(
        optimizer, args.sched, args.epochs, decay_epochs=args.decay_epochs,
        cooldown_epochs=args.cooldown_epochs, patience_epochs=args.patience_epochs,
        decay_rate=args.decay_rate, min_lr=args.min_lr, warmup_lr=args.warmup_lr,
        warmup_epochs=args.warmup_epochs, noise=noise, noise_pct=args.lr_noise_pct,
        noise_std=args.lr_noise_std)
    return schedule


def hits_in_top(logits: Tensor, labels: Tensor, ks=(1, 5)) -> list[Tensor]:
    """How many of the labels (b,) are among the k highest logits (b, classes), for each k."""
    ranked = logits.topk(min(max(ks), logits.shape[1]), dim=1).indices.eq(labels[:, None])
    return [ranked[:, :k].any(1).sum() for k in ks]


# --------------------------------------------------------------------------------------- log
class Smoothed:
    """A series: of the last WINDOW values median and mean, of all the mean."""

    def __init__(self, state: dict | None = None):
        state = state or {"last": [], "total": 0.0, "count": 0}
        self.last = deque(state["last"], maxlen=WINDOW)
        self.total, self.count = state["total"], state["count"]

    def add(self, value: float, n: int = 1) -> None:
        self.last.append(value)
        self.total += value * n
        self.count += n

    def state(self) -> dict:
        return {"last": list(self.last), "total": self.total, "count": self.count}

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)

    @property
    def recent_mean(self) -> float:
        return sum(self.last) / max(len(self.last), 1)

    def __str__(self) -> str:
        median = torch.tensor(list(self.last)).median().item() if self.last else float("nan")
        return f"{median:.4f} ({self.mean:.4f})"


def reported(batches: Iterable, header: str, total: int, start: int, say, fields) -> Iterator:
    """Yields the batches and says the original's line every EVERY of them and at the last.

    start: number of the first batch; fields: a function that returns the middle of the line.
    """
    begin = end = time.time()
    times, waits = Smoothed(), Smoothed()
    width = len(str(total))
    for i, batch in enumerate(batches, start):
        waits.add(time.time() - end)
        yield batch
        times.add(time.time() - end)
        if i % EVERY == 0 or i == total - 1:
            eta = timedelta(seconds=int(times.mean * (total - i)))
            say("  ".join([header, f"[{i:{width}}/{total}]", f"eta: {eta}", fields(),
                           f"time: {times.recent_mean:.4f}", f"data: {waits.recent_mean:.4f}",
                           *memory()]))
        end = time.time()
    seconds = time.time() - begin
    say(f"{header} Total time: {timedelta(seconds=int(seconds))} "
        f"({seconds / max(total - start, 1):.4f} s / it)")


def memory() -> list[str]:
    """The field of the highest use of GPU memory in MiB, where there is a GPU."""
    if not torch.cuda.is_available():
        return []
    return [f"max mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}"]
