"""Data sets, augmentation, order of the images, mixup."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tests.tnn.im.small import write_digits
from tnn.im.args import DATA_SETS, parse_args
from tnn.im.data import (
    LOADERS,
    Augmented,
    EpochSampler,
    Item,
    eval_transform,
    load_sets,
    loaders,
    own_randomness,
    posterize,
    train_transform,
)
from tnn.im.mixup import Mixup
from tnn.inputs import DamagedPicture, batches


def args(folder, data_set, *more):
    return parse_args(["--data-set", data_set, "--data-path", str(folder), *more])


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def test_image_folder(tmp_path):
    for part in ("train", "val"):
        for i, name in enumerate(("bee", "ant")):
            picture(tmp_path / part / name / "1.png", (i, 0, 0))
    train, val, classes, _ = load_sets(args(tmp_path, "IMNET"))
    assert (len(train), len(val), classes) == (2, 2, 2)
    assert [(p.getpixel((0, 0))[0], label) for p, label in (train[0], train[1])] == [(1, 0), (0, 1)]
    picture(tmp_path / "val/cat/1.png", (0, 0, 0))
    with pytest.raises(ValueError, match="cat is in one alone"):
        load_sets(args(tmp_path, "IMNET"))


def test_list_files(tmp_path):
    picture(tmp_path / "train/x/1.png", (7, 0, 0))
    picture(tmp_path / "val/y.png", (9, 0, 0))
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/train.txt").write_text("x/1.png 4\n")
    (tmp_path / "meta/val.txt").write_text("y.png 3\n")
    train, val, classes, _ = load_sets(args(tmp_path, "IMNET"))
    assert (train[0][1], val[0][1], classes) == (4, 3, 5)
    assert val[0][0].getpixel((0, 0)) == (9, 0, 0)
    (tmp_path / "meta/val.txt").write_text("y.png 5\n")
    with pytest.raises(ValueError, match=r"val\.txt has labels"):
        load_sets(args(tmp_path, "IMNET"))
    for line in ("y.png", "y.png -1", "y.png dog"):
        (tmp_path / "meta/val.txt").write_text(f"y.png 4\n{line}\n")
        with pytest.raises(ValueError, match=r"val\.txt: 'y\.png' is not followed by a label"):
            load_sets(args(tmp_path, "IMNET"))


def test_inaturalist(tmp_path):
    def part(names):
        return {"images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate(names)],
                "annotations": [{"image_id": i, "category_id": "pqr".index(name[0])}
                                for i, name in enumerate(names)]}
    kinds = [{"name": n, "genus": g} for n, g in (("p", "A"), ("q", "B"), ("r", "A"))]
    for name, content in (("train2019", part(["q1", "p1", "r1"])), ("val2019", part(["r2"])),
                          ("categories", kinds)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    for name in ("q1", "p1", "r1", "r2"):
        picture(tmp_path / f"{name}.png", (0, 0, 0))
    train, val, classes, _ = load_sets(args(tmp_path, "INAT19", "--inat-category", "genus"))
    assert [train[i][1] for i in range(3)] == [0, 1, 1]
    assert (val[0][1], classes) == (1, 2)
    assert load_sets(args(tmp_path, "INAT19")).classes == 3


def test_binary_cifar(tmp_path):
    record = np.concatenate([[3], np.repeat([10, 20, 30], 1024)]).astype(np.uint8)
    record.tofile(tmp_path / "data_batch_1.first1.bin")
    record.tofile(tmp_path / "test_batch.first1.bin")
    train, _, classes, _ = load_sets(args(tmp_path, "CIFAR10"))
    assert (train[0][0].getpixel((5, 6)), train[0][1], classes) == ((10, 20, 30), 3, 10)
    record[:-1].tofile(tmp_path / "data_batch_1.first1.bin")
    with pytest.raises(ValueError, match="not a whole number of images"):
        load_sets(args(tmp_path, "CIFAR10"))


@pytest.mark.parametrize("damaged", ["data_batch_2.bin", "test_batch.bin"])
def test_a_damaged_file_of_binary_cifar_is_named(damaged, tmp_path):
    """Not the first one; and no label that is none reaches the loss."""
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(bytes(2 * 3073))
    for content, message in ((bytes(3073 - 1), "not a whole number of images"),
                             (bytes([200]) + bytes(3072), "the label 200 is none of"),
                             (b"", "not a whole number of images")):
        (tmp_path / damaged).write_bytes(content)
        with pytest.raises(ValueError, match=f"{tmp_path / damaged}: {message}"):
            load_sets(args(tmp_path, "CIFAR10"))


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda labels: labels[:-1], "test_images and test_labels do not belong together"),
    (lambda labels: labels + 10, r"the label \d+ is none of 0 to 9")], ids=["too few", "too large"])
def test_labels_that_are_not_those_of_the_digits_are_refused(wrong, message, tmp_path):
    content = dict(np.load(write_digits(tmp_path, 20, 10) / "digits.npz"))
    np.savez(tmp_path / "digits.npz", **content | {"test_labels": wrong(content["test_labels"])})
    with pytest.raises(ValueError, match=f"digits.npz: {message}"):
        load_sets(args(tmp_path, "DIGITS"))


@pytest.mark.parametrize("data_set", ["IMNET", "CIFAR", "CIFAR10", "INAT", "INAT19", "DIGITS"])
def test_missing_data_is_one_line(tmp_path, data_set):
    with pytest.raises(FileNotFoundError, match=r"getdata\.sh|--data-path") as error:
        load_sets(args(tmp_path, data_set))
    assert "\n" not in str(error.value)


def test_all_data_sets_are_read():
    assert set(DATA_SETS) == set(LOADERS)


def test_what_a_resumed_run_must_find_again(tmp_path):
    """Of a file its content; of a folder of pictures, for each class, names and sizes."""
    before = load_sets(args(write_digits(tmp_path, 20, 10), "DIGITS")).inputs
    after = load_sets(args(write_digits(tmp_path, 20, 11), "DIGITS")).inputs
    assert set(before) == set(after) == {"digits.npz"}
    assert before != after
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            picture(tmp_path / part / name / "1.png", (0, 0, 0))
    before = load_sets(args(tmp_path, "IMNET")).inputs
    picture(tmp_path / "val/bee/2.png", (0, 0, 0))
    after = load_sets(args(tmp_path, "IMNET")).inputs
    assert {name for name in after if before[name] != after[name]} == {"val/bee"}


# --------------------------------------------------------------------------------- transforms
def test_randaugment_is_that_of_timm_0_4_12():
    operations = train_transform(parse_args([])).transforms[2]
    names = [op.name for op in operations.ops]
    assert names == ["AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing",
                     "SolarizeIncreasing", "SolarizeAdd", "ColorIncreasing", "ContrastIncreasing",
                     "BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY",
                     "TranslateXRel", "TranslateYRel"]
    assert operations.num_layers == 2
    assert operations.choice_weights is None  # drawn with replacement
    for op in operations.ops:
        assert (op.prob, op.magnitude, op.magnitude_std, op.magnitude_max) == (0.5, 9, 0.5, None)
        assert op.hparams["img_mean"] == (124, 116, 104)
        assert op.kwargs["resample"] == Image.Resampling.BICUBIC
    levels = {op.name: op.level_fn(9, op.hparams) for op in operations.ops if op.level_fn}
    sizes = {name: abs(value[0]) for name, value in levels.items() if value}
    expected = {"Rotate": 27, "PosterizeIncreasing": 1, "SolarizeIncreasing": 26, "SolarizeAdd": 99,
                "ShearX": 0.27, "ShearY": 0.27, "TranslateXRel": 0.405, "TranslateYRel": 0.405}
    assert {name: sizes[name] for name in expected} == pytest.approx(expected)
    for name in ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing"):
        assert min(abs(sizes[name] - 0.19), abs(sizes[name] - 1.81)) < 1e-9


def test_posterize_down_to_black():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    for bits in range(1, 9):
        assert posterize(image, bits).tobytes() == ImageOps.posterize(image, bits).tobytes()
    assert set(posterize(image, 0).tobytes()) == {0}
    full = train_transform(parse_args(["--aa", "rand-m10-n15-p1-inc1", "--input-size", "32"]))
    with own_randomness(0):
        for _ in range(20):  # full magnitude: Pillow refuses to keep no bits at all
            assert full(image.resize((32, 32))).shape == (3, 32, 32)


@pytest.mark.parametrize(("part", "said"), [
    ("train", "2 x 2 pixels, too few for --input-size 16"),
    ("val", "2 x 2 pixels, the first has 8 x 8")])
def test_an_image_that_fits_no_batch_is_named(part, said, tmp_path):
    """Small ones are not resized: in a batch with others its size was a traceback."""
    for split in ("train", "val"):
        for name in "abc":
            picture(tmp_path / split / "dog" / f"{name}.png", (0, 0, 0))
    odd = tmp_path / part / "dog/b.png"
    Image.new("RGB", (2, 2)).save(odd)
    given = args(tmp_path, "IMNET", "--input-size", "16", "--batch-size", "3", "--num_workers",
                 "0", "--aa", "", "--mixup", "0", "--cutmix", "0")
    sets = load_sets(given)
    loader = loaders(given, sets.train, sets.val, 0, 1)[part == "val"]
    with pytest.raises(DamagedPicture, match=f"{odd}: {said}"):
        list(batches(loader))


def test_small_images_are_not_resized():
    image = Image.new("RGB", (32, 32), (200, 0, 0))
    assert eval_transform(32)(image).shape == (3, 32, 32)
    crop = train_transform(parse_args(["--input-size", "32"])).transforms[0]
    assert (crop.size, crop.padding) == ((32, 32), 4)


# -------------------------------------------------------------------------------------- order
def test_few_images_fall_back_to_once_each():
    assert sorted(item.index for item in EpochSampler(255)) == list(range(255))
    assert len(list(EpochSampler(256))) == 256
    assert len({item.index for item in EpochSampler(256)}) == 86  # a third


@pytest.mark.parametrize("repeats", [1, 3])
def test_processes_share_the_order_of_one(repeats):
    def items(rank, replicas):
        sampler = EpochSampler(512, rank, replicas, repeats)
        sampler.set_epoch(4)
        return list(sampler)
    one, two = items(0, 1), [items(rank, 2) for rank in (0, 1)]
    assert one == [item for pair in zip(*two, strict=True) for item in pair]


def test_start_skips():
    sampler = EpochSampler(300)
    sampler.set_epoch(1)
    whole = list(sampler)
    sampler.set_epoch(1, 100)
    assert list(sampler) == whole[100:]
    sampler.set_epoch(2)
    assert list(sampler)[:30] != whole[:30]


def test_augmentation_depends_on_seed_epoch_and_place_alone(tmp_path):
    pictures = load_sets(args(write_digits(tmp_path, 20, 10), "DIGITS")).train
    transform = train_transform(args(tmp_path, "DIGITS", "--input-size", "32"))
    data = Augmented(pictures, transform, seed=1)
    first, again = data[Item(3, 5, 0)][0], None
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    random.random(), np.random.rand(), torch.rand(1)
    again = data[Item(3, 5, 0)][0]
    assert torch.equal(first, again)
    others = [data[Item(3, 6, 0)][0], data[Item(3, 5, 1)][0],
              Augmented(pictures, transform, seed=2)[Item(3, 5, 0)][0]]
    assert not any(torch.equal(first, other) for other in others)
    random.setstate(states[0])
    before = random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(data[Item(3, 5, 0)][0], first)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_workers_give_the_same_batches(tmp_path):
    write_digits(tmp_path, 40, 30)
    found = []
    for workers in ("0", "2"):
        flags = args(tmp_path, "DIGITS", "--input-size", "32", "--batch-size", "8",
                     "--num_workers", workers)
        train, val, *_ = load_sets(flags)
        found.append(list(batches(loaders(flags, train, val, 0, 1)[0])))
    for (x, y), (x2, y2) in zip(*found, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


@pytest.mark.parametrize("share", [False, True])
def test_every_validation_image_once(tmp_path, share):
    write_digits(tmp_path, 40, 25)
    flags = args(tmp_path, "DIGITS", "--num_workers", "0", "--batch-size", "8",
                 *(["--dist-eval"] if share else []))
    train, val, *_ = load_sets(flags)
    counts = [sum(len(labels) for _, labels in batches(loaders(flags, train, val, rank, 2)[1]))
              for rank in (0, 1)]
    assert counts == ([13, 12] if share else [25, 25])


# -------------------------------------------------------------------------------------- mixup
def test_odd_batch_is_refused():
    with pytest.raises(ValueError, match="3 is odd"):
        Mixup(num_classes=2)(torch.zeros(3, 1, 2, 2), torch.zeros(3))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_targets_are_the_share_of_pixels(mode):
    """With CutMix the mixing weight is the share of pixels kept, to the pixel."""
    np.random.seed(0)
    for _ in range(20):
        x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 9, 11).clone()
        mixed, target = Mixup(0, 1, num_classes=2, mode=mode, label_smoothing=0)(
            x, torch.tensor([0, 1]))
        torch.testing.assert_close(target[:, 1], mixed.mean((1, 2, 3)))
        torch.testing.assert_close(target.sum(1), torch.ones(2))


def test_share_of_cutmix_and_of_no_mixing():
    np.random.seed(0)
    kinds, n = {"none": 0, "cutmix": 0, "mixup": 0}, 4000
    mix = Mixup(0.8, 1.0, prob=0.6, switch_prob=0.25, num_classes=2)
    for _ in range(n):
        x, _ = mix(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4).clone(),
                   torch.tensor([0, 1]))
        values = x[0].unique()
        kinds["none" if values.tolist() == [0] else
              "cutmix" if set(values.tolist()) <= {0, 1} else "mixup"] += 1
    # A box of no pixels looks like none: half of all boxes (side int(4 sqrt(1 - lam)) < 2 or 2
    # beyond the edge) leave more than the edges, so only mixup's share is exact.
    assert abs(kinds["mixup"] / n - 0.6 * 0.75) < 5 * (0.45 * 0.55 / n) ** 0.5
    assert 0 < kinds["cutmix"] / n <= 0.15 + 0.03
