"""The shell scripts: what they say when something is missing, and the whole path when all is there.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from filelock import FileLock

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from tests.tnn.lm.conftest import FORK, ROOT


def run(script, *arguments, **environment):
    return subprocess.run(["bash", str(ROOT / "tnn" / script), *arguments], text=True, check=False,
                          capture_output=True, env=os.environ | environment)


@pytest.mark.parametrize(("call", "said"), [
    (("script_alm.sh",), "bash tnn/prepare_lm_data.sh"),
    (("script_blm.sh",), "bash tnn/prepare_lm_data.sh"),
    (("train_alm.sh", "1"), "usage: bash train_alm.sh GPUS ARCH DATA_DIR"),
    (("train_blm.sh",), "usage: bash train_blm.sh GPUS ARCH DATA_DIR"),
    (("train_alm.sh", "1", "tnn_v2_decay_99_pre", str(FORK / "data-bin"), "BATCH_SIZE=x"),
     "BATCH_SIZE is a positive number, not 'x'"),
    (("train_alm.sh", "1", "tnn_v2_decay_99_pre", str(FORK / "data-bin"), "BATCH_SIZE=3"),
     "128 sequences an update cannot be shared by 1 workers with 3 each"),
    (("train_alm.sh", "many", "tnn_v2_decay_99_pre", "x"), "GPUS is a positive number"),
    (("length_extrapolation.sh", "tnn_v2_decay_99_pre", "long"), "LENGTH is a positive number"),
    (("length_extrapolation.sh", "tnn_v2_decay_99_pre", "9" * 20), "LENGTH is a positive number"),
    (("length_extrapolation.sh", "tnn_v2_decay_99_pre", "064"), "LENGTH is a positive number"),
    (("length_extrapolation.sh", "tnn_v2_decay_99_pre", "512"), "bash tnn/prepare_lm_data.sh"),
    (("script_glue.sh", "WNLI", "x", "y"), "TASK is one of MNLI"),
    (("script_glue.sh", "RTE", "x", "y"), "python tnn/lm/prepare_glue.py RTE"),
    (("prepare_lm_data.sh", "nowhere", "out"), "there is no folder nowhere"),
])
def test_one_line_and_exit_code_2(call, said, tmp_path):
    given = dict(word.split("=") for word in call if "=" in word)
    done = run(*(word for word in call if "=" not in word), DATA_DIR=str(tmp_path / "none"),
               CKPT_DIR=str(tmp_path), **given)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_no_checkpoint(tmp_path):
    done = run("length_extrapolation.sh", "tnn_v2_decay_99_pre", "64",
               DATA_DIR=str(FORK / "data-bin"), CKPT_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "train_alm.sh" in done.stderr


@pytest.mark.parametrize(("sequences", "each", "workers", "expected"), [
    (128, 8, 1, "16"), (128, 8, 8, "2"), (128, 8, 3, None), (128, 8, 32, None),
])
def test_update_freq_keeps_the_batch(sequences, each, workers, expected):
    done = subprocess.run(
        ["bash", "-c", f"source {ROOT}/tnn/environment.sh; "
                       f"update_freq {sequences} {each} {workers}"],
        text=True, capture_output=True, check=False,
        env={k: v for k, v in os.environ.items() if k != "UPDATE_FREQ"})
    if expected is None:
        assert done.returncode == 2
        assert "set UPDATE_FREQ" in done.stderr
    else:
        assert done.stdout.strip() == expected


STUB = """#!/bin/sh
# fairseq-train is a program that waits for SIGTERM; anything else is the real Python
case "$*" in
    *fairseq_cli.train*) exec {python} -c 'import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("last line") or sys.exit(7))
print("training", flush=True)
time.sleep(100)' ;;
    *) exec {python} "$@" ;;
