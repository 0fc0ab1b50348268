"""Adapters for the recorded cases of the TrellisNet repository.

An adapter takes (path of the case, temporary folder, monkeypatch) and asserts.
"""

import torch

import common.dropout
import trellisnet.lm
import trellisnet.seq_MNIST_CIFAR.model as classifier
import trellisnet.trellisnet
from common.splitcross import SplitCrossEntropyLoss
from tests.golden import trellisnet_runs as runs
from tests.golden.case import Case, close
from trellisnet.lm import TrainingLoss, TrellisNetLM
from trellisnet.weights import load_original_state, original_state

DRAWN = ("embedding", "input", "weight1", "weight2", "hidden", "output", "aux_output", "latent",
         "aux_latent")  # the order in which a training pass draws its masks


# --------------------------------------------------------------------------------- comparing
def compare(ours, theirs, what, atol=1e-10):
    """Vectors recorded in float64 to atol, in float32 to 2e-5."""
    close(ours, theirs, atol if theirs.dtype == torch.float64 else 2e-5, what=what)


def compare_gradients(case, module, prefix="grad/", criterion=None, atol=1e-9):
    """Each relative to its largest entry, and the norm of all."""
    named = {name: p.grad for name, p in module.named_parameters()}
    tails = dict(criterion.named_parameters()) if criterion is not None else {}
    grads = original_gradients(module, named) | {f"crit.{n}": p.grad for n, p in tails.items()}
    for name, theirs in case.below(prefix).items():
        scale = max(theirs.abs().max().item(), 1e-12)
        close(grads[name] / scale, theirs / scale, atol if theirs.dtype == torch.float64 else 1e-4,
              what=f"gradient of {name}")
    every = [*named.values(), *(p.grad for p in tails.values())]
    total = torch.stack([grad.norm() for grad in every if grad is not None]).norm()
    compare(total, case[f"{prefix.rstrip('/')}_total_norm"], "gradient norm", atol)


def original_gradients(module, named):
    """Gradients under the original's names."""
    stand_in = {name: torch.zeros_like(value) if named.get(name) is None else named[name]
                for name, value in module.state_dict().items()
                if name in named}
    if "decoder.weight" not in stand_in and "encoder.weight" in stand_in:
        stand_in["decoder.weight"] = stand_in["encoder.weight"]

    class Holder:
        def state_dict(self):
            return stand_in
    return original_state(Holder())


def build_lm(case):
    """The model of a case with its weights, in the precision of the recording."""
    config = case.meta("config")
    model = TrellisNetLM(**config["model"])
    state = case.below("sd/")
    model.to(next(iter(state.values())).dtype)
    load_original_state(model, state)
    back = original_state(model)
    assert set(back) == set(state)
    for name, value in state.items():
        close(back[name], value, 0, what=name)
    return config, model


def columns_first(aux):
    """(M, L, N, C) -> the recorded (N, M, L, C)."""
    return aux.permute(2, 0, 1, 3)


def state_of(case, model, columns):
    if "in/h0" in case:
        return case["in/h0"].squeeze(-1), case["in/c0"].squeeze(-1)
    return model.init_hidden(columns)


# ------------------------------------------------------------------------- the language models
def language_model(path, tmp_path, monkeypatch):
    case = Case(path)
    config, model = build_lm(case)
    hidden = state_of(case, model, config["N"])
    model.eval()
    out = model(case["in/data"], hidden)
    compare(out.raw.transpose(0, 1), case["eval/raw_output"], "raw output")
    compare(model.decode(out.dropped).transpose(0, 1), case["eval/decoded"], "decoded")
    for ours, name in zip(out.hidden, "hc", strict=True):
        compare(ours.unsqueeze(-1), case[f"eval/{name}"], name)
    if "eval/aux_decoded" in case:
        compare(columns_first(model.decode(out.aux)), case["eval/aux_decoded"], "aux decoded")
    if "eval/aux_outputs_nodecode" in case:
        compare(columns_first(out.aux), case["eval/aux_outputs_nodecode"], "aux outputs")
    model.train()
    training_step(case, config, model, hidden)


