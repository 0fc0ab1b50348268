"""Adapters for the recorded cases of TNN on the Long Range Arena: operator, units, norms, models,
training steps and schedule. Those of the data are in tnn_lra_data.py."""

import json

import torch

from tests.golden.case import Case, close
from tests.golden.tnn_lra_data import ADAPTERS as DATA_ADAPTERS
from tnn.lra.model import GluBlock, LraModel
from tnn.lra.norms import Norm
from tnn.lra.toeplitz import Toeplitz
from tnn.lra.token_mixers import MIXERS
from tnn.lra.utils import cosine_factor, make_optimizer

PE = "encoder.1.pe"  # files hold its first rows only
MAY_DIFFER = (".layer.o.bias", ".layer.l3.bias", "running_mean")  # rounding noise under batch norm


# ------------------------------------------------------------------------------ comparing
def parts(path):
    return sorted(Case(path).meta("meta")["cases"])


def many(adapter):
    """An adapter for a file of several cases."""
    adapter.parts = parts
    return adapter


def gradients(case, prefix, named):
    """The recorded gradients, and none beside them."""
    theirs = case.below(prefix)
    for name, grad in theirs.items():
        close(named[name].grad, grad, 1e-4, 1e-3, f"gradient of {name}")
    for name, parameter in named.items():
        if name not in theirs and parameter.grad is not None:
            close(parameter.grad, torch.zeros_like(parameter), 1e-6, what=f"gradient of {name}")


def input_output_gradients(case, name, module, call, prefix=""):
    """x -> y, and the gradients of sum(y * w)."""
    x = case[f"{name}/x"].requires_grad_()
    module.zero_grad()
    y = call(x)
    close(y, case[f"{name}/{prefix}y"], 1e-5, 1e-4, "y")
    (y * case[f"{name}/{prefix}w"]).sum().backward()
    close(x.grad, case[f"{name}/{prefix}grad_x"], 1e-4, 1e-3, "gradient of x")
    gradients(case, f"{name}/{prefix}grad.", dict(module.named_parameters()))
    with torch.no_grad():  # with kept coefficients, twice
        for _ in range(2):
            close(call(x), case[f"{name}/{prefix}y"], 1e-5, 1e-4, "y without gradients")


# ------------------------------------------------------------------------------ single modules
@many
def operator(path, tmp_path, monkeypatch, name):
    case = Case(path)
    config = case.meta("meta")["cases"][name]
    module = Toeplitz(**config["kw"])
    module.load_state_dict(case.below(f"{name}/param."), strict=True)
    normalize = config.get("normalize", False)
    input_output_gradients(case, name, module, lambda x: module(x, normalize=normalize))
    if f"{name}/col.y" in case:
        input_output_gradients(case, name, module, prefix="col.",
                               call=lambda x: module(x, dim=-3, normalize=normalize))
    x = case[f"{name}/x"]
    if x.ndim == 4 and not normalize:
        rows = x.transpose(-1, -2).flatten(1, 2)  # (b, h d, n)
        dense = module.plain(rows).view(*x.transpose(-1, -2).shape).transpose(-1, -2)
        close(dense, case[f"{name}/y"], 1e-5, 1e-4, "dense product")


@many
def units(path, tmp_path, monkeypatch, name):
    case = Case(path)
    config = case.meta("meta")["cases"][name]
    kinds = dict(MIXERS, glu=GluBlock)
    module = kinds[config["cls"].split(".")[0]](**config["kw"])
    module.load_state_dict(case.below(f"{name}/param."), strict=True)
    input_output_gradients(case, name, module.eval(), module)


@many
def norms(path, tmp_path, monkeypatch, name):
    case = Case(path)
    x = case[f"{name}/x"]
    module = Norm(x.shape[-1], case.meta("meta")["cases"][name]["_name_"])
    start = case.below(f"{name}/param.")
    if start:
        module.load_state_dict(start, strict=False)
    close(module.eval()(x), case[f"{name}/y_eval"], 1e-5, 1e-4, "evaluation")
    close(module.train()(x), case[f"{name}/y_train"], 1e-5, 1e-4, "training")
    for key, theirs in case.below(f"{name}/after.").items():
        close(module.state_dict()[key], theirs, 1e-5, 1e-4, key)


# ------------------------------------------------------------------------------ whole models
def build(config, dataset, decoder):
    """The resolved configuration -> our model, without dropout."""
    mixer, glu = config["layer"]
    return LraModel(
        dict(mixer=mixer, glu=glu, dropout=0.0,
             **{k: config[k] for k in ("d_model", "n_layers", "norm", "prenorm")}),
        decoder, dataset["d_output"], dataset.get("n_tokens"), dataset.get("d_input"),
        position_dropout=0.0)


def load(model, state):
    """All of the recorded state, its rows of the position encoding compared; no key too few."""
    missing, unexpected = model.load_state_dict(
        {k: v for k, v in state.items() if k != PE}, strict=False)
    assert not unexpected, unexpected
    assert [k for k in missing if not k.endswith("num_batches_tracked")] == [PE], missing
    if PE in state:
        close(model.state_dict()[PE][:len(state[PE])], state[PE], 1e-5, what="position encoding")
    return model


