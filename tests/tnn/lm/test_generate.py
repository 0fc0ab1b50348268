"""generate.py, by what can be wrong with its input: one line, exit code 2, nothing written."""

import os

import numpy as np
import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

import tnn.fairseq_plugin  # noqa: F401  names what a checkpoint may hold
from harness import files
from tnn.lm import generate


def call(folder, *more, checkpoint="fork.pt"):
    return [folder / checkpoint, "--data", folder, "--tokens", "5", *more]


@pytest.fixture
def written(capsys):
    """The text of a run that ends well, and what it said on stderr."""
    def run(argv):
        generate.main([str(word) for word in argv])
        said = capsys.readouterr()
        return said.out.removesuffix("\n"), said.err
    return run


def changed(folder, change):
    """The name of the fork's checkpoint with other settings."""
    content = files.read(folder / "fork.pt")
    change(content["cfg"])
    torch.save(content, folder / "other.pt")
    return "other.pt"


@pytest.mark.parametrize(("flags", "said"), [
    (["--tokens", "-3"], "--tokens must not be negative, not -3"),
    (["--temperature", "nan"], "--temperature must be a finite number, not nan"),
    (["--temperature", "inf"], "--temperature must be a finite number, not inf"),
    (["--temperature", "-1"], "--temperature must be 0 or at least 1e-3, not -1.0"),
    (["--temperature", "1e-300"], "--temperature must be 0 or at least 1e-3, not 1e-300"),
    (["--seed", "-1"], "--seed must be in [0, 2**32), not -1"),
    (["--tokens", "9" * 30], f"--tokens {'9' * 30} is too large"),
], ids=lambda value: "=".join(value) if isinstance(value, list) else "")
def test_a_number_that_makes_no_sense_is_refused(complaint, tmp_path, flags, said):
    line = complaint(generate.main, call(tmp_path, *flags))
    assert line.endswith(f"error: {said}")


@pytest.mark.parametrize("place", ["missing/out.txt", "folder", "file/out.txt"])
def test_outf_that_cannot_be_written_is_found_before_the_work(complaint, fork, place, monkeypatch):
    (fork / "folder").mkdir()
    (fork / "file").write_text("mine")
    monkeypatch.setattr(generate, "load", lambda *_: pytest.fail("the work has begun"))
    line = complaint(generate.main, call(fork, "--outf", fork / place))
    assert line.startswith(f"generate.py: --outf {fork / place}")


def test_outf_in_a_read_only_folder_is_found_before_the_work(complaint, fork, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    monkeypatch.setattr(generate, "load", lambda *_: pytest.fail("the work has begun"))
    assert "is read-only" in complaint(generate.main, call(fork, "--outf", fork / "out.txt"))


@pytest.mark.parametrize("words", [3, 300])
def test_a_dictionary_of_another_size_is_refused(complaint, fork, words):
    (fork / "dict.txt").write_text("".join(f"x{i} 1\n" for i in range(words)))
    line = complaint(generate.main, call(fork))
    assert f"{fork}/fork.pt does not fit the {words + 4} words of {fork}/dict.txt" in line


@pytest.mark.parametrize("content", [b"", b"word\n", b"a 1\na 1\n", b"\xff\xfe 1\n"],
                         ids=["empty", "no count", "twice", "not UTF-8"])
def test_a_dictionary_that_is_none_is_named(complaint, fork, content):
    (fork / "dict.txt").write_bytes(content)
    assert f"{fork}/dict.txt" in complaint(generate.main, call(fork))


@pytest.mark.parametrize("where", [0, 0.3, 0.6, 0.9])
def test_a_damaged_checkpoint_is_named(complaint, fork, where):
    content = bytearray((fork / "fork.pt").read_bytes())
    content[int(where * len(content))] ^= 0x10
    (fork / "fork.pt").write_bytes(content)
    assert f"{fork}/fork.pt is " in complaint(generate.main, call(fork))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no checkpoint"])
def test_a_checkpoint_that_is_none_is_named(complaint, fork, content):
    (fork / "x.pt").write_bytes(content)
    assert f"{fork}/x.pt is " in complaint(generate.main, call(fork, checkpoint="x.pt"))


def test_a_checkpoint_cut_short_is_named(complaint, fork):
    content = (fork / "fork.pt").read_bytes()
    (fork / "fork.pt").write_bytes(content[:len(content) // 2])
    assert f"{fork}/fork.pt is " in complaint(generate.main, call(fork))


def test_a_missing_checkpoint_is_named(complaint, fork):
    assert complaint(generate.main, call(fork, checkpoint="none.pt")) == (
        f"generate.py: there is no file {fork}/none.pt")


def test_weights_of_another_program_are_named(complaint, fork):
    torch.save({"model": {"w": torch.zeros(2)}}, fork / "w.pt")
    assert complaint(generate.main, call(fork, checkpoint="w.pt")) == (
        f"generate.py: {fork}/w.pt is no checkpoint of fairseq-train")


def test_a_model_of_another_task_is_named(complaint, fork):
    name = changed(fork, lambda cfg: cfg["task"].update(_name="masked_lm"))
    assert complaint(generate.main, call(fork, checkpoint=name)) == (
        f"generate.py: {fork}/{name} holds no autoregressive TNN: its task is masked_lm")


def test_a_prompt_word_that_is_unknown_is_named(written, fork):
    text, said = written(call(fork, "--prompt", "w01 hello w02"))
    assert text.startswith("w01 <unk> w02")
    assert said.startswith("--prompt: hello read as <unk>\n")


@pytest.mark.parametrize("memory", ["window", "etsc"])
def test_generation_with_normalize_is_refused(complaint, written, fork, memory):
    name = changed(fork, lambda cfg: setattr(cfg["model"], "normalize", True))
    line = complaint(generate.main, call(fork, "--memory", memory, checkpoint=name))
    assert line == (f"generate.py: --memory {memory}: normalize: row sums are not computed one "
                    "position at a time")
    assert written(call(fork, "--memory", "full", checkpoint=name))[0]


def test_generation_whose_memory_is_refused_is_one_line(complaint, fork):
    line = complaint(generate.main, call(fork, "--memory", "etsc", "--tokens", 10**14))
    assert line.startswith("generate.py: these sizes need more memory than there is")


def test_outf_keeps_the_old_text_until_the_new_one_is_there(complaint, written, fork):
    out = fork / "out.txt"
    out.write_text("mine")
    complaint(generate.main, call(fork, "--outf", out, "--memory", "etsc", "--tokens", 10**14))
    assert out.read_text() == "mine"
    text, _ = written(call(fork, "--outf", out))
    assert out.read_text() == f"{text}\n"
    assert sorted(path.name for path in fork.iterdir()) == ["dict.txt", "fork.pt", "out.txt"]


def test_numbers_of_numpy_in_a_checkpoint_are_read(written, fork):
    """The fork's and release 0.1's are full of them: the best metric, the meters."""
    torch.save(files.read(fork / "fork.pt")
               | {"extra": [np.float64(1.5), np.float32(2.5), np.int64(3)]}, fork / "old.pt")
    assert files.read(fork / "old.pt")["extra"] == [1.5, 2.5, 3]
    assert written(call(fork, checkpoint="old.pt"))[0]
