"""What a run starts from: models and states of other runs, of the first release, of the original;
other texts; texts that are too short."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from harness import files
from sparse_seq.language_modeling import finetune, main_overfit
from sparse_seq.language_modeling import main as lm
from sparse_seq.language_modeling.data import Corpus
from sparse_seq.sequence_labeling import main as tagger
from tests.sparse_seq.small import SPARSE, ends, run, run_tagger, write_sentences, write_texts

RELEASE1 = Path(__file__).with_name("release1")
SIZES1 = ("--emsize 6 --nhid 8 --nlayers 2 --batch_size 6 --bptt 9 --log-interval 4 --no-cuda "
          "--log-dir logs")
FIRST_RELEASE = {  # folder: script, and the flags of the run
    "lm": (lm, f"{SIZES1} --data texts --epochs 4 --nonmono 1 --lr 8 --wdrop 0.3 --dropout 0.2 "
               "--dropouth 0.2 --dropouti 0.2 --dropoute 0.1 --sparse_mode sparse_all "
               "--sparse_fract 0.7 --emblocks 3 --emdensity 0.6"),
    "recite": (main_overfit, f"{SIZES1} --data texts --epochs 3 --lr 1"),
    "tuned": (finetune, f"{SIZES1} --epochs 2 --lr 4"),
    "tagger": (tagger, "--data tagged --log-dir logs --emsize 8 --emb_blocks 4 --emb_density 0.5 "
                       "--nhid 5 --batch_size 4 --dropouti 0.2 --wdrop 0.2 --lr 0.01 --epochs 3"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One epoch of a sparse model."""
    folder = tmp_path_factory.mktemp("trained")
    write_texts(folder / "texts")
    run(lm, folder, *SPARSE, "--epochs", "1")
    return folder


def with_model(trained, folder, *names):
    """A folder with the trained run's model and corpus, or the files named."""
    write_texts(folder / "texts")
    (folder / "run").mkdir()
    for name in names or ("model.pt", "corpus.pt"):
        shutil.copy(trained / "run" / name, folder / "run")
    return folder


def rows(path: Path) -> dict[tuple, float]:
    with path.open() as file:
        return {(r["step"], r["epoch"], r["name"]): float(r["value"]) for r in csv.DictReader(file)}


