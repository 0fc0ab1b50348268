"""The compiled library: which tensors it takes, life without a compiler, the cache folder."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from kernels import build, library
from kernels.forget_mult import forget_mult, forget_mult_plain

ROOT = Path(__file__).resolve().parents[2]
LOAD = "from kernels import library; assert library.loaded() is not None; print('loaded')"


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and no library loaded yet."""
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "cache"))
    library.loaded.cache_clear()
    yield tmp_path / "cache"
    library.loaded.cache_clear()


def assert_right():
    torch.manual_seed(0)
    sample = torch.rand(5, 2, 9), torch.randn(5, 2, 9), torch.randn(2, 9)
    torch.testing.assert_close(
        forget_mult(*sample), forget_mult_plain(*sample), rtol=2e-6, atol=2e-6)


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """The library as the compiler makes it, once for this file."""
    try:
        folder = tmp_path_factory.mktemp("binary")
        return build._compile(build._compiler(), folder / "kernels.so").read_bytes()
    except build.BuildError:
        pytest.skip("no compiler here")


@pytest.fixture
def builds(binary, monkeypatch):
    """A list that grows with each build; the compiler's seconds are saved."""
    made = []

    def copied(compiler, path):
        made.append(path)
        path.write_bytes(binary)
        path.chmod(0o777)  # as under umask 0
        return path

    monkeypatch.setattr(build, "_compile", copied)
    return made


def start_again():
    library.loaded.cache_clear()
    assert library.loaded() is not None


# ----------------------------------------------------------------------------------- the library
def test_importing_the_package_builds_nothing(tmp_path):
    imports = ("import kernels.forget_mult, kernels.lstm, kernels.masks, kernels.product, "
               "kernels.qrnn_gates, common.splitcross, common.dropout")
    check = "; import torch, kernels.library as k; assert k.loaded.cache_info().currsize == 0"
    check += "; assert kernels.product._onednn_linear.cache_info().currsize == 0"
    env = dict(os.environ, PYTHONPATH=str(ROOT), KERNELS_CACHE=str(tmp_path / "cache"))
    subprocess.run([sys.executable, "-c", imports + check], env=env, check=True)
    assert not (tmp_path / "cache").exists()


def test_available_only_for_one_known_type_on_the_cpu(compiled):
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    assert library.available(single, single)
    assert library.available(double)
    assert not library.available(single, double)
    assert not library.available(single.bfloat16())
    assert not library.available(single.to("meta"))


def test_switched_off_by_the_environment(fresh, monkeypatch):
    monkeypatch.setenv("KERNELS", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not library.available(torch.zeros(1))
        assert_right()
    assert not fresh.exists()


@pytest.mark.parametrize(("compiler", "reason"), [
    ("false", "'false' failed: exit status 1"),
    ("no-such-compiler", "no C\\+\\+ compiler: tried no-such-compiler"),
    ("g++ 'quoted", "CXX=.*is not a command line: No closing quotation"),
    (__file__, "no C\\+\\+ compiler"),  # a file, but no program
])
def test_without_compiler_one_warning_and_the_same_results(fresh, monkeypatch, compiler, reason):
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(UserWarning, match=f"no compiled CPU kernels.*{reason}") as record:
        assert_right()
    assert len(record) == 1
    assert "\n" not in str(record[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_right()


def test_blank_compiler_is_the_default(builds, fresh, monkeypatch):
    monkeypatch.setenv("CXX", "  ")
    start_again()
    assert len(builds) == 1


# ------------------------------------------------------------------------------------- the cache
def test_built_once_and_then_loaded(builds, binary, fresh):
    start_again()
    [kept] = fresh.iterdir()  # and nothing temporary is left
    assert kept.read_bytes() == binary
    assert kept.name.endswith(f"-{len(binary)}-{hashlib.sha256(binary).hexdigest()}.so")
    start_again()
    assert len(builds) == 1
    assert_right()


def test_only_this_user_may_write_whatever_the_umask(builds, fresh):
    before = os.umask(0)
    try:
        start_again()
    finally:
        os.umask(before)
    [kept] = fresh.iterdir()
    assert stat.S_IMODE(fresh.stat().st_mode) == stat.S_IMODE(kept.stat().st_mode) == 0o700
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_again()
    assert len(builds) == 1


@pytest.mark.slow
def test_two_processes_build_at_once(compiled, fresh):
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", LOAD]
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE) for _ in range(2)]
    assert [run.communicate()[0] for run in runs] == [b"loaded\n"] * 2
    assert [p.suffix for p in fresh.iterdir()] == [".so"]


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "one bit": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    "another's": lambda content: content + b"more",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_library_is_built_again(builds, binary, fresh, damage):
    start_again()
    [kept] = fresh.iterdir()
    # Renamed into place, since this process still runs the old one's code.
    (fresh / "damaged").write_bytes(DAMAGES[damage](binary))
    (fresh / "damaged").chmod(0o700)
    os.replace(fresh / "damaged", kept)
    start_again()
    start_again()
    assert len(builds) == 2
    assert kept.read_bytes() == binary
    assert_right()


def test_other_sources_flags_or_cpus_are_another_library(builds, fresh, monkeypatch, tmp_path):
    start_again()
    changes = [("FLAGS", [*build.FLAGS, "-DOTHER"]), ("_cpu", lambda: "another")]
    sources = shutil.copytree(build.FOLDER, tmp_path / "cpp")
    with (sources / "simd.h").open("a") as header:
        header.write("// another")
    for count, (name, value) in enumerate([*changes, ("FOLDER", sources)], start=2):
        monkeypatch.setattr(build, name, value)
        start_again()
        assert len(builds) == len(list(fresh.iterdir())) == count


def open_folder(cache):
    cache.mkdir()
    cache.chmod(0o777)


def open_file(cache):
    library.loaded()
    [kept] = cache.iterdir()
    kept.chmod(0o770)


def file_in_its_place(cache):
    cache.write_text("")


@pytest.mark.parametrize(("hinder", "reason"), [
    (open_folder, "other users may write to"), (open_file, "other users may write to"),
    (file_in_its_place, "File exists")])
def test_cache_that_cannot_be_trusted_or_written(builds, fresh, hinder, reason):
    hinder(fresh)
    library.loaded.cache_clear()
    before = sorted(fresh.iterdir()) if fresh.is_dir() else []
    with pytest.warns(UserWarning, match=f"kernels: no cache .*{reason}.*KERNELS_CACHE") as record:
        assert library.loaded() is not None
    assert len(record) == 1
    assert "\n" not in str(record[0].message)
    assert (sorted(fresh.iterdir()) if fresh.is_dir() else []) == before
    assert_right()


def test_cache_of_another_user(builds, fresh, monkeypatch):
    fresh.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: fresh.stat().st_uid + 1)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert library.loaded() is not None
    assert not list(fresh.iterdir())
