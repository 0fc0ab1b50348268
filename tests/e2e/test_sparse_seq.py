"""The scripts of predefined sparseness as a user runs them: the seed's commands, bad days, two
processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import files
from sparse_seq.language_modeling import finetune, main, main_overfit
from sparse_seq.sequence_labeling import main as tagger
from tests.sparse_seq.small import write_sentences, write_texts

ROOT = Path(__file__).resolve().parents[2]
LM, POS = ROOT / "sparse_seq/language_modeling", ROOT / "sparse_seq/sequence_labeling"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
SMALL = ["--emsize", "12", "--nhid", "16", "--batch_size", "6", "--bptt", "9", "--lr", "5",
         "--no-cuda", "--log-interval", "3", "--log-dir", "logs"]


def run(argv, cwd, code=0) -> subprocess.CompletedProcess:
    """Runs a script; its exit code must be `code`, and no traceback may show."""
    done = subprocess.run([sys.executable, *map(str, argv)], cwd=cwd, env=ENVIRONMENT, text=True,
                          capture_output=True, timeout=150, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the two folders of scripts' surroundings: relative paths as in the seed."""
    folder = tmp_path_factory.mktemp("home")
    write_texts(folder / "data/penn", train=900)
    write_sentences(folder / "data/tagged", train=60)
    return folder


# ------------------------------------------------------------------------------- language models
def test_seed_commands_of_the_language_model(home):
    """main, then finetune, sparse: the flags and --save as published, the sizes small."""
    sparse = ["--sparse_mode", "sparse_hidden", "--sparse_fract", "0.66666"]
    save = ["--save", "logs/awd-lstm-sparse", *SMALL]
    done = run([LM / "main.py", *sparse, "--data", "data/penn", "--epochs", "3", *save], home)
    for pattern in (r"^params rnns: [\d.]+M$", r"^params total: [\d.]+M$", r"^Args: Namespace\(",
                    r"^SparseLSTM 16 -> 16: \d blocks", r"^Saving Normal!$",
                    r"^\| epoch   1 \|     3/   18 batches \| lr 5\.00 \| ms/batch +[\d.]+ "
                    r"\| loss +[\d.]+ \| ppl +[\d.]+$",
                    r"^-{89}\n\| end of epoch   3 \| time: +[\d.]+s \| valid loss +[\d.]+ "
                    r"\| valid ppl +[\d.]+\n-{89}$",
                    r"^={89}\n\| End of training \| test loss +[\d.]+ \| test ppl +[\d.]+\n={89}$"):
        assert re.search(pattern, done.stdout, re.M), pattern
    folder = home / "logs/awd-lstm-sparse"
    names = [p.name for p in folder.iterdir() if not p.name.startswith("events")]
    assert sorted(names) == ["args.json", "corpus.pt", "log.txt", "metrics.csv", "model.pt",
                             "optimizer.pt", "scripts", "state.pt", "state.pt.prev"]
    assert (folder / "log.txt").read_text() == done.stdout
    first = files.read(folder / "model.pt")["valid_loss"]
    # finetune reads corpus and model from --save: no --data, and sizes have no effect
    done = run([LM / "finetune.py", *sparse, "--epochs", "2", *save, "--emsize", "99"], home)
    assert "End of training" in done.stdout
    tuned = files.read(folder / "finetune_model.pt")
    assert tuned["valid_loss"] <= first
    assert tuned["config"]["emsize"] == 12
    assert files.read(folder / "model.pt")["valid_loss"] == first


def test_seed_commands_of_learning_to_recite(home):
    done = run([LM / "main_overfit.py", "--data", "data/penn", "--save", "logs/recite",
                "--emblocks", "4", "--emdensity", "0.5", "--sparse_mode", "sparse_all",
                "--sparse_fract", "0.5", "--epochs", "2", *SMALL], home)
    rates = re.findall(r"^Epoch (\d)  -   (\d+)/(\d+) train items correctly predicted;  "
                       r"accuracy (0\.\d{3})$", done.stdout, re.M)
    assert [epoch for epoch, *_ in rates] == ["1", "2"]
    assert all(f"{int(c) / int(n):.3f}" == a for _, c, n, a in rates)
    assert "lr 4.85" in done.stdout
    assert "valid loss" not in done.stdout


def test_scripts_from_their_own_folder():
    """Files called model, data, utils are found as those of the right folder; -h and a typing
    mistake are answered without torch."""
    for folder, script in ((LM, "main.py"), (LM, "finetune.py"), (LM, "main_overfit.py"),
                           (POS, "main.py"), (POS, "figure.py")):
        code = ("import runpy, sys; sys.argv = [{0!r}, {1!r}]\n"
                "try: runpy.run_path({0!r}, run_name='__main__')\n"
                "except SystemExit as end: assert 'torch' not in sys.modules; raise")
        found = run(["-c", code.format(script, "-h")], folder)
        assert script == "figure.py" or explained(found.stdout)
        assert "unrecognized arguments: --lrr" in run(
            ["-c", code.format(script, "--lrr")], folder, 2).stderr


