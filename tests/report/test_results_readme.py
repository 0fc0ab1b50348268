"""The action write: the same inputs give the same README, which claims what was run."""

import json
import re
import shutil
from pathlib import Path

import pytest

from report import needs, plots, published, records
from report.cli import main
from tests.report.steps import make_step

ROOT = Path(__file__).resolve().parents[2]


def write_record(results, row, *steps, name="2025-01-02-some-cpu-abcdef0", **changes):
    """A file under results/records."""
    folder = results / "records" / row
    folder.mkdir(parents=True, exist_ok=True)
    record = {"row": row, "date": steps[-1]["date"], "smoke": False, "steps": steps, **changes}
    (folder / f"{name}.json").write_text(json.dumps(record))


@pytest.fixture
def results(tmp_path):
    """A results folder with the real published.csv and rows.csv and no records."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("published.csv", "rows.csv"):
        shutil.copy(ROOT / "results" / name, folder)
    return folder


def readme(results):
    """Writes and reads the README."""
    assert main(["--results", str(results)]) == 0
    return (results / "README.md").read_text()


def test_published_numbers_belong_to_rows_of_the_architecture():
    lines = published.load(ROOT / "results" / "published.csv")
    assert {line["row"] for line in lines} <= {*published.ROWS, "tnn-lra"}  # a mean of six rows
    assert all(line["source"] for line in lines)
    assert published.targets(lines, "awd-ptb") == {
        ("main", "ppl"): {"valid": "61.2", "test": "58.8"},
        ("finetune", "ppl"): {"valid": "58.8", "test": "56.5"},
        ("pointer", "ppl"): {"valid": "53.2", "test": "52.5"}}


def test_a_target_is_stated_once():
    lines = [x for x in published.load(ROOT / "results" / "published.csv")
             if published.is_target(x)]
    keys = [(x["row"], x["stage"], x["metric"], x["split"]) for x in lines]
    assert len(keys) == len(set(keys))


def test_readme_without_records_says_what_each_row_takes(results):
    text = readme(results)
    assert "| `awd-ptb` | words, PTB: LSTM, fine-tuned, cache | main | perplexity | 61.2 / 58.8 | - | - | a GPU: " in text  # noqa: E501
    assert "| `tnn-glue` | GLUE, fine-tuned | - | - | not at hand | - | - | the model of" in text
    assert text.count("Figure 1: plot only, no table") == 1
    assert "not run here" not in text
    assert all(f"| `{row}` |" in text for row in published.ROWS)


def test_every_row_says_what_it_takes():
    known = needs.load(ROOT / "results" / "rows.csv")
    assert list(known) == list(published.ROWS)
    assert all(need.needs != "-" for need in known.values())


def test_readme_puts_ours_beside_the_published(results):
    write_record(results, "awd-ptb", make_step())
    text = readme(results)
    assert "| main | perplexity | 61.2 / 58.8 | 61.00 / 58.50 | -0.20 / -0.30 | - |" in text
    assert "|  |  | finetune | perplexity | 58.8 / 56.5 | - / - | - | - |" in text
    assert ("| main | 2025-01-02 | abcdef0 | 0 | 2 h 02 min | 900 MB | 12 | 600.00 | 60.00 | 66.5 |"
            in text)
    assert "66 (main, ours); 65 (GP100" in text
    assert "python awd_lstm/main.py --seed 0" in text
    assert "](figures/awd-ptb.svg)" in text
    assert "validation perplexity" in (results / "figures" / "awd-ptb.svg").read_text()


def test_same_inputs_same_bytes(results):
    write_record(results, "awd-ptb", make_step(), make_step(step="finetune"))
    write_record(results, "trellis-ptb", make_step("trellis-ptb"))
    first, path = readme(results), results / "figures" / "awd-ptb.svg"
    drawn = path.read_text()
    assert readme(results) == first
    assert path.read_text() == drawn
    path.write_text(drawn.replace("<svg", "<svg class='by another matplotlib'"))
    readme(results)
    assert "another matplotlib" in path.read_text()  # of the same numbers: not drawn again
    write_record(results, "awd-ptb", make_step(curve=make_step()["curve"][:5]))
    readme(results)
    assert "another matplotlib" not in path.read_text()


def test_a_smaller_run_is_listed_apart(results):
    write_record(results, "awd-ptb-small-lstm", make_step("awd-ptb-small-lstm"))
    write_record(results, "awd-wt2", make_step("awd-wt2"), smoke=True)
    text = readme(results)
    others = text.split("## Small runs")[1]
    assert "61.00" not in text.split("## Small runs")[0]
    assert "| `awd-ptb-small-lstm` | main | - | perplexity | 61.00 | 58.50 | - |" in others
    assert "smoke run" in others
    assert "`python awd_lstm/main.py --seed 0`" in others


def test_a_shrunk_run_never_stands_as_the_published_row(results):
    """`make reproduce-sparse-pos-dense` without the Wall Street Journal reads other data."""
    step = make_step("sparse-pos-dense", shrunk="CoNLL-2000", final={"test_acc": 90.26})
    write_record(results, "sparse-pos-dense", step)
    main_part, others = readme(results).split("## Small runs")
    assert "90.26" not in main_part
    assert "| `sparse-pos-dense` | main | CoNLL-2000 | accuracy, % | - | 90.26 | - |" in others


def test_several_seeds_are_a_mean_and_a_spread_never_the_first(results):
    small = [make_step("sparse-pos-down-conll2000", f"size5-seed{seed}", seed=seed, shrunk="x",
                       curve=[], final={"test_acc": acc})
             for seed, acc in ((1, 54.62), (2, 65.77), (3, 67.54))]
    write_record(results, "sparse-pos-down-conll2000", *small)
    for seed, ppl in ((1, 58.0), (2, 59.0)):
        step = make_step(seed=seed, command=["awd_lstm/main.py", "--seed", str(seed)],
                         final={"valid_ppl": ppl + 2, "test_ppl": ppl})
        write_record(results, "awd-ptb", step, name=f"2025-01-02-seed{seed}")
    text = readme(results)
    assert "| 62.64 +- 7.00 (3 seeds) |" in text
    assert "54.62" not in text
    assert "| 60.50 +- 0.71 (2 seeds) / 58.50 +- 0.71 (2 seeds) | -0.70 / -0.30 |" in text


def test_a_run_with_a_change_stands_beside_its_row_not_in_it(results):
    write_record(results, "awd-ptb-wider", make_step("awd-ptb-wider", changed="--nhid 1500"))
    text = readme(results)
    assert ("| `awd-ptb-wider` | `--nhid 1500` | main | perplexity | 61.00 / 58.50 | "
            "`awd-ptb`: 61.2 / 58.8 |") in text
    assert text.count("61.00 / 58.50") == 1


def test_first_epochs_are_drawn_once_beside_an_outsiders(results):
    shutil.copytree(ROOT / "results" / "others", results / "others")
    first = make_step("awd-ptb-epochs", "epoch-01", shrunk="the first epochs of 500",
                      curve=make_step()["curve"][:1], final={"test_ppl": 325.41})
    second = make_step("awd-ptb-epochs", "epoch-02", shrunk="the first epochs of 500",
                       curve=make_step()["curve"][:2], final={"test_ppl": 221.5})
    write_record(results, "awd-ptb-epochs", first, name="2025-01-01-a")
    write_record(results, "awd-ptb-epochs", first, {**second, "date": "2025-01-03T00:00:00Z"},
                 name="2025-01-03-b")
    text = readme(results)
    both = "ours (epoch 1: 325.41, theirs 337.22; epoch 2: 221.50, theirs 220.76)."
    assert both in text
    assert "not explained" not in text
    low = {**second, "final": {"test_ppl": 202.83}, "date": "2025-01-04T00:00:00Z"}
    write_record(results, "awd-ptb-epochs", first, low, name="2025-01-04-c")
    assert "After epoch 2 ours is 8 % below theirs, which is not explained." in readme(results)
    assert text.count("| `awd-ptb-epochs` | 2 | perplexity | - / 221.50 |") == 1


def test_first_epochs_in_bfloat16_are_told_apart(results):
    shutil.copytree(ROOT / "results" / "others", results / "others")
    first = make_step("awd-ptb-epochs", "epoch-01", shrunk="x", curve=make_step()["curve"][:1],
                      final={"test_ppl": 325.41})
    write_record(results, "awd-ptb-epochs", first)
    name = "awd-ptb-bf16-epochs"
    cache = make_step(name, "pointer", shrunk="x", curve=[], final={"test_ppl": 300.25})
    write_record(results, name, {**first, "row": name, "final": {"test_ppl": 330.5}}, cache)
    text = readme(results)
    assert "ours (epoch 1: 325.41, theirs 337.22)." in text
    assert "In bfloat16: 330.50 after epoch 1." in text
    assert f"| `{name}` | 1 | perplexity | - / 330.50 |" in text
    assert f"| `{name}` | then pointer | perplexity | - / 300.25 |" in text


def test_one_layer_stands_beside_an_outsiders_by_mean_and_spread(results):
    shutil.copytree(ROOT / "results" / "others", results / "others")
    first = make_step("awd-ptb-epochs", "epoch-01", shrunk="x", curve=make_step()["curve"][:1],
                      final={"test_ppl": 325.41})
    write_record(results, "awd-ptb-epochs", first)
    steps = [make_step("awd-ptb-layer1", f"epoch-{n:02}-seed{seed}", seed=seed, shrunk="one layer",
                       curve=make_step()["curve"][:n], final={"test_ppl": ppl + seed})
             for n, ppl in ((1, 250), (10, 106)) for seed in (1, 2, 3)]
    write_record(results, "awd-ptb-layer1", *steps)
    text = readme(results)
    assert ("ours (epoch 1: 252.00 +- 1.00 (3 seeds), theirs 253.44; "
            "epoch 10: 108.00 +- 1.00 (3 seeds), theirs 114.48).") in text
    assert "After epoch 10 ours is 6 % below theirs" in text
    assert (results / "figures" / "layer1.svg").is_file()


def test_released_weights_stand_beside_their_row_not_in_it(results):
    write_record(results, "trellis-ptb-pretrained", make_step(
        "trellis-ptb-pretrained", "eval", like="trellis-ptb", curve=[],
        shrunk="pretrained, evaluated here", final={"valid_ppl": 59.1, "test_ppl": 56.97}))
    text = readme(results)
    assert "| `trellis-ptb` | perplexity | - / 57.0 | 59.10 / 56.97 |" in text
    assert text.count("56.97") == 1


def test_one_point_is_no_curve(results):
    write_record(results, "awd-ptb-first", make_step(
        "awd-ptb-first", shrunk="the first of 500", curve=make_step()["curve"][:1]))
    assert "awd-ptb-first.svg" not in readme(results)
    assert not (results / "figures" / "awd-ptb-first.svg").exists()


def test_a_difference_within_the_seeds_spread_is_noise():
    assert records.is_noise([492.68, 466.53, 469.34], [471.03, 472.36, 471.61])
    assert not records.is_noise([89.0, 88.0, 90.0], [93.6, 93.0, 94.2])
    assert not records.is_noise([89.0], [93.6])  # one run each says nothing about chance


def test_of_two_runs_the_table_shows_the_latest(results):
    late = make_step(date="2025-02-03T00:00:00Z", final={"valid_ppl": 60.0, "test_ppl": 57.0})
    write_record(results, "awd-ptb", late, name="2025-02-03-a")
    write_record(results, "awd-ptb", make_step(), name="2025-01-02-b")
    text = readme(results)
    assert "60.00 / 57.00" in text
    assert "### awd-ptb (2025-01-02)" in text
    assert text.count("](figures/awd-ptb.svg)") == 1


def test_every_image_has_a_text_alternative_and_a_caption(tmp_path):
    """Of the real records, with the real data of others, elsewhere."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    text = readme(tmp_path / "results")
    images = re.findall(r"^!\[(.*)\]\((.*)\)\n\n(.*)$", text, re.MULTILINE)
    assert len(images) > 20
    for alternative, file, caption in images:
        assert len(alternative) > 30
        assert re.fullmatch(r"\*.+\*", caption)
        assert (tmp_path / "results" / file).is_file()
    assert text == (ROOT / "results" / "README.md").read_text(), "`make report` has not been run"


