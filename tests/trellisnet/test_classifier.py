"""The classifier of images, and the images: order of the pixels, batches, shares of a process."""

import argparse
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trellisnet.small import write_digits
from trellisnet.seq_MNIST_CIFAR import model as classifier
from trellisnet.seq_MNIST_CIFAR.data import Images, load_images, pixel_order, read_records
from trellisnet.seq_MNIST_CIFAR.model import Classification, SequenceClassifier
from trellisnet.seq_MNIST_CIFAR.utils import batches, my_part

N, L = 3, 12


def model(channels=1, **rates):
    torch.manual_seed(0)
    made = SequenceClassifier(channels, 6, 10, 3, dilation=(1, 2, 4), **rates).double()
    for p in made.tnet.parameters():
        p.data.mul_(30)
    return made


def pixels(channels=1):
    return torch.randn(N, channels, L, generator=torch.Generator().manual_seed(1)).double()


# ------------------------------------------------------------------------------------- the model
@pytest.mark.parametrize("channels", [1, 3])
def test_it_reads_the_output_at_the_last_pixel(channels):
    net, x = model(channels).eval(), pixels(channels)
    every, _, _ = net.tnet(x.permute(2, 0, 1))
    torch.testing.assert_close(net(x), F.log_softmax(net.linear(every[-1]), -1), rtol=0, atol=1e-12)
    torch.testing.assert_close(net(x).exp().sum(1), torch.ones(N, dtype=torch.float64))


def test_fast_equals_plain_with_gradients():
    x, labels, results = pixels(), torch.tensor([1, 2, 3]), []
    for plain in (False, True):
        loss = Classification(model(dropouth=0.3, wdrop=0.3, dropout=0.2, dropouti=0.2)).train()
        loss.model.tnet.plain = plain
        torch.manual_seed(3)
        value = loss(x, labels)
        value.backward()
        results.append([value, *(p.grad for p in loss.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_pixels_and_logits_are_dropped_one_by_one(monkeypatch):
    """No mask is shared by time steps, images or classes."""
    net, masks = model(3, dropout=0.4, dropouti=0.2).train(), []

    def recording(like, shape, p, own=classifier.dropout_mask):
        masks.append((own(like, shape, p), p))
        return masks[-1][0]
    monkeypatch.setattr(classifier, "dropout_mask", recording)
    with torch.no_grad():
        for _ in range(200):
            net(pixels(3))
    for first, shape in ((0, (N, 3, L)), (1, (N, 10))):
        every, p = torch.stack([mask for mask, _ in masks[first::2]]), masks[first][1]
        assert every.shape == (200, *shape)
        zeros = (every == 0).double()
        assert abs(zeros.mean() - p) < 4.5 * math.sqrt(p * (1 - p) / zeros.numel())
        torch.testing.assert_close(every.max(), torch.tensor(1 / (1 - p)).double())
        for dim in range(len(shape)):
            assert (every.select(dim + 1, 0) != every.select(dim + 1, 1)).any()


def test_evaluation_has_no_dropout_unless_asked():
    """The original's stayed on, which makes its test accuracy random; --eval-dropout is that."""
    net, without = model(dropout=0.4, dropouti=0.2, dropouth=0.3, wdrop=0.3).eval(), model().eval()
    before = torch.get_rng_state()
    assert torch.equal(net(pixels()), without(pixels()))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(net(pixels(), True), net(pixels(), True))
    assert torch.equal(without(pixels(), True), without(pixels()))


@pytest.mark.parametrize("rates", [{"dropout": 1}, {"dropouti": -0.1}, {"wdrop": 1}], ids=str)
def test_refuses_nonsense(rates):
    with pytest.raises(ValueError, match=f"{next(iter(rates))} must be"):
        model(**rates)


# ------------------------------------------------------------------------------------ the images
def order(pixels, seed=1111, file=""):
    return pixel_order(pixels, argparse.Namespace(seed=seed, permutation=str(file)))


def test_the_order_of_pixels_depends_on_the_seed_alone():
    assert torch.equal(order(784), order(784))
    assert not torch.equal(order(784), order(784, seed=2))
    assert torch.equal(order(784), torch.from_numpy(np.random.RandomState(1111).permutation(784)))
    assert torch.equal(order(784).sort().values, torch.arange(784))


def test_a_given_order(tmp_path):
    np.save(tmp_path / "order.npy", np.arange(16)[::-1])
    assert order(16, file=tmp_path / "order.npy").tolist() == [*range(15, -1, -1)]
    with pytest.raises(ValueError, match="not an order of 17 pixels"):
        order(17, file=tmp_path / "order.npy")
    np.save(tmp_path / "twice.npy", np.zeros(16, int))
    with pytest.raises(ValueError, match="not an order of 16 pixels"):
        order(16, file=tmp_path / "twice.npy")
    for bad in ("missing.npy", "text.npy", "objects.npy"):
        (tmp_path / "text.npy").write_text("text")
        np.save(tmp_path / "objects.npy", np.array([print], object), allow_pickle=True)
        with pytest.raises(ValueError, match=rf"--permutation .*{bad}"):
            order(16, file=tmp_path / bad)


def images(n=5, channels=1, pixels=4):
    values = torch.arange(n * channels * pixels, dtype=torch.uint8).view(n, channels, pixels)
    return Images("test", values, torch.arange(n), 1 / 255, 0.5, 0.25)


def test_pixels_are_scaled_and_normalised():
    values, labels = images().batch(torch.tensor([1, 3]))
    assert values.shape == (2, 1, 4)
    torch.testing.assert_close(values[0, 0], (torch.arange(4, 8) / 255 - 0.5) / 0.25)
    assert labels.tolist() == [1, 3]


def test_all_images_get_the_same_order():
    mixed = images(channels=3).reordered(torch.tensor([2, 0, 3, 1]))
    assert torch.equal(mixed.values[..., 0], images(channels=3).values[..., 2])
    assert torch.equal(mixed.values[..., 3], images(channels=3).values[..., 1])


def test_records_of_cifar(tmp_path):
    """Label, then the planes red, green, blue, row by row."""
    record = np.concatenate([[7], np.full(1024, 1), np.full(1024, 2), np.arange(1024) % 256])
    record.astype(np.uint8).tofile(tmp_path / "a.bin")
    values, labels = read_records([tmp_path / "a.bin"] * 2)
    assert values.shape == (2, 3, 1024)
    assert labels.tolist() == [7, 7]
    assert values[0, :, 5].tolist() == [1, 2, 5]


def test_damaged_and_missing_images(tmp_path):
    """Named with the command that fetches them."""
    for cifar, name in ((True, "cifar10"), (False, "mnist")):
        with pytest.raises(FileNotFoundError, match=rf"\./getdata.sh {name}"):
            load_images(str(tmp_path / "nothing"), cifar)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3072))
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073))
    with pytest.raises(ValueError, match=r"not a whole number of images.*getdata.sh cifar10"):
        load_images(str(tmp_path), True)
    write_digits(tmp_path / "d")
    whole = (tmp_path / "d/digits.npz").read_bytes()
    (tmp_path / "d/digits.npz").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match="damaged image files"):
        load_images(str(tmp_path / "d"), False)


