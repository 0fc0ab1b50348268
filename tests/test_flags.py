"""The originals' flags are all there, and their defaults are the originals'."""

import importlib
import tomllib
from pathlib import Path

import pytest

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
    assert parsed(script, f"--{flag}")[name] is True


@pytest.mark.parametrize(("script", "flag"), cases("paths"))
def test_paths_are_accepted(script, flag):
    given = parsed(script, f"--{flag}", "elsewhere")[flag.replace("-", "_")]
    assert Path(given).name == "elsewhere"
