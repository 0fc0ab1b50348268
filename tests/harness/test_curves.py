"""metrics.csv, TensorBoard events, args.json, the text log: one run's, and as if never stopped."""

import csv
import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness import curves
from harness.curves import Curves, TextLog, claim, continued, cut


def rows(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def draw(folder: Path, steps, step: int = 0, size: int = 0) -> int:
    """A run that logs its update numbers. Returns the size of metrics.csv."""
    drawn = Curves(folder, {"lr": 1.0}, step, size)
    for n in steps:
        drawn.log(n, 1, {"train_loss": n / 3})
    drawn.close()
    return drawn.size


# ------------------------------------------------------------------------------- whose folder
def test_the_first_free_name(tmp_path):
    assert [claim(tmp_path / "logs", "m.pt").name for _ in range(3)] == ["m.pt", "m.pt-2", "m.pt-3"]
    (tmp_path / "logs/n.pt").write_text("a file")
    assert claim(tmp_path / "logs", "n.pt").name == "n.pt-2"


def test_the_name_of_the_model_stays_free(tmp_path):
    """--log-dir is the folder of --save: a folder m.pt there would be in the model's way."""
    assert claim(tmp_path, "m.pt", tmp_path / "m.pt") == tmp_path / "m.pt-2"
    (tmp_path / "m.pt").write_text("an earlier model")
    assert claim(tmp_path, "m.pt", tmp_path / "m.pt") == tmp_path / "m.pt-3"


def test_a_claimed_folder_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert claim("logs", "m") == tmp_path / "logs/m"


def test_threads_that_claim_at_once_share_none(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: claim(tmp_path / "logs", "m.pt"), range(64)))
    assert len(set(found)) == 64


def test_runs_started_together_share_none(server, tmp_path):
    """Of the same name, in folders of their own: each has its own curves, whole."""
    children = []
    for n in range(5):
        (tmp_path / f"{n}").mkdir()
        children.append(server.start(
            "tests.harness.toy", ["--save", f"{n}/m.pt", "--seed", str(n), "--epochs", "1"],
            tmp_path))
    for child in children:
        done = child.wait()
        assert done.code == 0, done.err
    folders = sorted((tmp_path / "logs").iterdir())
    assert [folder.name for folder in folders] == ["m.pt", *(f"m.pt-{n}" for n in range(2, 6))]
    seeds = set()
    for folder in folders:
        settings = json.loads((folder / "args.json").read_text())
        assert settings["save"] == f"{settings['seed']}/m.pt"
        seeds.add(settings["seed"])
        assert [row[0] for row in rows(folder)[1:]] == ["1", "2", "3", "4", "5", "5"]
        assert len(list(folder.glob("events*"))) == 1
    assert seeds == set(range(5))


# -------------------------------------------------------------------------------- what is drawn
def test_rows_and_points(tmp_path):
    folder = claim(tmp_path, "m")
    drawn = Curves(folder, {"lr": 0.1, "when": [1, 2], "save": None})
    drawn.log(3, 1, {"train_loss": 0.1, "valid_ppl": float("inf")})
    drawn.close()
    assert rows(folder) == [["step", "epoch", "name", "value"], ["3", "1", "train_loss", "0.1"],
                            ["3", "1", "valid_ppl", "inf"]]
    events = EventAccumulator(str(folder)).Reload()
    assert events.Tags()["scalars"] == ["train/loss", "valid/ppl"]
    assert events.Scalars("train/loss")[0].step == 3
    assert json.loads((folder / "args.json").read_text()) == {
        "lr": 0.1, "when": [1, 2], "save": None}


def test_values_are_written_with_all_their_digits(tmp_path):
    value = 0.1 + 0.2
    drawn = Curves(claim(tmp_path, "m"), {})
    drawn.log(1, 1, {"loss": value})
    drawn.close()
    assert float(rows(drawn.folder)[1][3]) == value


