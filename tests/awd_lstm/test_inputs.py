"""What the scripts read: texts in columns, model files, original weights."""

import pytest
import torch

from awd_lstm.data import Corpus
from awd_lstm.inputs import columns_of, load_corpus, load_model
from harness import files
from harness.endings import BadInput
from tests.awd_lstm.small import same, save_model, small_model, write_corpus


# ------------------------------------------------------------------------------------------- texts
@pytest.fixture
def corpus(tmp_path):
    for split, words in (("train", 9), ("valid", 4), ("test", 1)):  # and <eos>
        (tmp_path / f"{split}.txt").write_text(" ".join(f"w{i}" for i in range(words)) + "\n")
    return Corpus(tmp_path)


@pytest.mark.parametrize(("split", "count", "rows"), [
    ("train", 5, 2), ("train", 3, 3), ("valid", 2, 2), ("test", 1, 2)])
def test_columns_as_long_as_the_text_allows(corpus, split, count, rows):
    columns = columns_of(corpus, split, count, "cpu", "", rows)
    assert columns.shape == (len(getattr(corpus, split)) // count, count)
    assert columns.t().reshape(-1).tolist() == getattr(corpus, split)[:columns.numel()].tolist()


@pytest.mark.parametrize(("split", "count", "rows"), [
    ("train", 6, 2), ("train", 4, 3), ("valid", 3, 2), ("test", 1, 3)])
def test_a_short_text_is_named_with_a_remedy(corpus, split, count, rows):
    tokens = len(getattr(corpus, split))
    with pytest.raises(BadInput, match=rf"/{split}\.txt is too short: it has {tokens} tokens, and "
                                       rf"{count} columns? of {rows} take {rows * count}: do it"):
        columns_of(corpus, split, count, "cpu", "do it", rows)


def test_digests_change_with_each_text_alone(corpus, tmp_path):
    (tmp_path / "valid.txt").write_text("w0\n")
    changed = {name for name, digest in Corpus(tmp_path).digests.items()
               if digest != corpus.digests[name]}
    assert changed == {"valid.txt"}
    assert Corpus(tmp_path).key != corpus.key


def test_a_missing_text_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"--data .*: no train\.txt in"):
        load_corpus(str(tmp_path), None)


# ------------------------------------------------------------------------------------------ models
@pytest.mark.parametrize("splits", [(), (5, 20)], ids=["plain", "splits"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "QRNN"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_model_round_trip(tmp_path, kind, splits, tied):
    model, criterion = small_model(splits=[] if not tied else splits, rnn_type=kind,
                                   tie_weights=tied)
    path = tmp_path / "m.pt"
    save_model(path, model, criterion, args={"lr": 30}, epoch=4)
    again, again_criterion, facts = load_model(path)
    assert same(dict(again.state_dict()), dict(model.state_dict()))
    assert same(dict(again_criterion.state_dict()), dict(criterion.state_dict()))
    assert again.config() == model.config()
    assert again_criterion.splits == criterion.splits
    assert (facts["epoch"], facts["args"], facts["vocabulary"]) == (4, {"lr": 30}, "digest")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wdrop", [0, 0.5])
def test_originals_state_dict(tmp_path, zipped, wdrop):
    """No sizes, either format of torch.save."""
    model, _ = small_model(wdrop=wdrop)
    path = tmp_path / "original.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    again, criterion, facts = load_model(path)
    assert same(dict(again.state_dict()),  # without weight drop the recurrent matrix is not _raw
                {key.replace(".module.", ".").removesuffix("_raw"): value
                 for key, value in model.state_dict().items()})
    assert (facts, criterion.splits) == ({}, [])
    assert {again.dropout, again.dropouth, again.dropouti, again.dropoute, again.wdrop} == {0}
    hot, _, _ = load_model(path, {"wdrop": 0.5, "dropout": 0.1})
    assert (hot.wdrop, hot.dropout, hot.dropouth) == (0.5, 0.1, 0)


def test_a_state_dict_that_lacks_a_layer(tmp_path):
    model, _ = small_model()
    state = dict(model.state_dict())
    del state["rnns.1.module.bias_ih_l0"]
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m\.pt does not fit .*rnns\.1.*bias_ih_l0"):
        load_model(tmp_path / "m.pt")


def test_files_of_others(tmp_path):
    files.write(tmp_path / "x.pt", {"format": "of another toolkit"})
    with pytest.raises(ValueError, match=r"x\.pt is a 'of another toolkit'"):
        load_model(tmp_path / "x.pt")
    save_model(tmp_path / "y.pt", *small_model())
    content = files.read(tmp_path / "y.pt")
    del content["config"]
    files.write(tmp_path / "y.pt", content)
    with pytest.raises(ValueError, match=r"y\.pt does not fit"):
        load_model(tmp_path / "y.pt")


def test_corpus_of_the_tests_has_31_words(tmp_path):
    """small_model and write_corpus agree."""
    assert len(Corpus(write_corpus(tmp_path / "texts")).dictionary) == 31
