"""Adapters for the recorded cases of the TNN language models and of tnn-pytorch.

An adapter takes (path of the case, temporary folder, monkeypatch), and for files that hold several
cases the case's name, and asserts.
"""

import argparse
import json

import torch

from tests.golden import tnn_lm_runs as runs
from tests.golden.case import Case, close
from tnn.network.activations import activation
from tnn.network.block import TnnBlock
from tnn.network.glu import GLU, GLUv2
from tnn.network.gtu import GTUS, Gtu
from tnn.network.layer import TnnLayer
from tnn.network.norms import norm
from tnn.network.tno import Tno

SHAPE_ONLY = ("kind", "n", "b", "layout")  # entries of a configuration that say what x is


# ------------------------------------------------------------------------------ comparing
def compare(ours, theirs, what):
    close(ours, theirs, 2e-5 * theirs.abs().max().item() + 1e-6, what=what)


def compare_gradients(case, named, prefix):
    """The recorded gradients below prefix, and no others but zeros."""
    for name, theirs in case.below(prefix).items():
        close(named[name].grad, theirs, 2e-4 * theirs.abs().max().item() + 1e-6,
              what=f"gradient of {name}")


def parts(path):
    """Names of a file's cases."""
    return sorted({tensor.split("/")[0] for tensor in Case(path).names})


def many(adapter):
    """An adapter for a file of several cases."""
    adapter.parts = parts
    return adapter


def load(case, name, module):
    """The recorded weights, strictly."""
    module.load_state_dict(case.below(f"{name}/state/"), strict=True)
    return module.eval()


def input_output_gradients(case, name, module, call=None):
    """x -> y, and the gradients of sum(y * w)."""
    x = case[f"{name}/x"].requires_grad_()
    y = (call or module)(x)
    compare(y, case[f"{name}/y"], "y")
    (y * case[f"{name}/w"]).sum().backward()
    compare_gradients(case, dict(module.named_parameters()), f"{name}/grad/")
    theirs = case[f"{name}/grad_x"]
    close(x.grad, theirs, 2e-4 * theirs.abs().max().item() + 1e-6, what="gradient of x")
    with torch.no_grad():  # the way with kept coefficients, twice
        for _ in range(2):
            compare((call or module)(x), case[f"{name}/y"], "y without gradients")


def arguments(config, *left_out):
    return {k: v for k, v in config.items() if k not in SHAPE_ONLY + left_out}


# ----------------------------------------------------------------------------- single modules
@many
def toeplitz_operator(path, tmp_path, monkeypatch, name):
    case = Case(path)
    config = case.meta(name)
    tno = load(case, name, Tno(**arguments(config, "normalize")))
    normalize = config.get("normalize", False)
    input_output_gradients(case, name, tno, lambda x: tno(x, normalize=normalize))
    n, x = config["n"], case[f"{name}/x"]
    t = tno.coefficients(n).detach()
    compare(t[:, :n], case[f"{name}/T_first_col"], "first column")
    row = torch.cat([t[:, :1], t[:, n:].flip(1) if not tno.causal else 0 * t[:, 1:]], dim=1)
    compare(row, case[f"{name}/T_first_row"], "first row")
    if f"{name}/T" in case:
        compare(tno.matrix(n), case[f"{name}/T"], "T")
        dense = torch.einsum("hijd,bhjd->bhid", case[f"{name}/T"], x)
        if not normalize:
            compare(tno.toeplizt_matrix(x), dense, "dense product")


@many
def mixers(path, tmp_path, monkeypatch, name):
    case = Case(path)
    config = case.meta(name)
    kinds = {"gtu": GTUS[1], "gtu_v2": GTUS[2], "gtu_v3": GTUS[3], "glu": GLU, "gluv2": GLUv2}
    module = load(case, name, kinds[config["kind"]](**arguments(config)))
    input_output_gradients(case, name, module)


@many
def norms_and_activations(path, tmp_path, monkeypatch, name):
    case = Case(path)
    config = case.meta(name)
    if "act" in config:
        compare(activation(config["act"])(case[f"{name}/x"]), case[f"{name}/y"], name)
        return
    module = load(case, name, norm(config["norm"], config["d"]))
    compare(module(case[f"{name}/x_with_zero_row"]), case[f"{name}/y_with_zero_row"], "zero row")
    input_output_gradients(case, name, module)


@many
def blocks(path, tmp_path, monkeypatch, name):
    from tnn.fairseq_plugin.options import block_options

    case = Case(path)
    config = case.meta(name)
    side, version = config["kind"].split("_")
    options = block_options(argparse.Namespace(**config),
                            {"dec": "decoder", "enc": "encoder"}[side])
    if version == "v1":
        options["gtu_type"] = 1
    block = load(case, name, TnnBlock(**options))
    time_first = config.get("layout", "").startswith("T x B")
    input_output_gradients(case, name, block, lambda x: block(x.transpose(0, 1)).transpose(0, 1)
                           if time_first else block(x))


@many
def tnn_pytorch(path, tmp_path, monkeypatch, name):
    case = Case(path)
    config = case.meta(name)
    kinds = {"layer": TnnLayer, "gtu": Gtu, "tno": Tno, "glu": GLU}
    options = arguments(config)
    if options.get("act_type") == "exp":
        options["act_type"] = "exp_plain"  # the two originals mean different functions
    module = load(case, name, kinds[config["kind"]](**options))
    input_output_gradients(case, name, module)
    if f"{name}/y_dense" in case:
        compare(module.toeplizt_matrix(case[f"{name}/x"]), case[f"{name}/y_dense"], "dense")


