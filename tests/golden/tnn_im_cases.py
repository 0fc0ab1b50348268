"""Adapters for the recorded cases of the TNN image models (OpenNLPLab/im and timm 0.4.12).

An adapter takes (path of the case, temporary folder, monkeypatch), and for files that hold several
cases the case's name, and asserts.
"""

import json

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from tests.golden.case import Case, close
from tnn.im.args import parse_args
from tnn.im.data import EpochSampler, eval_transform
from tnn.im.mixup import Mixup
from tnn.im.model import Block, Gtu2d, TnnVit, build
from tnn.im.utils import make_optimizer, make_schedule, soft_cross_entropy
from tnn.network.tno import Tno


def values(ours, theirs, what):
    close(ours, theirs, 1e-5, 1e-4, what)


def gradients(ours, theirs, what):
    close(ours, theirs, 1e-4, 1e-3, what)


def many(adapter):
    """An adapter for a file of several cases."""
    adapter.parts = lambda path: sorted(Case(path).meta("meta")["cases"])
    return adapter


def load(module, state):
    """The recorded weights, strictly, and in the recorded order."""
    module.load_state_dict(state, strict=True)
    return module


def parameter_gradients(module, expected):
    named = dict(module.named_parameters())
    assert {n for n, p in named.items() if p.grad is not None} == set(expected)
    for name, theirs in expected.items():
        gradients(named[name].grad, theirs, f"gradient of {name}")


def input_output_gradients(case, prefix, module, call):
    """x -> y, and the gradients of sum(y * w); then y without gradients, twice."""
    x = case[f"{prefix}x"].requires_grad_()
    y = call(x)
    values(y, case[f"{prefix}y"], "y")
    (y * case[f"{prefix}w"]).sum().backward()
    gradients(x.grad, case[f"{prefix}grad_x"], "gradient of x")
    parameter_gradients(module, case.below(f"{prefix}grad."))
    module.eval()
    with torch.no_grad():
        for _ in range(2):
            values(call(x), case[f"{prefix}y"], "y without gradients")


# ----------------------------------------------------------------------------- single modules
@many
def toeplitz_operator(path, tmp_path, monkeypatch, name):
    """Over either axis of x (b, h, n, m, d), by the operator alone and as the unit mixes."""
    case = Case(path)
    config = case.meta("meta")["cases"][name]
    for axis, dim in (("row.", -2), ("col.", -3)):
        toep = load(Tno(**config["kw"]), case.below(f"{name}/param."))
        x = case[f"{name}/x"].requires_grad_()
        b, h = x.shape[:2]
        lines = x.movedim(dim, -2)  # (b, h, lines, length, d)
        flat = lines.transpose(1, 2).flatten(0, 1)  # (b lines, h, length, d)
        y = toep(flat, normalize=config["normalize"])
        y = y.view(b, -1, h, *y.shape[2:]).transpose(1, 2).movedim(-2, dim)
        values(y, case[f"{name}/{axis}y"], f"{axis}y")
        (y * case[f"{name}/{axis}w"]).sum().backward()
        gradients(x.grad, case[f"{name}/{axis}grad_x"], f"{axis}gradient of x")
        parameter_gradients(toep, case.below(f"{name}/{axis}grad."))


@many
def unit(path, tmp_path, monkeypatch, name):
    case = Case(path)
    module = Gtu2d(**case.meta("meta")["cases"][name]["kw"])
    load(module, case.below(f"{name}/param."))
    input_output_gradients(case, f"{name}/", module, module)


@many
def block(path, tmp_path, monkeypatch, name):
    case = Case(path)
    module = Block(**case.meta("meta")["cases"][name]["kw"])
    load(module, case.below(f"{name}/param."))
    input_output_gradients(case, f"{name}/", module, module)


# ------------------------------------------------------------------------------- whole models
def model(path, tmp_path, monkeypatch):
    case = Case(path)
    meta = case.meta("meta")
    vit = load(TnnVit(**meta["kw"]), case.below("param.")).eval()
    assert sum(p.numel() for p in vit.parameters()) == meta["params"]
    with torch.no_grad():
        for _ in range(2):
            values(vit.forward_features(case["x"]), case["features"], "features")
            values(vit(case["x"]), case["logits"], "logits")
    vit.train()
    logits = vit(case["x"])
    values(cross_entropy(logits, case["label"], label_smoothing=0.1), case["loss_ls0.1"],
           "label smoothing")
    values(cross_entropy(logits, case["label"]), case["loss_ce"], "cross entropy")
    loss = soft_cross_entropy(logits, case["soft_target"])
    values(loss, case["loss_soft"], "soft-target loss")
    loss.backward()
    parameter_gradients(vit, case.below("grad."))
    total = torch.nn.utils.get_total_norm([p.grad for p in vit.parameters()
                                           if p.grad is not None])
    gradients(total, case["grad_norm"].squeeze(), "gradient norm")