def test_digits(tmp_path):
    write_digits(tmp_path / "d", train=43, test=19)
    train, test = load_images(str(tmp_path / "d"), False)
    assert train.files == test.files == [tmp_path / "d/digits.npz"]
    assert (len(train), len(test), train.channels, train.pixels) == (43, 19, 1, 16)


# ----------------------------------------------------------------------------------- the batches
def test_batches():
    """MNIST in order, CIFAR-10 in an order that the seed gives; all images once."""
    assert [len(rows) for rows in batches(43, 8)] == [8] * 5 + [3]
    assert torch.equal(torch.cat(batches(43, 8)), torch.arange(43))
    shuffled = torch.cat(batches(43, 8, shuffle=True, seed=3))
    assert torch.equal(shuffled, torch.cat(batches(43, 8, shuffle=True, seed=3)))
    assert not torch.equal(shuffled, torch.cat(batches(43, 8, shuffle=True, seed=4)))
    assert torch.equal(shuffled.sort().values, torch.arange(43))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_every_image_counts_the_same_whatever_the_number_of_processes(n, world):
    """The processes' mean losses, weighted, average to that of the batch, also where one is left
    without images."""
    losses = torch.rand(n)
    total, seen = 0.0, []
    for rank in range(world):
        rows, weight = my_part(torch.arange(n), SimpleNamespace(world_size=world, global_rank=rank))
        assert len(rows) > 0
        total += weight * losses[rows].mean() / world
        seen += rows.tolist() if weight else []
    assert sorted(seen) == [*range(n)]
    torch.testing.assert_close(total, losses.mean())