esac
"""


@pytest.mark.parametrize("call", [
    ("train_alm.sh", "1", "tnn_v2_decay_99_pre", "DATA"), ("script_alm.sh",), ("script_blm.sh",),
    ("train_blm.sh", "1", "roberta_tnn_v2_decay_99", "DATA"),
    ("script_glue.sh", "RTE", "DATA", "DATA/dict.txt")], ids=lambda call: call[0])
def test_sigterm_reaches_python_whose_exit_code_is_the_scripts(call, tmp_path):
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)
    data = FORK / "data-bin"
    (tmp_path / "input0").mkdir()
    for name in ("dict.txt", "train.idx", "input0/dict.txt"):
        (tmp_path / name).write_text("")
    words = [word.replace("DATA", str(tmp_path)) for word in call[1:]]
    environment = {"PYTHON": str(stub), "DATA_DIR": str(data), "CKPT_DIR": str(tmp_path),
                   "LOG_DIR": str(tmp_path)}
    with subprocess.Popen(["bash", str(ROOT / "tnn" / call[0]), *words], text=True,
                          stdout=subprocess.PIPE, env=os.environ | environment) as script:
        for line in script.stdout:
            if line == "training\n":
                break
        script.send_signal(signal.SIGTERM)
        rest = script.stdout.read()
    assert (script.returncode, rest) == (7, "last line\n")


def sourced(code, *words):
    """A line of shell that uses what the scripts share."""
    return ["bash", "-c", f"source {ROOT}/tnn/environment.sh; {code}", "-", *map(str, words)]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
                         ids=lambda signum: signum.name)
def test_a_signal_in_the_midst_of_a_smoke_run_reaches_the_command(signum):
    """The script goes on after it, so it cannot be the command's process; it ends as that does."""
    waits = "trap 'echo last line; exit 7' TERM; echo begun; sleep 100 & wait"
    with subprocess.Popen(sourced('handing_on bash -c "$1"; echo on', waits), text=True,
                          stdout=subprocess.PIPE) as script:
        assert script.stdout.readline() == "begun\n"
        script.send_signal(signum)
        rest = script.stdout.readline(), script.wait()
    assert rest == ("last line\n", 7)


