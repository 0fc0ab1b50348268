"""fairseq-train with the plugin: killed and resumed, hostile checkpoints, two machines.

What stock fairseq does itself (its flags, its messages, its exit codes) is not tested here.
"""

import argparse
import os
import subprocess
import sys

import pytest

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

from harness import files
from tests.exits import free_port
from tests.tnn.lm.test_fairseq_train import CAUSAL
from tests.trust.forked import ROOT, Server
from tests.trust.payloads import payloads
from tests.trust.runs import assert_same
from tests.trust.test_parallel import largest_difference

DATA = ROOT / "tests/golden/cases/tnn_lm/cli/data-bin"
FLAGS = ["--user-dir", str(ROOT / "tnn/fairseq_plugin"), "--task", "language_modeling", str(DATA),
         "--arch", "tnn_v2_decay_99_pre", "--decoder-embed-dim", "8", "--decoder-layers", "1",
         "--rpe-layers", "1", "--rpe-embedding", "8", "--tokens-per-sample", "16", "--optimizer",
         "adam", "--lr", "0.005", "--batch-size", "4", "--num-workers", "0", "--cpu",
         "--disable-validation", "--save-interval-updates", "2", "--keep-interval-updates", "3",
         "--log-format", "simple", "--log-interval", "1", "--seed", "7"]
UPDATES = 12


@pytest.fixture(scope="module")
def fairseq():
    with Server(["fairseq_cli.train", "fairseq_cli.eval_lm", "tnn.fairseq_plugin"]) as server:
        yield server


def start(server, folder, *more, **hooks):
    argv = [*FLAGS, "--max-update", str(UPDATES), "--save-dir", str(folder), *map(str, more)]
    return server.start("fairseq_cli.train", argv, folder, call="cli_main", **hooks)


def finished(folder) -> bool:
    """Killed behind its last save? fairseq would make one more update if started again."""
    return ((folder / "checkpoint_last.pt").is_file()
            and weights(folder)["optimizer_history"][-1]["num_updates"] == UPDATES)


def weights(folder) -> dict:
    return files.read(folder / "checkpoint_last.pt", safe=(argparse.Namespace,))


@pytest.fixture(scope="module")
def unbroken(fairseq, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fairseq")
    done = start(fairseq, folder).wait()
    assert done.code == 0, done.err
    return weights(folder)


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=[
    pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_killed(place, fairseq, unbroken, tmp_path_factory, kills):
    """At random times, inside torch.save, before the copy that is checkpoint_last.pt is whole."""
    rng, killed, held = place.random("fairseq", kills), 0, 0
    while killed < kills:
        folder = tmp_path_factory.mktemp("fairseq")
        for _ in range(3):
            in_save = held <= 0.4 * killed
            hold = {"save": rng.randrange(3), "stage": rng.choice(("begin", "half", "rename"))}
            child = start(fairseq, folder, hold=hold if in_save else None)
            done = child.wait() if in_save else child.kill_after(rng.uniform(0, 1.5))
            if done is None:
                child.kill()
                done = child.wait()
            if done.code == 0:
                break
            assert done.code == -9, done.err[-2000:]
            killed, held = killed + 1, held + in_save
            if finished(folder):
                break
        if not finished(folder):
            done = start(fairseq, folder).wait()
            assert done.code == 0, done.err[-3000:]
        ours = weights(folder)
        for part in ("model", "last_optimizer_state"):
            assert_same(ours[part], unbroken[part], part)
    assert held >= 0.3 * killed
    place.count("kill", "kills of fairseq-train", killed)
    place.count("kill", "inside a save", held)
    place.count("kill", "kills", killed)


@pytest.mark.parametrize("flag", ["--restore-file", "--path"])
@pytest.mark.parametrize("count", [2, pytest.param(26, marks=pytest.mark.slow)])
def test_hostile_checkpoints(place, fairseq, tmp_path, flag, count):
    """Refused by fairseq's own reader, through torch.load with weights_only."""
    rng, canary = place.random("fairseq-hostile", flag, count), tmp_path / "canary"
    every = payloads(canary)
    for name in rng.sample(sorted(every), count):
        path = tmp_path / "hostile.pt"
        path.write_bytes(every[name])
        if flag == "--restore-file":
            done = start(fairseq, tmp_path, flag, path).wait()
        else:
            argv = [str(DATA), *FLAGS[:2], "--path", str(path), "--cpu"]
            done = fairseq.start("fairseq_cli.eval_lm", argv, tmp_path, call="cli_main").wait()
        assert not canary.exists(), name
        assert done.code != 0
        assert not list(tmp_path.glob("checkpoint*.pt"))
        place.count("hostile", "payloads for fairseq, none run")


@pytest.mark.slow
def test_two_machines(place, tmp_path):
    """Two agents of torchrun with two processes each: the weights of one process with four times
    the batches."""
    flags = [*CAUSAL, "--max-update", "6", "--ddp-backend", "legacy_ddp", "--dropout", "0",
             "--distributed-backend", "gloo"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    alone = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "fairseq_cli.train", *flags, "--update-freq", "4",
         "--save-dir", str(tmp_path / "alone")], cwd=ROOT, env=environment, text=True,
        capture_output=True, check=False)
    assert alone.returncode == 0, alone.stderr[-3000:]
    port = free_port()
    # fairseq takes torchrun's word for it only where there are GPUs: here it is told.
    shared = ["--save-dir", str(tmp_path / "two"), "--distributed-world-size", "4",
              "--distributed-init-method", "env://", "--distributed-no-spawn"]
    command = (f'exec {sys.executable} -W ignore -m fairseq_cli.train "$@" '
               '--distributed-rank "$RANK"')
    agents = [subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2",
         "--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", str(port),
         "--no-python", "bash", "-c", command, "-", *flags, *shared], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) for rank in range(2)]
    said = [agent.communicate(timeout=280)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n\n".join(said)
    ours, theirs = (weights(tmp_path / name)["model"] for name in ("two", "alone"))
    error = largest_difference(ours, theirs)
    assert error <= 1e-5
    place.count("processes", "2 machines of 2 processes = 1 process, fairseq, float32")
    place.largest("processes", "largest relative difference, fairseq, float32", error)
