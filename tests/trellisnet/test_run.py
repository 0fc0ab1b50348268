"""The four scripts, small: what they print and leave, which flags work together. What they refuse
is in test_run_refused.py. Run in this process; tests/e2e runs them as a user does."""

import math
import re
from types import SimpleNamespace

import pytest
import torch

from harness import files
from tests.trellisnet import small
from tests.trellisnet.small import LANGUAGE_MODELS, NO_TEXT_DROPOUT, SCRIPTS, curve, train

EVERY = tuple(SCRIPTS)


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
    log = (folder / "logs/m.pt/m.log").read_text()
    for line in LINES[name]:
        assert re.search(f"^{line}$", log, re.M), line
    names = {p.name for p in folder.iterdir()}
    names.discard("m.pt.state.prev")
    assert names - {"weights"} == {"texts", "images", "logs", "m.pt", "m.pt.state"}
    assert ("weights" in names) == (name in LANGUAGE_MODELS)
    assert [p.name for p in folder.glob("weights/*")] == ["m.pt.pkl"] * ("weights" in names)
    best = files.read(folder / "m.pt")
    assert all(value.isfinite().all() for value in best["model"].values())
    assert f"Model total parameters: {sum(p.numel() for p in run.loss.parameters())}" in log


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_best_model_is_the_one_of_the_lowest_validation_loss(trained, name):
    folder, run = trained(name)
    best = files.read(folder / "m.pt")
    losses = curve(run, "valid_loss")
    assert best["valid_loss"] == min(losses) == run.progress.best
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
    assert (folder / "m.pt.old").read_bytes() == (source / "m.pt").read_bytes()


def test_load_a_classifier_with_its_order_of_pixels(trained, folder):
    """The order is the file's, not that of --seed."""
    source, _ = trained("seq")
    content = files.read(source / "m.pt")
    said = folder / "said.txt"
    run = train("seq", folder, "--load", source / "m.pt", "--eval", "--seed", "99",
                "--predictions", said)
    pairs = [line.split() for line in said.read_text().splitlines()]
    assert run.losses[1] == pytest.approx(
        100 * sum(label == prediction for label, prediction in pairs) / len(pairs))
    with pytest.raises(SystemExit):  # nothing is overwritten
        train("seq", folder, "--load", source / "m.pt", "--eval", "--predictions", said)
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
    run = train("wt", folder, "--load_weight", folder / "weights/m.pt.pkl", "--eval")
    assert "no parameters of the split softmax, they start at zero" in capsys.readouterr().err
    assert not run.loss.criterion.tail_vectors.any()
    assert files.read(folder / "m.pt")["model"]["criterion.tail_vectors"].any()  # --load has them


def test_a_new_run_overwrites_nothing(folder):
    written = ("m.pt", "m.pt.state", "weights/m.pt.pkl")
    before = {}
    for seed in ("1", "2"):
        train("word", folder, "--seed", seed, "--max-steps", "1")
        before[seed] = [(folder / name).read_bytes() for name in written]
    assert [(folder / f"{name}.old").read_bytes() for name in written] == before["1"]
    assert before["1"][0] != before["2"][0]
    assert {p.name for p in (folder / "logs").iterdir()} == {"m.pt", "m.pt-2"}


def test_runs_of_similar_names_share_no_file(folder):
    """`a.1` and `a.2` differ in what pathlib takes for an ending, and in nothing else."""
    left = {}
    for save in ("a.1", "a.2"):
        train("word", folder, "--save", folder / save, "--max-steps", "1")
        left[save] = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    new = {str(path).replace("a.2", "a.1") for path in left["a.2"] - left["a.1"]}
    assert {str(path) for path in left["a.1"] if "a.1" in str(path)} >= {
        "a.1", "a.1.state", "weights/a.1.pkl", "logs/a.1/m.log", "logs/a.1/metrics.csv"}
    assert {"a.1", "a.1.state", "weights/a.1.pkl", "logs/a.1/m.log"} <= new
    before = files.read(folder / "a.2.state")["model"]
    run = train("word", folder, "--save", folder / "a.1", "--resume", "--max-steps", "2")
    assert run.progress.step == 2
    after = files.read(folder / "a.2.state")["model"]
    assert all(torch.equal(before[key], after[key]) for key in before)


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
    content = files.read(run.keeper.best())
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
    ours, expected = (files.read(folder / "m.pt.state") for folder in (ours, expected))
    assert ours["progress"]["step"] == expected["progress"]["step"] > 4
    for key, value in expected["model"].items():
        torch.testing.assert_close(ours["model"][key], value, rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize(("flags", "inert"), [
    ("--fir --checkpoint-levels 2", "--fir, --checkpoint-levels"), ("--plain --fir", "--fir"),
    ("--dilation 1 --fir --checkpoint-levels 2", "")])
def test_flags_without_effect_are_named(folder, capsys, flags, inert):
    """The classifier has its own way to compute its levels, unless all have the same dilation."""
    train("seq", folder, *flags.split(), "--max-steps", "1")
    said = capsys.readouterr().err
    assert said.startswith(f"{inert}: no effect here, since ") if inert else not said


def test_compile_is_without_effect_where_positions_are_skipped(folder):
    args = small.script("seq").parse_args(small.flags_of("seq", folder, "--compile"))
    for skips in (True, False):
        net = SimpleNamespace(skips_positions=skips)
        assert small.script("seq").inert_flags(args, net) == ["--compile"] * skips


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
    train("word", folder)
    ours, expected = (files.read(f / "m.pt")["model"] for f in (folder, trained("word")[0]))
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
