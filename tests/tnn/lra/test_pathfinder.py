"""Pathfinder's generator: what an image shows, and the files."""

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tnn.lra.tasks import pathfinder
from tnn.lra.tasks import pathfinder_growth as growth
from tnn.lra.tasks.pathfinder import SETTINGS, Scene

ROOT = Path(pathfinder.__file__).resolve().parents[3]
MANY = 40  # scenes of 32 pixels a side


@pytest.fixture(scope="module")
def scenes():
    return [Scene(SETTINGS[32], 0, i) for i in range(MANY)]


@pytest.fixture(scope="module")
def large():
    return Scene(SETTINGS[128], 0, 1)


def place(scene, pixel):
    return divmod(pixel, scene.table.side)


def distance(scene, one, two):
    return math.dist(place(scene, one), place(scene, two))


# ------------------------------------------------------------------------------------- scenes
def test_both_long_snakes_have_fourteen_paddles(scenes, large):
    """The tails are seed_distance apart and 2 seed_distance from every border."""
    for scene in (*scenes, large):
        s, edge = scene.settings, scene.table.edge
        assert [len(snake) for snake in scene.targets] == [14, 14]
        one, two = (scene.tail(snake) for snake in scene.targets)
        assert abs(distance(scene, one, two) - s.seed_distance) < 0.8
        low, high = 2 * s.seed_distance, s.side - 1 - 2 * s.seed_distance
        assert all(low <= x - edge <= high for x in place(scene, one))


def test_the_discs_are_on_one_snake_if_and_only_if_the_label_is_1(scenes, large):
    for scene in (*scenes, large):
        tails = [scene.tail(snake) for snake in scene.targets]
        heads = [snake[-1][0] for snake in scene.targets]
        same = tails.index(scene.ends[0]) == heads.index(scene.ends[1])
        assert same == scene.label


def test_both_labels_are_about_as_frequent():
    """The label is the first random number of a scene."""
    labels = [int(np.random.default_rng([0, 32, i]).random() * 2) for i in range(4000)]
    assert abs(np.mean(labels) - 0.5) < 0.03


def test_labels_of_scenes_vary(scenes):
    assert 0.25 < np.mean([scene.label for scene in scenes]) < 0.75


def test_distractors_are_short_and_as_many_as_there_is_room_for(scenes, large):
    for scene in (*scenes, large):
        assert len(scene.distractors) <= scene.settings.distractors
        assert all(len(snake) == 4 for snake, _ in scene.distractors)
    assert np.mean([len(scene.distractors) for scene in scenes]) > 3.5
    assert len(large.distractors) >= 5


def test_paddles_follow_one_another(scenes, large):
    """Along a snake heads are at most a paddle and two margins apart, and turns are bounded."""
    for scene in (*scenes, large):
        step = scene.settings.paddle_length + 2 * scene.margin
        bound = 90 / scene.settings.continuity + 2  # beyond that the weight is zero
        for snake in [*scene.targets, *(snake for snake, _ in scene.distractors)]:
            for (head, degrees), (after, turned) in itertools.pairwise(snake):
                assert distance(scene, head, after) <= step + 1.5
                assert abs((turned - degrees + 180) % 360 - 180) <= bound


def test_snakes_do_not_touch(scenes, large):
    """The masks of paddles of two snakes never add up to TOUCHING."""
    for scene in (*scenes, large):
        drawn = [*scene.targets, *(snake for snake, _ in scene.distractors)]
        masks = []
        for snake in drawn:
            mask = np.zeros(scene.table.side ** 2, int)
            for head, degrees in snake:
                cells = head + scene.table.patch
                mask[cells] = np.maximum(mask[cells], scene.table.mask[degrees])
            masks.append(mask)
        worst = max((a + b).max() for i, a in enumerate(masks) for b in masks[:i])
        assert worst < growth.TOUCHING


def test_paddles_lie_in_the_image(scenes, large):
    for scene in (*scenes, large):
        keep = scene.table.edge + scene.settings.padding
        for snake in [*scene.targets, *(snake for snake, _ in scene.distractors)]:
            for head, _ in snake:
                assert all(keep <= x < scene.table.side - keep for x in place(scene, head))


def test_pictures_use_the_whole_range_of_bytes(scenes, large):
    for scene in (*scenes, large):
        picture = scene.picture()
        side = scene.settings.side
        assert (picture.shape, picture.dtype) == ((side, side), np.uint8)
        assert (picture.min(), picture.max()) == (0, 255)
        assert np.median(picture) < 64  # dashes on black


def test_the_discs_are_drawn(scenes, large):
    for scene in (*scenes, large):
        picture = scene.picture()
        for end in scene.ends:
            y, x = (c - scene.table.edge for c in place(scene, end))
            assert picture[y, x] > 150
            assert (picture[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2] > 150).all()


def test_an_image_has_one_of_the_margins():
    margins = {Scene(SETTINGS[128], 5, i).margin for i in range(6)}
    assert margins == {2, 3}


def test_single_paddles_fill_what_is_left():
    settings = replace(SETTINGS[32], single_paddles=True)
    plain, filled = Scene(SETTINGS[32], 0, 3), Scene(settings, 0, 3)
    more = filled.distractors[len(plain.distractors):]
    assert filled.targets == plain.targets
    assert len(more) > 5
    assert all(len(snake) == 1 and contrast == 0.75 for snake, contrast in more)