# ----------------------------------------------------------------------------------- resumed
def test_rows_behind_the_state_are_cut(tmp_path):
    """They never happened. TensorBoard purges its own from that update on."""
    size = draw(tmp_path, range(1, 5))
    draw(tmp_path, range(5, 9), 4, size)      # goes on to 8, was killed: no state behind 4
    draw(tmp_path, range(5, 7), 4, size)
    assert [row[0] for row in rows(tmp_path)[1:]] == ["1", "2", "3", "4", "5", "6"]
    points = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]


def test_half_a_row_of_a_killed_run_is_cut(tmp_path):
    size = draw(tmp_path, [1])
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,1,train_l")
    draw(tmp_path, [2], 1, size)
    assert [row[0] for row in rows(tmp_path)] == ["step", "1", "2"]


def test_lost_curves_start_anew(tmp_path):
    """The folder was removed: there is a header, and what comes."""
    size = draw(tmp_path / claim(tmp_path, "m"), [1, 2])
    (tmp_path / "m/metrics.csv").unlink()
    draw(tmp_path / "m", [3], 2, size)
    assert [row[0] for row in rows(tmp_path / "m")] == ["step", "3"]


def test_a_shortened_file_is_not_filled_with_zeros(tmp_path):
    (tmp_path / "log").write_text("one\n")
    cut(tmp_path / "log", 100)
    assert (tmp_path / "log").read_text() == "one\n"


def test_an_own_state_goes_on_where_it_was(tmp_path):
    state = {"metrics": str(tmp_path / "logs/m")}
    assert continued(state, True, tmp_path / "elsewhere", "m") == tmp_path / "logs/m"
    assert (tmp_path / "logs/m").is_dir()
    assert not (tmp_path / "elsewhere").exists()


def test_a_copied_run_leaves_the_others_curves_alone(tmp_path):
    """It has the rows so far in a folder of its own."""
    first = claim(tmp_path / "logs", "m")
    size = draw(first, [1, 2])
    before = (first / "metrics.csv").read_bytes()
    copy = continued({"metrics": str(first)}, False, tmp_path / "logs", "m")
    assert copy == tmp_path / "logs/m-2"
    draw(copy, [3], 2, size)
    assert [row[0] for row in rows(copy)] == ["step", "1", "2", "3"]
    assert (first / "metrics.csv").read_bytes() == before
    assert len(list(first.glob("events*"))) == 1
    gone = continued({"metrics": str(tmp_path / "gone")}, False, tmp_path / "logs", "n")
    assert list(gone.iterdir()) == []


# ---------------------------------------------------------------------------------- text log
def test_a_text_log_is_cut_too(tmp_path):
    log = TextLog(tmp_path / "new/log.txt")
    log.write("one")
    size = log.size
    log.write("two")
    again = TextLog(tmp_path / "new/log.txt", size)
    again.write("zwei \u00e9")
    assert (tmp_path / "new/log.txt").read_text(encoding="utf-8") == "one\nzwei \u00e9\n"


def test_a_state_that_does_not_say_cuts_nothing(tmp_path):
    (tmp_path / "log.txt").write_text("of release 0.1\n")
    TextLog(tmp_path / "log.txt", None).write("more")
    assert (tmp_path / "log.txt").read_text() == "of release 0.1\nmore\n"


# ----------------------------------------------------------------------------- others, errors
def test_who_started_the_run_learns_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CURVES_LIST", str(tmp_path / "list"))
    for name in ("a", "b"):
        Curves(claim(tmp_path, name), {}).close()
    assert (tmp_path / "list").read_text().split() == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_names_the_file(tmp_path):
    drawn = Curves(claim(tmp_path, "m"), {})
    drawn.path.unlink()
    drawn.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.csv'") as caught:
        drawn.log(1, 1, {"loss": 1.0})
    assert caught.value.errno == errno.ENOSPC
    drawn.close()


def test_the_columns_are_those_that_report_reads():
    assert curves.COLUMNS == ("step", "epoch", "name", "value")
