"""Adapters of golden/awd_lstm: each runs one kind of case file against ours.

An adapter takes (path, a temporary folder, monkeypatch). Tolerances are the golden README's.
"""

import re
from itertools import pairwise

import numpy as np
import torch

import common.dropout
from awd_lstm import checkpoint, generate, masks, pointer
from awd_lstm.data import SPLITS, Corpus
from awd_lstm.model import RNNModel, load_original_state
from awd_lstm.qrnn import QRNN, QRNNLayer, forget_mult, forget_mult_plain
from awd_lstm.training import TrainingLoss
from awd_lstm.utils import batchify, draw_seq_len, evaluate, get_batch, repackage_hidden
from common.asgd import ASGD, non_monotone
from common.splitcross import SplitCrossEntropyLoss
from embedded import write_decimal
from tests.golden.awd_lstm_runs import run_transcript, run_transcript_plain, write_corpus
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

    for module in (common.dropout, masks):
        monkeypatch.setattr(module, "dropout_mask", recorded)
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

    for module in (common.dropout, masks):
        monkeypatch.setattr(module, "dropout_mask", checked(module.dropout_mask))
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


# ----------------------------------------------------------------------------------------- QRNN
def forget_mult_case(path, folder, monkeypatch):
    case = Case(path)
    for at in sorted({n.split(".")[0] + "." for n in case.names}):
        for ours in (forget_mult, forget_mult_plain):
            inputs = {n: case[at + n].requires_grad_() for n in ("f", "x")}
            if f"{at}hidden_init" in case:
                inputs["hidden_init"] = case[f"{at}hidden_init"].requires_grad_()
            out = ours(**inputs)
            close(out, case[f"{at}out"], what=at)
            out.backward(case[f"{at}grad_out"])
            for name, tensor in inputs.items():
                grad_close(tensor.grad, case[f"{at}grad_{name}"], f"{at}grad_{name}")


def qrnn_layer(path, folder, monkeypatch):
    case = Case(path)
    for at, config in case.meta("cases").items():
        config.pop("seed_before_forward")
        layer = QRNNLayer(**config)
        layer.load_state_dict(case.below(f"{at}state."))
        _qrnn_layer_mode(case, layer, at, "train")
        if f"{at}eval.loss" in case:
            _qrnn_layer_mode(case, layer, at, "eval")


def _qrnn_layer_mode(case, layer, at, mode):
    layer.train(mode == "train")
    layer.reset()
    layer.zero_grad()
    hidden_in = case[f"{at}hidden_in"].requires_grad_()
    hidden, loss, inputs = hidden_in, 0, []
    count = sum(n.startswith(f"{at}x.") for n in case.names)
    for i in range(count):
        x = case[f"{at}x.{i}"].requires_grad_()
        inputs.append(x)
        mask = case.get(f"{at}{mode}.zoneout_keep_mask.{i}")
        with _zoneout_mask(mask):
            y, hidden = layer(x, hidden)
        close(y, case[f"{at}{mode}.y.{i}"], what=f"{at}{mode}.y.{i}")
        close(hidden, case[f"{at}{mode}.c_last.{i}"], what=f"{at}{mode}.c_last.{i}")
        loss = loss + (case[f"{at}loss_weight.{i}"] * y).sum()
    close(loss, case[f"{at}{mode}.loss"], 1e-4, what=f"{at}{mode}.loss")
    if f"{at}{mode}.grad.hidden_in" not in case:
        return
    loss.backward()
    found = {"hidden_in": hidden_in, **dict(layer.named_parameters()),
             **{f"x.{i}": x for i, x in enumerate(inputs)}}
    for name, tensor in found.items():
        grad_close(tensor.grad, case[f"{at}{mode}.grad.{name}"], f"{at}{mode}.grad.{name}")


class _zoneout_mask:
    """Puts a recorded keep mask where QRNNLayer draws one with bernoulli."""

    def __init__(self, mask):
        self.mask = mask

    def __enter__(self):
        self.bernoulli_ = torch.Tensor.bernoulli_
        if self.mask is not None:
            torch.Tensor.bernoulli_ = lambda tensor, p: tensor.copy_(self.mask)

    def __exit__(self, *error):
        torch.Tensor.bernoulli_ = self.bernoulli_


