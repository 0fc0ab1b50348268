"""The image tasks: CIFAR-10 grey and coloured, and image files that are damaged."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from tnn.inputs import DamagedPicture, batches, picture_loader
from tnn.lra.args import add_data_flags
from tnn.lra.data import load_task
from tnn.lra.tasks.cifar import grey_of
from tnn.lra.tasks.images import ImageFiles


def flags(*given):
    parser = argparse.ArgumentParser()
    add_data_flags(parser)
    return parser.parse_args(given)


def records(count, seed):
    pixels = np.random.RandomState(seed).randint(0, 256, (count, 3073), dtype=np.uint8)
    pixels[:, 0] = np.arange(count) % 10
    return pixels


@pytest.fixture
def cifar(tmp_path):
    folder = tmp_path / "cifar10-subset"
    folder.mkdir()
    records(12, 0).tofile(folder / "data_batch_1.first12.bin")
    records(8, 1).tofile(folder / "data_batch_2.first8.bin")
    records(5, 2).tofile(folder / "test_batch.first5.bin")
    return tmp_path


def test_cifar_of_the_binary_version(cifar):
    task = load_task("cifar", cifar, flags("--data-folder", "cifar10-subset"))
    assert [len(part) for part in (task.train, task.val, task.test)] == [18, 2, 5]
    assert (task.d_input, task.vocab_size, task.classes) == (1, None, 10)
    x, y, lengths = task.collate([task.test[i] for i in range(5)])
    assert (x.shape, x.dtype, lengths.tolist()) == ((5, 1024, 1), torch.float32, [1024] * 5)
    assert y.tolist() == [0, 1, 2, 3, 4]
    first = records(5, 2)[0, 1:].reshape(3, 32, 32).transpose(1, 2, 0)
    grey = torch.tensor(np.array(Image.fromarray(first).convert("L")), dtype=torch.float32)
    expected = (grey / 255 - 122.6 / 255) / (61 / 255)
    torch.testing.assert_close(x[0, :, 0].reshape(32, 32), expected)


def test_a_label_that_is_none_of_cifars_is_refused_by_file(cifar):
    wrong = records(5, 2)
    wrong[3, 0] = 10
    path = cifar / "cifar10-subset/test_batch.first5.bin"
    wrong.tofile(path)
    with pytest.raises(ValueError, match=f"{path}: the label 10 is none of"):
        load_task("cifar", cifar, flags("--data-folder", "cifar10-subset"))


def test_cifar_in_color(cifar):
    task = load_task("cifar", cifar, flags("--data-folder", "cifar10-subset", "--color"))
    x, _, _ = task.collate([task.test[0]])
    red = torch.tensor(records(5, 2)[0, 1:1025], dtype=torch.float32)
    assert (x.shape, task.d_input) == ((1, 1024, 3), 3)
    torch.testing.assert_close(x[0, :, 0], (red / 255 - 0.4914) / 0.247)


def test_grey_is_pillows_for_every_colour_of_a_grid():
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, len(levels), 3)
    assert (grey_of(colours) == np.array(Image.fromarray(colours).convert("L"))).all()


@pytest.fixture
def broken(tmp_path):
    """A whole image, then three that cannot be used."""
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.new("L", (31, 32)).save(tmp_path / "y.png")
    Image.new("L", (32, 32)).save(tmp_path / "good.png")
    names = ("good.png", "x.png", "y.png", "z.png")
    return ImageFiles([tmp_path / name for name in names], [0] * 4, 32)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_image_is_named_once(number, broken):
    with pytest.raises(DamagedPicture) as error:
        broken[number]
    path = str(broken.paths[number])
    assert str(error.value).count(path) == 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loading_process_tells_which_image_is_damaged(workers, broken):
    """After the batches before it."""
    found = batches(picture_loader(broken, batch_size=1, num_workers=workers))
    assert next(found)[0].shape == (1, 1024, 1)
    with pytest.raises(DamagedPicture) as error:
        next(found)
    assert str(error.value).startswith("cannot identify image file")
    assert str(broken.paths[1]) in str(error.value)
    assert "Traceback" not in str(error.value)
