"""Flags that every script has: refusals name them as typed; which may differ on resume."""

import argparse
import subprocess
import sys

import pytest

from harness import flags
from harness.endings import BadInput


def parser() -> argparse.ArgumentParser:
    p = flags.parser("a script")
    p.add_argument("--save", default=None)
    p.add_argument("--data", default="data")
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--batch_size", type=int, default=8)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--nlayers", "-n", type=int, default=2)
    p.add_argument("--drop-path", type=float, default=None)
    p.add_argument("--wdrop", type=float, default=0.5)
    p.add_argument("--clip", type=float, default=0.25)
    p.add_argument("--cap", type=float, default=1.0)
    p.add_argument("--when", type=int, nargs="+", default=[-1])
    p.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.99))
    p.add_argument("--tied", action=flags.OnOff, default=True)
    flags.add_run(p, "logs")
    flags.add_machine(p)
    flags.add_parallel(p)
    return p


def parsed(*words: str) -> flags.Namespace:
    p = parser()
    args = flags.parse(p, list(words), infinite=("cap",))
    flags.check(p, args, positive=("nlayers",), not_negative=("clip",),
                rates=("wdrop", "drop_path"), most={"nlayers": 1000})
    return args


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        parsed(*words)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1].partition("error: ")[2]


@pytest.mark.parametrize(("words", "says"), [
    ("--nlayers 0", "--nlayers must be at least 1, not 0"),
    ("-n -3", "--nlayers must be at least 1, not -3"),
    ("--nlayers 1001", "--nlayers must be at most 1000, not 1001"),
    ("--batch_size 0", "--batch_size must be at least 1, not 0"),
    ("--save-interval 0", "--save-interval must be at least 1, not 0"),
    ("--max-steps -1", "--max-steps must not be negative, not -1"),
    ("--lr 0", "--lr must be positive, not 0.0"),
    ("--lr nan", "--lr must be a finite number, not nan"),
    ("--clip inf", "--clip must be a finite number, not inf"),
    ("--cap nan", "--cap must be a finite number, not nan"),
    ("--betas 0.9 nan", "--betas must be a finite number, not nan"),
    ("--clip -0.1", "--clip must not be negative, not -0.1"),
    ("--wdrop 1", "--wdrop must be in [0, 1), not 1.0"),
    ("--drop-path -0.5", "--drop-path must be in [0, 1), not -0.5"),
    ("--seed -1", "--seed must be in [0, 2**32), not -1"),
    ("--seed 4294967296", "--seed must be in [0, 2**32), not 4294967296"),
    ("--epochs 9999999999999999999", "--epochs 9999999999999999999 is too large"),
    ("--when 1 99999999999999999999", "--when 99999999999999999999 is too large"),
    ("--devices 0", "--devices must be at least 1, not 0"),
    ("--devices 9", "--devices 9 cannot share --batch_size 8"),
    ("--cuda --device cpu", "--cuda and --device cpu contradict each other: give one of them"),
    ("--cuda --device mps", "--cuda and --device mps contradict each other: give one of them"),
    ("--no-cuda --device cuda", "--no-cuda and --device cuda contradict each other: give one of "
                                "them"),
    ("--device tpu", "argument --device: invalid choice: 'tpu' (choose from "),
    ("--nonsense", "unrecognized arguments: --nonsense"),
])
def test_nonsense_is_refused_by_the_name_typed(capsys, words, says):
    assert refused(capsys, *words.split()).startswith(says)


@pytest.mark.parametrize("words", ["--cap inf", "--clip 0", "--cuda --device cuda", "--drop-path 0",
                                   "--no-cuda --device cpu", "--devices 8", "--wdrop 0",
                                   "--max-steps 0", "--no-tied", "--seed 4294967295"])
def test_what_is_at_the_edge_passes(words):
    parsed(*words.split())


def test_flags_that_a_script_lacks_are_not_checked():
    p = flags.parser("another script")
    flags.check(p, flags.parse(p, []), positive=("nlayers",), rates=("wdrop",), most={"depth": 3})


def test_only_values_are_in_the_namespace():
    """It is printed as `Args: ...` and saved."""
    args = parsed("--save", "m.pt")
    assert "typed" not in vars(args)
    assert "defaults" not in vars(args)
    assert args.typed["save_interval"] == "--save-interval"
    assert args.defaults["save"] is None


def test_plain_values():
    args = argparse.Namespace(a=(1, 2.0), b=[["x"], None], c=True, d=complex(1))
    assert flags.plain(args) == {"a": [1, 2.0], "b": [["x"], None], "c": True, "d": "(1+0j)"}


