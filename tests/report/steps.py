"""Small fake scripts that are run as steps of a row."""

import json
import textwrap

LOG = """Model total parameters: 24221600
| end of epoch   1 | time: 65.12s | valid loss  5.70 | valid ppl   298.87 | valid bpc    8.223
| end of epoch   2 | time: 64.98s | valid loss  4.11 | valid ppl    60.95 | valid bpc    5.930
| End of training | test loss  4.07 | test ppl    58.80 | test bpc    5.877
"""
CURVES = """
import json, os, pathlib

def curves(name, *rows):
    \"\"\"What the harness does: a run's folder, announced to whoever asked.\"\"\"
    folder = pathlib.Path("logs", name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["step,epoch,name,value", *(f"{epoch},{epoch},{name},{value}"
             for epoch, name, value in rows)]
    (folder / "metrics.csv").write_text("\\n".join(lines))
    (folder / "args.json").write_text(json.dumps({"script": "awd_lstm/main.py"}))
    with open(os.environ["HARNESS_CURVES_LIST"], "a") as file:
        file.write(f"{folder}\\n")
"""
GOOD = f"""{CURVES}
import sys
print({LOG!r})
curves("PTB.pt", (1, "valid_loss", 5.7), (2, "valid_loss", 4.11), (2, "test_loss", 4.0742))
print("argv", sys.argv[1:], "data", pathlib.Path("data").is_symlink())
with open("calls", "a") as file:
    file.write("x")
"""


def script(tmp_path, text, name="main.py"):
    """Writes a fake script and returns its path."""
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def record_of(tmp_path, step="main", row="awd-ptb"):
    """The step's record."""
    return json.loads((tmp_path / "runs" / row / f"{step}.json").read_text())


def make_step(row="awd-ptb", step="main", **changes):
    """A step's record as `run` writes it."""
    curve = [{"epoch": e, "seconds": 60.0 + e, "valid_loss": 6 - e / 10, "valid_ppl": 600.0 / e}
             for e in range(1, 13)]
    record = {
        "row": row, "step": step, "command": ["awd_lstm/main.py", "--seed", "0"], "exit_code": 0,
        "smoke": False, "like": None, "shrunk": None, "artifacts": [], "commit": "abcdef0" * 5,
        "dirty": False, "seed": 0, "date": "2025-01-02T03:04:05Z", "threads": 2,
        "versions": {"python": "3.11.7", "torch": "2.6.0", "numpy": "2.0.0"},
        "hardware": {"cpu": "Some CPU", "cores": 2, "ram_gb": 7.8, "gpus": []},
        "wall_seconds": 7300.0, "peak_rss_mb": 900, "attempts": [], "curve": curve,
        "final": {"valid_ppl": 61.0, "test_ppl": 58.5, "valid_loss": 4.1},
    }
    return {**record, **changes}
