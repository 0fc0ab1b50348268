"""A trained model is self-contained: it scores, generates and goes on with any text, by its own
words. One small training run is read by all tests."""

import json
import math
import shutil

import pytest
import torch

from awd_lstm import finetune, generate, main, pointer, score
from awd_lstm.data import Corpus
from awd_lstm.inputs import load_model
from awd_lstm.utils import batchify, evaluate
from harness import files
from tests.awd_lstm.small import train, write_corpus

OWN = "w1 zebra w2\n\nw3 <unk> w4 w5\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """m.pt, one epoch of QRNN; what training said; the loss of its test text. own/: texts with an
    unknown word. The texts that it was trained on are gone."""
    folder = tmp_path_factory.mktemp("trained")
    write_corpus(folder / "texts", train=120, valid=30, test=30)
    with (folder / "texts/train.txt").open("a") as file:
        file.write("w1 <unk> w2\n")
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("harness.keeper.Keeper.say", lambda self, text: lines.append(text))
        train("main", folder, "--model", "QRNN", "--epochs", "1")
    folder.joinpath("own").mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"own/{split}.txt").write_text(
            OWN * {"train": 9, "valid": 7, "test": 1}[split])
    shutil.copy(folder / "texts/test.txt", folder / "test.txt")
    test_loss = evaluate(*load_model(folder / "m.pt")[:2],
                         batchify(Corpus(folder / "texts").test, 1), 15)
    (folder / "texts").rename(folder / "away")
    return folder, lines, test_loss


def scores(folder, text, capsys, *flags, model="m.pt"):
    (folder / "text.txt").write_text(text, encoding="utf-8")
    score.main([str(folder / model), str(folder / "text.txt"), "--json", "--no-cuda", *flags])
    return json.loads(capsys.readouterr().out)


def refused(capsys, script, *argv) -> str:
    with pytest.raises(SystemExit) as stop:
        script.main([*map(str, argv), "--no-cuda"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


# ----------------------------------------------------------------------------------------- scoring
@pytest.mark.parametrize("bptt", ["15", "1000"])
def test_the_test_text_gets_the_perplexity_that_training_ended_with(trained, capsys, bptt):
    folder, lines, test_loss = trained
    found = scores(folder, (folder / "test.txt").read_text(), capsys, "--bptt", bptt)
    assert found["test_loss"] == pytest.approx(test_loss, rel=1e-6)
    assert found["test_line"] in lines[-1]
    count = found["tokens"]
    assert found["perplexity_per_token"] == pytest.approx(
        math.exp(test_loss * (count + 1) / count), rel=1e-6)


def test_sentences_by_themselves(trained, capsys):
    """Each alone, each from a zero state behind a line's end: all tokens, none given by others."""
    folder, _, _ = trained
    lines = ["w1 w2 w3", "w4 w5 w6", "", "w2"]
    found = scores(folder, "\n".join(lines) + "\n", capsys, "--independent", "--per-token")
    for line, each in zip(lines, found["sentences"], strict=True):
        alone = scores(folder, line + "\n", capsys, "--independent")
        assert each["log_probability"] == pytest.approx(alone["log_probability"], rel=1e-6)
        assert each["tokens"] == len(line.split()) + 1
        behind = scores(folder, f"\n{line}\n", capsys)  # the same, continuous, behind a line's end
        assert each["log_probability"] == pytest.approx(behind["log_probability"], rel=1e-6)
        assert sum(value for _, value in each["per_token"]) == pytest.approx(
            each["log_probability"])
    assert found["words"] == 7


def test_unknown_words_are_scored_as_unk(trained, capsys):
    folder, _, _ = trained
    found = scores(folder, OWN, capsys)
    same = scores(folder, OWN.replace("zebra", "<unk>"), capsys)
    assert found["unknown_words"] == {"zebra": 1}
    assert same["unknown_words"] == {}
    assert found["log_probability"] == same["log_probability"]
    assert found["perplexity_of_known"] != same["perplexity_of_known"]


# ---------------------------------------------------------------------- texts that it never saw
def test_a_training_state_is_not_taken_for_the_best_model_in_silence(trained, capsys):
    folder = trained[0]
    (folder / "text.txt").write_text(OWN, encoding="utf-8")
    for name, said in (("m.pt", 0), ("m.pt.state", 1)):
        score.main([str(folder / name), str(folder / "text.txt"), "--no-cuda"])
        assert capsys.readouterr().err.count(f"{name} is a training state") == said


def test_generate_and_pointer_need_no_corpus(trained, tmp_path, capsys):
    folder, _, _ = trained
    model, out = str(folder / "m.pt"), tmp_path / "out.txt"
    generate.main(["--checkpoint", model, "--prompt", "w1 zebra", "--words", "5", "--outf",
                   str(out), "--no-cuda"])
    assert out.read_text().startswith("w1 <unk> ")
    assert "zebra read as <unk>" in capsys.readouterr().err
    (tmp_path / "test.txt").write_text(OWN)
    pointer.main(["--save", model, "--data", str(tmp_path), "--window", "3", "--lambdasm", "0",
                  "--no-cuda"])
    said = capsys.readouterr()
    assert "1 of 10 tokens (1 words) unknown to the model, read as <unk>: zebra" in said.err
    assert "val loss" not in said.out
    loss = scores(folder, OWN, capsys)["test_loss"]
    assert f"| End of pointer | test loss {loss:5.2f} |" in said.out
    assert "no valid.txt in" in refused(capsys, pointer, "--save", model, "--data",
                                           tmp_path / "penn")


