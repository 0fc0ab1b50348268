"""What the scripts read: texts and model files.

    PTB.pt         the best model: {"format", "config", "model", "criterion", "splits", "args",
                   "word_list", "vocabulary" (its digest), "script", "epoch", "valid_loss"}, see
                   training.save_best and texts.vocabulary
    PTB.pt.state   the training state, see harness.keeper and training.Run.state

An original's bare state_dict (its key names, no sizes, no dropouts) is read like a model file.
"""

from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from awd_lstm.data import Corpus
from awd_lstm.model import RNNModel, config_of_state, default_splits, load_original_state
from awd_lstm.utils import batchify, single_precision
from common.splitcross import SplitCrossEntropyLoss
from harness import files
from harness.endings import BadInput
from harness.inputs import load_in_turn, say_if_state
from harness.keeper import STATE_FORMAT

MODEL_FORMAT = "awd_lstm model 1"
STATE_FORMAT_0_1 = "awd_lstm training state 1"

# Folder -> the name that getdata.sh knows it by.
GETDATA = {"penn": "ptb", "pennchar": "ptbc", "wikitext-2": "wt2", "wikitext-103": "wt103",
           "enwik8": "enwik8", "pydoc": "pydoc", "pydoc-char": "pydoc-char"}


# ----------------------------------------------------------------------------------------- texts
def load_corpus(path: str, fabric: Fabric | None) -> Corpus:
    """The texts of a folder; one process tokenises, the others read its cache. Raises BadInput."""
    return load_in_turn(fabric, lambda: Corpus(path), f"--data {path}", where_to_get(path))


def where_to_get(path: str, needed: str = "train.txt, valid.txt and test.txt") -> str:
    """What to do about a text that is missing in a folder."""
    name = GETDATA.get(Path(path).name)
    return f"./getdata.sh {name} fetches it" if name else f"it must hold {needed}"


def columns_of(corpus: Corpus, split: str, count: int, device: torch.device, remedy: str,
               rows: int = 2) -> Tensor:
    """A text in `count` columns (batchify draws a picture): (rows or more, count) on `device`.

    remedy: what to do about a text that is too short; rows: how many it needs in each column (a
    prediction takes two). Raises BadInput naming the file.
    """
    tokens = len(getattr(corpus, split))
    if tokens < rows * count:
        raise BadInput(f"{corpus.texts[split]} is too short: it has {tokens} tokens, and "
                       f"{count} column{'s' * (count > 1)} of {rows} take {rows * count}: {remedy}")
    return batchify(getattr(corpus, split), count, device)


# ----------------------------------------------------------------------------------- model files
def load_model(path: str | Path, bare_rates: dict | None = None
               ) -> tuple[RNNModel, SplitCrossEntropyLoss, dict]:
    """Rebuilds model and criterion from a model file, a training state, or an original's bare
    state_dict (its sizes are read off the shapes).

    bare_rates: dropout rates (names of RNNModel) for a bare state_dict, which has none; default 0.
    Returns model, criterion and the file's other entries (empty for a bare state_dict). Raises
    FileNotFoundError, or ValueError saying why the file is refused.
    """
    content = files.read(path)
    bare = "format" not in content
    if not bare and content["format"] not in (MODEL_FORMAT, STATE_FORMAT, STATE_FORMAT_0_1):
        raise ValueError(f"{path} is a {content['format']!r}, not a model of this toolkit")
    try:
        model, criterion = (_from_state_dict(content, bare_rates or {}) if bare else
                            _from_file(content))
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this toolkit: {error}") from None
    say_if_state(path, content)
    if bare and criterion.splits:
        print(f"{path} has no parameters of the split softmax: they start at zero")
    facts = {} if bare else {k: v for k, v in content.items() if k not in ("model", "criterion")}
    return model, criterion, facts


def _from_file(content: dict) -> tuple[RNNModel, SplitCrossEntropyLoss]:
    with single_precision():
        model = RNNModel(**content["config"])
    load_original_state(model, content["model"])
    criterion = SplitCrossEntropyLoss(model.decoder.weight.shape[1], content["splits"])
    criterion.load_state_dict(content["criterion"])
    return model, criterion


def _from_state_dict(weights: dict, rates: dict) -> tuple[RNNModel, SplitCrossEntropyLoss]:
    no_rates = dict.fromkeys(("dropout", "dropouth", "dropouti", "dropoute", "wdrop"), 0.0)
    with single_precision():
        model = RNNModel(**no_rates | rates | config_of_state(weights))
    load_original_state(model, weights)
    return model, SplitCrossEntropyLoss(model.decoder.weight.shape[1], default_splits(model.ntoken))
