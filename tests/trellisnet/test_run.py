"""The four scripts, small: what they print and leave, which flags work together, what they refuse.
Run in this process; tests/e2e runs them as a user does."""

import math
import re

import pytest
import torch

from tests.trellisnet import small
from tests.trellisnet.small import LANGUAGE_MODELS, NO_TEXT_DROPOUT, SCRIPTS, flags_of, train
from trellisnet import files

EVERY = tuple(SCRIPTS)


@pytest.fixture
def folder(tmp_path):
    return small.write_data(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Each script's run of two epochs, once."""
    done = {}

    def run(name):
        if name not in done:
            folder = small.write_data(tmp_path_factory.mktemp(name))
            done[name] = folder, train(name, folder)
        return done[name]
    return run


def refused(name, capsys, *flags, code=2, folder=None):
    """The one line that the script ends with."""
    argv = [str(flag) for flag in flags] if folder is None else flags_of(name, folder, *flags)
    with pytest.raises(SystemExit) as stop:
        SCRIPTS[name].main(argv)
    assert stop.value.code == code
    line = capsys.readouterr().err.splitlines()[-1]
    script = SCRIPTS[name].__name__.rpartition(".")[2]
    if code == 1 or ": error: " not in line:  # argparse names the program that runs
        assert line.startswith(f"{script}.py: ")
    return line


# ------------------------------------------------------------------------- what a run leaves
LINES = {
    "word": [r"\| epoch   1 \|     3/   \d\d batches \| lr 1\.00 \| ms/batch +\d+\.\d\d "
             r"\| raw_loss +\d\.\d\d \| aux_loss +\d\.\d\d \| ppl +\d+\.\d\d",
             r"\| end of epoch   2 \| time: +\d+\.\d\ds \| valid loss +\d\.\d\d "
             r"\| valid ppl +\d+\.\d\d",
             r"\| End of training \| test loss +\d\.\d\d \| test ppl +\d+\.\d\d"],
    "char": [r"\| epoch   1 \|     3/ +\d+ batches \| lr 0\.01000 \| ms/batch +\d+\.\d\d "
             r"\| raw_loss \d\.\d{3} \| aux_loss +\d\.\d\d \| bpc \d\.\d{3}",
             r"\| End of epoch   2 \| test loss \d\.\d{3} \| test bpc +\d\.\d{3}",
             r"\| End of training \| test loss \d\.\d{3} \| test bpc +\d\.\d{3}"],
    "seq": [r"Train Epoch: 1 \[24/43 \(50%\)\]\tlr: 0\.010000\tLoss: \d\.\d{6}\tSteps: 64",
            r"Test set: Average loss: \d\.\d{4}, Accuracy: \d+/19 \(\d+%\)"],
}
LINES["wt"] = [line.replace(r"1\.00", r"0\.01000") for line in LINES["word"]]


@pytest.mark.parametrize("name", EVERY)
def test_what_a_run_leaves(trained, name):
    folder, run = trained(name)
    log = (folder / "logs/m.log").read_text()
    for line in LINES[name]:
        assert re.search(f"^{line}$", log, re.M), line
    names = {p.name for p in folder.iterdir()}
    names.discard("m.state.prev.pt")
    assert names - {"weights"} == {"texts", "images", "logs", "m.pt", "m.state.pt"}
    assert ("weights" in names) == (name in LANGUAGE_MODELS)
    best = files.read(folder / "m.pt")
    assert all(value.isfinite().all() for value in best["model"].values())
    rows = run.metrics_rows()
    falling = [value for metric, value in rows if metric == "train_loss"]
    assert falling[-1] < falling[0]
    assert f"Model total parameters: {sum(p.numel() for p in run.loss.parameters())}" in log


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_best_model_is_the_one_of_the_lowest_validation_loss(trained, name):
    folder, run = trained(name)
    best = files.read(folder / "m.pt")
    losses = [value for metric, value in run.metrics_rows() if metric == "valid_loss"]
    assert best["valid_loss"] == min(losses) == run.progress["best"]
    assert best["epoch"] == 1 + losses.index(min(losses))


# ------------------------------------------------------------------------ going on from files
OTHER_SIZES = ["--nhid", "99", "--nlevels", "9", "--ksize", "3", "--no-wnorm", "--dilation", "3"]


@pytest.mark.parametrize("name", EVERY)
def test_load_takes_the_sizes_from_the_file(trained, name):
    """And --eval gives the losses that the run had, whatever sizes the flags say; nothing is
    written."""
    folder, _ = trained(name)
    content, before = files.read(folder / "m.pt"), sorted(folder.rglob("*"))
    other = OTHER_SIZES if name == "seq" else [*OTHER_SIZES, "--emsize", "5", "--nout", "5"]
    other += ["--splits", "9"] if name == "wt" else []
    run = train(name, folder, *other, "--load", folder / "m.pt", "--eval")
    if name == "seq":
        assert run.losses == (content["test_loss"], content["test_accuracy"])
    else:
        assert run.losses["valid"] == content["valid_loss"]
    assert sorted(folder.rglob("*")) == before


def test_load_and_train_on(trained, folder):
    """It starts from the file's weights; the file's place is kept free of the new run."""
    source, _ = trained("word")
    (folder / "m.pt").write_bytes((source / "m.pt").read_bytes())
    run = train("word", folder, "--load", folder / "m.pt", "--lr", "1e-9", "--max-steps", "1",
                *NO_TEXT_DROPOUT)
    best = files.read(source / "m.pt")
    torch.testing.assert_close(dict(run.loss.state_dict()), dict(best["model"]), atol=1e-6, rtol=0)
    assert (folder / "m.old.pt").read_bytes() == (source / "m.pt").read_bytes()


def test_load_a_classifier_with_its_order_of_pixels(trained, folder):
    """The order is the file's, not that of --seed."""
    source, _ = trained("seq")
    content = files.read(source / "m.pt")
    run = train("seq", folder, "--load", source / "m.pt", "--eval", "--seed", "99")
    assert run.losses == (content["test_loss"], content["test_accuracy"])
    assert run.facts["permutation"] == content["permutation"] != [*range(16)]


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_load_weight_of_our_weights_file(folder, name):
    """weights/*.pkl is the best model: evaluated it has the best losses."""
    whole = ["--splits"] if name == "wt" else []  # its tails are in no file of the original's
    first = train(name, folder, "--max-steps", "5", *whole)
    path, = (folder / "weights").iterdir()
    state = torch.load(path, weights_only=True)
    assert "network.0.module.full_conv.bias2" in state
    run = train(name, folder, *whole, "--load_weight", path, "--eval")
    assert run.losses["test"] == first.losses["test"]
    assert run.losses["valid"] == files.read(folder / "m.pt")["valid_loss"]


def test_tails_that_no_file_has_start_at_zero(trained, capsys):
    folder, _ = trained("wt")
    run = train("wt", folder, "--load_weight", folder / "weights/pretrained_wt103.pkl", "--eval")
    assert "no parameters of the split softmax, they start at zero" in capsys.readouterr().err
    assert not run.loss.criterion.tail_vectors.any()
    assert files.read(folder / "m.pt")["model"]["criterion.tail_vectors"].any()  # --load has them


def test_a_new_run_overwrites_nothing(folder):
    before = {}
    for seed in ("1", "2"):
        train("seq", folder, "--seed", seed, "--max-steps", "1")
        before[seed] = (folder / "m.pt").read_bytes()
    assert (folder / "m.old.pt").read_bytes() == before["1"] != before["2"]
    assert (folder / "m.state.old.pt").exists()
    assert {p.name for p in (folder / "logs").iterdir()} == {"m", "m-2", "m.log"}


# ------------------------------------------------------------------- flags that work together
@pytest.mark.parametrize(("name", "flags"), [
    ("word", "--n_experts 3"), ("word", "--n_experts 2 --nout 5 --no-tied --wnorm"),
    ("char", "--n_experts 2"), ("word", "--no-tied"), ("char", "--no-tied --emsize 5"),
    ("wt", "--no-tied"), ("word", "--seq_len 0 --repack"), ("wt", "--seq_len 10 --no-repack"),
    ("word", "--ksize 1"), ("char", "--ksize 3 --dilation 1 2"), ("seq", "--ksize 1"),
    ("seq", "--ksize 3"), ("word", "--aux -1 --alpha 0 --beta 0"), ("char", "--dilation 3 1"),
    ("word", "--no-last-word-padding --no-temporalwdrop"), ("word", "--optim ASGD"),
    ("seq", "--no-permute --no-wnorm"), ("seq", "--cifar --optim RMSprop --clip 0"),
    ("word", "--precision bf16-mixed"), ("seq", "--precision bf16-mixed"),
    ("char", "--precision 64"), ("word", "--precision 64 --n_experts 2"), ("wt", "--when 1 2"),
    ("word", "--fir --checkpoint-levels 3"),
], ids=lambda value: value.replace("--", "").replace(" ", "-"))
def test_flags_that_work(folder, name, flags):
    run = train(name, folder, *flags.split(), "--max-steps", "4")
    content = files.read(run.progress.get("best_file", folder / "m.pt"))
    assert all(value.isfinite().all() for value in content["model"].values())
    loss = run.losses[0] if name == "seq" else run.losses["test"]
    assert math.isfinite(loss)
    double = "--precision 64" in flags
    assert {v.dtype for v in content["model"].values()} == {
        torch.float64 if double else torch.float32}


def test_fewer_levels_than_the_aux_frequency(folder, capsys):
    """Said, not crashed as in the original."""
    run = train("word", folder, "--aux_freq", "9", "--max-steps", "4")
    assert "--aux: 4 levels have no auxiliary output at --aux_freq 9" in capsys.readouterr().err
    assert math.isfinite(run.losses["test"])


def assert_same_weights(ours, expected, atol):
    ours, expected = (files.read(folder / "m.state.pt") for folder in (ours, expected))
    assert ours["progress"]["step"] == expected["progress"]["step"] > 4
    for key, value in expected["model"].items():
        torch.testing.assert_close(ours["model"][key], value, rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize("name", ["word", "seq"])
def test_recomputed_levels_give_the_same_bits(trained, folder, name):
    train(name, folder, "--checkpoint-levels", "2")
    assert_same_weights(folder, trained(name)[0], 0)


def test_the_plain_form_gives_the_same_numbers(trained, folder):
    train("word", folder, "--plain")
    assert_same_weights(folder, trained("word")[0], 1e-5)


@pytest.mark.parametrize("name", ["wt", "seq"])
def test_the_plain_form_gives_the_same_numbers_in_double(tmp_path, name):
    """Adam divides small gradients by their size, so in single precision rounding shows."""
    for form in ("plain", "fir"):
        folder = small.write_data(tmp_path / form)
        train(name, folder, f"--{form}", "--precision", "64", "--max-steps", "6")
    assert_same_weights(tmp_path / "plain", tmp_path / "fir", 1e-8)


def test_a_seed_gives_the_same_run(trained, folder):
    train("char", folder)
    ours, expected = (files.read(f / "m.pt")["model"] for f in (folder, trained("char")[0]))
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


# ------------------------------------------------------------------------------- what is refused
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
    ("word", "--dropoutl nan", "--dropoutl must be in"),
    ("seq", "--wdrop -0.1", "--wdrop must be in"),
    ("char", "--lr 0", "--lr must be positive"),
    ("word", "--anneal -1", "--anneal must not be negative"),
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
    ("word", "--batch_size 4000", "is too short for 4000 columns"),
    ("char", "--optim Nothing", "--optim Nothing cannot be used"),
    ("seq", "--optim SparseAdam", "--optim SparseAdam cannot be used"),
    ("wt", "--splits 20 8", "splits must be increasing"),
    ("word", "--load missing.pt", "--load: no file missing.pt"),
    ("word", "--load_weight missing.pkl", "--load_weight: no file missing.pkl"),
    ("seq", "--resume", "--resume: no file"),
    ("seq", "--resume missing.pt", "--resume: no file missing.pt"),
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
    for name in EVERY:
        line = refused(name, capsys, "--save", folder / "nowhere/m.pt", folder=folder)
        assert f"there is no folder {folder / 'nowhere'}" in line


def test_model_files_of_other_kinds(trained, folder, capsys):
    """--load is for model files of the same script, --load_weight for the original's."""
    word, seq = trained("word")[0], trained("seq")[0]
    weights = word / "weights/pretrained_wordptb.pkl"
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
            ("word", "--resume", word / "m.pt", "this is no training state")):
        assert says in refused(name, capsys, flag, path, folder=folder)
    assert not (folder / "m.pt").exists()


def test_weights_of_another_model(trained, folder, capsys):
    word, _ = trained("word")
    weights = word / "weights/pretrained_wordptb.pkl"
    for flags, says in ((["--wnorm"], "--wnorm"), (["--n_experts", "2"], "--n_experts"),
                        (["--nhid", "13"], "the sizes differ")):
        line = refused("word", capsys, "--load_weight", weights, *flags, folder=folder)
        assert "--load_weight: " in line
        assert says in line


def test_model_of_other_words(trained, folder, capsys):
    """As many but others, or another number of them."""
    load = ["--load", trained("word")[0] / "m.pt"]
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
    state = files.read(folder / "m.state.pt")
    assert state["progress"]["step"] == int(found[1]) > 0
    assert all(value.isfinite().all() for value in state["model"].values())
