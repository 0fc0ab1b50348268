"""Every benchmark runs, small: what `make bench` calls compares forms that change with the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import awd_lstm_step

ROOT = Path(__file__).resolve().parents[1]
SMALL = [[word.replace("~", " ") for word in line.split()] for line in """
awd_lstm_corpus.py --millions 1
awd_lstm_kernels.py --repeats 1
awd_lstm_scratch.py --nhid 64 --timesteps 5 --repeats 1 --threads 1
awd_lstm_step.py --repeats 1
precision_speed.py --rounds 1 --only tagger,~as~published
precision_curves.py --only tnn/lra --seeds 1 --updates 5
sparse_seq.py --repeats 1
sparse_seq.py --repeats 1 --model
tnn_block.py --lengths 64 --repeats 1 --no-figure
tnn_generate.py --lengths 128 --rounds 1 --no-figure
tnn_im.py --repeats 1
tnn_im.py --lengths 14 --repeats 1
tnn_lm.py --rounds 1 --batch 1 --length 64
tnn_lra.py --length 256 --batch 1 --repeats 1
tnn_lra.py --settings yaml --length 256 --batch 1 --repeats 1
tnn_operator.py --lengths 512 --repeats 1
tnn_operator.py --cut --lengths 2300 --repeats 1
tnn_operator.py --dense --repeats 1
trellisnet_images.py --rounds 1 --batch 2
trellisnet_step.py --small --repeats 1
trellisnet_step.py --small --repeats 1 --fir
trellisnet_step.py --small --repeats 1 --checkpoint 8
""".strip().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("command", SMALL, ids=" ".join)
def test_runs(command, tmp_path):
    if command[0] == "tnn_lm.py":
        pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")
    script, *flags = command
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "benchmarks" / script, *flags], cwd=tmp_path,
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"\d\.\d", done.stdout), done.stdout


def test_none_is_left_out():
    called = set(re.findall(r"benchmarks/(\w+\.py)", (ROOT / "Makefile").read_text()))
    assert called - {"gpu_check.py"} <= {command[0] for command in SMALL}


@pytest.mark.parametrize("kind", awd_lstm_step.SETTINGS)
def test_the_forms_of_awd_lstm_step_compute_the_same(kind, monkeypatch, capsys):
    settings = awd_lstm_step.SETTINGS[kind] | dict(
        ninp=6, nhid=8, nlayers=2, dropout=0, dropouth=0, dropouti=0, dropoute=0, wdrop=0)
    monkeypatch.setitem(awd_lstm_step.SETTINGS, kind, settings)
    monkeypatch.setattr(awd_lstm_step, "VOCABULARY", 30)
    monkeypatch.setattr(awd_lstm_step, "T", 7)
    monkeypatch.setattr(sys, "argv", ["step", "--model", kind, "--repeats", "2", "--device", "cpu"])
    awd_lstm_step.main()
    losses = re.findall(r"step \d: loss plain ([\d.]+) ours ([\d.]+)", capsys.readouterr().out)
    assert len(losses) == 3
    for plain, ours in losses:
        assert float(plain) == pytest.approx(float(ours), abs=2e-5)