def training_step(case, config, model, hidden, criterion=None, atol=1e-10):
    """The parts of the loss, and all gradients."""
    criterion = criterion or SplitCrossEntropyLoss(model.encoder.embedding_dim)
    loss = TrainingLoss(model, criterion, config.get("aux", 0), config.get("alpha", 0),
                        config.get("beta", 0))
    result = loss(case["in/data"], case["in/targets"], hidden, config.get("eff_history", 0))
    for name in ("raw", "aux", "total"):
        if f"train/{name}_loss" in case:
            compare(getattr(result, name), case[f"train/{name}_loss"], f"{name} loss", atol)
    result.total.backward()
    compare_gradients(case, model, criterion=criterion, atol=10 * atol)


def carried_state(path, tmp_path, monkeypatch):
    """Segments one after the other, the state of one given to the next."""
    case = Case(path)
    config, model = build_lm(case)
    loss = TrainingLoss(model, SplitCrossEntropyLoss(model.encoder.embedding_dim),
                        config.get("aux", 0), config.get("alpha", 0), config.get("beta", 0))
    length = config["seg_len"]
    hidden = model.init_hidden(config["N"])
    for mode in ("eval", "train"):
        model.train(mode == "train")
        state = hidden
        for s in range(config["nseg"]):
            rows = slice(s * length, (s + 1) * length)
            words, targets = case["in/data"][rows], case["in/targets"][rows]
            if mode == "eval":
                out = model(words, state)
                state = out.hidden
                compare(out.raw.transpose(0, 1), case[f"eval/seg{s}/raw_output"], f"raw {s}")
                compare(state[0].unsqueeze(-1), case[f"eval/seg{s}/h"], f"h {s}")
                compare(state[1].unsqueeze(-1), case[f"eval/seg{s}/c"], f"c {s}")
                compare(loss.cross_entropy(out.dropped, targets), case[f"eval/seg{s}/raw_loss"],
                        f"loss {s}")
                continue
            loss.zero_grad(set_to_none=True)
            result = loss(words, targets, state)
            compare(result.total, case[f"train/seg{s}/total_loss"], f"total loss {s}")
            result.total.backward()
            compare_gradients(case, model, f"grad/seg{s}/")
            state = tuple(part.detach() for part in result.hidden)


def inject_masks(case, monkeypatch):
    """Dropout draws the recorded masks, in the order in which they were drawn."""
    waiting = [name for name in DRAWN if f"mask/{name}" in case]

    def recorded(like, shape, p):
        mask = case[f"mask/{waiting.pop(0)}"].to(like.dtype)
        return mask.reshape(shape) / (1 - p)
    for module in (common.dropout, trellisnet.trellisnet, trellisnet.lm, classifier):
        monkeypatch.setattr(module, "dropout_mask", recorded)
    return waiting


def masks(path, tmp_path, monkeypatch):
    """Every dropout on: effective weights, outputs, losses, gradients."""
    case = Case(path)
    config, model = build_lm(case)
    model.train()
    inject_masks(case, monkeypatch)
    hidden = state_of(case, model, config["N"])
    out = model(case["in/data"], hidden)
    compare(out.raw.transpose(0, 1), case["train/raw_output"], "raw output")
    compare(out.dropped.transpose(0, 1), case["train/output"], "output")
    compare(out.hidden[0].unsqueeze(-1), case["train/h"], "h")
    compare(out.hidden[1].unsqueeze(-1), case["train/c"], "c")
    if model.mixsoft:
        decoded = model.mixsoft.log_prob(out.dropped, model.decoder, model.latent_mask(out.dropped))
    else:
        decoded = model.decode(out.dropped)
    compare(decoded.transpose(0, 1), case["train/decoded"], "decoded")
    monkeypatch.undo()
    waiting = inject_masks(case, monkeypatch)
    training_step(case, config, model, hidden)
    assert not waiting, f"masks never drawn: {waiting}"
    monkeypatch.undo()
    inject_masks(case, monkeypatch)
    for name in ("weight1", "weight2"):
        monkeypatch.setattr(
            trellisnet.trellisnet, "dropout_mask",
            lambda like, shape, p, name=name: case[f"mask/{name}"].to(like.dtype) / (1 - p))
        # One unit in the last place of float32, in which some recorded masks were scaled.
        close(model.tnet.effective_weight(name), case[f"train/effective_{name}"], 1e-10,
              torch.finfo(torch.float32).eps, what=name)


