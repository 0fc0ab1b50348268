"""A run that is resumed ends as the one that never stopped, bit for bit, wherever it stopped."""

import shutil
from pathlib import Path

import pytest

from harness import files
from tests.harness import toy
from tests.harness.keeping import STEPS, assert_same_run, names, refused, text_of
from tests.harness.same import same


def in_folder(args) -> Path:
    return Path(args.save) / "log.txt"


@pytest.mark.parametrize("stop", range(1, STEPS + 1))
def test_resumed_after_any_update_it_is_the_same_run(unbroken, here, stop):
    toy.main(["--max-steps", str(stop)])
    assert files.read("m.pt.state")["progress"]["step"] == stop
    toy.main(["--resume"])
    assert_same_run(here, unbroken)
    # A run that had a best model had printed its closing line, which is then behind the state.
    assert text_of(here) == text_of(unbroken)


def test_resumed_many_times(unbroken, here):
    toy.main(["--max-steps", "1"])
    for stop in range(2, STEPS + 1):
        toy.main(["--resume", "--max-steps", str(stop)])
    toy.main(["--resume"])
    assert_same_run(here, unbroken)


def test_resumed_after_its_end_it_prints_its_end(unbroken, here, capsys):
    shutil.copytree(unbroken, here, dirs_exist_ok=True)
    capsys.readouterr()
    toy.main(["--resume"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["Resuming at epoch 4, update 15", text_of(unbroken)[-1]]


def test_more_epochs_than_first_asked_for(unbroken, here):
    toy.main(["--epochs", "1"])
    toy.main(["--epochs", "2", "--resume"])
    toy.main(["--resume"])
    assert_same_run(here, unbroken)


def test_a_damaged_state_costs_a_few_updates(unbroken, here, capsys):
    """The one before it is gone on from; the run ends the same."""
    toy.main(["--save-interval", "3", "--max-steps", "8"])
    path = Path("m.pt.state")
    path.write_bytes(path.read_bytes()[:-100])
    toy.main(["--resume"])
    assert "going on from the state before it, m.pt.state.prev" in capsys.readouterr().err
    assert_same_run(here, unbroken)


def test_a_path_names_the_run_to_continue(unbroken, here):
    """--save then is the state's."""
    toy.main(["--max-steps", "7"])
    toy.main(["--resume", "m.pt.state", "--save", "m.pt"])
    assert_same_run(here, unbroken)


def test_a_state_knows_where_its_run_writes(here):
    toy.main(["--max-steps", "7", "--save", "other.pt"])

    def parse_args(argv, own=toy.parse_args):
        args = own(argv)
        args.save = None       # a script whose --save has no default
        return args
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "parse_args", parse_args)
        patch.setattr(toy, "main", toy.main)
        run = toy.main(["--resume", "other.pt.state"],
                       text_log=lambda args: Path("log.txt"))
    assert run.args.save == str(here / "other.pt")
    assert files.read("other.pt.state")["progress"]["step"] == STEPS


def test_a_copied_run_goes_on_by_itself(unbroken, here):
    """The files were copied to another name: the first run's curves and files stay as they are."""
    toy.main(["--max-steps", "7"])
    for ending in ("", ".state"):
        shutil.copy(f"m.pt{ending}", f"copy.pt{ending}")
    before = {p: p.read_bytes() for p in Path().rglob("m.pt*/**/*") if p.is_file()}
    toy.main(["--resume", "copy.pt.state", "--save", "copy.pt"])
    assert {p: p.read_bytes() for p in before} == before
    assert (here / "logs/copy.pt/metrics.csv").read_text() == (
        unbroken / "logs/m.pt/metrics.csv").read_text()
    assert files.read("copy.pt.state")["save"] == str(here / "copy.pt")


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_folder_goes_on_elsewhere_with_its_log(unbroken, here, how):
    """Its log came along, and is cut like the curves."""
    kept = {"folder": True, "text_log": in_folder}
    toy.main(["--save", "run", "--max-steps", "7"], **kept)
    with Path("run/log.txt").open("a") as file:
        file.write("behind the state\n")
    before = Path("run/log.txt").read_bytes()
    shutil.move("run", "new") if how == "moved" else shutil.copytree("run", "new")
    toy.main(["--save", "new", "--resume"], **kept)
    lines = Path("new/log.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("Resuming")] == text_of(unbroken)
    assert names(here / "new") == {"model.pt", "state.pt", "state.pt.prev", "log.txt"}
    assert how == "moved" or Path("run/log.txt").read_bytes() == before
    shutil.copy("new/state.pt", "elsewhere.pt")
    toy.main(["--save", "new", "--resume", "elsewhere.pt"], **kept)
    assert "log.txt.old" not in names(here / "new")


def test_the_log_of_another_run_is_kept(here):
    kept = {"folder": True, "text_log": in_folder}
    for name, seed in (("one", "1"), ("two", "2")):
        toy.main(["--save", name, "--seed", seed, "--max-steps", "3"], **kept)
    before = Path("two/log.txt").read_bytes()
    toy.main(["--save", "two", "--seed", "1", "--resume", "one/state.pt"], **kept)
    assert Path("two/log.txt.old").read_bytes() == before


def test_names_that_were_one_in_release_0_1(here):
    """ptb.runA and ptb.runB: each goes on with its own state."""
    for name, seed in (("ptb.runA", "1"), ("ptb.runB", "2")):
        toy.main(["--save", name, "--seed", seed, "--max-steps", "3"])
    run = toy.main(["--save", "ptb.runA", "--seed", "1", "--resume", "--max-steps", "4"])
    assert run.progress.step == 4
    assert files.read("ptb.runB.state")["progress"]["step"] == 3


def test_a_flag_of_later_counts_as_its_default(here, capsys):
    toy.main(["--max-steps", "3"])
    content = files.read("m.pt.state")
    del content["args"]["slack"]
    files.write("m.pt.state", content)
    assert "--slack 0.0 there, 1.0 here" in refused(capsys, "--resume", "--slack", "1")
    toy.main(["--resume", "--max-steps", "4"])


def test_progress_of_an_earlier_release(here):
    """A field that is gone is passed over, a new one has its default."""
    toy.main(["--max-steps", "7"])
    content = files.read("m.pt.state")
    del content["progress"]["lowest"]
    content["progress"]["threads"] = 4
    files.write("m.pt.state", content)
    run = toy.main(["--resume", "--max-steps", "8"])
    assert (run.progress.step, run.progress.lowest) == (8, None)


def test_a_state_of_an_earlier_release_is_upgraded(unbroken, here):
    toy.main(["--max-steps", "7"])
    content = files.read("m.pt.state")
    old = {"format": "toy 1", "inside": content}
    files.write("m.state.pt", old)           # under the name of that time
    Path("m.pt.state").unlink()
    toy.main(["--resume"], upgrade=lambda found: found.get("inside", found))
    assert_same_run(here, unbroken)
    assert same(files.read("m.state.pt"), old)
