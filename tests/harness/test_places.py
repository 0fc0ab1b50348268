"""File names: appended to what was typed, so that no two runs share one."""

import os
from argparse import Namespace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness import files
from harness.endings import BadInput
from harness.places import ENDINGS, Places, name_by_time

OURS = (*ENDINGS, ".old")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]),
                min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and not any(ours in name for ours in OURS))


def of(save, **how) -> Places:
    return Places(Namespace(save=save), **how)


def all_files(places: Places) -> set[Path]:
    """Every name that a run may write, at any moment."""
    own = [places.best, places.state, *places.also]
    own += [files.previous(places.state)]
    hidden = [path.with_name(f".{path.name}.{ending}") for path in own
              for ending in ("part", "link")]
    return {*own, *hidden, places.lock}


def test_the_names(tmp_path):
    save = str(tmp_path / "PTB.v2.pt")
    main, tune = of(save, also=(".e2",)), of(save, label="finetune")
    assert (main.best, main.state) == (Path(save), Path(f"{save}.state"))
    assert tune.state == Path(f"{save}.finetune.state")
    assert main.lock == tune.lock == tmp_path / ".PTB.v2.pt.lock"
    assert main.also == [Path(f"{save}.e2")]
    assert (main.name, tune.name) == ("PTB.v2.pt", "PTB.v2.pt.finetune")


def test_the_names_in_a_folder(tmp_path):
    run = of(str(tmp_path / "run"), folder=True, also=("optimizer.pt",))
    assert (run.best, run.state) == (tmp_path / "run/model.pt", tmp_path / "run/state.pt")
    assert (run.lock, run.also) == (tmp_path / "run/.lock", [tmp_path / "run/optimizer.pt"])
    assert run.name == "run"


@given(one=NAMES, other=NAMES)
@example(one="ptb.runA", other="ptb.runB")
@example(one="ptb", other="ptb.pt")
@example(one="x", other="x.")
@example(one=".x", other="x")
def test_two_names_never_share_a_file(one, other):
    if one != other:
        for more in ({}, {"label": "finetune"}):
            assert not all_files(of(one, **more)) & all_files(of(other, **more))


@given(one=NAMES, other=NAMES)
def test_two_runs_never_share_curves(one, other):
    assert (of(one).name == of(other).name) == (one == other)


