"""Every command of every README and page of docs/ is one that works: its flags parse, and shrunk it
runs.

A command stands in an indented or fenced block. Whatever else a block holds is Python, run as it
stands, or BibTeX. The commands of a README run in order, in a copy of the repository, with `cd`
obeyed.
"""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from report import cli

ROOT = Path(__file__).resolve().parents[2]
READMES = sorted(path.relative_to(ROOT).as_posix() for pattern in
                 ("*.md", "docs/*.md", "[a-z]*/README.md", "[a-z]*/[a-z]*/README.md")
                 for path in ROOT.glob(pattern)
                 if path.relative_to(ROOT).parts[0] not in ("results", "runs", "data", "tests"))
PYDOC, DIGITS, TAGGING = (str(ROOT / "data" / name) for name in ("pydoc", "digits", "tagging"))
LM = f"--data {PYDOC} --batch_size 80 --max-steps 2 --log-interval 1"
TRELLIS = f"--data {PYDOC} --nhid 16 --nlevels 4 --aux_freq 2 --max-steps 2 --log-interval 1"
LRA = (f"--data {ROOT}/data --data-folder listops --n-layers 1 --d-model 16 --batch-size 8 "
       "--workers 0 --train-limit 40 --eval-limit 8 --l-max 64 --max-steps 2")
SHRINK = {  # script: what is appended to its command
    "awd_lstm/main.py": f"{LM} --emsize 8 --nhid 8",
    "awd_lstm/finetune.py": LM,
    "awd_lstm/pointer.py": f"--data {PYDOC} --window 5",
    "awd_lstm/generate.py": f"--data {PYDOC} --words 5",
    "awd_lstm/scratch/main.py": f"{LM} --emsize 8 --nhid 8 --train_rows 100 --window 5",
    "trellisnet/word_PTB/word_ptb.py":
        f"{TRELLIS} --emsize 8 --nout 8 --horizon 4 --seq_len 12 --batch_size 80",
    "trellisnet/word_WT103/word_wt103.py":
        f"{TRELLIS} --emsize 8 --nout 8 --horizon 4 --seq_len 12 --batch_size 80",
    "trellisnet/char_PTB/char_ptb.py":
        f"{TRELLIS} --data {PYDOC}-char --emsize 8 --nout 8 --horizon 4 --seq_len 12 "
        "--batch_size 80",
    "trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py":
        f"--data {DIGITS} --nhid 8 --nlevels 2 --dilation 1 2 --max-steps 2",
    "trellisnet/theorem1.py": "",
    "sparse_seq/language_modeling/main.py": f"{LM} --emsize 40 --nhid 60",
    "sparse_seq/language_modeling/main_overfit.py": f"{LM} --emsize 40 --nhid 60",
    "sparse_seq/language_modeling/finetune.py": "--batch_size 80 --max-steps 2",
    "sparse_seq/sequence_labeling/main.py": f"--data {TAGGING} --epochs 1 --max-steps 2",
    "tnn/script_lra.py": LRA,
    "tnn/lra/main.py": LRA,
    "tnn/speed_test.py": "--lengths 128 --steps 1 --out figures",
}
# Files and machines that only a user has: of these commands the flags alone are tested.
OF_THE_USER = ("pretrained", "HOST", "/my/", "mine.txt", "checkpoint_best", "wikitext-103",
               "tnn_v2_decay",
               "prepare_glue", "predict_glue", "train_lra.sh", "tnn/lra/tasks/listops.py --out DIR",
               "awd-ptb-wider", "pip install")


REPORT = "python -m report "


