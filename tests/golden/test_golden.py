"""Every recorded case of the originals, run against ours.

Case files lie below the folders of $GOLDEN_DIR (separated like $PATH); by default the committed
copy in tests/golden/cases and, where it exists, ../shared/golden. A file's first folder names its
system; that system's adapters are chosen by the file's name. A file of a built system that no
adapter knows fails. A file that holds several cases has an adapter with a function `parts`, which
names them; the adapter is then called once for each, with its name as the last argument.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.golden import (
    awd_lstm_cases,
    awd_lstm_scratch_cases,
    sparse_seq_cases,
    tnn_im_cases,
    tnn_lra_cases,
    trellisnet_cases,
)

ROOT = Path(__file__).resolve().parents[2]
BUILT = {"awd_lstm": awd_lstm_cases.ADAPTERS,
         "awd_lstm_scratch": awd_lstm_scratch_cases.ADAPTERS,
         "trellisnet": trellisnet_cases.ADAPTERS,
         "sparse_seq": sparse_seq_cases.ADAPTERS,
         "tnn_im": tnn_im_cases.ADAPTERS,
         "tnn_lra": tnn_lra_cases.ADAPTERS}
HAS_FAIRSEQ = find_spec("fairseq") is not None  # Linux x86-64 alone, see README: Installing
if HAS_FAIRSEQ:
    from tests.golden import tnn_lm_cases

    BUILT["tnn_lm"] = tnn_lm_cases.ADAPTERS


def golden_folders() -> list[Path]:
    if "GOLDEN_DIR" in os.environ:
        return [Path(p).resolve() for p in os.environ["GOLDEN_DIR"].split(os.pathsep)]
    return [ROOT / "tests/golden/cases", ROOT.parent / "shared/golden"]


def case_files() -> dict[str, Path]:
    """Path below its golden folder, without suffix -> file; a later folder wins."""
    return {str(path.relative_to(folder).with_suffix("")): path
            for folder in golden_folders()
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".safetensors", ".json")}


def adapters_of(case: str) -> list:
    system, _, name = case.partition("/")
    return [adapter for prefix, adapter in BUILT.get(system, []) if name.startswith(prefix)]


def parameters() -> list:
    found = []
    for case, path in sorted(case_files().items()):
        for adapter in adapters_of(case) or [None]:
            label = f"{case}-{adapter.__name__}" if len(adapters_of(case)) > 1 else case
            if parts := getattr(adapter, "parts", None):
                found += [pytest.param(case, path, adapter, (part,), id=f"{label}/{part}")
                          for part in parts(path)]
            else:
                found.append(pytest.param(case, path, adapter, (), id=label))
    return found


@pytest.mark.parametrize(("case", "path", "adapter", "part"), parameters())
def test_golden(case, path, adapter, part, tmp_path, monkeypatch):
    system = case.partition("/")[0]
    if adapter is None and system not in BUILT:
        pytest.skip("fairseq is not installed" if system == "tnn_lm" else
                    f"{system} is not built yet")
    assert adapter is not None, f"no adapter knows {path}"
    monkeypatch.chdir(tmp_path)
    adapter(path, tmp_path, monkeypatch, *part)


def test_committed_cases_are_there():
    """A clone without the shared folder still proves fidelity."""
    assert len(list((ROOT / "tests/golden/cases/awd_lstm").glob("*.safetensors"))) >= 30
