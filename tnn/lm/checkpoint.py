"""Reads a checkpoint of fairseq-train with the plugin, ours or the fork's, for the tools here.

Ours hold the words of their dictionary (fairseq_plugin/words.py): an autoregressive model needs no
folder of data. Those of before, and the fork's, need the folder for it.
"""

import argparse
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from harness import files
from harness.endings import BadInput, bad_input
from texts.vocabulary import words_in_file

if TYPE_CHECKING:
    from fairseq.models import BaseFairseqModel
    from fairseq.tasks import FairseqTask

PLUGIN = Path(__file__).resolve().parents[1] / "fairseq_plugin"


class Kind(NamedTuple):
    """What a tool can use."""

    name: str
    model: str        # fairseq's names of the model and its task
    task: str
    dictionary: str   # below the folder of prepared data


DECODER = Kind("autoregressive TNN", "tnn_v2_lm", "language_modeling", "dict.txt")
CLASSIFIER = Kind("TNN fine-tuned by script_glue.sh", "roberta_tnn_v2", "sentence_prediction",
                  "input0/dict.txt")


def load(checkpoint: str, data: str | None, kind: Kind
         ) -> tuple["BaseFairseqModel", "FairseqTask"]:
    """The model in evaluation mode, on the CPU, and its task. data: the folder of prepared data;
    None: the words that the checkpoint holds, or the folder that it was trained on, if it is where
    it was.

    Raises BadInput for a missing or damaged file, for a model of another kind, and for a dictionary
    that is not the model's. Importing fairseq takes seconds.
    """
    for path in (Path(checkpoint), *([Path(data) / kind.dictionary] if data else [])):
        if not path.is_file():
            raise BadInput(f"there is no file {path}")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # fairseq warns of its own old calls
    from fairseq import checkpoint_utils, utils
    from fairseq.models import MODEL_REGISTRY

    utils.import_user_module(argparse.Namespace(user_dir=str(PLUGIN)))
    trained_on, words = check(checkpoint, kind)
    with (held(words) if words and not data
          else there(data or trained_on, checkpoint, kind)) as folder:
        words_of_task = Path(folder) / kind.dictionary
        size = count(words_of_task)
        try:
            models, _, task = checkpoint_utils.load_model_ensemble_and_task(
                [checkpoint], arg_overrides={"data": folder})
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            mismatch = str(error).strip().splitlines()[-1].strip()
            raise BadInput(f"{checkpoint} does not fit the {size} words of {words_of_task}: was it "
                           f"trained with another dictionary? ({mismatch})") from error
    if not isinstance(models[0], MODEL_REGISTRY[kind.model]):
        raise BadInput(f"{checkpoint} holds no {kind.name}")
    return models[0].eval(), task


@contextmanager
def held(words: list[str]) -> Iterator[str]:
    """A folder with the dictionary that a checkpoint holds, where fairseq's task reads it. The
    counts of the words are not in it: no trained model needs them."""
    from fairseq.data import Dictionary

    with TemporaryDirectory() as folder:
        lines = [f"{word} 1\n" for word in words[Dictionary().nspecial:]]
        (Path(folder) / DECODER.dictionary).write_text("".join(lines), encoding="utf-8")
        yield folder


@contextmanager
def there(data: str, checkpoint: str, kind: Kind) -> Iterator[str]:
    """The folder of prepared data. Raises BadInput if there is no dictionary in it."""
    if not (file := Path(data) / kind.dictionary).is_file():
        raise BadInput(f"{checkpoint} was trained on {data}, where there is no file {file}: give "
                       "the folder with the dictionary, --data DIR")
    yield data


def check(checkpoint: str, kind: Kind) -> tuple[str, list[str] | None]:
    """Raises BadInput unless the checkpoint is whole, of fairseq-train and of a task of this kind.
    Returns the folder that it was trained on, and the words by id where an autoregressive model's
    file lists them. fairseq itself compares no CRCs. What else than tensors it may hold, the plugin
    has named."""
    with bad_input():
        content = files.read(checkpoint)
    if not {"model", "optimizer_history"} <= content.keys():
        raise BadInput(f"{checkpoint} is no checkpoint of fairseq-train")
    if settings := content.get("args"):  # of the fork
        task, data = getattr(settings, "task", None), getattr(settings, "data", "")
    else:
        found = (content.get("cfg") or {}).get("task", {})
        task, data = found.get("_name"), found.get("data", "")
    if task != kind.task:
        raise BadInput(f"{checkpoint} holds no {kind.name}: its task is {task}")
    if kind is not DECODER or not (lists := words_of(content)):
        return data, None
    with bad_input(f"{checkpoint}: "):
        entry = next(iter(lists.values()))
        return data, words_in_file(entry, digest=entry.get("vocabulary", ""))


def words_of(state: dict) -> dict[str, dict]:
    """{name of a task's class: what get_checkpoint_dict gave} of a checkpoint."""
    found = (state.get("extra_state") or {}).items()
    return {name: each for name, each in found if isinstance(each, dict) and "word_list" in each}


def count(words: Path) -> int:
    """The size of a dictionary. Raises BadInput if the file is none."""
    from fairseq.data import Dictionary

    try:
        return len(Dictionary.load(str(words)))
    except Exception as error:  # fairseq raises several kinds, Exception itself among them
        raise BadInput(f"{words} is no dictionary: {error}") from error
