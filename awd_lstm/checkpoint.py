"""Files of a run: the best model and, beside it, the state from which training continues.

Both hold tensors and plain values only, are written to a temporary file that is flushed and renamed
into place, and are read with weights_only=True, so that no file can run code. Each carries the
SHA-256 of its bytes as the comment that a zip file may end with: torch.load does not mind it, and a
damaged file is noticed. Of the training state the one before the last is kept too.

    PTB.pt        {"format", "config", "model", "criterion", "splits", "args", "vocabulary", ...}
    PTB.state.pt  the same names plus optimizer, progress and random states, see training.py
    PTB.state.prev.pt  the state before that one, for when that one is damaged
"""

import contextlib
import hashlib
import os
import pickle
import shutil
import sys
import tarfile
from pathlib import Path
from typing import BinaryIO

import torch

from awd_lstm.model import RNNModel, config_of_state, load_original_state
from common.splitcross import SplitCrossEntropyLoss

MODEL_FORMAT = "awd_lstm model 1"
STATE_FORMAT = "awd_lstm training state 1"

SEAL = b"sha256 "                  # and 64 hex digits, at the end of the file
SEAL_SIZE = len(SEAL) + 64
ZIP_START = b"PK\x03\x04"
ZIP_END, ZIP_END_SIZE = b"PK\x05\x06", 22  # its last two bytes are the length of the comment

HOW_TO_CONVERT = (
    "it needs code to be run to be read (a whole pickled model, as the original toolkit saved it). "
    "In the environment that made it, save its weights alone: "
    "torch.save(torch.load(OLD)[0].state_dict(), NEW)")


def set_aside(path: str | Path, label: str, keep: bool = False) -> Path | None:
    """Gives an existing file a second name, so that it is not overwritten: PTB.pt ->
    PTB.<label>.pt, or PTB.<label>2.pt ... if that is taken. Its first name goes unless `keep`.
    Returns the second name, None if there was no file."""
    path = Path(path)
    if not path.exists():
        return None
    number, target = 1, path.with_suffix(f".{label}{path.suffix}")
    while target.exists() and not target.samefile(path):
        number += 1
        target = path.with_suffix(f".{label}{number}{path.suffix}")
    if not keep:
        path.rename(target)
    elif not target.exists():
        try:
            os.link(path, target)  # the file replaced later is another one: write() renames
        except OSError:
            shutil.copy2(path, target)
    return target


def previous(path: Path) -> Path:
    """Where the file before this one is kept: PTB.state.pt -> PTB.state.prev.pt."""
    return path.with_suffix(f".prev{path.suffix}")


def _keep(path: Path) -> None:
    """Gives the file a second name, under which it stays when it is replaced."""
    link = path.with_name(f".{path.name}.link")
    with contextlib.suppress(OSError):  # there is none yet, or the file system knows no links
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(previous(path))
        link.unlink(missing_ok=True)  # renaming one link to another of the same file does nothing


def write(path: str | Path, content: dict, keep_previous: bool = False) -> None:
    """Writes atomically: whoever looks sees the old file or the new one, whole. What a killed
    process left half-written is overwritten by the next."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w+b") as file:
            torch.save(content, file)
            _seal(file)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous:
            _keep(path)
        temporary.replace(path)
    except OSError as error:  # a full disk: torch does not say which file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _seal(file: BinaryIO) -> None:
    """Appends the checksum to a zip file without comment."""
    file.seek(-2, os.SEEK_END)
    file.write(SEAL_SIZE.to_bytes(2, "little"))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")
    file.write(SEAL + digest.hexdigest().encode())


def _check_seal(file: BinaryIO) -> None:
    """Raises ValueError if the file is not as it was written. Files of others (a plain torch.save,
    zip or older) have no seal and pass; a file of ours that lost its seal does not."""
    start = file.read(len(ZIP_START))
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SEAL_SIZE))
    end = file.read()
    if end.startswith(SEAL):
        file.seek(0)
        digest = hashlib.sha256()
        left = size - SEAL_SIZE
        while left and (piece := file.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
        if end[len(SEAL):] != digest.hexdigest().encode():
            raise ValueError("its checksum does not match")
    elif start == ZIP_START and (end[-ZIP_END_SIZE:][:4] != ZIP_END or end[-2:] != b"\0\0"):
        raise ValueError("its end is missing or changed")
    file.seek(0)


def read(path: str | Path) -> dict:
    """Reads a dictionary of tensors and plain values onto the CPU. No code of the file is run.

    Raises FileNotFoundError, or ValueError saying why the file is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        with path.open("rb") as file:
            _check_seal(file)
            if tarfile.is_tarfile(path):  # PyTorch's first format: pickles, too
                raise pickle.UnpicklingError
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} is refused: {HOW_TO_CONVERT}") from None
    except Exception as error:  # whatever a damaged zip or tensor makes torch raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged or no checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state_dict or checkpoint")
    return content


