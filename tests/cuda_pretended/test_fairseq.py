"""fairseq-train with the plugin on the pretended GPU: the language models, in float32, bf16 and
fp16, and resumed. fairseq itself waits for the GPU some times an update; what is bounded here is
the number of operations."""

import argparse
import json

import pytest

from harness import files
from tests.cuda_pretended.measure import FIGURES
from tests.cuda_pretended.pretended import ROOT
from tests.harness.same import same

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")
from tests.tnn.lm.test_fairseq_train import CAUSAL, MASKED
from tests.tnn.lm.test_glue import SMALL, commands, glue
from tnn.lm import prepare_glue

COUNTED = json.loads(FIGURES.read_text())["fairseq"]
KINDS = {"alm": [*CAUSAL, "--decoder-layers", "6", "--rpe-layers", "6"],
         "blm": MASKED}
CASES = [("alm", ()), ("alm", ("--bf16",)), ("alm", ("--fp16",)), ("blm", ()), ("blm", ("--bf16",))]


def argv(kind: str, folder, updates: int, *more: str) -> list[str]:
    words = [word for word in KINDS[kind] if word != "--cpu"]
    words[words.index("--log-interval") + 1] = "100"
    return [*words, "--save-dir", str(folder), "--max-update", str(updates), *more]


def train(kind: str, folder, updates: int, *more: str) -> dict:
    return {"module": "fairseq_cli.train", "argv": argv(kind, folder, updates, *more),
            "before": "fairseq_cli.train", "cwd": str(ROOT)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "more"), CASES, ids=["".join((k, *m)) for k, m in CASES])
def test_the_language_models(run_jobs, tmp_path, kind, more):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    reports = run_jobs([train(kind, whole, 4, *more), train(kind, parts, 2, *more),
                        train(kind, parts, 4, *more)], seconds=1500)
    for report in reports:
        assert report["exit"] == 0, report["error"] + report["output"][-2000:]
        assert report["problems"] == {}
    (_, second), (_, last) = reports[0]["updates"][1], reports[0]["updates"][-1]
    name = "tnn-" + "".join((kind, *more)).replace("--", "-")
    if name in COUNTED:
        assert (last - second) / 2 <= COUNTED[name]["now"][1], reports[0]["operations"]
    one, two = (files.read(folder / "checkpoint_last.pt", safe=(argparse.Namespace,))
                for folder in (whole, parts))
    assert same(dict(one["model"]), dict(two["model"]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_trained_models_are_used(run_jobs, tmp_path, precision):
    """Text by each memory, the likeliest one: the same, and one wait for all of it. Scores."""
    text, model = tmp_path / "text.txt", str(tmp_path / "checkpoint_last.pt")
    text.write_text("w00 w01 w02\nw03 zebra\n")
    common = ["--device", "cuda", "--precision", precision]
    jobs = [{"module": "tnn.lm.generate", "argv": [
        model, "--prompt", "w01 w02", "--tokens", "40", "--temperature", "0", "--memory", memory,
        *common]} for memory in ("window", "etsc", "full")]
    jobs += [{"module": "tnn.lm.score", "argv": [model, str(text), *more, *common]}
             for more in ((), ("--independent",))]
    first, *reports = run_jobs([train("alm", tmp_path, 2), *jobs], seconds=900)
    assert first["exit"] == 0, first["error"] + first["output"][-2000:]
    for report in reports:
        assert report["exit"] == 0, report["error"] + report["output"][-2000:]
        assert report["problems"] == {}
    written = [report["output"].splitlines()[-2] for report in reports[:3]]
    assert written[0] == written[1] == written[2]
    for report in reports[:3]:
        waits = sum(count for sync, count in report["syncs"].items() if "to host" in sync)
        assert waits <= 1 + 6, report["syncs"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("more", [(), ("--bf16",)], ids=["32", "bf16"])
def test_glue(run_jobs, tmp_path, more):
    """Fine-tuned with what script_glue.sh says, validated in between, and resumed."""
    glue(tmp_path, "RTE")
    prepare_glue.main(["RTE", "--glue", str(tmp_path), "--bpe", str(tmp_path), "--out",
                       str(tmp_path / "bin")])
    flags = commands(tmp_path, "RTE", tmp_path / "bin/RTE-bin", tmp_path / "dict.txt", "FOLDER")
    at = flags.index("--finetune-from-model")
    del flags[at:at + 2]  # from scratch
    words = [word for word in (*flags, *SMALL, *more) if word != "--cpu"]

    def job(folder: str, updates: int) -> dict:
        own = [str(tmp_path / folder) if word == "FOLDER" else word for word in words]
        return {"module": "fairseq_cli.train", "argv": [*own, "--max-update", str(updates)],
                "before": "fairseq_cli.train", "cwd": str(ROOT)}

    for report in run_jobs([job("whole", 4), job("parts", 2), job("parts", 4)], seconds=900):
        assert report["exit"] == 0, report["error"] + report["output"][-2000:]
        assert report["problems"] == {}
    one, two = (files.read(tmp_path / folder / "checkpoint_last.pt", safe=(argparse.Namespace,))
                for folder in ("whole", "parts"))
    assert same(dict(one["model"]), dict(two["model"]))
