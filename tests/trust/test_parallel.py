"""Several processes that share a batch are one: the same weights after twenty updates, the same on
every process after each, and dropout masks of their own."""

import math
import os
import subprocess
import sys

import pytest

from tests.exits import as_torchrun_starts, free_port, two_processes
from tests.trust.forked import ROOT
from tests.trust.runs import events
from tests.trust.scripts import SCRIPTS

STEPS = 20
SEVERAL = {name: script for name, script in SCRIPTS.items()
           if script.several}
# Columns (or images, or sentences) that two and four cannot share evenly, where that is allowed.
UNEVEN = {name: "--batch_size 7" for name in SEVERAL}
UNEVEN |= dict.fromkeys(("sparse-main", "sparse-finetune"), "--batch_size 8")
UNEVEN |= {"tnn-im": "--batch-size {each} --stochastic-depth 0", "tnn-lra": "--batch-size {each}"}
# Padding is a token like any other, and each process pads to its own longest text.
NO_PADDING = {"tnn-lra": "--mask-padding"}
UNEVEN |= {"sparse-recite": "--batch_size 8 --small_batch_size 4"}
# Steps of a size at which rounding is not magnified.
CALM = {"awd-main": 2, "awd-finetune": 2, "word-ptb": 0.5, "sparse-main": 2, "sparse-finetune": 2,
        "word-wt103": 0.1, "char-ptb": 0.1, "awd-qrnn": 0.1, "seq-images": 0.1,
        "sparse-tagger": 0.5}
PLAIN_SGD = {"word-wt103": "--optim SGD", "char-ptb": "--optim SGD", "seq-images": "--optim SGD",
             "awd-qrnn": "--optimizer sgd", "sparse-tagger": "--optimizer sgd"}


def run_processes(place, script, folder, n, *more, **hooks) -> None:
    """n processes of one machine, as torchrun starts them. Hooks' files get the rank appended."""
    if n == 1:
        place.run(script, folder, *more, **{name: f"{path}0" for name, path in hooks.items()})
        return
    port, children = free_port(), []
    for rank in range(n):
        children.append(place.start(
            script, folder, *more, environment=as_torchrun_starts(rank, n, port),
            **{name: f"{path}{rank}" for name, path in hooks.items()}))
    for rank, child in enumerate(children):
        done = child.wait(240)
        assert done.code == 0, f"process {rank}: {done.out[-1500:]}{done.err[-3000:]}"
        assert "Traceback" not in done.err
        assert rank == 0 or not done.out, f"process {rank} speaks: {done.out}"