def qrnn_stack(path, folder, monkeypatch):
    case = Case(path)
    names = ("input_size", "hidden_size", "num_layers", "dropout", "window", "save_prev_x")
    stack = QRNN(**{name: case.meta(name) for name in names}).eval()
    stack.load_state_dict(case.below("state."))
    hidden = None
    for i in (0, 1):
        y, hidden = stack(case[f"x.{i}"], hidden)
        close(y, case[f"y.{i}"], what=f"y.{i}")
        close(hidden, case[f"hidden.{i}"], what=f"hidden.{i}")


# ------------------------------------------------------------------------- split cross entropy
def splitcross_small(path, folder, monkeypatch):
    case = Case(path)
    for name, config in case.meta("cases").items():
        at = f"{name}."
        criterion = SplitCrossEntropyLoss(config["H"], config["splits"])
        criterion.load_state_dict(case.below(f"{at}criterion."))
        inputs = {n: case[at + n].requires_grad_() for n in ("weight", "bias", "hiddens")}
        loss = criterion(**inputs, targets=case[f"{at}targets"])
        close(loss, case[f"{at}loss"], what=f"{at}loss")
        loss.backward()
        for n, tensor in (*inputs.items(), *criterion.named_parameters()):
            grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            grad_close(grad, case[f"{at}grad.{n}"], f"{at}grad.{n}")
        weight, bias, first = (t.detach() for t in (*list(inputs.values())[:2],
                                                    inputs["hiddens"][:4]))
        whole = criterion.logprob(weight, bias, first)
        assert whole.shape == (len(first), config["V"])
        if config["splits"]:  # the original returns nothing without splits
            close(whole, case[f"{at}logprob_first4"], what=f"{at}logprob")
        for k in range(len(config["splits"]) + 1):
            if config["splits"] and f"{at}logprob_split{k}" in case:
                close(criterion.logprob(weight, bias, first, splits=[k]),
                      case[f"{at}logprob_split{k}"], what=f"{at}logprob_split{k}")


def splitcross_wt103(path, folder, monkeypatch):
    case = Case(path)
    for name, config in case.meta("cases").items():
        at = f"{name}."
        criterion = SplitCrossEntropyLoss(config["H"], config["splits"])
        criterion.load_state_dict(case.below(f"{at}criterion."))
        weight, bias = (case[at + n].float().requires_grad_() for n in ("weight", "bias"))
        hiddens, targets = case[f"{at}hiddens"].requires_grad_(), case[f"{at}targets"]
        loss = criterion(weight, bias, hiddens, targets)
        loss.backward()
        close(loss, case[f"{at}loss"], what="loss")
        edges = [0, *config["splits"], config["V"]]
        columns = torch.stack([weight.grad[a:b].sum(0)
                               for a, b in pairwise(edges)])
        found = {"hiddens": hiddens.grad, "tail_vectors": criterion.tail_vectors.grad,
                 "tail_bias": criterion.tail_bias.grad, "bias_norm": bias.grad.norm(),
                 "weight_norm": weight.grad.norm(), "weight_colsum_per_split": columns,
                 "weight_rows": weight.grad[case[f"{at}grad.weight_rows_index"]]}
        for n, value in found.items():
            grad_close(value, case[f"{at}grad.{n}"], f"grad.{n}")
        logprob = criterion.logprob(weight, bias, hiddens[:4]).detach()
        close(logprob.exp().sum(1), case[f"{at}logprob_first4_sum_exp"], what="sum of p")
        close(logprob[:, :64], case[f"{at}logprob_first4_head"], what="head")
        close(logprob.gather(1, targets[:4, None]), case[f"{at}logprob_first4_at_targets"],
              what="targets")


