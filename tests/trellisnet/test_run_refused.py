"""What the four scripts refuse, each with one line that names the flag or the file."""

import re

import numpy as np
import pytest

from harness import files
from tests.trellisnet import small
from tests.trellisnet.small import LANGUAGE_MODELS, SCRIPTS, flags_of, script, train

EVERY = tuple(SCRIPTS)


def refused(name, capsys, *flags, code=2, folder=None):
    """The one line that the script ends with."""
    argv = [str(flag) for flag in flags] if folder is None else flags_of(name, folder, *flags)
    with pytest.raises(SystemExit) as stop:
        script(name).main(argv)
    assert stop.value.code == code
    line = capsys.readouterr().err.splitlines()[-1]
    if code == 1 or ": error: " not in line:  # argparse names the program that runs
        assert line.startswith(f"{SCRIPTS[name].rpartition('/')[2]}: ")
    return line


@pytest.mark.parametrize(("name", "flags", "says"), [
    ("word", "--seq_len 58", "--seq_len 58 must be longer than --horizon 58"),
    ("word", "--seq_len 0", "--seq_len 0 must be longer than --horizon 58"),
    ("wt", "--seq_len 74", "--seq_len 74 is shorter than --horizon 75"),
    ("char", "--seq_len 139", "--seq_len 139 is shorter than --horizon 140"),
    ("wt", "--n_experts 3", "--n_experts: the split softmax knows no mixture"),
    ("wt", "--nout 500", "--nout 500 must equal --emsize 512"),
    ("word", "--nhid 0", "--nhid must be at least 1"),
    ("char", "--nlevels -3", "--nlevels must be at least 1"),
    ("seq", "--batch_size 0", "--batch_size must be at least 1"),
    ("seq", "--log-interval 0", "--log-interval must be at least 1"),
    ("word", "--dropout 1", "--dropout must be in"),
    ("word", "--dropoutl nan", "--dropoutl must be a finite number"),
    ("seq", "--cuda --device cpu", "--cuda and --device cpu contradict"),
    ("seq", "--wdrop -0.1", "--wdrop must be in"),
    ("char", "--lr 0", "--lr must be positive"),
    ("word", "--anneal -1", "--anneal must not be negative"),
    ("word", "--alpha -1", "--alpha must not be negative"),
    ("word", "--max-steps -1", "--max-steps must not be negative"),
    ("seq", "--dilation 1 0", "--dilation must be at least 1"),
    ("seq", "--fir --ksize 3", "--fir is for --ksize 2, not 3"),
    ("seq", "--devices 65", "--devices 65 cannot share --batch_size 64"),
    ("seq", "--seed -1", "--seed must be in"),
    ("word", "--precision 16", "invalid choice: '16'"),
    ("char", "--dataset nothing", "invalid choice: 'nothing'"),
    ("word", "--nonsense", "unrecognized arguments: --nonsense"),
])
def test_nonsense_is_refused_before_anything_is_read(name, flags, says, capsys):
    assert says in refused(name, capsys, *flags.split())


@pytest.mark.parametrize(("name", "flags", "says"), [
    ("word", "--nout 5", "a tied decoder needs nout = emsize (here 5 and 8)"),
    ("word", "--batch_size 4000", "train.txt has 356 tokens, too few for 4000 columns"),
    ("char", "--optim Nothing", "--optim Nothing cannot be used"),
    ("seq", "--optim SparseAdam", "--optim SparseAdam cannot be used"),
    ("seq", "--eval", "--eval: which weights? Give --load FILE"),
    ("word", "--eval", "--eval: which weights? Give --load FILE or --load_weight FILE"),
    ("seq", "--optim Muon", "--optim Muon cannot be used"),  # for matrices alone
    ("wt", "--splits 20 8", "splits must be increasing"),
    ("word", "--load missing.pt", "--load: there is no file missing.pt"),
    ("word", "--load_weight missing.pkl", "--load_weight: there is no file missing.pkl"),
    ("seq", "--resume", "--resume: there is no training state"),
    ("seq", "--resume missing.pt", "--resume: there is no file missing.pt"),
    ("seq", "--permutation missing.npy", "--permutation missing.npy"),
])
def test_what_does_not_fit_is_refused(folder, name, flags, says, capsys):
    assert says in refused(name, capsys, *flags.split(), folder=folder)
    assert not (folder / "m.pt").exists()


