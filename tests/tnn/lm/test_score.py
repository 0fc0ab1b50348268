"""score.py against fairseq's own reading of the same text: the fork's checkpoint and its data."""

import json

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

from tests.tnn.lm.conftest import FORK
from tnn.lm import score
from tnn.lm.checkpoint import DECODER, load

CHECKPOINT, DATA = FORK / "alm_fork_checkpoint.pt", FORK / "data-bin"


@pytest.fixture(scope="module")
def fairseq_model():
    return load(str(CHECKPOINT), str(DATA), DECODER)


@pytest.fixture(scope="module")
def text(fairseq_model):
    """The test text that the data were made of."""
    from fairseq.data import data_utils
    words = fairseq_model[1].source_dictionary
    lines = data_utils.load_indexed_dataset(str(DATA / "test"), words)
    return "".join(" ".join(words[int(i)] for i in line[:-1]) + "\n" for line in lines)


def scores(tmp_path, text, capsys, *flags, data=DATA):
    (tmp_path / "text.txt").write_text(text)
    where = ["--data", str(data)] if data else []
    score.main([str(CHECKPOINT), str(tmp_path / "text.txt"), "--json", *where, *flags])
    return json.loads(capsys.readouterr().out)


def by_fairseq(model, task, mode):
    """(sum of log-probabilities, tokens) of the test set as fairseq-validate cuts it."""
    task.args.sample_break_mode = mode
    task.load_dataset("test")
    total, count = 0.0, 0
    for i in range(len(task.dataset("test"))):
        item = task.dataset("test")[i]
        with torch.no_grad():
            log_p = model(item["source"][None])[0].log_softmax(-1)[0]
        total += log_p.gather(1, item["target"][:, None]).double().sum().item()
        count += len(item["target"])
    return total, count


@pytest.mark.parametrize(("mode", "flags"), [("none", []), ("eos", ["--independent"])])
def test_the_test_text_gets_the_perplexity_that_fairseq_prints(mode, flags, fairseq_model, text,
                                                               tmp_path, capsys):
    total, count = by_fairseq(*fairseq_model, mode)
    found = scores(tmp_path, text, capsys, *flags)
    assert found["tokens"] == count
    assert found["log_probability"] == pytest.approx(total, rel=1e-6)
    assert found["words"] == count - text.count("\n")


def test_block(text, tmp_path, capsys):
    """A longer block gives more history; blocks of one token the word before alone."""
    known = [scores(tmp_path, text, capsys, "--block", n)["log_probability"] for n in ("1", "9999")]
    assert known[0] != known[1]
    two = scores(tmp_path, "w00 w01\n", capsys, "--block", "1", "--per-token")["sentences"][0]
    line = scores(tmp_path, "w00\n", capsys, "--per-token")["sentences"][0]
    assert two["per_token"][0] == pytest.approx(line["per_token"][0])


def test_unknown_words_and_the_folder_of_the_dictionary(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(FORK)  # the checkpoint says data-bin
    found = scores(tmp_path, "w00 zebra\n", capsys, data=None)
    assert found["unknown_words"] == {"zebra": 1}
    assert found["log_probability"] == scores(tmp_path, "w00 <unk>\n", capsys)["log_probability"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        scores(tmp_path, "w00\n", capsys, data=None)
    assert stop.value.code == 2
    assert "was trained on data-bin, where there is no file" in capsys.readouterr().err


def test_words_of_byte_pairs():
    spelt = {"1": "The", "2": " his", "3": "tory", "4": " ", "5": " x", "6": "\u00e9"}
    tokenise = score.byte_pairs(str.split, lambda tokens: "".join(spelt[t] for t in tokens))
    assert tokenise("1 2 3 4 5 6") == (list("123456"), [True, False, True, False, False, True])
    assert tokenise("") == ([], [])