# ------------------------------------------------------------------------------ split softmax
FLOAT32_SUMS = 1e-6  # the original's split loss adds its parts in float32 whatever it is given


def split_softmax_model(path, tmp_path, monkeypatch):
    case = Case(path)
    config, model = build_lm(case)
    criterion = SplitCrossEntropyLoss(model.encoder.embedding_dim, config["splits"])
    criterion.to(model.encoder.weight.dtype)
    criterion.load_state_dict(case.below("crit_sd/"))
    hidden = state_of(case, model, config["N"])
    start = config.get("eff_history", 0)
    model.eval()
    out = model(case["in/data"], hidden)
    compare(out.dropped.transpose(0, 1), case["eval/output"], "output")
    loss = TrainingLoss(model, criterion)
    scored, targets = out.dropped[start:], case["in/targets"][start:]
    compare(loss.cross_entropy(scored, targets), case["eval/loss"], "loss",
            FLOAT32_SUMS)
    if "eval/logprob_all" in case:
        every = criterion.logprob(model.decoder.weight, model.decoder.bias, scored.flatten(0, 1))
        compare(every, case["eval/logprob_all"], "log-probabilities")
        nll = -every.gather(1, targets.reshape(-1, 1)).mean()
        compare(nll, case["eval/nll_from_logprob"], "loss from log-probabilities")
    model.train()
    training_step(case, config, model, hidden, criterion, FLOAT32_SUMS)


def split_softmax(path, tmp_path, monkeypatch):
    case = Case(path)
    config = case.meta("config")
    criterion = SplitCrossEntropyLoss(config["H"], config["splits"])
    given = {name: case[f"in/{name}"].requires_grad_() for name in ("weight", "bias", "hiddens")}
    criterion.to(given["weight"].dtype)
    criterion.load_state_dict(case.below("crit_sd/"))
    loss = criterion(**given, targets=case["in/targets"])
    compare(loss, case["out/loss"], "loss", FLOAT32_SUMS)
    if "out/logprob" in case:
        compare(criterion.logprob(given["weight"], given["bias"], given["hiddens"]),
                case["out/logprob"], "log-probabilities")
    loss.backward()
    grads = {name: value.grad for name, value in given.items()}
    grads |= {f"crit.{name}": p.grad for name, p in criterion.named_parameters()}
    for name, theirs in case.below("grad/").items():
        compare(grads[name], theirs, f"gradient of {name}", FLOAT32_SUMS)


# ---------------------------------------------------------------------------------- classifier
def sequence_classifier(path, tmp_path, monkeypatch):
    case = Case(path)
    config = case.meta("config")
    model = classifier.SequenceClassifier(**config["model"])
    state = case.below("sd/")
    model.to(next(iter(state.values())).dtype)
    load_original_state(model, state)
    assert set(original_state(model)) == set(state)
    pixels, labels = case["in/x"], case["in/y"]
    if "eval/logprobs" in case:
        model.eval()
        scores = model(pixels)
        compare(scores, case["eval/logprobs"], "log-probabilities")
        compare(torch.nn.functional.nll_loss(scores, labels, reduction="sum"),
                case["eval/nll_sum"], "summed loss")
        _, _, hidden = model.tnet(pixels.permute(2, 0, 1))
        for ours, name in zip(hidden, "hc", strict=True):
            compare(ours.unsqueeze(-1), case[f"eval/{name}"], name)
    model.train()
    waiting = inject_masks(case, monkeypatch)
    scores = model(pixels)
    assert not waiting, f"masks never drawn: {waiting}"
    compare(scores, case["train/logprobs"], "log-probabilities in training")
    loss = torch.nn.functional.nll_loss(scores, labels)
    compare(loss, case["train/loss"], "loss")
    loss.backward()
    compare_gradients(case, model)


def any_language_model(path, tmp_path, monkeypatch):
    """What a case is about shows in its configuration."""
    config = Case(path).meta("config")
    adapter = (carried_state if "nseg" in config else masks if "mask_order" in config
               else language_model)
    adapter(path, tmp_path, monkeypatch)


ADAPTERS = [
    ("lm_", any_language_model),
    ("wt_", split_softmax_model),
    ("split_", split_softmax),
    ("seq_", sequence_classifier),
    ("e2e/expected", runs.expected),
    ("e2e/train_", runs.final_weights),
]