@pytest.mark.parametrize(("name", "flags", "getdata"), [
    ("word", "--data {}/penn", "./getdata.sh ptb"), ("word", "--data {}/pydoc", "getdata.sh pydoc"),
    ("word", "--data {}/mine", "--data"), ("wt", "--data {}/wikitext-103", "./getdata.sh wt103"),
    ("wt", "--data {}/wikitext-2", "./getdata.sh wt2"), ("char", "--data {}", "./getdata.sh ptb"),
    ("char", "--data {} --dataset pydoc", "./getdata.sh pydoc"),
    ("seq", "--data {}/mnist", "./getdata.sh mnist"),
    ("seq", "--data {} --cifar", "./getdata.sh cifar10")])
def test_missing_data_names_its_source(tmp_path, name, flags, getdata, capsys):
    line = refused(name, capsys, *flags.format(tmp_path).split(), "--device", "cpu")
    assert getdata in line
    assert str(tmp_path) in line


def test_the_readmes_spelling_of_wikitext(tmp_path, capsys):
    (tmp_path / "wikitext103").mkdir()
    line = refused("wt", capsys, "--data", tmp_path / "wikitext-103", "--device", "cpu")
    assert "no train.txt in" in line
    assert "wikitext103" in line


def test_save_where_nothing_can_be_saved(folder, capsys):
    """Said before the training, not after the first epoch."""
    line = refused("word", capsys, "--save", folder / "texts/train.txt/m.pt", folder=folder)
    assert "--save" in line
    assert "texts/train.txt" in line
    assert "is a folder" in refused("seq", capsys, "--save", folder / "texts", folder=folder)


# -------------------------------------------------------------------------- texts that are short
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_text_of_which_nothing_would_be_scored(folder, name, split, capsys):
    """No update would be made, or the loss would be nan: the file and the remedy are named."""
    (folder / f"texts/{split}.txt").write_text("w1\n" if name == "wt" else "w1 w2 w3\n")
    if name == "wt" and split != "train":  # of one column: even that gives a target
        assert train(name, folder, "--max-steps", "1").losses["test"] > 0
        return
    line = refused(name, capsys, folder=folder)
    assert re.search(rf"--data .*texts: {split}.txt has \d+ tokens, too few for \d+ columns.*: "
                     r"give a text of at least \d+", line)
    assert not (folder / "m.pt").exists()


def test_a_text_shorter_than_the_history(folder, capsys):
    """The case lm_shortvalid: enough for the columns, not for --horizon."""
    text = " ".join(f"w{i % 30}" for i in range(250)) + "\n"
    (folder / "texts/valid.txt").write_text(text)
    flags = ["--horizon", "20", "--seq_len", "40"]
    line = refused("word", capsys, *flags, "--batch_size", "2", folder=folder)
    assert ("valid.txt has 251 tokens, too few for 12 columns, of whose rows the first 20 are "
            "history: give a text of at least 264 or a smaller --horizon") in line
    (folder / "texts/valid.txt").write_text(text.replace("\n", " w1" * 13 + "\n"))
    assert "test.txt" in refused("word", capsys, *flags, "--batch_size", "2", folder=folder)


# ---------------------------------------------------------------------- inputs that have changed
@pytest.mark.parametrize(("name", "file"), [
    ("word", "texts/valid.txt"), ("wt", "texts/train.txt"), ("char", "texts/test.txt"),
    ("seq", "images/digits.npz")])
def test_resumed_on_other_data(folder, name, file, capsys):
    """Also where the words stay the same: the file that changed is named."""
    train(name, folder, "--max-steps", "2")
    before = (folder / "m.pt.state").read_bytes()
    if name == "seq":
        (folder / file).unlink()
        (folder / "images").rmdir()
        small.write_digits(folder / "images", seed=1)
    else:
        text = (folder / file).read_text()
        (folder / file).write_text(text.removesuffix("\n").rpartition("\n")[0] + "\n")
    line = refused(name, capsys, "--resume", folder=folder)
    assert f"--resume: {file.rpartition('/')[2]} is not what the run" in line
    assert (folder / "m.pt.state").read_bytes() == before


