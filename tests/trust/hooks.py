"""What a run's process can be made to do to itself. Installed in the forked child only."""

import codecs
import hashlib
import io
import json
import os
import signal
from pathlib import Path

import lightning_fabric
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.trust import faults

GROUP = 54320  # that all pretended users are in
STAGES = ("begin", "half", "sync", "rename", "done")  # of a save, in order


def install(journal: str = "", hold: dict | None = None, send: dict | None = None,
            poison: dict | None = None, refuse: dict | None = None, masks: str = "",
            fault: dict | None = None, user: int = 0) -> None:
    """journal: file that gets a line per backward pass and per update.
    hold: {"save": n, "stage": s}: the process stops itself inside its n-th save.
    send: {"signal": n, "where": "backward" | "update" | "save" | "evaluation", "at": k}: to itself.
    poison: {"what": "loss" | "gradient" | "batch", "value": float, "at": k}: in the k-th update.
    refuse: {"save": n, "errno": e}: the n-th save fails half-way.
    masks: file that gets a line per random mask drawn.
    fault: arguments of faults.arm.
    user: the process becomes this user's, in the group of the same number.
    """
    events = Events(Path(journal) if journal else None, send)
    watch_updates(events, poison)
    watch_saves(events, hold, refuse)
    if masks:
        watch_masks(Path(masks))
    if fault:
        faults.arm(**fault)
    if user:
        for name in ("cp437", "utf-32-le", "utf-8-sig", "latin-1"):
            codecs.lookup(name)  # an interpreter below /root cannot import them later
        os.umask(0o002)  # as where every user has a group of his own
        os.setgroups([GROUP])
        os.setgid(user)
        os.setuid(user)


class Events:
    """Counts what happens, writes it down, sends the signal when it is time."""

    def __init__(self, journal: Path | None, send: dict | None):
        self.journal, self.send, self.counts = journal, send, {}

    def happened(self, what: str, **facts) -> int:
        """Counts from 0."""
        count = self.counts[what] = self.counts.get(what, -1) + 1
        if self.journal:
            with self.journal.open("a") as file:
                file.write(json.dumps({"what": what, "count": count, **facts}) + "\n")
        if self.send and self.send["where"] == what and self.send["at"] == count:
            if self.journal:
                with self.journal.open("a") as file:
                    file.write(json.dumps({"what": "signal"}) + "\n")
            os.kill(os.getpid(), self.send["signal"])
        return count


