"""--max-steps inside an epoch: validation and test are of the same weights, and which they are is
said."""

import csv
import shutil

import pytest

from harness import files
from report import measurements, metrics_csv
from tests.awd_lstm.small import LEARNS, train, write_corpus


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_corpus(folder / "texts")
    train("main", folder, *LEARNS, "--epochs", "1")
    return folder


def closing(folder, logs="logs"):
    """Validation and test loss as report shows them, and all validation losses."""
    curves, = (folder / logs).glob("*")
    curve, final, judge = metrics_csv.read(curves)
    found = measurements.add_best(curve, final, judge)
    with (curves / "metrics.csv").open() as file:
        tested = [row for row in csv.DictReader(file) if row["name"] == "test_loss"]
    return found, len(tested), [point.get("valid_loss") for point in curve]


@pytest.mark.parametrize(("script", "rate", "better"), [
    ("main", "20", True), ("finetune", "5", True), ("finetune", "1000", False)])
def test_the_better_model_is_tested_and_named(trained, tmp_path, capsys, script, rate, better):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    if script == "main":  # the second epoch is stopped inside
        shutil.rmtree(folder / "logs")
        flags = [*LEARNS, "--epochs", "2", "--lr", rate, "--log-dir", str(folder / "curves")]
        train("main", folder, *flags, save="two.pt")
        steps = files.read(folder / "two.pt.state")["progress"]["step"]
        shutil.rmtree(folder / "curves")
        train("main", folder, *flags, "--max-steps", str(steps - 2), save="other.pt")
    else:
        flags = [*LEARNS, "--lr", rate, "--log-dir", str(folder / "curves"), "--max-steps", "3"]
        before = (folder / "m.pt").read_bytes()
        path = train("finetune", folder, *flags)
        assert path.read_bytes() == before  # as an unbroken run would have it
    said = capsys.readouterr().out
    found, tests, points = closing(folder, "curves")
    assert tests == 1
    assert found["valid_loss"] == min(points)
    assert f"test loss {found['test_loss']:5.2f}" in said
    assert found["test_loss"] == pytest.approx(found["valid_loss"], abs=0.2)  # the same weights
    assert ("Better than the best model so far: tested as they are" if better else
            "Not better than the best model so far, which is tested") in said


def test_the_first_model_is_kept_however_high_its_loss(trained, tmp_path):
    """At a loss above the original's 1e8 no model was ever stored, and the test found none."""
    shutil.copytree(trained / "texts", tmp_path / "texts")
    path = train("main", tmp_path, "--epochs", "1", "--seq_len_multiple", "100000000000000")
    assert files.read(path)["valid_loss"] > 1e8


def test_fine_tuning_names_the_flags_given_that_the_model_overrules(trained, tmp_path, capsys):
    """Not the others, whose defaults are the paper's sizes."""
    shutil.copytree(trained, tmp_path / "run")
    train("finetune", tmp_path / "run", "--nhid", "9", "--no-tied", "--max-steps", "1",
          "--emsize", "6")
    assert ("The model's own settings are used, not --nhid 9 (model: 8), --no-tied (model: True)\n"
            in capsys.readouterr().out)
