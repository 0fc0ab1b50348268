"""Optimiser, schedule, order of the samples and lines of the log."""

import math
from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from tnn.inputs import batches, leave_signals, picture_loader
from tnn.lra.token_mixers import TNO

EPOCH_LINE = ("epoch {epoch} | step {step} | lr {lr:.2e} | train loss {train_loss:.4f} acc "
              "{train:.2f} | val loss {val_loss:.4f} acc {val:.2f} | test loss {test_loss:.4f} acc "
              "{test:.2f} | {seconds:.1f} s")
END_LINE = ("End of training | test acc {test:.2f} | val acc {val:.2f} | best epoch {epoch} | last "
            "epoch's test acc {last:.2f} | greatest test acc {max_test:.2f}")


def cosine_factor(step: int, warmup: int, total: int, after_end: str = "cycle") -> float:
    """What update `step` (from 0) multiplies the learning rate by: linear warm-up, so 0 at first,
    then half a cosine to 0 at `total`. Beyond it the cosine rises again (cycle, as published) or
    the factor stays 0 (zero)."""
    if step < warmup:
        return step / max(1, warmup)
    if step > total and after_end == "zero":
        return 0.0
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, (1 + math.cos(math.pi * progress)) / 2)


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with one group: the decay acts on biases, norms, embeddings and encoders too."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.999), eps=1e-8,
                             weight_decay=weight_decay,
                             fused=all(p.is_cuda for p in trained) or None)


def counts(model: nn.Module) -> tuple[int, int, int]:
    """Parameters in all; those that the original does not freeze; those that have a gradient. The
    difference of the last two are the token mixers' unused norms."""
    total = sum(p.numel() for p in model.parameters())
    used = sum(p.numel() for p in model.parameters() if p.requires_grad)
    unused = sum(p.numel() for unit in model.modules() if isinstance(unit, TNO)
                 for p in unit.pre_norm.parameters() if not p.requires_grad)
    return total, used + unused, used


# -------------------------------------------------------------------------- order of the samples
def training_batches(n: int, batch_size: int, fabric: Fabric, seed: int) -> list[list[int]]:
    """Sample numbers of this process's batches of an epoch, in an order that depends on `seed`
    alone; the last incomplete batch is dropped. A batch of all processes together is what one
    process alone would draw with the batch size times their number."""
    world, rank = fabric.world_size, fabric.global_rank
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    whole = n // (batch_size * world)
    return order[:whole * batch_size * world].view(whole, batch_size, world)[..., rank].tolist()


def evaluation_batches(n: int, batch_size: int, fabric: Fabric, drop_last: bool) -> list[list[int]]:
    """The same for evaluation: in order, every sample once (drop_last: only whole batches)."""
    mine = list(range(fabric.global_rank, n, fabric.world_size))
    batches = [mine[i:i + batch_size] for i in range(0, len(mine), batch_size)]
    return batches[:-1] if drop_last and batches and len(batches[-1]) < batch_size else batches


def loader(data: Dataset, order: list[list[int]], collate, workers: int,
           fabric: Fabric) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches (x, y, lengths) on the run's device, of the samples that `order` numbers. Leaves the
    global random state alone. Raises DamagedPicture."""
    wide = torch.float64 if torch.get_default_dtype() == torch.float64 else None
    found = picture_loader(data, collate, batch_sampler=order, num_workers=workers,
                           pin_memory=fabric.device.type == "cuda", generator=torch.Generator(),
                           worker_init_fn=leave_signals)
    for x, y, lengths in batches(found):
        if wide and x.is_floating_point():
            x = x.to(wide)
        yield tuple(t.to(fabric.device, non_blocking=True) for t in (x, y, lengths))