@pytest.mark.parametrize("code", [0, 3])
def test_a_reader_that_closes_the_pipe_costs_the_log_no_line(code, tmp_path):
    """`bash train_alm.sh ... | head -1`: Python writes on into the log, and its exit code stays."""
    writes = f"seq 50000; echo last >&2; exit {code}"
    with subprocess.Popen(sourced('logged run bash -c "$1"', writes), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=os.environ | {"LOG_DIR": str(tmp_path)}) as script:
        assert script.stdout.readline() == "1\n"
        script.stdout.close()
        assert script.stderr.read() == "last\n"
    assert script.returncode == code
    wanted, deadline = {*map(str, range(1, 50001)), "last"}, time.monotonic() + 20
    while (found := set((tmp_path / "run.log").read_text().split())) != wanted:
        assert time.monotonic() < deadline, wanted - found  # tee outlives the script
        time.sleep(0.05)


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_in_the_midst_of_a_smoke_run_ends_it_where_it_fails(code):
    done = subprocess.run(sourced("handing_on bash -c \"exit $1\"; echo on", code), text=True,
                          capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (code, "" if code else "on\n")


def test_a_smoke_run_does_not_clear_the_folder_of_one_that_runs(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoint_best.pt").touch()
    with FileLock(tmp_path / ".lock"):
        done = subprocess.run(sourced('fresh "$1"', tmp_path), text=True, capture_output=True,
                              check=False)
        assert done.returncode == 2
        assert done.stderr == (f"tnn: {tmp_path}: another smoke run is writing there; wait for its "
                               "end\n")
        assert len(list(tmp_path.iterdir())) == 3
    subprocess.run(sourced('fresh "$1"', tmp_path), check=True)
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


@pytest.mark.parametrize("script", ["script_alm.sh", "script_blm.sh"])
def test_a_smoke_run_of_no_architecture_deletes_nothing(script, tmp_path):
    """Its folder is named after the architecture."""
    (tmp_path / "mine").touch()
    name = os.path.relpath(tmp_path, ROOT / "tnn/checkpoints/smoke")
    done = run(script, SMOKE="1", ARCH=name)
    assert done.returncode == 2
    assert f"no architecture '{name}'" in done.stderr
    assert (tmp_path / "mine").is_file()


@pytest.mark.parametrize("call", [
    ("train_alm.sh", "1", "tnn_v2_decay_99_pre", "DATA"),
    pytest.param(("train_blm.sh", "1", "roberta_tnn_v2_decay_99", "DATA"), marks=pytest.mark.slow),
    pytest.param(("script_glue.sh", "RTE", "DATA", "DATA/dict.txt"), marks=pytest.mark.slow),
], ids=lambda call: call[0])
def test_a_second_run_in_one_ckpt_dir_is_refused(call, tmp_path):
    (tmp_path / "input0").mkdir()
    (tmp_path / "checkpoints").mkdir()
    for name in ("dict.txt", "train.idx", "input0/dict.txt"):
        (tmp_path / name).write_text("")
    words = [word.replace("DATA", str(tmp_path)) for word in call[1:]]
    with FileLock(tmp_path / "checkpoints/.lock"):
        done = run(call[0], *words, CKPT_DIR=str(tmp_path / "checkpoints"),
                   LOG_DIR=str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert done.stderr == (f"train.py: --save-dir {tmp_path}/checkpoints: another run is writing "
                           "there; wait for its end or give another --save-dir\n")


def test_fork_checkpoint_by_the_script():
    """Published fork checkpoint, perplexity as the fork printed it."""
    done = run("length_extrapolation.sh", "tnn_v2_decay_99_pre", "128", "--num-workers", "0",
               DATA_DIR=str(FORK / "data-bin"), CHECKPOINT=str(FORK / "alm_fork_checkpoint.pt"))
    assert done.returncode == 0, done.stderr
    assert "Perplexity: 61.42" in done.stderr + done.stdout


@pytest.mark.slow
def test_a_length_extrapolation_whose_memory_is_refused_is_one_line(tmp_path):
    """50 million tokens at once: the embeddings alone are 12.8 GB, more than the limit of 12."""
    shutil.copy(FORK / "data-bin/dict.txt", tmp_path)
    builder = MMapIndexedDatasetBuilder(f"{tmp_path}/test.bin", dtype=np.uint16)
    builder.add_item(torch.full((50_000_000,), 5))
    builder.finalize(f"{tmp_path}/test.idx")
    command = f"ulimit -v 12000000; exec bash {ROOT}/tnn/length_extrapolation.sh x 50000000 --cpu"
    done = subprocess.run(
        ["bash", "-c", f"{command} --num-workers 0"], capture_output=True, text=True, check=False,
        env=os.environ | {"DATA_DIR": str(tmp_path), "OMP_NUM_THREADS": "1",
                          "CHECKPOINT": str(FORK / "alm_fork_checkpoint.pt")})
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr  # what precedes the line is fairseq's log
    assert done.stderr.splitlines()[-1].startswith(
        "eval_lm.py: these sizes need more memory than there is")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["script_alm.sh", "script_blm.sh"])
def test_smoke(script):
    done = run(script, SMOKE="1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    text = done.stdout + done.stderr
    losses = [float(loss) for loss in re.findall(r"epoch 001.*? loss=([\d.]+)", text)]
    assert losses[-1] < losses[0]
    if script == "script_alm.sh":
        assert len(re.findall(r"Perplexity: [\d.]+", text)) == 2


@pytest.mark.slow
def test_fine_tuning():
    """From the masked model of the smoke run, on sentences with and without a certain word: more
    right answers than the more frequent label would give."""
    done = run("script_glue.sh", SMOKE="1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "loading pretrained model" in done.stdout
    accuracies = re.findall(r"valid on 'valid'.*? accuracy ([\d.]+)", done.stdout)
    labels = [line.rsplit("\t", 1)[1] for line in
              (ROOT / "tnn/data/smoke-text/SST-2/dev.tsv").read_text().splitlines()[1:]]
    assert float(accuracies[-1]) > 100 * max(map(labels.count, labels)) / len(labels) + 5


@pytest.mark.slow
def test_generate_by_the_command(tmp_path):
    """A checkpoint of the fork: every memory gives the same text."""
    texts = set()
    for memory in ("window", "etsc", "full"):
        out = tmp_path / f"{memory}.txt"
        done = subprocess.run(
            [sys.executable, str(ROOT / "tnn/lm/generate.py"), str(FORK / "alm_fork_checkpoint.pt"),
             "--data", str(FORK / "data-bin"), "--tokens", "40", "--memory", memory,
             "--outf", str(out)], text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == out.read_text()
        texts.add(done.stdout)
    assert len(texts) == 1
    assert len(texts.pop().split()) > 20
