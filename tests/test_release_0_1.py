"""Files of release 0.1 are good for ever: its runs go on under the rebuilt scripts and come to what
they came to with the old ones, its model files and the originals' load, and nothing is lost.

tests/fixtures/release_0_1 has ten stopped runs as the old scripts left them; make.py says how.
RELEASE_0_1=exact in the environment asks for the same bits: on the machine that made the fixtures.
"""

import csv
import hashlib
import importlib
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

FIXTURES = Path(__file__).parent / "fixtures/release_0_1"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/command.json"))
CLOCK = re.compile(r"seconds|^timer/")
SAID = re.compile(r"(?:loss|Acc@1|acc|accuracy|ppl|images:)\D{0,9}([\d.]+)%?")
# Rounding differs between CPUs, and training magnifies it.
CLOSE = {"rel": 1e-4, "abs": 1e-6}
# Adam divides a gradient by its own size: rounding moves a weight by a share of the learning rate
# (0.01), not of the weight.
SINGLE_WEIGHT = 1e-5


class Case:
    """One stopped run, unpacked where a test may change it."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self.command, self.expected = (
            json.loads((FIXTURES / name / f"{kind}.json").read_text())
            for kind in ("command", "expected"))
        shutil.copytree(FIXTURES / "inputs", folder.parent / "data")
        with tarfile.open(FIXTURES / name / "files.tar.xz") as archive:
            archive.extractall(folder, filter="data")

    def run(self, more: str = "") -> None:
        """The command line as typed, with `more` after it."""
        path = self.command["script"].removesuffix(".py").replace("/", ".")
        importlib.import_module(path).main([*self.command["flags"].split(), *more.split()])

    @property
    def state(self) -> Path:
        """Where the present release keeps the training state."""
        return self.folder / self.command["state_now"]

    def hashes(self) -> dict[str, str]:
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture(params=CASES)
def case(request, tmp_path, monkeypatch):
    found = Case(request.param, tmp_path / request.param)
    monkeypatch.chdir(found.folder)
    return found


def rows(folder: Path, after: int) -> dict[tuple, float]:
    """Of all curves below the folder, behind that update."""
    found = {}
    for path in folder.glob("**/metrics.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if int(row["step"]) > after and not CLOCK.search(row["name"]):
                    found[int(row["step"]), int(row["epoch"]), row["name"]] = float(row["value"])
    return found


def assert_rows(case: Case, found: dict[tuple, float], kind: str) -> None:
    expected = {tuple(row[:3]): row[3] for row in case.expected[kind]["rows"]}
    if kind == "bare":  # closing lines name the best model's epoch, which a bare file does not know
        found, expected = ({(step, name): value for (step, _, name), value in each.items()}
                           for each in (found, expected))
    assert set(found) == set(expected)
    assert found == {key: pytest.approx(value, **CLOSE) for key, value in expected.items()}


def assert_ended(case: Case) -> None:
    """The run's curves, counts and weights are those that the old code came to."""
    expected = case.expected["resumed"]
    assert_rows(case, rows(case.folder / "logs", case.command["stop"]), "resumed")
    content = torch.load(case.state, weights_only=True)
    progress = content["progress"]
    assert (progress["step"], progress["epoch"]) == (expected["step"], expected["epoch"])
    weights = {name: value for name, value in content["model"].items() if value is not None}
    assert set(weights) == set(expected["parameters"])
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        parameter = expected["parameters"][name]
        assert list(value.shape) == parameter["shape"]
        assert value.double().flatten()[:3].tolist() == pytest.approx(
            parameter["first"], rel=CLOSE["rel"], abs=SINGLE_WEIGHT)
        size = value.double().abs().sum().item()
        assert value.double().sum().item() == pytest.approx(
            parameter["sum"], abs=CLOSE["abs"] + CLOSE["rel"] * size)
        digest.update(value.contiguous().numpy().tobytes())
    if os.environ.get("RELEASE_0_1") == "exact":
        assert digest.hexdigest() == expected["sha256"]


def assert_nothing_lost(case: Case, before: dict[str, str]) -> None:
    """Every file is there under its name, nothing was set aside; those that a run does not go on
    writing to are as they were."""
    after = case.hashes()
    assert set(before) <= set(after)
    assert not [name for name in after if re.search(r"\.old\d*$", name)]
    state = case.command["state_now"]
    goes_on = {case.command["model"], state, f"{state}.prev"}
    for name, digest in before.items():
        beside = Path(name).parent != Path()   # curves, logs, and what lies in a run's folder
        assert after[name] == digest or beside or name in goes_on, name
    assert f"{state}.prev" in after