@pytest.mark.parametrize("name", FIRST_RELEASE)
def test_states_of_the_first_release_resume(name, tmp_path, monkeypatch):
    """They end with the losses that they would have had then."""
    shutil.copytree(RELEASE1, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    script, flags = FIRST_RELEASE[name]
    script.main([*flags.split(), "--save", name, "--resume"])
    expected = rows(RELEASE1 / name / "expected.csv")
    found = rows(next((tmp_path / "logs").glob("*/metrics.csv")))
    assert list(found) == list(expected)[-len(found):]
    assert len(found) > 4
    assert found == pytest.approx({key: expected[key] for key in found}, rel=1e-4)


def test_models_of_the_first_release_start_others(tmp_path, monkeypatch):
    shutil.copytree(RELEASE1, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    flags = FIRST_RELEASE["lm"][1].split()
    assert finetune.main([*FIRST_RELEASE["tuned"][1].split(), "--save", "lm"]).progress.epoch == 3
    lm.main([*flags, "--save", "lm", "--continue_train", "--epochs", "1"])
    lm.main([*flags, "--save", "new", "--resume", "lm/model.pt", "--epochs", "1"])


def test_continue_train_and_weights(trained, tmp_path, capsys):
    """--continue_train takes model and optimizer, --resume WEIGHTS an original's state_dict."""
    with_model(trained, tmp_path, "model.pt", "optimizer.pt")
    before = (tmp_path / "run/model.pt").read_bytes()
    step = run(lm, tmp_path, *SPARSE, "--lr", "8", "--continue_train", "--max-steps", "1")
    assert not step.averaging
    assert (tmp_path / "run/model.pt.main").read_bytes() == before
    torch.save(files.read(trained / "run/model.pt")["model"], tmp_path / "original.pt")
    flags = [*SPARSE, "--max-steps", "1", "--resume", str(tmp_path / "original.pt")]
    assert run(lm, tmp_path, *flags).progress.step == 1
    assert "the weights do not fit" in ends(capsys, 2, lm, tmp_path, "--resume",
                                            str(tmp_path / "original.pt"))


def test_model_of_other_words_refused(trained, tmp_path, capsys):
    write_texts(tmp_path / "texts")
    text = (tmp_path / "texts/train.txt").read_text()
    (tmp_path / "texts/train.txt").write_text(text.replace("w3", "x3"))
    assert "the model does not know x3 (" in ends(
        capsys, 2, lm, tmp_path, *SPARSE, "--resume", str(trained / "run/model.pt"))
    content = files.read(trained / "run/model.pt")
    del content["word_list"]  # as a file of before it held its words
    files.write(tmp_path / "old.pt", content)
    assert "--resume: the model was trained on other words" in ends(
        capsys, 2, lm, tmp_path, *SPARSE, "--resume", str(tmp_path / "old.pt"))


# -------------------------------------------------------------------------- fine-tuning's texts
def test_finetune_uses_the_texts_of_main(trained, tmp_path):
    tuned = run(finetune, with_model(trained, tmp_path), "--max-steps", "1")
    assert torch.equal(tuned.corpus.train, Corpus.read(
        trained / "texts").train)


def test_finetune_uses_data(trained, tmp_path):
    """Given --data, its texts count, with the ids that the model knows."""
    with_model(trained, tmp_path)
    lines = (tmp_path / "texts/valid.txt").read_text().splitlines()
    (tmp_path / "texts/valid.txt").write_text("\n".join(lines[:5] * 4) + "\n")
    own, data = (run(finetune, tmp_path, "--max-steps", "1", *flags) for flags in
                 ([], ["--data", str(tmp_path / "texts")]))
    assert data.corpus.words == own.corpus.words
    assert len(data.corpus.valid) != len(own.corpus.valid)
    assert data.progress.best != own.progress.best


def test_finetune_refuses_unknown_words_and_missing_texts(trained, tmp_path, capsys):
    with_model(trained, tmp_path)
    with (tmp_path / "texts/test.txt").open("a") as file:
        file.write("w1 aardvark\n")
    data = ["--data", str(tmp_path / "texts")]
    assert "--data: the model does not know aardvark, and its vocabulary has no <unk>" in ends(
        capsys, 2, finetune, tmp_path, *data)
    assert "--data: no train.txt in" in ends(capsys, 2, finetune, tmp_path, "--data",
                                             str(tmp_path / "nowhere"))
    (tmp_path / "run/corpus.pt").unlink()
    assert "give the texts with --data" in ends(capsys, 2, finetune, tmp_path)


# ------------------------------------------------------------------------------------ too short
@pytest.mark.parametrize(("name", "lines", "remedy"), [
    ("train", 1, "columns of at least 3: give a longer text or a smaller --batch_size"),
    ("valid", 1, "10 columns of at least 2: give a longer text"),
    ("test", 0, "columns of at least 2: give a longer text")])
def test_short_texts_refused(name, lines, remedy, tmp_path, capsys):
    write_texts(tmp_path / "texts")
    (tmp_path / f"texts/{name}.txt").write_text("w1 w2 w3\n" * lines or "\n")
    for script in (lm, main_overfit):
        said = ends(capsys, 2, script, tmp_path)
        assert f"{name}.txt has {4 * lines or 1} words" in said
        assert remedy in said


def test_a_share_that_is_none_is_refused_by_flag(capsys):
    for flag in ("--emdensity", "--sparse_density", "--sparse_fract"):
        for value in ("0", "-1", "1.5"):
            with pytest.raises(SystemExit) as stop:
                lm.parse_args([flag, value])
            assert stop.value.code == 2
            assert f"{flag} must be in (0, 1], not {float(value)}" in capsys.readouterr().err


def test_fewer_sentences_than_a_batch_refused(tmp_path, capsys):
    write_sentences(tmp_path / "tagged", train=3)
    assert "train.conll has 3 sentences for training, fewer than a batch: give a --batch_size of " \
        "at most 3" in ends(capsys, 2, tagger, tmp_path)
    run_tagger(tmp_path, "--batch_size", "3", "--epochs", "1")


def test_byte_order_mark_is_no_word(tmp_path):
    write_texts(tmp_path / "texts")
    words = Corpus.read(tmp_path / "texts").words
    for name in ("train", "valid", "test"):
        path = tmp_path / f"texts/{name}.txt"
        path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert Corpus.read(tmp_path / "texts").words == words


@pytest.mark.parametrize("precision", ["64", "bf16-mixed"])
def test_precisions(tmp_path, precision):
    """Both train; double precision is double all the way, and resumes exactly too."""
    write_texts(tmp_path / "texts")
    write_sentences(tmp_path / "tagged")
    flags = ["--precision", precision]
    run(lm, tmp_path, *SPARSE, *flags, "--max-steps", "4")
    step = run(lm, tmp_path, *SPARSE, *flags, "--max-steps", "8", "--resume")
    dtype = torch.float64 if precision == "64" else torch.float32
    assert {p.dtype for p in step.model.parameters()} == {dtype}
    tagged = run_tagger(tmp_path, *flags, "--epochs", "1")
    assert {p.dtype for p in tagged.model.parameters()} == {dtype}