# ------------------------------------------------------------------------------------ paddles
@pytest.mark.parametrize("degrees", [0, 30, 90, 200, 315])
def test_a_paddle_ends_at_the_centre_and_points_where_it_should(degrees):
    image, mask = growth.paddle(degrees, 5, 1.5, 2)
    centre, angle = len(image) // 2, math.radians(degrees)
    y, x = np.mgrid[:len(image), :len(image)] - centre
    middle = [(image * c).sum() / image.sum() for c in (y, x)]
    assert np.allclose(middle, [-2.5 * math.sin(angle), -2.5 * math.cos(angle)], atol=0.2)
    assert abs(image.sum() - 1.5 * 5.5) < 0.6  # both end pixels of the enlarged line are drawn
    assert (mask[image > 0.1] > 0.9).all()
    assert mask[centre, centre] > 0.9
    assert abs(mask.sum() - (5 * 5.5 + math.pi * 2.75 ** 2)) < 1.5


# -------------------------------------------------------------------------------------- files
SMALL = ["--images", "12", "--per-folder", "4"]


def run(out, *flags):
    """Within this process, unless --workers says otherwise. Returns the exit status."""
    try:
        pathfinder.main(["--out", str(out), "--workers", "1", *flags])
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("pathfinder")
    command = [sys.executable, str(ROOT / "tnn/lra/tasks/pathfinder.py"), "--out", str(out), *SMALL]
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    return out / "pathfinder32/curv_contour_length_14"


def test_layout_and_metadata_are_those_of_the_release(written):
    assert sorted(path.name for path in (written / "metadata").iterdir()) == [
        "0.npy", "1.npy", "2.npy"]
    for k in range(3):
        lines = (written / f"metadata/{k}.npy").read_text().splitlines()
        assert len(lines) == 4
        for i, line in enumerate(lines):
            scene = Scene(SETTINGS[32], 0, 4 * k + i)
            assert line == (f"imgs/{k} sample_{i}.png {i} {scene.label} 1.0 14 4 2 0.5 1 1")
            with Image.open(written / f"imgs/{k}/sample_{i}.png") as image:
                assert (image.mode, image.size) == ("L", (32, 32))
                assert (np.array(image) == scene.picture()).all()


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def test_neither_processes_nor_an_interruption_show(written, tmp_path):
    """One process; the first start ends after one of three folders."""
    assert run(tmp_path, "--images", "4", "--per-folder", "4") == 0
    below = tmp_path / "pathfinder32/curv_contour_length_14"
    kept = (below / "metadata/0.npy").stat().st_mtime_ns
    (below / "imgs/1").mkdir()
    (below / "imgs/1/sample_0.png").write_bytes(b"half")
    assert run(tmp_path, *SMALL) == 0
    assert files(below) == files(written)
    assert (below / "metadata/0.npy").stat().st_mtime_ns == kept


@pytest.mark.parametrize(("length", "name"), [(6, "curv_baseline"), (9, "curv_contour_length_9")])
def test_the_easier_sets_have_shorter_snakes(length, name, tmp_path):
    assert run(tmp_path, *SMALL, "--contour-length", str(length)) == 0
    table = (tmp_path / f"pathfinder32/{name}/metadata/2.npy").read_text().splitlines()
    assert {line.split()[5] for line in table} == {str(length)}
    assert {line.split()[6] for line in table} == {str(length // 3)}
    scene = Scene(replace(SETTINGS[32], contour_length=length), 0, 11)
    assert [len(snake) for snake in scene.targets] == [length] * 2
    assert {len(snake) for snake, _ in scene.distractors} == {length // 3}
    assert table[3].split()[3] == str(scene.label)


def test_the_file_without_content_is_left_out(tmp_path):
    """The release has one, and no other may be empty."""
    assert run(tmp_path, "--images", "175", "--per-folder", "175", "--contour-length", "6") == 0
    below = tmp_path / "pathfinder32/curv_baseline"
    listings = pathfinder.listings_of(below)
    assert len(pathfinder.image_files(listings)[0]) == 175
    (below / "imgs/0/sample_172.png").write_bytes(b"")
    paths, labels = pathfinder.image_files(listings)
    assert len(paths) == len(labels) == 174
    assert below / "imgs/0/sample_172.png" not in paths


@pytest.mark.parametrize("change", ["seed", "foreign"])
def test_images_of_another_origin_are_left_alone(change, written, tmp_path, capsys):
    if change == "foreign":
        (tmp_path / "pathfinder32/curv_contour_length_14/metadata").mkdir(parents=True)
        (tmp_path / "pathfinder32/curv_contour_length_14/metadata/0.npy").write_text("theirs")
        code = run(tmp_path, *SMALL)
    else:
        code = run(written.parents[1], *SMALL, "--seed", "1")
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert "give another --out" in error
    assert json.loads((written / "generator.json").read_text())["seed"] == 0


@pytest.mark.parametrize("flags", [["--images", "5", "--per-folder", "2"], ["--images", "0"],
                                   ["--workers", "0"]])
def test_numbers_that_make_no_sense_are_one_line(flags, tmp_path, capsys):
    assert run(tmp_path / "out", *flags) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_empty_listing_is_refused_and_copies_of_one_are_none(tmp_path):
    (tmp_path / "metadata").mkdir()
    for name, text in (("1.npy", ""), ("0.npy", "imgs/0 a.png 0 1\n"), ("0 (copy).npy", "x")):
        (tmp_path / "metadata" / name).write_text(text)
    listings = pathfinder.listings_of(tmp_path)
    assert [path.name for path in listings] == ["0.npy", "1.npy"]
    assert pathfinder.image_files(listings[:1]) == ([tmp_path / "imgs/0/a.png"], [1])
    with pytest.raises(ValueError, match=f"{listings[1]} is empty"):
        pathfinder.image_files(listings)