def flags_of(name: str, processes: int) -> list[str]:
    rate = ["--lr", str(CALM[name])] if name in CALM else []
    return [*UNEVEN[name].format(each=8 // processes).split(), *SCRIPTS[name].no_dropout.split(),
            *PLAIN_SGD.get(name, "").split(), *NO_PADDING.get(name, "").split(), *rate,
            "--max-steps", str(STEPS)]


def folder_of(place, script):
    """With a model to start from that has no dropout: fine-tuning keeps the model's own rates."""
    folder = place.folder(script)
    if script.before:
        before = SCRIPTS[script.before]
        model = place.home / f"no-dropout-{before.name}"
        if not model.is_dir():
            model.mkdir()
            place.run(before, model, "--max-steps", "4", *before.no_dropout.split())
        for name in [n for n in before.models if (model / n).is_file()]:
            (folder / name).write_bytes((model / name).read_bytes())
    return folder


def largest_difference(ours: dict, theirs: dict) -> float:
    """Of any weight, relative to the largest of its matrix."""
    assert ours.keys() == theirs.keys()
    return max(((ours[name] - value).abs().max() / value.abs().max().clamp(min=1e-30)).item()
               for name, value in theirs.items() if value.is_floating_point())


QUICK = ("awd-main", "word-wt103", "seq-images", "sparse-main", "sparse-tagger", "tnn-im")
CASES = [pytest.param(name, n, precision, id=f"{name}-{n}-{precision}",
                      marks=[] if (n, precision) == (2, "64") and name in QUICK
                      else [pytest.mark.slow])
         for name in SEVERAL for n in (2, 4) for precision in ("64", "32")]


@pytest.mark.parametrize(("name", "n", "precision"), CASES)
def test_processes_are_one(place, name, n, precision):
    script, states = SCRIPTS[name], []
    for processes in (1, n):
        flags = [*flags_of(name, processes), "--precision", precision]
        folder = folder_of(place, script)
        journal = place.home / f"{folder.name}.journal"
        run_processes(place, script, folder, processes, *flags, journal=journal)
        states.append(script.read(folder / script.state))
        weights = [[event["weights"] for event in events(journal.with_name(journal.name + str(r)))
                    if event["what"] == "update"] for r in range(processes)]
        assert len(weights[0]) == STEPS
        assert all(other == weights[0] for other in weights), "the processes' weights differ"
    error = largest_difference(states[1]["model"], states[0]["model"])
    print(f"largest relative difference {error:.1e}")
    assert error <= (1e-12 if precision == "64" else 1e-5)
    place.count("processes", f"{n} processes = 1, float{precision}")
    place.largest("processes", f"largest relative difference, float{precision}", error)


@pytest.mark.parametrize("name", [pytest.param(
    name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SEVERAL])
def test_masks_differ_between_processes(place, name):
    """With the dropouts of the table."""
    script = SCRIPTS[name]
    if name in ("sparse-recite", "tnn-im"):
        pytest.skip("learning to recite has no dropout, images are mixed and erased by numpy")
    folder, masks = place.folder(script), place.home / f"masks-{name}-"
    flags = UNEVEN[name].format(each=4).split()
    run_processes(place, script, folder, 2, *flags, "--max-steps", "3", masks=masks)
    drawn = [masks.with_name(masks.name + str(r)).read_text().splitlines() for r in range(2)]
    large = [[line for line in lines if tells(line)] for lines in drawn]
    assert len(large[0]) >= 3
    assert not set(large[0]) & set(large[1]), set(large[0]) & set(large[1])
    place.count("processes", "masks of two processes, none alike", len(large[0]) + len(large[1]))


def tells(line: str) -> bool:
    """Has the mask (its shape, number of zeros, bits) so many of both that none is drawn twice?"""
    shape, _, rest = line.partition(")")
    entries = math.prod(int(n) for n in shape.strip("(").split(",") if n.strip())
    zeros = int(rest.split()[0])
    return min(zeros, entries - zeros) >= 8


@pytest.mark.parametrize("name", [pytest.param(
    name, marks=[] if name == "awd-main" else [pytest.mark.slow]) for name in SEVERAL])
def test_processes_end_in_order(place, name):
    """Nothing is left between them that Python's end could break: see harness/processes.py."""
    script = SCRIPTS[name]
    folder = folder_of(place, script)
    argv = script.argv(folder, place.data, "--max-steps", "4")
    for code, err in two_processes(script.module, *argv, cwd=folder):
        assert code == 0, err
    place.count("processes", "2 processes, no thread left between them at the end")


@pytest.mark.slow
def test_two_machines(place):
    """Two agents of torchrun with two processes each, met over the loopback."""
    script, port = SCRIPTS["awd-main"], free_port()
    flags = [*flags_of("awd-main", 4), "--precision", "64"]
    alone = place.folder(script)
    place.run(script, alone, *flags)
    folder = place.folder(script)
    argv = script.argv(folder, place.data, *flags)
    path = ROOT / (script.module.replace(".", "/") + ".py")
    agents = [subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2",
         "--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", str(port),
         str(path), *argv], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"}) for rank in range(2)]
    for agent in agents:
        out, err = agent.communicate(timeout=280)
        assert agent.returncode == 0, out + err
    ours, theirs = (script.read(f / script.state) for f in (folder, alone))
    assert len(ours["processes"]) == 4
    error = largest_difference(ours["model"], theirs["model"])
    assert error <= 1e-12
    place.count("processes", "2 machines of 2 processes = 1 process, float64")