def test_help_costs_no_torch():
    code = ("import sys, harness.flags as f; p = f.parser('x'); f.add_run(p, 'l');"
            "f.add_machine(p); f.add_parallel(p); p.format_help(); f.parse(p, []);"
            "print('torch' in sys.modules, 'numpy' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# ------------------------------------------------------------------------------------ resuming
def resumed(then: dict, *words: str, free=()) -> str:
    """The complaint, '' if there is none."""
    try:
        flags.refuse_other_settings("m.pt.state", then, parsed(*words), free)
    except BadInput as error:
        return str(error)
    return ""


SAVED = flags.plain(parsed("--save", "m.pt"))


@pytest.mark.parametrize("words", [
    "--save n.pt", "--data elsewhere", "--epochs 9", "--max-steps 4", "--save-interval 2",
    "--log-dir x", "--device cpu", "--devices 2", "--no-cuda", "--resume"])
def test_these_may_differ(words):
    assert resumed(SAVED, *words.split()) == ""


@pytest.mark.parametrize(("words", "says"), [
    ("--lr 0.2", "--lr 0.1 there, 0.2 here"), ("--batch_size 9", "--batch_size 8 there, 9 here"),
    ("--seed 2", "--seed 1 there, 2 here"), ("--precision 64", "--precision 32 there, 64 here"),
    ("--when 2 3", "--when [-1] there, [2, 3] here"),
    ("--no-tied", "--tied True there, False here"),
    ("--compile", "--compile False there, True here"), ("-n 3", "--nlayers 2 there, 3 here"),
    ("--deterministic", "--deterministic False there, True here"),
    ("--drop-path 0.1", "--drop-path None there, 0.1 here"),
    ("--lr 0.2 --wdrop 0.1", "--lr 0.1 there, 0.2 here; --wdrop 0.5 there, 0.1 here")])
def test_what_changes_numbers_may_not(words, says):
    assert resumed(SAVED, *words.split()) == (
        f"--resume: m.pt.state was made with other settings ({says}); give the same ones")


def test_a_flag_that_did_not_exist_counts_as_its_default():
    old = {name: value for name, value in SAVED.items() if name not in ("wdrop", "drop_path")}
    assert resumed(old) == ""
    assert "--wdrop 0.5 there, 0.1 here" in resumed(old, "--wdrop", "0.1")
    assert "--drop-path None there, 0.1 here" in resumed(old, "--drop-path", "0.1")


def test_a_flag_that_is_gone_counts_for_nothing():
    assert resumed(SAVED | {"threads": 4}) == ""


def test_a_paper_may_free_its_own(capsys):
    assert resumed(SAVED, "--clip", "9", free=("clip",)) == ""
    assert "--lr" in resumed(SAVED, "--clip", "9", "--lr", "3", free=("clip",))


def test_tuples_and_lists_are_one():
    """A state holds lists."""
    assert resumed(SAVED, "--betas", "0.9", "0.99") == ""
    assert "--betas" in resumed(SAVED, "--betas", "0.9", "0.9")


@pytest.mark.parametrize(("typed", "rate", "said"), [
    (["--optimizer", "adam"], 1e-3, "adam without --lr: 0.001; the default 30 is for SGD\n"),
    (["--optimizer", "Adagrad"], 1e-3, "Adagrad without --lr: 0.001; the default 30 is for SGD\n"),
    (["--optimizer", "AdamW", "--lr", "30"], 30,
     "AdamW with --lr 30.0 will diverge; usual is 1e-3\n"),
    (["--optimizer", "adam", "--lr", "0.01"], 0.01, ""),
    (["--optimizer", "sgd"], 30, ""), ([], 30, "")])
def test_the_rate_of_sgd_is_not_given_to_adam(capsys, typed, rate, said):
    """Adam with a rate of 30 trains to 5e54 without a word."""
    p = flags.parser("toy")
    p.add_argument("--lr", type=float, default=30)
    p.add_argument("--optimizer", default="sgd")
    args = flags.parse(p, typed)
    flags.rate_of_adaptive(args, args.optimizer)
    assert args.lr == rate
    assert capsys.readouterr().err == said


def test_what_is_given_is_known():
    args = parsed("--lr", "0.1", "-n", "2", "--no-tied", "--resume", "--max-steps=3")
    assert args.given == {"lr", "nlayers", "tied", "resume", "max_steps"}  # defaults among them
    assert parsed().given == set()


def test_a_flag_without_effect_is_named_if_it_was_given(capsys):
    args = parsed("--lr", "3", "--no-tied", "--when", "4", "5", "--clip", "0.25")
    flags.say_inert(args, dict.fromkeys(("lr", "tied", "when", "wdrop", "clip"), "here"))
    assert capsys.readouterr().err.splitlines() == [
        "--lr 3.0: no effect, here", "--no-tied: no effect, here", "--when 4 5: no effect, here"]


def test_a_models_own_settings_overrule_flags_that_were_given():
    args = parsed("--lr", "3", "--no-tied", "--wdrop", "0.5")
    own = {"lr": 0.1, "tied": True, "nlayers": 7, "wdrop": 0.5}
    assert flags.overruled(args, own) == ("The model's own settings are used, not --lr 3.0 (model: "
                                          "0.1), --no-tied (model: True)")
    assert flags.overruled(parsed(), own) == ""


def test_what_there_is_to_say_of_a_command_line_is_said_once(monkeypatch, capsys):
    """A script parses it before it imports torch, and again in main()."""
    monkeypatch.setattr(sys, "argv", ["once.py", "--optimizer", "adam"])
    p = flags.parser("toy")
    p.add_argument("--lr", type=float, default=30)
    p.add_argument("--optimizer", default="sgd")
    for _ in range(2):
        args = flags.parse(p)
        flags.rate_of_adaptive(args, args.optimizer)
        assert args.lr == 1e-3
    assert capsys.readouterr().err.count("\n") == 1
