"""A text that a program writes where a flag says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.endings import BadInput
from harness.outputs import check_output, text_output

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("place", ["missing/out.txt", "folder", "file/out.txt", "new/"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match=f"^--outf {tmp_path}/{place}"):
        check_output("--outf", f"{tmp_path}/{place}")


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(BadInput, match=r"^--outf .*: .* is read-only$"):
        check_output("--outf", str(tmp_path / "out.txt"))


def test_what_is_read_is_not_written_over(tmp_path):
    """Under any of its names."""
    (tmp_path / "m.pt").write_text("a model")
    (tmp_path / "link").symlink_to("m.pt")
    for name in ("m.pt", "link"):
        with pytest.raises(BadInput, match="is the file that is read"):
            check_output("--outf", str(tmp_path / name), str(tmp_path / "m.pt"))
    check_output("--outf", str(tmp_path / "new"), str(tmp_path / "m.pt"))


def test_stopped_half_way_the_old_text_stays(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("mine")

    def interrupted():
        with text_output(str(path)) as out:
            out.write("half")
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "mine"
    with text_output(str(path)) as out:
        out.write("caf\u00e9\n")
    assert path.read_bytes() == b"caf\xc3\xa9\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such pipes")
def test_a_pipe_is_written_into_and_not_replaced(tmp_path):
    """As /dev/null is."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    check_output("--outf", str(path))
    with text_output(str(path)) as out:
        out.write("words\n")
    assert os.read(reader, 100) == b"words\n"
    os.close(reader)
    assert not path.is_file()


def test_standard_output(capfd):
    check_output("--outf", "-")
    with text_output("-") as out:
        out.write("words\n")
    assert capfd.readouterr().out == "words\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
@pytest.mark.parametrize("printing", ["with text_output('-') as out: out.write('a word')",
                                      "print('word ' * 99, flush=True)"], ids=["--outf -", "print"])
def test_a_reader_that_has_enough_is_no_error(printing):
    """`generate.py --outf - | head -1` and `pointer.py | head -1` end without a word."""
    program = ("from harness.endings import orderly_exit\nfrom harness.outputs import text_output\n"
               f"with orderly_exit('generate.py'):\n    {printing}")
    reader, writer = os.pipe()
    run = subprocess.Popen([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE,
                           text=True, cwd=ROOT)
    os.close(writer)
    os.close(reader)
    _, err = run.communicate(timeout=120)
    assert (run.returncode, err) == (129, "")
