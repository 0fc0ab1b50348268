"""Adapters for the recorded data of the Long Range Arena: files to vocabulary, ids and batches;
images to sequences; random splits; ListOps trees of a seed."""

import argparse
import json
import random

import numpy as np
import torch
from PIL import Image

from tests.golden.case import Case, close
from tnn.lra.args import add_data_flags
from tnn.lra.data import load_task
from tnn.lra.tasks import pathfinder as pathfinder_task
from tnn.lra.tasks.cifar import cifar_pixels
from tnn.lra.tasks.images import Pixels
from tnn.lra.tasks.listops import draw_tree, evaluate
from tnn.lra.tasks.task import split

GROUPS = ("listops", "aan", "imdb", "cifar_split", "pathfinder_split_200000", "pathfinder")


def flags(**values):
    parser = argparse.ArgumentParser()
    add_data_flags(parser)
    args = parser.parse_args([])
    vars(args).update(values)
    return args


# ------------------------------------------------------------------------------ data.json
def data(path, tmp_path, monkeypatch, name):
    if path.suffix == ".safetensors":
        return {"pathfinder": grey_images, "cifar": cifar_images}[name](Case(path))
    case = json.loads(path.read_text())[name]
    {"listops": listops, "aan": aan, "imdb": imdb, "cifar_split": cifar_split,
     "pathfinder_split_200000": pathfinder_split, "pathfinder": pathfinder}[name](case, tmp_path)


def groups(path):
    """Names of the file's parts; a new one would need an adapter."""
    if path.suffix == ".safetensors":
        return list(Case(path).meta("meta")["cases"])
    found = [name for name in json.loads(path.read_text()) if name != "kind"]
    assert set(found) <= set(GROUPS), set(found) - set(GROUPS)
    return found


data.parts = groups


def in_order(part):
    return [part[i] for i in range(len(part))]


def ids(part):
    return [sample[0].tolist() for sample in in_order(part)]


def labels(part):
    return [sample[-1] for sample in in_order(part)]


def compare_batch(task, case, rows=4):
    x, y, lengths = task.collate([task.train[i] for i in range(rows)])
    assert x.dtype == y.dtype == lengths.dtype == torch.int64
    assert (x.tolist(), y.tolist(), lengths.tolist()) == (case["x"], case["y"], case["lengths"])


def listops(case, folder):
    (folder / "listops").mkdir()
    for name, text in case["files"].items():
        (folder / "listops" / name).write_bytes(text.encode())
    task = load_task("listops", folder, flags(l_max=case["l_max"]))
    assert (task.itos, task.vocab_size, task.classes) == (case["itos"], len(case["itos"]), 10)
    assert (ids(task.train), labels(task.train)) == (case["train_ids"], case["train_y"])
    assert (ids(task.val), ids(task.test)) == (case["val_ids"], case["test_ids"])
    compare_batch(task, case["batch0_3"])


def aan(case, folder):
    (folder / "aan").mkdir()
    for name, text in case["files"].items():
        (folder / "aan" / f"new_aan_pairs.{name}.tsv").write_bytes(text.encode())
    task = load_task("aan", folder, flags(l_max=case["l_max"]))
    assert task.itos == case["itos"]
    for part in ("train", "val"):
        samples = in_order(getattr(task, part))
        ours = [{"a": a.tolist(), "b": b.tolist(), "y": y} for a, b, y in samples]
        assert ours == case[part]
    if isinstance(case["batch0_3"], dict):
        compare_batch(task, case["batch0_3"])
    else:  # the original crashed: the halves had different widths
        x, _, lengths = task.collate([task.train[i] for i in range(4)])
        assert x.shape == (8, lengths.max())


