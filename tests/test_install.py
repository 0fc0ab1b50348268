"""What installing and importing costs, and what is said where something is missing."""

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

from harness import extras, home

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
FOLDERS = ["awd_lstm", "common", "getdata", "harness", "kernels", "loading", "report", "sparse_seq",
           "texts", "tnn", "trellisnet"]
PUBLIC = ["awd_lstm", "common", "sparse_seq", "tnn", "trellisnet"]


def python(program: str, *argv, **environment) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program), *map(str, argv)],
                          capture_output=True, text=True, env=env)


# --------------------------------------------------------------------------------- importing
def test_public_names_need_torch_alone():
    """Importing the packages imports no torch; their names import it and none of the extras."""
    done = python("""
        import importlib, sys
        packages = [importlib.import_module(name) for name in sys.argv[1].split()]
        assert not {"torch", "numpy"} & set(sys.modules)
        for package in packages:
            assert set(package.__all__) <= set(dir(package)), package
            for name in package.__all__:
                getattr(package, name)
        print(*{name.split(".")[0] for name in sys.modules})
    """, " ".join(PUBLIC))
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.split())
    assert "torch" in found
    # tqdm is imported by torch itself, where it is installed.
    assert found & {*extras.EXTRAS, "harness", "getdata", "report"} <= {"tqdm"}


def test_other_names_are_not_there():
    import awd_lstm
    with pytest.raises(AttributeError, match="'awd_lstm' has no attribute 'Transformer'"):
        _ = awd_lstm.Transformer


UNIX = ("fcntl", "resource", "pwd", "grp", "termios")
MACHINERY = {"common", "getdata", "harness", "kernels", "loading", "report", "texts"}


@pytest.mark.slow
@pytest.mark.parametrize("folders", [MACHINERY, {*FOLDERS} - MACHINERY],
                         ids=["machinery", "papers"])
def test_every_module_can_be_imported_without_unix(folders):
    """As on Windows, as far as modules and names go."""
    done = python("""
        import importlib, os, signal, sys
        unix = sys.argv[3].split()

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name in unix:
                    raise ModuleNotFoundError(f"No module named '{name}'", name=name)

        sys.meta_path.insert(0, Missing())
        for name in unix:
            sys.modules.pop(name, None)
        import torch, lightning_fabric, tqdm, filelock  # what they need is their affair
        if sys.argv[2] != "machinery":
            import timm.data, torchvision.datasets
        for name in ("SIGHUP", "SIGKILL"):
            delattr(signal, name)
        for name in ("geteuid", "getuid", "killpg", "wait4", "fork", "sched_getaffinity"):
            delattr(os, name)
        for name in sys.argv[1].split():
            importlib.import_module(name)
    """, " ".join(modules(folders)), "machinery" if "harness" in folders else "papers",
        " ".join(UNIX))
    assert done.returncode == 0, done.stderr


