"""Adapters of golden/awd_lstm: each runs one kind of case file against ours.

An adapter takes (path, a temporary folder, monkeypatch). Tolerances are the golden README's. Here
are those of evaluation, pointer, generation and data, and the list of all.
"""

import re

import numpy as np
import torch

from awd_lstm import generate, pointer
from awd_lstm.data import SPLITS, Corpus
from awd_lstm.inputs import load_model
from awd_lstm.model import RNNModel, load_original_state
from awd_lstm.utils import batchify, draw_seq_len, evaluate, get_batch
from common.splitcross import SplitCrossEntropyLoss
from getdata.enwik8 import write_decimal
from tests.golden.awd_lstm_model_cases import dropout, dropout_seeded, init, model, padding
from tests.golden.awd_lstm_part_cases import (
    forget_mult_case,
    ntasgd,
    qrnn_layer,
    qrnn_stack,
    splitcross_small,
    splitcross_wt103,
)
from tests.golden.awd_lstm_runs import run_transcript, run_transcript_plain, write_corpus
from tests.golden.case import Case, close


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
        ours, criterion, _ = load_model(saved)
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