def blocks(readme: str) -> list[str]:
    """The indented and the fenced blocks, without their margin."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    fenced = [block for language, block in
              re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
              if language != "bibtex"]
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:(?<=\n\n)|\A)((?: {4}.*\n|\n(?= {4}))+)", rest)
    return fenced + [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in indented]


def is_python(block: str) -> bool:
    try:
        return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(block).body)
    except SyntaxError:
        return False


def commands(readme: str) -> list[str]:
    """The commands, one a line, without comments."""
    lines = "\n".join(b for b in blocks(readme) if not is_python(b)).replace("\\\n", " ")
    return [line for line in (re.sub(r"(^|\s)# .*", "", line).strip() for line in
                              lines.splitlines()) if line]


def walk(readme: str) -> list[tuple[str, str]]:
    """(folder below the root, command) with `cd` obeyed."""
    folder, found = Path(), []
    for command in commands(readme):
        if command.startswith("cd "):
            folder = Path(os.path.normpath(folder / command[3:]))
        else:
            found.append((folder.as_posix(), command))
    return found


def script_of(folder: str, command: str) -> tuple[str | None, list[str]]:
    """(script below the root, its arguments) of a command that runs a Python script."""
    words = shlex.split(command)
    place = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    if place is None:
        return None, []
    return os.path.normpath(Path(folder, words[place])), words[place + 1:]


def listed(kind: str) -> list:
    found = [(readme, *step) for readme in READMES for step in walk(readme)]
    return [pytest.param(*step, id=f"{step[0]}: {step[2][:70]}") for step in found
            if (step[2].startswith(("make", "SMOKE=1 make")) if kind == "make" else
                "getdata.sh" in step[2] if kind == "getdata" else
                REPORT in step[2] if kind == "report" else
                script_of(*step[1:])[0] is not None)]


@pytest.mark.parametrize(("readme", "folder", "command"), listed("python"))
def test_the_flags_are_known(readme, folder, command):
    script, words = script_of(folder, command)
    assert (ROOT / script).is_file()
    parse = importlib.import_module(script.removesuffix(".py").replace("/", ".")).parse_args
    parse([word for word in words if word != "-h"])


@pytest.mark.parametrize(("readme", "folder", "command"), listed("make"))
def test_the_make_targets_exist(readme, folder, command):
    words = shlex.split(command.partition("&&")[0])
    words = words[words.index("make"):]  # what stands before it is the environment's
    done = subprocess.run([*words, "-n", f"VENV={sys.prefix}"], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("readme", "folder", "command"), listed("getdata"))
def test_the_data_sets_are_known(readme, folder, command):
    sets = tomllib.loads((ROOT / "getdata" / "catalogue.toml").read_text())["sets"]
    words = shlex.split(command)
    names = words[words.index("./getdata.sh") + 1:]
    assert set(names) <= {*sets, "--list"}


@pytest.mark.parametrize(("readme", "folder", "command"), listed("report"))
def test_the_report_understands(readme, folder, command):
    ours, _ = cli.split_arguments(shlex.split(command)[3:])
    cli.build_parser().parse_args(ours)


@pytest.mark.parametrize("readme", READMES)
def test_every_command_is_of_a_kind_that_is_tested(readme):
    for folder, command in walk(readme):
        script, _ = script_of(folder, command)
        assert (script or "getdata.sh" in command or " bash " in f" {command}" or REPORT in command
                or re.match(r"(\w+=\S+ )*make\b|pip |fairseq-", command)), command


@pytest.mark.parametrize("readme", READMES)
def test_the_python_of_the_readme_runs(readme):
    """Those on a checkpoint of the user's are run by tests/tnn/lm/test_fairseq_commands.py."""
    for block in filter(is_python, blocks(readme)):
        if any(word in block for word in OF_THE_USER):
            continue
        subprocess.run([sys.executable, "-c", block], cwd=ROOT, check=True, timeout=120)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """What git knows or would add, elsewhere; the data, all of them embedded, are linked."""
    subprocess.run([sys.executable, "-m", "getdata", "pydoc", "pydoc-char", "digits", "tagging",
                    "listops"], cwd=ROOT, check=True, capture_output=True)
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                           cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    target = tmp_path_factory.mktemp("copy")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / "data").symlink_to(ROOT / "data")
    return target


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("readme", READMES)
def test_the_commands_run_in_order_shrunk(readme, copy):
    env = os.environ | {"OMP_NUM_THREADS": "1", "SMOKE": "1", "PYTHON": sys.executable,
                        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    for folder, command in walk(readme):
        script, _ = script_of(folder, command)
        if "getdata.sh" in command or "make" in command or any(w in command for w in OF_THE_USER):
            continue
        if script is not None:
            command = f"{command.replace('per-node 4', 'per-node 2')} {SHRINK.get(script, '')}"
        done = subprocess.run(["bash", "-c", command], cwd=copy / folder, env=env, text=True,
                              capture_output=True, timeout=600, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
