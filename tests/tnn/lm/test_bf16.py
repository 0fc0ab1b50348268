"""fairseq-train --bf16 on a CPU."""

import argparse

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from harness import files
from tests.tnn.lm.test_fairseq_train import MASKED, assert_same
from tests.tnn.lm.test_one_run import start
from tnn.fairseq_plugin import commands


def trained(server, folder, *updates, flag):
    """The last checkpoint of a run that was resumed after all but the last of these updates."""
    folder.mkdir()
    for count in updates:
        ended = start(server, folder, flag, "--max-update", count).wait()
        assert ended.code == 0, ended.err[-3000:]
    return files.read(folder / "checkpoint_last.pt", safe=(argparse.Namespace,))


@pytest.mark.parametrize("flag", ["--bf16", "--memory-efficient-bf16"])
def test_resumed_after_two_updates_is_exact(fairseq, tmp_path, flag):
    """Rounded weights; with --bf16 float32 copies of them, which go on where they stood."""
    whole = trained(fairseq, tmp_path / "whole", 4, flag=flag)
    parts = trained(fairseq, tmp_path / "parts", 2, 4, flag=flag)
    learnt = {name: value for name, value in whole["model"].items() if "gamma" not in name}
    for value in learnt.values():
        assert torch.equal(value, value.bfloat16().float())
    kept = [state["last_optimizer_state"] for state in (whole, parts)]
    assert {each["step"] for each in kept[0]["state"].values()} == {4}
    assert_same(whole["model"], parts["model"], atol=0, rtol=0)
    assert_same(kept[0]["state"], kept[1]["state"], atol=0, rtol=0)
    copies = [state.get("fp32_params", []) for state in kept]
    assert bool(copies[0]) == (flag == "--bf16")
    assert all(map(torch.equal, *copies))
    rounded = {value.bfloat16().float().sum().item() for value in copies[0]}
    assert rounded <= {value.sum().item() for value in learnt.values()}
    assert all(value.ne(value.bfloat16()).any() for value in copies[0])


def test_another_precision_is_one_line(fairseq, tmp_path):
    """fairseq's own check, an assertion, says what to do."""
    for flags, code in (((), 0), (("--bf16",), 2)):
        ended = start(fairseq, tmp_path, *flags, "--max-update", 2).wait()
        assert ended.code == code, ended.err[-3000:]
    line = ended.err.splitlines()[-1]
    assert line.startswith(f"train.py: --save-dir {tmp_path}: its checkpoint does not fit: ")
    assert "--reset-optimizer" in line
    assert "Traceback" not in ended.err


def test_float16_on_a_cpu_is_one_line(fairseq, tmp_path):
    ended = start(fairseq, tmp_path, "--fp16").wait()
    assert ended.code == 2, ended.err
    assert ended.complaints == ["train.py: --fp16: fairseq trains in float16 on a GPU alone: leave "
                                "it out, or give --bf16"]


def test_bf16_is_no_wish_for_a_tpu():
    """Neither in the groups of the configuration that fairseq fills in beside `common`."""
    argv = [word for word in MASKED if word not in ("--user-dir", "tnn/fairseq_plugin")]
    cfg = convert_namespace_to_omegaconf(
        options.parse_args_and_arch(options.get_training_parser(), [*argv, "--bf16"]))

    def wishes():
        groups = {name: getattr(cfg, name, None) for name in cfg}
        return {name for name, group in groups.items() if getattr(group, "tpu", False)}

    assert {"common", "criterion", "distributed_training"} <= wishes()
    commands.forget_tpu(cfg)
    assert not wishes()