SMALL = ["--batch_size", "4", "--bptt", "8", "--epochs", "1", "--no-cuda", "--log-interval", "1"]
SIZES = ["--model", "QRNN", "--emsize", "6", "--nhid", "8", "--nlayers", "2"]


def go_on(script, folder, tmp_path, *flags):
    script.main([*SMALL, "--data", str(folder / "own"), "--log-dir", str(tmp_path / "logs"),
                 *flags])


def test_a_run_goes_on_with_the_models_words(trained, tmp_path, capsys):
    """main.py --resume MODEL and finetune.py on texts with an unknown word; and resumed."""
    folder, _, _ = trained
    words = files.read(folder / "m.pt")["word_list"]
    save = tmp_path / "r.pt"
    flags = [*SIZES, "--save", str(save), "--max_seq_len_delta", "0"]
    go_on(main, folder, tmp_path, *flags, "--resume", str(folder / "m.pt"), "--max-steps", "2")
    shutil.copy(folder / "m.pt", tmp_path / "f.pt")
    go_on(finetune, folder, tmp_path, "--save", str(tmp_path / "f.pt"), "--max-steps", "1")
    said = "17 of 170 tokens (1 words) unknown to the model, read as <unk>: zebra (17 times)"
    assert capsys.readouterr().out.count(said) == 2
    go_on(main, folder, tmp_path, *flags, "--resume", "--max-steps", "3")
    for name in ("r.pt", "r.pt.state", "f.pt.finetune.state"):
        assert torch.equal(files.read(tmp_path / name)["word_list"], words)


def test_a_run_goes_on_with_the_words_of_the_texts(trained, tmp_path, capsys):
    """Words that the model knows keep their vectors, the others get new ones."""
    folder, _, _ = trained
    shutil.copy(folder / "m.pt", tmp_path / "f.pt")
    save = str(tmp_path / "f.pt")
    go_on(finetune, folder, tmp_path, "--save", save, "--vocabulary", "data", "--max-steps", "1",
          "--lr", "1e-9")
    state = files.read(tmp_path / "f.pt.finetune.state")
    texts = Corpus(folder / "own").dictionary
    assert state["vocabulary"] == texts.digest()
    assert "7 of 8 words keep the vectors that the model has for them, 1 begin" in (
        capsys.readouterr().out)
    model, _, _ = load_model(folder / "m.pt")
    old, new = model.encoder.weight, state["model"]["encoder.weight"]
    known = files.read(folder / "m.pt")["word_list"].numpy().tobytes().decode().split("\n")
    for word in ("w1", "<unk>", "<eos>"):
        torch.testing.assert_close(new[texts.word2idx[word]], old[known.index(word)])
    go_on(finetune, folder, tmp_path, "--save", save, "--vocabulary", "data", "--max-steps", "2",
          "--lr", "1e-9", "--resume")


def test_changed_texts_are_still_refused_by_name(trained, tmp_path, capsys):
    folder, _, _ = trained
    shutil.copytree(folder / "own", tmp_path / "own")
    flags = [*SMALL, *SIZES, "--data", str(tmp_path / "own"), "--save", str(tmp_path / "r.pt"),
             "--log-dir", str(tmp_path / "logs")]
    main.main([*flags, "--max-steps", "1"])
    (tmp_path / "own/valid.txt").write_text("quite other words\n" * 20)
    assert "--resume: valid.txt is not what the run" in refused(
        capsys, main, *flags, "--resume")


# ---------------------------------------------------------------------------- files of before
@pytest.fixture
def before(trained, tmp_path):
    """The model as it was written before it held its words."""
    folder, _, _ = trained
    content = files.read(folder / "m.pt")
    del content["word_list"]
    files.write(tmp_path / "m.pt", content)
    return tmp_path


def test_a_file_of_before_takes_the_words_of_data(trained, before, capsys):
    folder, _, test_loss = trained
    text = (folder / "test.txt").read_text()
    found = scores(before, text, capsys, "--data", str(folder / "away"))
    assert found["test_loss"] == pytest.approx(test_loss, rel=1e-6)
    for data, why in ((folder / "own", "knows 32 words, --data"), (before, "no train.txt in")):
        assert why in refused(capsys, score, before / "m.pt", before / "text.txt", "--data", data)


def test_a_damaged_list_of_words_is_refused(trained, tmp_path, capsys):
    folder, _, _ = trained
    content = files.read(folder / "m.pt")
    content["word_list"][0] += 1
    files.write(tmp_path / "m.pt", content)
    assert "list of words is damaged" in refused(capsys, score, tmp_path / "m.pt", "-")


def test_no_unk_in_the_vocabulary(tmp_path, capsys):
    write_corpus(tmp_path / "texts", train=60)
    model = train("main", tmp_path, "--max-steps", "1")
    (tmp_path / "text.txt").write_text("w1 zebra\nzebra yak\n")
    said = refused(capsys, score, model, tmp_path / "text.txt")
    assert "text.txt: the model does not know zebra (2 times), yak, and its vocabulary" in said