# ------------------------------------------------------------------------------------ optimiser
def ntasgd(path, folder, monkeypatch):
    case = Case(path)
    w = case["w0"].clone().requires_grad_()
    b = case["b0"].clone().requires_grad_()
    lr, decay = case.meta("base_lr"), case.meta("weight_decay")
    optimizer = torch.optim.SGD([w, b], lr=lr, weight_decay=decay)
    for step, seq_len in enumerate(case["seq_lens"].tolist()):
        if step == case.meta("switch_before_step"):
            optimizer = ASGD([w, b], lr=lr, t0=0, weight_decay=decay)
        at = f"step{step:02d}."
        optimizer.param_groups[0]["lr"] = lr * seq_len / case.meta("bptt")
        optimizer.zero_grad()
        loss = (case["A"] @ w + b - case["y"]).pow(2).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([w, b], case.meta("clip"))
        optimizer.step()
        optimizer.param_groups[0]["lr"] = lr
        found = {"loss": loss, "grad_norm": norm, "w": w, "b": b}
        if f"{at}mu" in case:
            state = optimizer.state
            found |= {"ax_w": state[w]["ax"], "ax_b": state[b]["ax"], "eta": state[w]["eta"],
                      "mu": state[w]["mu"]}
        for name, value in found.items():
            value = value.detach() if isinstance(value, torch.Tensor) else value
            close(value, case[at + name], what=at + name)
    for curve in sorted({n.split(".")[1] for n in case.names if n.startswith("trigger.")}):
        values = case[f"trigger.{curve}.val"].tolist()
        for n in (1, 2, 3, 5):
            fired = [e + 1 for e, v in enumerate(values) if non_monotone(values[:e], n, v)]
            assert (fired or [0])[0] == int(case[f"trigger.{curve}.nonmono{n}"]), (curve, n)


# ------------------------------------------------------------------------- evaluation, pointer
def evaluate_case(path, folder, monkeypatch):
    case = Case(path)
    ours = RNNModel("LSTM", case.meta("V"), case.meta("ninp"), case.meta("nhid"),
                    case.meta("nlayers"), 0, 0, 0, 0, 0, tie_weights=True)
    load_original_state(ours, case.below("state."))
    criterion = SplitCrossEntropyLoss(case.meta("ninp"))
    for config in case.meta("cases"):
        at = f"case{config['case']}."
        source = batchify(case[f"{at}tokens"].numpy(), config["batch"])
        assert len(source) == config["rows"]
        close(evaluate(ours, criterion, source, config["bptt"]), case[f"{at}evaluate"], what=at)
        close(evaluate(ours, criterion, source, config["bptt"], exact=True),
              case[f"{at}true_mean_loss"], what=f"{at} exact")


def pointer_case(path, folder, monkeypatch):
    case = Case(path)
    tokens, hidden = case["tokens"], case["hidden"]
    logits = torch.nn.functional.linear(hidden, case["decoder.weight"], case["decoder.bias"])
    p_vocab = logits.softmax(1)[:-1].gather(1, tokens[1:, None])[:, 0]
    close(p_vocab, case["vocab_target_prob"].float())
    for config in case.meta("cases"):
        cache = pointer.Cache(config["window"], config["theta"])
        mixed = []
        for i in range(0, len(tokens) - 1, config["bptt"]):
            end = min(i + config["bptt"], len(tokens) - 1)
            p_cache, active = cache(hidden[i:end], tokens[i + 1:end + 1])
            mix = config["lambdasm"] * p_cache + (1 - config["lambdasm"]) * p_vocab[i:end]
            mixed.append(torch.where(active, mix, p_vocab[i:end]))
        p = torch.cat(mixed).double()
        at = f"case{config['case']}."
        close(p, case[f"{at}target_prob"], what=at)
        close(-p.log().sum() / len(tokens), case[f"{at}loss"], what=at)
        close(-p.log().mean(), case[f"{at}loss_per_target"], what=at)


def generate_pointer_e2e(path, folder, monkeypatch):
    case = Case(path)
    write_corpus(case, folder)
    corpus = Corpus(folder)
    for name, config in case.meta("models").items():
        saved = folder / f"{name}.pt"
        torch.save(case.below(f"{name}.state."), saved)
        ours, criterion, _ = checkpoint.load_model(saved)
        assert (ours.rnn_type, ours.nlayers) == (config["kind"], config["nlayers"])
        for k, settings in enumerate(config["pointer_cases"]):
            argv = [f"--{flag}={value}" for flag, value in settings.items()]
            args = pointer.parse_args(argv)
            for split, ids in (("val", corpus.valid), ("test", corpus.test)):
                loss = pointer.evaluate(ours, criterion, batchify(ids, 1), args)
                close(loss, case[f"{name}.pointer.{k}.{split}_loss"], what=f"{name} {k} {split}")
        _generated_texts(case, name, folder)


