"""Files of release 0.1: a stopped run that averages its weights (its best model in m_asgd.pt), and
one with a split softmax. They resume to what release 0.1 itself came to, and load as models."""

import shutil
from pathlib import Path

import pytest
import torch

from harness import files
from tests.trellisnet.small import train, write_data

FILES = Path(__file__).with_name("release1")
RUNS = {"word": "--lr 20 --clip 5 --anneal 0 --epochs 6 --asgd", "wt": "--when 1"}


@pytest.fixture
def old(tmp_path):
    """The files and the data of a run, and the flags that go on with it."""
    def restored(name):
        write_data(tmp_path, lines=25)
        for path in (FILES / name).glob("m*.pt"):
            shutil.copy(path, tmp_path)
        return tmp_path, RUNS[name].split()
    return restored


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_release_0_1_goes_on(old, name, capsys):
    """To the same weights, bit for bit on the machine that made the files; its own stay."""
    folder, flags = old(name)
    run = train(name, folder, *flags, "--resume")
    assert "Resuming at epoch" in capsys.readouterr().out
    expected = files.read(FILES / name / "expected.pt")
    for key, value in expected["model"].items():
        torch.testing.assert_close(files.read(folder / "m.pt.state")["model"][key], value,
                                   rtol=0, atol=1e-6, msg=key)
    then = expected["progress"]
    assert (run.progress.epoch, run.progress.step) == (then["epoch"], then["step"])
    assert run.progress.val_losses == pytest.approx(then["val_losses"], abs=1e-6)
    assert run.progress.optimizer == then["optimizer"]
    for path in (FILES / name).glob("m*.pt"):
        if path.name != "m.pt" or name == "word":  # the run has overwritten its best model
            assert (folder / path.name).read_bytes() == path.read_bytes()
    if name == "word":  # the averaged model kept its place as the best
        assert (folder / "m.pt.asgd").read_bytes() == (folder / "m_asgd.pt").read_bytes()


@pytest.mark.parametrize(("name", "file"), [("word", "m_asgd.pt"), ("wt", "m.pt"),
                                            ("wt", "m.state.pt")])
def test_models_of_release_0_1_load(old, name, file):
    folder, _ = old(name)
    run = train(name, folder, "--load", folder / file, "--eval", "--nlevels", "9")
    content = files.read(FILES / name / file)
    expected = content.get("valid_loss") or content["progress"]["best"]
    tolerance = 1e-6 if "valid_loss" in content else 1  # the state is some updates further on
    assert run.losses["valid"] == pytest.approx(expected, abs=tolerance)


def test_other_words_are_refused(old, capsys):
    """Release 0.1 did not note the texts themselves."""
    folder, flags = old("wt")
    text = folder / "texts/train.txt"
    text.write_text(text.read_text().replace("w1 ", "other "))
    with pytest.raises(SystemExit) as stop:
        train("wt", folder, *flags, "--resume")
    assert stop.value.code == 2
    assert "--resume: the words of --data are not those of that run" in capsys.readouterr().err
