"""How a run ends: its exit code and one clear line, with the traceback where it is a fault."""

import errno
import os
import re
import signal
import tempfile

import pytest
import torch

from harness import endings
from harness.endings import (
    SIGNALS,
    BadInput,
    Interrupted,
    bad_input,
    clear_up_on_signals,
    leave_signals_to_parent,
    orderly_exit,
    out_of_memory,
    signals_held,
)


def ended(error: BaseException) -> int:
    with pytest.raises(SystemExit) as stop, orderly_exit("awd_lstm/main.py"):
        raise error
    return stop.value.code


KNOWN = {
    "bad input": (BadInput("--data x: nothing there"), 2, "main.py: --data x: nothing there"),
    "nan": (FloatingPointError("the loss is not finite"), 1, "main.py: the loss is not finite"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "m.pt"), 1,
                  "main.py: [Errno 28] No space left on device: 'm.pt'"),
    "several lines": (BadInput("one\ntwo"), 2, "main.py: one two"),
    "memory": (MemoryError(), 2, "main.py: these sizes need more memory than there is: give "
                                 "smaller ones ()"),
    "GPU memory": (torch.OutOfMemoryError("CUDA out of memory. Tried to\n  allocate"), 2,
                   "main.py: these sizes need more memory than there is: give smaller ones (CUDA "
                   "out of memory. Tried to allocate)"),
}


@pytest.mark.parametrize(("error", "code", "line"), KNOWN.values(), ids=KNOWN)
def test_a_known_error_is_one_line(capsys, error, code, line):
    assert ended(error) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{line}\n")


@pytest.mark.parametrize(("error", "code"), [
    (Interrupted(signal.SIGINT), 130), (Interrupted(signal.SIGTERM), 143),
    (Interrupted(signal.SIGHUP), 129), (KeyboardInterrupt(), 130), (SystemExit(5), 5)], ids=repr)
def test_signals_say_nothing_more(capsys, error, code):
    assert ended(error) == code
    assert capsys.readouterr().err == ""


def test_without_error_nothing_happens(capsys):
    with orderly_exit("main.py"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [
    ValueError("a fault of ours"), KeyError("x"), TypeError("y"), AssertionError(), IndexError("z"),
    OverflowError("math range error"), ZeroDivisionError(),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("cannot allocate a name for the overflow"),
    RuntimeError("Trying to backward through the graph a second time"),
    RuntimeError("CUDA error: device-side assert triggered")], ids=repr)
def test_an_error_of_the_program_keeps_its_traceback(capsys, error):
    """No guessing from words."""
    with pytest.raises(type(error)) as caught, orderly_exit("main.py"):
        raise error
    assert caught.value is error
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("yes", True), ("0", False),
                                              ("", False)])
@pytest.mark.parametrize("what", ["bad input", "full disk", "memory"])
def test_a_traceback_on_request(capsys, monkeypatch, value, shown, what):
    monkeypatch.setenv("HARNESS_TRACEBACK", value)
    error, code, line = KNOWN[what]
    assert ended(error) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == line
    assert (lines[0] == "Traceback (most recent call last):") == shown
    assert len(lines) == 1 or shown


def test_the_traceback_shows_the_cause(capsys, monkeypatch):
    """Behind `bad_input` there is another error."""
    monkeypatch.setenv("HARNESS_TRACEBACK", "1")
    with pytest.raises(SystemExit), orderly_exit("main.py"), bad_input("--data: "):
        int("seven")
    text = capsys.readouterr().err
    assert "invalid literal for int()" in text
    assert "test_endings.py" in text


# ------------------------------------------------------------------------------------ signals
@pytest.fixture
def handlers():
    """Puts those back that the test changes."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_signal_clears_up_what_is_half_done(handlers, tmp_path, signum):
    clear_up_on_signals()
    with pytest.raises(SystemExit) as stop, orderly_exit("main.py"), \
            tempfile.TemporaryDirectory(dir=tmp_path):
        os.kill(os.getpid(), signum)
    assert stop.value.code == 128 + signum
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_held_signal_waits_until_the_work_can_be_left(handlers, signum):
    with signals_held() as leave_if_asked:
        os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted) as stop:
            leave_if_asked()
    assert stop.value.exit_code == 128 + signum


def test_nohup_stays_nohup(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    clear_up_on_signals()
    with signals_held() as leave_if_asked:
        os.kill(os.getpid(), signal.SIGHUP)
        leave_if_asked()


def test_a_process_that_works_for_another_leaves_the_terminals_signals_to_it(handlers):
    clear_up_on_signals()
    leave_signals_to_parent()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # by which the other ends it


# ------------------------------------------------------------------------------ users' errors
@pytest.mark.parametrize("error", [FileNotFoundError("no x"), NotADirectoryError("no x"),
                                   IsADirectoryError("no x"), ValueError("no x")], ids=repr)
def test_what_a_user_gave(error):
    with pytest.raises(BadInput, match=r"^--data: no x$") as caught, bad_input("--data: "):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [PermissionError("x"), OSError(errno.ENOSPC, "x"), KeyError("x"),
                                   RuntimeError("x"), MemoryError()], ids=repr)
def test_what_is_not_the_users_passes(error):
    with pytest.raises(type(error)) as caught, bad_input("--data: "):
        raise error
    assert caught.value is error


# ------------------------------------------------------------------------------------- memory
@pytest.mark.parametrize("shape", [(2**46,), (2**50, 3), (2**62, 4), (2**40, 2**30)], ids=str)
def test_this_builds_cpu_allocator_is_known(shape):
    """It raises a bare RuntimeError."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(shape)
    assert type(caught.value) is RuntimeError
    assert out_of_memory(caught.value)


def test_layers_of_an_absurd_size_are_one_line(capsys):
    with pytest.raises(SystemExit) as stop, orderly_exit("main.py"):
        torch.nn.Linear(2**24, 2**24)
    assert stop.value.code == 2
    line, = capsys.readouterr().err.splitlines()
    assert re.match(r"main\.py: these sizes need more memory than there is: .*\(.+\)$", line)


@pytest.mark.parametrize("text", ["", "mat1", "you tried to allocate 5 bytes", "with sizes",
                                  "The size of tensor a (3) must match the size of tensor b (4)"])
def test_other_runtime_errors_are_not_taken_for_it(text):
    assert not out_of_memory(RuntimeError(text))


def test_a_build_whose_words_are_unknown(monkeypatch):
    """Then only the types count: a traceback is better than a wrong line."""
    endings._cpu_allocator_errors.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", lambda *_: (_ for _ in ()).throw(RuntimeError("other")))
            assert not out_of_memory(RuntimeError("other"))
            assert not out_of_memory(RuntimeError(""))
            assert out_of_memory(MemoryError())
    finally:
        endings._cpu_allocator_errors.cache_clear()


# ---------------------------------------------------------------------------- nobody listens
def test_the_line_is_about_the_script_not_its_path(capsys):
    with pytest.raises(SystemExit), orderly_exit(os.path.join("trellisnet", "char_ptb.py")):
        raise BadInput("x")
    assert capsys.readouterr().err == "char_ptb.py: x\n"
