"""MNIST as it is published: four files, packed or not, in whatever folder."""

import gzip

import numpy as np
import pytest
import torch

from trellisnet.seq_MNIST_CIFAR.data import load_images


def idx(*shape, seed=0):
    """A file of MNIST's format and the bytes in it: pixels, or labels."""
    most = 256 if len(shape) > 1 else 10
    values = np.random.RandomState(seed).randint(0, most, shape).astype(np.uint8)
    head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    return head + values.tobytes(), values


MNIST = {"train-images-idx3-ubyte": idx(7, 4, 5), "train-labels-idx1-ubyte": idx(7, seed=1),
         "t10k-images-idx3-ubyte": idx(3, 4, 5, seed=2), "t10k-labels-idx1-ubyte": idx(3, seed=3)}


def write_mnist(folder, pack=lambda body: body, name="{}".format, leave=()):
    folder.mkdir(parents=True)
    for file, (body, _) in MNIST.items():
        if file not in leave:
            (folder / name(file)).write_bytes(pack(body))


@pytest.mark.parametrize("below", ["MNIST/raw", "raw", ""])
@pytest.mark.parametrize(("pack", "name"), [
    (lambda body: body, "{}".format), (gzip.compress, "{}.gz".format),
    (gzip.compress, "{}".format),  # as some browsers store it
    (lambda body: body, lambda file: file.replace("-idx", ".idx")),
    (gzip.compress, lambda file: file.replace("-idx", ".idx") + ".gz"),
], ids=["unpacked", "gz", "gz without its ending", "dot", "dot gz"])
def test_mnist_is_read_as_it_is_published_in_any_layout(pack, name, below, tmp_path):
    write_mnist(tmp_path / "data" / below, pack, name)
    parts = load_images(str(tmp_path / "data"), False)
    for part, prefix in zip(parts, ("train", "t10k"), strict=True):
        (_, pixels), (_, labels) = (MNIST[f"{prefix}-{kind}-ubyte"]
                                    for kind in ("images-idx3", "labels-idx1"))
        assert torch.equal(part.values, torch.from_numpy(pixels).reshape(len(pixels), 1, 20))
        assert part.labels.tolist() == labels.tolist()
        assert part.labels.dtype == torch.int64
        assert [path.name for path in part.files] == [
            name(f"{prefix}-images-idx3-ubyte"), name(f"{prefix}-labels-idx1-ubyte")]


def test_mnist_equals_torchvisions(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    write_mnist(tmp_path / "MNIST/raw")
    for part, train in zip(load_images(str(tmp_path), False), (True, False), strict=True):
        theirs = torchvision.datasets.MNIST(str(tmp_path), train=train)
        assert torch.equal(part.values.flatten(), theirs.data.flatten())
        assert torch.equal(part.labels, theirs.targets)


DAMAGE = {
    "cut short": lambda body: body[:-1], "too long": lambda body: body + b"x",
    "header only": lambda body: body[:5], "empty": lambda body: b"",
    "another file": lambda body: b"<html>" + body, "a huge size": lambda body: (
        body[:4] + b"\x7f\xff\xff\xff" * 3 + body[16:]),
    "gz cut short": lambda body: gzip.compress(body)[:-9],
    "gz changed": lambda body: gzip.compress(body)[:30] + b"zz" + gzip.compress(body)[32:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_mnist_is_named(damage, tmp_path):
    write_mnist(tmp_path / "d")
    path = tmp_path / "d/train-images-idx3-ubyte"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path}: .*; \./getdata.sh mnist") as caught:
        load_images(str(tmp_path / "d"), False)
    assert "\n" not in str(caught.value)


def test_a_missing_file_of_mnist_is_named(tmp_path):
    write_mnist(tmp_path / "d", leave=["t10k-labels-idx1-ubyte"])
    with pytest.raises(FileNotFoundError, match=r"no file t10k-labels-idx1-ubyte or .*\.gz in "):
        load_images(str(tmp_path / "d"), False)
    write_mnist(tmp_path / "e", lambda body: MNIST["train-labels-idx1-ubyte"][0])
    with pytest.raises(ValueError, match="do not belong together"):
        load_images(str(tmp_path / "e"), False)


def test_a_label_that_is_no_digit_is_refused_by_file(tmp_path):
    write_mnist(tmp_path / "d")
    path = tmp_path / "d/t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(ValueError, match=rf"{path}: the label 10 is none of 0 to 9"):
        load_images(str(tmp_path / "d"), False)


RECORDS = {"data_batch_1.bin": bytes(2 * 3073), "data_batch_2.bin": bytes(3073),
           "test_batch.bin": bytes(3073)}
DAMAGED_RECORDS = {"not a whole number of images": bytes(3073 - 10),
                   "the label 200 is none of": bytes([200]) + bytes(3072),
                   "not a whole number": b""}


@pytest.mark.parametrize("message", DAMAGED_RECORDS)
@pytest.mark.parametrize("damaged", ["data_batch_2.bin", "test_batch.bin"])
def test_a_damaged_file_of_cifar_10s_binary_version_is_named(damaged, message, tmp_path):
    for name, content in RECORDS.items():
        (tmp_path / name).write_bytes(content)
    assert len(load_images(str(tmp_path), True)[0]) == 3
    (tmp_path / damaged).write_bytes(DAMAGED_RECORDS[message])
    with pytest.raises(ValueError, match=f"{tmp_path / damaged}: {message}"):
        load_images(str(tmp_path), True)


def test_files_of_cifar_10_that_are_whole_together_alone_are_refused(tmp_path):
    for name, content in RECORDS.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073 + 10))
    (tmp_path / "data_batch_2.bin").write_bytes(bytes(3073 - 10))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: not a whole number of images"):
        load_images(str(tmp_path), True)


@pytest.mark.parametrize(("labels", "said"), [
    ([1, 2, 12], "the label 12 is none of"), ([1, -1, 2], "the label -1 is none of"),
    ([1, 2], "test_images and test_labels do not belong together")])
def test_labels_that_are_not_those_of_the_digits_are_refused(labels, said, tmp_path):
    images = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "digits.npz", train_images=images, train_labels=np.array([0, 1, 9]),
             test_images=images, test_labels=np.array(labels))
    with pytest.raises(ValueError, match=f"digits.npz: {said}"):
        load_images(str(tmp_path), False)
