"""Writes environment.yml at the repository's root, for conda users, from pyproject.toml's lists:
the dependencies and all extras but dev.

    python awd_lstm/scratch/study/conda.py            (make environment.yml)
    conda env create -f environment.yml
    conda activate awdlstm
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

HEAD = """\
# Written by `make environment.yml` from pyproject.toml; do not edit.
name: awdlstm
channels:
  - conda-forge
dependencies:
  - python={python}
  - pip
  - pip:
"""


def environment(pyproject: str) -> str:
    """The text of environment.yml for the text of a pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    python = project["requires-python"].removeprefix(">=")
    extras = project["optional-dependencies"]
    all_of_them = re.findall(r"\w+", extras["all"][0].partition("[")[2])
    listed = [*project["dependencies"], *(each for name in all_of_them for each in extras[name])]
    lines = [f"      - {each}" if ";" not in each else f'      - "{each}"'
             for each in dict.fromkeys(listed) if not each.startswith(project["name"])]
    return HEAD.format(python=python) + "\n".join(lines) + "\n"


def main() -> None:
    text = environment((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (ROOT / "environment.yml").write_text(text, encoding="utf-8")
    print(ROOT / "environment.yml", file=sys.stderr)


if __name__ == "__main__":
    main()
