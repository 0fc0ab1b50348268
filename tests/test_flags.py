"""The originals' flags are all there, and their defaults are the originals'."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from tests.trust.scripts import SCRIPTS

FROZEN = tomllib.loads((Path(__file__).parent / "flags.toml").read_text(encoding="utf-8"))


def parsed(script: str, *words: str) -> dict:
    return vars(importlib.import_module(script).parse_args(list(words)))


def cases(kind: str) -> list:
    return [pytest.param(script, flag, id=f"{script}--{flag}")
            for script, table in FROZEN.items() for flag in table.get(kind, ())]


@pytest.mark.parametrize(("script", "flag"), cases("values"))
def test_the_default_is_the_originals(script, flag):
    default = FROZEN[script]["values"][flag]
    words = [str(word) for word in (default if isinstance(default, list) else [default])]
    given = parsed(script, f"--{flag}={words[0]}") if len(words) == 1 else \
        parsed(script, f"--{flag}", *words)
    assert given == parsed(script)


@pytest.mark.parametrize("state", ["on", "off"])
@pytest.mark.parametrize("script", FROZEN)
def test_switches_have_both_forms(script, state):
    for flag in FROZEN[script].get(state, ()):
        name = flag.replace("-", "_")
        assert parsed(script, f"--{flag}")[name] is True
        assert parsed(script, f"--no-{flag}")[name] is False
        assert parsed(script)[name] in ({None, True} if state == "on" else {False})


@pytest.mark.parametrize(("script", "flag"), cases("bare"))
def test_plain_switches_are_off_until_given(script, flag):
    name = flag.replace("-", "_")
    assert parsed(script)[name] is False
    weights = ()
    if flag == "eval":  # of which weights?
        weights = ("--resume" if script == "tnn.im.main" else "--load", "m.pt")
    assert parsed(script, f"--{flag}", *weights)[name] is True


@pytest.mark.parametrize(("script", "flag"), cases("paths"))
def test_paths_are_accepted(script, flag):
    given = parsed(script, f"--{flag}", "elsewhere")[flag.replace("-", "_")]
    assert Path(given).name == "elsewhere"


# Those of the machine and of the run, which all training scripts have.
COMMON = ("device", "devices", "precision", "deterministic", "max-steps", "save-interval")


def helps(script: str, capsys) -> dict[str, str]:
    """{flag: what -h says about it, but for the default}."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(script).parse_args(["-h"])
    assert stop.value.code == 0
    found = re.findall(r"^  (?:-\w, )?--([\w-]+)[^\n]*?(?:\n {10,}|  +)(\S[^\n]*)$",
                       capsys.readouterr().out, re.MULTILINE)
    return {flag: re.sub(r" \(default: [^()]*\)$", "", text) for flag, text in found}


def test_common_flags_are_worded_alike(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    scripts = {script.module for script in SCRIPTS.values()}
    said = {script: helps(script, capsys) for script in scripts}
    for flag in COMMON:
        worded = {script: found[flag] for script, found in said.items() if flag in found}
        assert len(worded) >= 10, flag
        assert len(set(worded.values())) == 1, worded
