"""A checkpoint of fairseq-train holds its dictionary: it is used without its data, and refused
beside those of another dictionary."""

import argparse
import json
import shutil

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

from harness import files
from tests.tnn.lm.conftest import FORK, ROOT
from tests.tnn.lm.test_one_run import start, updates
from texts.vocabulary import pack
from tnn.lm import generate, score


@pytest.fixture(scope="module")
def trained(fairseq, tmp_path_factory):
    """A folder with checkpoint_last.pt; the data that it was trained on are gone."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(FORK / "data-bin", folder / "data")
    done = start(fairseq, folder, data=folder / "data")
    ended = done.wait()
    assert ended.code == 0, ended.err[-3000:]
    shutil.rmtree(folder / "data")
    return folder


@pytest.fixture
def other(tmp_path):
    """The same data with a dictionary of the same words in another order."""
    shutil.copytree(FORK / "data-bin", tmp_path / "other")
    lines = (FORK / "data-bin/dict.txt").read_text().splitlines()
    (tmp_path / "other/dict.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    return tmp_path / "other"


def refusal(data, file):
    return (f"the dictionary in {data} is not the one that {file} was trained with: its words, or "
            "their order, differ")


def test_scored_and_continued_without_the_data(trained, tmp_path, capsys):
    checkpoint, text = str(trained / "checkpoint_last.pt"), tmp_path / "text.txt"
    text.write_text("w00 w01 w02\nw03 zebra\n")
    found, written = [], []
    for where in ([], ["--data", str(FORK / "data-bin")]):
        score.main([checkpoint, str(text), "--json", "--per-token", *where])
        found.append(json.loads(capsys.readouterr().out))
        generate.main([checkpoint, "--prompt", "w01 w02", "--tokens", "9", *where])
        written.append(capsys.readouterr().out)
    assert found[0] == found[1]
    assert found[0]["unknown_words"] == {"zebra": 1}
    assert written[0] == written[1]
    assert written[0].startswith("w01 w02 ")


def test_another_dictionary_is_refused_by_name(trained, other, fairseq, complaint, tmp_path):
    checkpoint = trained / "checkpoint_last.pt"
    line = complaint(generate.main, [checkpoint, "--data", other])
    assert line == f"generate.py: {refusal(other, checkpoint)}"
    evaluated = fairseq.run(
        "fairseq_cli.eval_lm", [other, "--user-dir", ROOT / "tnn/fairseq_plugin", "--path",
                                checkpoint, "--cpu", "--num-workers", "0"], tmp_path,
        call="cli_main")
    assert (evaluated.code, evaluated.line) == (2, f"eval_lm.py: {refusal(other, checkpoint)}")


def test_a_run_goes_on_with_its_own_dictionary_alone(trained, other, fairseq, tmp_path):
    shutil.copy(trained / "checkpoint_last.pt", tmp_path)
    last = tmp_path / "checkpoint_last.pt"
    refused = start(fairseq, tmp_path, "--max-update", "6", data=other).wait()
    assert (refused.code, refused.line) == (2, f"train.py: {refusal(other, last)}")
    assert updates(tmp_path) == 4
    on = start(fairseq, tmp_path, "--max-update", "6").wait()
    assert on.code == 0, on.err[-3000:]
    assert updates(tmp_path) == 6


def test_a_damaged_list_of_words_is_named(trained, complaint, tmp_path):
    content = files.read(trained / "checkpoint_last.pt", safe=(argparse.Namespace,))
    content["extra_state"]["LanguageModelingTask"]["word_list"] = pack(["<s>", "w00"])
    torch.save(content, tmp_path / "x.pt")
    (tmp_path / "text.txt").write_text("w00\n")
    line = complaint(score.main, [tmp_path / "x.pt", tmp_path / "text.txt"])
    assert line == f"score.py: {tmp_path}/x.pt: the file's list of words is damaged"
