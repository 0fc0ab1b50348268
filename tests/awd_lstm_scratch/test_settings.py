"""Flags, the published code's settings, environment.yml."""

import math
from pathlib import Path

import pytest

from awd_lstm.scratch.settings import HYPERPARAMETERS, SWITCHES, destination, parse_args
from awd_lstm.scratch.study.conda import environment

ROOT = Path(__file__).resolve().parents[2]


def test_the_defaults_are_the_papers():
    args = parse_args([])
    assert (args.lr, args.nhid, args.bptt, args.batch_size, args.dropout) == (30, 1150, 70, 20, 0.4)
    assert args.cap == math.inf
    spoiled = (args.sort_chunks, args.mask_per_step, args.detach_regularisers, args.normal_init)
    assert (args.tied, args.average, *spoiled) == (True, True, *[False] * 4)


def test_as_published():
    args = parse_args(["--as-published"])
    for names, _, published, _ in (*HYPERPARAMETERS, *SWITCHES):
        assert getattr(args, destination(names)) == published


def test_one_thing_mended_or_spoiled():
    args = parse_args(["--lr", "30", "--as-published", "--tied"])
    assert (args.lr, args.tied, args.nhid) == (30, True, 1550)
    assert parse_args(["--no-tied"]).tied is False


@pytest.mark.parametrize(("theirs", "ours"), [
    ("--timesteps", "bptt"), ("--non_monotone", "nonmono"), ("--weight_decay", "wdecay"),
    ("--dropout_wts", "wdrop"), ("--dropout_emb", "dropoute"), ("--dropout_inp", "dropouti"),
    ("--dropout_hid", "dropouth")])
def test_the_published_constants_names(theirs, ours):
    assert getattr(parse_args([theirs, "0"] if ours != "bptt" else [theirs, "9"]), ours) in (0, 9)


def test_one_command_line_for_both_directories():
    words = ("--lr 20 --clip 0.2 --epochs 3 --batch_size 40 --bptt 60 --dropout 0.1 --dropouth 0.1 "
             "--dropouti 0.1 --dropoute 0.1 --wdrop 0.1 --seed 3 --nonmono 4 --alpha 1 --beta 2 "
             "--wdecay 0 --emsize 7 --nhid 9 --nlayers 2 --data d --save s --log-interval 8")
    args = parse_args(words.split())
    assert (args.emsize, args.nhid, args.nlayers, args.data, args.save) == (7, 9, 2, "d", "s")


def test_environment_yml_is_up_to_date():
    """make environment.yml after a change of pyproject.toml's dependencies."""
    expected = environment((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == expected
    assert "      - torch>=" in expected