@pytest.mark.parametrize("color", [*plots.COLORS, plots.GREY])
@pytest.mark.parametrize("paper", ["#ffffff", "#1d2228"])
def test_colours_are_seen_on_white_and_on_dark(color, paper):
    def luminance(text):
        parts = [int(text[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4
                            for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05

    both = sorted((luminance(color), luminance(paper)))
    assert both[1] / both[0] >= 3


def test_a_row_of_one_stage_takes_the_number_from_its_last_step(results):
    steps = [make_step("tnn-alm", final={"valid_ppl": 24.0}),
             make_step("tnn-alm", "eval", curve=[], final={"test_ppl": 24.7})]
    write_record(results, "tnn-alm", *steps)
    assert "| main | perplexity | 23.98 / 24.67 | 24.00 / 24.70 |" in readme(results)


@pytest.mark.parametrize("words", [
    ("--html", "x.html"), ("--html", "x.html", "--from", "no/such/folder")])
def test_bad_input_is_one_line(words, capsys):
    assert main(list(words)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_broken_files_are_named(results, capsys):
    write_record(results, "awd-ptb", make_step())
    broken = results / "records" / "awd-ptb" / "x.json"
    broken.write_text("{")
    assert main(["--results", str(results)]) == 2
    assert str(broken) in capsys.readouterr().err


def test_of_a_run_recorded_at_several_epochs_the_longest_line_is_drawn():
    whole = make_step()["curve"]
    steps = [make_step(step=f"epoch-{n:02d}", curve=whole[:n]) for n in (1, 3, 5)]
    other = make_step(step="other", curve=[{"epoch": 1, "valid_ppl": 599.0}])
    assert [len(line.points) for line in plots.series([*steps, other], "valid_ppl")] == [5, 1]


def test_a_later_step_continues_the_curve():
    lines = plots.series([make_step(), make_step(step="finetune")], "valid_ppl")
    assert lines[1].points[:2] == [(12, 50.0), (13, 600.0)]  # joined to the training
