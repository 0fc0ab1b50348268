"""The page about a folder of runs: complete, in words, harmless, readable."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from report import page_facts, plots, training_curve
from report.cli import main
from tests.report.steps import make_step

NASTY = '<script>alert("x")</script> & co </pre></section> {{ 7 * 7 }} \x1b[31m \u202e'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What the tests ask of a page; raises if a tag is closed that is not open."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def write_steps(folder, *steps):
    """Step files as `run` leaves them; step["losses"] as metrics.csv beside them."""
    for step in steps:
        row = folder / step["row"]
        row.mkdir(parents=True, exist_ok=True)
        losses = step.pop("losses", None)
        if losses:
            curves = row / f"curves-{step['step']}"
            curves.mkdir()
            lines = [f"{10 * i},1,train_loss,{loss}" for i, loss in enumerate(losses, 1)]
            (curves / "metrics.csv").write_text("\n".join(["step,epoch,name,value", *lines]))
            (row / f"{step['step']}.curves").write_text(f"{curves}\n")
        (row / f"{step['step']}.json").write_text(json.dumps(step))


def make_page(tmp_path, capsys, *steps, name="demo"):
    """Calls report --html as a user does -> (page, what it printed)."""
    write_steps(tmp_path / name, *steps)
    out = tmp_path / "out" / "demo.html"
    assert main(["--html", str(out), "--from", str(tmp_path / name)]) == 0
    return out.read_text(), capsys.readouterr().out


def figures_of(text):
    """The SVG texts in a page."""
    return [base64.b64decode(found).decode()
            for found in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)]


def test_the_headline_and_a_card_say_what_was_done(tmp_path, capsys):
    data = tmp_path / "pydoc"
    data.mkdir()
    (data / "train.txt").write_text("a b\n" * 10)
    training = make_step("words-lstm", like="awd-ptb", losses=[9.0, 7.0, 6.5], wall_seconds=100.0,
                         settings={"data": str(data), "model": "LSTM"}, shrunk="2 layers of 128")
    tuning = make_step("words-lstm", "finetune", like="awd-ptb", losses=[6.4, 6.3],
                       wall_seconds=80.0, command=["awd_lstm/finetune.py"],
                       date="2025-01-02T04:00:00Z",
                       final={"valid_ppl": 55.0, "test_ppl": 50.4})
    text, printed = make_page(tmp_path, capsys, training, tuning)
    page = Page(text)
    assert "Demo: all 2 steps of 1 run finished (3 min, 2 cores)" in page.text
    assert ("AWD-LSTM predicts the next word of the docstrings of Python's standard library: "
            "perplexity 50.40 on the test data after fine-tuning; guessing by frequency has 3."
            ) in page.text
    assert "https://arxiv.org/abs/1803.08240" in [a["href"] for a in page.all("a")]
    assert "From start to end: training loss 9.00 \u2192 6.30 nats." in page.text
    assert "Smaller than the published row: 2 layers of 128." in page.text
    assert "main 61.2 / 58.8 perplexity" in page.text  # grey, folded away
    (figure,) = figures_of(text)
    assert "guessing by frequency" in figure
    assert "training loss, nats" in figure
    assert "updates" in figure
    assert re.search(r"awd_lstm +words-lstm +finetune +12 +perplexity +55.00 +50.40 +80 +58.8 / 56",
                     printed)
    assert printed.rstrip().endswith(str(tmp_path / "out" / "demo.html"))


def test_chance_is_named_for_pictures(tmp_path, capsys):
    step = make_step("digits-trellisnet", like="trellis-smnist", losses=[2.3, 1.0, 0.5], curve=[],
                     command=["trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py"],
                     settings={"data": "/x/data/digits"}, final={"test_acc": 82.22})
    text, _ = make_page(tmp_path, capsys, step)
    assert ("TrellisNet reads 8 x 8 pictures of handwritten digits pixel by pixel: 82.22 % of the "
            "test data right; chance is 10 %.") in Page(text).text


def test_hostile_text_stays_text_and_nothing_outside_is_asked_for(tmp_path, capsys):
    folder = tmp_path / "demo" / "awd-ptb-demo"
    folder.mkdir(parents=True)
    (folder / "generated.txt").write_text(NASTY + "\nthe cat sat")
    (folder / "pointer.attempts").write_text("[]")
    step = make_step("awd-ptb-demo", artifacts=["generated.txt", "../../secret.bin"],
                     shrunk=f"64 units {NASTY}", changed=NASTY, losses=[3, 2, 1],
                     settings={"data": NASTY, "model": NASTY}, command=["awd_lstm/main.py", NASTY])
    text, printed = make_page(tmp_path, capsys, step)
    page = Page(text)  # well formed
    assert not page.all("script")
    assert "49" not in re.sub(r'src="[^"]*"', "", text)
    assert page.text.count('<script>alert("x")</script>') >= 4
    assert "the cat sat" in page.text
    for tag, attrs in page.found:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        assert attrs.get("src", "data:image/svg+xml").startswith("data:image/svg+xml")
        assert attrs.get("href", "#").startswith(("#", "https://arxiv.org/abs/"))
    assert not re.search(r"@import|url\(", text)
    assert "Not finished: awd-ptb-demo pointer" in page.text
    assert "Demo: 1 of 2 steps of 1 run finished" in page.text
    assert "not finished: awd-ptb-demo pointer" in printed


@pytest.mark.parametrize("runs", [1, 3, 40])
def test_any_number_of_runs(tmp_path, capsys, runs):
    drawn = min(runs, 4)  # a figure takes a tenth of a second; the others have no curve
    steps = [make_step(f"mine-{i}", command=["my_script.py"], curve=[],
                       losses=[3.0, 2.0 + i, 1.0] if i < drawn else None) for i in range(runs)]
    text, _ = make_page(tmp_path, capsys, *steps, name="runs")
    page = Page(text)
    assert (len(page.all("section")), len(page.all("img"))) == (runs, drawn)
    ids = [attrs["id"] for attrs in page.all("section")]
    assert len(set(ids)) == runs
    assert [a["href"] for a in page.all("a")][:runs] == [f"#{i}" for i in ids]
    assert "Runs: " in page.text
    assert "seconds of training" not in page.text  # that is said of the demo alone
    assert "columns: 2 440px" in text  # one card keeps a card's width


def test_every_figure_has_a_caption_a_text_alternative_and_named_axes(tmp_path, capsys):
    recite = [{"epoch": e, "train_acc": 10.0 * e} for e in range(1, 4)]
    text, printed = make_page(
        tmp_path, capsys, make_step(),
        make_step(step="pointer", curve=[], final={"valid_ppl": 53.0, "test_ppl": 52.0}),
        make_step("sparse-recite-dense", curve=recite, final={}),
        make_step("tnn-speed", curve=[], final={}, command=["bash", "tnn/x.sh"]),
        make_step("one-epoch", curve=[{"epoch": 1, "valid_loss": None, "valid_acc": 50.0}],
                  final={"valid_acc": 50.0}))
    page = Page(text)
    assert "train 30.00" in printed
    assert "30.00 % of the training data right" in page.text
    assert "NaN" not in text
    assert len(page.all("img")) == len(page.all("figcaption")) == 2  # one epoch is no curve
    assert all(len(attrs["alt"]) > 20 for attrs in page.all("img"))
    assert {attrs.get("scope") for attrs in page.all("th")} == {"col", "row"}
    for figure in figures_of(text):
        assert "epoch" in figure
        axes = figure.split('id="matplotlib.axis_2"')  # x, y
        assert all(part.count('id="text_') >= 4 for part in axes)  # three ticks and a title


def test_fine_tuning_is_joined_to_its_training():
    lines = training_curve.joined([("main", [(10, 3.0), (20, 2.0)]), ("finetune", [(5, 1.5)]),
                                   ("eval", [(1, 9.0)])])
    assert lines == [("main", [(10, 3.0), (20, 2.0)]), ("finetune", [(20, 2.0), (25, 1.5)]),
                     ("eval", [(1, 9.0)])]


def test_fairseqs_losses_are_read_from_its_log(tmp_path):
    log = tmp_path / "main.log"
    log.write_text("| epoch 001:  10 / 60 loss=10, nll_loss=9.9, ppl=1024, num_updates=10, lr=1\n"
                   '{"epoch": 1, "loss": "8", "ppl": "256", "num_updates": "20", "lr": "1"}\n'
                   "| epoch 001 | valid on 'valid' subset | loss 9.1 | num_updates 20\n")
    points = training_curve.of_fairseq(log)
    assert [updates for updates, _ in points] == [10, 20]
    assert points[0][1] == pytest.approx(6.931, abs=1e-3)  # nats


def test_a_guess_by_frequency(tmp_path):
    (tmp_path / "train.txt").write_text("a\n" * 8)  # a and <eos>, half each
    assert page_facts.entropy(page_facts.word_counts(tmp_path)) == pytest.approx(0.6931, abs=1e-4)
    (tmp_path / "dict.txt").write_text("a 5\nb 5\nmadeupword0000 0\n")
    assert page_facts.entropy(page_facts.binarised_counts(tmp_path)) == pytest.approx(0.6931, 1e-3)
    (tmp_path / "train.conll").write_text("x N\ny V\n\nz N\nw V\n")
    assert page_facts.entropy(page_facts.tag_counts(tmp_path)) == pytest.approx(0.6931, abs=1e-4)


def test_accuracies_are_on_linear_axes():
    assert not plots.needs_log_axis("test accuracy, %", [1.0, 90.0])
    assert plots.needs_log_axis("validation perplexity", [1.0, 90.0])


def test_every_training_script_is_described():
    root = Path(page_facts.__file__).resolve().parent.parent
    for system in page_facts.SYSTEMS:
        assert (root / system.script).exists()


def test_images_are_shown_with_what_the_model_said(tmp_path, capsys):
    np = pytest.importorskip("numpy")
    data = tmp_path / "digits"
    data.mkdir()
    np.savez(data / "digits.npz", test_images=np.zeros((20, 8, 8)), test_labels=np.arange(20) % 10)
    row = tmp_path / "demo" / "digits-trellisnet"
    row.mkdir(parents=True)
    (row / "predictions.txt").write_text("".join(f"{i % 10} {7 if i == 3 else i % 10}\n"
                                                 for i in range(20)))
    step = make_step("digits-trellisnet", "predict", curve=[], artifacts=["predictions.txt"],
                     command=["trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py", "--data",
                              str(data)], final={"test_acc": 95.0})
    text, _ = make_page(tmp_path, capsys, step)
    assert ("The first 16 test images, above each what the model says; 1 of all 20 are wrong."
            in Page(text).text)
    (figure,) = figures_of(text)
    assert "7, is 3" in figure
    assert figure.count("<image") == 16
    (row / "predictions.txt").write_text(NASTY)  # not what the step wrote
    assert "images, above each" not in make_page(tmp_path, capsys, step)[0]
