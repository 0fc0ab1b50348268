"""Every flag of every script with values that make no sense: exit code 0, or 2 and one clear line;
1 where the numbers are no longer finite. Never a traceback, never a hang."""

import argparse
import importlib
import re
import shutil
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from tests.trust.scripts import SCRIPTS
from tests.trust.test_bad_input import assert_orderly

VALUES = {int: ("-1", "0", "-1000000000000000", "1000000000000000", "99999999999999999999999",
                "nan", "1.5", ""),
          float: ("-1", "0", "1", "2", "-1e30", "1e30", "1e999", "-inf", "nan", "x"),
          str: ("", "nonsense", "-1", "nan", ".", "/proc/nonsense/x", "a b", "nonsense/")}
FOR_EVER = "1000000000000000"  # as many words to generate are no nonsense
ABSURD = {"nan", "inf", "-inf", "1e999", "", "x"}
# No limit; refused as negative; anything negative means "as --dropouth".
MEANT = {("--cap", "1e999"), ("--dropoutl", "-inf")}


@dataclass(frozen=True)
class Tool:
    """A script that trains nothing. `flags`: a sound call on {data} and {trained}, the folder of
    `after`'s finished run."""

    module: str
    flags: str
    after: str = ""


TOOLS = {tool.module: tool for tool in (
    Tool("awd_lstm.pointer", "--data {data}/texts --save {trained}/m.pt --window 9 --no-cuda",
         "awd-main"),
    Tool("awd_lstm.generate", "--data {data}/texts --checkpoint {trained}/m.pt --words 3 --no-cuda",
         "awd-main"),
    Tool("awd_lstm.score", "{trained}/m.pt {data}/texts/test.txt --device cpu", "awd-main"),
    Tool("trellisnet.generate", "--load {trained}/m.pt --data {data}/texts --words 3 --device cpu",
         "word-ptb"),
    Tool("trellisnet.score", "{trained}/m.pt {data}/texts/test.txt --device cpu", "word-ptb"),
    Tool("trellisnet.theorem1", "--steps 4 --hidden 3"),
    Tool("tnn.script_lra", "--dry-run --task listops"),
    Tool("tnn.lra.tasks.listops", "--out out --train 3 --val 2 --test 2 --min-length 5 "
         "--max-length 30 --workers 1"),
    Tool("tnn.lra.tasks.pathfinder", "--out out --images 2 --per-folder 2 --workers 1"))}


class Found(Exception):
    """The parser of a script."""


def actions_of(module: str) -> list[argparse.Action]:
    """A script's flags that take a value."""
    def caught(parser, *_):
        raise Found(parser)
    own = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args
    try:
        argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_known_args = caught
        script = importlib.import_module(module)
        getattr(script, "parse_args", script.main)([])
    except Found as found:
        actions = found.args[0]._actions
    finally:
        argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args = own
    return [action for action in actions if action.option_strings and action.nargs != 0]


class Case(NamedTuple):
    """words: what is typed; number: the flag takes one."""

    flag: str
    value: str
    words: list[str]
    number: bool


def cases_of(module: str, without: str = "") -> list[Case]:
    """A flag that takes several values gets two of the same too, as in an interval of no length."""
    cases = []
    for action in actions_of(module):
        flag, number = action.option_strings[0], action.type in (int, float)
        values = ("nonsense", "") if action.choices else VALUES.get(action.type or str, VALUES[int])
        for value in values:
            if value != without:
                cases.append(Case(flag, value, [f"{flag}={value}"], number))
            if action.nargs not in (None, "?") and not value.startswith("-"):
                cases.append(Case(flag, value, [flag, value, value], number))
    return cases


def assert_sensible(done, case: Case) -> None:
    assert_orderly(done, case.words, codes=(0, 1, 2))
    if case.number and case.value in ABSURD and (case.flag, case.value) not in MEANT:
        assert done.code == 2, f"{case.words}: {done.code}"
    if done.code == 1:
        assert re.search("not finite|is nan|is inf", done.err), f"{case.words}: {done.err}"


few_and_all = pytest.mark.parametrize("count", [10, pytest.param(10_000, marks=[
    pytest.mark.slow, pytest.mark.timeout(7200)])])


@few_and_all
def test_absurd_values(place, script, count):
    rng = place.random("flags", script.name, count)
    cases = cases_of(script.module)
    for case in rng.sample(cases, min(count, len(cases))):
        folder = place.folder(script)
        done = place.server.start(
            script.module, script.argv(folder, place.data, "--max-steps", "1", *case.words),
            folder).wait(60)
        assert_sensible(done, case)
        place.count("bad input", f"absurd flag values: exit {done.code}, no traceback")
        shutil.rmtree(folder)


@few_and_all
@pytest.mark.parametrize("module", TOOLS)
def test_absurd_values_for_a_script_that_trains_nothing(place, module, count):
    tool, rng = TOOLS[module], place.random("flags", module, count)
    trained = place.unbroken(SCRIPTS[tool.after]).folder if tool.after else ""
    words = tool.flags.format(data=place.data, trained=trained).split()
    cases = cases_of(module, FOR_EVER)
    for case in rng.sample(cases, min(count // 5, len(cases))):
        place.folders += 1
        folder = place.home / f"tool-{place.folders}"
        folder.mkdir()
        done = place.server.start(module, [*words, *case.words], folder).wait(60)
        assert_sensible(done, case)
        place.count("bad input", f"absurd flag values: exit {done.code}, no traceback")
        shutil.rmtree(folder)