def read_or_previous(path: str | Path) -> dict:
    """Reads a training state; if it is refused, the one before it, where there is one (and says
    so). Raises like `read`."""
    try:
        return read(path)
    except ValueError as error:
        if not previous(Path(path)).is_file():
            raise
        print(f"{error}; going on from the state before it, {previous(Path(path))}",
              file=sys.stderr)
        return read(previous(Path(path)))


def save_model(path: str | Path, model: RNNModel, criterion: SplitCrossEntropyLoss, args: dict,
               vocabulary: str, **facts) -> None:
    """Writes the model file: weights, how to rebuild the model, and the arguments that made it."""
    write(path, {"format": MODEL_FORMAT, "config": config_of(model), "model": model.state_dict(),
                 "criterion": criterion.state_dict(), "splits": criterion.splits,
                 "args": args, "vocabulary": vocabulary, **facts})


def config_of(model: RNNModel) -> dict:
    """RNNModel's constructor arguments, as plain values."""
    names = ("rnn_type", "ntoken", "ninp", "nhid", "nlayers", "dropout", "dropouth", "dropouti",
             "dropoute", "wdrop", "tie_weights")
    return {name: getattr(model, name) for name in names} | {
        "last_word_padding": model.padding_idx is not None}


def load_model(path: str | Path, bare_rates: dict | None = None
               ) -> tuple[RNNModel, SplitCrossEntropyLoss, dict]:
    """Rebuilds model and criterion from a model file, a training state, or an original's bare
    state_dict (original key names; its sizes are read off the shapes).

    bare_rates: dropout rates (names of RNNModel) for a bare state_dict, which has none; default 0.
    Returns model, criterion and the file's other entries (empty for a bare state_dict).
    """
    content = read(path)
    bare = "format" not in content
    if not bare and content["format"] not in (MODEL_FORMAT, STATE_FORMAT):
        raise ValueError(f"{path} is a {content['format']!r}, not a model of this toolkit")
    try:
        weights = content if bare else content["model"]
        rates = dict.fromkeys(("dropout", "dropouth", "dropouti", "dropoute", "wdrop"), 0.0)
        config = (rates | (bare_rates or {}) | config_of_state(weights) if bare
                  else content["config"])
        model = RNNModel(**config)
        load_original_state(model, weights)
        splits = default_splits(config["ntoken"]) if bare else content["splits"]
        criterion = SplitCrossEntropyLoss(model.decoder.weight.shape[1], splits)
        if not bare:
            criterion.load_state_dict(content["criterion"])
        elif splits:
            print(f"{path} has no parameters of the split softmax: they start at zero")
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this toolkit: {error}") from None
    facts = {} if bare else {k: v for k, v in content.items() if k not in ("model", "criterion")}
    return model, criterion, facts


def default_splits(ntoken: int) -> list[int]:
    """Where the vocabulary is cut for the split softmax: nowhere up to 75,000 words."""
    if ntoken > 500_000:
        return [4200, 35000, 180000]   # One Billion Word: head, about 40 %, 40 % of the tokens
    if ntoken > 75_000:
        return [2800, 20000, 76000]    # WikiText-103
    return []
