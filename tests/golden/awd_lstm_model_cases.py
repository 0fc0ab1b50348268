"""Adapters of golden/awd_lstm for the language model: values, gradients, steps, dropouts."""

import numpy as np
import torch

import common.dropout
from awd_lstm.model import RNNModel, load_original_state
from awd_lstm.training import TrainingLoss
from awd_lstm.utils import get_batch, repackage_hidden
from common.splitcross import SplitCrossEntropyLoss
from tests.golden.case import Case, close, grad_close

NO_DROPOUT = {"dropout": 0, "dropouth": 0, "dropouti": 0, "dropoute": 0}


def build(case: Case, wdrop: float = 0, rates: dict = NO_DROPOUT, **kwargs) -> RNNModel:
    model = RNNModel(case.meta("kind"), case.meta("ntoken"), case.meta("ninp"), case.meta("nhid"),
                     case.meta("nlayers"), **rates, wdrop=wdrop,
                     tie_weights=case.meta("tie_weights"), **kwargs)
    if "state.encoder.weight" in case:
        load_original_state(model, case.below("state."))
    return model


def flat_hidden(hidden: list) -> dict[str, torch.Tensor]:
    """hidden.0.h, hidden.0.c or hidden.0, as the files name them."""
    flat = {}
    for i, h in enumerate(hidden):
        if isinstance(h, tuple):
            flat[f"hidden.{i}.h"], flat[f"hidden.{i}.c"] = h
        else:
            flat[f"hidden.{i}"] = h
    return flat


# ---------------------------------------------------------------------------------------- model
def model(path, folder, monkeypatch):
    case = Case(path)
    ours = build(case, case.meta("wdrop_at_construction"))
    rates = NO_DROPOUT | {"wdrop": 0}
    ours.set_dropout(**rates)
    criterion = SplitCrossEntropyLoss(ours.decoder.weight.shape[1], case.meta("splits"))
    criterion.load_state_dict(case.below("criterion."))
    starts = np.cumsum([0, *case.meta("seq_lens")])
    batches = [get_batch(case["source"], int(s), n)
               for s, n in zip(starts, case.meta("seq_lens"), strict=False)]
    _model_eval(case, ours, criterion, batches)
    _model_train(case, ours, criterion, batches)


def _model_eval(case, ours, criterion, batches):
    ours.eval()
    ours.reset()
    hidden = ours.init_hidden(case.meta("batch"))
    for b, (data, targets) in enumerate(batches):
        at = f"eval.{b}."
        close(data, case[f"{at}data"])
        close(targets, case[f"{at}targets"])
        frames = [getattr(layer, "prevX", None) for layer in ours.rnns]
        if f"{at}result_if_reset_before" in case:
            ours.reset()
            close(ours(data, hidden)[0], case[f"{at}result_if_reset_before"], what="after reset")
            for layer, frame in zip(ours.rnns, frames, strict=True):
                layer.prevX = frame
        result, hidden, raw, _ = ours(data, hidden, return_h=True)
        found = {"result": result, **flat_hidden(hidden),
                 "decoder_logits": ours.decoder(result),
                 "loss": criterion(ours.decoder.weight, ours.decoder.bias, result, targets)}
        found |= {f"raw_output.{i}": r for i, r in enumerate(raw)}
        if f"{at}prevX.0" in case:
            found["prevX.0"] = ours.rnns[0].prevX.reshape(case[f"{at}prevX.0"].shape)
        for name, value in found.items():
            close(value, case[at + name], what=at + name)


def _model_train(case, ours, criterion, batches):
    ours.train()
    ours.reset()
    hidden = ours.init_hidden(case.meta("batch"))
    loss_of = TrainingLoss(ours, criterion, case.meta("alpha"), case.meta("beta"))
    named = [*ours.named_parameters(),
             *((f"criterion.{n}", p) for n, p in criterion.named_parameters())]
    optimizer = torch.optim.SGD([p for _, p in named], lr=1, fused=True,
                                weight_decay=case.meta("weight_decay"))
    for b, (data, targets) in enumerate(batches):
        at = f"train.{b}."
        optimizer.param_groups[0]["lr"] = case.meta("lr") * len(data) / case.meta("bptt")
        close(optimizer.param_groups[0]["lr"], case[f"{at}lr"], 1e-6 * case.meta("lr"), what="lr")
        optimizer.zero_grad()
        loss, raw_loss, hidden = loss_of(data, targets, repackage_hidden(hidden))
        close(raw_loss, case[f"{at}raw_loss"], what=f"{at}raw_loss")
        close(loss, case[f"{at}loss"], what=f"{at}loss")
        loss.backward()
        for name, p in named:
            grad_close(p.grad, case[f"{at}grad.{name}"], f"{at}grad.{name}")
        norm = torch.nn.utils.get_total_norm([p.grad for _, p in named])
        grad_close(norm, case[f"{at}grad_norm_before_clip"], f"{at}grad norm")
        if case.meta("clip"):
            torch.nn.utils.clip_grads_with_norm_([p for _, p in named], case.meta("clip"), norm)
        optimizer.step()
        for name, p in named:
            grad_close(p.detach(), case[f"{at}param_after.{name}"], f"{at}{name} after the step")