def model(path, tmp_path, monkeypatch):
    case = Case(path)
    meta = case.meta("meta")
    ours = load(build(meta["model_cfg"], meta["dataset"], meta["decoder"]), case.below("param."))
    x, lengths, target = case["x"], case.get("lengths"), case["target"]
    with torch.no_grad():
        evaluation(case, ours.eval(), x, lengths, target)
    loss = torch.nn.functional.cross_entropy(logits := ours.train()(x, lengths), target)
    close(logits, case["logits_train"], 1e-5 * scale(case["logits_train"]), 1e-4, "logits_train")
    close(loss, case["loss_train"], 1e-5, 1e-4, "loss_train")
    loss.backward()
    named = dict(ours.named_parameters())
    gradients(case, "grad.", named)
    for name in meta["params_without_grad"]:
        assert named[name].grad is None, name
    total = torch.stack([p.grad.norm() for p in named.values() if p.grad is not None]).norm()
    close(total, case["grad_norm"], 1e-4, 1e-3, "grad_norm")
    for key, theirs in case.below("after.").items():
        close(ours.state_dict()[key], theirs, 1e-5, 1e-4, key)


def scale(tensor):
    return max(1.0, tensor.abs().max().item())


def evaluation(case, ours, x, lengths, target):
    encoded = ours.encoder(x)
    close(encoded, case["encoded"], 1e-5, 1e-4, "encoded")
    for name, found in (("backbone", ours.model(encoded)), ("logits_eval", ours(x, lengths))):
        close(found, case[name], 1e-5 * scale(case[name]), 1e-4, name)
    loss = torch.nn.functional.cross_entropy(found, target)
    close(loss, case["loss_eval"], 1e-5, 1e-4, "loss_eval")
    close((found.argmax(-1) == target).float().mean(), case["acc_eval"], 1e-6, what="acc_eval")


# ------------------------------------------------------------------------------ training
def override(meta, name, default=None):
    """The value of one of the recorded run's overrides, `key=value`."""
    found = dict(word.split("=", 1) for word in meta["overrides"])
    return found.get(name, default)


def config_of(meta, state):
    """The model section that the overrides of a text experiment stand for."""
    arch = override(meta, "experiment").split("-")[0]
    get = lambda name, default, kind: kind(override(meta, f"model.{name}", default))  # noqa: E731
    yes = lambda word: str(word).lower() == "true"  # noqa: E731
    if arch.startswith("gtu"):
        mixer = {"_name_": arch, "n_heads": 1, "expand_ratio": get("expand_ratio_gtu", 2, float),
                 "use_decay": get("gtu_use_decay", False, yes),
                 "gamma": get("gtu_gamma", .999, float),
                 "rpe_embedding": get("gtu_rpe_dim", 16, int)}
    else:
        mixer = {"_name_": arch, "n_heads": 1, "tno_type": 4,
                 "tno_expand_ratio": get("expand_ratio_tno", 2, float),
                 "tno_max_l": get("tno_max_l", 1024, int),
                 "use_decay": get("tno_use_decay", False, yes),
                 "gamma": get("tno_gamma", .999, float),
                 "dpb_embedding": get("tno_dpb_dim", 16, int),
                 "dpb_type": get("dpb_type", 4, int), "dpb_layers": get("dpb_layers", 1, int)}
    return {"layer": [mixer, {"_name_": "glu", "act_fun": "swish",
                              "glu_expand_ratio": get("expand_ratio_glu", 2, float)}],
            "d_model": get("d_model", 64, int), "n_layers": get("n_layers", 4, int),
            "norm": get("norm", "batch", str), "prenorm": get("prenorm", True, yes)}


def training(path, tmp_path, monkeypatch):
    case = Case(path)
    meta, state = case.meta("meta"), case.below("init.")
    ours = load(build(config_of(meta, state), *task_of(meta, state)), state).train()
    optimizer = make_optimizer(ours, meta["lr"], meta["weight_decay"])
    for step, theirs in enumerate(case["losses"]):
        lr = meta["lr"] * cosine_factor(step, meta["warmup"], meta["total"])
        assert abs(lr - meta["lrs"][step]) < 1e-9
        for group in optimizer.param_groups:
            group["lr"] = lr
        logits = ours(case[f"x{step}"], case.get(f"lengths{step}"))
        loss = torch.nn.functional.cross_entropy(logits, case[f"y{step}"])
        close(loss, theirs, 1e-5, 1e-4, f"loss {step}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for key, theirs in case.below("final.").items():
        if key != PE:
            loose = key.endswith(MAY_DIFFER)
            close(ours.state_dict()[key], theirs, 0.05 if loose else 2e-4, what=key)


def task_of(meta, state):
    """Dataset and decoder of the run, from the shapes of its weights."""
    task = override(meta, "experiment").split("-")[-1]
    first = state["encoder.0.weight"]
    dataset = {"d_output": 10 if task in ("listops", "cifar") else 2,
               "n_tokens": len(first) if "encoder.0.bias" not in state else None,
               "d_input": first.shape[1] if "encoder.0.bias" in state else None}
    if task == "aan":
        return dataset, {"_name_": "retrieval", "mode": "pool", "use_lengths": True, "nli": True,
                         "activation": "gelu"}
    return dataset, {"mode": "last" if task.startswith("pathfinder") else "pool",
                     "use_lengths": dataset["d_input"] is None}


def schedule(path, tmp_path, monkeypatch):
    for entry in json.loads(path.read_text()).values():
        if not isinstance(entry, dict):
            continue
        total = entry.get("total", 50000)
        for step, lr in zip(entry["steps"], entry["lr"], strict=True):
            ours = entry["base_lr"] * cosine_factor(step, entry["warmup"], total)
            assert abs(ours - lr) < 1e-9 * max(1, abs(lr)), (step, ours, lr)


ADAPTERS = [
    ("toeplitz", operator),
    ("units", units),
    ("norms", norms),
    ("model_", model),
    ("optim", training),
    ("lr_schedule", schedule),
    *DATA_ADAPTERS,
]
