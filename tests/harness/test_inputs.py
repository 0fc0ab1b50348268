"""What a run reads: prepared once, known again by its content, refused by its flag."""

import re
import shutil
from types import SimpleNamespace

import pytest

from harness import machine
from harness.endings import BadInput
from harness.inputs import digest_of, load_in_turn, refuse_together


def of_one_process():
    return SimpleNamespace(world_size=1)


# ------------------------------------------------------------------------------- known again
def test_a_file_is_known_by_its_content(tmp_path):
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b") != digest_of(tmp_path / "c")
    assert re.fullmatch("[0-9a-f]{64}", digest_of(tmp_path / "a"))


@pytest.mark.parametrize("change", ["content", "name", "more", "less", "moved down"])
def test_a_folder_is_known_by_its_files(tmp_path, change):
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    for name in ("a", "b", "below/c"):
        (folder / name).write_text(name)
    before = digest_of(folder)
    shutil.copytree(folder, tmp_path / "moved")
    assert digest_of(tmp_path / "moved") == before
    if change == "content":
        (folder / "below/c").write_text("other")
    elif change == "name":
        (folder / "a").rename(folder / "z")
    elif change == "more":
        (folder / "empty").touch()
    elif change == "less":
        (folder / "b").unlink()
    else:
        (folder / "b").rename(folder / "below/b")
    assert digest_of(folder) != before


def test_contents_and_names_do_not_run_into_one_another(tmp_path):
    for folder, name, text in (("x", "ab", "c"), ("y", "a", "bc")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    assert digest_of(tmp_path / "x") != digest_of(tmp_path / "y")


# ------------------------------------------------------------------------------------ loading
@pytest.mark.parametrize("fabric", [None, of_one_process()], ids=["none", "one"])
def test_what_is_loaded_is_returned(fabric):
    assert load_in_turn(fabric, lambda: [1, 2], "--data x") == [1, 2]


@pytest.mark.parametrize(("error", "says"), [
    (FileNotFoundError("no train.txt in x"), "--data x: no train.txt in x; ./getdata.sh ptb"),
    (NotADirectoryError("x is a file"), "--data x: x is a file; ./getdata.sh ptb"),
    (PermissionError(13, "Permission denied", "x/train.txt"),
     "--data x: [Errno 13] Permission denied: 'x/train.txt'"),
    (IsADirectoryError(21, "Is a directory", "x/train.txt"),
     "--data x: [Errno 21] Is a directory: 'x/train.txt'"),
    (ValueError("train.txt is empty"), "--data x: train.txt is empty")], ids=repr)
def test_what_is_wrong_with_the_data_is_bad_input(error, says):
    def load():
        raise error
    with pytest.raises(BadInput) as caught:
        load_in_turn(None, load, "--data x", "./getdata.sh ptb")
    assert str(caught.value) == says
    assert caught.value.__cause__ is error


def test_an_error_of_the_program_passes():
    with pytest.raises(KeyError):
        load_in_turn(None, lambda: {}["x"], "--data x")


class InTurn:
    """Fabric of two processes, seen from one."""

    world_size = 2

    def __init__(self, order: list):
        self.order = order

    def rank_zero_first(self):
        return self

    def __enter__(self):
        self.order.append("my turn")

    def __exit__(self, *_):
        self.order.append("the others'")


def test_one_process_prepares_for_all(monkeypatch):
    order = []
    monkeypatch.setattr(machine, "gather", lambda _, text: [text, ""])
    load_in_turn(InTurn(order), lambda: order.append("load"), "--data x")
    assert order == ["my turn", "load", "the others'"]


def test_what_another_process_could_not_load_is_bad_input_here(monkeypatch):
    """On another machine, for instance, the data are not there."""
    monkeypatch.setattr(machine, "gather", lambda _, text: [text, "--data x: no train.txt"])
    with pytest.raises(BadInput, match=r"^--data x: no train\.txt$"):
        load_in_turn(InTurn([]), lambda: 1, "--data x")


# ---------------------------------------------------------------------------- while training
def test_samples_that_cannot_be_read_stop_the_run_with_its_state_saved():
    saved = []
    keeper = SimpleNamespace(fabric=of_one_process(), save=lambda: saved.append(True))
    refuse_together(keeper, None)
    assert saved == []
    with pytest.raises(BadInput, match=r"^a\.png is damaged$"):
        refuse_together(keeper, ValueError("a.png is damaged"))
    assert saved == [True]
