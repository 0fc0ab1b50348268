"""No file given to any flag runs code. A pickled model is refused with the way to convert it."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from tests.trust.inputs import every
from tests.trust.payloads import payloads, run_it
from tests.trust.scripts import SCRIPTS
from tests.trust.test_damage import CACHES

NAMES = tuple(payloads("canary"))


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.mark.parametrize("name", NAMES)
def test_the_payloads_are_live(canary, name):
    """Read with trust, each would make the canary: else the rest shows little."""
    run_it(payloads(canary)[name], canary.with_name("file"))
    assert canary.exists()


def assert_harmless(place, given, folder, canary, names) -> None:
    for name, content in payloads(canary).items():
        if name not in names:
            continue
        done, path = given.give(place, folder, content)
        assert not canary.exists(), f"{name} was run"
        assert done.code == 2, (name, done.code, done.out[-500:], done.err)
        assert "Traceback" not in done.err
        assert len(done.complaints) == 1, done.err
        assert str(path) in done.line, name
        if "numpy" not in name:
            assert "state_dict()" in done.line, (name, done.line)
            place.count("hostile", "messages that say how to convert")
        place.count("hostile", "payloads refused, none run")


@pytest.mark.parametrize("given", every(2))
@pytest.mark.parametrize("count", [1, pytest.param(len(NAMES), marks=pytest.mark.slow)])
def test_flags_that_take_a_checkpoint(place, given, canary, count):
    rng = place.random("hostile", given.name, count)
    folder = given.prepare(place)
    assert_harmless(place, given, folder, canary, rng.sample(NAMES, count))


# ------------------------------------------------------------------------------- data and caches
@pytest.mark.parametrize("name", CACHES)
def test_caches_of_texts(place, name, canary):
    """Even with a checksum that fits, arrays of objects are not read."""
    script, data = SCRIPTS[name], place.home / f"hostile-{name}"
    place.unbroken(script)
    shutil.copytree(place.data, data)
    every = payloads(canary)
    hostile = {".npy": every["numpy objects"], ".npz": every["zip of numpy objects"]}
    for cache in data.joinpath("texts").glob(CACHES[name]):
        for content in (hostile.get(cache.suffix, b""), every["os.system, protocol 2"]):
            good = cache.read_bytes()
            cache.write_bytes(content)
            if cache.suffix == ".npy":
                make_checksums_fit(cache.parent)
            folder = place.folder(script)
            done = place.server.run(script.module, script.argv(folder, data, "--max-steps", "1"),
                                    folder)
            assert not canary.exists()
            assert done.code in (0, 2), done.err
            assert len(done.complaints) == 1, done.err
            cache.write_bytes(good)
            if cache.suffix == ".npy":
                make_checksums_fit(cache.parent)
            place.count("hostile", "payloads in caches and data, none run")


def make_checksums_fit(folder):
    """Of the AWD-LSTM's cache, as someone would who can write there."""
    meta = json.loads((folder / "meta.json").read_text())
    meta["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
                      for name in meta["sha256"]}
    (folder / "meta.json").write_text(json.dumps(meta))


def test_images_and_orders(place, canary):
    """digits.npz, --permutation, and the files of MNIST and CIFAR-10 that torchvision reads."""
    script, every = SCRIPTS["seq-images"], payloads(canary)
    for name in ("digits.npz", "MNIST/processed/training.pt", "cifar-10-batches-py/data_batch_1",
                 "MNIST/raw/train-images-idx3-ubyte"):
        for content in (every["zip of numpy objects"], every["torch zip"],
                        every["os.system, protocol 2"]):
            data = place.home / f"images-{len(list(place.home.glob('images-*')))}"
            (data / "images" / name).parent.mkdir(parents=True)
            (data / "images" / name).write_bytes(content)
            if name.startswith("MNIST/processed"):
                (data / "images/MNIST/processed/test.pt").write_bytes(content)
            folder = place.folder(script)
            more = ["--cifar"] if name.startswith("cifar") else []
            done = place.server.run(script.module, script.argv(folder, data, *more), folder)
            assert not canary.exists(), name
            assert (done.code, len(done.complaints)) == (2, 1), done.err
            assert "--data" in done.line
            place.count("hostile", "payloads in caches and data, none run")
    for content in (every["numpy objects"], every["zip of numpy objects"], every["torch zip"]):
        folder = place.folder(script)
        (folder / "order.npy").write_bytes(content)
        done = place.run(script, folder, "--permutation", folder / "order.npy", code=2)
        assert not canary.exists()
        assert "--permutation" in done.line
        place.count("hostile", "payloads in caches and data, none run")


def test_an_order_that_is_fine_is_taken(place):
    """The refusals above are not of every file."""
    script = SCRIPTS["seq-images"]
    folder = place.folder(script)
    np.save(folder / "order.npy", np.arange(16)[::-1])
    place.run(script, folder, "--permutation", folder / "order.npy", "--max-steps", "1")
