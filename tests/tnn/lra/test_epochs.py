"""What an epoch is made of: every sample once, in a new order; the scale of the loss; the best."""

import copy
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset

from harness import files
from harness.keeper import Keeper
from tests.tnn.lra.small import flags, launch, run, write_sums
from tnn.lra import main as script

ROWS = 20


class Recorded(Dataset):
    """The same samples; `seen` are the numbers asked for."""

    def __init__(self, data, seen):
        self.data, self.seen = data, seen

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        self.seen.append(i)
        return self.data[i]


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """Numbers of the training samples that runs in this working directory read, in order."""
    monkeypatch.chdir(tmp_path)
    write_sums(tmp_path, train=ROWS)
    numbers, load = [], script.load_task

    def recorded(*args):
        task = load(*args)
        return replace(task, train=Recorded(task.train, numbers))
    monkeypatch.setattr(script, "load_task", recorded)
    return numbers


@pytest.mark.parametrize("more", [("--batch-size", 4), ("--batch-size", 2, "--accumulate", 3)],
                         ids=["one-batch", "smaller-last-group"])
def test_every_sample_once_an_epoch_in_a_new_order(seen, more):
    assert run(*more, "--epochs", 3) == 0
    epochs = [seen[i:i + ROWS] for i in range(0, len(seen), ROWS)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(ROWS))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("more", [(), ("--accumulate", 3, "--batch-size", 2)])
def test_resuming_reads_the_samples_that_were_left(seen, more):
    assert run("--epochs", 2, *more, name="whole") == 0
    whole = seen.copy()
    seen.clear()
    assert run("--epochs", 2, *more, "--max-steps", 2, name="parts") == 0
    assert run("--epochs", 2, *more, "--resume", name="parts") == 0
    assert seen == whole


@contextmanager
def begun(*more):
    """A run about to make its first update by plain gradient descent with rate 0.5."""
    args = script.parse_args(flags("--norm", "layer", "--position-dropout", 0, "--lr", 0.5,
                                   "--warmup", 0, *more))
    with Keeper(script.SCRIPT, args) as keeper:
        started = script.build(args, keeper)
        keeper.resume(started)
        yield started


@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_update_is_by_the_mean_over_its_group(seen, size, monkeypatch):
    """--accumulate is 3: the last group of an epoch is smaller."""
    monkeypatch.setattr(script, "make_optimizer",
                        lambda model, lr, decay: torch.optim.SGD(model.parameters(), lr))
    with begun("--accumulate", 3, "--batch-size", 2) as started:
        samples = [started.task.train[i] for i in range(2 * size)]
        group = [started.task.collate(samples[i:i + 2]) for i in range(0, 2 * size, 2)]
        expected = copy.deepcopy(started.model)
        (sum(F.cross_entropy(expected(x, n), y) for x, y, n in group) / size).backward()
        script.one_update(started, group)
        moved = 0.0
        for p, mine in zip(expected.parameters(), started.model.parameters(), strict=True):
            change = torch.zeros_like(p) if p.grad is None else -0.5 * p.grad
            torch.testing.assert_close(mine - p, change, atol=2e-6, rtol=1e-4)
            moved += change.abs().sum().item()
        assert moved > 0.1


def test_of_equal_epochs_the_first_is_the_best(seen, monkeypatch):
    monkeypatch.setattr(script, "evaluate_both", lambda run: {
        "val_loss": 1.0, "val": 50.0, "test_loss": 1.0, "test": 50.0})
    assert run("--epochs", 3) == 0
    assert files.read("a.pt")["epoch"] == 1
    assert files.read("a.pt.state")["progress"]["best"]["epoch"] == 1


# -------------------------------------------------------------------------------- bad pictures
def write_images(folder: Path, count: int = 40) -> Path:
    """pathfinder/ with random images; returns the folder of the images."""
    below = folder / "pathfinder/pathfinder32/curv_contour_length_14"
    for part in ("metadata", "imgs/0"):
        (below / part).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(below / f"imgs/0/sample_{i}.png")
    (below / "metadata/0.npy").write_text(
        "".join(f"imgs/0 sample_{i}.png {i} {i % 2}\n" for i in range(count)))
    return below / "imgs/0"


IMAGES = ("--task", "pathfinder", "--arch", "tno2d", "--batch-size", 4)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_damaged_image_is_one_line_and_the_state_is_saved(part, workers, tmp_path, monkeypatch,
                                                            capsys):
    """The resumed run, with the image mended, ends like one that never met it."""
    monkeypatch.chdir(tmp_path)
    images = write_images(tmp_path)
    more = (*IMAGES, "--workers", workers, "--epochs", 1)
    assert run(*more, name="whole") == 0
    args = script.parse_args(flags(*more))
    number = getattr(script.load_task("pathfinder", tmp_path, args), part).indices[-1]
    bad = images / f"sample_{number}.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:60])
    capsys.readouterr()
    assert run(*more) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "main.py" in line]
    assert len(errors) == 1
    assert bad.name in errors[0]
    bad.write_bytes(good)
    assert run(*more, "--resume") == 0
    for name, weight in files.read("whole.pt.state")["model"].items():
        assert torch.equal(files.read("a.pt.state")["model"][name], weight), name


def test_all_processes_stop_where_one_meets_a_damaged_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for image in write_images(tmp_path).glob("sample_[5-9].png"):
        image.write_bytes(b"")
    child = launch(*IMAGES, "--batch-size", 2, "--device", "cpu", "--devices", 2)
    errors = child.communicate(timeout=240)[1]
    assert child.returncode == 2, errors
    assert "Traceback" not in errors
    assert len(files.read("a.pt.state")["processes"]) == 2
