"""Text from a model: determined by the seed, limited by --top-k, continued from a prompt."""

import math
import re

import pytest
import torch

from awd_lstm import generate
from awd_lstm.data import Corpus, Dictionary
from awd_lstm.generate import prompt_ids, sample
from awd_lstm.inputs import load_model
from awd_lstm.model import RNNModel
from common.splitcross import SplitCrossEntropyLoss
from harness.endings import BadInput
from tests.awd_lstm.small import save_model, write_corpus

WORDS = 31  # with <eos>


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    write_corpus(folder / "texts")
    for name, kind, splits in (("lstm", "LSTM", []), ("qrnn", "QRNN", []),
                               ("split", "LSTM", [5, 20])):
        torch.manual_seed(0)
        model = RNNModel(kind, WORDS, 6, 8, 2, 0.5, 0.5, 0.5, 0.5, 0.5, tie_weights=True)
        torch.nn.init.normal_(model.encoder.weight)
        criterion = SplitCrossEntropyLoss(6, splits)
        for p in criterion.parameters():
            torch.nn.init.normal_(p)
        save_model(folder / f"{name}.pt", model, criterion,
                   Corpus(folder / "texts").dictionary.digest())
    return folder


def text(folder, tmp_path, *flags, model="lstm", words=50):
    out = tmp_path / "out.txt"
    generate.main(["--data", str(folder / "texts"), "--checkpoint", str(folder / f"{model}.pt"),
                   "--outf", str(out), "--words", str(words), "--no-cuda", *flags])
    return out.read_text(encoding="utf-8")


every_model = pytest.mark.parametrize("model", ["lstm", "qrnn", "split"])


@every_model
def test_same_seed_same_text(folder, tmp_path, model):
    first, again = (text(folder, tmp_path, "--seed", "3", model=model) for _ in range(2))
    other = text(folder, tmp_path, "--seed", "4", model=model)
    assert first == again != other


@every_model
def test_layout(folder, tmp_path, model):
    """A newline after every twentieth word, a space after the others; <eos> literally."""
    words = text(folder, tmp_path, model=model, words=45)
    lines = words.split("\n")
    assert [len(line.split()) for line in lines] == [20, 20, 5]
    known = set(Corpus(folder / "texts").dictionary.idx2word)
    assert set(words.split()) <= known
    assert "<eos>" in text(folder, tmp_path, model=model, words=400)


@every_model
def test_top_1_is_greedy(folder, tmp_path, model):
    """Whatever the seed and the temperature, from one prompt there is one text."""
    texts = {text(folder, tmp_path, "--top-k", "1", "--seed", seed, "--temperature", t,
                  "--prompt", "w3 w4", model=model)
             for seed, t in (("1", "1"), ("2", "1"), ("3", "5"))}
    assert len(texts) == 1


def test_low_temperature_is_greedy(folder, tmp_path):
    """At 1e-3 the scores reach thousands; the original's exp overflowed."""
    greedy = text(folder, tmp_path, "--top-k", "1", "--prompt", "w3")
    assert text(folder, tmp_path, "--temperature", "1e-3", "--prompt", "w3") == greedy


@every_model
def test_the_decoder_is_applied(folder, tmp_path, model):
    """Greedy text equals the argmax of the criterion's probabilities. HEAD sampled from the
    undecoded output: only as many distinct words as the embedding has dimensions."""
    dictionary = Corpus(folder / "texts").dictionary
    net, criterion, _ = load_model(folder / f"{model}.pt")
    net.eval()
    ids = [dictionary.word2idx["w3"]]
    with torch.no_grad():
        for _ in range(10):
            net.reset()
            output, _ = net(torch.tensor(ids)[:, None], net.init_hidden(1))
            ids.append(int(criterion.logprob(net.decoder.weight, net.decoder.bias,
                                             output[-1:]).argmax()))
    expected = " ".join(dictionary.idx2word[i] for i in ids)
    ours = text(folder, tmp_path, "--top-k", "1", "--prompt", "w3", model=model, words=10)
    assert ours.split() == expected.split()


def test_prompt_is_written_and_goes_on(folder, tmp_path):
    out = text(folder, tmp_path, "--prompt", " w3   w7 ", words=10)
    assert out.startswith("w3 w7 ")
    assert len(out.split()) == 12