def optimizer(path, tmp_path, monkeypatch):
    case = Case(path)
    meta = case.meta("meta")
    vit = load(TnnVit(**meta["kw"]), case.below("init.")).train()
    named = {p: n for n, p in vit.named_parameters()}
    adamw = make_optimizer(vit, "adamw", lr=meta["lrs"][0], weight_decay=meta["weight_decay"],
                           eps=1e-8, betas=None, momentum=0.9)
    for ours, theirs in zip(adamw.param_groups, meta["groups"], strict=True):
        assert [named[p] for p in ours["params"]] == theirs["names"]
        assert ours["weight_decay"] == theirs["weight_decay"]
        assert (list(ours["betas"]), ours["eps"]) == (theirs["betas"], theirs["eps"])
    for step, (lr, clip) in enumerate(zip(meta["lrs"], meta["clip"], strict=True)):
        for group in adamw.param_groups:
            group["lr"] = lr
        adamw.zero_grad()
        loss = soft_cross_entropy(vit(case[f"x{step}"]), case[f"t{step}"])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(vit.parameters(), clip)
        close(loss, case["losses"][step], 1e-4, 1e-4, f"loss of step {step}")
        close(norm, case["grad_norms"][step], 1e-4, 1e-3, f"gradient norm of step {step}")
        adamw.step()
    for name, theirs in case.below("final.").items():
        close(vit.state_dict()[name], theirs, 1e-4, what=name)


def formula(k: int, count: int) -> np.ndarray:
    """`count` numbers in [-0.5, 0.5) that stand for recorded weights: see the golden README."""
    mask = np.uint64(0xFFFFFFFF)
    j = np.arange(1, count + 1, dtype=np.uint64)
    a = (j * np.uint64(2654435761) + np.uint64((k + 1) * 40503)) & mask
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        a = ((a ^ (a >> np.uint64(shift))) * np.uint64(factor)) & mask
    a ^= a >> np.uint64(16)
    return a.astype(np.float64) / 2**32 - 0.5


@many
def full_size(path, tmp_path, monkeypatch, name):
    case = Case(path)
    vit = build(case.meta("meta")["cases"][name]["arch"]).eval()
    with torch.no_grad():
        for k, (tensor_name, tensor) in enumerate(vit.state_dict().items()):
            if not tensor_name.endswith("gamma"):
                scale = (12 / tensor[0].numel()) ** 0.5 if tensor.ndim == 2 else 0.2
                tensor.copy_(torch.from_numpy(formula(k, tensor.numel()) * scale).view_as(tensor))
        images = torch.from_numpy(formula(1_000_000, 2 * 3 * 224 * 224) * 4).float()
        images = images.view(2, 3, 224, 224)
        close(vit.forward_features(images), case[f"{name}/features"], 1e-4, what="features")
        close(vit(images), case[f"{name}/logits"], 1e-4, what="logits")


def architectures(path, tmp_path, monkeypatch):
    expected = json.loads(path.read_text())
    for name, counts in expected["param_counts"].items():
        for prefix in ("tnn_vit_", "tno_vit_"):
            with torch.device("meta"):
                vit = build(prefix + name.partition("_vit_")[2])
            parameters = list(vit.parameters())
            assert sum(p.numel() for p in parameters) == counts["total"], name
            assert sum(p.numel() for p in parameters if p.requires_grad) == counts["trainable"]
            assert len(vit.state_dict()) == counts["n_tensors"]
    tiny = build("tnn_vit_e3g1_tiny_rpe_l1_90_prenorm").state_dict()
    ours = {n: list(t.shape) for n, t in tiny.items()
            if not n.startswith("layers.") or n.startswith("layers.0.")}
    assert list(ours.items()) == list(expected["tiny_keys"].items())


# ------------------------------------------------------------------------- data and schedules
@many
def mixup(path, tmp_path, monkeypatch, name):
    case = Case(path)
    config = case.meta("meta")["cases"][name]
    np.random.seed(config["np_seed"])
    x, target = Mixup(**config["kw"])(case[f"{name}/x"].clone(), case[f"{name}/label"])
    close(x, case[f"{name}/x_out"], 1e-6, what="images")
    close(target, case[f"{name}/target"], 1e-6, what="targets")


@many
def evaluation_transform(path, tmp_path, monkeypatch, name):
    case = Case(path)
    size = case.meta("meta")["cases"][name]["input_size"]
    image = Image.fromarray(case[f"{name}/image_hwc_u8"].numpy())
    close(eval_transform(size)(image), case[f"{name}/out"], 0.02, what="pixels")


def schedule_and_sampler(path, tmp_path, monkeypatch):
    expected = json.loads(path.read_text())
    for name, config in expected.items():
        if name.startswith("lr_"):
            args = parse_args(["--epochs", str(config["epochs"]),
                               "--warmup-epochs", str(config["warmup_epochs"])])
            sgd = torch.optim.SGD([torch.zeros(1)], lr=config["base_lr"])
            schedule, ours = make_schedule(sgd, args), []
            for epoch in range(len(config["lr_used_in_epoch"])):
                ours.append(sgd.param_groups[0]["lr"])
                schedule.step(epoch)
            np.testing.assert_allclose(ours, config["lr_used_in_epoch"], rtol=1e-12, err_msg=name)
    for config in expected["ra_sampler"]:
        for rank, theirs in enumerate(config["ranks"]):
            sampler = EpochSampler(config["N"], rank, config["replicas"])
            sampler.set_epoch(config["epoch"])
            ours = [item.index for item in sampler]
            assert (len(sampler), len(ours), sum(ours)) == (theirs["n"], theirs["n"],
                                                            theirs["sum"])
            assert ours[:len(theirs["first"])] == theirs["first"]
            assert ours[-len(theirs["last"]):] == theirs["last"]


ADAPTERS = [
    ("tno", toeplitz_operator),
    ("gtu", unit),
    ("block", block),
    ("vit_", model),
    ("optim", optimizer),
    ("fullsize", full_size),
    ("archs", architectures),
    ("mixup", mixup),
    ("eval_transform", evaluation_transform),
    ("schedule_sampler", schedule_and_sampler),
]