def _generated_texts(case, name, folder):
    for text in (n for n in case.names if n.startswith(f"{name}.generate.seed")):
        seed, temperature, words = re.search(r"seed(\d+)\.temp([\d.]+)\.words(\d+)", text).groups()
        generate.main(["--no-cuda", "--data", str(folder), "--checkpoint", f"{name}.pt", "--outf",
                       "out.txt", "--seed", seed, "--temperature", temperature, "--words", words])
        assert (folder / "out.txt").read_text() == case.text(text), text


# ----------------------------------------------------------------------------------------- data
def data(path, folder, monkeypatch):
    case = Case(path)
    for split in SPLITS:
        (folder / f"{split}.txt").write_bytes(case.bytes(f"{split}.txt"))
    for corpus in (Corpus(folder), Corpus(folder)):  # made, then read from its cache
        for split in SPLITS:
            assert getattr(corpus, split).tolist() == case[f"{split}.ids"].tolist()
        assert corpus.dictionary.idx2word == case.text("vocab_joined_by_newline").split("\n")
        assert corpus.dictionary.counter == case["counts"].tolist()
        assert corpus.dictionary.total == int(case["total"])
    assert corpus.cached
    for name in (n for n in case.names if n.startswith("seq_len.")):
        parts = name.split(".")
        seed, bptt = int(parts[-2].removeprefix("seed")), int(parts[-1].removeprefix("bptt"))
        rng, cap = np.random.RandomState(seed), bptt + 10 if "finetune" in parts else None
        assert [draw_seq_len(rng, bptt, cap) for _ in case[name]] == case[name].tolist(), name
    _batchify_cases(case)
    _enwik8(case, folder)


def _batchify_cases(case):
    for name in (n for n in case.names if n.count(".") == 1 and n.startswith("batchify.")):
        expected = case[name]
        stretch = expected.t().reshape(-1).numpy()
        source = batchify(np.concatenate([stretch, stretch[: expected.shape[1] - 1]]),
                          expected.shape[1])
        assert torch.equal(source.long(), expected)
        length = len(case[f"{name}.batch0.data"])
        for at, i in (("batch0", 0), ("last", int(case[f"{name}.last.start"]))):
            inputs, targets = get_batch(source, i, length)
            assert torch.equal(inputs, case[f"{name}.{at}.data"])
            assert torch.equal(targets, case[f"{name}.{at}.target"])


def _enwik8(case, folder):
    raw = case.bytes("enwik8.raw")
    for split in SPLITS:
        with (folder / "raw").open("wb+") as source:
            source.write(raw)
            source.seek(0)
            write_decimal(source, len(raw), folder / f"{split}.txt", folder / f"{split}.txt.raw")
        assert (folder / f"{split}.txt").read_bytes() == case.bytes("enwik8.txt")
        assert (folder / f"{split}.txt.raw").read_bytes() == raw
    corpus = Corpus(folder)
    tokens = [corpus.dictionary.idx2word[i] for i in corpus.train]
    assert " ".join(tokens) == case.text("enwik8.tokens_joined_by_space")


ADAPTERS = [
    ("model_", model), ("init_", init), ("padding_", padding), ("dropout_", dropout),
    ("dropout_", dropout_seeded), ("forget_mult", forget_mult_case), ("qrnn_layer", qrnn_layer),
    ("qrnn_stack", qrnn_stack), ("splitcross_wt103", splitcross_wt103),
    ("splitcross_small", splitcross_small), ("ntasgd", ntasgd), ("evaluate", evaluate_case),
    ("pointer", pointer_case), ("generate_pointer", generate_pointer_e2e), ("data", data),
    ("run_", run_transcript), ("run_", run_transcript_plain),
]
