"""TrellisNet's models hold their words and score any text; one small run of each task."""

import json
import math
import shutil

import pytest
import torch

from harness import files
from tests.trellisnet.small import FLAGS, LANGUAGE_MODELS, flags_of, script, train, write_data
from tests.trellisnet.small_lm import loss_of, model, words
from texts.vocabulary import unpack
from trellisnet import generate, score
from trellisnet.lm import reading
from trellisnet.trained import log_probability


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def trained(request, tmp_path_factory):
    """(task, folder, loss of the test text): m.pt of one epoch; of the texts test.txt is left."""
    folder = write_data(tmp_path_factory.mktemp(request.param))
    with (folder / "texts/train.txt").open("a") as file:
        file.write("w1 <unk> w2\n")
    run = train(request.param, folder, "--epochs", "1")
    shutil.copy(folder / "texts/test.txt", folder / "test.txt")
    (folder / "texts").rename(folder / "away")
    return request.param, folder, run.losses["test"]


def scores(folder, text, capsys, *flags):
    (folder / "text.txt").write_text(text, encoding="utf-8")
    score.main([str(folder / "m.pt"), str(folder / "text.txt"), "--json", "--device", "cpu",
                *flags])
    return json.loads(capsys.readouterr().out)


def test_the_test_text_gets_the_perplexity_that_training_ended_with(trained, capsys):
    task, folder, loss = trained
    text = (folder / "test.txt").read_text()
    found = scores(folder, text, capsys, "--like-test")
    assert found["test_loss"] == pytest.approx(loss, rel=1e-6)
    whole = scores(folder, text, capsys)
    assert whole["tokens"] > found["tokens"] or task == "wt"  # each but the first
    assert math.log(whole["perplexity_per_token"]) == pytest.approx(loss, rel=0.05)


def test_a_token_has_the_history_that_the_reading_gives_it(trained, capsys):
    """Alone or behind others, as long as these are no more than one segment."""
    _, folder, _ = trained
    first, second = (scores(folder, text, capsys, "--independent", "--per-token")["sentences"][0][
        "per_token"] for text in ("w1 w2\n", "w1 w2 w3\n"))
    assert first[0] == pytest.approx(second[0])
    behind = scores(folder, "\nw1 w2\n", capsys, "--per-token")["sentences"][1]["per_token"]
    assert [value for _, value in behind] == pytest.approx([value for _, value in first], rel=1e-5)


