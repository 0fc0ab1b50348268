"""AS= and ARGS= of make, and --compare."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from report import change, compare
from report.cli import main
from report.errors import UserError
from tests.report.steps import GOOD, record_of, script

ROOT = Path(__file__).resolve().parents[2]
KNOWS = '''
import argparse
p = argparse.ArgumentParser()
for flag in ("--epoch", "--nhid", "--model"):
    p.add_argument(flag)
p.parse_args()
'''


@pytest.fixture
def asked(monkeypatch):
    def ask(name, flags=""):
        monkeypatch.setenv("REPORT_AS", name)
        monkeypatch.setenv("REPORT_ARGS", flags)
    return ask


def test_a_changed_row_runs_under_its_own_name_beside_its_row(rec, tmp_path, asked):
    asked("wider", "--nhid 1500 --lr 5")
    path = script(tmp_path, GOOD)
    assert rec("run", "awd-ptb", "main", "--", path, "--epoch", "5").returncode == 0
    step = record_of(tmp_path, row="awd-ptb-wider")
    assert step["command"] == [path, "--epoch", "5", "--nhid", "1500", "--lr", "5"]
    assert (step["like"], step["changed"]) == ("awd-ptb", "--nhid 1500 --lr 5")
    later = script(tmp_path, KNOWS, "pointer.py")
    assert rec("run", "awd-ptb", "pointer", "--", later, "--epoch", "5").returncode == 0
    # the rate is none of its flags
    assert record_of(tmp_path, "pointer", "awd-ptb-wider")["command"] == [
        later, "--epoch", "5", "--nhid", "1500"]
    done = rec("finish", "awd-ptb", "main", "pointer", "--into", str(tmp_path / "records"))
    assert done.returncode == 0, done.stderr
    assert "changed: --nhid 1500 --lr 5" in done.stdout
    assert re.search(r"main: perplexity 60.95 / 58.80; published for awd-ptb: 61.2 / 58.8",
                     done.stdout), done.stdout
    assert len(list((tmp_path / "records/awd-ptb-wider").glob("*.json"))) == 1
    assert not (tmp_path / "runs/awd-ptb").exists()


def test_flags_without_a_name_would_stand_as_the_row_and_are_refused(rec, asked):
    asked("", "--nhid 8")
    done = rec("run", "awd-ptb", "main", "--", "true")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "needs AS=NAME" in done.stderr


@pytest.mark.parametrize(("name", "flags"), [("../x", ""), ("x y", ""), ("x", "--a 'b")])
def test_bad_words_are_refused(asked, name, flags):
    asked(name, flags)
    with pytest.raises(UserError, match=r"AS=|ARGS="):
        change.asked()


def test_flags_keep_their_values():
    assert change.grouped(["--when", "-1", "5", "--tied", "--lr=3"]) == [
        ["--when", "-1", "5"], ["--tied"], ["--lr=3"]]


def a_run(folder, script_name, *rows):
    folder.mkdir(parents=True)
    lines = ["step,epoch,name,value", *(f"{e},{e},{n},{v}" for e, n, v in rows)]
    (folder / "metrics.csv").write_text("\n".join(lines))
    (folder / "args.json").write_text(json.dumps({"script": script_name}))
    return str(folder)


def test_curves_are_compared_in_one_figure(tmp_path, capsys, monkeypatch):
    a = a_run(tmp_path / "a", "awd_lstm/main.py", (1, "valid_loss", 5), (2, "valid_loss", 4.5))
    b = a_run(tmp_path / "b", "trellisnet/word_PTB/word_ptb.py", (1, "valid_loss", 4.9),
              (2, "valid_loss", 4.4))
    out = tmp_path / "new" / "both.svg"
    assert main(["--compare", a, b, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "validation perplexity" in said
    assert f"{b} main: 2 epochs, last 81.45, best 81.45" in said
    assert out.read_text().count("valid") >= 1
    assert str(out) in said
    # the name of a recorded row
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    assert main(["--compare", a, "awd-ptb-small-lstm", "--out", str(out)]) == 0


@pytest.mark.parametrize("kind", ["alone", "unknown", "other metric", "one point"])
def test_what_cannot_be_compared_is_one_line(tmp_path, capsys, kind):
    a = a_run(tmp_path / "a", "awd_lstm/main.py", (1, "valid_loss", 5))
    b = a_run(tmp_path / "b", "sparse_seq/sequence_labeling/main.py", (1, "valid_acc", 0.5))
    c = a_run(tmp_path / "c", "awd_lstm/main.py", (1, "valid_loss", 6))
    names = {"alone": [a], "unknown": [a, "no-such-run"], "other metric": [a, b],
             "one point": [a, c]}[kind]
    assert main(["--compare", *names, "--out", str(tmp_path / "x.svg")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "x.svg").exists()


def test_makes_own_assembler_is_no_name():
    """AS is `as` to make where nobody gave it."""
    for given, name in (([], ""), (["AS=wider"], "wider")):
        said = subprocess.run(["make", "-pn", "help", *given], cwd=ROOT, capture_output=True,
                              text=True, check=True).stdout
        assert re.search(rf"^REPORT_AS := ?{name}$", said, re.MULTILINE)
