"""What the READMEs claim and link to is there."""

import re
import tomllib
from pathlib import Path

import pytest

from report import records
from tests.e2e.test_readme import READMES, ROOT

PAGES = [*READMES, *(path.relative_to(ROOT).as_posix() for path in
                     [*ROOT.glob("results/*.md"), *ROOT.glob("results/*/README.md")])]
FRONT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_images_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:|#", target):
            path = (ROOT / page).parent / target.partition("#")[0]
            assert path.exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_images_have_text_alternatives(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert all(len(alt) > 10 for alt in re.findall(r"!\[([^\]]*)\]\(", text))


def test_the_front_pages_numbers_are_the_records():
    found = {record["row"]: record for record in records.load(ROOT / "results" / "records")}

    def test_of(row, metric, group=None):
        steps = records.groups(found[row]["steps"])
        return records.draws(steps[group] if group else found[row]["steps"][:1], f"test_{metric}")

    first = [test_of(row, "ppl").mean for row in ("awd-ptb-epochs", "awd-ptb-first")]
    later = found["awd-ptb-epochs"]["steps"][1:]
    values = ", ".join(f"{step['final']['test_ppl']:.0f}" for step in later)
    epochs = ", ".join(f"{int(step['step'].removeprefix('epoch-'))}" for step in later)
    assert "{:.0f} and {:.0f} (two runs), then {} (epochs {});".format(
        *first, values, epochs) in FRONT
    rounded = [f"{step['final']['test_ppl']:.0f}" for step in found["awd-ptb-bf16-epochs"]["steps"]
               if step["step"].startswith("epoch-")]
    assert f"in bfloat16 {', '.join(rounded)} (" in FRONT
    smnist = test_of("trellis-smnist-small", "acc")
    assert f"{smnist.mean:.1f} % after 600 updates" in FRONT
    tagging = [test_of(f"sparse-pos-{kind}-conll2000", "acc", "size5")
               for kind in ("sparse", "dense")]
    assert "{0.mean:.1f} +- {0.deviation:.1f} and {1.mean:.1f} +- {1.deviation:.1f} %".format(
        *tagging) in FRONT
    lengths = [step["final"]["test_ppl"] for step in found["tnn-alm-small"]["steps"]
               if step["step"] in ("length-256", "length-512", "length-1024", "length-2048")]
    assert lengths == sorted(lengths, reverse=True)  # trained at 256: falls up to 8 times that


def test_the_front_page_counts_right():
    cases = [path for path in (ROOT / "tests/golden/cases").rglob("*") if path.is_file()]
    assert f"{len(cases)} case files made by running the original programs" in FRONT
    kills = re.search(r"^\| kills \| ([\d,]+) \|", (ROOT / "results/trust.md").read_text(),
                      re.MULTILINE)[1]
    assert f"killed {kills}\n  processes" in FRONT


def test_records_name_no_path_of_the_machine_that_made_them():
    found = [path for path in (ROOT / "results/records").rglob("*.json")
             if '"/' in path.read_text(encoding="utf-8")]
    assert found == []


def test_the_citation_and_the_package_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {project['version']}\n" in cited
    assert f"license: {project['license']}\n" in cited


def test_the_front_page_is_three_screens():
    assert len(FRONT.splitlines()) <= 150
    assert len(Path(ROOT / "README.md").read_text().split("## ")[0].splitlines()) <= 30