# ---------------------------------------------------------------------------------- resuming
def test_a_stopped_run_goes_on(case):
    """Copied elsewhere, as it is here; its state is found under the old name."""
    before = case.hashes()
    case.run("--resume")
    assert_ended(case)
    assert_nothing_lost(case, before)


def test_a_run_goes_on_under_its_new_names(case):
    """Stopped again by the present release, it leaves the old names alone."""
    case.run(f"--resume --max-steps {case.command['stop'] + 2}")
    between = case.hashes()
    assert torch.load(case.state, weights_only=True)["progress"]["step"] == (
        case.command["stop"] + 2)
    case.run("--resume")
    assert_ended(case)
    assert_nothing_lost(case, between)


def test_a_damaged_state_falls_back_to_the_one_before(case, capsys):
    """Under its old name too."""
    path = case.folder / case.command["state"]
    path.write_bytes(path.read_bytes()[:-500])
    case.run("--resume")
    assert "going on from the state before it" in capsys.readouterr().err
    assert_ended(case)


def test_curves_go_on_where_they_were(case):
    """The run was not moved: here the places in its state are changed to where it lies now."""
    path = case.folder / case.command["state"]
    content = torch.load(path, weights_only=True)
    drawn = content.get("metrics") or content["progress"].get("metrics")
    own = (Path("logs", Path(drawn).name) if drawn else
           next(case.folder.glob("logs/**/metrics.csv")).parent.relative_to(case.folder))
    torch.save(moved(content, case, own), path)
    before = {row: value for row, value in rows(case.folder / own, 0).items()
              if row[0] < case.command["stop"]}
    case.run("--resume")
    after = rows(case.folder / own, 0)
    assert {row: value for row, value in after.items() if row[0] < case.command["stop"]} == before
    expected = {tuple(row[:3]) for row in case.expected["resumed"]["rows"]}
    assert {row for row in after if row[0] > case.command["stop"]} == expected


def moved(content: dict, case: Case, curves: Path) -> dict:
    """The state, with the places that it remembers changed."""
    places = {"save": case.folder / case.command["flags"].partition("--save ")[2].split(" ")[0],
              "metrics": case.folder / curves}
    progress = content["progress"]
    if "best_file" in progress:
        progress["best_file"] = str(case.folder / case.command["model"])
    for inside in (content, progress):
        inside |= {key: str(place) for key, place in places.items() if key in inside}
    return content


# ------------------------------------------------------------------------------------- weights
WEIGHTS = [pytest.param(name, kind, id=f"{name}-{kind}") for name in CASES
           for kind in ("bare", "model")
           if json.loads((FIXTURES / name / "command.json").read_text())["bare"]]


@pytest.mark.parametrize(("name", "kind"), WEIGHTS)
def test_weights_load(name, kind, tmp_path, monkeypatch, capsys):
    """An original's bare state_dict, and the release's model file of the same weights, come to what
    they came to."""
    case = Case(name, tmp_path / name)
    given = case.folder / {"bare": "bare.pt", "model": case.command["model"]}[kind]
    (tmp_path / "run").mkdir()
    given.rename(tmp_path / "run/bare.pt")
    monkeypatch.chdir(tmp_path / "run")
    more = case.command["bare"]
    case.run(more if kind == "bare" else more.replace("--load_weight", "--load"))
    numbers = [float(number) for number in SAID.findall(capsys.readouterr().out)[-6:]]
    assert numbers == pytest.approx(case.expected["bare"]["said"], rel=1e-2, abs=1e-3)
    assert_rows(case, rows(tmp_path / "run/logs", 0), "bare")


def test_a_classifier_loads(tmp_path, monkeypatch, capsys):
    """With its order of pixels."""
    case = Case("trellis_images", tmp_path / "trellis_images")
    monkeypatch.chdir(case.folder)
    case.run("--load best.pt --eval")
    loss = torch.load("best.pt", weights_only=True)["test_loss"]
    assert f"Average loss: {loss:.4f}" in capsys.readouterr().out


def test_every_script_is_there():
    scripts = {json.loads((FIXTURES / name / "command.json").read_text())["script"]
               for name in CASES}
    assert len(CASES) == 10
    assert {script.split("/")[0] for script in scripts} == {
        "awd_lstm", "trellisnet", "sparse_seq", "tnn"}