def init(path, folder, monkeypatch):
    case = Case(path)
    torch.manual_seed(case.meta("torch_manual_seed"))
    ours = RNNModel(case.meta("kind"), case.meta("ntoken"), case.meta("ninp"), case.meta("nhid"),
                    case.meta("nlayers"), wdrop=case.meta("wdrop"),
                    tie_weights=case.meta("tie_weights"))
    close(torch.rand(4), case["next_rand"], 0, what="random stream after construction")
    assert sum(p.numel() for p in ours.parameters()) == case.meta("total_params")
    state = ours.state_dict()
    expected = {k: v for k, v in case.below("state.").items() if k in state}
    assert expected.keys() == state.keys()
    for name, value in expected.items():
        close(state[name], value, 0, what=name)


def padding(path, folder, monkeypatch):
    case = Case(path)
    for name, legacy in (("original", True), ("no_padding", False)):
        ours = RNNModel("LSTM", case.meta("ntoken"), case.meta("ninp"), case.meta("nhid"),
                        case.meta("nlayers"), 0, 0, 0, 0, 0, case.meta("tie_weights"),
                        last_word_padding=legacy)
        load_original_state(ours, case.below("state."))
        criterion = SplitCrossEntropyLoss(case.meta("ninp"))
        result, _ = ours(case["data"], ours.init_hidden(case["data"].shape[1]))
        loss = criterion(ours.decoder.weight, ours.decoder.bias, result, case["targets"])
        loss.backward()
        close(loss, case[f"{name}.loss"], what=name)
        grad_close(ours.encoder.weight.grad, case[f"{name}.grad.encoder.weight"], name)


# -------------------------------------------------------------------------------------- dropout
def dropout(path, folder, monkeypatch):
    """With the recorded masks in place of drawn ones."""
    case = Case(path)
    expected = [case[f"batch.{b}.mask.{name}"] for b in (0, 1) for name in case.meta("mask_order")]

    def recorded(like, shape, p):
        mask = expected.pop(0)
        assert tuple(mask.shape) == tuple(shape)
        return mask

    monkeypatch.setattr(common.dropout, "dropout_mask", recorded)
    _dropout_batches(case)
    assert not expected


def dropout_seeded(path, folder, monkeypatch):
    """With masks drawn from the recorded seed: the same random stream as the original's."""
    case = Case(path)
    expected = [case[f"batch.{b}.mask.{name}"] for b in (0, 1) for name in case.meta("mask_order")]

    def checked(draw):
        def draw_and_compare(like, shape, p):
            mask = draw(like, shape, p)
            close(mask, expected.pop(0), 1e-6, what="drawn mask")
            return mask
        return draw_and_compare

    monkeypatch.setattr(common.dropout, "dropout_mask", checked(common.dropout.dropout_mask))
    _dropout_batches(case, seed=case.meta("seed_before_batch_0"))
    assert not expected


def _dropout_batches(case, seed=None):
    rates = {name: case.meta(name) for name in NO_DROPOUT}
    ours = build(case, case.meta("wdrop"), rates)
    criterion = SplitCrossEntropyLoss(ours.decoder.weight.shape[1])
    ours.train()
    ours.reset()
    hidden = ours.init_hidden(case.meta("batch"))
    length = case.meta("seq_len")
    if seed is not None:
        torch.manual_seed(seed)
    for b in (0, 1):
        at = f"batch.{b}."
        data, targets = get_batch(case["source"], b * length, length)
        ours.zero_grad()
        result, hidden, raw, dropped = ours(data, repackage_hidden(hidden), return_h=True)
        raw_loss = criterion(ours.decoder.weight, ours.decoder.bias, result, targets)
        ar = case.meta("alpha") * dropped[-1].pow(2).mean()
        tar = case.meta("beta") * (raw[-1][1:] - raw[-1][:-1]).pow(2).mean()
        (raw_loss + ar + tar).backward()
        found = {"result": result, **flat_hidden(hidden), "raw_loss": raw_loss, "ar": ar,
                 "tar": tar}
        found |= {f"raw_output.{i}": x for i, x in enumerate(raw)}
        found |= {f"output.{i}": x for i, x in enumerate(dropped)}
        for name, value in found.items():
            close(value, case[at + name], what=at + name)
        for name, p in ours.named_parameters():
            grad_close(p.grad, case[f"{at}grad.{name}"], f"{at}grad.{name}")