def imdb(case, folder):
    for part, columns in case["raw"].items():
        for number, (text, label) in enumerate(zip(columns["text"], columns["label"],
                                                   strict=True)):
            below = folder / "imdb/aclImdb" / part / ("neg", "pos")[label]
            below.mkdir(parents=True, exist_ok=True)
            (below / f"{number}_5.txt").write_bytes(text.encode())
    task = load_task("imdb", folder, flags(l_max=case["l_max"], min_freq=case["min_freq"]))
    assert task.itos == case["itos"]
    assert ids(task.train) == case["train_ids"]
    assert ids(task.test) == case["test_ids"]
    assert labels(task.train) == case["raw"]["train"]["label"]
    assert (task.val is task.test) == case["val_is_none"]  # Lightning took the one for the other
    compare_batch(task, case["batch0_3"])


def cifar_split(case, _):
    total = case["n_train"] + case["n_val"]
    train, val = split(range(total), [int(total * 0.9), total - int(total * 0.9)])
    assert (len(train), len(val)) == (case["n_train"], case["n_val"])
    for part, name in ((train, "train"), (val, "val")):
        first, last = case[f"{name}_first"], case[f"{name}_last"]
        assert list(part.indices)[:len(first)] == first
        assert list(part.indices)[-len(last):] == last


def pathfinder_split(case, _):
    sizes = pathfinder_task.sizes(200_000)
    assert sizes == case["sizes"]
    for part, name in zip(split(range(200_000), sizes), ("train", "val", "test"), strict=True):
        first = case[f"{name}_first"]
        assert list(part.indices)[:len(first)] == first
        last = case.get(f"{name}_last", [])
        assert not last or list(part.indices)[-len(last):] == last


def pathfinder(case, folder):
    root = folder / "pathfinder/pathfinder32"
    below = root / "curv_contour_length_14"
    (below / "metadata").mkdir(parents=True)
    for name, text in case.items():
        if name.startswith("metadata/"):
            (below / name).write_text(text)
    for number, name in enumerate(case["order"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32), number, np.uint8)).save(root / name)
    paths, classes = pathfinder_task.image_files(pathfinder_task.listings_of(below))
    assert [str(path.relative_to(root)) for path in paths] == case["order"]
    assert classes == case["labels"]
    task = load_task("pathfinder", folder, flags())
    for part in ("train", "val", "test"):
        drawn = [round(float(x[0] * 0.5 + 0.5) * 255) for x, _ in in_order(getattr(task, part))]
        assert drawn == case[f"{part}_idx"]
        assert labels(getattr(task, part)) == [case["labels"][i] for i in drawn]


# ------------------------------------------------------------------------ data_images
def grey_images(case):
    ours = Pixels(case["pathfinder/raw_u8"].flatten(1)[..., None].numpy(),
                  case["pathfinder/y"].numpy(), 0.5, 0.5)
    close(torch.stack([x for x, _ in in_order(ours)]), case["pathfinder/x"], 1e-6)
    assert labels(in_order(ours)) == case["pathfinder/y"].tolist()


def cifar_images(case):
    rgb = case["cifar/rgb_u8"].numpy()
    for color, name in ((False, "gray_seq"), (True, "color_seq")):
        ours = cifar_pixels(rgb, np.zeros(len(rgb), np.int64), color)
        close(torch.stack([x for x, _ in in_order(ours)]), case[f"cifar/{name}"], 1e-6, what=name)


# ------------------------------------------------------------------ listops_generator.json
def generator(path, tmp_path, monkeypatch):
    case = json.loads(path.read_text())
    rng = random.Random(case["python_random_seed"])
    drawn = [draw_tree(rng, case["max_depth"], case["max_args"]) for _ in range(4000)]
    lengths = [length for *_, length in drawn]
    assert lengths[:300] == case["lengths_first_300"]
    assert sum(lengths) == case["sum_lengths_4000"]
    assert sum(500 < length < 2000 for length in lengths) == case["n_accept_500_2000"]
    assert case["trees"]
    for tree in case["trees"]:
        assert drawn[tree["call"]] == (tree["source"], tree["value"], tree["length"])
        assert evaluate(tree["source"]) == tree["value"]


ADAPTERS = [
    ("data", data),  # data.json and data_images.safetensors
    ("listops_generator", generator),
]