def test_resumed_with_another_order_of_pixels(folder, capsys):
    np.save(folder / "order.npy", np.arange(16)[::-1])
    flags = ["--permutation", folder / "order.npy"]
    train("seq", folder, *flags, "--max-steps", "2")
    (folder / "moved.npy").write_bytes((folder / "order.npy").read_bytes())
    train("seq", folder, "--permutation", folder / "moved.npy", "--resume", "--max-steps", "3")
    np.save(folder / "order.npy", np.arange(16))
    line = refused("seq", capsys, *flags, "--resume", folder=folder)
    assert "--resume: that run read the pixels in another order" in line


def test_model_files_of_other_kinds(trained, folder, capsys):
    """--load is for model files of the same script, --load_weight for the original's."""
    word, seq = trained("word")[0], trained("seq")[0]
    weights = word / "weights/m.pt.pkl"
    (folder / "text.pt").write_text("text")
    whole = (word / "m.pt").read_bytes()
    (folder / "short.pt").write_bytes(whole[:-100])
    for name, flag, path, says in (
            ("word", "--load", weights, "an original's weights are for --load_weight"),
            ("word", "--load_weight", word / "m.pt", "it is no state_dict"),
            ("word", "--load", seq / "m.pt", "is no language model"),
            ("seq", "--load", word / "m.pt", "is no classifier of images"),
            ("wt", "--load", word / "m.pt", "does not fit"),
            ("word", "--load", folder / "text.pt", "text.pt"),
            ("word", "--load", folder / "short.pt", "short.pt is damaged"),
            ("word", "--resume", word / "m.pt", "is no training state of trellisnet/word_PTB")):
        assert says in refused(name, capsys, flag, path, folder=folder)
    assert not (folder / "m.pt").exists()


def test_weights_of_another_model(trained, folder, capsys):
    word, _ = trained("word")
    weights = word / "weights/m.pt.pkl"
    for flags, says in ((["--wnorm"], "--wnorm"), (["--n_experts", "2"], "--n_experts"),
                        (["--nhid", "13"], "the sizes differ")):
        line = refused("word", capsys, "--load_weight", weights, *flags, folder=folder)
        assert "--load_weight: " in line
        assert says in line


def test_model_of_other_words(trained, folder, capsys):
    """As many but others, or another number of them; of a file that does not list its words."""
    content = files.read(trained("word")[0] / "m.pt")
    del content["word_list"]
    files.write(folder / "before.pt", content)
    load = ["--load", folder / "before.pt"]
    text = (folder / "texts/train.txt").read_text()
    for changed, says in ((text.replace("w3", "other"), "was trained on other words"),
                          (text + "new\n", "knows 31 words, --data has 32")):
        (folder / "texts/train.txt").write_text(changed)
        for split in ("valid", "test"):
            path = folder / f"texts/{split}.txt"
            path.write_text(path.read_text().replace("w3", "other"))
        if "new" in changed:
            for split in ("valid", "test"):
                path = folder / f"texts/{split}.txt"
                path.write_text(path.read_text().replace("other", "w3"))
        assert says in refused("word", capsys, *load, folder=folder)


def test_model_for_images_of_another_size(trained, tmp_path, capsys):
    small.write_digits(tmp_path / "images", side=5)
    line = refused("seq", capsys, "--load", trained("seq")[0] / "m.pt", folder=tmp_path)
    assert "is for images of 16 pixels, those of --data have 25" in line


def test_damaged_texts(folder, capsys):
    for content, says in ((b"caf\xe9 \xff\n", "valid.txt is not UTF-8"), (b"", "is empty")):
        (folder / "texts/valid.txt").write_bytes(content)
        for name in LANGUAGE_MODELS:
            assert says in refused(name, capsys, folder=folder)


@pytest.mark.parametrize("name", EVERY)
def test_a_loss_that_is_not_finite(folder, name, capsys):
    """Stopped before the update; epoch and step are named, what was written stays good."""
    line = refused(name, capsys, "--lr", "1e30", "--clip", "0", "--save-interval", "1", code=1,
                   folder=folder)
    found = re.search(r"is not finite at epoch 1, step (\d+); stopped before the update", line)
    state = files.read(folder / "m.pt.state")
    assert state["progress"]["step"] == int(found[1]) > 0
    assert all(value.isfinite().all() for value in state["model"].values())