@pytest.mark.parametrize("script", [main, finetune, main_overfit, tagger])
def test_every_flag_is_explained(script, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(["-h"])
    explained(capsys.readouterr().out)


def explained(text):
    assert len(re.findall(r"^  (-\S.*)$", text, re.M)) > 20
    assert re.findall(r"^  (-\S+(?: \S+)?)\n(?=  -|\n|\Z)", text, re.M) == []
    return True


# By default tests/trust sends both signals to every script.
@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
                         ids=["Ctrl-C", "SIGTERM"])
def test_asked_to_stop(home, signum, code):
    save = f"logs/stop{code}"
    argv = [LM / "main.py", "--data", "data/penn", "--epochs", "9000", "--save", save, *SMALL]
    process = subprocess.Popen([sys.executable, *map(str, argv)], cwd=home, env=ENVIRONMENT,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith("| epoch   1 |"):
            break
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert f"--resume ({save}/state.pt)" in out
    assert files.read(home / save / "state.pt")["progress"]["step"] > 0


def test_bad_input(home, tmp_path, monkeypatch, capsys):
    """One line that names the flag, exit code 2."""
    shutil.copytree(home / "data/penn", tmp_path / "latin")
    (tmp_path / "latin/valid.txt").write_bytes(b"caf\xe9 \n")
    monkeypatch.chdir(home)
    for flags, message in (
            (["--data", "nowhere/penn"], "--data: no train.txt in nowhere/penn; ./getdata.sh ptb"),
            (["--data", tmp_path / "latin"], "is not UTF-8 text"),
            (["--data", "data/penn", "--emblocks", "9", "--emdensity", "0.05"], "needs a density"),
            (["--data", "data/penn", "--save", "data/penn/train.txt"],
             "--save data/penn/train.txt: File exists")):
        assert refused(main, ["--save", "logs/bad", *SMALL, *map(str, flags)], capsys).count(
            message) == 1
    assert "--save: there is no file nothing-there/corpus.pt" in refused(
        finetune, ["--save", "nothing-there", *SMALL], capsys)
    assert "--save: there is no file nothing-there/model.pt" in refused(
        finetune, ["--save", "nothing-there", "--data", "data/penn", *SMALL], capsys)
    assert not Path("nothing-there").exists()


def refused(script, argv, capsys) -> str:
    """The one line that a script ends with, and the exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        script.main(argv)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    return error


# By default tests/trust/test_parallel.py holds several processes against one.
@pytest.mark.slow
def test_two_processes(home, monkeypatch):
    """torchrun's way: the losses of one process, within rounding (no dropout)."""
    none = [word for name in ("dropout", "dropouth", "dropouti", "dropoute", "wdrop")
            for word in (f"--{name}", "0")]
    common = ["--data", "data/penn", "--epochs", "2", *none, *SMALL]
    run([LM / "main.py", "--save", "logs/two", *common, "--devices", "2"], home)
    monkeypatch.chdir(home)
    main.main(["--save", "logs/one", *common])
    one, two = (files.read(home / f"logs/{n}/model.pt")["model"] for n in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3)


# ---------------------------------------------------------------------------------------- tagger
def test_seed_commands_of_the_tagger(home):
    flags = ["--emsize", "20", "--emb_density", "0.25", "--emb_blocks", "20", "--nhid", "10",
             "--epochs", "2", "--dropouti", "0.2", "--wdrop", "0.2", "--vocab_order", "down"]
    done = run([POS / "main.py", *flags, "--data", "data/tagged", "--save",
                "logs/pos_sparse_vocab_down", "--log-dir", "logs"], home)
    for pattern in (r"^number of tokens in vocab: \d\d$", r"^word embeddings: 0\.000M params; rnn "
                    r"0\.003M params; total 0\.003M params\.$",
                    r"^Epoch 2: train loss [\d.]+, valid acc [\d.]+$",
                    r"^Finished: test accuracy after last epoch: [\d.]+$"):
        assert re.search(pattern, done.stdout, re.M), pattern


@pytest.mark.slow
def test_tagger_on_two_processes(home, monkeypatch, capsys):
    """Each sentence counts once: the accuracies of one process, the losses within rounding."""
    common = ["--data", "data/tagged", "--epochs", "2", "--emsize", "6", "--nhid", "5",
              "--batch_size", "7", "--log-dir", "logs", "--device", "cpu"]
    two = run([POS / "main.py", *common, "--save", "logs/pos2", "--devices", "2"], home).stdout
    monkeypatch.chdir(home)
    tagger.main([*common, "--save", "logs/pos1"])
    one, two = ([float(x) for x in re.findall(r"train loss ([\d.]+)", text)]
                for text in (capsys.readouterr().out, two))
    assert len(one) == 2
    assert one == pytest.approx(two, abs=1e-5)


def test_tagger_bad_input(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    said = refused(tagger, ["--data", "nowhere", "--save", "logs/bad"], capsys)
    assert re.fullmatch(r"main\.py: --data: no train\.conll .* in nowhere; \./getdata\.sh pos "
                        r"fetches what it knows\n", said)
