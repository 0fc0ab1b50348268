"""The layout of the Long Range Arena's release, lra_release.gz, as it is unpacked."""

import argparse

import numpy as np
import pytest
from PIL import Image

from tests.tnn.lra.small import write_sums
from tnn.lra.args import add_data_flags
from tnn.lra.data import load_task


def flags(*given):
    parser = argparse.ArgumentParser()
    add_data_flags(parser)
    return parser.parse_args(given)


def write_pathfinder(folder, side, grey):
    """Twenty images of one grey, half of them labelled 1."""
    below = folder / f"pathfinder{side}/curv_contour_length_14"
    (below / "imgs/0").mkdir(parents=True)
    (below / "metadata").mkdir()
    lines = []
    for i in range(20):
        image = Image.fromarray(np.full((side, side), grey, np.uint8))
        image.save(below / f"imgs/0/sample_{i}.png")
        lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1\n")
    (below / "metadata/0.npy").write_text("".join(lines))


@pytest.fixture
def unpacked(tmp_path):
    """The release, of which the outer copies differ from the inner ones."""
    outer, inner = tmp_path / "lra_release", tmp_path / "lra_release/lra_release"
    inner.mkdir(parents=True)
    for folder, trees, grey in ((outer, 11, 0), (inner, 22, 255)):
        write_sums(folder, train=trees)
        (folder / "listops").rename(folder / "listops-1000")
        write_pathfinder(folder, 128, grey)
    write_pathfinder(inner, 32, 255)
    (inner / "tsv_data").mkdir()
    for split in ("train", "eval", "test"):
        (inner / f"tsv_data/new_aan_pairs.{split}.tsv").write_text("1.0\ta\tb\tone\tother\n" * 4)
    return tmp_path


ROOTS = ["", "lra_release", "lra_release/lra_release"]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(("name", "train", "twice"), [
    ("listops", 22, True), ("aan", 4, False), ("pathfinder", 16, False), ("pathfinderx", 16, True)])
def test_the_release_is_read_as_it_is_unpacked_and_of_two_copies_the_inner_one(
        name, train, twice, root, unpacked, capsys):
    task = load_task(name, unpacked / root, flags())
    assert len(task.train) == train
    if name.startswith("pathfinder"):
        x, _, _ = task.collate([task.train[0]])
        assert x.unique().tolist() == [1.0]  # white: the inner copy
    err = capsys.readouterr().err
    assert ("the release's other copy" in err) == (twice and root != ROOTS[-1])
    if twice and root != ROOTS[-1]:
        folder = "listops-1000" if name == "listops" else "pathfinder128"
        assert f"reads {unpacked}/lra_release/lra_release/{folder}, as " in err
        assert f"other copy, {unpacked}/lra_release/{folder}, is not used" in err


def test_the_outer_copy_is_read_where_there_is_no_other_or_where_it_was_moved(unpacked):
    (unpacked / "lra_release/lra_release/pathfinder128").rename(unpacked / "inner")
    x, _, _ = (task := load_task("pathfinderx", unpacked, flags())).collate([task.train[0]])
    assert x.unique().tolist() == [-1.0]
    (unpacked / "inner").rename(unpacked / "lra_release/lra_release/pathfinder128")
    (unpacked / "pathfinder").mkdir()
    (unpacked / "lra_release/pathfinder128").rename(unpacked / "pathfinder/pathfinder128")
    x, _, _ = (task := load_task("pathfinderx", unpacked, flags())).collate([task.train[0]])
    assert x.unique().tolist() == [-1.0]
    x, _, _ = (task := load_task("pathfinder", unpacked, flags())).collate([task.train[0]])
    assert x.unique().tolist() == [1.0]  # the folder of 32 pixels is only in the release


def test_ones_own_folders_come_before_the_release(unpacked, capsys):
    write_sums(unpacked, train=33)
    assert len(load_task("listops", unpacked, flags()).train) == 33
    assert "other copy" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["listops", "aan", "pathfinder", "pathfinderx", "imdb", "cifar"])
def test_a_folder_without_the_task_names_the_folder_and_the_remedy(name, tmp_path):
    (tmp_path / "lra_release/lra_release").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=rf"{name}: there is no folder {tmp_path}/\w+; "):
        load_task(name, tmp_path, flags())
