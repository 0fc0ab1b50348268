"""A run that was stopped and continued gives the same bits as one that never stopped.

The runs below are of 3 epochs with about 12 updates each; they are stopped by --max-steps in the
middle of an epoch, at its end, around the change of the learning rate and the switch to ASGD.
"""

import shutil

import pytest
import torch

from awd_lstm import checkpoint, main, training
from awd_lstm.environment import Interrupted
from tests.awd_lstm.small import train, write_corpus

SCRIPT = {"finetune": "finetune", "finetune-done": "finetune"}
LEARNS = ("--lr", "20", "--dropout", "0.1", "--dropouth", "0.1", "--dropouti", "0.1")
RUNS = {
    # High enough a rate that validation gets worse and --nonmono 0 switches to ASGD.
    "lstm-ntasgd": "--lr 30 --nonmono 0 --epochs 4",
    "gru": "--model GRU",
    "qrnn": "--model QRNN --wdrop 0.1",
    "adam-when": "--optimizer adam --lr 0.01 --when 1 2",
    "no-dropout": "--dropout 0 --dropouth 0 --dropouti 0 --dropoute 0 --wdrop 0",
    "finetune": "--nonmono 5 --epochs 3 --lr 20",
    "finetune-done": "--nonmono 1 --epochs 9 --lr 1000",  # its stopping rule ends it
}
# Compared between runs: not how long it took, nor what may differ on resuming.
TIMES = {"seconds"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Each run once, without a stop; keeps number of updates per epoch."""
    done = {}

    def run(name):
        if name not in done:
            folder = prepared(tmp_path_factory.mktemp(name), name)
            train(SCRIPT.get(name, "main"), folder, *RUNS[name].split())
            done[name] = folder
        return done[name]
    return run


def prepared(folder, name):
    """A folder with texts and, for finetune.py, a trained model (the same each time)."""
    write_corpus(folder / "texts")
    if name in SCRIPT:
        train("main", folder, "--epochs", "1", *LEARNS)
        shutil.rmtree(folder / "logs")
    return folder


def state_name(name):
    return "m.finetune.state.pt" if name in SCRIPT else "m.state.pt"


def facts(path):
    """A file's content without times and the arguments that may differ."""
    content = checkpoint.read(path)
    content.pop("args")
    content.pop("metrics", None)
    content.pop("metrics_size", None)
    for name in TIMES & content.get("progress", {}).keys():
        content["progress"].pop(name)
    return content


def assert_same(a, b, where):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def kept(folder):
    """Files of a run; the state before the last one depends on where the run was stopped."""
    return sorted(p.name for p in folder.iterdir() if p.is_file() and ".prev." not in p.name)


def assert_same_run(folder, expected, name):
    """Model, training state, curves: every file that the run leaves."""
    files = kept(expected)
    assert kept(folder) == files
    for file in files:
        assert_same(facts(folder / file), facts(expected / file), file)
    for curve in (expected / "logs").rglob("metrics.csv"):
        ours = folder / curve.relative_to(expected)
        assert ours.read_text() == curve.read_text()
    logs = [len(list((f / "logs").iterdir())) for f in (folder, expected)]
    assert logs[0] == logs[1]


def epochs_of(folder, name):
    """Updates at the end of each epoch, from the curves of the unbroken run."""
    rows = [line.split(",") for line in
            next((folder / "logs").rglob("metrics.csv")).read_text().splitlines()[1:]]
    return [int(step) for step, _, what, _ in rows if what == "valid_loss"]


# -2, -1: near the end of the first epoch; 0: at it; then after it; and so for the second.
STOPS = [(0, -10), (0, -2), (0, -1), (0, 0), (0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (1, 4)]


@pytest.mark.parametrize("stop", STOPS, ids=[f"epoch{e + 1}{d:+d}" for e, d in STOPS])
@pytest.mark.parametrize("name", RUNS)
def test_stopped_once(unbroken, tmp_path, name, stop):
    expected = unbroken(name)
    ends = epochs_of(expected, name)
    steps = ends[stop[0]] + stop[1]
    folder, script = prepared(tmp_path, name), SCRIPT.get(name, "main")
    train(script, folder, *RUNS[name].split(), "--max-steps", str(steps))
    assert checkpoint.read(folder / state_name(name))["progress"]["step"] == steps
    train(script, folder, *RUNS[name].split(), "--resume")
    assert_same_run(folder, expected, name)


@pytest.mark.parametrize("name", ["lstm-ntasgd", "qrnn", "finetune", "finetune-done"])
def test_stopped_often(unbroken, tmp_path, name):
    """At every third update and then at each of three in a row."""
    expected = unbroken(name)
    folder, script = prepared(tmp_path, name), SCRIPT.get(name, "main")
    resume = []
    for steps in [*range(3, epochs_of(expected, name)[-1], 3), None]:
        limit = [] if steps is None else ["--max-steps", str(steps)]
        train(script, folder, *RUNS[name].split(), *resume, *limit)
        resume = ["--resume"]
    assert_same_run(folder, expected, name)


def test_the_runs_are_what_they_claim(unbroken):
    """The switch to ASGD, the change of rate, several epochs: else the above shows little."""
    state = checkpoint.read(unbroken("lstm-ntasgd") / "m.state.pt")
    assert state["optimizer"]["kind"] == "asgd"
    steps = {s["step"] for s in state["optimizer"]["state"]["state"].values()}
    assert 0 < min(steps) <= max(steps) < state["progress"]["step"]
    adam = checkpoint.read(unbroken("adam-when") / "m.state.pt")
    assert adam["progress"]["lr"] == pytest.approx(1e-4)
    assert {p.name for p in unbroken("adam-when").glob("m.pt.e*")} == {"m.pt.e1", "m.pt.e2"}
    assert len(epochs_of(unbroken("finetune"), "finetune")) == 3
    assert checkpoint.read(unbroken("finetune") / "m.pt")["script"] == "finetune"
    done = checkpoint.read(unbroken("finetune-done") / "m.finetune.state.pt")["progress"]
    assert done["done"]
    assert 3 <= done["epoch"] < 9
    qrnn = checkpoint.read(unbroken("qrnn") / "m.state.pt")
    assert len(qrnn["processes"][0]["prev_x"]) == 2


def test_another_seed_would_be_noticed(unbroken, tmp_path):
    folder = prepared(tmp_path, "gru")
    train("main", folder, *RUNS["gru"].split(), "--seed", "8")
    with pytest.raises(AssertionError):
        assert_same_run(folder, unbroken("gru"), "gru")


@pytest.mark.parametrize("name", ["qrnn", "finetune"])
@pytest.mark.parametrize("where", ["update", "validation", "limit-validation"])
def test_interrupted_by_a_signal(unbroken, tmp_path, monkeypatch, name, where):
    """Ctrl-C in an update, in an epoch's validation, and in the one after --max-steps (which must
    not spoil the state already written: evaluation resets a QRNN's frames)."""
    expected, script = unbroken(name), SCRIPT.get(name, "main")
    folder = prepared(tmp_path, name)
    end = epochs_of(expected, name)[0]
    flags = ["--max-steps", str(end - 3)] if where == "limit-validation" else []
    calls = []

    def stop(run, own=training.stop_if_asked):
        calls.append(run.progress.step)
        at = {"update": end - 4, "validation": end, "limit-validation": end - 3}[where]
        if run.progress.step == at and (where == "update" or calls.count(at) == 3):
            run.stop_signal = 15
        own(run)

    with monkeypatch.context() as patch:
        patch.setattr(training, "stop_if_asked", stop)
        with pytest.raises(SystemExit) as exit_:
            train(script, folder, *RUNS[name].split(), *flags)
    assert exit_.value.code == 143
    train(script, folder, *RUNS[name].split(), "--resume")
    assert_same_run(folder, expected, name)


def test_interrupted_raises_out_of_train(tmp_path, monkeypatch):
    """Callers in the same process (no exit code) can tell."""
    write_corpus(tmp_path / "texts")

    def stop(run):
        raise Interrupted(2)
    monkeypatch.setattr(training, "stop_if_asked", stop)
    monkeypatch.chdir(tmp_path)
    args = main.parse_args(["--data", "texts", "--emsize", "4", "--nhid", "4", "--nlayers", "1",
                            "--batch_size", "4", "--save", "m.pt", "--log-dir", "logs",
                            "--no-cuda"])
    run = main.build(args)
    with pytest.raises(Interrupted):
        main.train(run)


# ---------------------------------------------------------------------------------------- refusals
@pytest.fixture
def stopped(tmp_path):
    write_corpus(tmp_path / "texts")
    train("main", tmp_path, "--max-steps", "4")
    return tmp_path


def refused(capsys, script, folder, *flags, **kwargs):
    capsys.readouterr()
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(SystemExit) as stop:
        train(script, folder, *flags, **kwargs)
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]  # --optimizer adam warns of its lr before
    assert line.startswith(f"{script}.py: --resume")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    return line


@pytest.mark.parametrize("flag", [
    "--lr 6", "--nhid 9", "--wdrop 0.4", "--batch_size 9", "--bptt 16", "--seed 8",
    "--optimizer adam", "--clip 0.5", "--model QRNN", "--when 2 3", "--precision 64"])
def test_other_settings_are_refused(stopped, capsys, flag):
    name, *values = flag.split()
    line = refused(capsys, "main", stopped, "--resume", name, *values)
    assert f"{name} " in line
    assert "here" in line
    assert line.count(" there, ") == 1


@pytest.mark.parametrize("flag", ["--epochs 2", "--log-interval 7", "--save-interval 2",
                                  "--max-steps 6", "--exact-loss"])
def test_these_settings_may_change(stopped, flag):
    train("main", stopped, "--resume", "--max-steps", "5", *flag.split())


def test_other_texts_are_refused(stopped, capsys):
    with (stopped / "texts" / "valid.txt").open("a") as file:
        file.write("w1\n")
    assert "not those trained on so far" in refused(capsys, "main", stopped, "--resume")


def test_moved_texts_are_the_same(stopped):
    """The texts count, not where they lie."""
    shutil.move(stopped / "texts", stopped / "elsewhere")
    train("main", stopped, "--resume", "--max-steps", "5", "--data", str(stopped / "elsewhere"))


def test_state_of_the_other_script_is_refused(stopped, capsys):
    line = refused(capsys, "finetune", stopped, "--resume", str(stopped / "m.state.pt"))
    assert "state of main.py, not of finetune.py" in line


def test_a_model_is_no_state_for_finetune(stopped, capsys):
    line = refused(capsys, "finetune", stopped, "--resume", str(stopped / "m.pt"))
    assert "the model to start from is --save" in line


def test_no_state(tmp_path, capsys):
    write_corpus(tmp_path / "texts")
    for script, state in (("main", "m.state.pt"), ("finetune", "m.finetune.state.pt")):
        line = refused(capsys, script, tmp_path, "--resume")
        assert f"there is no training state {tmp_path / state}; start without --resume" in line


def test_the_best_model_must_still_be_there(tmp_path, capsys):
    """It cannot be made again from the state, which holds the current weights."""
    write_corpus(tmp_path / "texts")
    train("main", tmp_path, "--epochs", "1")
    (tmp_path / "m.pt").unlink()
    line = refused(capsys, "main", tmp_path, "--resume")
    assert f"the best model so far, {tmp_path / 'm.pt'}, is not there" in line


def test_other_number_of_processes_is_refused(stopped, capsys):
    path = stopped / "m.state.pt"
    content = checkpoint.read(path)
    content["processes"] *= 2
    checkpoint.write(path, content)
    assert "of 2 processes, not 1" in refused(capsys, "main", stopped, "--resume")


# ------------------------------------------------------------------------------- files kept, flags
def test_resume_by_path_needs_no_save(stopped, monkeypatch):
    """--resume PATH knows the rest."""
    flags = main.parse_args(["--resume", str(stopped / "m.state.pt"), "--max-steps", "5",
                             "--data", str(stopped / "texts")])
    content = checkpoint.read(stopped / "m.state.pt")
    for name, value in content["args"].items():
        if name not in {"resume", "max_steps", "save"}:
            setattr(flags, name, value)
    run = main.build(flags)
    assert run.args.save == str(stopped / "m.pt")
    assert run.progress.step == 4


def test_earlier_runs_are_set_aside(tmp_path, capsys):
    write_corpus(tmp_path / "texts")
    for seed in "123":
        train("main", tmp_path, "--max-steps", "2", "--seed", seed)
    assert f"{tmp_path / 'm.pt'} is of an earlier run" in capsys.readouterr().out
    seeds = {p.name: checkpoint.read(p)["args"]["seed"] for p in tmp_path.glob("*.pt")}
    assert seeds == {"m.old.pt": 1, "m.old2.pt": 2, "m.pt": 3,
                     "m.state.old.pt": 1, "m.state.old2.pt": 2, "m.state.pt": 3}
    assert {p.name for p in (tmp_path / "logs").iterdir()} == {"m", "m-2", "m-3"}


def test_finetune_keeps_its_input(tmp_path, capsys):
    """It updates --save in place, as the published commands expect."""
    write_corpus(tmp_path / "texts")
    path = train("main", tmp_path, "--epochs", "1", *LEARNS)
    before = path.read_bytes()
    train("finetune", tmp_path, "--epochs", "2", *LEARNS)
    assert f"kept as {tmp_path / 'm.main.pt'}" in capsys.readouterr().out
    assert (tmp_path / "m.main.pt").read_bytes() == before
    assert path.read_bytes() != before
    improved = path.read_bytes()
    train("finetune", tmp_path, "--epochs", "1")
    assert (tmp_path / "m.main.pt").read_bytes() == before
    assert (tmp_path / "m.main2.pt").read_bytes() == improved


def test_finetune_never_continues_an_earlier_runs_state(tmp_path, monkeypatch):
    """Stopped before its first state is written, a new run leaves none to resume."""
    write_corpus(tmp_path / "texts")
    train("main", tmp_path, "--epochs", "1")
    train("finetune", tmp_path, "--epochs", "1")

    def killed(run):
        raise RuntimeError("killed")
    with monkeypatch.context() as patch:
        patch.setattr(training, "one_update", killed)
        with pytest.raises(RuntimeError):
            train("finetune", tmp_path, "--epochs", "1")
    with pytest.raises(SystemExit):
        train("finetune", tmp_path, "--epochs", "1", "--resume")
    assert (tmp_path / "m.finetune.state.old.pt").exists()


@pytest.mark.parametrize("form", ["model", "state_dict"])
def test_resume_from_weights_starts_a_new_run(tmp_path, capsys, form):
    """As the original's --resume in effect: its weights, everything else fresh."""
    write_corpus(tmp_path / "texts")
    first = train("main", tmp_path, "--epochs", "1", save="first.pt")
    weights = checkpoint.read(first)["model"]
    if form == "state_dict":
        first = tmp_path / "bare.pt"
        torch.save(weights, first)
    args = ["--resume", str(first), "--max-steps", "1", "--lr", "1e-9", "--wdrop", "0.3",
            "--dropoute", "0.2"]
    again = train("main", tmp_path, *args, save="again.pt")
    assert "with a fresh optimizer and epoch count" in capsys.readouterr().out
    content = checkpoint.read(again)
    assert (content["config"]["wdrop"], content["config"]["dropoute"]) == (0.3, 0.2)
    for key, value in content["model"].items():
        torch.testing.assert_close(value, weights[key], msg=key)
    assert checkpoint.read(tmp_path / "again.state.pt")["progress"]["step"] == 1


def test_resume_from_a_model_of_other_sizes(tmp_path, capsys):
    write_corpus(tmp_path / "texts")
    first = train("main", tmp_path, "--max-steps", "1", save="first.pt")
    line = refused(capsys, "main", tmp_path, "--resume", str(first), "--nhid", "9",
                   save="again.pt")
    assert "in the weights and" in line


def test_curves_lost_and_found(stopped):
    """The log folder was removed: the run goes on and starts a new file."""
    shutil.rmtree(stopped / "logs")
    train("main", stopped, "--resume", "--max-steps", "8")
    lines = (stopped / "logs" / "m" / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,name,value"
    assert all(int(line.split(",")[0]) > 4 for line in lines[1:])
