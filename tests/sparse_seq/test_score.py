"""Language models with predefined sparseness hold their words and score any text; one small run."""

import json
import shutil

import pytest
import torch

from harness import files
from sparse_seq.language_modeling import finetune, score
from sparse_seq.language_modeling import main as lm
from tests.sparse_seq.small import SPARSE, ends, run, write_texts
from texts.vocabulary import unpack


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """run/model.pt of one epoch, two experts; the texts, with <unk> in them, are gone. And the line
    that training ended with."""
    folder, lines = tmp_path_factory.mktemp("trained"), []
    write_texts(folder / "texts")
    with (folder / "texts/train.txt").open("a") as file:
        file.write("w1 <unk> w2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.keeper.Keeper.say", lambda self, text: lines.append(text))
        run(lm, folder, *SPARSE, "--n_experts", "2", "--epochs", "1")
    (folder / "texts").rename(folder / "away")
    return folder, lines[-1]


def scores(model, folder, text, capsys, *flags):
    (folder / "text.txt").write_text(text)
    score.main([str(model), str(folder / "text.txt"), "--json", "--device", "cpu", *flags])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("bptt", ["9", "1000"])
def test_the_test_text_gets_the_perplexity_that_training_ended_with(trained, capsys, bptt):
    folder, line = trained
    found = scores(folder / "run/model.pt", folder, (folder / "away/test.txt").read_text(), capsys,
                   "--bptt", bptt)
    assert found["test_line"] in line


def test_sentences_and_unknown_words(trained, capsys):
    folder, _ = trained
    model = folder / "run/model.pt"
    found = scores(model, folder, "w1 zebra\n\nw2 w3\n", capsys, "--independent")
    assert found["unknown_words"] == {"zebra": 1}
    assert found["tokens"] == 7
    for line, each in zip(("w1 <unk>", "", "w2 w3"), found["sentences"], strict=True):
        alone = scores(model, folder, f"\n{line}\n", capsys)  # behind a line's end
        assert each["log_probability"] == pytest.approx(alone["log_probability"], rel=1e-6)


def test_runs_go_on_with_the_models_words(trained, tmp_path, capsys):
    """finetune.py --data OWN, main.py --resume MODEL and --continue_train."""
    folder, _ = trained
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.copytree(folder / "away", tmp_path / "texts")
    with (tmp_path / "texts/valid.txt").open("a") as file:
        file.write("w1 zebra\n")
    words = files.read(folder / "run/model.pt")["word_list"]
    said = "(1 words) unknown to the model, read as <unk>: zebra"
    own, model = ["--max-steps", "1"], str(folder / "run/model.pt")
    run(finetune, tmp_path, *own, "--data", str(tmp_path / "texts"))
    assert said in capsys.readouterr().out
    flags = [*SPARSE, "--n_experts", "2"]
    for more in (["--continue_train"], ["--resume", model, "--save", str(tmp_path / "new")]):
        run(lm, tmp_path, *flags, *own, *more)
        assert said in capsys.readouterr().out
    for name in ("run/finetune_model.pt", "run/finetune_state.pt", "new/model.pt", "new/state.pt"):
        assert torch.equal(files.read(tmp_path / name)["word_list"], words)


@pytest.mark.parametrize("script", [lm, finetune], ids=["main", "finetune"])
def test_a_model_gets_the_words_of_other_texts(script, trained, tmp_path, capsys):
    """Words that it knows keep their vectors, the others get new ones; and resumed. Not in an
    embedding of several blocks."""
    folder, _ = trained
    write_texts(tmp_path / "texts")
    old = ["--max-steps", "1", "--lr", "1e-9", "--wdecay", "0"]
    run(lm, tmp_path, *old)
    (tmp_path / "texts/train.txt").write_text("w9 yak w1\nw2 w1 w1 w2 w1\n" * 20)
    own = [*old, "--vocabulary", "data", "--data", str(tmp_path / "texts")]
    start, save = [], tmp_path / "run/finetune_model.pt"
    if script is lm:
        start, save = ["--resume", str(tmp_path / "run/model.pt")], tmp_path / "new/model.pt"
        own += ["--save", str(tmp_path / "new")]
    run(script, tmp_path, *own, *start)
    assert "words keep the vectors that the model has for them, 1 begin anew" in (
        capsys.readouterr().out)
    before, after = (files.read(path) for path in (tmp_path / "run/model.pt", save))
    known, words = unpack(before["word_list"]), unpack(after["word_list"])
    assert "yak" in words
    for name in ("encoder.embedders.0.weight", "encoder.decoder_bias"):
        for word in set(known) & set(words):
            torch.testing.assert_close(after["model"][name][words.index(word)],
                                       before["model"][name][known.index(word)], atol=1e-6, rtol=0)
    assert run(script, tmp_path, *own, "--max-steps", "2", "--resume").progress.step == 2
    sparse = [*SPARSE, "--n_experts", "2"] if script is lm else []
    where = (["--resume", str(folder / "run/model.pt")] if script is lm else
             ["--save", str(folder / "run")])
    assert "in an embedding of several blocks (--emblocks) a word's place" in ends(
        capsys, 2, script, tmp_path, *own, *sparse, *where)


def test_continue_train_keeps_the_models_words(capsys):
    """And the optimizer, whose averages are of these words."""
    with pytest.raises(SystemExit) as stop:
        lm.parse_args(["--continue_train", "--vocabulary", "data"])
    assert stop.value.code == 2
    assert "error: --vocabulary data: --continue_train goes on with the optimizer too" in (
        capsys.readouterr().err)


def test_a_file_of_before_takes_the_words_of_corpus_pt(trained, tmp_path, capsys):
    folder, line = trained
    content = files.read(folder / "run/model.pt")
    del content["word_list"]
    files.write(tmp_path / "model.pt", content)
    shutil.copy(folder / "run/corpus.pt", tmp_path)
    text = (folder / "away/test.txt").read_text()
    assert scores(tmp_path / "model.pt", tmp_path, text, capsys)["test_line"] in line
    for model, why in ((tmp_path, "is a folder: give the model.pt"),
                       (folder / "run/optimizer.pt", "is no model file of main.py")):
        with pytest.raises(SystemExit) as stop:
            scores(model, tmp_path, text, capsys)
        assert stop.value.code == 2
        assert why in capsys.readouterr().err
