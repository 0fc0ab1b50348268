"""getdata.sh where `make setup` has not run, or not here."""

import importlib.util
import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from getdata.settings import ROOT
from tests.getdata.server import BODY, whole


@pytest.fixture
def bare(tmp_path):
    """A function that calls a copy of getdata.sh with a Python that has only some packages."""
    clone = tmp_path / "clone"
    for package in ("getdata", "harness"):  # of this, what takes the lock
        shutil.copytree(ROOT / package, clone / package,
                        ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "getdata.sh", clone)
    venv.create(tmp_path / "bare", with_pip=False)
    bin_folder = tmp_path / "bare/bin"
    site_packages = next((tmp_path / "bare/lib").glob("python*/site-packages"))

    def call(*arguments, having=(), path=None, **environment):
        for name in having:
            package = Path(importlib.util.find_spec(name).origin).parent
            (site_packages / name).symlink_to(package)
        env = {name: value for name, value in os.environ.items()
               if not name.startswith(("PYTHON", "VIRTUAL_ENV", "VENV"))}
        env |= {"PATH": path or f"{bin_folder}:{os.environ['PATH']}", **environment}
        return subprocess.run([str(clone / "getdata.sh"), *arguments], capture_output=True,
                              text=True, env=env)

    call.bin = bin_folder
    return call


@pytest.mark.parametrize("having", [(), ("filelock",), ("filelock", "requests", "urllib3", "idna",
                                                        "certifi", "charset_normalizer")],
                         ids=["nothing", "filelock", "all but tqdm"])
def test_without_a_package_the_message_says_how_to_install_it(having, site, place, bare):
    site.routes["/a.bin"] = whole(BODY)
    place.one_file(f"{site.url}/a.bin")
    run = bare("toy", having=having)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "is not installed: pip install 'sequence-papers[data]'" in run.stderr
    assert "make setup" in run.stderr
    assert all(".part" in name for name in place.left())
    assert bare("--list").returncode == 0


def test_without_python_the_message_says_make_setup(bare, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "dirname").symlink_to(shutil.which("dirname"))
    (tools / "sh").symlink_to(shutil.which("sh"))
    run = bare("--list", path=str(tools))
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "make setup" in run.stderr
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    run = bare("--list", path=str(tools))
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "older than Python 3.11" in run.stderr
    assert "make setup" in run.stderr


def test_the_environment_that_venv_names_is_used(bare, tmp_path):
    run = bare("--list", path="/usr/bin:/bin", VENV=str(bare.bin.parent))
    assert (run.returncode, run.stderr) == (0, "")