def modules(folders: set[str]) -> list[str]:
    """All of these folders, but for what is made to be run or needs fairseq to be imported."""
    paths = (path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(".".join(path.with_suffix("").parts) for path in paths
                  if path.name not in ("__init__.py", "__main__.py", "forget_mult_triton.py",
                                       "figure.py", "ablation_report.py")
                  and "fairseq_plugin" not in path.parts)


# ---------------------------------------------------------------------------- what is missing
MISSING = {
    "awd_lstm/main.py": "train", "awd_lstm/generate.py --outf -": "train",
    "awd_lstm/scratch/main.py": "train", "trellisnet/word_PTB/word_ptb.py": "train",
    "trellisnet/char_PTB/char_ptb.py": "train", "tnn/lra/main.py --task listops": "train",
    "trellisnet/seq_MNIST_CIFAR/seq_mnist_cifar.py": "train", "tnn/im/main.py": "images",
    "sparse_seq/language_modeling/main.py": "train",
    "sparse_seq/sequence_labeling/main.py": "train", "getdata/__main__.py toy": "data",
    "report/__main__.py run row step -- true": "report",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process that has imported torch")
def test_a_missing_package_is_one_line(tmp_path):
    (tmp_path / "toy.toml").write_text(
        '[sets.toy]\nabout = "toy"\nfolder = "toy"\nfiles = [{to = "a", bytes = 1, from = '
        '["http://127.0.0.1:9/a"]}]\n')
    done = python("""
        import os, runpy, sys
        import torch, numpy
        root, *commands = sys.argv[1:]

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in known:
                    raise ModuleNotFoundError(f"No module named '{name}'", name=name)

        from harness.extras import EXTRAS
        known = set(EXTRAS)
        sys.meta_path.insert(0, Missing())
        for command in commands:
            print(flush=True)
            if os.fork() == 0:
                script, *sys.argv[1:] = command.split()
                sys.argv[0] = sys.path[0] = os.path.join(root, script)
                os.dup2(1, 2)
                try:
                    runpy.run_path(sys.argv[0], run_name="__main__")
                    code = 0
                except SystemExit as stop:
                    code = stop.code
                except BaseException:
                    try:
                        sys.excepthook(*sys.exc_info())
                        code = 1
                    except SystemExit as stop:
                        code = stop.code
                sys.stdout.flush()
                print("exit", code, file=sys.stderr, flush=True)
                os._exit(0)
            os.wait()
    """, ROOT, *MISSING, GETDATA_CATALOGUE=str(tmp_path / "toy.toml"), DATA_DIR=str(tmp_path / "d"))
    assert done.returncode == 0, done.stderr
    answers = done.stdout.strip().split("\n\n")
    assert len(answers) == len(MISSING)
    for (command, extra), said in zip(MISSING.items(), answers, strict=True):
        assert f"is not installed: pip install 'sequence-papers[{extra}]'" in said, command
        assert said.splitlines()[-1] == "exit 2", said
        assert "Traceback" not in said
        assert len(said.splitlines()) == 2, said


def test_the_hook_leaves_other_errors_alone():
    done = python("""
        from harness import flags
        flags.parser("")
        import no_such_module
    """)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    done = python("""
        from harness import flags
        flags.parser("")
        raise ModuleNotFoundError("", name="timm.data")
    """, HARNESS_TRACEBACK="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_fairseq_is_said_to_be_missing_where_it_cannot_be_had(monkeypatch):
    error = ModuleNotFoundError(name="fairseq.tasks")
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert "has no wheel for Python 3.13" in extras.advice(error)
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert "pip install 'sequence-papers[lm]'" in extras.advice(error)


def test_every_package_that_is_imported_belongs_to_an_extra():
    """... or to Python; what only Unix has is not imported with a module."""
    known = {*extras.EXTRAS, "torch", "numpy", "fairseq_cli", "triton", "urllib3",
             *FOLDERS}  # urllib3 is part of requests
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                    [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                for top in {name.split(".")[0] for name in names}:
                    assert top in known or top in sys.stdlib_module_names, (path, top)
                    assert top not in UNIX or node not in tree.body, (path, top)


# ------------------------------------------------------------------------- pyproject, a wheel
def test_constraints_pin_every_dependency():
    pins = {line.partition("==")[0].lower().replace("_", "-")
            for line in (ROOT / "constraints.txt").read_text().splitlines()}
    asked = [*PROJECT["project"]["dependencies"],
             *(each for extra in PROJECT["project"]["optional-dependencies"].values()
               for each in extra)]
    names = {re.match(r"[\w-]+", each)[0].lower() for each in asked} - {"sequence-papers"}
    assert names <= pins
    assert {re.match(r"[\w-]+", each)[0] for each in PROJECT["project"]["dependencies"]} == {
        "torch", "numpy"}


def test_all_packages_and_their_files_are_installed():
    found = {".".join(path.parent.relative_to(ROOT).parts) for folder in FOLDERS
             for path in (ROOT / folder).rglob("__init__.py")}
    assert found == set(PACKAGES)
    assert all((ROOT / folder / "py.typed").is_file() for folder in FOLDERS)


def test_places_and_commands_outside_a_checkout(monkeypatch, tmp_path):
    script = ROOT / "awd_lstm/main.py"
    assert home.home(str(script)) == ROOT / "awd_lstm"
    assert home.commands("./getdata.sh ptb") == "./getdata.sh ptb"
    monkeypatch.setattr(home, "CHECKOUT", False)
    monkeypatch.chdir(tmp_path)
    assert home.home(str(script)) == tmp_path
    assert home.commands("./getdata.sh ptb, python tnn/lra/tasks/listops.py --out x") == (
        "python -m getdata ptb, python -m tnn.lra.tasks.listops --out x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_logs_of_a_read_only_checkout_go_to_the_working_directory(tmp_path, monkeypatch, capsys):
    (tmp_path / "checkout").mkdir(mode=0o555)
    monkeypatch.chdir(tmp_path)
    assert home.logs(tmp_path / "checkout/logs") == tmp_path / "logs"
    home.announce(tmp_path / "logs")
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with what a wheel of this tree installs."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"  # setuptools builds in the tree
    no_data = shutil.ignore_patterns("data", "logs", "checkpoints", "__pycache__")
    tree.mkdir()
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=no_data)
        else:
            shutil.copy(ROOT / name, tree / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
                    "-w", folder, tree], check=True, capture_output=True)
    wheel, = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_a_wheel_works_outside_a_checkout(site, tmp_path):
    def run(*words):
        env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1",
               "KERNELS_CACHE": str(tmp_path / "kernels")}
        return subprocess.run([sys.executable, "-P", "-m", *words], cwd=tmp_path, env=env,
                              capture_output=True, text=True)

    before = sorted(site.rglob("*.*"))
    missing = run("awd_lstm.main", "--no-cuda")
    assert missing.returncode == 2
    assert "python -m getdata ptb fetches it" in missing.stderr
    assert run("getdata", "pydoc").returncode == 0
    settings = ("--data data/pydoc --model QRNN --emsize 8 --nhid 8 --nlayers 1 --no-cuda "
                "--epochs 1 --max-steps 2 --save x.pt")
    trained = run("awd_lstm.main", *settings.split())
    assert trained.returncode == 0, trained.stderr
    assert f"logs go to {tmp_path / 'logs'}" in trained.stderr
    assert (tmp_path / "logs/x.pt/metrics.csv").is_file()
    assert list((tmp_path / "kernels").glob("*.so"))
    tool = run("report")
    assert tool.returncode == 2
    assert "published.csv" in tool.stderr
    assert [p for p in sorted(site.rglob("*.*")) if "__pycache__" not in p.parts] == before