def test_prompt_of_unknown_words(capsys):
    plain, with_unk = Dictionary(["a", "b"]), Dictionary(["a", "<unk>"])
    assert prompt_ids(with_unk, "a zebra") == [0, 1]
    assert capsys.readouterr().err == "--prompt: zebra read as <unk>\n"
    for prompt, named in (("a zebra", "does not know zebra,"), ("", "at least one"), ("  ", "one")):
        with pytest.raises(BadInput, match=f"--prompt .*{named}"):
            prompt_ids(plain, prompt)


def test_unknown_prompt_exits_2(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        text(folder, tmp_path, "--prompt", "zebra")
    assert stop.value.code == 2
    assert "generate.py: --prompt 'zebra'" in capsys.readouterr().err


def test_stdout_holds_the_text_alone(folder, capfd):
    generate.main(["--data", str(folder / "texts"), "--checkpoint", str(folder / "lstm.pt"),
                   "--outf", "-", "--words", "25", "--log-interval", "10", "--no-cuda"])
    captured = capfd.readouterr()
    assert len(captured.out.split()) == 25
    assert "Generated" not in captured.out
    assert captured.err.count("| Generated") == 3


def test_progress_lines(folder, tmp_path, capsys):
    text(folder, tmp_path, "--log-interval", "20")
    assert capsys.readouterr().out.splitlines() == [
        f"| Generated {i}/50 words" for i in (0, 20, 40)]


def test_no_words(folder, tmp_path):
    assert text(folder, tmp_path, words=0) == ""


# ---------------------------------------------------------------------------------------- sampling
SCORES = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()


def frequencies(temperature, top_k, n=20_000):
    torch.manual_seed(0)
    drawn = torch.cat([sample(SCORES, temperature, top_k) for _ in range(n)])
    return torch.bincount(drawn, minlength=4) / n


@pytest.mark.parametrize(("temperature", "top_k", "expected"), [
    (1.0, 0, [0.1, 0.2, 0.3, 0.4]),
    (1.0, 9, [0.1, 0.2, 0.3, 0.4]),
    (1.0, 2, [0, 0, 3 / 7, 4 / 7]),
    (0.5, 0, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
    (1e6, 3, [0, 1 / 3, 1 / 3, 1 / 3]),
], ids=["plain", "k-above-V", "top-2", "cold", "hot-top-3"])
def test_sample_distribution(temperature, top_k, expected):
    expected = torch.tensor(expected)
    sigma = (expected * (1 - expected) / 20_000).sqrt()
    assert ((frequencies(temperature, top_k) - expected).abs() <= 5 * sigma).all()


@pytest.mark.parametrize("shift", [-1e4, 0, 1e4])
def test_sample_does_not_overflow(shift):
    assert sample(SCORES + shift, 1e-3, 0).item() == 3
    assert math.isfinite(shift)


# ---------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(("value", "words"), [
    *((low, "has to be greater or equal 1e-3") for low in ("0", "0.0009", "-1")),
    ("nan", "must be a finite number")])
def test_temperature(value, words, capsys):
    """The original's words."""
    with pytest.raises(SystemExit) as stop:
        generate.parse_args(["--temperature", value])
    assert stop.value.code == 2
    assert f"--temperature {words}" in capsys.readouterr().err


def test_temperature_at_the_limit():
    assert generate.parse_args(["--temperature", "1e-3"]).temperature == 1e-3


@pytest.mark.parametrize("flags", [["--words", "-1"], ["--top-k", "-1"], ["--log-interval", "0"]],
                         ids=" ".join)
def test_refuses_nonsense(flags):
    with pytest.raises(SystemExit) as stop:
        generate.parse_args(flags)
    assert stop.value.code == 2


@pytest.mark.parametrize(("words", "message"), [
    (20, "knows 31 words, --data .* has 21"), (30, "was trained on other words")])
def test_other_vocabulary_is_refused(folder, tmp_path, capsys, words, message):
    write_corpus(tmp_path / "texts", words=words)
    train = tmp_path / "texts" / "train.txt"
    train.write_text(train.read_text().replace("w0 w1 ", "w1 w0 ", 1))
    with pytest.raises(SystemExit) as stop:
        generate.main(["--data", str(tmp_path / "texts"), "--checkpoint",
                       str(folder / "lstm.pt"), "--outf", str(tmp_path / "o"), "--no-cuda"])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "o").exists()


def test_every_text_starts_afresh(folder):
    """A QRNN remembers its last input frame: the first text must not flavour the second."""
    net, criterion, _ = load_model(folder / "qrnn.pt")
    texts = [list(generate.generate(net, criterion, torch.tensor([[3]]), 8, 1.0, top_k=1))
             for _ in range(2)]
    assert texts[0] == texts[1]