def test_columns_where_history_is_discarded():
    """Word PTB's reading: every token but the first, from a segment that began at least `start`
    rows before it, or with the text."""
    loss, source, how = loss_of(model()).eval(), words(23, 2), reading(10, 4, False)
    log_p = score.columns(loss, source, how)
    for row in range(22):
        begin = max(0, (row - how.start) // how.stride * how.stride)
        with torch.no_grad():
            expected = log_probability(loss, loss.model(source[begin:row + 1]).raw[-1])
        torch.testing.assert_close(log_p[row], expected.gather(1, source[row + 1][:, None])[:, 0])
    like_test = score.columns(loss, source, how, from_start=False)
    assert like_test[:how.start].isnan().all()
    assert torch.equal(like_test[how.start:], log_p[how.start:])


def test_unknown_words(trained, capsys):
    task, folder, _ = trained
    if task == "char":
        with pytest.raises(SystemExit) as stop:
            scores(folder, "w1 zebra\n", capsys)
        assert stop.value.code == 2
        assert "text.txt: the model does not know z, e, b, r, a, and" in capsys.readouterr().err
        return
    found = scores(folder, "w1 zebra w2\n", capsys)
    same = scores(folder, "w1 <unk> w2\n", capsys)
    assert found["unknown_words"] == {"zebra": 1}
    assert found["log_probability"] == same["log_probability"]


def test_a_training_state_is_not_taken_for_the_best_model_in_silence(trained, capsys):
    _, folder, _ = trained
    (folder / "text.txt").write_text("w1 w2\n", encoding="utf-8")
    for name, said in (("m.pt", 0), ("m.pt.state", 1)):
        score.main([str(folder / name), str(folder / "text.txt"), "--device", "cpu"])
        assert capsys.readouterr().err.count(f"{name} is a training state") == said


def test_generate_needs_no_corpus_and_no_task(trained, tmp_path):
    _, folder, _ = trained
    out = tmp_path / "out.txt"
    generate.main(["--load", str(folder / "m.pt"), "--prompt", "w1 w2", "--words", "9", "--outf",
                   str(out), "--device", "cpu"])
    assert out.read_text().startswith("w1 w2")


def test_other_texts_are_read_with_the_models_words(trained, tmp_path, capsys):
    task, folder, _ = trained
    shutil.copytree(folder / "away", tmp_path / "texts")
    text = (tmp_path / "texts/valid.txt").read_text()
    (tmp_path / "texts/valid.txt").write_text(text + "w1 zebra\n")
    flags = flags_of(task, tmp_path, "--epochs", "1", "--max-steps", "1", "--load", folder / "m.pt")
    if task == "char":  # which has no <unk>
        with pytest.raises(SystemExit) as stop:
            script(task).main(flags)
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert "the model does not know z, e, b, r, a, and its vocabulary has no <unk>: " \
            "--vocabulary data takes the texts' words instead" in said
        return
    run = script(task).main(flags)
    assert "(1 words) unknown to the model, read as <unk>: zebra" in capsys.readouterr().out
    kept = files.read(folder / "m.pt")
    assert run.facts["vocabulary"] == kept["vocabulary"]
    assert torch.equal(run.facts["word_list"], kept["word_list"])


def test_a_model_gets_the_words_of_other_texts(trained, tmp_path, capsys):
    """Words that it knows keep their vectors, the others get new ones; and resumed."""
    task, folder, _ = trained
    (tmp_path / "texts").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / f"texts/{split}.txt").write_text("w9 zebra w1\nw2 w1 w1 w2 w1\n" * 20)
    splits = ["--splits", "3"] if task == "wt" else []
    flags = [*flags_of(task, tmp_path, "--load", folder / "m.pt", "--lr", "1e-9", *splits),
             "--vocabulary", "data"]
    run = script(task).main([*flags, "--max-steps", "1"])
    known, own = (unpack(content["word_list"]) for content in (files.read(folder / "m.pt"),
                                                               files.read(tmp_path / "m.pt")))
    new = len(set(own) - set(known))
    assert new > 0
    assert (f"--vocabulary data: {len(own) - new} of {len(own)} words keep the vectors that the "
            f"model has for them, {new} begin anew") in capsys.readouterr().out
    theirs, ours = (files.read(path)["model"]["model.encoder.weight"]
                    for path in (folder / "m.pt", tmp_path / "m.pt"))
    for word in set(own) & set(known):
        torch.testing.assert_close(ours[own.index(word)], theirs[known.index(word)], atol=1e-6,
                                   rtol=0)
    if task == "wt":
        assert run.args.splits == [3]
    assert script(task).main([*flags, "--max-steps", "2", "--resume"]).progress.step == 2


def test_a_file_of_before_takes_the_words_of_data(trained, tmp_path, capsys):
    task, folder, loss = trained
    content = files.read(folder / "m.pt")
    del content["word_list"]
    files.write(tmp_path / "m.pt", content)
    dataset = ["--dataset", "pydoc"] if task == "char" else []
    found = scores(tmp_path, (folder / "test.txt").read_text(), capsys, "--like-test", "--data",
                   str(folder / "away"), *dataset)
    assert found["test_loss"] == pytest.approx(loss, rel=1e-6)


def test_weights_as_the_original_wrote_them(trained, tmp_path, capsys):
    """Its state_dict, here the closing test's, with the task, the texts and the flags."""
    task, folder, _ = trained
    name = {"word": "word_PTB", "wt": "word_WT103", "char": "char_PTB"}[task]
    weights = folder / "weights/m.pt.pkl"
    text = (folder / "test.txt").read_text()
    expected = scores(folder, text, capsys)
    argv = [str(weights), str(folder / "text.txt"), "--json", "--device", "cpu"]
    given = FLAGS[task].replace("--data texts", "").replace("--splits 8 20", "--splits")
    more = ["--task", name, "--trained-with", given, "--data", str(folder / "away"),
            *(["--dataset", "pydoc"] if task == "char" else [])]
    score.main([*argv, *more])
    found = json.loads(capsys.readouterr().out)
    if task == "wt":  # without the split softmax's own parameters, which the file does not hold
        assert found["tokens"] == expected["tokens"]
    else:
        assert found["log_probability"] == pytest.approx(expected["log_probability"], rel=1e-6)
    refusals = [([], "say which script trained them, --task word_PTB or word_WT103 or char"),
                ([*more, "--data", str(tmp_path)], "train.txt in")]
    if task == "word":  # the others' models are large by default
        refusals.append(([*more, "--trained-with", ""], "the sizes differ"))
    for flags, why in refusals:
        with pytest.raises(SystemExit) as stop:
            score.main([*argv, *flags])
        assert stop.value.code == 2
        assert why in capsys.readouterr().err
