"""Adapter of golden/sparse_seq: one, which goes by the kind that a case file names itself.

Some kinds are run in several parts: every form of the sparse layers, every list of geometry.json.
Tolerances are the golden README's.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F

from common.dropout import dropout_mask
from sparse_seq import SparseEmbedding, SparseLSTM
from sparse_seq.language_modeling.data import SPLITS, Corpus
from sparse_seq.language_modeling.model import LanguageModel, TrainingLoss
from sparse_seq.sequence_labeling import utils as tagging
from sparse_seq.sequence_labeling.data import (
    TaggedCorpus,
    batches_in_order,
    make_batch,
    training_order,
)
from sparse_seq.sequence_labeling.model import Tagger, packed
from tests.golden import sparse_seq_runs
from tests.golden.case import Case, close
from tests.golden.sparse_seq_geometry import CHECKS, geometry

FORMS = ("sequential",)  # streams need a GPU: tests/sparse_seq/test_blocks.py


def value_close(ours, theirs, what):
    close(ours, theirs, 2e-6, 1e-5, what)


def grad_close(ours, theirs, what):
    ours = torch.zeros_like(theirs) if ours is None else ours
    close(ours, theirs, 1e-6, 1e-4, what)


def grads_of(case, model, names="grad."):
    for name, p in model.named_parameters():
        grad_close(p.grad, case[f"{names}{name}"], f"gradient of {name}")


# -------------------------------------------------------------------------------------- modules
def layer_of(config, form):
    names = ("input_size", "hidden_size", "bidirectional", "wdrop", "blocks", "density",
             "reduce_in", "reduce_out")
    return SparseLSTM(**{n: config[n] for n in names if n in config}, form=form)


def sparse_lstm(path, folder, monkeypatch, form):
    torch.set_num_threads(2)
    case = Case(path)
    config = case.meta("config")
    layer = layer_of(config, form)
    layer.load_state_dict(case.below("sd."))
    layer.train(config["mode"] == "train")
    x, h0, c0 = (case[name].requires_grad_() for name in ("x", "h0", "c0"))
    y, (hn, cn) = layer(x, (h0, c0))
    for name, value in (("y", y), ("hn", hn), ("cn", cn)):
        value_close(value, case[name], name)
    assert config["scalar"] == "sum(y*cotangent_y)+sum(hn)+0.5*sum(cn)"
    loss = (y * case["cotangent_y"]).sum() + hn.sum() + 0.5 * cn.sum()
    value_close(loss, case["loss"], "loss")
    loss.backward()
    for name, leaf in (("x", x), ("h0", h0), ("c0", c0)):
        grad_close(leaf.grad, case[f"grad_{name}"], f"gradient of {name}")
    grads_of(case, layer)


def sparse_lstm_masks(path, folder, monkeypatch, form):
    case = Case(path)
    config = case.meta("config")
    layer = layer_of(config, form)
    layer.load_state_dict(case.below("sd."))
    torch.manual_seed(config["torch_manual_seed"])
    for c, block in enumerate(layer.LSTMs):
        raw = block.module.weight_hh_l0_raw
        mask = dropout_mask(raw, tuple(raw.shape), config["wdrop"])
        close(mask, case[f"mask.{c}"], what=f"mask of block {c}")
        value_close(raw * mask, case[f"dropped_weight_hh.{c}"], f"weights of block {c}")
    torch.manual_seed(config["torch_manual_seed"])
    y, (hn, cn) = layer(case["x"], (case["h0"], case["c0"]))
    for name, value in (("y", y), ("hn", hn), ("cn", cn)):
        value_close(value, case[name], name)
    y.pow(2).sum().backward()
    grads_of(case, layer)


def sparse_embedding(path, folder, monkeypatch, form):
    case = Case(path)
    config = case.meta("config")
    names = ("num_embeddings", "embedding_dim", "blocks", "density", "dropoute", "dropouti",
             "has_decoder")
    layer = SparseEmbedding(**{n: config[n] for n in names})
    assert (layer.start_ids, layer.block_widths) == (config["start_ids"], config["block_widths"])
    assert layer.n_trainable_params() == config["n_trainable"]
    layer.load_state_dict(case.below("sd."))
    close(layer.full_weight(), case["full_weight"], 0, what="the whole matrix")
    layer.eval()
    vectors = (layer if form == "fast" else layer.lookup_plain)(case["idx"])
    logits = (layer.decode if form == "fast" else layer.decode_plain)(case["hid"])
    value_close(vectors, case["emb"], "vectors")
    value_close(logits, case["logits"], "logits")
    ((vectors * case["cotangent_emb"]).sum() + (logits * case["cotangent_logits"]).sum()).backward()
    grads_of(case, layer)
    layer.train()
    torch.manual_seed(config["torch_manual_seed_train"])
    value_close(layer(case["idx"]), case["train_emb"], "vectors with dropout, from the seed")
    masked = F.embedding(case["idx"], case["full_weight"] * case["mask_dropoute"])
    value_close(masked * case["mask_dropouti"], case["train_emb"], "vectors with dropout")


# ------------------------------------------------------------------------------- language models
def lm_model(path, folder, monkeypatch, form):
    torch.set_num_threads(2)
    case = Case(path)
    config = case.meta("config")
    names = ("ntoken", "emsize", "nhid", "nhidlast", "nlayers", "n_experts", "emblocks",
             "emdensity", "sparse_mode", "sparse_fract", "wdrop")
    model = LanguageModel(**{n: config[n] for n in names})
    model.load_state_dict(case.below("sd."))
    for layer in model.rnns:
        if isinstance(layer, SparseLSTM):
            layer.form = form
    model.eval()
    hidden = [(case[f"h0.{i}"], case[f"c0.{i}"]) for i in range(config["nlayers"])]
    log_prob, states, raw, outputs = model(case["x"], hidden, return_h=True)
    value_close(log_prob, case["log_prob"], "log_prob")
    value_close(model(case["x"], hidden, return_prob=True)[0], case["prob"], "prob")
    for i, (h, c) in enumerate(states):
        for name, value in (("hn", h), ("cn", c), ("raw_output", raw[i]), ("output", outputs[i])):
            value_close(value, case[f"{name}.{i}"], f"{name}.{i}")
    model.train("eval" not in config["note"])
    _lm_gradients(case, config, model, hidden)


def _lm_gradients(case, config, model, hidden):
    loss_of = TrainingLoss(model, config["alpha"], config["beta"], count=True)
    targets = case["y"].reshape(-1)
    loss, raw_loss, hits, _ = loss_of(case["x"], targets, hidden)
    assert hits == (case["log_prob"].flatten(0, 1).argmax(-1) == targets).sum()
    found = model.run_layers(case["x"], hidden)
    value_close(raw_loss, case["raw_loss"], "raw_loss")
    value_close(config["alpha"] * found.dropped[-1].pow(2).mean(), case["ar"], "ar")
    value_close(config["beta"] * found.raw[-1].diff(dim=0).pow(2).mean(), case["tar"], "tar")
    value_close(loss, case["loss"], "loss")
    loss.backward()
    grads_of(case, model)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    for name in ("grad_norm", "clip_total_norm"):
        value_close(norm, case[name], name)


def vocab_order_lm(path, folder, monkeypatch, ordering):
    content = json.loads(path.read_text())
    corpus = Corpus.read(path.parent / content["data"], ordering)
    wanted = content[ordering]
    assert corpus.words == wanted["idx2word"]
    assert corpus.counts == wanted["counts"]
    for again in (corpus, Corpus.from_content(corpus.content())):
        for split in SPLITS:
            assert getattr(again, split).tolist() == wanted[split]


# ---------------------------------------------------------------------------------------- tagging
def tagging_data(path, folder, monkeypatch, ordering):
    content = json.loads(path.read_text())
    corpus, wanted = TaggedCorpus(path.parent / content["data"], ordering), content[ordering]
    train, size = corpus.parts["train"], content["train_batch_size"]
    if "error" in wanted:  # the original's `none` failed; ours gives the order of appearance
        assert corpus.words[:2] == ["<pad>", "<unk>"]
        return
    assert corpus.words == wanted["idx2word"]
    assert {tag: i for i, tag in enumerate(corpus.tags)} == wanted["tag_dict"]
    assert [len(words) for words, _ in train] == wanted["train_lengths"]
    assert [words.tolist() for words, _ in train[:3]] == wanted["train_first_3"]
    lengths = [len(words) for part in corpus.parts.values() for words, _ in part]
    assert max(lengths) == wanted["max_len"]
    rng = np.random.RandomState(1234)
    epochs = [training_order(train, size, rng) for _ in range(2)]
    assert len(epochs[0]) == wanted["n_train_batches"]
    ours = [[make_batch([train[i] for i in row]) for row in epoch] for epoch in epochs]
    theirs = wanted["train_batches_2_epochs"]
    of_first = next((n for n, batch in enumerate(theirs)
                     if sentences(ours[0][n]) != listed(batch)), len(theirs))
    assert of_first > 0
    for batch, expected in zip([*ours[0][:of_first], *ours[1]], theirs, strict=False):
        assert sentences(batch) == listed(expected)
    valid = list(batches_in_order(corpus.parts["valid"], content["eval_batch_size"]))
    for batch, expected in zip(valid, wanted["valid_batches"], strict=True):
        assert sentences(batch) == listed(expected)
        assert sorted(map(tuple, tags_of(batch))) == sorted(
            tuple(y[:n]) for y, n in zip(expected["y"], expected["lengths"], strict=True))


def sentences(batch):
    """(length, words) by falling length; the order of equally long sentences is left open."""
    rows = [(n, x[:n]) for n, x in zip(batch.lengths.tolist(), batch.words.t().tolist(),
                                       strict=True)]
    assert [n for n, _ in rows] == sorted((n for n, _ in rows), reverse=True)
    return sorted(rows)


def tags_of(batch):
    return [y[:n] for n, y in zip(batch.lengths.tolist(), batch.tags.t().tolist(), strict=True)]


def listed(batch):
    return sorted((n, x[:n]) for n, x in zip(batch["lengths"], batch["x"], strict=True))


def tagger_model(path, folder, monkeypatch, form):
    case = Case(path)
    config = case.meta("config")
    names = ("emsize", "nhid", "tagset_size", "layers", "emb_blocks", "emb_density", "dropouti",
             "dropoute", "dropouth", "wdrop")
    model = Tagger(config["vocab"], **{n: config[n] for n in names})
    model.load_state_dict(case.below("sd."))
    model.train(config["mode"] != "eval")
    if form == "plain":
        model._recurrent = model.recurrent_plain
    lengths = case["lengths"].long()
    words, tags = case["x"].t().contiguous(), case["y"].t().contiguous()
    scores = model(words, lengths)
    targets = packed(tags, lengths)
    assert torch.equal(targets, case["targets_packed"])
    value_close(scores, case["tag_scores"], "scores")
    loss = tagging.BatchLoss(model)(words, tags, lengths)
    value_close(loss, case["loss"], "loss")
    loss.backward()
    grads_of(case, model)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    value_close(norm, case["grad_norm"], "gradient norm")


# --------------------------------------------------------------------------------------- dispatch
KINDS = {
    "geometry": (geometry, lambda content: [k for k in CHECKS if k in content]),
    "sparse_lstm": (sparse_lstm, lambda _: FORMS),
    "sparse_lstm_masks": (sparse_lstm_masks, lambda _: FORMS),
    "sparse_embedding": (sparse_embedding, lambda _: ("plain", "fast")),
    "lm_model": (lm_model, lambda _: FORMS),
    "vocab_order_lm": (vocab_order_lm,
                       lambda content: [k for k, v in content.items() if isinstance(v, dict)]),
    "tagging_data": (tagging_data,
                     lambda content: [k for k, v in content.items() if isinstance(v, dict)]),
    "tagger_model": (tagger_model, lambda _: ("plain", "fast")),
    "tagger_train": (sparse_seq_runs.tagger_train, lambda _: ("run",)),
    "lm_train_main": (sparse_seq_runs.language_model, lambda _: ("run",)),
    "lm_finetune": (sparse_seq_runs.language_model, lambda _: ("run",)),
    "lm_overfit": (sparse_seq_runs.language_model, lambda _: ("run",)),
}


def config_of(path) -> dict:
    """What a case file says about itself."""
    return (json.loads(path.read_text()) if path.suffix == ".json" else Case(path).meta("config"))


def by_kind(path, folder, monkeypatch, part):
    KINDS[config_of(path)["kind"]][0](path, folder, monkeypatch, part)


def parts(path):
    config = config_of(path)
    assert config["kind"] in KINDS, f"{path} is of an unknown kind, {config['kind']}"
    return list(KINDS[config["kind"]][1](config))


by_kind.parts = parts
ADAPTERS = [("", by_kind)]
