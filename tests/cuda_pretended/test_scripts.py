"""Every training script on the pretended GPU: no device mixing, no type a GPU lacks, no more waits
and operations than the committed figures, and resumed to the same bits, the GPU's random numbers
among them."""

import json

import pytest

from tests.cuda_pretended.measure import FIGURES, job, jobs_of, per_update
from tests.cuda_pretended.scripts import GRAPHS, QUICK, RUNS, write_all
from tests.harness.same import same

COUNTED = json.loads(FIGURES.read_text())
# A run without a figure is not compared with any: `python -m tests.cuda_pretended.measure --write
# NAME` counts it.
CASES = [pytest.param(run, precision, id=f"{run.name}-{precision}",
                      marks=[] if QUICK.get(run.name) == precision else [pytest.mark.slow])
         for run in RUNS.values() for precision in run.precisions
         if "now" in COUNTED.get(run.name, {}).get(precision, {})]


@pytest.fixture(scope="module")
def done(run_jobs, tmp_path_factory):
    """done(run, precision) -> the folder with whole/ and parts/, and the last three reports. Those
    of the quick suite in one process."""
    home = tmp_path_factory.mktemp("runs")
    data, found = write_all(home / "data"), {}

    def start(cases) -> None:
        jobs, ends = [], []
        for run, precision in cases:
            jobs += jobs_of(run, home / f"{run.name}-{precision}", data, precision)
            ends.append(len(jobs))
        reports = run_jobs(jobs, seconds=1500)
        for (run, precision), end in zip(cases, ends, strict=True):
            found[run.name, precision] = reports[end - 3:end]

    def call(run, precision):
        if (run.name, precision) not in found:
            quick = QUICK.get(run.name) == precision
            start([(RUNS[name], p) for name, p in QUICK.items()] if quick else [(run, precision)])
        return home / f"{run.name}-{precision}", found[run.name, precision]
    return call


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("run", "precision"), CASES)
def test_a_gpu_would_take_it(done, run, precision):
    _, reports = done(run, precision)
    for report in reports:
        assert report["exit"] == 0, report["error"] + report["output"][-2000:]
        assert report["problems"] == {}
        assert report["warnings"] == {}
    waits, launched = per_update(run, reports[0])
    most = COUNTED[run.name][precision]["now"]
    assert waits <= most[0], reports[0]["syncs"]
    assert launched <= most[1], reports[0]["operations"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("run", "precision"), CASES)
def test_resumed_it_gives_the_same_bits(done, run, precision):
    home, _ = done(run, precision)
    whole, parts = (run.script.read(home / folder / run.script.state)
                    for folder in ("whole", "parts"))
    for name in ("model", "optimizer", "processes", "scaler"):
        assert same(whole.get(name), parts.get(name)), name
    assert whole["processes"][0]["random"]["cuda"] is not None
    assert whole["progress"]["step"] == run.updates


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("run", "precision"),
                         [case for case in CASES if case.values[0].name.endswith(GRAPHS)])
def test_graphs_change_no_bit(done, run, precision):
    """And all updates but the first are replayed."""
    home, reports = done(run, precision)
    plain = RUNS[run.name.removesuffix(GRAPHS)]
    other, _ = done(plain, precision)
    one, two = (run.script.read(folder / "whole" / run.script.state) for folder in (home, other))
    for name in ("model", "optimizer", "processes", "scaler"):
        assert same(one.get(name), two.get(name)), name
    assert reports[0]["operations"]["graph replay"] >= run.updates - 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_trained_models_are_used(run_jobs, tmp_path):
    """The cache pointer, and text from two models: one wait a word."""
    data = write_all(tmp_path / "data")
    awd, trellis = RUNS["awd-lstm"], RUNS["trellis-small"]
    texts = ["--data", str(data / "texts"), "--device", "cuda"]
    model = str(tmp_path / "awd" / awd.script.save)
    use = [("awd_lstm.pointer", [*texts, "--save", model, "--window", "20"]),
           ("awd_lstm.generate", [*texts, "--checkpoint", model, "--words", "12", "--outf",
                                  str(tmp_path / "text"), "--prompt", "w1"]),
           ("trellisnet.generate", [*texts, "--load", str(tmp_path / "trellis/m.pt"), "--words",
                                    "12"])]
    reports = run_jobs([job(awd, tmp_path / "awd", data, "32", "--max-steps", 2),
                        job(trellis, tmp_path / "trellis", data, "32", "--max-steps", 2),
                        *({"module": module, "argv": argv} for module, argv in use)], seconds=900)
    for report in reports:
        assert report["exit"] == 0, report["error"] + report["output"][-2000:]
        assert report["problems"] == {}
    for report in reports[3:]:  # what is sent to the device is the model, once
        assert sum(count for sync, count in report["syncs"].items()
                   if "device to host" in sync) == 12, report["syncs"]