# ------------------------------------------------------------------------------- whole models
def state_dict_of(case, name, model):
    """Loads strictly, the way fairseq does, and compares what the model would save."""
    state = case.below(f"{name}/state/")
    model.load_state_dict(dict(state), strict=True)
    ours = model.state_dict()
    assert set(ours) == set(state), set(ours) ^ set(state)
    assert sum(p.numel() for p in model.parameters()) == case.meta(name)["num_params"]


@many
def language_model(path, tmp_path, monkeypatch, name):
    case = Case(path)
    config = case.meta(name)
    model = runs.build(argparse.Namespace(**config), config["V_dictionary"]).eval()
    state_dict_of(case, name, model)
    target = case[f"{name}/target"]
    features, extra = model(case[f"{name}/src_tokens"], features_only=True)
    compare(features, case[f"{name}/features"], "features")
    compare(torch.stack(extra["inner_states"]), case[f"{name}/inner_states"], "inner states")
    logits = model(case[f"{name}/src_tokens"])
    if f"{name}/logits" in case:
        compare(logits[0], case[f"{name}/logits"], "logits")
    lprobs = model.get_normalized_probs(logits, log_probs=True, sample={"target": target})
    lprobs = lprobs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    real = target.ne(runs.PAD)
    compare(lprobs[real], case[f"{name}/lprobs_of_target"][real], "log-probabilities")
    loss = runs.loss_sum(model, case[f"{name}/src_tokens"], target)
    compare(loss.reshape(-1), case[f"{name}/loss_sum_nats"].reshape(-1), "loss")
    (loss / config["ntokens"]).backward()
    named = dict(model.named_parameters())
    compare_gradients(case, named, f"{name}/grad/")
    total = torch.stack([p.grad.norm() for p in named.values() if p.grad is not None]).norm()
    close(total, case[f"{name}/grad_norm"], 1e-6, 2e-4, "gradient norm")


@many
def masked_language_model(path, tmp_path, monkeypatch, name):
    case = Case(path)
    config = case.meta(name)
    model = runs.build(argparse.Namespace(**config), config["V_dictionary"]).eval()
    classes = case[f"{name}/classification_logits"].shape[1]
    model.register_classification_head("sentence_classification_head", classes)
    model.eval()
    heads = [n for n in case.below(f"{name}/state/") if n.startswith("classification_heads")]
    state = case.below(f"{name}/state/")
    model.load_state_dict(state, strict=bool(heads))
    tokens, target = case[f"{name}/src_tokens"], case[f"{name}/target"]
    features, extra = model(tokens, features_only=True, return_all_hiddens=True)
    compare(features, case[f"{name}/features"], "features")
    compare(torch.stack(extra["inner_states"]), case[f"{name}/inner_states"], "inner states")
    compare(model(tokens)[0], case[f"{name}/logits"], "logits")
    masked = model(tokens, masked_tokens=target.ne(runs.PAD))[0]
    compare(masked, case[f"{name}/masked_logits"], "masked logits")
    scores = model(tokens, classification_head_name="sentence_classification_head")[0]
    compare(scores, case[f"{name}/classification_logits"], "classification logits")
    loss = runs.loss_sum(model, tokens, target)
    compare(loss, case[f"{name}/loss_sum_nats"], "loss")
    (loss / target.ne(runs.PAD).sum()).backward()
    compare_gradients(case, dict(model.named_parameters()), f"{name}/grad/")


def initialisation(path, tmp_path, monkeypatch):
    """The same seed draws the same numbers, in the same order."""
    case = Case(path)
    expected = case.meta("json")
    model = runs.build_from_shapes({n: e["shape"] for n, e in expected.items()},
                                   seed=int(path.stem.split("seed")[1].split("_")[0]))
    state = model.state_dict()
    assert set(state) == set(expected)
    for name, entry in expected.items():
        close(state[name].flatten()[:6], case[name], 1e-6, what=name)
        assert list(state[name].shape) == entry["shape"]
        assert abs(state[name].double().sum().item() - entry["sum"]) < 1e-4, name
        assert abs(state[name].abs().max().item() - entry["absmax"]) < 1e-6, name


def training(path, tmp_path, monkeypatch):
    case = Case(path)
    runs.replay(case, case.meta("json"), 1e-3 if "cold" in path.stem else 1e-4)


def perplexities(path, tmp_path, monkeypatch):
    """The fork's own checkpoint, by stock fairseq-eval-lm and block by block."""
    case = Case(path)
    lengths = {int(k[1:]): v for k, v in case.meta("json").items() if k.startswith("L")}
    checkpoint, data = path.parent / "cli/alm_fork_checkpoint.pt", path.parent / "cli/data-bin"
    model = runs.load_fork_checkpoint(checkpoint, data)
    for length, expected in sorted(lengths.items()):
        scores = runs.score_blocks(model, case[f"L{length}/src_tokens"],
                                   case[f"L{length}/target"], length)
        close(scores, case[f"L{length}/scores"], 1e-3, what=f"scores at {length}")
        printed = runs.eval_lm(checkpoint, data, length)
        assert abs(printed["loss"] - expected["loss_base2"]) < 1e-4, (length, printed, expected)
        assert abs(printed["perplexity"] - expected["ppl"]) < 0.01, json.dumps(expected)


ADAPTERS = [
    ("tno_", toeplitz_operator),
    ("gtu_glu", mixers),
    ("norms_activations", norms_and_activations),
    ("blocks", blocks),
    ("tnn_pytorch", tnn_pytorch),
    ("lm_", language_model),
    ("roberta_", masked_language_model),
    ("init_seed", initialisation),
    ("alm_train", training),
    ("blm_", training),
    ("alm_eval", perplexities),
]