def fingerprint(optimizer: torch.optim.Optimizer) -> str:
    """Of all parameters that an optimiser moves."""
    digest = hashlib.sha256()
    for group in optimizer.param_groups:
        for p in group["params"]:
            digest.update(p.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def watch_updates(events: Events, poison: dict | None) -> None:
    """Every script goes through Fabric.backward and Optimizer.step."""
    own = lightning_fabric.Fabric.backward
    count = [-1]

    def backward(self, loss, *args, **kwargs):
        count[0] += 1
        now = poison and poison["at"] == count[0]
        events.happened("backward", loss=loss.item())
        if now and poison["what"] == "loss":
            loss = loss * poison["value"]
        own(self, loss, *args, **kwargs)
        if now and poison["what"] == "gradient":
            spoil_a_gradient(self, poison)

    def updated(optimizer, *_):
        events.happened("update", weights=fingerprint(optimizer) if events.journal else "")
    lightning_fabric.Fabric.backward = backward
    register_optimizer_step_post_hook(updated)
    if poison and poison["what"] == "gradient":
        remember_modules()
    if poison and poison["what"] == "batch":
        spoil_a_batch(poison, count)


MODULES: list = []


def remember_modules() -> None:
    own = lightning_fabric.Fabric.setup_module

    def setup_module(self, module, *args, **kwargs):
        MODULES.append(module)
        return own(self, module, *args, **kwargs)
    lightning_fabric.Fabric.setup_module = setup_module


def spoil_a_gradient(fabric, poison: dict) -> None:
    """One entry of the last parameter's gradient."""
    name, parameter = [(n, p) for n, p in MODULES[-1].named_parameters() if p.grad is not None][-1]
    parameter.grad[(-1,) * parameter.dim()] = poison["value"]
    print(f"spoilt {name}", flush=True)


def spoil_a_batch(poison: dict, count: list) -> None:
    """Of words one vector, of images one pixel, in the forward pass before the k-th backward."""
    def spoilt(values, training):
        if count[0] + 1 == poison["at"] and training:
            values = values.clone()
            values[(0,) * values.dim()] = poison["value"]
        return values

    own_embedding = torch.nn.functional.embedding

    def embedding(words, weight, *args, **kwargs):
        return spoilt(own_embedding(words, weight, *args, **kwargs), torch.is_grad_enabled())
    torch.nn.functional.embedding = embedding

    from sparse_seq.embedding import SparseEmbedding
    from trellisnet.seq_MNIST_CIFAR.data import Images
    own_lookup = SparseEmbedding._lookup

    def lookup(self, words):
        return spoilt(own_lookup(self, words), torch.is_grad_enabled())
    SparseEmbedding._lookup = lookup
    own_batch = Images.batch

    def batch(self, rows):
        pixels, labels = own_batch(self, rows)
        return spoilt(pixels, torch.is_grad_enabled()), labels
    Images.batch = batch

    from tnn.im.mixup import Mixup
    own_mix = Mixup.__call__

    def mix(self, images, labels):
        images, targets = own_mix(self, images, labels)
        return spoilt(images, torch.is_grad_enabled()), targets
    Mixup.__call__ = mix


def name_of(file) -> str:
    """Of an open file; one that was opened by its descriptor has that as its name."""
    name = getattr(file, "name", "")
    return Path(os.readlink(f"/proc/self/fd/{name}") if isinstance(name, int) else name).name


def watch_saves(events: Events, hold: dict | None, refuse: dict | None) -> None:
    """Every script saves by torch.save, os.fsync, os.replace, in this order."""
    own_save, own_fsync, own_replace = torch.save, os.fsync, os.replace
    inside = [False]

    def at(stage: str) -> bool:
        return bool(hold) and (hold["save"], hold["stage"]) == (events.counts["save"], stage)

    def stop_here():
        print(f"held in save {hold['save']} at {hold['stage']}", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

    def save(content, file, *args, **kwargs):
        number = events.happened("save", name=name_of(file))
        inside[0] = True
        if at("begin"):
            stop_here()
        if at("half") or (refuse and refuse["save"] == number):
            buffer = io.BytesIO()
            own_save(content, buffer, *args, **kwargs)
            file.write(buffer.getvalue()[:len(buffer.getvalue()) // 2])
            file.flush()
            if at("half"):
                stop_here()
            raise OSError(refuse["errno"], os.strerror(refuse["errno"]))
        own_save(content, file, *args, **kwargs)

    def fsync(file):
        if inside[0] and at("sync"):
            stop_here()
        own_fsync(file)

    def replace(source, target, **kwargs):
        last = inside[0] and str(source).endswith(".part")
        if last and at("rename"):
            stop_here()
        own_replace(source, target, **kwargs)
        if last:
            events.happened("saved", name=Path(target).name)
            inside[0] = False
            if at("done"):
                stop_here()
    torch.save, os.fsync, os.replace = save, fsync, replace


def watch_masks(path: Path) -> None:
    """Every dropout of ours draws its mask with bernoulli_; torch's shows where it gives zeros."""
    own, own_dropout = torch.Tensor.bernoulli_, torch.nn.functional.dropout

    def note(kept):
        with path.open("a") as file:
            bits = hashlib.sha256(kept.contiguous().numpy().tobytes()).hexdigest()
            file.write(f"{tuple(kept.shape)} {int((~kept).sum())} {bits}\n")

    def bernoulli_(self, *args, **kwargs):
        mask = own(self, *args, **kwargs)
        note(mask.detach() != 0)
        return mask

    def dropout(x, p=0.5, training=True, inplace=False):
        y = own_dropout(x, p, training, inplace)
        if p and training:
            note(y.detach() != 0)
        return y
    torch.Tensor.bernoulli_, torch.nn.functional.dropout = bernoulli_, dropout

    from tnn.network import fused
    own_bits = fused.random_bits

    def random_bits(count, p):
        bits = own_bits(count, p)
        if bits is not None:
            note(bits > 0)
        return bits
    fused.random_bits = random_bits