def test_the_lock_is_one_however_the_place_is_spelt(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    spelt = ["m.pt", "./m.pt", "../real/m.pt", str(tmp_path / "real/m.pt"), "../link/m.pt"]
    assert len({of(save).lock for save in spelt}) == 1
    assert len({of(save, folder=True).lock for save in spelt}) == 1


def test_a_linked_model_has_the_lock_of_its_target(tmp_path):
    """Both names would write to one file."""
    (tmp_path / "m.pt").symlink_to(tmp_path / "disk.pt")
    assert of(str(tmp_path / "m.pt")).lock == of(str(tmp_path / "disk.pt")).lock


# --------------------------------------------------------------------------- before the run
def test_folders_are_made(tmp_path):
    of(str(tmp_path / "a/b/m.pt")).check()
    of(str(tmp_path / "c/run"), folder=True).check()
    assert (tmp_path / "a/b").is_dir()
    assert not (tmp_path / "a/b/m.pt").exists()
    assert (tmp_path / "c/run").is_dir()


@pytest.mark.parametrize("save", ["models", "models/", "new/"])
def test_a_folder_is_no_file_name(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(BadInput, match=f"--save {save} is a folder: give the name of a file"):
        of(save).check()
    assert [p.name for p in tmp_path.iterdir()] == ["models"]


@pytest.mark.parametrize("save", ["m.pt.state", "m.pt.finetune", "m.pt.state.prev", "m.pt.csv"])
def test_the_name_of_another_runs_file_is_refused(tmp_path, save):
    """Fine-tuning m.pt keeps its state in m.pt.finetune.state: the same as a run m.pt.finetune."""
    places = of(str(tmp_path / save), also=(".csv",))
    with pytest.raises(BadInput, match=f"--save .*{save}: names that end in .* give another name"):
        places.check()
    places.check(resumes=True)


def test_a_name_that_is_too_long_for_the_state(tmp_path):
    """The model's own is not."""
    with pytest.raises(BadInput, match=r"--save .*bbb: File name too long"):
        of(str(tmp_path / ("b" * 247))).check()
    of(str(tmp_path / ("b" * 200))).check()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for places in (of(str(tmp_path / "file/m.pt")), of(str(tmp_path / "file"), folder=True)):
        with pytest.raises(BadInput, match=r"^--save .*file"):
            places.check()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everywhere
    with pytest.raises(BadInput, match=f"the folder {tmp_path} is read-only"):
        of(str(tmp_path / "m.pt")).check()


def test_the_flag_is_named_as_typed(tmp_path):
    args = Namespace(output_dir=str(tmp_path / "file"))
    args.typed = {"output_dir": "--output_dir"}
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"^--output_dir "):
        Places(args, where="output_dir", folder=True).check()


# ------------------------------------------------------------------------------- what is there
def test_the_state_is_found_under_both_names(tmp_path):
    places = of(str(tmp_path / "PTB.pt"))
    with pytest.raises(BadInput, match=r"no training state .*PTB\.pt\.state; start without"):
        places.find_state()
    (tmp_path / "PTB.state.pt").touch()
    assert places.find_state().name == "PTB.state.pt"
    (tmp_path / "PTB.pt.state").touch()
    assert places.find_state().name == "PTB.pt.state"
    (tmp_path / "PTB.finetune.state.pt").touch()
    assert of(str(tmp_path / "PTB.pt"), label="finetune").find_state().name == (
        "PTB.finetune.state.pt")
    (tmp_path / "PTB.tune.state.pt").touch()
    assert of(str(tmp_path / "PTB.pt"), label="x", label_0_1="tune").find_state().name == (
        "PTB.tune.state.pt")
    with pytest.raises(BadInput, match="--resume needs --save"):
        of(None).find_state()


def test_all_that_a_run_left_is_set_aside(tmp_path):
    places = of(str(tmp_path / "m.pt"), also=(".e2", ".csv"))
    for path in all_files(places) - {places.lock}:
        path.write_text(path.name)
    moved = places.set_aside(tunes=False)
    assert {old.name for old, _ in moved} == {"m.pt", "m.pt.state", "m.pt.state.prev", "m.pt.e2",
                                              "m.pt.csv"}
    for old, new in moved:
        assert not old.exists()
        assert new.read_text() == old.name
    assert places.set_aside(tunes=False) == []


def test_what_is_tuned_stays(tmp_path):
    places = of(str(tmp_path / "m.pt"), label="finetune")
    for name in ("m.pt", "m.pt.state", "m.pt.finetune.state"):
        (tmp_path / name).write_text(name)
    moved = {old.name: new.name for old, new in places.set_aside(tunes=True)}
    assert moved == {"m.pt": "m.pt.main", "m.pt.finetune.state": "m.pt.finetune.state.old"}
    assert {p.name for p in tmp_path.iterdir()} == {
        "m.pt", "m.pt.main", "m.pt.state", "m.pt.finetune.state.old"}


def test_states_of_release_0_1_are_set_aside_with_their_run(tmp_path):
    """Else a fresh run that is killed early would leave them to --resume. There, ptb.a and ptb.b
    both had ptb.state.pt: a state of another run stays."""
    for name, save in (("ptb.state.pt", "x/ptb.a"), ("ptb.state.prev.pt", "x/ptb.b")):
        files.write(tmp_path / name, {"args": {"save": save}})
    (tmp_path / "ptb.finetune.state.pt").write_text("damaged")
    for label in ("", "finetune"):
        moved = of(str(tmp_path / "ptb.a"), label=label).set_aside(tunes=False)
        assert [old.name for old, _ in moved] == ([] if label else ["ptb.state.pt"])
    run = tmp_path / "run"
    run.mkdir()
    for name in ("state.pt", "state.prev.pt"):
        (run / name).touch()
    assert {old.name for old, _ in of(str(run), folder=True).set_aside(tunes=False)} == {
        "state.pt", "state.prev.pt"}


def test_a_folder_under_one_of_the_names_is_refused(tmp_path):
    (tmp_path / "m.pt.state").mkdir()
    with pytest.raises(BadInput, match=r"^--save: .*m\.pt\.state is not a file"):
        of(str(tmp_path / "m.pt")).set_aside(tunes=False)


def test_whose_a_state_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert of("m.pt").is_own({"save": str(tmp_path / "m.pt")})
    assert not of("n.pt").is_own({"save": str(tmp_path / "m.pt")})


def test_a_run_is_its_own_by_whatever_path(tmp_path, monkeypatch):
    """Over `..`, over a link, and after its folder has moved, with a link left in its place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    state = {"save": str(tmp_path / "real/m.pt")}
    assert of("real/../real/m.pt").is_own(state)
    assert of("link/m.pt").is_own(state)
    (tmp_path / "real").rename("elsewhere")
    (tmp_path / "real").symlink_to("elsewhere")
    assert of("elsewhere/m.pt").is_own(state)
    (tmp_path / "copy").mkdir()
    assert not of("copy/m.pt").is_own(state)


def test_names_by_time_are_digits():
    stem, ending = os.path.splitext(name_by_time())
    assert stem.isdigit()
    assert ending == ".pt"
